"""The forms that labels of boxes have on disk: COCO's json, VOC's xml, YOLO's txt, a CSV. All give the same `Raw`.

COCO: Lin et al. 2014, arXiv 1405.0312 (x, y, width, height from 0; ids of classes are any numbers). VOC: Everingham et
al. 2010 (first and last pixel of a box, counted from 1). YOLO: class, middle, width, height as shares of the picture.
Raises UserError on files that are no such labels.
"""

import json
import math
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from selfsame.downstream.boxes import COUNTED, CROWD, DIFFICULT, Truth
from selfsame.errors import UserError
from selfsame.storage.tables import some, table

FORMS = (
    "COCO json (--labels instances.json), VOC xml (a folder with Annotations/ and JPEGImages/, or a list of its "
    "ImageSets/Main/), YOLO txt (images/ beside labels/, names in data.yaml or classes.txt), "
    "CSV (path,class,left,top,right,bottom)"
)
NAMES = ("classes.txt", "obj.names")  # of YOLO's classes, one a line
NUMBER, SHAPE = 4, 6  # of columns after YOLO's class: a box, or at least three corners of an outline
EDGES = ("left", "top", "right", "bottom")


@dataclass
class Raw:
    """What a label file says, before pictures are looked at."""

    path: Path
    pictures: dict[str, Truth]
    """by the picture's name as the file has it; classes are ids of the file"""
    names: dict[int, str]
    """id -> name of a class"""
    written: dict[str, np.ndarray] = field(default_factory=dict)
    """edges of a picture's boxes [n 4] as the file has them, where these are not those of its `Truth`"""


def read_labels(place: Path, source: Any) -> Raw:
    suffix = place.suffix.lower()
    if place.is_dir():
        kind = kind_in(place)
        if not kind:
            raise UserError(
                f"{place}: no labels in this folder: neither VOC's .xml nor YOLO's .txt. Known are {FORMS}."
            )
        return read_voc(place) if kind == "xml" else read_yolo(place, source)
    if suffix == ".json":
        return read_coco(place)
    if suffix == ".csv":
        return read_csv(place)
    if suffix in (".yaml", ".yml"):
        root = Path(source.place) if source.place else place.parent
        folder = yolo_folder(root) or (place.parent / "labels")
        if not folder.is_dir():
            raise UserError(f"{place}: no folder labels/ beside the pictures in {root}. Give it by --labels.")
        return read_yolo(folder, source, place)
    raise UserError(f"{place}: no labels of boxes. Known are {FORMS}.")


def read_coco(path: Path) -> Raw:
    """`images`, `annotations` (bbox, category_id, iscrowd, area) and `categories`."""
    annotations, images, names = coco_parts(path)
    rows: dict[Any, list[tuple[list[float], int, int, float]]] = {id_: [] for id_ in images}
    stray: list[str] = []
    with spoken(path, "an annotation", "image_id, category_id and bbox"):
        for number, one in enumerate(annotations, 1):
            box = [float(value) for value in one["bbox"]]
            if len(box) != 4 or not all(map(math.isfinite, box)):
                raise UserError(
                    f"{path}: bbox of annotation {one.get('id', number)} is {one['bbox']}; it must be x, y, width, "
                    "height in pixels."
                )
            if one["image_id"] not in rows:
                stray.append(str(one["image_id"]))
                continue
            x, y, width, height = box
            area = float(one.get("area") or width * height)
            crowd = CROWD if one.get("iscrowd") else COUNTED
            rows[one["image_id"]].append(([x, y, x + width, y + height], int(one["category_id"]), crowd, area))
    if stray:
        raise UserError(
            f"{path}: {some(stray, len(annotations), 'annotations')} are of an image_id that is not among its images."
        )
    pictures: dict[str, Truth] = {}
    with spoken(path, "an image", "id and file_name"):
        for id_, one in images.items():
            if (name := str(one["file_name"])) in pictures:
                raise UserError(f"{path}: two images have the file_name {name}.")
            size = (int(one["height"]), int(one["width"])) if one.get("height") and one.get("width") else None
            boxes, classes, standing, areas = zip(*rows[id_], strict=True) if rows[id_] else ([], [], [], [])
            pictures[name] = Truth.of(boxes, classes, standing, areas, size)
    return Raw(path, pictures, names)


