"""Pairs of near vectors among many, block by block: never a number for all pairs at once.

Up to `EXACT` items all cosines are computed and none is missed. Above, the join is approximate, as FAISS's IVF
(Johnson, Douze & Jegou 2017, arXiv 1702.08734, section 3.1; cells by k-means, Sivic & Zisserman 2003): two items are
compared where one's own cell is among the nearest cells of the other. How many cells are looked into is chosen, and
what is missed is measured, on items that are compared with all others.
Vectors are float32 of unit length [n d], the better items first: where an item has very many partners, it keeps those
that come first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from selfsame.nn.kmeans import kmeans

__all__ = ["EXACT", "Collected", "Join", "exact_pairs", "near_pairs", "pairs_by_cells"]

EXACT = 100_000  # items: all their pairs at width 512 are 5e12 operations, minutes of one core
ROWS, COLUMNS = 2048, 8192  # cosines held at once: 64 MB
LIMIT = 2**24  # pairs collected before they are thinned
MOST = 32  # better partners of an item that are kept where pairs are thinned
PROBES = (1, 2, 4, 8, 16)  # nearest cells of an item that are looked into
WANTED = 0.99  # of the true pairs: as few cells as find so many
ASKED = 2000  # items that are compared with all others to measure what is found
ENOUGH = 50_000  # true pairs on which it is measured, at most

Found = tuple[Int64[np.ndarray, "m 2"], Float32[np.ndarray, "m"]]
"""pairs of item numbers, the lower one first, each pair once, ascending; and their scores"""


def nothing() -> Found:
    return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)


@dataclass(frozen=True)
class Join:
    """The pairs, and how they were found."""

    pairs: Int64[np.ndarray, "m 2"]
    scores: Float32[np.ndarray, "m"]
    exact: bool
    probes: int = 0
    """nearest cells of an item that were looked into"""
    cells: int = 0
    recall: float | None = None
    """share of the true pairs that is found, measured on `judged` of them; None where the sample holds none"""
    judged: int = 0


@dataclass
class Collected:
    """Pairs as they are found. Beyond `LIMIT` they are thinned: `MOST` partners of the worse item, one of the better.

    So memory stays bounded even where a hundred thousand items are all alike; each still has a pair with the best.
    """

    n: int
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    held: int = 0

    def add(self, one: np.ndarray, two: np.ndarray, scores: np.ndarray) -> None:
        """Pairs of different items, in any order, some perhaps not for the first time."""
        if not len(one):
            return
        low, high = np.minimum(one, two), np.maximum(one, two)
        self.parts.append((low.astype(np.int32), high.astype(np.int32), scores.astype(np.float32)))
        self.held += len(low)
        if self.held > LIMIT:
            self.parts = [thinned(*self.merged())]
            self.held = len(self.parts[0][0]) // 2  # what survived weighs half, or it would be thinned at every step

    def merged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All pairs, each once, ascending."""
        if not self.parts:
            return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32)
        low, high, scores = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        _, first = np.unique(low.astype(np.int64) * self.n + high, return_index=True)
        return low[first], high[first], scores[first]

    def found(self) -> Found:
        low, high, scores = self.merged()
        return np.stack([low, high], axis=1).astype(np.int64), scores


def thinned(
    low: np.ndarray, high: np.ndarray, scores: np.ndarray, most: int = MOST
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs, ascending, of which each worse item keeps the `most` first partners, and each better one its first."""
    keep = counted(low) < 1
    order = np.lexsort((low, high))
    keep[order] |= counted(high[order]) < most
    return low[keep], high[keep], scores[keep]


def counted(values: np.ndarray) -> np.ndarray:
    """Of sorted values, how often each came before: [3 3 5] gives [0 1 0]."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return np.arange(len(values)) - np.repeat(starts, np.diff(np.append(starts, len(values))))


def near_pairs(
    vectors: Float32[np.ndarray, "n d"],
    threshold: float,
    part: Int64[np.ndarray, "n"] | None = None,
    seed: int = 0,
    on: torch.device | str = "cpu",
    exact: int = EXACT,
) -> Join:
    """All pairs of a cosine of at least `threshold`: exact up to `exact` items, approximate above.

    Args:
        part: of each item; pairs are then those of different parts alone.
    """
    x = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32)).to(on)
    if len(x) <= exact:
        return Join(*exact_pairs(x, threshold, part), exact=True)
    return pairs_by_cells(x, threshold, part, seed)


@torch.no_grad()
def exact_pairs(x: Float[Tensor, "n d"], threshold: float, part: Int64[np.ndarray, "n"] | None = None) -> Found:
    """Every pair of a cosine of at least `threshold`; of different parts, where `part` is given."""
    collected = Collected(len(x))
    if part is not None:
        kinds = [np.flatnonzero(part == kind) for kind in np.unique(part)]
        for number, mine in enumerate(kinds):
            for others in kinds[number + 1 :]:
                for one, two, scores in between(x, mine, others, threshold):
                    collected.add(one, two, scores)
        return collected.found()
    everything = np.arange(len(x))
    for start in range(0, len(x), ROWS):
        mine = everything[start : start + ROWS]
        for one, two, scores in (*within(x, mine, threshold), *between(x, mine, everything[start + ROWS :], threshold)):
            collected.add(one, two, scores)
    return collected.found()


Hits = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]  # items, items, cosines


