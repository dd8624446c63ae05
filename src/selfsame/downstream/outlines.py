"""Outlines of objects as COCO's json has them, painted as masks: polygons, and run lengths, plain or compressed.

Lin et al. 2014, arXiv 1405.0312; the form is that of https://cocodataset.org/#format-data. pycocotools decodes. What no
object covers is background. Where objects overlap, the one that stands later in the file is seen; what only a crowd
(iscrowd) covers is ignored.

Raises UserError on files that are no such labels, that name pictures which are not there, whose coordinates look like
shares, or whose classes a head has not learned. Pictures with an outline that cannot be used are named in `broken`.
"""

import importlib.util
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from selfsame.downstream import masks
from selfsame.downstream.boxes import refuse_shares
from selfsame.downstream.boxforms import coco_parts, spoken
from selfsame.downstream.classlists import MOST
from selfsame.downstream.masks import IGNORED, Classes
from selfsame.errors import UnreadableItem, UserError, missing, unknown
from selfsame.storage.tables import Finder, some

BACKGROUND = "background"
FAR = 10  # sides of a picture beyond which a corner is a slip of the pen
PIXELS = "Outlines are wanted in pixels: multiply x by the width of the picture and y by its height."


class Shape(NamedTuple):
    """One object."""

    number: int
    """of its class"""
    outline: Any
    """as the file has it: polygons [[x, y, x, y, ...], ...], or run lengths {"counts", "size"}"""
    crowd: bool
    called: str
    """the annotation, for errors"""


@dataclass
class Outlines:
    """The objects of pictures: `items[k]` of a source has those of `names[k]`."""

    path: Path
    classes: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    """of the pictures, as the file has them"""
    items: list[int] = field(default_factory=list)
    shapes: dict[str, list[Shape]] = field(default_factory=dict)
    """by the picture's name, in the order of the file"""
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """height and width, where the file says so"""
    broken: dict[int, str] = field(default_factory=dict)
    """k of `names` -> what is wrong with an outline of it"""

    def size_of(self, name: str) -> tuple[int, int]:
        """Height and width as the file says. Raises UnreadableItem where it does not."""
        if name not in self.sizes:
            raise UnreadableItem(f"{self.path} does not say how large {name} is")
        return self.sizes[name]

    def mask(self, name: str, height: int, width: int) -> UInt8[np.ndarray, "h w"]:
        """The class of each pixel of a picture, or IGNORED. Raises UnreadableItem."""
        mask = np.full((height, width), self.classes.index(BACKGROUND), np.uint8)
        # Crowds first: an object in front of one is known.
        for shape in sorted(self.shapes[name], key=lambda shape: not shape.crowd):
            mask[covered(shape, height, width)] = IGNORED if shape.crowd else shape.number
        return mask

    def facts(self, header: Any) -> Classes:
        """The classes as masks would store them: by their numbers. `header(item)` gives height, width, ..."""
        numbers = tuple(range(len(self.classes)))
        places = np.linspace(0, len(self.names) - 1, min(len(self.names), masks.LOOKED)).round().astype(int).tolist()
        tables = []
        for k in places:
            try:
                height, width = self.sizes.get(self.names[k]) or header(self.items[k])[:2]
                tables.append(masks.counts(self.mask(self.names[k], height, width)))
            except UnreadableItem:
                continue  # told where it is read
        return Classes(
            classes=self.classes,
            values=numbers,
            ignore=IGNORED,
            colours=masks.drawn(len(numbers)),
            shares=masks.shares(tables, numbers),
        )


