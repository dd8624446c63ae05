"""Keypoints as they are stored: COCO's json, a CSV of a row an object, a CSV of a row a point. All give a `PointSet`.

COCO: https://cocodataset.org/#format-data, section 2. Raises UserError on files that are no such labels, whose rows are
too short, that name pictures which are not there, and where too many points lie outside of their picture.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from selfsame.downstream.boxes import refuse_shares
from selfsame.downstream.boxfiles import pictures_at
from selfsame.downstream.boxforms import EDGES, is_number, parsed, spoken
from selfsame.errors import UnreadableItem, UserError
from selfsame.records import Record
from selfsame.storage.disk import disk_of
from selfsame.storage.opening import home_spelt
from selfsame.storage.tables import Finder, some, table

FORMS = (
    "COCO keypoint json (--labels person_keypoints.json), CSV of a row an object (path,x1,y1,x2,y2,... or "
    "path,nose_x,nose_y,...; a column v1 or nose_v is visibility), or CSV of a row a point (path,name,x,y); optional "
    "columns left,top,right,bottom hold the object's box"
)
FEW_BAD = 0.1  # share of points outside of their picture that count as not labelled; with more, nothing is read
SLACK = 1.0  # pixels over the edge that are rounding
PIXELS = (
    "Keypoints and the boxes of their objects are wanted in pixels, in each form that is read: multiply x by the width "
    "of the picture and y by its height."
)
SURE = 0.5  # score from which a detected box is looked into


@dataclass
class Object:
    """One object as a file has it."""

    picture: str
    xyv: Float[np.ndarray, "k 3"]
    box: tuple[float, float, float, float] | None
    """left, top, right, bottom"""
    area: float | None = None
    score: float = 1.0
    item: int = -1
    """the picture's number in the source"""


@dataclass
class PointSet:
    """Pictures and their objects."""

    source: Any
    names: tuple[str, ...]
    objects: list[Object]
    edges: tuple[tuple[int, int], ...] = ()
    category: str = "object"
    category_id: int = 1
    offset: float = 0.0
    """added to all coordinates: 0.5 where all were whole numbers"""
    notes: list[str] = field(default_factory=list)
    """what was left out, in words"""


# Finding -------------------------------------------------------------------------------------------------------------


def point_set(path: str, labels: str | None, category: str | None) -> PointSet:
    """The objects with labelled points in the pictures at `path`.

    `labels` is a .json or .csv; without it one is looked for at `path` and beside it. Raises UserError.
    """
    here = Path(home_spelt(path))
    if labels is None and here.suffix.lower() in (".json", ".csv") and here.is_file():
        place, path = here, str(here.parent)
    else:
        place = Path(labels).expanduser() if labels is not None else around(here)
    if not place.is_file():
        raise UserError(f"{place}: no such file. Keypoints are {FORMS}.")
    source, _ = pictures_at(path)
    if place.suffix.lower() == ".json":
        found = read_coco(place, source, category)
    elif place.suffix.lower() == ".csv":
        found = read_csv(place, source)
    else:
        raise UserError(f"{place}: no keypoints: its name ends in {place.suffix or 'nothing'}. Known are {FORMS}.")
    placed(found, place)
    checked(found, place)
    return found


def around(path: Path) -> Path:
    """The keypoints that belong to pictures at a path. Raises UserError where there are none, or several."""
    if disk_of(str(path)).remote or not path.is_dir():
        raise UserError(f"{path}: which file has its keypoints? Give --labels. Known are {FORMS}.")
    found = candidates(path, is_keypoints)
    if not found:
        for file in [*sorted(path.glob("*.json")), *sorted(path.glob("annotations/*.json"))][:20]:
            parsed(file)  # one that is cut off is named, not passed over
    if len(found) != 1:
        told = f"several files could be meant: {', '.join(map(str, found))}. Say which by --labels" if found else (
            f"no keypoints found there. Known are {FORMS}"
        )  # fmt: skip
        raise UserError(f"{path}: {told}.")
    return found[0]