def within(x: Tensor, items: np.ndarray, threshold: float) -> Hits:
    """Pairs among some items, each once or twice."""
    for start in range(0, len(items), ROWS):
        some = items[start : start + ROWS]
        rows = x[torch.from_numpy(some).to(x.device)]
        cosines = (rows @ rows.T).fill_diagonal_(-2)
        yield hits(cosines, some, some, threshold)
        yield from between(x, some, items[start + ROWS :], threshold)


def between(x: Tensor, one: np.ndarray, two: np.ndarray, threshold: float) -> Hits:
    """Pairs of an item of `one` with one of `two`, which have none in common."""
    for start in range(0, len(one), ROWS):
        rows = x[torch.from_numpy(one[start : start + ROWS]).to(x.device)]
        for at in range(0, len(two), COLUMNS):
            cosines = rows @ x[torch.from_numpy(two[at : at + COLUMNS]).to(x.device)].T
            yield hits(cosines, one[start : start + ROWS], two[at : at + COLUMNS], threshold)


def hits(
    cosines: Float[Tensor, "a b"], one: np.ndarray, two: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Most rows have no pair at all, and a row's greatest value is found far more quickly than its places.
    rows = (cosines.amax(dim=1) >= threshold).nonzero().flatten()
    some = cosines[rows]
    row, column = (some >= threshold).nonzero(as_tuple=True)
    return one[rows[row].cpu().numpy()], two[column.cpu().numpy()], some[row, column].cpu().numpy()


# By cells ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def pairs_by_cells(
    x: Float[Tensor, "n d"],
    threshold: float,
    part: Int64[np.ndarray, "n"] | None = None,
    seed: int = 0,
    asked: int = ASKED,
) -> Join:
    """Pairs, most of them: items are compared where the own cell of one is among the first cells of the other.

    About 2 sqrt(n) cells. Of `asked` items, compared with all others, half of the true pairs say how many cells are
    looked into, the other half what share of all true pairs that finds. Without a true pair among them it is 8.
    """
    n, rng = len(x), np.random.default_rng(seed)
    cells = max(2, 2 ** round(np.log2(2 * np.sqrt(n))))
    sample = torch.from_numpy(np.sort(rng.permutation(n)[: 32 * cells])).to(x.device)
    centroids, _ = kmeans(x[sample], cells, seed, iterations=6, spherical=True)
    near = nearest_cells(x, centroids, min(PROBES[-1], cells))
    one, two = true_pairs(x, rng.permutation(n)[:asked], threshold, part)
    depth = np.minimum(position(near[two], near[one, 0]), position(near[one], near[two, 0]))
    # Both halves hold whole pairs of random items; the pairs of one item are not divided.
    chosen = np.isin(one, np.unique(one)[::2])
    probes = 8 if not len(one) else next((p for p in PROBES if (depth[chosen] < p).mean() >= WANTED), PROBES[-1])
    probes = min(probes, near.shape[1])
    judged = depth[~chosen] if (~chosen).any() else depth
    recall = float((judged < probes).mean()) if len(judged) else None
    collected = Collected(n)
    for mine, visitors in by_cell(near[:, :probes], cells):
        for a, b, scores in (*within(x, mine, threshold), *between(x, mine, visitors, threshold)):
            keep = slice(None) if part is None else part[a] != part[b]
            collected.add(a[keep], b[keep], scores[keep])
    return Join(*collected.found(), exact=False, probes=probes, cells=cells, recall=recall, judged=len(judged))


def nearest_cells(x: Tensor, centroids: Tensor, count: int) -> Int64[np.ndarray, "n c"]:
    """The `count` nearest cells of each item, nearest first; as 32-bit numbers."""
    near = np.empty((len(x), count), dtype=np.int32)
    for start in range(0, len(x), COLUMNS):
        best = (x[start : start + COLUMNS] @ centroids.T).topk(count, dim=1).indices
        near[start : start + COLUMNS] = best.cpu().numpy()
    return near


def by_cell(near: np.ndarray, cells: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each cell: the items whose own it is, and those that have it among their further ones."""
    own, further = near[:, 0], near[:, 1:].ravel()
    items, visitors = np.argsort(own, kind="stable"), np.argsort(further, kind="stable")
    ends = np.cumsum(np.bincount(own, minlength=cells))
    ends_of_visitors = np.cumsum(np.bincount(further, minlength=cells))
    for cell in range(cells):
        start, of_visitors = (ends[cell - 1], ends_of_visitors[cell - 1]) if cell else (0, 0)
        here = visitors[of_visitors : ends_of_visitors[cell]] // max(1, near.shape[1] - 1)
        yield items[start : ends[cell]], here


def true_pairs(
    x: Tensor, queries: np.ndarray, threshold: float, part: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(queries, partners) of all true pairs of some items; of as many of them as have `ENOUGH`."""
    ones, twos, count = [], [], 0
    everything = np.arange(len(x))
    for start in range(0, len(queries), 100):
        for a, b, _ in between(x, queries[start : start + 100], everything, threshold):
            keep = a != b if part is None else part[a] != part[b]
            ones.append(a[keep])
            twos.append(b[keep])
            count += int(keep.sum())
        if count >= ENOUGH:
            break
    return np.concatenate(ones), np.concatenate(twos)


def position(near: Int64[np.ndarray, "m c"], cell: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
    """At which place of a row of `near` the cell stands; c where it does not."""
    here = near == cell[:, None]
    return np.where(here.any(axis=1), here.argmax(axis=1), near.shape[1])
