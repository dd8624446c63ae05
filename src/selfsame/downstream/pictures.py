"""Pictures with labels that lie in them: masks, boxes, points, depth. Picture and label are cut and mirrored together.

Views are squares: a picture that is not square is squeezed. The label is brought to the view by the same frame, and a
prediction back by its inverse, so that what is measured and written lies in the picture's own pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from PIL import Image
from pydantic import Field
from torch import Tensor

from selfsame import modalities
from selfsame.downstream.task import Attempt, Examples, Facts, Task, directly
from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.image.steps import crop_boxes
from selfsame.modalities.image.views import channels_first
from selfsame.records import ViewPlan
from selfsame.types import Draws, Encoder

CHANCES = 7  # numbers drawn for a picture: area, aspect, top, left, mirror, upside down, and one for the task


@dataclass(frozen=True)
class Frame:
    """What of a picture a view shows: a box of its pixels, squeezed to `size` x `size`, then mirrored."""

    top: int
    left: int
    height: int
    width: int
    size: int
    mirrored: bool = False
    upside_down: bool = False

    @classmethod
    def whole(cls, height: int, width: int, size: int) -> "Frame":
        return cls(0, 0, height, width, size)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the view for one of the picture, down and across."""
        return self.size / self.height, self.size / self.width

    def mirror(self, view: np.ndarray) -> np.ndarray:
        """An array [h w ...], mirrored as the frame says; the same call mirrors back."""
        return np.ascontiguousarray(view[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1])

    def nearest(self, label: Shaped[np.ndarray, "h w"], size: int | None = None) -> Shaped[np.ndarray, "s s"]:
        """A label of the whole picture as the view has it, each place by the pixel in its middle: nothing is mixed."""
        side = size or self.size
        rows = self.top + ((np.arange(side) + 0.5) * self.height / side).astype(np.int64)
        columns = self.left + ((np.arange(side) + 0.5) * self.width / side).astype(np.int64)
        return self.mirror(label[np.ix_(rows.clip(max=len(label) - 1), columns.clip(max=label.shape[1] - 1))])

    def points(self, xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Points (x, y) of the picture in the view; pixel i covers i to i + 1. Those outside of the box stay so."""
        down, across = self.scale
        moved = (xy - (self.left, self.top)) * (across, down)
        return self._mirrored(moved)

    def back(self, xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """The inverse of `points`."""
        down, across = self.scale
        return self._mirrored(np.asarray(xy, dtype=np.float64)) / (across, down) + (self.left, self.top)

    def boxes(self, xyxy: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
        """Boxes (left, top, right, bottom) of the picture in the view, not clipped."""
        return self._corners(xyxy, self.points)

    def boxes_back(self, xyxy: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
        """The inverse of `boxes`."""
        return self._corners(xyxy, self.back)

    def _mirrored(self, xy: np.ndarray) -> np.ndarray:
        x = self.size - xy[..., :1] if self.mirrored else xy[..., :1]
        y = self.size - xy[..., 1:] if self.upside_down else xy[..., 1:]
        return np.concatenate([x, y], axis=-1)

    @staticmethod
    def _corners(xyxy: np.ndarray, move: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        ends = np.stack([move(xyxy[:, :2]), move(xyxy[:, 2:])])
        return np.concatenate([ends.min(axis=0), ends.max(axis=0)], axis=1)


class PictureTask(Task):
    """A task whose labels lie in pictures."""

    kinds = ("image",)
    area: tuple[float, float] = (0.3, 1.0)
    """share of the picture that a training view shows, uniform"""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """width / height of that part beside the picture's own, log-uniform"""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """probability of a mirrored training view"""
    vertical_flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    """probability of a training view upside down, for pictures without an up, as under a microscope"""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.4
    """strength of the changes of brightness and contrast of training views; half of it for saturation"""

    def frame(self, chances: Sequence[float], height: int, width: int, size: int) -> Frame:
        """The frame of a training view, from CHANCES numbers in [0, 1)."""
        lower, upper = np.array(self.ratio) * width / height
        top, left, high, wide = crop_boxes(
            np.array([chances[:4]]), height, width, self.area, (float(lower), float(upper))
        )[0].tolist()
        return Frame(top, left, high, wide, size, chances[4] < self.flip, chances[5] < self.vertical_flip)


class PictureExamples(Examples):
    """Pictures of an image source, each with a label that a task reads by the name of the picture.

    `source` numbers pictures, `items` are those of it that have a label: example i is picture `items[i]`.
    """

    def __init__(
        self, task: PictureTask, source: Any, items: Sequence[int], facts: Facts, encoder: Encoder, labelled: bool
    ) -> None:
        self.task, self.source, self.items = task, source, list(items)
        self.facts, self.labelled = facts, labelled
        self.skipped: dict[int, str] = {}
        self.stats = modalities.load("image").Stats.model_validate(encoder.spec["stats"])

    def __len__(self) -> int:
        return len(self.items)

    def name(self, i: int) -> str:
        return self.source.name(self.items[i])

    def size_of(self, i: int) -> tuple[int, int]:
        """Height and width of a picture in pixels, upright. Raises UnreadableItem."""
        return self.source.open(self.items[i]).size

    def first_size(self) -> tuple[int, int]:
        """Height and width of the first picture that can be read. Raises UserError where none can."""
        for i in range(len(self)):
            try:
                return self.size_of(i)
            except UnreadableItem as error:
                self.skipped[i] = str(error)
        raise UserError(f"none of the {len(self)} pictures can be read: {next(iter(self.skipped.values()), 'none')}.")

    def target(self, i: int, frame: Frame, chance: float) -> list[np.ndarray]:
        """What is known of a picture, as its view has it: arrays whose shapes are the same for all pictures.

        `chance` is a number in [0, 1) for whatever else is random. Raises UnreadableItem.
        """
        raise NotImplementedError

    def frame_of(self, i: int, size: int, chances: Sequence[float], height: int, width: int, learn: bool) -> Frame:
        """The frame of a view; `chances` are CHANCES numbers."""
        return self.task.frame(chances, height, width, size) if learn else Frame.whole(height, width, size)

    def sample(
        self, items: Sequence[int], size: int, draws: Draws, learn: bool, attempt: Attempt = directly
    ) -> list[Tensor]:
        chances = draws.uniform(CHANCES).tolist() if learn else [[0.0] * CHANCES for _ in items]

        def read(i: int, row: int) -> tuple[np.ndarray, list[np.ndarray]]:
            picture = self.source.open(self.items[i])
            height, width = picture.size
            frame = self.frame_of(i, size, chances[row], height, width, learn)
            (pixels,) = picture.cut([(frame.top, frame.left, frame.height, frame.width)], size)
            return frame.mirror(np.asarray(pixels)), self.target(i, frame, chances[row][6]) if learn else []

        rows = [attempt(i, partial(read, row=row)) for row, i in enumerate(items)]
        targets = [torch.from_numpy(np.stack(parts)) for parts in zip(*(target for _, target in rows), strict=True)]
        return [channels_first(np.stack([pixels for pixels, _ in rows])), *targets]

    def make_views(self, samples: list[Tensor], draws: Draws, learn: bool) -> list[Tensor]:
        """Light and colour are changed here; place and mirror were in `sample`."""
        image: Any = modalities.load("image")
        size, s = samples[0].shape[-1], self.task.jitter
        views = image.recipe("weak", size, self.stats)
        plan = ViewPlan(full=1) if learn and s else ViewPlan(full=0, plain=1)
        if learn and s:
            only = {"flip": 0.0, "jitter": 0.8, "brightness": s, "contrast": s, "saturation": s / 2, "hue": 0.0}
            views = views.changed(one=views.one.changed(**only, gray=0.0, blur=0.0))
        return [image.make_views(samples[:1], plan, views, self.stats, draws)[0], *samples[1:]]

    def shown(self, i: int, side: int = 256) -> Image.Image:
        """The picture for a person to see, at most `side` pixels; a small one enlarged by whole pixels."""
        image: Any = modalities.load("image")
        shown: Image.Image = image.picture(self.source, self.items[i], side).convert("RGB")
        factor = max(1, side // max(shown.size))
        return shown.resize((shown.width * factor, shown.height * factor), Image.Resampling.NEAREST)


def enlarged(maps: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c g v"]:
    """Maps at another resolution, bilinear."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
