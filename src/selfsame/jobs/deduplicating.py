"""What `duplicates` does: fingerprints of all items, their vectors, pairs, and groups of them."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt64
from torch.utils.data import Dataset

from selfsame.engine import dist
from selfsame.engine.feed import Batch, feed
from selfsame.engine.plan import workers_for
from selfsame.engine.state import write_text
from selfsame.engine.watch import counted, say
from selfsame.errors import UnreadableItem, UserError
from selfsame.index.calibration import calibrated, far_of
from selfsame.index.groups import components, stars
from selfsame.index.hamming import pairs_within
from selfsame.index.pairs import Found, near_pairs
from selfsame.index.whitening import Whitening
from selfsame.jobs.data import (
    SKIPPED,
    Data,
    check_share,
    encoded,
    fixed_views,
    open_data,
    open_like,
    printable,
    warn_skipped,
    write_skipped,
)
from selfsame.jobs.duplicates import KINDS, Duplicates
from selfsame.jobs.runs import load
from selfsame.records import ViewPlan
from selfsame.report.duplicates import write_duplicates
from selfsame.types import Encoder, Fingerprint

TABLE, RESULT = "duplicates.csv", "duplicates.json"
VIEWED = 512  # items of which a view is made, to see how alike it is to its item
RULE = "largest resolution, then largest file, then first name"
RULE_WITHOUT = "largest item, then first name"  # where there is no resolution
RULE_ACROSS = "what lies in the second part is kept"
BUILT = "{} by their hash are found of images alone. Give --run RUN: an encoder finds near copies of any kind of data."
FEW = 100  # items, below which vectors of the raw input say little: a choice
FITTED = 20_000  # items that what is fitted of the raw input is fitted on, and that are read at once


def run(job: Duplicates) -> dict[str, Any]:
    found = Deduplicating(job)
    result = found.result
    found.write(result)
    return result


@dataclass(frozen=True)
class Member:
    """An item in a group: how it is linked to the one that is kept."""

    item: int
    kind: str
    score: float
    keep: bool


class Items:
    """The items of one source, or of two parts, numbered through."""

    def __init__(self, job: Duplicates, encoder: Encoder | None) -> None:
        paths = [job.data] if job.across is None else [part_of(job.data, name) for name in job.across]
        if len(set(paths)) < len(paths):
            raise UserError(f"--across {' '.join(job.across or ())}: both are {paths[0]}. Give two different parts.")
        self.parts = [self.opened(path, job, encoder) for path in paths]
        self.names_of_parts = job.across
        self.starts = np.cumsum([0, *(len(part.source) for part in self.parts)])

    def opened(self, path: str, job: Duplicates, encoder: Encoder | None) -> Data:
        if encoder is not None:
            return open_like(path, encoder)
        return open_data(path, job.modality, job.max_skipped, job.seed, job.out, job.reading)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def part(self) -> Int64[np.ndarray, "n"]:
        """Of each item, which part it is of: 0 or 1."""
        return np.repeat(np.arange(len(self.parts)), np.diff(self.starts))

    def at(self, i: int) -> tuple[Data, int]:
        """The opened part of an item, and its number there."""
        part = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.parts[part], int(i - self.starts[part])

    def name(self, i: int) -> str:
        data, number = self.at(i)
        return printable(data.source.name(number))

    def part_name(self, i: int) -> str:
        return self.names_of_parts[int(self.part[i])] if self.names_of_parts else ""

    def shown(self, i: int) -> str:
        """The name, with its part where there are two."""
        return f"{self.part_name(i)}: {self.name(i)}" if self.names_of_parts else self.name(i)

    def picture(self, i: int) -> Any:
        data, number = self.at(i)
        return data.modality.picture(data.source, number)

    def fragment(self, i: int) -> str:
        data, number = self.at(i)
        return data.modality.fragment(data.source, number)

    def value(self, i: int) -> Any:
        data, number = self.at(i)
        return data.source.read(number)

    @property
    def skipped(self) -> dict[int, str]:
        return {
            int(start) + item: why
            for start, data in zip(self.starts, self.parts, strict=False)
            for item, why in data.skipped.items()
        }


def part_of(path: str, name: str) -> str:
    """A folder in the data by this name, or a path of its own."""
    inside = Path(path).expanduser() / name
    if inside.exists():
        return str(inside)
    if Path(name.partition("::")[0]).expanduser().exists():
        return name
    raise UserError(f"--across {name}: there is neither {inside} nor {name}. Give folders in {path}, or two paths.")


class Deduplicating:
    """One search for copies at work."""

    def __init__(self, job: Duplicates) -> None:
        self.job = job
        self.on = dist.device(job.device)
        self.encoder = load(job.run_folder) if job.run_folder is not None else None
        self.items = Items(job, self.encoder)
        self.modality = self.items.parts[0].modality
        self.hashes = hasattr(self.modality, "fingerprint")
        self.kinds = self.ways()
        self.calibration: dict[str, dict[str, Any]] = {}  # of each kind of vectors

    def ways(self) -> list[str]:
        """By what copies are found. Raises UserError where these data do not allow it."""
        if self.job.by == "auto":
            raw = bool(getattr(self.modality, "raw_tells_copies", False))
            has = {"exact": True, "hash": self.hashes, "raw": raw, "encoder": self.encoder is not None}
            if not self.hashes and not raw and self.encoder is None:
                say(f"{self.modality.name}: only exact copies are sought. {BUILT.format('Near copies')}", "yellow")
            return self.with_vectors([kind for kind in KINDS if has[kind]])
        if "hash" in self.job.by and not self.hashes:
            raise UserError(
                f"--by hash: these data are of the kind {self.modality.name}. {BUILT.format('Near copies')}"
            )
        return self.with_vectors([kind for kind in KINDS if kind in self.job.by.split(",")])

    def with_vectors(self, kinds: list[str]) -> list[str]:
        """The kinds. Raises UserError where a setting is about vectors, and there are none."""
        if not {"raw", "encoder"} & set(kinds) and (self.job.far, self.job.threshold) != (None, None):
            flag = "--far" if self.job.far is not None else "--threshold"
            raise UserError(
                f"{flag} is about vectors: give --run RUN for those of an encoder, or --by raw. Hashes have --distance."
            )
        return kinds

    # What is found

    @cached_property
    def result(self) -> dict[str, Any]:
        """What duplicates.json holds."""
        prints = self.prints = fingerprints(self.items, self.job)
        for data in self.items.parts:
            check_share(data, self.job.max_skipped, self.job.out)
        unique, copies_of = self.distinct(prints)
        exact = (
            f", {sum(map(len, copies_of.values())):,} of them exact copies of others" if "exact" in self.kinds else ""
        )
        say(f"{len(prints):,} items{exact if not self.job.across else ''}")
        pairs, scores, kinds = self.near(prints, unique)
        grouped = self.across if self.job.across else self.grouped
        self.groups = grouped(copies_of, unique, pairs, scores, kinds)
        self.groups.sort(key=lambda group: (-len(group), group[0].item))
        return self.told(prints)

    def distinct(self, prints: "Prints") -> tuple[Int64[np.ndarray, "u"], dict[int, list[int]]]:
        """(rows with one item of each content, of each part, the best first; the exact copies of these)."""
        # The second part comes first: where there are very many pairs, its items keep theirs.
        part = self.items.part[prints.items]
        rank = np.lexsort((prints.items, -prints.stored, -prints.resolution, -part))
        if "exact" not in self.kinds:
            return rank, {}
        key = prints.content * 2 + part if self.job.across else prints.content
        _, first, group = np.unique(key[rank], return_index=True, return_inverse=True)
        copies: dict[int, list[int]] = {}
        for place in np.flatnonzero(first[group] != np.arange(len(rank))).tolist():
            copies.setdefault(int(rank[first[group[place]]]), []).append(int(rank[place]))
        return rank[np.sort(first)], copies

    def near(
        self, prints: "Prints", unique: Int64[np.ndarray, "u"]
    ) -> tuple[Int64[np.ndarray, "m 2"], Float32[np.ndarray, "m"], Int64[np.ndarray, "m"]]:
        """Pairs of places in `unique`, their scores and kinds; each pair once, by the surest kind."""
        part = self.items.part[prints.items[unique]] if self.job.across else None
        n = len(unique)
        exact = of_content(prints.content[unique], part) if "exact" in self.kinds else nothing()
        found = [exact, self.by_hash(prints, unique, part)]
        for kind in ("raw", "encoder"):
            known = np.concatenate([pairs for pairs, _ in found])
            found.append(self.by_vectors(kind, prints, unique, part, known) if kind in self.kinds else nothing())
        if part is not None and "exact" in self.kinds:
            say(f"{counted(len(exact[0]), 'pair')} of the same content, one in each part")
        named = zip(KINDS, (len(pairs) for pairs, _ in found), strict=True)
        # Of one source equal items are no pairs: they stand for each other.
        self.pairs = {k: n for k, n in named if k in self.kinds and (k != "exact" or part is not None)}
        pairs, scores = (np.concatenate(both) for both in zip(*found, strict=True))
        kinds = np.repeat(np.arange(len(KINDS)), [len(pairs) for pairs, _ in found])
        _, first = np.unique(pairs[:, 0] * n + pairs[:, 1], return_index=True)
        return pairs[first], scores[first], kinds[first]

    def by_hash(self, prints: "Prints", unique: np.ndarray, part: np.ndarray | None) -> Found:
        """Pairs of images whose perceptual hashes, or those of their mirror images, differ in few bits."""
        if "hash" not in self.kinds:
            return nothing()
        told = np.flatnonzero(prints.told[unique])
        codes = prints.codes[unique[told]]
        pairs, scores = pairs_within(codes[:, 0], self.job.distance, codes[:, 1])
        pairs = told[pairs]
        if part is not None:
            keep = part[pairs[:, 0]] != part[pairs[:, 1]]
            pairs, scores = pairs[keep], scores[keep]
        blank = len(unique) - len(told)
        say(
            f"{counted(len(pairs), 'pair')} by perceptual hash, at most {self.job.distance} of 64 bits apart"
            + (f"; {counted(blank, 'blank image')} without a hash" if blank else "")
        )
        return pairs, scores

    def by_vectors(
        self, kind: str, prints: "Prints", unique: np.ndarray, part: np.ndarray | None, known: np.ndarray
    ) -> Found:
        """Pairs whose vectors of a kind are near, and their cosines; `known` are the pairs that were found otherwise.

        Raises UserError where vectors are not finite.
        """
        items = prints.items[unique]
        if kind == "raw" and self.job.by == "auto" and len(items) < FEW:
            say(
                f"{len(items):,} items are few to compare unasked by the raw input; --by exact,raw does it all the same"
            )
            return nothing()
        found, lost = self.vectors(items) if kind == "encoder" else self.raw(items)
        if not np.isfinite(found).all():
            of = f"{self.job.run_folder}: its encoder" if kind == "encoder" else f"{self.job.data}: the raw input"
            raise UserError(f"{of} gives vectors that are not finite for these data.")
        self.whitening = Whitening.fitted(found[~lost] if not lost.all() else found)
        vectors = self.whitening(found)
        vectors[lost] = 0
        threshold = self.threshold(kind, vectors, known, items)
        join = near_pairs(vectors, threshold, part, self.job.seed, self.on)
        how = "all pairs compared"
        if not join.exact:
            measured = "unknown: the sample has no pair" if join.recall is None else (
                f"{join.recall:.1%} of {join.judged:,} true pairs of a sample"
            )  # fmt: skip
            how = f"{join.cells:,} cells, the nearest {join.probes} of an item looked into; found: {measured}"
        self.calibration[kind]["search"] = {
            key: value for key, value in asdict(join).items() if key not in ("pairs", "scores")
        }
        by = "the encoder" if kind == "encoder" else f"the raw input ({self.modality.raw_name})"
        say(f"{counted(len(join.pairs), 'pair')} by {by}; {how}")
        return join.pairs, join.scores

    def raw(self, items: Int64[np.ndarray, "u"]) -> tuple[Float32[np.ndarray, "u d"], np.ndarray]:
        """Vectors of the raw input of items, and of which there is none: bool [u].

        Many items are taken in parts: what is fitted is fitted on some of them, which are then read with each part.
        """
        found, part = np.zeros((0, 0), np.float32), self.items.part[items]
        for number, data in enumerate(self.items.parts):
            here = np.flatnonzero(part == number)
            mine = (items[here] - self.items.starts[number]).tolist()
            if not mine:
                continue
            learned = np.flatnonzero(part == part[0])
            first, start = self.items.parts[int(part[0])], self.items.starts[int(part[0])]
            drawn = np.sort(np.random.default_rng(self.job.seed).permutation(learned)[:FITTED])
            fit = (first.source, (items[drawn] - start).tolist())
            for begin in range(0, len(mine), FITTED):
                some = mine[begin : begin + FITTED]
                (_, rows) = self.modality.raw_vectors([fit, (data.source, some)], first.stats)
                if not found.size:
                    found = np.zeros((len(items), rows.shape[1]), np.float32)
                found[here[begin : begin + FITTED]] = rows.numpy()
        return found, np.zeros(len(items), bool)

    def vectors(self, items: Int64[np.ndarray, "u"]) -> tuple[Float32[np.ndarray, "u d"], np.ndarray]:
        """Vectors of items by the encoder, and of which there is none, for it can no longer be read: bool [u]."""
        assert self.encoder is not None
        found = np.zeros((len(items), self.encoder.dim), np.float32)
        lost = np.ones(len(items), bool)
        for number, data in enumerate(self.items.parts):
            here = np.flatnonzero(self.items.part[items] == number)
            mine = items[here] - self.items.starts[number]
            order = np.argsort(mine, kind="stable")  # ascending, as sources that lie in blocks are read quickly
            workers, _ = workers_for(data.source.array is not None, self.job.workers)
            views = data.modality.recipe("weak", self.encoder.spec["size"], data.stats)
            chunks = encoded(self.encoder, data, views, mine[order], self.on, workers, self.job.batch_size)
            with closing(chunks):
                for kept, some in chunks:
                    at = here[order][np.searchsorted(mine[order], kept)]
                    found[at], lost[at] = some, False
            check_share(data, self.job.max_skipped, self.job.out)
        return found, lost

    def threshold(self, kind: str, vectors: np.ndarray, known: np.ndarray, items: np.ndarray) -> float:
        """The cosine from which on items are copies: given, or calibrated without the copies known already."""
        n = len(vectors)
        if self.job.threshold is not None and (kind == "encoder" or "encoder" not in self.kinds):
            self.calibration[kind] = {"threshold": self.job.threshold}
            return self.job.threshold
        if n < 3:
            raise UserError(f"{n} items are too few to calibrate a threshold on. Give one with --threshold.")
        alone = np.ones(n, bool)
        alone[known[:, 1]] = False  # the worse item of each pair that the hash found
        far = self.job.far or far_of(n)
        threshold, others = calibrated(vectors[alone] if alone.sum() > 2 else vectors, far, self.job.seed, self.on)
        value = threshold.value
        self.calibration[kind] = {
            "threshold": value,
            "far": far,
            "extrapolated": threshold.extrapolated,
            "compared": threshold.compared,
            "reached": threshold.accepted,
            "false_pairs_expected": far * n * (n - 1) / 2,
            "others": quantiles(others),
        }
        seen = ""
        if kind == "encoder":
            own = self.of_views(vectors, items)
            self.calibration[kind] |= {"views_accepted": float((own >= value).mean()), "views": quantiles(own)}
            seen = f"; {(own >= value).mean():.0%} of random views reach it with their item"
        say(
            f"threshold {value:.4f}, false-accept rate {far:.2g}, so about {far * n * (n - 1) / 2:,.1f} false pairs "
            f"are to be expected{seen}"
        )
        return value

    def of_views(self, vectors: np.ndarray, items: np.ndarray) -> Float32[np.ndarray, "v"]:
        """Cosines of some items with a random view of them."""
        assert self.encoder is not None
        there = np.flatnonzero(vectors.any(axis=1))
        some = np.sort(np.random.default_rng(self.job.seed).permutation(there)[:VIEWED])
        cosines = []
        for number, data in enumerate(self.items.parts):
            here = some[self.items.part[items[some]] == number]
            if not len(here):
                continue
            views = data.modality.recipe("auto", self.encoder.spec["size"], data.stats)
            numbers = items[here] - self.items.starts[number]
            made = fixed_views(data, views, numbers, self.job.seed, self.on, ViewPlan(full=1))()[0]
            encoder = self.encoder.to(self.on).eval()
            with torch.inference_mode():
                seen = torch.cat([encoder(part) for part in made.split(self.job.batch_size)]).float().cpu().numpy()
            cosines.append((self.whitening(seen) * vectors[here]).sum(axis=1))
        return np.concatenate(cosines)

    # Groups

    def grouped(
        self,
        copies_of: dict[int, list[int]],
        unique: np.ndarray,
        pairs: np.ndarray,
        scores: np.ndarray,
        kinds: np.ndarray,
    ) -> list[list[Member]]:
        """Groups of two and more, in each the one that is kept first."""
        items = self.prints.items
        leader, link = stars(len(unique), pairs, np.arange(len(unique)))  # `unique` has the best first
        whole = components(len(unique), pairs)
        linked = np.unique(pairs)
        self.chains = int((np.array(list(Counter(whole[np.unique(leader[linked])].tolist()).values())) > 1).sum())
        groups: dict[int, list[Member]] = {}
        for place in np.flatnonzero(leader != np.arange(len(unique))).tolist():
            kind, score = KINDS[kinds[link[place]]], float(scores[link[place]])
            group = groups.setdefault(int(leader[place]), [])
            group.append(Member(int(items[unique[place]]), kind, score, False))
            group += [Member(int(items[copy]), kind, score, False) for copy in copies_of.get(int(unique[place]), [])]
        made = []
        for place in np.flatnonzero(leader == np.arange(len(unique))).tolist():
            exact = [Member(int(items[copy]), "exact", 1.0, False) for copy in copies_of.get(int(unique[place]), [])]
            members = exact + sorted(groups.get(place, []), key=lambda member: (-member.score, member.item))
            if members:
                made.append([Member(int(items[unique[place]]), "", 1.0, True), *members])
        return made

    def across(
        self,
        copies_of: dict[int, list[int]],
        unique: np.ndarray,
        pairs: np.ndarray,
        scores: np.ndarray,
        kinds: np.ndarray,
    ) -> list[list[Member]]:
        """One group for each item of the second part that has copies in the first: it, and them."""
        self.chains = 0
        items, part = self.prints.items, self.items.part
        found: dict[int, list[Member]] = {}
        for places, score, kind in zip(pairs.tolist(), scores.tolist(), kinds.tolist(), strict=True):
            learned, tested = sorted((int(unique[place]) for place in places), key=lambda row: part[items[row]])
            copies = [learned, *copies_of.get(learned, [])]
            for row in (tested, *copies_of.get(tested, [])):
                found.setdefault(row, []).extend(Member(int(items[copy]), KINDS[kind], score, False) for copy in copies)
        return [
            [Member(int(items[row]), "", 1.0, True), *sorted(group, key=lambda member: (-member.score, member.item))]
            for row, group in found.items()
        ]

    # What is told and written

    def told(self, prints: "Prints") -> dict[str, Any]:
        redundant = {member.item for group in self.groups for member in group if not member.keep}
        by_kind = Counter(member.kind for group in self.groups for member in group if not member.keep)
        stored = dict(zip(prints.items.tolist(), prints.stored.tolist(), strict=True))
        counts = {
            "items": len(prints),
            "groups": len(self.groups),
            "copies": len(redundant),
            "bytes_of_copies": sum(stored[item] for item in redundant),
            "divided_chains": self.chains,
            "pairs": self.pairs,
            **{kind: by_kind.get(kind, 0) for kind in self.kinds},
        }
        return {
            "data": self.job.data,
            "run": None if self.job.run_folder is None else str(self.job.run_folder),
            "across": list(self.job.across) if self.job.across else None,
            "by": self.kinds,
            "distance": self.job.distance if "hash" in self.kinds else None,
            "kept": RULE_ACROSS if self.job.across else RULE if prints.resolution.any() else RULE_WITHOUT,
            "counts": counts,
            "encoder": self.calibration.get("encoder"),
            "raw": self.calibration.get("raw"),
            "raw_name": self.modality.raw_name if "raw" in self.kinds else None,
            "skipped": len(self.items.skipped),
            "groups": [
                [
                    {"name": self.items.name(member.item), "keep": member.keep, "kind": member.kind}
                    | ({} if member.keep else {"score": round(member.score, 6)})
                    | ({"part": self.items.part_name(member.item)} if self.job.across else {})
                    for member in group
                ]
                for group in self.groups
            ],
        }

    def write(self, result: dict[str, Any]) -> None:
        out = self.job.out
        if self.items.skipped:
            write_all_skipped(self.items, out)
        write_text(out / TABLE, self.table())
        write_text(out / RESULT, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        path = write_duplicates(
            out, result, [[member.item for member in group] for group in self.groups],
            self.items.picture, self.items.shown, self.items.fragment, self.items.value,
        )  # fmt: skip
        counts = result["counts"]
        if self.job.across:
            first, second = self.job.across
            have = "has" if counts["groups"] == 1 else "have"
            of = f"{counted(counts['groups'], 'item')} of {second} {have} copies in {first}"
            exact = f", {counts['exact']:,} of them exact" if "exact" in self.kinds else ""
            say(f"{of}: {counts['copies']:,} of its items{exact}")
        else:
            groups = counted(counts["groups"], "group")
            say(f"{groups}, {copies_of(counts['copies'])} beside what is kept; nothing was deleted")
        say(f"see {path} and {out / TABLE}")

    def table(self) -> str:
        text = io.StringIO()
        rows = csv.writer(text)
        rows.writerow(["group", "name", "keep", "score", "kind", *(["part"] if self.job.across else [])])
        for number, group in enumerate(self.groups, 1):
            for member in group:
                told = ["yes", "", ""] if member.keep else ["no", f"{member.score:.6g}", member.kind]
                part = [self.items.part_name(member.item)] if self.job.across else []
                rows.writerow([number, self.items.name(member.item), *told, *part])
        return text.getvalue()


def nothing() -> Found:
    return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)


def of_content(content: Int64[np.ndarray, "u"], part: np.ndarray | None) -> Found:
    """Pairs of equal content in different parts; of one source there is none, for each content is there once."""
    if part is None:
        return nothing()
    order = np.argsort(content, kind="stable")
    same = np.flatnonzero(np.diff(content[order]) == 0)
    pairs = np.sort(np.stack([order[same], order[same + 1]], axis=1), axis=1)
    return pairs, np.ones(len(pairs), np.float32)


def copies_of(count: int) -> str:
    return f"{count:,} {'copy' if count == 1 else 'copies'}"


def quantiles(scores: np.ndarray) -> dict[str, float]:
    return {f"{share:g}": float(np.quantile(scores, share)) for share in (0.01, 0.05, 0.5, 0.95, 0.99)}


def write_all_skipped(items: Items, folder: Path) -> None:
    if len(items.parts) == 1:
        write_skipped(items.parts[0], folder)
        warn_skipped(items.parts[0], folder)
        return
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["name", "reason"])
    rows.writerows([items.shown(i), why] for i, why in sorted(items.skipped.items()))
    write_text(folder / SKIPPED, printable(text.getvalue()))
    say(f"{len(items.skipped)} unreadable items skipped; see {folder / SKIPPED}", "yellow")


# Fingerprints --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prints:
    """Of all items that can be read, what tells copies: 49 bytes an item."""

    items: Int64[np.ndarray, "n"]
    content: Int64[np.ndarray, "n"]  # a number for each different content
    stored: Int64[np.ndarray, "n"]
    resolution: Int64[np.ndarray, "n"]
    codes: UInt64[np.ndarray, "n 2"]
    told: np.ndarray  # bool [n]: whether there are codes

    def __len__(self) -> int:
        return len(self.items)


class Printing(Dataset):
    """Chunk number -> digests [b 16] and numbers [b 5] of items, unreadable ones left out and listed."""

    def __init__(self, data: Data, size: int) -> None:
        self.data, self.size = data, size
        self.items = data.readable().tolist()

    def __len__(self) -> int:
        return -(-len(self.items) // self.size)

    def __getitem__(self, chunk: int) -> Batch:
        digests, numbers, skipped = [], [], {}
        for item in self.items[chunk * self.size : (chunk + 1) * self.size]:
            try:
                found = fingerprint_of(self.data, item)
            except UnreadableItem as error:
                skipped[item] = str(error)
                continue
            digests.append(np.frombuffer(hashlib.blake2b(found.content, digest_size=16).digest(), np.uint8))
            codes = np.array(found.codes or (0, 0), np.uint64).view(np.int64).tolist()
            numbers.append([item, found.stored, found.resolution, found.codes is not None, *codes])
        if not digests:
            return Batch(chunk, [], skipped)
        return Batch(chunk, [torch.from_numpy(np.stack(digests)), torch.tensor(numbers)], skipped)


def fingerprint_of(data: Data, i: int) -> Fingerprint:
    """The modality's own, or of what an item is when it is read: samples, values, words, cells."""
    own = getattr(data.modality, "fingerprint", None)
    if own is not None:
        return own(data.source, i)
    value = data.source.read(i)
    if isinstance(value, np.ndarray):
        content = str((value.shape, value.dtype)).encode() + np.ascontiguousarray(value).tobytes()
    else:
        content = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "replace")
    return Fingerprint(content, data.source.stored(i), 0, None)