def read(path: Path, source: Any, known: Sequence[str] | None = None) -> Outlines:
    """`images`, `annotations` (segmentation, category_id, iscrowd) and `categories`, of the pictures of a source.

    Classes are the background and the categories in the order of their ids, or `known` in theirs.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise missing("detect", "pycocotools", f"{path}: reading outlines of COCO's form")
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give COCO's json, or a folder of masks.")
    annotations, images, categories = coco_parts(path)
    if not annotations:
        raise UserError(f"{path}: it has no annotations: there is nothing to tell apart.")
    kinds = [categories[id_] for id_ in sorted(categories)]
    if len(set(kinds)) < len(kinds):
        twice = next(name for name in kinds if kinds.count(name) > 1)
        raise UserError(f"{path}: two categories are called {twice}. Give each a name of its own.")
    classes = tuple(known or [BACKGROUND, *(name for name in kinds if name != BACKGROUND)])
    if len(classes) > MOST:
        raise UserError(f"{path}: it has {len(classes)} classes; at most {MOST} can be told apart.")
    if BACKGROUND not in classes:
        raise UserError(
            f"{path}: what no object covers is {BACKGROUND}, a class that the head has not learned. It knows: "
            f"{masks.listed(classes)}."
        )
    found = Outlines(path, classes)
    with spoken(path, "an image", "id and file_name"):
        names = {id_: str(one["file_name"]) for id_, one in images.items()}
    shapes: dict[str, list[Shape]] = {name: [] for name in names.values()}
    if len(shapes) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise UserError(f"{path}: two images have the file_name {twice}.")
    with spoken(path, "an image", "id, file_name, height and width"):
        for id_, one in images.items():
            if one.get("height") and one.get("width"):
                found.sizes[names[id_]] = int(one["height"]), int(one["width"])
    number = {name: k for k, name in enumerate(classes)}
    stray: list[str] = []
    bare = 0
    with spoken(path, "an annotation", "image_id, category_id and segmentation"):
        for place, one in enumerate(annotations, 1):
            if one["image_id"] not in names:
                stray.append(str(one["image_id"]))
                continue
            if (kind := int(one["category_id"])) not in categories:
                raise UserError(
                    f"{path}: annotation {one.get('id', place)} is of category {kind}, which is not among its "
                    f"categories ({masks.listed([f'{k} ({name})' for k, name in sorted(categories.items())])})."
                )
            if categories[kind] not in number:
                told = f"{path} has it, the head has not learned it."
                raise unknown("class", categories[kind], classes, told)
            bare += not one.get("segmentation")
            called = f"annotation {one.get('id', place)}"
            crowd = bool(one.get("iscrowd"))
            shape = Shape(number[categories[kind]], one.get("segmentation"), crowd, called)
            shapes[names[one["image_id"]]].append(shape)
    if stray:
        count = len(annotations)
        raise UserError(f"{path}: {some(stray, count, 'annotations')} are of an image_id that is not among its images.")
    if bare == len(annotations):
        raise UserError(f"{path}: none of its annotations has a segmentation. Boxes alone are --task detection.")
    find = Finder(path, source.names, source.place, source.path)
    placed = {name: find.item(name) for name in shapes}
    if gone := [name for name, item in placed.items() if item is None]:
        raise UserError(
            f"{path}: {some(gone, len(placed), 'pictures')} that it names are not in {source.path}. Get them, or take "
            "them out of the labels."
        )
    for name, item in sorted(
        ((name, item) for name, item in placed.items() if item is not None), key=lambda one: one[1]
    ):
        if found.items and found.items[-1] == item:
            raise UserError(f"{path}: {found.names[-1]} and {name} are both the picture {source.name(item)}.")
        found.names.append(name)
        found.items.append(item)
        found.shapes[name] = shapes[name]
    look_through(found)
    return found


def look_through(found: Outlines) -> None:
    """Note what cannot be used, by the sizes that the file tells. Raises UserError on shares in place of pixels."""
    edges = []
    for k, name in enumerate(found.names):
        for shape in found.shapes[name]:
            try:
                reach = bounds(shape)
                if reach is not None:
                    edges.append(reach)
                if name in found.sizes:
                    check(shape, reach, *found.sizes[name])
            except UnreadableItem as error:
                found.broken.setdefault(k, str(error))
    reaches = np.array(edges, dtype=np.float64).reshape(-1, 4)
    refuse_shares(
        found.path, reaches, list(found.sizes.values()), "outlines", PIXELS, reaches[:, 2:] - reaches[:, :2]
    )  # fmt: skip


def bounds(shape: Shape) -> tuple[float, float, float, float] | None:
    """Least and greatest x and y of polygons; None of run lengths. Raises UnreadableItem for what is neither."""
    if isinstance(shape.outline, dict):
        return None
    if not isinstance(shape.outline, list) or not shape.outline:
        raise UnreadableItem(f"{shape.called} has no outline in segmentation")
    xs: list[float] = []
    ys: list[float] = []
    for polygon in shape.outline:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not numeric(polygon):
            raise UnreadableItem(
                f"{shape.called} has a polygon that is not x, y of at least three corners: {str(polygon)[:60]}"
            )
        xs += polygon[::2]
        ys += polygon[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def check(shape: Shape, reach: tuple[float, float, float, float] | None, height: int, width: int) -> None:
    """Raise UnreadableItem for an outline that does not fit a picture of this size."""
    if reach is not None:
        left, top, right, bottom = reach
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            raise UnreadableItem(f"{shape.called} lies outside of the picture, {width} x {height} px")
        if min(left, top) < -FAR * max(height, width) or max(right, bottom) > FAR * max(height, width):
            raise UnreadableItem(f"{shape.called} has a corner far outside of the picture, {width} x {height} px")
        return
    size, counts = shape.outline.get("size"), shape.outline.get("counts")
    if size != [height, width]:
        raise UnreadableItem(f"{shape.called} has run lengths of size {size}; its picture is [{height}, {width}]")
    if isinstance(counts, str) and counts.isascii():
        counts = lengths(counts)
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise UnreadableItem(f"{shape.called} has run lengths that are none: {str(counts)[:60]}")
    if sum(counts) != height * width:  # pycocotools would read on in what lies behind
        raise UnreadableItem(
            f"{shape.called} has run lengths for {sum(counts)} pixels; its picture has {height * width}"
        )


def lengths(counts: str) -> list[int]:
    """The numbers of compressed run lengths: five bits a sign, the sixth says that more follow, from 48 on; from the
    fourth number on they are differences to the last but one."""
    found: list[int] = []
    value = shift = 0
    for sign in counts.encode("ascii"):
        bits = sign - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = shift = 0
    return [*found, -1] if shift else found  # the last number has no end


def covered(shape: Shape, height: int, width: int) -> np.ndarray:
    """Boolean [h w]: the pixels of an object. Raises UnreadableItem."""
    from pycocotools import mask as coco

    check(shape, bounds(shape), height, width)
    try:
        if isinstance(shape.outline, list):
            runs = coco.merge(coco.frPyObjects(shape.outline, height, width))
        elif isinstance(shape.outline["counts"], list):
            runs = coco.frPyObjects(shape.outline, height, width)
        else:
            runs = {"size": [height, width], "counts": shape.outline["counts"].encode("ascii")}
        return coco.decode(runs).astype(bool)
    except (ValueError, TypeError, OverflowError) as error:
        raise UnreadableItem(f"{shape.called} cannot be decoded: {error}") from None
