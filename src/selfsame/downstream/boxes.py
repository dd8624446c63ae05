"""Boxes of objects in pictures: what is known of them and what is found, cut to the picture, cut to a view.

Everywhere (left, top, right, bottom) in pixels, pixel i covers i to i + 1: a box of one pixel has area 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from selfsame.downstream.pictures import Frame
from selfsame.errors import UserError

FEW_BAD = 0.1  # share of boxes without area or outside of their picture that is left out; with more, nothing is read
VISIBLE = 0.5  # share of a box that a training view must show, where it does not show the middle of the box
SHARE, FROM = (-0.1, 1.1), 16  # coordinates that are all in SHARE are hardly pixels in pictures of FROM pixels and more
THIN, LARGE = 2, 100  # pixels: nor are sides below THIN of all boxes in pictures of LARGE and more
COUNTED, CROWD, DIFFICULT = 0, 1, 2  # CROWD: many objects in one box, COCO's iscrowd; DIFFICULT: of VOC


@dataclass(frozen=True)
class Truth:
    """The boxes of a picture, in any order; none in a picture that shows no object."""

    xyxy: Float[np.ndarray, "n 4"]
    classes: Int[np.ndarray, "n"]
    """numbers into the names of the classes"""
    standing: Int[np.ndarray, "n"]
    """COUNTED, CROWD or DIFFICULT; those of the last two are neither learned nor scored: what lies there is no error"""
    areas: Float[np.ndarray, "n"]
    """by which small, medium and large are told: of the outlines where the labels say so, else of the boxes"""
    size: tuple[int, int] | None = None
    """height and width of the picture where the labels say so; `shares` are of these, whatever they are"""
    shares: bool = False
    """whether `xyxy` and `areas` are shares of the picture, as in YOLO's files"""

    def __len__(self) -> int:
        return len(self.xyxy)

    def sized(self, height: int, width: int) -> "Truth":
        """In pixels of a picture of this size."""
        if not self.shares:
            return replace(self, size=(height, width))
        scale = np.array([width, height, width, height])
        return Truth(self.xyxy * scale, self.classes, self.standing, self.areas * width * height, size=(height, width))

    def shared(self, height: int, width: int) -> "Truth":
        """In shares of a picture of this size."""
        if self.shares:
            return self
        scale = np.array([width, height, width, height])
        return Truth(
            self.xyxy / scale, self.classes, self.standing, self.areas / (width * height), (height, width), shares=True
        )

    def some(self, which: np.ndarray) -> "Truth":
        """Those boxes that a mask or numbers name."""
        return replace(
            self,
            xyxy=self.xyxy[which],
            classes=self.classes[which],
            standing=self.standing[which],
            areas=self.areas[which],
        )

    @classmethod
    def of(
        cls,
        xyxy: Sequence[Sequence[float]] | np.ndarray,
        classes: Sequence[int] | np.ndarray,
        standing: Sequence[int] | None = None,
        areas: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
        shares: bool = False,
    ) -> "Truth":
        """From plain lists; areas are those of the boxes where none are given."""
        boxes = np.asarray(xyxy, dtype=np.float64).reshape(-1, 4)
        return cls(
            boxes,
            np.asarray(classes, dtype=np.int64).reshape(-1),
            np.zeros(len(boxes), np.int64) if standing is None else np.asarray(standing, dtype=np.int64),
            areas_of(boxes) if areas is None else np.asarray(areas, dtype=np.float64),
            size,
            shares,
        )


@dataclass(frozen=True)
class Detections:
    """Boxes that were found in a picture or a view of `size` (height, width), best score first."""

    xyxy: Float[np.ndarray, "n 4"]
    classes: Int[np.ndarray, "n"]
    scores: Float[np.ndarray, "n"]
    """in [0, 1]"""
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.xyxy)

    def back(self, height: int, width: int) -> "Detections":
        """Those of the view of a whole picture, in the pixels of the picture."""
        whole = Frame.whole(height, width, self.size[0])
        boxes = clipped(whole.boxes_back(self.xyxy.reshape(-1, 4)), height, width)
        return Detections(boxes, self.classes, self.scores, (height, width))

    def above(self, score: float) -> "Detections":
        keep = self.scores >= score
        return replace(self, xyxy=self.xyxy[keep], classes=self.classes[keep], scores=self.scores[keep])


def areas_of(xyxy: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
    return (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])


def clipped(xyxy: Float[np.ndarray, "n 4"], height: float, width: float) -> Float[np.ndarray, "n 4"]:
    """What of boxes lies in a picture."""
    return np.clip(xyxy, 0, np.array([width, height, width, height], dtype=np.float64))


