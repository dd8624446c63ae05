"""Keypoints: where named points lie, of each object in its box, or of the whole picture.

Sources: heat maps and boxes enlarged by a quarter, Xiao et al. 2018 (SimpleBaseline), arXiv 1804.06208; cross-entropy
over places in place of the squared error, He et al. 2017 (Mask R-CNN), arXiv 1703.06870, section 5. Deviations: the
decoder of `decoders.MultiScale` in place of three transposed convolutions; views are not turned; a box is joined by
what lies around it up to a square, as far as the picture reaches, so that nothing is padded.

The squared error, the usual loss, needs long to leave the map of zeros. On 198 shapes of synthetic scenes (resnet10t,
random weights, one seed) PCK@0.1 was 0.97 after 50 steps with the cross-entropy; with the squared error it was 0.47
then, and 0.97 after 180.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from pydantic import Field
from torch import Tensor

from selfsame import modalities
from selfsame.downstream import heatmaps, pointfiles
from selfsame.downstream.decoders import LEAST_SIZE, MultiScale, roomy
from selfsame.downstream.pictures import Frame, PictureExamples, PictureTask, enlarged
from selfsame.downstream.points import (
    Found,
    PointScores,
    Pose,
    Reference,
    Skeleton,
    check_installed,
    pairs_by_name,
    pairs_given,
    swapped,
)
from selfsame.downstream.task import Examples, Head, Panel
from selfsame.engine.state import write_text
from selfsame.engine.watch import say
from selfsame.errors import UnreadableItem, UserError, unknown
from selfsame.nn.sync import mean_total
from selfsame.types import Encoder

MARGIN = 1.25  # side of what is shown of an object, for the longer side of its box
GROW, SHIFT = 0.25, 0.1  # of training views: sides in 1 +- GROW, moved by up to SHIFT of them
STRIDE = 4  # pixels of a view for a place of the heat maps, at most
COLOURS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#00a0a0", "#f032e6", "#9a6324", "#808000", "#0060ff",
)  # fmt: skip


class Keypoints(PictureTask):
    """Find named points: the joints of a person, the corners of a part."""

    needs: ClassVar = ("maps",)
    score: ClassVar = "PCK@0.1"
    worth: ClassVar = 6_000
    batch: ClassVar = 16
    parts: ClassVar = ("object", "objects")
    accepts: ClassVar = pointfiles.FORMS
    Facts: ClassVar = Skeleton

    area: tuple[float, float] = (0.6, 1.0)
    """share of the picture that a training view shows, uniform, where there are no boxes"""
    flip: Annotated[float | None, Field(ge=0, le=1)] = None  # type: ignore[assignment]
    """probability of a mirrored training view [0.5 where points that change places are known, else 0]"""
    pairs: tuple[str, ...] = ()
    """points that change places in a mirror, as left_eye:right_eye [found by left/right, l_/r_ in the names]"""
    category: str | None = None
    """the category of a COCO file whose points are meant, where several differ"""
    loss: Literal["cross-entropy", "mse"] = "cross-entropy"
    """cross-entropy: each point's place among all places of its map; mse: distance to a map with a Gaussian there"""
    decode: Literal["dark", "quarter", "mean"] = "dark"
    """between places: dark, the peak of a Gaussian fitted to the map; quarter, a quarter toward the greater neighbour;
    mean, the expectation over the map"""
    spread: Annotated[float | None, Field(gt=0)] = None
    """standard deviation of the Gaussians in places of the map [2; 1 of maps up to 24 a side]"""
    hidden: Annotated[float, Field(ge=0, le=1)] = 1.0
    """weight of points that are labelled but hidden, beside 1 of those seen"""
    alpha: Annotated[float, Field(gt=0)] = 0.1
    """share of the reference size within which a point is found"""
    reference: Reference = "box"
    """size that distances are compared with: the longer side of the box (or picture), or 0.6 of the diagonal of the
    labelled points"""
    sigma: Annotated[float | None, Field(gt=0)] = None
    """falloff of OKS for all points [those of COCO for its 17 points, else 0.05]"""

    def open(
        self, path: str, labels: str | None, encoder: Encoder, facts: Any = None, labelled: bool = True
    ) -> "Posed":
        image: Any = modalities.load("image")
        stats = image.Stats.model_validate(encoder.spec["stats"])
        if not labelled:
            way = modalities.reading_of(encoder.spec)
            source, objects = (
                pointfiles.boxes_at(path, way) if facts.boxed else (pointfiles.pictures_at(path, way)[0], None)
            )
            source.fit(stats)
            if objects is None:
                if facts.boxed:
                    say(f"{path}: no boxes of objects there: each whole picture is taken for one", "yellow")
                objects = [
                    pointfiles.Object(source.name(item), np.zeros((0, 3)), None, item=item)
                    for item in range(len(source))
                ]
            return Posed(self, source, objects, facts, encoder, False)
        found = pointfiles.point_set(path, labels, self.category)
        if found.notes:
            say(f"{path}: {'; '.join(found.notes)}", "yellow")
        boxed = found.objects[0].box is not None
        if boxed:
            check_installed()
        if facts is None:
            facts = Skeleton(
                points=found.names,
                pairs=pairs_given(self.pairs, found.names) if self.pairs else pairs_by_name(found.names),
                edges=found.edges,
                boxed=boxed,
                offset=found.offset,
                category=found.category,
                category_id=found.category_id,
            )
        fitted(found, facts, boxed, path)
        found.source.fit(stats)
        return Posed(self, found.source, found.objects, facts, encoder, True)

    def default_size(self, encoder: Encoder, examples: Examples) -> int:
        """The encoder's, at least 128 px where it takes any size and the objects are about as large."""
        assert isinstance(examples, Posed)
        if not examples.facts.boxed:
            return roomy(encoder, examples)
        size = int(encoder.spec["size"])
        sides = [max(one.box[2] - one.box[0], one.box[3] - one.box[1]) for one in examples.objects if one.box]
        usual = int(MARGIN * float(np.median(sides)))
        return max(size, min(LEAST_SIZE, -(-usual // 32) * 32)) if encoder.has_pieces else size

    def head(self, encoder: Encoder, facts: Skeleton, size: int) -> "HeatMaps":
        return HeatMaps(encoder, facts, size, self)

    def chosen_by(self, facts: Skeleton) -> str:
        return f"PCK@{self.alpha:g}"

    def scores(self, facts: Skeleton) -> PointScores:
        return PointScores(facts, (self.alpha, 2 * self.alpha), self.reference, self.sigma)

    def trivial(self, examples: Examples, items: Sequence[int]) -> Callable[[Examples, int], Found]:
        """Each point at the mean of its places in the boxes (or pictures) of these items."""
        assert isinstance(examples, Posed)
        count = len(examples.facts.points)
        total, times = np.zeros((count, 2)), np.zeros(count)
        for i in items:
            try:
                pose = examples.truth(i)
            except UnreadableItem as error:
                examples.skipped[i] = str(error)
                continue
            known = pose.xyv[:, 2] > 0
            total[known] += ((pose.xyv[:, :2] - pose.xyxy[:2]) / (pose.xyxy[2:] - pose.xyxy[:2]))[known]
            times += known
        shares = np.where(times[:, None] > 0, total / times.clip(min=1)[:, None], 0.5)
        often = times / max(1, times.max())

        def guess(others: Examples, i: int) -> Found:
            assert isinstance(others, Posed)
            xyxy = others.box_of(i)
            xy = xyxy[:2] + shares * (xyxy[2:] - xyxy[:2])
            return Found(xy, often, xyxy, others.objects[i].picture, others.objects[i].score)

        return guess

    def baseline(self, facts: Skeleton) -> str:
        return "mean places"

    def suffixes(self) -> tuple[str, ...]:
        return ".json", ".csv"

    def write(self, predictions: Iterable[tuple[str, Found]], facts: Skeleton, out: Path) -> list[Path]:
        """.json: COCO's keypoint results; .csv: a row an object: path, box, NAME_x, NAME_y, NAME_score.

        Coordinates are as those of the labels that were learned from. The image_id of COCO's results is the number
        that a picture is called by, else its name.
        """
        if out.suffix.lower() == ".json":
            write_text(out, json.dumps([result(one, facts) for _, one in predictions]) + "\n")
            return [out]
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        cells = [f"{name}_{axis}" for name in facts.points for axis in ("x", "y", "score")]
        rows.writerow(["path", *pointfiles.EDGES, "score", *cells])
        for _, one in predictions:
            values = [
                f"{value:.{digits}f}"
                for (x, y), score in zip(one.xy - facts.offset, one.scores, strict=True)
                for value, digits in ((x, 2), (y, 2), (score, 4))
            ]
            rows.writerow([one.picture, *(f"{edge:.2f}" for edge in one.xyxy), f"{one.score:.5f}", *values])
        write_text(out, text.getvalue())
        return [out]

    def picture(
        self, examples: Examples, i: int, prediction: Found, truth: Pose | None, side: int = 256
    ) -> list[Panel]:
        """The object with the known points (rings where hidden), and with those found."""
        assert isinstance(examples, Posed)
        frame = examples.whole(i, side)
        (pixels,) = examples.source.open(examples.items[i]).cut(
            [(frame.top, frame.left, frame.height, frame.width)], side
        )
        shown = as_shown(np.asarray(pixels))
        facts = examples.facts
        found = with_points(shown, frame.points(prediction.xy), np.full(len(prediction.xy), 2), facts)
        if truth is None:
            return [Panel(found, "found")]
        known = with_points(shown, frame.points(truth.xyv[:, :2]), truth.xyv[:, 2], facts)
        return [Panel(known, "known, rings where hidden" if (truth.xyv[:, 2] == 1).any() else "known"),
                Panel(found, "found")]  # fmt: skip

    def legend(self, facts: Skeleton) -> list[tuple[str, str]]:
        return [(name, COLOURS[k % len(COLOURS)]) for k, name in enumerate(facts.points)]


class Posed(PictureExamples):
    """Objects in pictures, each an example: `objects[i]` lies in picture `items[i]` of the source."""

    facts: Skeleton
    task: Keypoints

    def __init__(
        self,
        settings: Keypoints,
        source: Any,
        objects: Sequence[pointfiles.Object],
        facts: Skeleton,
        encoder: Encoder,
        labelled: bool,
    ) -> None:
        super().__init__(settings, source, [one.item for one in objects], facts, encoder, labelled)
        self.objects = list(objects)
        self.sizes: dict[int, tuple[int, int]] = {}
        self.places: dict[int, int] = {}
        counts: dict[int, int] = {}
        for i, one in enumerate(objects):
            self.places[i] = counts[one.item] = counts.get(one.item, 0) + 1
        self.several = {item for item, count in counts.items() if count > 1}

    def name(self, i: int) -> str:
        """The picture's name, and where it has several objects, which of them it is, from 1."""
        name = super().name(i)
        return f"{name}#{self.places[i]}" if self.items[i] in self.several else name

    def part_of(self, i: int) -> str:
        return super().name(i)

    def size_of(self, i: int) -> tuple[int, int]:
        if self.items[i] not in self.sizes:
            self.sizes[self.items[i]] = tuple(self.source.header(self.items[i])[:2])
        return self.sizes[self.items[i]]

    def box_of(self, i: int) -> Float[np.ndarray, "4"]:
        """Left, top, right, bottom of the object, or of the picture. Raises UnreadableItem."""
        box = self.objects[i].box
        height, width = self.size_of(i) if box is None else (0, 0)
        return np.array(box or (0, 0, width, height), dtype=np.float64)

    def whole(self, i: int, size: int, grow: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> Frame:
        """What a view shows of an object: its box enlarged to a square, within the picture; the picture without one."""
        height, width = self.size_of(i)
        box = self.objects[i].box
        if box is None:
            return Frame.whole(height, width, size)
        side = MARGIN * max(box[2] - box[0], box[3] - box[1]) * grow
        middle = (box[0] + box[2]) / 2 + shift[0] * side, (box[1] + box[3]) / 2 + shift[1] * side
        (left, across), (top, down) = (within(m, side, most) for m, most in zip(middle, (width, height), strict=True))
        return Frame(top, left, down, across, size)

    def frame_of(self, i: int, size: int, chances: Sequence[float], height: int, width: int, learn: bool) -> Frame:
        self.sizes[self.items[i]] = height, width
        if not learn:
            return self.whole(i, size)
        flip = (0.5 if self.facts.pairs else 0.0) if self.task.flip is None else self.task.flip
        if self.objects[i].box is None:
            frame = self.task.changed(flip=flip).frame(chances, height, width, size)
        else:
            one, two, three = (2 * chance - 1 for chance in chances[:3])
            frame = self.whole(i, size, 1 + GROW * one, (SHIFT * two, SHIFT * three))
        mirrored, turned = chances[4] < flip, chances[5] < self.task.vertical_flip
        return Frame(frame.top, frame.left, frame.height, frame.width, size, mirrored, turned)

    def target(self, i: int, frame: Frame, chance: float) -> list[np.ndarray]:
        """x, y in the view and the weight of each point: 0 where it is not labelled, or outside of the view."""
        xyv = self.objects[i].xyv
        moved = frame.points(xyv[:, :2])
        inside = ((moved >= 0) & (moved <= frame.size)).all(axis=1)
        weight = np.where(xyv[:, 2] == 1, self.task.hidden, xyv[:, 2] > 0) * inside
        rows = np.concatenate([moved, weight[:, None]], axis=1).astype(np.float32)
        # Upside down and mirrored is turned by half: nothing changes sides; either alone changes them.
        return [swapped(rows, self.facts.pairs) if frame.mirrored != frame.upside_down else rows]

    def truth(self, i: int) -> Pose:
        one, xyxy = self.objects[i], self.box_of(i)
        area = one.area or float((xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1]))
        return Pose(one.xyv, xyxy, area, one.picture, one.box is not None)

    def restored(self, i: int, prediction: tuple[np.ndarray, np.ndarray, int]) -> Found:
        """From (points in the view, their scores, size of the view) to pixels of the picture."""
        xy, scores, size = prediction
        one = self.objects[i]
        mean = float(scores.mean()) * one.score
        return Found(self.whole(i, size).back(xy), scores, self.box_of(i), one.picture, mean)


class HeatMaps(Head):
    """A map for each point, at least as fine as a place for STRIDE pixels.

    Learned by the squared difference to a Gaussian at the point, over all places, weighted by visibility; or by the
    cross-entropy of the map's softmax to that Gaussian, brought to a sum of 1.
    """

    gives: ClassVar = {
        "points": "float32 [b, k, 2]: x and y of each point in pixels of what is given; pixel i covers i to i + 1",
        "scores": "float32 [b, k], 0 to 1",
    }

    def __init__(self, encoder: Encoder, facts: Skeleton, size: int, task: Keypoints) -> None:
        super().__init__()
        self.decoder = MultiScale(encoder, size, len(facts.points))
        self.size = size
        self.finer = 1
        while self.decoder.trunk.strides[0] / self.finer > STRIDE:
            self.finer *= 2
        side = self.finer * round(size / self.decoder.trunk.strides[0])
        self.spread = task.spread or heatmaps.spread_for(side)
        self.kind, self.decode = task.loss, task.decode

    def forward(self, encoder: Encoder, views: Tensor) -> Float[Tensor, "b k g g"]:
        maps = self.decoder(encoder, views)
        return maps if self.finer == 1 else enlarged(maps, (self.finer * maps.shape[2], self.finer * maps.shape[3]))

    def loss(
        self, outputs: Float[Tensor, "b k g g"], targets: list[Float[Tensor, "b k 3"]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        points = targets[0]
        side = outputs.shape[-1]
        goal = heatmaps.gaussians(points[..., :2] * (side / self.size), side, self.spread)
        weight = points[..., 2]
        if self.kind == "mse":
            # In units of what a map of zeros would cost: the loss then says what is left, whatever the size.
            each = ((outputs - goal) ** 2).sum(dim=(2, 3)) / (torch.pi * self.spread**2)
        else:
            share = goal.flatten(2) / goal.sum(dim=(2, 3)).clamp_min(heatmaps.LEAST)[..., None]
            each = -(share * outputs.flatten(2).log_softmax(dim=2)).sum(dim=2)
        loss = (each * weight).sum() / mean_total(weight.sum()).clamp_min(1)
        return loss, {}

    def decoded(self, outputs: Float[Tensor, "b k g g"]) -> list[tuple[np.ndarray, np.ndarray, int]]:
        """(points [k 2] in pixels of the view, their scores [k], size of the view)"""
        xy, scores = self.located(outputs)
        places, shares = xy.double().cpu().numpy(), scores.double().cpu().numpy()
        return [(places[n], share, self.size) for n, share in enumerate(shares)]

    def located(self, outputs: Float[Tensor, "b k g g"]) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
        """Points in pixels of the view, and their scores."""
        b, k, side, _ = outputs.shape
        maps = outputs.reshape(b * k, side, side)
        if self.kind == "cross-entropy":  # as a map whose peak is 1 where it is as sharp as what was learned
            maps = maps.flatten(1).softmax(dim=1).view_as(maps) * (2 * torch.pi * self.spread**2)
        if self.decode == "dark":
            xy = heatmaps.dark(maps, self.spread)
        elif self.decode == "quarter":
            xy = heatmaps.quarter(maps)
        else:
            xy = heatmaps.expected(maps)
        scores = heatmaps.peaks(maps)[2].clamp(0, 1)
        return (xy * (self.size / side)).view(b, k, 2), scores.view(b, k)

    def portable(
        self, outputs: Float[Tensor, "b k g g"], height: int | None, width: int | None
    ) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
        assert height is not None and width is not None
        xy, scores = self.located(outputs)
        return torch.stack([xy[..., 0] * (width / self.size), xy[..., 1] * (height / self.size)], dim=2), scores

    def told(self) -> dict[str, Any]:
        return {"margin": MARGIN}


def within(middle: float, side: float, most: int) -> tuple[int, int]:
    """(start, length) of a stretch of `side` pixels about a middle, moved and if need be cut to lie in 0 .. most."""
    length = max(1, min(most, round(side)))
    return int(np.clip(round(middle - length / 2), 0, most - length)), length


def fitted(found: pointfiles.PointSet, facts: Skeleton, boxed: bool, path: str) -> None:
    """Bring the points into the order of the head. Raises UserError where it was made for others."""
    for name in found.names:
        if name not in facts.points:
            raise unknown("keypoint", name, facts.points, f"The labels of {path} have it, the head has not learned it.")
    gone = [name for name in facts.points if name not in found.names]
    if gone:
        raise UserError(f"{path}: its labels have no point {', '.join(gone[:5])}, which the head has learned.")
    if boxed != facts.boxed:
        here, there = ("objects in boxes", "whole pictures") if boxed else ("whole pictures", "objects in boxes")
        raise UserError(
            f"{path}: its labels are of {here}, the head has learned {there}. Give labels of the same form."
        )
    order = [found.names.index(name) for name in facts.points]
    for one in found.objects:
        one.xyv = one.xyv[order]


# Written and drawn ---------------------------------------------------------------------------------------------------


def result(found: Found, facts: Skeleton) -> dict[str, Any]:
    """An object as COCO's keypoint results have it; the third number of each point is its score."""
    stem = PurePosixPath(found.picture).stem
    left, top, right, bottom = found.xyxy.tolist()
    rows = np.concatenate([found.xy - facts.offset, found.scores[:, None]], axis=1)
    return {
        "image_id": int(stem) if stem.isascii() and stem.isdecimal() else found.picture,
        "file_name": found.picture,
        "category_id": facts.category_id,
        "category": facts.category,
        "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
        "keypoints": [round(value, 4) for value in rows.ravel().tolist()],
        "score": round(found.score, 5),
    }


def as_shown(pixels: np.ndarray) -> Image.Image:
    """Pixels [h w c] of any depth as RGB; their range is stretched to 8 bits."""
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels.astype(np.float32) - low) * (255 / max(1.0, high - low))).astype(np.uint8)
    if pixels.shape[2] < 3:
        pixels = pixels[..., :1].repeat(3, axis=2)
    return Image.fromarray(np.ascontiguousarray(pixels[..., :3]))


def with_points(shown: Image.Image, xy: np.ndarray, visible: np.ndarray, facts: Skeleton) -> Image.Image:
    """A picture with points in their colours: filled where seen, rings where hidden; lines between those joined."""
    drawn = shown.copy()
    draw, r = ImageDraw.Draw(drawn), max(3, shown.width // 64)
    for one, other in facts.edges:
        if visible[one] and visible[other]:
            draw.line((*xy[one].tolist(), *xy[other].tolist()), fill="#ffffff", width=2)
    for k, (x, y) in enumerate(xy.tolist()):
        if visible[k]:
            colour = COLOURS[k % len(COLOURS)]
            draw.ellipse((x - r - 1, y - r - 1, x + r + 1, y + r + 1), fill="#ffffff")
            inner = "#ffffff" if visible[k] == 1 else colour
            draw.ellipse((x - r, y - r, x + r, y + r), fill=inner, outline=colour, width=2)
    return drawn
