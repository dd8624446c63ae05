"""Keypoints of objects: what is known of them, what is found, and how near the one is to the other.

Points are (x, y) in pixels of the picture, pixel i covers i to i + 1. Visibility as COCO has it: 0 not labelled, 1
hidden, 2 seen.

Sources: PCK, Yang and Ramanan 2013, TPAMI 35(12); OKS and its AP, https://cocodataset.org/#keypoints-eval, by
pycocotools, with its 17 constants of falloff.
"""

import contextlib
import importlib.util
import io
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from selfsame.downstream.task import Facts, Scores
from selfsame.engine.watch import counted
from selfsame.errors import UserError, missing

SIGMAS = {  # of OKS, Lin et al. 2017: how far people lie apart who label the same point, in roots of the object's area
    "nose": 0.026, "left_eye": 0.025, "right_eye": 0.025, "left_ear": 0.035, "right_ear": 0.035,
    "left_shoulder": 0.079, "right_shoulder": 0.079, "left_elbow": 0.072, "right_elbow": 0.072,
    "left_wrist": 0.062, "right_wrist": 0.062, "left_hip": 0.107, "right_hip": 0.107, "left_knee": 0.087,
    "right_knee": 0.087, "left_ankle": 0.089, "right_ankle": 0.089,
}  # fmt: skip
SIGMA = 0.05  # of every point of other skeletons, unless the user gives another: between COCO's for eyes and for elbows
DIAGONAL = 0.6  # of the box around the visible points: the reference of JHMDB, Jhuang et al. 2013
THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
Reference = Literal["box", "points"]


class Skeleton(Facts):
    """Which points an object has."""

    points: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    """numbers of points that change places in a mirror"""
    edges: tuple[tuple[int, int], ...] = ()
    """numbers of points between which a line is drawn"""
    boxed: bool
    """whether objects come with boxes, so that a view is one object; else it is the whole picture"""
    offset: float = 0.0
    """what was added to the coordinates of the labels: 0.5 where all were whole numbers, which count pixels"""
    category: str = "object"
    category_id: int = 1

    @property
    def summary(self) -> str:
        names = ", ".join(self.points[:6]) + (", ..." if len(self.points) > 6 else "")
        said = (
            f"{counted(len(self.pairs), 'pair')} change{'' if len(self.pairs) > 1 else 's'} places in a mirror"
            if self.pairs
            else "no pair known: no mirrored views"
        )
        return f"{len(self.points)} points ({names}) of {'objects in boxes' if self.boxed else 'pictures'}; {said}"


@dataclass(frozen=True)
class Pose:
    """What is known of an object."""

    xyv: Float[np.ndarray, "k 3"]
    """x, y, visibility"""
    xyxy: Float[np.ndarray, "4"]
    """left, top, right, bottom of its box, or of the picture"""
    area: float
    """of its outline where the labels say so, else of the box"""
    picture: str
    boxed: bool


@dataclass(frozen=True)
class Found:
    """The points that were found."""

    xy: Float[np.ndarray, "k 2"]
    scores: Float[np.ndarray, "k"]
    """of each point, in [0, 1]"""
    xyxy: Float[np.ndarray, "4"]
    """the box it was looked for in, or the picture"""
    picture: str
    score: float
    """of the whole: the mean of the points', times that of the box"""


# Pairs ---------------------------------------------------------------------------------------------------------------

SIDES = (("left", "right"), ("l", "r"))


def mirrored_name(name: str) -> str | None:
    """The name of the same point on the other side, in lower case; None where the name speaks of no side.

    Sides stand first or last: left*, right*, *_left, *_right, l_*, r_*, *_l, *_r, with "_", "-", "." or a space.
    """
    lower = name.lower()
    for one, other in (*SIDES, *((b, a) for a, b in SIDES)):
        rest = "(.*)" if len(one) > 1 else "((?:[_\\-. ].*)?)"
        if found := re.fullmatch(f"{one}{rest}", lower):
            return other + found.group(1)
        if found := re.fullmatch(f"(.*[_\\-. ]){one}", lower):
            return found.group(1) + other
    return None


