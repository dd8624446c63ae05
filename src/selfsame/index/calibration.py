"""A threshold from the user's own data: from how alike different items are, at a stated rate of false alarms.

Source: the operating point of biometric verification, ISO/IEC 19795-1: of scores of different items, the least
threshold that accepts no larger share than the false-accept rate. Rates too small to be counted are extrapolated by an
exponential tail (peaks over threshold, Pickands 1975, with shape 0).
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
DECADE = 10  # how far apart the two rates lie from which smaller ones are extrapolated
SPARED = 100  # items to one false pair, where no rate is given


@dataclass(frozen=True)
class Threshold:
    """A cosine from which on two items are called the same."""

    value: float
    far: float
    """false-accept rate: of pairs of different items, the share that reaches it"""
    compared: int
    """pairs it was found on"""
    accepted: int
    """of these, how many reach it; beyond `far` times `compared` they are copies that were not known"""
    extrapolated: bool
    """whether it lies beyond what could be measured among unknown copies"""


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

    Some items are compared with all others, or with as many as it takes. The highest of these cosines may be those of
    unknown copies, which would lift the threshold above all copies. There cannot be many of them beside all pairs: so
    rates below 2 / n, one partner for each item, are extrapolated from those above, where copies hardly count. If the
    threshold that was counted is lower, that one is taken.

    Args:
        vectors: of unit length, a row an item. far: false-accept rate, above 0.

    Raises UserError where there is no pair.
    """
    n, rng = len(vectors), np.random.default_rng(seed)
    if n < 2:
        raise UserError(f"{n} item{'s' if n != 1 else ''}: a threshold needs pairs of different items.")
    order = rng.permutation(n)
    asked = order[:ASKED]
    others = order[: max(ASKED, min(n, math.ceil(ENOUGH / far / len(asked))))]
    compared = len(asked) * len(others) - len(asked)
    low = min(0.5 / DECADE, 2 / n)  # one partner for each item
    wanted = math.ceil(max(far, DECADE * low) * compared) + 1
    queries = torch.from_numpy(vectors[asked]).to(on)
    top, some = np.zeros(0, np.float32), []
    for start in range(0, len(others), ROWS):
        cosines = queries @ torch.from_numpy(vectors[others[start : start + ROWS]]).to(on).T
        # `others` begins with those asked, in the same order: their cosines with themselves say nothing.
        cosines[start : start + cosines.shape[1]].fill_diagonal_(-2)
        some.append(cosines.flatten()[:: max(1, compared // 200_000)].cpu().numpy().copy())  # a view would keep all
        top = largest(np.concatenate([top, above(cosines, top, wanted)]), wanted)
    top = top[top > -1.5]
    value = threshold_at(top, far, compared)
    beyond = extrapolated(top, far, low, compared) if far < low else math.inf
    scores = np.concatenate(some)
    accepted = int((top >= min(value, beyond)).sum())
    return Threshold(min(value, beyond), far, compared, accepted, beyond < value), scores[scores > -1.5]


def extrapolated(top: Float[np.ndarray, "m"], far: float, low: float, total: int) -> float:
    """The threshold of a rate below `low`, from those of `low` and of ten times as much.

    Of Fisher's transform of a cosine the logarithm of the rate is taken as a line, which is an exponential tail: a
    normal one is lighter, so that of different items fewer will reach the threshold.
    """
    rates = (DECADE * low, low)
    near, far_off = (np.arctanh(np.clip(threshold_at(top, rate, total), -1 + 1e-7, 1 - 1e-7)) for rate in rates)
    return float(np.tanh(far_off + (far_off - near) * math.log(low / far) / math.log(DECADE)))


def above(cosines: Float[Tensor, "q n"], top: np.ndarray, count: int) -> np.ndarray:
    """Of these cosines those that can be among the `count` largest of all."""
    flat = cosines.flatten()
    if len(top) >= count:
        return flat[flat > float(top.min())].cpu().numpy()
    return flat.topk(min(count, len(flat))).values.cpu().numpy()


def largest(values: np.ndarray, count: int) -> np.ndarray:
    return values if len(values) <= count else np.partition(values, len(values) - count)[-count:]