def fingerprints(items: Items, job: Duplicates) -> Prints:
    """Of all items; those that cannot be read are listed in `skipped` of their part."""
    found = [part for number in range(len(items.parts)) for part in of_part(items, number, job)]
    if not found:
        names = " and ".join(data.path for data in items.parts)
        raise UserError(f"none of the {len(items)} items of {names} can be read.")
    digests, numbers = (np.concatenate(side) for side in zip(*found, strict=True))
    return Prints(
        items=numbers[:, 0],
        content=np.unique(np.ascontiguousarray(digests).view(np.uint64), axis=0, return_inverse=True)[1].ravel(),
        stored=numbers[:, 1],
        resolution=numbers[:, 2],
        told=numbers[:, 3] > 0,
        codes=np.ascontiguousarray(numbers[:, 4:]).view(np.uint64),
    )


def of_part(items: Items, number: int, job: Duplicates) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    data = items.parts[number]
    printing = Printing(data, job.batch_size)
    workers, _ = workers_for(data.source.array is not None, job.workers)
    for batch in feed(printing, 0, len(printing), workers):
        data.skipped.update(batch.skipped)
        if batch.samples:
            digests, numbers = (sample.numpy() for sample in batch.samples)
            numbers[:, 0] += items.starts[number]
            yield digests, numbers
