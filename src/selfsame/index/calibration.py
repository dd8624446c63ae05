"""A threshold from the user's own data: from how alike different items are, at a stated rate of false alarms.

Source: the operating point of biometric verification, ISO/IEC 19795-1: of scores of different items, the least
threshold that accepts no larger share than the false-accept rate.
Raises: UserError where there are too few items to compare.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from selfsame.errors import UserError

__all__ = ["Threshold", "calibrated", "far_of", "threshold_at"]

ASKED = 2000  # items whose cosines with others are taken
ENOUGH = 1000  # false accepts: with more the rate is known to a few per cent, and no further pairs are compared
ROWS = 8192
SPARED = 100  # items to one false pair, where no rate is given


@dataclass(frozen=True)
class Threshold:
    """A cosine from which on two items are called the same."""

    value: float
    far: float
    """false-accept rate: of pairs of different items, the share that reaches it"""
    compared: int
    """pairs of different items it was found on"""
    accepted: int
    """of these, how many reach it"""


def far_of(items: int) -> float:
    """The rate at which one item in a hundred gets one false partner: 0.02 / (items - 1)."""
    return min(0.5, 2 / SPARED / max(1, items - 1))


def threshold_at(scores: Float[np.ndarray, "n"], far: float, total: int | None = None) -> float:
    """The least threshold that at most a share `far` of the scores of different items reaches.

    Args:
        scores: the largest of them are enough, if there are more than `far` times `total`.
        total: how many there are in all.
    """
    total = len(scores) if total is None else total
    allowed = math.floor(far * total + 1e-9)  # 0.1 of 30 is 3
    if allowed >= len(scores):
        return -math.inf if allowed >= total else float(np.min(scores))
    next_one = np.partition(scores, len(scores) - 1 - allowed)[len(scores) - 1 - allowed]
    return float(np.nextafter(next_one, next_one.dtype.type(np.inf)))


@torch.no_grad()
def calibrated(
    vectors: Float32[np.ndarray, "n d"], far: float, seed: int = 0, on: torch.device | str = "cpu"
) -> tuple[Threshold, Float32[np.ndarray, "m"]]:
    """The threshold of a false-accept rate among different items, and a sample of their cosines.

    Some items are compared with all others, or with as many as it takes. Copies among them count as different items:
    the threshold then is higher than it need be, never lower. Leave out those that are known.

    Args:
        vectors: of unit length, a row an item. far: false-accept rate, above 0.

    Raises UserError where no pair can be compared, or so few that none may be accepted.
    """
    n, rng = len(vectors), np.random.default_rng(seed)
    if n < 2:
        raise UserError(f"{n} items: a threshold needs pairs of different items.")
    order = rng.permutation(n)
    asked = order[:ASKED]
    others = order[: max(ASKED, min(n, math.ceil(ENOUGH / far / len(asked))))]
    compared = len(asked) * len(others) - len(asked)
    allowed = math.floor(far * compared)
    if allowed < 1:
        raise UserError(
            f"--far {far:g}: among {compared:,} pairs of these items no false one could be told from none. Give at "
            f"least {2 / compared:.1g}, or the threshold itself by --threshold."
        )
    queries = torch.from_numpy(vectors[asked]).to(on)
    top, some = np.zeros(0, np.float32), []
    for start in range(0, len(others), ROWS):
        cosines = queries @ torch.from_numpy(vectors[others[start : start + ROWS]]).to(on).T
        # `others` begins with those asked, in the same order: their cosines with themselves say nothing.
        cosines[start : start + cosines.shape[1]].fill_diagonal_(-2)
        some.append(cosines.flatten()[:: max(1, compared // 200_000)].cpu().numpy())
        top = largest(np.concatenate([top, above(cosines, top, allowed)]), allowed + 1)
    value = threshold_at(top, far, compared)
    scores = np.concatenate(some)
    return Threshold(value, far, compared, int((top >= value).sum())), scores[scores > -1.5]


def above(cosines: Float[Tensor, "q n"], top: np.ndarray, allowed: int) -> np.ndarray:
    """Of these cosines those that can be among the `allowed` + 1 largest of all."""
    flat = cosines.flatten()
    if len(top) > allowed:
        return flat[flat > float(top.min())].cpu().numpy()
    return flat.topk(min(allowed + 1, len(flat))).values.cpu().numpy()


def largest(values: np.ndarray, count: int) -> np.ndarray:
    return values if len(values) <= count else np.partition(values, len(values) - count)[-count:]
