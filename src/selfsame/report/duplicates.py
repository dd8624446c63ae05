"""The page of a search for copies: what was found, by what, with pictures of the groups."""

import json
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from selfsame.engine.watch import counted
from selfsame.report.curves import short
from selfsame.report.gallery import Tile, tiled
from selfsame.report.page import written

__all__ = ["write_duplicates"]

GROUPS, MEMBERS = 100, 9  # shown, at most
LETTERS_BELOW = 13  # of a name under a picture
CELLS, LETTERS = 8, 400  # of a row and of a text that are shown by what differs
WAYS = {"exact": "same content", "hash": "perceptual hash", "raw": "raw input", "encoder": "vectors of the encoder"}


def write_duplicates(
    folder: Path,
    result: Mapping[str, Any],
    items: Sequence[Sequence[int]],
    picture: Callable[[int], Image.Image],
    name: Callable[[int], str],
    fragment: Callable[[int], str],
    value: Callable[[int], Any],
) -> Path:
    """report.html of what duplicates.json holds.

    Args:
        items: of each group the numbers of its items, as they stand in `result`.
        picture, name, fragment, value: of an item by its number; a fragment is HTML, or "" where the picture is to
            stand; a value is what the item is when it is read.
    """
    counts = result["counts"]
    title = f"Copies in {result['data']}"
    if result["across"]:
        first, second = result["across"]
        title = f"Copies of {second} in {first}"
        have = "item of {} has" if counts["groups"] == 1 else "items of {} have"
        there = f"{counted(counts['copies'], 'item')} there"
        lead = f"{counts['groups']:,} {have.format(second)} copies in {first}: {there}."
    else:
        lead = (
            f"{counted(counts['items'], 'item')}, {counted(counts['groups'], 'group')} of copies. Copies beside what "
            f"is kept: {counts['copies']:,}, {size(counts['bytes_of_copies'])}."
        )
    header = (
        f"<h1>{escape(title)}</h1><p class='lead'>{escape(lead)} Kept: {escape(result['kept'])}. Nothing was deleted: "
        "<code>duplicates.csv</code> says what could be.</p>"
    )
    sections = [
        ("groups", "Groups", groups(result, items, picture, name, fragment, value)),
        ("found", "How they were found", found(result)),
        ("raw", f"The threshold of the raw input: {result['raw_name']}", threshold(result["raw"])),
        ("threshold", "The threshold of the encoder", threshold(result["encoder"])),
    ]
    return written(folder, title, header, sections)


def groups(
    result: Mapping[str, Any],
    items: Sequence[Sequence[int]],
    picture: Callable[[int], Image.Image],
    name: Callable[[int], str],
    fragment: Callable[[int], str],
    value: Callable[[int], Any],
) -> str:
    if not items:
        return '<p class="note">There are no copies.</p>'
    rows = [
        [
            Tile(item, name(item), f"{below(member)}\n{ending(name(item))}", "" if k else "query", f", {below(member)}")
            for k, (item, member) in enumerate(zip(numbers, group, strict=True))
        ][:MEMBERS]
        for numbers, group in zip(items[:GROUPS], result["groups"], strict=False)
    ]
    kept_of = {item: numbers[0] for numbers in items[:GROUPS] for item in numbers[1:]}

    def beside(item: int) -> str:
        """A row or a text by what sets it apart from the one that is kept."""
        own = fragment(item)
        if not own or item not in kept_of:
            return own
        return differing(value(kept_of[item]), value(item)) or own

    left = len(items) - len(rows)
    cut = sum(len(group) > MEMBERS for group in items[:GROUPS])
    notes = [
        f"The largest {len(rows)} of {len(items):,} groups; all are in duplicates.csv." if left else "",
        f"Of {cut} group{'s' if cut > 1 else ''} the first {MEMBERS} items are shown." if cut else "",
    ]
    told = "".join(f'<p class="note">{note}</p>' for note in notes if note)
    lead = (
        "On each line what is kept, then its copies, with what they were found by and their score: cosine of the "
        "vectors, or share of equal bits of the hashes."
    )
    return f'<p class="lead">{lead}</p>{tiled(rows, picture, beside)}{told}'


