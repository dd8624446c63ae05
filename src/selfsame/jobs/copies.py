"""Groups of copies, from pairs of items: of one source, or of an item of one part and its copies in another."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from selfsame.index.groups import components, stars
from selfsame.jobs.duplicates import KINDS


@dataclass(frozen=True)
class Edges:
    """Items of different content, and what pairs of them were found."""

    items: Int64[np.ndarray, "u"]  # the best first
    equal: dict[int, list[int]]  # the items of the same content as one of them
    pairs: Int64[np.ndarray, "m 2"]  # places in `items`
    scores: Float32[np.ndarray, "m"]
    kinds: Int64[np.ndarray, "m"]  # of KINDS, by number


@dataclass(frozen=True)
class Member:
    """An item in a group: how it is linked to the one that is kept."""

    item: int
    kind: str
    score: float
    keep: bool


def grouped(edges: Edges) -> tuple[list[list[Member]], int]:
    """(groups of two and more, in each the one that is kept first; how many chains were divided)."""
    every = np.arange(len(edges.items))
    leader, link = stars(len(every), edges.pairs, every)  # the best comes first
    whole = components(len(every), edges.pairs)
    linked = np.unique(edges.pairs)
    chains = int((np.array(list(Counter(whole[np.unique(leader[linked])].tolist()).values())) > 1).sum())
    groups: dict[int, list[Member]] = {}
    for place in np.flatnonzero(leader != every).tolist():
        kind, score = KINDS[edges.kinds[link[place]]], float(edges.scores[link[place]])
        item = int(edges.items[place])
        group = groups.setdefault(int(leader[place]), [])
        group += [Member(copy, kind, score, False) for copy in [item, *edges.equal.get(item, [])]]
    made = []
    for place in np.flatnonzero(leader == every).tolist():
        item = int(edges.items[place])
        exact = [Member(copy, "exact", 1.0, False) for copy in edges.equal.get(item, [])]
        members = exact + best_first(groups.get(place, []))
        if members:
            made.append([Member(item, "", 1.0, True), *members])
    return made, chains


def across(edges: Edges, part: Int64[np.ndarray, "n"]) -> list[list[Member]]:
    """One group for each item of the second part that has copies in the first: it, and them.

    Args:
        part: 0 or 1, of each item.
    """
    found: dict[int, list[Member]] = {}
    for places, score, kind in zip(edges.pairs.tolist(), edges.scores.tolist(), edges.kinds.tolist(), strict=True):
        learned, tested = sorted((int(edges.items[place]) for place in places), key=lambda item: part[item])
        copies = [Member(copy, KINDS[kind], score, False) for copy in [learned, *edges.equal.get(learned, [])]]
        for item in (tested, *edges.equal.get(tested, [])):
            found.setdefault(item, []).extend(copies)
    return [[Member(item, "", 1.0, True), *best_first(group)] for item, group in found.items()]


def best_first(members: list[Member]) -> list[Member]:
    return sorted(members, key=lambda member: (-member.score, member.item))
