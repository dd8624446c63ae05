"""Pairs of related items: another frame of the same recording, another viewpoint of the same thing.

Source: Aubret et al. 2022, "Time to augment self-supervised visual representation learning", arXiv 2207.13492, where
the positive is the next view of the same object; here any item of the same group that is near enough in time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

__all__ = ["Related", "Relations", "alternated"]


@dataclass
class Relations:
    """Which items of a source belong together."""

    groups: Int64[np.ndarray, "n"]  # of each item; -1 for one that belongs to none
    times: Float64[np.ndarray, "n"]  # of each item within its group
    window: float | None  # largest difference of times; None: the whole group
    summary: str  # for a person, as in: by folder, up to 3 apart in the order of names


class Related:
    """Chooses relatives among the items to learn from: held-out items are never one.

    A relative is of the same group, and if there is a window its time differs, by no more than the window. Any batch is
    answered at once, from the items in the order of groups and times.
    """

    def __init__(self, relations: Relations, items: Int64[np.ndarray, "n"]) -> None:
        self.items = items  # ascending
        groups, self.window = relations.groups[items], relations.window
        self.groups = np.where(groups < 0, groups.max(initial=0) + 1 + np.arange(len(items)), groups)
        self.times = relations.times[items]
        self.order = np.lexsort((self.times, self.groups))  # spot -> place
        self.spots = np.empty_like(self.order)
        self.spots[self.order] = np.arange(len(items))
        self.groups, self.times = self.groups[self.order], self.times[self.order]

    def alone(self) -> int:
        """How many items have no relative."""
        counts = (
            self.among(np.arange(k, min(k + 65536, len(self.order))))[0] for k in range(0, len(self.order), 65536)
        )
        return sum(int((count == 0).sum()) for count in counts)

    def partners(self, places: Int64[np.ndarray, "b"], chances: Float64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        """A relative of each item, by places among the items; each as likely, chosen by a number in [0, 1).

        An item without one is its own.
        """
        spots = self.spots[places]
        count, first, gap, length = self.among(spots)
        chosen = first + np.minimum((chances * count).astype(np.int64), count - 1)
        chosen += (chosen >= gap) * length
        return self.order[np.where(count > 0, chosen, spots)]

    def among(self, spots: Int64[np.ndarray, "b"]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """How many relatives; the spot where they begin; where the run begins that is left out, and its length."""
        group, time = self.groups[spots], self.times[spots]
        start, end = np.searchsorted(self.groups, group), np.searchsorted(self.groups, group, side="right")
        if self.window is None:
            return end - start - 1, start, spots, np.ones_like(spots)
        window = self.window * (1 + 1e-6)  # 0.3 - 0.2 is a little more than 0.1
        low, high = self.bound(start, end, time - window), self.bound(start, end, time + window, True)
        same, later = self.bound(start, end, time), self.bound(start, end, time, True)
        return high - low - (later - same), low, same, later - same

    def bound(self, start: np.ndarray, end: np.ndarray, time: np.ndarray, right: bool = False) -> np.ndarray:
        """Where in the spots start .. end a time would be put, left or right of its equals: a bisection of all rows."""
        low, high = start.copy(), end.copy()
        while (open_ := low < high).any():
            middle = (low + high) // 2
            here = self.times[np.minimum(middle, len(self.times) - 1)]
            before = here <= time if right else here < time
            low, high = np.where(open_ & before, middle + 1, low), np.where(open_ & ~before, middle, high)
        return low


def alternated(own: Sequence[Tensor], others: Sequence[Tensor], full: int, unpaired: Sequence[bool]) -> list[Tensor]:
    """The views of `own`, but every second of the first `full` of `others`, except in the rows that are unpaired."""
    alone = torch.tensor(unpaired)
    views = list(own)
    for k in range(1, full, 2):
        views[k] = others[k]
        if alone.any():
            rows = alone.reshape(-1, *[1] * (own[k].ndim - 1))
            views[k] = torch.where(rows, own[k], others[k])
    return views