def pairs_by_name(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Numbers of the points that are each other's mirror image, by their names; each pair once."""
    place = {name.lower(): k for k, name in enumerate(names)}
    found = ((k, place.get(mirrored_name(name) or "")) for k, name in enumerate(names))
    return tuple((k, other) for k, other in found if other is not None and k < other)


def pairs_given(told: Sequence[str], names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The pairs that a user names as one:other. Raises UserError."""
    pairs, used = [], set()
    for text in told:
        both = [part.strip() for part in text.split(":")]
        if len(both) != 2 or both[0] == both[1]:
            raise UserError(f"--task.pairs {text}: a pair is two names with a colon, as left_eye:right_eye.")
        for name in both:
            if name not in names:
                raise UserError(f"--task.pairs {text}: there is no point {name}. Points: {', '.join(names)}.")
            if name in used:
                raise UserError(f"--task.pairs {text}: {name} is in two pairs; a point has one mirror image.")
            used.add(name)
        pairs.append((names.index(both[0]), names.index(both[1])))
    return tuple(pairs)


def swapped(rows: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Rows of points, those of each pair exchanged: what a mirrored left eye is, is a right one."""
    order = np.arange(len(rows))
    for one, other in pairs:
        order[one], order[other] = other, one
    return rows[order]


# Scores --------------------------------------------------------------------------------------------------------------


def sigmas_of(names: Sequence[str], sigma: float | None = None) -> Float[np.ndarray, "k"]:
    """COCO's constants where all points are of its person and `sigma` is None, else one for all."""
    if sigma is None and all(name in SIGMAS for name in names):
        return np.array([SIGMAS[name] for name in names])
    return np.full(len(names), sigma or SIGMA)


def similarity(
    xy: Float[np.ndarray, "k 2"], xyv: Float[np.ndarray, "k 3"], area: float, sigmas: Float[np.ndarray, "k"]
) -> float:
    """OKS: the mean of exp(-d^2 / (2 area (2 sigma)^2)) over the points that are labelled."""
    known = xyv[:, 2] > 0
    d = ((xy - xyv[:, :2]) ** 2).sum(axis=1)
    return float(np.exp(-d / (2 * area * (2 * sigmas) ** 2))[known].mean())


def size_of(pose: Pose, reference: Reference) -> float:
    """What distances are compared with: the longer side of the box, or DIAGONAL of that of the labelled points."""
    if reference == "box":
        return float(max(pose.xyxy[2] - pose.xyxy[0], pose.xyxy[3] - pose.xyxy[1]))
    some = pose.xyv[pose.xyv[:, 2] > 0, :2]
    return float(DIAGONAL * np.linalg.norm(some.max(axis=0) - some.min(axis=0)))


def check_installed() -> None:
    if importlib.util.find_spec("pycocotools") is None:
        raise missing("detect", "pycocotools", "scoring keypoints of objects in boxes")


class PointScores(Scores):
    """PCK@alpha, the share of the labelled points (hidden ones too) that are found within alpha of the reference size;
    `error`, the mean distance in reference sizes; `PCK NAME` of each point; where objects have boxes OKS-AP, -AP50,
    -AP75, of medium (32 x 32 to 96 x 96 pixels) and large objects -APm and -APl, and `OKS`, its mean.

    Boxes are known here: OKS-AP says how good the points are, not how well objects are found. Objects without a
    labelled point are passed over.
    """

    def __init__(
        self, skeleton: Skeleton, alphas: Sequence[float] = (0.1, 0.2), reference: Reference = "box",
        sigma: float | None = None,
    ) -> None:  # fmt: skip
        self.skeleton, self.alphas, self.reference = skeleton, tuple(alphas), reference
        self.sigmas = sigmas_of(skeleton.points, sigma)
        self.seen: list[tuple[Found, Pose]] = []

    def add(self, prediction: Found, truth: Pose) -> None:
        if (truth.xyv[:, 2] > 0).any():
            self.seen.append((prediction, truth))

    def found(self) -> dict[str, float]:
        if not self.seen:
            raise UserError("no object with a labelled point to score. Give some that have.")
        shares: list[list[float]] = [[] for _ in self.skeleton.points]  # distance / size, by point
        for prediction, truth in self.seen:
            size = size_of(truth, self.reference)
            for k in np.flatnonzero(truth.xyv[:, 2] > 0).tolist():
                # A single point has no extent: only the place itself is then near.
                far = float(np.linalg.norm(prediction.xy[k].astype(np.float64) - truth.xyv[k, :2]))
                shares[k].append(far / size if size > 0 else (0.0 if far == 0 else float("inf")))
        every = [share for of_point in shares for share in of_point]
        scores = {f"PCK@{alpha:g}": statistics.fmean(share <= alpha for share in every) for alpha in self.alphas}
        finite = [share for share in every if np.isfinite(share)]
        scores["error"] = statistics.fmean(finite) if finite else 0.0
        if self.skeleton.boxed:
            scores |= self._precision()
        for name, of_point in zip(self.skeleton.points, shares, strict=True):
            if of_point:
                scores[f"PCK {name}"] = statistics.fmean(share <= self.alphas[0] for share in of_point)
        return scores

    def _precision(self) -> dict[str, float]:
        check_installed()
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        # Equal scores are ranked by the order of objects: it is made a function of what they hold.
        seen = sorted(self.seen, key=lambda one: (one[1].picture, *one[1].xyxy.tolist(), one[1].xyv.tobytes()))
        number = {name: k for k, name in enumerate(dict.fromkeys(truth.picture for _, truth in seen), 1)}
        known: list[dict[str, Any]] = []
        guessed: list[dict[str, Any]] = []
        for k, (prediction, truth) in enumerate(seen, 1):
            left, top, right, bottom = truth.xyxy.tolist()
            place = {"image_id": number[truth.picture], "category_id": 1}
            known.append({
                **place, "id": k, "bbox": [left, top, right - left, bottom - top], "area": truth.area, "iscrowd": 0,
                "keypoints": truth.xyv.ravel().tolist(), "num_keypoints": int((truth.xyv[:, 2] > 0).sum()),
            })  # fmt: skip
            rows = np.concatenate([prediction.xy, np.ones((len(prediction.xy), 1))], axis=1)
            guessed.append({**place, "keypoints": rows.ravel().tolist(), "score": prediction.score})
        most = max(20, *(sum(one["image_id"] == k for one in known) for k in number.values()))
        with contextlib.redirect_stdout(io.StringIO()):
            truth_of_all = COCO()
            images = [{"id": k} for k in number.values()]
            categories = [{"id": 1, "name": self.skeleton.category}]
            truth_of_all.dataset = {"info": {}, "images": images, "categories": categories, "annotations": known}
            truth_of_all.createIndex()
            judge = COCOeval(truth_of_all, truth_of_all.loadRes(guessed), "keypoints")
            judge.params.kpt_oks_sigmas = self.sigmas
            judge.params.maxDets = [most]
            judge.evaluate()
            judge.accumulate()
        precision = judge.eval["precision"][:, :, 0, :, 0]  # [thresholds, recalls, areas]
        parts = {
            "OKS-AP": precision[:, :, 0], "OKS-AP50": precision[0, :, 0], "OKS-AP75": precision[5, :, 0],
            "OKS-APm": precision[:, :, 1], "OKS-APl": precision[:, :, 2],
        }  # fmt: skip
        means = [similarity(found.xy, truth.xyv, truth.area, self.sigmas) for found, truth in seen]
        values = {name: part[part > -1] for name, part in parts.items()}
        return {
            **{name: float(part.mean()) for name, part in values.items() if part.size},
            "OKS": statistics.fmean(means),
        }