def overlaps(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Intersection over union of each with each."""
    corners = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (corners[1] - corners[0]).clip(min=0).prod(axis=2)
    return shared / np.maximum(areas_of(a)[:, None] + areas_of(b)[None] - shared, 1e-12)


def refuse_shares(
    path: object,
    numbers: Float[np.ndarray, "n d"],
    sizes: Sequence[tuple[int, int]],
    what: str,
    wanted: str,
    sides: Float[np.ndarray, "n 2"] | None = None,
) -> None:
    """Raise UserError where coordinates that should be pixels can hardly be any, but shares of the picture.

    `numbers` are those of all pictures, as the file has them; `sizes` height and width of its pictures; `sides` width
    and height of boxes; `wanted` what should be there and what takes shares, for the error.
    """
    if not len(numbers) or not sizes:
        return
    height, width = sorted(sizes, key=max)[len(sizes) // 2]
    if max(height, width) >= FROM and SHARE[0] <= numbers.min() and numbers.max() <= SHARE[1] and numbers.any():
        seen = f"the coordinates of all {len(numbers):,} {what} lie from {numbers.min():.3g} to {numbers.max():.3g}"
    elif sides is not None and max(height, width) >= LARGE and sides.min() >= 0 and sides.max() < THIN:
        seen = f"none of all {len(numbers):,} {what} is wider or higher than {sides.max():.3g}"
    else:
        return
    raise UserError(f"{path}: {seen}, in pictures of about {width} x {height} pixels: they look like shares. {wanted}")


class Mended:
    """Boxes as labels have them, brought into their pictures; what was wrong is noted.

    A box that reaches over the edge is cut there. One without area, or wholly outside, is left out: of FEW_BAD of all
    boxes that is a slip of the pen, of more a sign that the numbers mean something else.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.boxes, self.cut = 0, 0
        self.bad: list[str] = []
        """where each box that was left out is, and why"""

    def truth(
        self, raw: Truth, height: float, width: float, place: str, written: Float[np.ndarray, "n 4"] | None = None
    ) -> Truth:
        """Those of the boxes that can be used; `written` are their edges as the file has them, where that differs."""
        boxes = raw.xyxy
        told = boxes if written is None else written
        inside = clipped(boxes, height, width)
        flat = np.asarray((told[:, 2:] <= told[:, :2]).any(axis=1))
        outside = np.asarray((inside[:, 2:] <= inside[:, :2]).any(axis=1)) & ~flat
        for k in np.flatnonzero(flat | outside).tolist():
            spelt = ", ".join(f"{number:g}" for number in told[k])
            self.bad.append(f"{place} ({'outside of the picture' if outside[k] else 'no area'}: {spelt})")
        slack = 1 if height > 1 else 0.01  # a pixel, or a hundredth of a picture, is rounding
        self.cut += int(((np.abs(inside - boxes).max(axis=1, initial=0) > slack) & ~flat & ~outside).sum())
        self.boxes += len(boxes)
        return replace(raw, xyxy=inside).some(~(flat | outside))

    def check(self) -> None:
        """Raise UserError where too many boxes cannot be used."""
        if len(self.bad) > FEW_BAD * self.boxes:
            shown = "; ".join(self.bad[:3]) + ("; ..." if len(self.bad) > 3 else "")
            raise UserError(
                f"{self.path}: {len(self.bad)} of {self.boxes} boxes have no area or lie outside of their picture: "
                f"{shown}. A few would be left out (up to {FEW_BAD:.0%}); so many mean that the numbers are of another "
                "form than this format's. Mend or remove them."
            )

    @property
    def summary(self) -> str:
        """What was left out or cut, in words; empty where nothing was."""
        parts = []
        if self.bad:
            count = f"{len(self.bad)} boxes are" if len(self.bad) > 1 else "1 box is"
            parts.append(f"{count} left out: {'; '.join(self.bad[:3])}{'; ...' if len(self.bad) > 3 else ''}")
        if self.cut:
            parts.append(f"{self.cut} that {'reach' if self.cut > 1 else 'reaches'} over the edge of the picture cut")
        return "; ".join(parts)


def target_of(truth: Truth, frame: Frame, most: int) -> Float[np.ndarray, "m 5"]:
    """The boxes that a training view shows, in its pixels, each with its class; rows of class -1 fill up to `most`.

    Kept are boxes whose middle is in the view or of which it shows VISIBLE; they are cut to the view, and those of
    which less than a pixel is left are dropped. Boxes that are not counted are not learned.
    """
    counted = truth.some(truth.standing == COUNTED)
    moved = frame.boxes(counted.xyxy)
    inside = clipped(moved, frame.size, frame.size)
    middle = (moved[:, :2] + moved[:, 2:]) / 2
    seen = ((middle > 0) & (middle < frame.size)).all(axis=1)
    seen |= areas_of(inside) * (inside[:, 2:] > inside[:, :2]).all(axis=1) >= VISIBLE * areas_of(moved)
    seen &= (inside[:, 2:] - inside[:, :2] >= 1).all(axis=1)
    rows = np.full((most, 5), -1, dtype=np.float32)
    rows[: seen.sum()] = np.concatenate([inside[seen], counted.classes[seen, None]], axis=1)
    return rows