def differing(kept: Any, copy: Any) -> str:
    """HTML of a copy: the cells of a row that are other than those kept, a text with its own words marked.

    "" of what is neither, of a text that is too long for it, and of rows that are equal.
    """
    if isinstance(kept, dict) and isinstance(copy, dict):
        other = [name for name in copy if copy[name] != kept.get(name)]
        lines = [
            f"<tr><th>{escape(name)}</th><td>{escape(kept.get(name) or '–')} → {escape(copy[name] or '–')}</td></tr>"
            for name in other[:CELLS]
        ]
        more = f"{len(other) - CELLS} more differ, " if len(other) > CELLS else ""
        end = f'<tr><td colspan="2">{more}{len(copy) - len(other)} equal</td></tr>'
        return f'<table class="row">{"".join(lines)}{end}</table>' if other else ""
    if isinstance(kept, str) and isinstance(copy, str) and max(len(kept), len(copy)) <= LETTERS:
        one, two = kept.split(), copy.split()
        parts = []
        for kind, start, stop, begin, end_ in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
            gone, own = escape(" ".join(one[start:stop])), escape(" ".join(two[begin:end_]))
            if kind == "equal":
                parts.append(own)
            else:
                parts += [f"<del>{gone}</del>"] if gone else []
                parts += [f"<mark>{own}</mark>"] if own else []
        return f'<p class="text">{" ".join(parts)}</p>'
    return ""


def ending(name: str) -> str:
    """As much of the end of a name as a tile has room for."""
    return name if len(name) <= LETTERS_BELOW else f"…{name[1 - LETTERS_BELOW :]}"


def below(member: Mapping[str, Any]) -> str:
    if member["keep"]:
        return "kept"
    return member["kind"] if member["kind"] == "exact" else f"{member['kind']} {member['score']:.3f}"


def found(result: Mapping[str, Any]) -> str:
    counts = result["counts"]
    rows = []
    for kind in result["by"]:
        copies = f"{counts[kind]:,} {'copy' if counts[kind] == 1 else 'copies'}"
        pairs_of = counts["pairs"].get(kind)
        rows.append((WAYS[kind], copies if pairs_of is None else f"{counted(pairs_of, 'pair')}, {copies}"))
    if counts["pairs"]:
        rows.append(
            (
                "pairs and copies",
                "Every two items that are alike are a pair. A copy is counted once, by the surest way in which it is "
                "linked with what is kept, so that there can be pairs without a copy.",
            )
        )
    if result["distance"] is not None:
        rows.append(("hashes differ in at most", f"{result['distance']} of 64 bits"))
    if counts["divided_chains"]:
        rows.append(
            (
                "chains divided",
                f"{counts['divided_chains']:,}: their items are linked through others, but not all with the one that "
                "is kept. Each item of a group is linked with the one that is kept.",
            )
        )
    if result["skipped"]:
        rows.append(("unreadable", f"{result['skipped']:,}, listed in skipped.csv"))
    return pairs(rows)


def size(stored: int) -> str:
    return f"{stored / 1e6:,.1f} MB" if stored >= 1e5 else f"{stored / 1e3:,.1f} kB"


def threshold(vectors: Mapping[str, Any] | None) -> str:
    """Of the encoder's vectors, or of those of the raw input."""
    if not vectors:
        return ""
    rows: list[tuple[str, Any]] = [("cosine from which on items are copies", short(vectors["threshold"]))]
    if "far" in vectors:
        rows += [
            (
                "false-accept rate",
                f"{short(vectors['far'])}, {'extrapolated' if vectors['extrapolated'] else 'counted'} on "
                f"{vectors['compared']:,} pairs of items, {vectors['reached']:,} of which reach the threshold: what "
                f"is more than {short(vectors['far'] * vectors['compared'])} of these are copies",
            ),
            ("false pairs to expect among all", short(vectors["false_pairs_expected"])),
        ]
        if "views_accepted" in vectors:
            rows.append(("random views of an item that reach it", f"{vectors['views_accepted']:.1%}"))
        for title, key in (("cosines of different items", "others"), ("cosines of an item with its view", "views")):
            if key in vectors:
                parts = [f"{float(share):.0%}: {value:.3f}" for share, value in vectors[key].items()]
                rows.append((f"{title}, quantiles", ", ".join(parts)))
    search = vectors.get("search", {})
    if search.get("exact"):
        rows.append(("search", "exact: all pairs compared"))
    elif search:
        share = "unknown, no pair in the sample" if search["recall"] is None else f"{search['recall']:.1%}"
        rows.append(("search", f"approximate, {search['cells']:,} cells, {search['probes']} looked into"))
        rows.append(("true pairs found, measured on a sample", f"{share} of {search['judged']:,}"))
    return pairs(rows)


def pairs(rows: Sequence[tuple[str, Any]]) -> str:
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value if isinstance(value, str) else json.dumps(value))}</td></tr>"
        for name, value in rows
    )
    return f'<div class="wide"><table class="pairs"><tbody>{cells}</tbody></table></div>'
