"""Verification: are two items of one kind, by the cosine of their vectors and a threshold? Nothing is trained.

A pair is accepted as the same where its score is at least the threshold. FAR is the share of different pairs that are
accepted, TAR the share of same pairs that are; FRR is 1 - TAR.

Source: the threshold at a false-accept rate and its achieved rates on people that it was not chosen on, as in Huang et
        al. 2007 (Labeled Faces in the Wild) and in NIST's evaluations of speakers, whose detection cost (2016 plan,
        section 3) is `min_dcf`; Wilson 1927 for intervals.
Raises: UserError on scores that cannot be judged.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from selfsame.errors import UserError
from selfsame.types import mixed

__all__ = [
    "Rates",
    "Roc",
    "auc",
    "cosines",
    "equal_error_rate",
    "identities_of",
    "min_dcf",
    "pairs_of",
    "rates_at",
    "resolved_by",
    "roc",
    "sides_of",
    "threshold_at",
    "wilson",
]

HELD = 2**18  # numbers of vectors held at once: 2 MiB, which stays near the processor whatever the width
EXACT = 2_000  # items up to which all pairs are looked at; of more, pairs are drawn

Scores = Float[np.ndarray, "n"]
Same = Bool[np.ndarray, "n"]
Pairs = Int[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Roc:
    """Every point of the curve, from the strictest threshold (infinite: nothing is accepted) to the laxest."""

    far: Float[np.ndarray, "t"]
    tar: Float[np.ndarray, "t"]
    threshold: Float[np.ndarray, "t"]


@dataclass(frozen=True)
class Rates:
    """What a threshold does to given pairs: shares in [0, 1], each with its 95 % interval."""

    far: float
    far_interval: tuple[float, float]
    tar: float
    tar_interval: tuple[float, float]
    same: int  # pairs
    different: int


def cosines(vectors: Float[Tensor, "m d"], pairs: Pairs) -> Scores:
    """The cosine of each pair of rows, in [-1, 1], by blocks; 0 where a vector is 0."""
    unit = torch.nn.functional.normalize(vectors.float(), dim=1)
    found = np.empty(len(pairs))
    rows = max(1, HELD // vectors.shape[1])
    for start in range(0, len(pairs), rows):
        one, two = torch.from_numpy(pairs[start : start + rows]).T
        # Vectors of random weights can all but agree: their cosines differ in digits that float32 has not.
        found[start : start + rows] = (unit[one].double() * unit[two].double()).sum(dim=1).clamp(-1, 1).numpy()
    return found


def roc(scores: Scores, same: Same) -> Roc:
    """The curve, one point for each score that occurs. Raises UserError without pairs of both kinds."""
    check(scores, same)
    far, tar, threshold = roc_curve(same, scores, drop_intermediate=False)
    return Roc(far, tar, threshold)


def auc(scores: Scores, same: Same) -> float:
    """The chance that a same pair scores higher than a different one, equal ones counting half."""
    check(scores, same)
    return float(roc_auc_score(same, scores))


def equal_error_rate(curve: Roc) -> tuple[float, float]:
    """(the rate at which FAR and FRR are equal, the threshold there), between two points of the curve by a line."""
    gap = (1 - curve.tar) - curve.far  # falls from 1 to -1
    k = int(np.flatnonzero(gap >= 0)[-1])
    if gap[k] == 0 or k + 1 == len(gap):
        return float(curve.far[k]), float(curve.threshold[k])
    share = gap[k] / (gap[k] - gap[k + 1])
    rate = curve.far[k] + share * (curve.far[k + 1] - curve.far[k])
    below = curve.threshold[k + 1]
    between = below if np.isinf(curve.threshold[k]) else curve.threshold[k] + share * (below - curve.threshold[k])
    return float(rate), float(between)


def threshold_at(scores: Scores, same: Same, far: float) -> float:
    """The smallest score that occurs, taken as threshold, whose FAR on these pairs is at most `far`.

    floor(far × different pairs) of the different pairs may lie at or above it. Where even the highest score is too
    low, as one that a different pair has, the threshold is the next number above it: nothing is accepted.
    Raises UserError unless 0 <= far < 1, and without pairs of both kinds.
    """
    if not 0 <= far < 1:
        raise UserError(f"the false-accept rate is {far}; it must be at least 0 and less than 1.")
    check(scores, same)
    allowed = math.floor(far * np.count_nonzero(~same) + 1e-9)  # 0.29 × 100 is a little less than 29
    different = np.sort(scores[~same])
    candidates = np.unique(scores)
    accepted = len(different) - np.searchsorted(different, candidates, side="left")
    good = candidates[accepted <= allowed]
    return float(good[0]) if len(good) else float(np.nextafter(candidates[-1], np.inf))


def rates_at(scores: Scores, same: Same, threshold: float) -> Rates:
    """FAR and TAR of pairs at a threshold.

    Wilson's intervals take pairs as independent. Pairs that share an item are not, so the truth is less certain.
    """
    check(scores, same)
    accepted = scores >= threshold
    counts = [(int(np.count_nonzero(accepted[kind])), int(np.count_nonzero(kind))) for kind in (~same, same)]
    (wrong, different), (right, alike) = counts
    return Rates(
        wrong / different,
        wilson(wrong, different),
        right / alike,
        wilson(right, alike),
        same=alike,
        different=different,
    )


def wilson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share: it stays in [0, 1], and has a width where none or all are hits."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = hits / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    low = 0.0 if hits == 0 else middle - half
    return low, 1.0 if hits == trials else middle + half


def min_dcf(curve: Roc, prior: float, miss: float = 1.0, false_accept: float = 1.0) -> float:
    """The least cost of a decision over all thresholds, miss P FRR + false_accept (1 - P) FAR.

    `prior` is P, the share of same pairs where it is used. Divided by the cost of the better of always saying the same
    and never: 0 is perfect, 1 is of no use.
    """
    cost = miss * prior * (1 - curve.tar) + false_accept * (1 - prior) * curve.far
    return float(cost.min() / min(miss * prior, false_accept * (1 - prior)))


def resolved_by(far: float) -> int:
    """Different pairs that a false-accept rate needs: with three hits expected, at least one is met 19 times in 20."""
    return math.ceil(3 / far) if far > 0 else 0


def pairs_of(labels: Int[np.ndarray, "n"], most: int, seed: int) -> tuple[Pairs, Same]:
    """Pairs of items and whether their labels are equal; at most `most` of either kind, drawn where there are more.

    Up to 2,000 items all pairs are listed before; of more, pairs are drawn until enough differ.
    """
    rng = np.random.default_rng(mixed(seed, 21))
    if len(labels) <= EXACT:
        pairs = np.stack(np.triu_indices(len(labels), 1), axis=1)
        same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
        kept = [rng.permutation(np.flatnonzero(kind))[:most] for kind in (same, ~same)]
        order = np.sort(np.concatenate(kept))
        return pairs[order], same[order]
    alike, different = drawn_same(labels, most, rng), drawn_different(labels, most, rng)
    return np.concatenate([alike, different]), np.arange(len(alike) + len(different)) < len(alike)


def drawn_same(labels: Int[np.ndarray, "n"], most: int, rng: np.random.Generator) -> Pairs:
    """Pairs within a label, every such pair with the same chance; all of them where there are no more than `most`."""
    order = np.argsort(labels, kind="stable")
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    first, sizes = first[sizes > 1], sizes[sizes > 1]
    counts = sizes * (sizes - 1) // 2
    if counts.sum() <= most:
        groups = [a + np.stack(np.triu_indices(n, 1), axis=1) for a, n in zip(first, sizes, strict=True)]
        return order[np.concatenate(groups)] if groups else np.zeros((0, 2), dtype=np.int64)
    group = rng.choice(len(sizes), size=2 * most, p=counts / counts.sum())
    one = rng.integers(sizes[group])
    two = (one + 1 + rng.integers(sizes[group] - 1)) % sizes[group]
    return unlike(np.stack([order[first[group] + one], order[first[group] + two]], axis=1), most)


def drawn_different(labels: Int[np.ndarray, "n"], most: int, rng: np.random.Generator) -> Pairs:
    """Pairs across labels; fewer than `most` where few items are of another label than the rest."""
    found = np.zeros((0, 2), dtype=np.int64)
    for _ in range(64):
        some = rng.integers(len(labels), size=(2 * most, 2))
        found = unlike(np.concatenate([found, some[labels[some[:, 0]] != labels[some[:, 1]]]]), most)
        if len(found) == most:
            break
    return found


def unlike(pairs: Pairs, most: int) -> Pairs:
    """The first `most` pairs, each once, the lower item first."""
    ordered = np.sort(pairs, axis=1)
    _, first = np.unique(ordered, axis=0, return_index=True)
    return ordered[np.sort(first)[:most]]


def identities_of(pairs: Pairs, same: Same, items: int) -> Int[np.ndarray, "items"]:
    """An identity for each of `items` items: those that same pairs join, directly or through others, have one.

    Raises UserError where a pair that is said to differ lies within one.
    """
    from scipy.sparse import coo_matrix  # comes with scikit-learn
    from scipy.sparse.csgraph import connected_components

    one, two = pairs[same].T
    links = coo_matrix((np.ones(len(one), dtype=np.int8), (one, two)), shape=(items, items))
    _, identities = connected_components(links, directed=False)
    odd = np.flatnonzero(~same & (identities[pairs[:, 0]] == identities[pairs[:, 1]]))
    if len(odd):
        raise UserError(
            f"{len(odd)} of {len(pairs)} pairs are said to differ, though other pairs make both items one: the first "
            f"is pair {odd[0] + 1}. Correct the list."
        )
    return identities.astype(np.int64)


def sides_of(identities: Int[np.ndarray, "n"], share: float, seed: int) -> Bool[np.ndarray, "n"]:
    """Whether each item belongs to the development part: whole identities, in an order drawn by the seed.

    Identities go there until it has `share` of the items; at least two go to either part, so that both have pairs that
    differ. Raises UserError where there are fewer than four.
    """
    _, numbers, sizes = np.unique(identities, return_inverse=True, return_counts=True)
    if len(sizes) < 4:
        raise UserError(
            f"{len(sizes)} identities: at least four are needed, two to choose the threshold on and two others to "
            "measure it on."
        )
    order = np.random.default_rng(mixed(seed, 22)).permutation(len(sizes))
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    count = int(np.clip(np.count_nonzero(middles < share * sizes.sum()), 2, len(sizes) - 2))
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[order[:count]] = True
    return chosen[numbers]


def check(scores: Scores, same: Same) -> None:
    if len(scores) != len(same):
        raise UserError(f"{len(scores)} scores for {len(same)} pairs; give one a pair.")
    if same.all() or not same.any():
        kind = "the same" if len(same) and same.all() else "different"
        raise UserError(f"all {len(same)} pairs are {kind}: rates need pairs of both kinds.")
    if not np.isfinite(scores).all():
        raise UserError("some scores are no finite numbers, so they are in no order.")
