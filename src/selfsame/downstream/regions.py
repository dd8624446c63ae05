"""How well a mask that was carried through a film agrees with the truth: region J and contour F of DAVIS.

Source: Perazzi et al. 2016, CVPR, section 4, and the official davis2017-evaluation, whose numbers these are: J is
intersection over union, F the harmonic mean of precision and recall of the contours, where pixels of two contours meet
that lie at most 0.008 of the picture's diagonal apart. Means over frames, then over objects; the first frame is known
and the last is left out.
"""

import math
import statistics
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int

from selfsame.errors import UserError

NEAR = 0.008  # of the diagonal
VOID = 255  # value of pixels that count for nothing


def region(mask: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """J: intersection over union; 1 where both are empty."""
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def outline(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels that differ from the one to the right, below, or right below; as the official evaluation draws it."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    found = (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1])
    found[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return found


def widened(line: Bool[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    """All pixels at most `radius` from one of the line."""
    offsets = torch.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets[None] ** 2 <= radius**2).float()
    image = torch.from_numpy(line).float()[None, None]
    return (F.conv2d(image, disk[None, None], padding=radius)[0, 0] > 0.5).numpy()


def contour(mask: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], near: float = NEAR) -> float:
    """F: 2 P R / (P + R). 1 where neither has a contour, 0 where one has none.

    `near`: share of the diagonal, rounded up to pixels; from 1 on pixels.
    """
    radius = int(near if near >= 1 else math.ceil(near * math.hypot(*mask.shape)))
    mine, theirs = outline(mask), outline(truth)
    counts = np.count_nonzero(mine), np.count_nonzero(theirs)
    if 0 in counts:
        return float(counts[0] == counts[1])
    precision = np.count_nonzero(mine & widened(theirs, radius)) / counts[0]
    recall = np.count_nonzero(theirs & widened(mine, radius)) / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


class RegionScores:
    """J, F and J&F of the masks of a film, added frame by frame."""

    def __init__(self, objects: Sequence[int]) -> None:
        """`objects`: their values in the masks."""
        self.objects = list(objects)
        self.regions: dict[int, list[float]] = {k: [] for k in self.objects}
        self.contours: dict[int, list[float]] = {k: [] for k in self.objects}

    def add(self, mask: Int[np.ndarray, "h w"], truth: Int[np.ndarray, "h w"]) -> None:
        counts = truth != VOID
        for k in self.objects:
            mine, theirs = (mask == k) & counts, truth == k
            self.regions[k].append(region(mine, theirs))
            self.contours[k].append(contour(mine, theirs))

    def found(self) -> dict[str, float]:
        """J, F, J&F (their mean), and J and F of each of several objects. Raises UserError where none was added."""
        if not any(self.regions.values()):
            raise UserError("no frame behind the first has a truth to score. Give masks of the frames' names.")
        j = {k: statistics.fmean(values) for k, values in self.regions.items()}
        f = {k: statistics.fmean(values) for k, values in self.contours.items()}
        scores = {"J": statistics.fmean(j.values()), "F": statistics.fmean(f.values())}
        scores["J&F"] = (scores["J"] + scores["F"]) / 2
        if len(self.objects) > 1:
            scores |= {f"J {k}": j[k] for k in self.objects} | {f"F {k}": f[k] for k in self.objects}
        return scores
