"""Clusters: k-means of unit vectors, how many there are, and how far they agree with labels.

Source: k-means++, Arthur & Vassilvitskii 2007, from scikit-learn; the number of clusters by the mean silhouette,
        Rousseeuw 1987; adjusted Rand index, Hubert & Arabie 1985; purity, Manning et al. 2008, section 16.3.
Raises: UserError on counts that cannot be met.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from threadpoolctl import threadpool_limits
from torch import Tensor

from selfsame.downstream.vectors import check_alone
from selfsame.errors import UserError
from selfsame.nn.kmeans import nearest
from selfsame.types import mixed

__all__ = ["GRID", "Clustering", "agreement", "chosen_count", "cluster", "purity"]

GRID = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)  # counts that are tried
STARTS = 4
BLOCK = 65_536  # items whose centres are held at once
FITTED = 50_000  # items that centres are found from; with more, a sample drawn by the seed
TRIED = 10_000  # items that each count is tried on
SCORED = 2_000  # of them, items that the silhouette is the mean of: it compares all with all


@dataclass(frozen=True)
class Clustering:
    """Centres [k d], and of each item its cluster 0..k-1 and its distance to the centre: both of unit vectors.

    Clusters are numbered by size, the largest first.
    """

    centres: Float[np.ndarray, "k d"]
    of: Int[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]

    @property
    def sizes(self) -> Int[np.ndarray, "k"]:
        return np.bincount(self.of, minlength=len(self.centres))

    def members(self, number: int) -> Int[np.ndarray, "m"]:
        """The items of a cluster, the most central first."""
        inside = np.flatnonzero(self.of == number)
        return inside[np.argsort(self.distance[inside], kind="stable")]


def cluster(vectors: Float[Tensor, "n d"], count: int, seed: int) -> Clustering:
    """k-means of unit vectors, the best of 4 starts. Centres are fitted on at most 50,000 items; all are assigned.

    Raises UserError unless there are `count` different vectors, and on vectors that are not finite.
    """
    check_alone(vectors)
    unit = F.normalize(vectors.float(), dim=1).cpu()
    some = unit[drawn(len(unit), FITTED, seed)].numpy()
    differ = len(np.unique(some, axis=0))
    if not 1 <= count <= differ:
        raise UserError(
            f"--count {count}: {len(some):,} items have {differ:,} different vectors. Give 1 to {differ:,} clusters."
        )
    with threadpool_limits(1):  # threads that wait for each other make it minutes long on a busy machine
        centres = torch.from_numpy(fitted(some, count, seed))
    of = nearest(unit, centres).numpy()
    sizes = np.bincount(of, minlength=count)
    order = np.argsort(-sizes, kind="stable")
    of = np.argsort(order)[of]
    centres = centres[torch.from_numpy(order)]
    distance = np.empty(len(of))
    for start in range(0, len(of), BLOCK):
        own = centres[torch.from_numpy(of[start : start + BLOCK])]
        distance[start : start + BLOCK] = (unit[start : start + BLOCK] - own).norm(dim=1).numpy()
    return Clustering(centres.numpy(), of, distance)


def fitted(unit: Float[np.ndarray, "n d"], count: int, seed: int) -> Float[np.ndarray, "k d"]:
    """The centres; at least `count` of the vectors differ."""
    means = KMeans(count, n_init=STARTS, random_state=mixed(seed, 41) % 2**32)
    return means.fit(unit).cluster_centers_.astype(np.float32)


def chosen_count(vectors: Float[Tensor, "n d"], seed: int, grid: Sequence[int] = GRID) -> tuple[int, dict[int, float]]:
    """The count of the grid with the largest mean silhouette, of equals the smallest; and the silhouette of each.

    Each count is tried on at most 10,000 items, drawn by the seed, and its silhouette (-1 to 1) is the mean of at most
    2,000 of them. Counts above half the items, or above the vectors that differ, are not tried.
    Raises UserError with fewer than four items, or where all vectors are alike.
    """
    check_alone(vectors)
    unit = F.normalize(vectors.float(), dim=1).cpu()[drawn(len(vectors), TRIED, seed)].numpy()
    differ = len(np.unique(unit, axis=0))
    counts = [count for count in grid if count <= min(len(unit) // 2, differ - 1)]
    if not counts:
        raise UserError(
            f"{len(unit)} items with {differ} different vectors are too few to choose a count from. Give --count."
        )
    scored = drawn(len(unit), SCORED, mixed(seed, 42))
    scores = {}
    with threadpool_limits(1):
        for count in counts:
            centres = torch.from_numpy(fitted(unit, count, seed))
            of = nearest(torch.from_numpy(unit[scored]), centres).numpy()
            defined = 1 < len(np.unique(of)) < len(of)
            scores[count] = float(silhouette_score(unit[scored], of)) if defined else -1.0
    return max(counts, key=lambda count: scores[count]), scores


def agreement(of: Int[np.ndarray, "n"], labels: Int[np.ndarray, "n"]) -> dict[str, float]:
    """How far clusters agree with labels: `nmi` (normalised by the arithmetic mean of the entropies) and `purity` in
    [0, 1], `ari` at most 1 and about 0 for chance. More clusters make a higher purity."""
    return {
        "nmi": float(normalized_mutual_info_score(labels, of)),
        "ari": float(adjusted_rand_score(labels, of)),
        "purity": purity(of, labels),
    }


def purity(of: Int[np.ndarray, "n"], labels: Int[np.ndarray, "n"]) -> float:
    """The share of items whose label is the most frequent one of their cluster."""
    table = np.zeros((of.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(table, (of, labels), 1)
    return float(table.max(axis=1).sum() / len(of))


def drawn(items: int, most: int, seed: int) -> Int[Tensor, "m"]:
    """At most `most` items, ascending, drawn by the seed."""
    if items <= most:
        return torch.arange(items)
    return torch.from_numpy(np.sort(np.random.default_rng(mixed(seed, 43)).permutation(items)[:most]))