def coco_parts(path: Path) -> tuple[list[Any], dict[Any, dict[str, Any]], dict[int, str]]:
    """(annotations as they are, images by id, names of categories by id) of a file of COCO's form."""
    content = parsed(path)
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise UserError(f"{path}: no labels of COCO's form: it needs the keys images, annotations and categories.")
    images: dict[Any, dict[str, Any]] = {}
    names: dict[int, str] = {}
    with spoken(path, "a category", "id and name"):
        for one in content["categories"]:
            if names.setdefault(int(one["id"]), str(one["name"])) != str(one["name"]):
                raise UserError(f"{path}: two categories have the id {one['id']}.")
    with spoken(path, "an image", "id and file_name"):
        for one in content["images"]:
            if one["id"] in images:
                raise UserError(f"{path}: two images have the id {one['id']}.")
            images[one["id"]] = one
    with spoken(path, "a file", "lists of annotations, images and categories"):
        annotations = list(content["annotations"])
    return annotations, images, names


def read_voc(folder: Path) -> Raw:
    """One .xml a picture, called as it is. Its boxes name their first and last pixel, the first of all is 1."""
    found: dict[str, tuple[list[str], Any]] = {}
    written = {}
    for file in sorted(folder.rglob("*.xml")):
        root = parsed_xml(file)
        told = [root.findtext(f"size/{side}") or "" for side in ("height", "width")]
        height, width = (int(float(side)) if is_number(side) else 0 for side in told)
        kinds, boxes, standing = [], [], []
        for one in root.iter("object"):
            cells = [one.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            name = (one.findtext("name") or "").strip()
            if not name or not all(cell is not None and is_number(cell) for cell in cells):
                raise UserError(f"{file}: an object without name, or without xmin, ymin, xmax and ymax in its bndbox.")
            kinds.append(name)
            boxes.append([float(cell) for cell in cells if cell is not None])
            standing.append(DIFFICULT if (one.findtext("difficult") or "0").strip() == "1" else COUNTED)
        stem = file.relative_to(folder).with_suffix("").as_posix()
        written[stem] = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        truth = Truth.of(
            written[stem] - (1, 1, 0, 0), [0] * len(boxes), standing, size=(height, width) if height and width else None
        )
        found[stem] = (kinds, truth)
    names = sorted({name for kinds, _ in found.values() for name in kinds})
    number = {name: k for k, name in enumerate(names)}
    pictures = {
        stem: replace(truth, classes=np.array([number[name] for name in kinds], dtype=np.int64))
        for stem, (kinds, truth) in found.items()
    }
    return Raw(folder, pictures, dict(enumerate(names)), written)


def read_yolo(folder: Path, source: Any, names_in: Path | None = None) -> Raw:
    """One .txt a picture, called as it is: a line a box, or an outline whose box is taken; an empty file: no object."""
    pictures: dict[str, Truth] = {}
    among = source.place is not None and folder.resolve() == Path(source.place).resolve()
    for file in sorted(folder.rglob("*.txt")):
        if file.name in NAMES or (among and not looks_yolo(file)):
            continue  # a text beside pictures that is no label
        boxes, classes = [], []
        for number, line in enumerate(text_of(file).splitlines(), 1):
            cells = line.split()
            if not cells:
                continue
            count = len(cells) - 1
            outline = count >= SHAPE and count % 2 == 0
            if not all(map(is_number, cells)) or not (count == NUMBER or outline) or float(cells[0]) % 1:
                raise UserError(
                    f"{file}: line {number} is {line[:60]!r}; it must be a class's number and the middle x and y, "
                    "width and height of the box as shares of the picture."
                )
            values = np.array(cells[1:], dtype=np.float64)
            if outline:
                corners = values.reshape(-1, 2)
                boxes.append([*corners.min(axis=0), *corners.max(axis=0)])
            else:
                boxes.append([*(values[:2] - values[2:] / 2), *(values[:2] + values[2:] / 2)])
            classes.append(int(float(cells[0])))
        pictures[file.relative_to(folder).with_suffix("").as_posix()] = Truth.of(boxes, classes, shares=True)
    used = {kind for truth in pictures.values() for kind in truth.classes.tolist()}
    names = yolo_names(folder, names_in)
    if names is None:  # no names anywhere: the numbers are the names
        names = {k: str(k) for k in used}
    return Raw(folder, pictures, names)


def yolo_names(folder: Path, given: Path | None) -> dict[int, str] | None:
    """Of the classes: from the given .yaml, or the nearest one with `names` above the labels, or a list of names."""
    if given is not None:
        names = yaml_names(given)
        if names is None:
            raise UserError(f"{given}: it has no names of classes. Write them as names: [cat, dog].")
        return names
    parts = folder.resolve().parts  # of .../labels/train both, and what they lie in; else the folder and its parent
    up = len(parts) - parts.index("labels") if "labels" in parts else 1
    for here in [folder.resolve(), *folder.resolve().parents[:up]]:
        others = [file for file in (*here.glob("*.yaml"), *here.glob("*.yml")) if file.name != "data.yaml"]
        for file in [here / "data.yaml", *sorted(others)]:
            if file.is_file() and (names := yaml_names(file, strict=file.name == "data.yaml")) is not None:
                return names
        for file in (here / name for name in NAMES):
            if file.is_file():
                return dict(enumerate(line.strip() for line in text_of(file).splitlines() if line.strip()))
    return None


def yaml_names(file: Path, strict: bool = True) -> dict[int, str] | None:
    """The names of classes that it holds, if any; of one that is not `strict`, none where it is no YAML."""
    try:
        content = yaml.safe_load(text_of(file))
    except yaml.YAMLError as error:
        if not strict:
            return None
        raise UserError(f"{file}: no valid YAML: {' '.join(str(error).split())}.") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        return {k: str(name) for k, name in enumerate(names)}
    if isinstance(names, dict) and all(isinstance(k, int) for k in names):
        return {k: str(name) for k, name in names.items()}
    return None


def read_csv(path: Path) -> Raw:
    """Columns path, class (or label), left, top, right, bottom, in any order: a row a box, in pixels from 0.

    A row with a path alone is a picture without boxes.
    """
    rows = list(table(path))
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    kind = "class" if "class" in head else "label"
    gone = [name for name in ("path", kind, *EDGES) if name not in head]
    if gone:
        raise UserError(f"{path}: it has no column {gone[0]}. Its first row must name path, class, {', '.join(EDGES)}.")
    at = {name: head.index(name) for name in ("path", kind, *EDGES)}
    found: dict[str, list[tuple[str, list[float]]]] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(head):
            raise UserError(f"{path}: row {number} has {len(row)} cells, the first has {len(head)}.")
        cells = {name: row[place].strip() for name, place in at.items()}
        boxes = found.setdefault(cells["path"], [])
        if not any(cells[name] for name in (kind, *EDGES)):
            continue
        if not cells[kind] or not all(is_number(cells[edge]) for edge in EDGES):
            raise UserError(f"{path}: row {number} is no box: it needs a class and four numbers of pixels.")
        boxes.append((cells[kind], [float(cells[edge]) for edge in EDGES]))
    names = sorted({name for boxes in found.values() for name, _ in boxes})
    number_of = {name: k for k, name in enumerate(names)}
    pictures = {
        name: Truth.of([box for _, box in boxes], [number_of[kind] for kind, _ in boxes])
        for name, boxes in found.items()
    }
    return Raw(path, pictures, dict(enumerate(names)))


# Which form it is -----------------------------------------------------------------------------------------------------


def yolo_folder(pictures: Path) -> Path | None:
    """.../images/train -> .../labels/train, by the last part that is called images."""
    parts = list(pictures.parts)
    if "images" not in parts:
        return None
    at = len(parts) - 1 - parts[::-1].index("images")
    folder = Path(*parts[:at], "labels", *parts[at + 1 :])
    return folder if folder.is_dir() else None


def kind_in(folder: Path) -> str:
    """ "xml" or "txt" where a folder holds labels of that kind, else ""."""
    if any(folder.rglob("*.xml")):
        return "xml"
    return "txt" if any(looks_yolo(file) for file in folder.rglob("*.txt") if file.name not in NAMES) else ""


def looks_yolo(file: Path) -> bool:
    """Whether a file could be YOLO's: empty, or a first line of at least five numbers."""
    try:
        with file.open(encoding="utf-8") as opened:
            first = opened.readline().split()
    except (OSError, UnicodeDecodeError):
        return False
    return not first or (len(first) >= 1 + NUMBER and all(map(is_number, first)))


# Files ----------------------------------------------------------------------------------------------------------------


def parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no valid JSON: {error}.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error


def parsed_xml(path: Path) -> xml.Element:
    text = text_of(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities could unfold without end
        raise UserError(f"{path}: a DOCTYPE is not read. VOC's files have none: remove it.")
    try:
        return xml.fromstring(text.encode())
    except xml.ParseError as error:
        raise UserError(f"{path}: no valid XML: {error}.") from None


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error


def is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


@contextmanager
def spoken(path: Path, what: str, needs: str) -> Iterator[None]:
    """Under it a missing or misshapen entry of a COCO file becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        why = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise UserError(f"{path}: {what} is not of COCO's form: it needs {needs} ({why}).") from None
