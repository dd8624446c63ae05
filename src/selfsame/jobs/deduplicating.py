"""What `duplicates` does: fingerprints of all items, their vectors, pairs, and groups of them."""

import csv
import io
import json
from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int64

from selfsame.engine.state import write_text
from selfsame.engine.watch import counted, say
from selfsame.errors import UserError
from selfsame.index.hamming import pairs_within
from selfsame.index.pairs import Found, nothing
from selfsame.jobs.copies import Edges, across, grouped
from selfsame.jobs.data import check_share
from selfsame.jobs.duplicates import KINDS, Duplicates
from selfsame.jobs.fingerprints import Prints, fingerprints
from selfsame.jobs.likeness import Likeness
from selfsame.jobs.parts import Items, write_all_skipped
from selfsame.jobs.runs import load
from selfsame.report.duplicates import write_duplicates

TABLE, RESULT = "duplicates.csv", "duplicates.json"
RULE = "largest resolution, then largest file, then first name"
RULE_WITHOUT = "largest item, then first name"  # where there is no resolution
RULE_ACROSS = "what lies in the second part"
BUILT = "{} by their hash are found of images alone. Give --run RUN: an encoder finds near copies of any kind of data."


def run(job: Duplicates) -> dict[str, Any]:
    found = Deduplicating(job)
    result = found.result
    found.write(result)
    return result


class Deduplicating:
    """One search for copies at work."""

    def __init__(self, job: Duplicates) -> None:
        self.job = job
        self.encoder = load(job.run_folder) if job.run_folder is not None else None
        self.items = Items(job, self.encoder)
        self.modality = self.items.parts[0].modality
        self.hashes = hasattr(self.modality, "fingerprint")
        self.kinds = self.ways()
        self.likeness = Likeness(job, self.items, self.encoder, self.kinds)

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
        prints = fingerprints(self.items, self.job)
        for data in self.items.parts:
            check_share(data, self.job.max_skipped, self.job.out)
        unique, copies_of = self.distinct(prints)
        exact = (
            f", {sum(map(len, copies_of.values())):,} of them exact copies of others" if "exact" in self.kinds else ""
        )
        say(f"{counted(len(prints), 'item')}{exact if not self.job.across else ''}")
        edges = self.near(prints, unique, copies_of)
        if self.job.across:
            self.groups, self.chains = across(edges, self.items.part), 0
        else:
            self.groups, self.chains = grouped(edges)
        self.groups.sort(key=lambda group: (-len(group), group[0].item))
        return self.told(prints)

    def distinct(self, prints: Prints) -> tuple[Int64[np.ndarray, "u"], dict[int, list[int]]]:
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

    def near(self, prints: Prints, unique: Int64[np.ndarray, "u"], copies_of: dict[int, list[int]]) -> Edges:
        """Pairs among the items of different content; each pair once, by the surest kind."""
        items = prints.items[unique]
        part = self.items.part[items] if self.job.across else None
        n = len(unique)
        exact = of_content(prints.content[unique], part) if "exact" in self.kinds else nothing()
        found = [exact, self.by_hash(prints, unique, part)]
        for kind in ("raw", "encoder"):
            known = np.concatenate([pairs for pairs, _ in found])
            found.append(self.likeness.pairs(kind, items, part, known) if kind in self.kinds else nothing())
        if part is not None and "exact" in self.kinds:
            say(f"{counted(len(exact[0]), 'pair')} of the same content, one in each part")
        named = zip(KINDS, (len(pairs) for pairs, _ in found), strict=True)
        # Of one source equal items are no pairs: they stand for each other.
        self.pairs = {k: n for k, n in named if k in self.kinds and (k != "exact" or part is not None)}
        pairs, scores = (np.concatenate(both) for both in zip(*found, strict=True))
        kinds = np.repeat(np.arange(len(KINDS)), [len(pairs) for pairs, _ in found])
        _, first = np.unique(pairs[:, 0] * n + pairs[:, 1], return_index=True)
        copies = {int(prints.items[row]): prints.items[equal].tolist() for row, equal in copies_of.items()}
        return Edges(items, copies, pairs[first], scores[first], kinds[first])

    def by_hash(self, prints: Prints, unique: np.ndarray, part: np.ndarray | None) -> Found:
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

    # What is told and written

    def told(self, prints: Prints) -> dict[str, Any]:
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
            "encoder": self.likeness.calibration.get("encoder"),
            "raw": self.likeness.calibration.get("raw"),
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