def candidates(path: Path, meant: Any) -> list[Path]:
    """Files in a folder and, if that holds none, beside it that are meant."""
    for folder in (path, path.parent):
        files = [*folder.glob("*.json"), *folder.glob("annotations/*.json"), *folder.glob("*.csv")]
        found = sorted(file for file in files[:40] if meant(file))
        if found:
            return found
    return []


def is_keypoints(file: Path) -> bool:
    """Whether a file could be keypoints, by its keys or first row."""
    try:
        if file.suffix.lower() == ".json":
            content = json.loads(file.read_bytes())
            kinds = content["categories"] if isinstance(content, dict) else []
            return "annotations" in content and any(one.get("keypoints") for one in kinds)
        head = [cell.strip() for cell in next(iter(table(file)))]
        return "path" in head and ("name" in head or bool(columns(head)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return False


# Reading -------------------------------------------------------------------------------------------------------------


def read_coco(path: Path, source: Any, category: str | None) -> PointSet:
    """`annotations` with keypoints [x, y, v, ...], bbox, area; `categories` with the names in keypoints.

    Annotations with num_keypoints 0 and crowds are left out. Categories may share one list of points; of several lists
    `category` names one.
    """
    content = parsed(path)
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise UserError(f"{path}: no labels of COCO's form: it needs the keys images, annotations and categories.")
    with spoken(path, "a category", "id, name and keypoints"):
        kinds = {int(one["id"]): one for one in content["categories"] if one.get("keypoints")}
        chosen = {k: one for k, one in kinds.items() if category in (None, one["name"])}
        called = ", ".join(str(one["name"]) for one in kinds.values())
        if not chosen:
            told = f"none is called {category}; with keypoints are: {called}" if kinds else "none has keypoints"
            raise UserError(f"{path}: of its categories {told}. Boxes alone are --task detection.")
        lists = {tuple(map(str, one["keypoints"])) for one in chosen.values()}
        if len(lists) > 1:
            raise UserError(
                f"{path}: its categories ({called}) have different keypoints, and a head learns one list. Choose one "
                "by --task.category."
            )
        first = min(chosen)
        names = lists.pop()
        if len(set(names)) < len(names):
            raise UserError(f"{path}: two keypoints of {chosen[first]['name']} have the same name.")
        lines = chosen[first].get("skeleton") or []
        edges = tuple((int(a) - 1, int(b) - 1) for a, b in lines if 0 < a <= len(names) and 0 < b <= len(names))
    with spoken(path, "an image", "id and file_name"):
        images = {one["id"]: str(one["file_name"]) for one in content["images"]}
    found = PointSet(source, names, [], edges, str(chosen[first]["name"]), first)
    empty, crowds, flat, stray = 0, 0, 0, []
    with spoken(path, "an annotation", "image_id, category_id, bbox and keypoints"):
        for number, one in enumerate(content["annotations"], 1):
            if int(one["category_id"]) not in chosen:
                continue
            if one.get("iscrowd"):
                crowds += 1
                continue
            values = one["keypoints"]
            if len(values) != 3 * len(names):
                raise UserError(
                    f"{path}: annotation {one.get('id', number)} has {len(values)} numbers in keypoints; "
                    f"{len(names)} points need {3 * len(names)} (x, y, v of each)."
                )
            xyv = np.array(values, dtype=np.float64).reshape(-1, 3)
            if not np.isfinite(xyv).all() or not np.isin(xyv[:, 2], (0, 1, 2)).all():
                raise UserError(
                    f"{path}: keypoints of annotation {one.get('id', number)} must be finite, and each third number "
                    "the visibility: 0 not labelled, 1 hidden, 2 seen."
                )
            if one.get("num_keypoints") == 0 or not (xyv[:, 2] > 0).any():
                empty += 1
                continue
            if one["image_id"] not in images:
                stray.append(str(one["image_id"]))
                continue
            x, y, width, height = (float(value) for value in one["bbox"])
            if not (width > 0 and height > 0):
                flat += 1
                continue
            box = x, y, x + width, y + height
            area = float(one.get("area") or width * height)
            found.objects.append(Object(images[one["image_id"]], xyv, box, area))
    if stray:
        count = len(content["annotations"])
        raise UserError(f"{path}: {some(stray, count, 'annotations')} are of an image_id that is not among its images.")
    counts = ((empty, "without a labelled point"), (crowds, "that are crowds"), (flat, "whose box has no area"))
    found.notes += [f"{count} objects {why} left out" for count, why in counts if count]
    return found


def columns(head: Sequence[str]) -> dict[str, dict[str, int]]:
    """Of a header of a row an object: point -> {"x": column, "y": column, "v": column}, in the order of the header."""
    found: dict[str, dict[str, int]] = {}
    for k, cell in enumerate(head):
        part = re.fullmatch(r"([xyv])_?(\d+)", cell.strip().lower())
        if part:
            axis, name = part.groups()
        elif part := re.fullmatch(r"(.+)[_.]([xyv])", cell.strip(), re.IGNORECASE):
            name, axis = part.group(1), part.group(2).lower()
        else:
            continue
        found.setdefault(name, {})[axis] = k
    return found


def rows_of(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV, all of one length. Raises UserError."""
    rows = [[cell.strip() for cell in row] for row in table(path)]
    if len(rows) < 2:
        raise UserError(f"{path}: it has no rows behind its header. Known are {FORMS}.")
    head = rows[0]
    if "path" not in (cell.lower() for cell in head):
        raise UserError(f"{path}: its first row must name the columns, path among them. Known are {FORMS}.")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(head):
            raise UserError(
                f"{path}: row {number} has {len(row)} columns, the header has {len(head)}. A point that is not "
                "labelled has empty cells, not fewer."
            )
    return head, rows[1:]


def read_csv(path: Path, source: Any) -> PointSet:
    head, rows = rows_of(path)
    at = {cell.lower(): k for k, cell in enumerate(head)}
    boxed = [edge for edge in EDGES if edge in at]
    if boxed and len(boxed) < len(EDGES):
        raise UserError(f"{path}: of the box it has only {', '.join(boxed)}; it needs {', '.join(EDGES)}, or none.")
    if "name" in at:
        return long_form(path, source, at, rows, bool(boxed))
    points = columns(head)
    for name, axes in points.items():
        if gone := [axis for axis in "xy" if axis not in axes]:
            raise UserError(f"{path}: point {name} has no column for {gone[0]}. Known are {FORMS}.")
    if not points:
        raise UserError(f"{path}: no columns of points ({', '.join(head[:6])}). Known are {FORMS}.")
    found = PointSet(source, tuple(points), [])
    for number, row in enumerate(rows, 2):
        xyv = np.array([point(path, number, row, axes) for axes in points.values()])
        found.objects.append(Object(row[at["path"]], xyv, box_in(path, number, row, at) if boxed else None))
    if not boxed:
        single(path, found.objects)
    return found


def long_form(path: Path, source: Any, at: dict[str, int], rows: list[list[str]], boxed: bool) -> PointSet:
    """A row a point: path, name, x, y, and optionally v, object (a name of it in its picture) and the box."""
    if gone := [name for name in ("x", "y") if name not in at]:
        raise UserError(f"{path}: it has no column {gone[0]}. A row a point is path,name,x,y.")
    names = tuple(dict.fromkeys(row[at["name"]] for row in rows))
    if "" in names:
        raise UserError(f"{path}: a point without a name. A row a point is path,name,x,y.")
    place = {name: k for k, name in enumerate(names)}
    objects: dict[tuple[str, ...], Object] = {}
    done: set[tuple[str, ...]] = set()
    for number, row in enumerate(rows, 2):
        box = box_in(path, number, row, at) if boxed else None
        which = row[at["object"]] if "object" in at else str(box)
        key = row[at["path"]], which
        one = objects.setdefault(key, Object(key[0], np.zeros((len(names), 3)), box))
        if one.box != box:
            raise UserError(f"{path}: row {number}: the box is not that of the other points of its object.")
        name = row[at["name"]]
        if (*key, name) in done:
            raise UserError(
                f"{path}: row {number}: {name} of {row[at['path']]} is there twice. Several objects in a picture need "
                "a column object, or boxes."
            )
        done.add((*key, name))
        one.xyv[place[name]] = point(path, number, row, {axis: at[axis] for axis in "xyv" if axis in at})
    if not boxed:
        single(path, list(objects.values()))
    return PointSet(source, names, list(objects.values()))


def point(path: Path, number: int, row: Sequence[str], axes: dict[str, int]) -> tuple[float, float, float]:
    """x, y, visibility from the cells of a row; not labelled where they are empty."""
    cells = {axis: row[k] for axis, k in axes.items()}
    if not cells["x"] and not cells["y"]:
        return 0.0, 0.0, 0.0
    for axis, cell in cells.items():
        if not (is_number(cell) or (axis == "v" and not cell)):
            raise UserError(f"{path}: row {number}: {axis} is {cell!r}; it must be a number, or x and y both empty.")
    v = float(cells.get("v") or 2)
    if v not in (0, 1, 2):
        raise UserError(f"{path}: row {number}: v is {v:g}; it must be 0 not labelled, 1 hidden or 2 seen.")
    return float(cells["x"]), float(cells["y"]), v


def box_in(path: Path, number: int, row: Sequence[str], at: dict[str, int]) -> tuple[float, float, float, float]:
    if not all(is_number(row[at[edge]]) for edge in EDGES):
        raise UserError(f"{path}: row {number} has no box: {', '.join(EDGES)} must be numbers of pixels.")
    left, top, right, bottom = (float(row[at[edge]]) for edge in EDGES)
    if not (right > left and bottom > top):
        raise UserError(f"{path}: row {number}: its box {left:g}, {top:g}, {right:g}, {bottom:g} has no area.")
    return left, top, right, bottom


def single(path: Path, objects: Sequence[Object]) -> None:
    """Raise UserError where a picture has several objects, but no boxes tell them apart."""
    seen: set[str] = set()
    for one in objects:
        if one.picture in seen:
            raise UserError(
                f"{path}: {one.picture} has several objects. Give each a box, in columns {', '.join(EDGES)}: without, "
                "the whole picture is one object."
            )
        seen.add(one.picture)


# Joining -------------------------------------------------------------------------------------------------------------


def placed(found: PointSet, path: Path) -> None:
    """Find the picture of each object. Raises UserError where some are not there."""
    source = found.source
    find = Finder(path, source.names, source.place, source.path)
    items = {name: find.item(name) for name in dict.fromkeys(one.picture for one in found.objects)}
    gone = [name for name, item in items.items() if item is None]
    if gone:
        raise UserError(
            f"{path}: {some(gone, len(items), 'pictures')} that it names are not in {source.path}. Get them, or take "
            "them out of the labels."
        )
    for one in found.objects:
        one.item = items[one.picture]  # type: ignore[assignment]
        one.picture = source.name(one.item)
    found.objects.sort(key=lambda one: one.item)


def checked(found: PointSet, path: Path) -> None:
    """Leave out what cannot be used, and add the half pixel of whole numbers. Raises UserError on too much of it."""
    empty = [one for one in found.objects if not (one.xyv[:, 2] > 0).any()]
    if empty:
        found.objects = [one for one in found.objects if (one.xyv[:, 2] > 0).any()]
        found.notes.append(f"{len(empty)} objects without a labelled point left out")
    if not found.objects:
        raise UserError(f"{path}: none of its objects has a labelled point: there is nothing to learn or score.")
    labelled = np.concatenate([one.xyv[one.xyv[:, 2] > 0, :2] for one in found.objects])
    if (labelled % 1 == 0).all():
        found.offset = 0.5
    sizes: dict[int, tuple[int, int] | None] = {}
    for item in {one.item: None for one in found.objects}:
        try:
            height, width = found.source.header(item)[:2]
            sizes[item] = height, width
        except UnreadableItem:
            sizes[item] = None  # it is listed when it is read
    there = [size for size in sizes.values() if size is not None]
    refuse_shares(path, labelled, there, "points", PIXELS)
    boxes = np.array([one.box for one in found.objects if one.box is not None]).reshape(-1, 4)
    refuse_shares(path, boxes, there, "boxes", PIXELS, boxes[:, 2:] - boxes[:, :2])
    outside: list[str] = []
    apart: list[str] = []
    for one in found.objects:
        known = one.xyv[:, 2] > 0
        one.xyv[known, :2] += found.offset
        size = sizes[one.item]
        if size is None:
            continue
        limit = np.array(size[::-1])
        out = known & ((one.xyv[:, :2] < -SLACK) | (one.xyv[:, :2] > limit + SLACK)).any(axis=1)
        if out.any():
            spelt = ", ".join(f"({x:g}, {y:g})" for x, y in one.xyv[out, :2][:2])
            outside += [f"{one.picture}, {size[1]} x {size[0]} pixels: {spelt}"] * int(out.sum())
            one.xyv[out] = 0
        if one.box is not None:
            left, top, right, bottom = one.box
            inside = max(0, left), max(0, top), min(size[1], right), min(size[0], bottom)
            if inside[2] - inside[0] < 1 or inside[3] - inside[1] < 1:
                apart.append(f"{one.picture}: {left:g}, {top:g}, {right:g}, {bottom:g}")
                one.xyv[:] = 0
    for bad, what, total in ((outside, "points", len(labelled)), (apart, "boxes", len(found.objects))):
        if len(bad) > FEW_BAD * total:
            raise UserError(
                f"{path}: {len(bad)} of {total} {what} lie outside of their picture: {'; '.join(dict.fromkeys(bad))}"[
                    :400
                ]
                + ". A few would be left out; so many mean that the numbers are of pictures of another size. Mend them."
            )
        if bad:
            found.notes.append(f"{len(bad)} {what} outside of their picture left out: {bad[0]}")
    found.objects = [one for one in found.objects if (one.xyv[:, 2] > 0).any()]


# Boxes to look into --------------------------------------------------------------------------------------------------


def boxes_at(path: str, reading: Record | None = None) -> tuple[Any, list[Object] | None]:
    """A source of pictures and the boxes in which to look for points, if there are any.

    `path` is pictures with a file of boxes in their folder or beside it, or that file: COCO's json, CSV, or the json or
    CSV that `predict` writes of --task detection, of which boxes with a score of SURE or more are taken.
    """
    here = Path(home_spelt(path))
    if disk_of(str(here)).remote:
        return pictures_at(path, reading)[0], None
    if here.suffix.lower() in (".json", ".csv") and here.is_file() and (rows := boxes_of(here)) is not None:
        source, _ = pictures_at(str(here.parent))
        file = here
    else:
        source, _ = pictures_at(path, reading)
        files = candidates(here, lambda file: boxes_of(file) is not None) if here.is_dir() else []
        if not files:
            return source, None
        if len(files) > 1:
            raise UserError(
                f"{path}: boxes could be those of {', '.join(map(str, files))}. Give the file itself in place of the "
                "folder, beside the pictures."
            )
        file = files[0]
        rows = boxes_of(file)
    find = Finder(file, source.names, source.place, source.path)
    objects = []
    for name, box, score in rows or []:
        item = find.item(name)
        if item is not None and score >= SURE:
            objects.append(Object(source.name(item), np.zeros((0, 3)), box, None, score, item))
    if not objects:
        raise UserError(f"{file}: none of its {len(rows or [])} boxes is of a picture in {source.path}.")
    return source, sorted(objects, key=lambda one: one.item)


Row = tuple[str, tuple[float, float, float, float], float]


def boxes_of(file: Path) -> list[Row] | None:
    """(picture, box, score) of a file; None where it is none of boxes."""
    try:
        if file.suffix.lower() == ".csv":
            head, rows = rows_of(file)
            at = {cell.lower(): k for k, cell in enumerate(head)}
            if not all(edge in at for edge in EDGES):
                return None
            found = [
                (row[at["path"]], box_in(file, k, row, at), float(row[at["score"]]) if "score" in at else 1.0)
                for k, row in enumerate(rows, 2)
            ]
            return list(dict.fromkeys(found))
        content = json.loads(file.read_bytes())
        if isinstance(content, dict):
            names = {one["id"]: one["file_name"] for one in content["images"]}
            listed = [(names[one["image_id"]], one["bbox"], 1.0) for one in content["annotations"]]
        else:
            listed = [(one["file_name"], one["bbox"], float(one["score"])) for one in content]
        return [
            (str(name), (x, y, x + width, y + height), score)
            for name, (x, y, width, height), score in listed
            if width > 0 and height > 0
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
