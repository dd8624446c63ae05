"""How well masks agree: overlap of classes from one confusion matrix, and distances between their borders.

IoU = |A and B| / |A or B|, Dice = 2 |A and B| / (|A| + |B|) = 2 IoU / (1 + IoU).
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from selfsame.downstream.masks import IGNORED, Classes
from selfsame.downstream.task import Scores
from selfsame.errors import UserError


class Overlap(Scores):
    """Scores of masks [h w] of class numbers, in the pictures' own pixels; IGNORED pixels of the truth do not count.

    All pixels of all pictures go into one confusion matrix: a score is of the whole set, no mean over pictures. Means
    over classes are over those that the truth or the prediction holds. With `pictures`, scores of each picture too,
    averaged over the pictures: see `of_picture`.
    """

    def __init__(self, facts: Classes, pictures: bool = False) -> None:
        self.classes = facts.classes
        self.pictures = pictures
        self.matrix = np.zeros((len(facts.classes),) * 2, np.int64)
        self.cases: list[dict[str, float]] = []

    def add(self, prediction: Shaped[np.ndarray, "h w"], truth: Shaped[np.ndarray, "h w"]) -> None:
        prediction, truth = np.asarray(prediction), np.asarray(truth)
        if prediction.shape != truth.shape:
            raise ValueError(f"a prediction of {prediction.shape} pixels for a mask of {truth.shape}")
        self.matrix += confusion(prediction, truth, len(self.classes))
        if self.pictures:
            self.cases.append(of_picture(prediction, truth, len(self.classes)))

    def found(self) -> dict[str, float]:
        """mIoU, Dice (mean over classes), pixel and mean accuracy (recall), IoU weighted by frequency, IoU by class.

        By class for those that the truth holds. Of two classes also the Dice of the second. Shares in [0, 1]; distances
        in pixels.
        """
        if not self.matrix.sum():
            raise UserError("no pixel with a class to score: all are ignored. Look at the masks.")
        scores = of_matrix(self.matrix)
        if len(self.classes) == 2:
            scores[f"Dice of {self.classes[1]}"] = dice_of(self.matrix)[1]
        iou, there = iou_of(self.matrix), self.matrix.sum(axis=1) > 0
        scores |= {f"IoU of {name}": float(iou[k]) for k, name in enumerate(self.classes) if there[k]}
        for name in ("Dice", "HD95", "ASSD") if self.pictures else ():
            values = [case[name] for case in self.cases if name in case]
            if values:
                scores[f"{name} per picture"] = float(np.mean(values))
                scores[f"{name} per picture, std"] = float(np.std(values))
        return scores


def confusion(prediction: np.ndarray, truth: np.ndarray, classes: int) -> Int[np.ndarray, "k k"]:
    """Pixels by class of the truth (rows) and of the prediction (columns)."""
    counted = truth != IGNORED
    pairs = truth[counted].astype(np.int64) * classes + prediction[counted].astype(np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def iou_of(matrix: Int[np.ndarray, "k k"]) -> Float[np.ndarray, "k"]:
    """NaN for a class that neither the truth nor the prediction holds."""
    hits, whole = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return np.where(whole > 0, hits / np.maximum(whole, 1), np.nan)


def dice_of(matrix: Int[np.ndarray, "k k"]) -> Any:
    both = matrix.sum(0) + matrix.sum(1)
    return np.where(both > 0, 2 * np.diag(matrix) / np.maximum(both, 1), np.nan)


def of_matrix(matrix: Int[np.ndarray, "k k"]) -> dict[str, float]:
    iou, dice, total = iou_of(matrix), dice_of(matrix), matrix.sum()
    there = matrix.sum(1) > 0
    return {
        "mIoU": float(np.nanmean(iou)),
        "Dice": float(np.nanmean(dice)),
        "pixel accuracy": float(np.diag(matrix).sum() / total),
        "mean accuracy": float((np.diag(matrix)[there] / matrix.sum(1)[there]).mean()),
        "frequency-weighted IoU": float((matrix.sum(1)[there] / total * iou[there]).sum()),
    }


# Of each picture -----------------------------------------------------------------------------------------------------


def of_picture(prediction: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, float]:
    """Dice, HD95 and ASSD of one picture: means over the classes but the first, which is the ground.

    A class that neither holds is left out of the means; where no class is left, Dice is 1 and there are no distances.
    Where only one of the two holds a class, its distances are the picture's diagonal.
    """
    prediction = np.where(truth == IGNORED, 0, prediction)
    truth = np.where(truth == IGNORED, 0, truth)
    dice, worst, mean = [], [], []
    for k in range(1, classes):
        one, other = prediction == k, truth == k
        if not (one.any() or other.any()):
            continue
        dice.append(2 * (one & other).sum() / (one.sum() + other.sum()))
        if one.any() and other.any():
            far, near = border_distances(one, other)
        else:
            far = near = float(np.hypot(*truth.shape))
        worst.append(far)
        mean.append(near)
    if not dice:
        return {"Dice": 1.0}
    return {"Dice": float(np.mean(dice)), "HD95": float(np.mean(worst)), "ASSD": float(np.mean(mean))}


def border_distances(one: Bool[np.ndarray, "h w"], other: Bool[np.ndarray, "h w"]) -> tuple[float, float]:
    """HD95 and ASSD of two regions, neither empty, in pixels.

    HD95 is the greater of the two directed 95th percentiles of the distances from each border pixel to the other
    border (as MONAI has it, not the percentile of both pooled); ASSD the mean of all these distances, both ways. Border
    pixels are those of the region with one of their four neighbours outside of it; beyond the picture is outside.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt

    edges = [region & ~binary_erosion(region) for region in (one, other)]
    there = distance_transform_edt(~edges[1])[edges[0]]
    back = distance_transform_edt(~edges[0])[edges[1]]
    far = max(float(np.percentile(there, 95)), float(np.percentile(back, 95)))
    return far, float((there.sum() + back.sum()) / (len(there) + len(back)))
