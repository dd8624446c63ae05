"""Retrieval and copy detection: how well scores bring what belongs to a query, or a copy, before all else.

Source: the definitions of trec_eval and torchmetrics; micro-AP of the Image Similarity Challenge, Douze et al. 2021,
arXiv 2106.09672, section 4, with its pessimistic order of equal scores; the trapezoid rule of Holidays and Oxford.
Two measures are called R@k elsewhere; here `hit_at` asks for one of the first k, `recall_at` for the share found in k.
Raises: UserError where nothing is relevant, or shapes do not fit.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from selfsame.errors import UserError

__all__ = [
    "average_precision",
    "hit_at",
    "ideal_gain",
    "mean_average_precision",
    "micro_average_precision",
    "precision_at",
    "r_precision",
    "recall_at",
    "recall_at_precision",
    "trapezoid_precision",
]

ALL = 2**62  # as k: without a cut


def average_precision(relevant: Bool[Tensor, "n"], total: int | None = None, k: int = ALL) -> float:
    """Mean over all that is relevant of the precision where it stands; what is not found counts 0. In [0, 1].

    Args:
        relevant: of a ranking, best first.
        total: how much is relevant in the database; what the ranking holds if not given.
        k: only the first k count, and at most k are expected.
    """
    total = _total(relevant, total)
    places = _places(relevant, k)
    return float(((torch.arange(len(places)) + 1) / (places + 1)).sum() / min(total, k))


def trapezoid_precision(relevant: Bool[Tensor, "n"], total: int | None = None) -> float:
    """Area under precision over recall by trapezoids, as Holidays, Copydays and Oxford count. In [0, 1]."""
    total = _total(relevant, total)
    places = _places(relevant, ALL)
    found = torch.arange(len(places), dtype=torch.float64)
    before = torch.where(places > 0, found / places.clamp(min=1), 1.0)
    return float(((before + (found + 1) / (places + 1)) / 2).sum() / total)


def hit_at(relevant: Bool[Tensor, "n"], k: int) -> float:
    """1 where one of the first k is relevant, else 0."""
    return float(relevant[:k].any())


def recall_at(relevant: Bool[Tensor, "n"], k: int, total: int | None = None) -> float:
    """Share of all that is relevant among the first k."""
    return float(relevant[:k].sum()) / _total(relevant, total)


def precision_at(relevant: Bool[Tensor, "n"], k: int) -> float:
    """Share of the first k that is relevant; places that a short ranking leaves empty are not."""
    return float(relevant[:k].sum()) / k


def r_precision(relevant: Bool[Tensor, "n"], total: int | None = None) -> float:
    """Precision of as many as there are relevant."""
    return precision_at(relevant, _total(relevant, total))


def ideal_gain(relevant: Bool[Tensor, "n"], k: int, total: int | None = None) -> float:
    """nDCG@k of binary relevance: gains fall with the logarithm of the place; 1 where all relevant ones come first."""
    total = _total(relevant, total)
    gains = 1 / torch.log2(torch.arange(max(k, 1), dtype=torch.float64) + 2)
    return float(gains[: len(relevant[:k])][relevant[:k]].sum() / gains[: min(total, k)].sum())


def mean_average_precision(
    scores: Float[Tensor, "q n"], relevant: Bool[Tensor, "q n"], left_out: Int[Tensor, "q"] | None = None
) -> tuple[float, float]:
    """(mAP, hit@1) over queries; of equal scores those that are not relevant come first.

    Args:
        scores: of each query with each item of the database; higher is more alike.
        relevant: what belongs to it. Queries to which nothing belongs are left out of the means.
        left_out: of each query the item that it is itself, which is not among its results.
    """
    if scores.shape != relevant.shape:
        raise UserError(f"scores of shape {list(scores.shape)}, relevant of {list(relevant.shape)}; give one for each.")
    precisions, hits = [], []
    for row in range(len(scores)):
        keep = torch.ones(scores.shape[1], dtype=torch.bool)
        if left_out is not None:
            keep[left_out[row]] = False
        ranking = relevant[row][keep][_ranked(scores[row][keep], relevant[row][keep])]
        if ranking.any():
            precisions.append(average_precision(ranking))
            hits.append(hit_at(ranking, 1))
    if not precisions:
        raise UserError("to none of the queries does anything belong; there is nothing to find.")
    return sum(precisions) / len(precisions), sum(hits) / len(hits)


def micro_average_precision(scores: Float[Tensor, "n"], relevant: Bool[Tensor, "n"], total: int | None = None) -> float:
    """AP of the pairs of all queries in one ranking: scores must mean the same for each query. In [0, 1].

    Args:
        scores: of the pairs that are predicted, at most the 500,000 best in the challenge.
        relevant: which of them are true.
        total: all true pairs, predicted or not; those that are predicted if not given.
    """
    return average_precision(relevant[_ranked(scores, relevant)], total)


def recall_at_precision(
    scores: Float[Tensor, "n"], relevant: Bool[Tensor, "n"], precision: float, total: int | None = None
) -> tuple[float, float]:
    """(the largest share of all true pairs found at this precision or a better one, the threshold that gives it).

    A threshold takes all pairs of a score or none. (0, infinity) where no threshold is precise enough.
    """
    total = _total(relevant, total)
    if not len(scores):
        return 0.0, math.inf
    order = scores.argsort(descending=True, stable=True)
    ranked, found = scores[order].double(), relevant[order].cumsum(0).double()
    last = torch.ones(len(ranked), dtype=torch.bool)
    last[:-1] = ranked[1:] < ranked[:-1]  # of equal scores
    precise = last & (found / (torch.arange(len(ranked)) + 1) >= precision)
    if not precise.any():
        return 0.0, math.inf
    at = int(precise.nonzero()[-1])
    return float(found[at] / total), float(ranked[at])


def _ranked(scores: Tensor, relevant: Tensor) -> Tensor:
    """Best first; of equal scores those that are not relevant. NaN is no score and comes last."""
    scores = scores.double().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    wrong_first = relevant.long().argsort(stable=True)
    return wrong_first[scores[wrong_first].argsort(descending=True, stable=True)]


def _places(relevant: Tensor, k: int) -> Float[Tensor, "r"]:
    return relevant[:k].nonzero().flatten().double()


def _total(relevant: Tensor, total: int | None) -> int:
    found = int(relevant.sum())
    total = found if total is None else total
    if total < max(1, found):
        raise UserError(f"{found} relevant items in a ranking, {total} in all: at least one must be, and no fewer.")
    return total
