"""Boxes of pictures: labels found around a path, in any form of boxforms.py, and brought together with pictures.

Raises UserError on labels that name pictures which are not there or classes that they do not list, and where too many
boxes cannot be used (`boxes.Mended`).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from selfsame import modalities
from selfsame.downstream.boxes import Mended, Truth, refuse_shares
from selfsame.downstream.boxforms import FORMS, Raw, kind_in, parsed, read_labels, yolo_folder
from selfsame.errors import UserError, unknown
from selfsame.records import Record
from selfsame.storage.disk import disk_of
from selfsame.storage.opening import home_spelt
from selfsame.storage.tables import Finder, some, table

PIXELS = (
    "Wanted are pixels (x, y, width, height in COCO's json, else left, top, right, bottom): multiply by the width and "
    "height of each picture. Shares are read from YOLO's .txt: class, middle x and y, width, height."
)


@dataclass
class BoxSet:
    """Pictures and their boxes: picture `items[i]` of `source` has `truths[i]`."""

    source: Any
    items: list[int]
    truths: list[Truth]
    classes: list[str]
    ids: list[int]
    """numbers of the classes in the label file"""
    mended: Mended
    unlabelled: int = 0
    """pictures that the labels do not speak of; they are not used"""

    @property
    def notes(self) -> str:
        """What was left out or changed, in words; empty where nothing was."""
        count = f"{self.unlabelled:,} pictures without labels are not used" if self.unlabelled else ""
        return "; ".join(filter(None, [self.mended.summary, count]))


# Finding -------------------------------------------------------------------------------------------------------------


def box_set(path: str, labels: str | None, known: Sequence[str] | None = None) -> BoxSet:
    """The pictures at `path` that have labels, with their boxes inside of them.

    `labels` is a .json, a .csv, a .yaml, or a folder of .xml or .txt; without it they are looked for around `path`.
    `known`: names of the classes that may occur, whose order then holds. Raises UserError.
    """
    source, listed = pictures_at(path)
    place = Path(labels).expanduser() if labels is not None else found_around(Path(home_spelt(path)))
    if not place.exists():
        raise UserError(f"{place}: no such file or folder. Labels of boxes are {FORMS}.")
    raw = read_labels(place, source)
    return joined(path, source, listed, raw, known)


def pictures_at(path: str, reading: Record | None = None) -> tuple[Any, list[int] | None]:
    """A source of pictures, read as `reading` says, and those of it that a list of VOC's names (None: all).

    Raises UserError.
    """
    image: Any = modalities.load("image")
    spelt = home_spelt(path)
    if disk_of(spelt).remote:
        return image.open_source(spelt, reading=reading), None
    here = Path(spelt)
    if here.is_file() and (folder := voc_of_list(here)):
        source = image.open_source(str(folder / "JPEGImages"))
        stems = {name.rpartition(".")[0]: i for i, name in enumerate(source.names)}
        wanted = [row[0].split()[0] for row in table(here)]
        gone = [stem for stem in wanted if stem not in stems]
        if gone:
            raise UserError(
                f"{path}: {some(gone, len(wanted), 'pictures')} are not in {folder / 'JPEGImages'}. "
                "Get them, or take them out of the list."
            )
        return source, [stems[stem] for stem in dict.fromkeys(wanted)]
    coco = (here / "annotations").is_dir() or any(here.glob("*.json"))
    layouts = (("JPEGImages", (here / "Annotations").is_dir()), ("images", (here / "labels").is_dir() or coco))
    for pictures, meant in layouts:
        if meant and (here / pictures).is_dir():
            return image.open_source(str(here / pictures)), None
    return image.open_source(spelt, reading=reading), None


def voc_of_list(path: Path) -> Path | None:
    """The folder of a VOC set to whose lists a file belongs: ROOT/ImageSets/Main/train.txt."""
    root = path.resolve().parent.parent.parent
    mine = path.suffix.lower() == ".txt" and path.resolve().parent.parent.name == "ImageSets"
    return root if mine and (root / "JPEGImages").is_dir() and (root / "Annotations").is_dir() else None


def found_around(path: Path) -> Path:
    """The labels that belong to pictures at a path. Raises UserError where there are none, or several."""
    voc = voc_of_list(path) if path.is_file() else None
    if voc is not None:
        return voc / "Annotations"
    if not path.is_dir():
        raise UserError(f"{path}: which file has its boxes? Give --labels. Known are {FORMS}.")
    candidates = [path / "Annotations", path / "labels", yolo_folder(path) or path / "labels"]
    candidates += [path.parent / "Annotations"] if path.name == "JPEGImages" else []
    found = {folder.resolve(): folder for folder in candidates if folder.is_dir() and kind_in(folder)}
    if not found and kind_in(path):
        found = {path.resolve(): path}  # each label beside its picture
    jsons = [*sorted(path.glob("*.json")), *sorted((path / "annotations").glob("*.json"))]
    jsons += sorted((path.parent / "annotations").glob(f"instances*{path.name}*.json"))
    found |= {file.resolve(): file for file in jsons[:20] if is_coco(file)}  # not those of one picture each
    if len(found) > 1:
        raise UserError(
            f"{path}: several labels could be meant: {', '.join(str(one) for one in found.values())}. Say which by "
            "--labels."
        )
    if not found:
        for file in jsons[:20]:
            parsed(file)  # one that is cut off is named, not passed over
        raise UserError(f"{path}: no labels of boxes found there. Known are {FORMS}.")
    return next(iter(found.values()))


def is_coco(file: Path) -> bool:
    """Whether a json is COCO's labels of boxes, by its keys."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


# Joining -------------------------------------------------------------------------------------------------------------


def joined(path: str, source: Any, listed: list[int] | None, raw: Raw, known: Sequence[str] | None) -> BoxSet:
    """Labels and pictures brought together, each box in its picture, each class by its number from 0."""
    ids, classes, number = numbered(raw, known)
    find = finder(raw, source)
    items = {name: find(name) for name in raw.pictures}
    gone = [name for name, item in items.items() if item is None]
    if gone:
        raise UserError(
            f"{raw.path}: {some(gone, len(items), 'pictures')} that it names are not in {source.path}. Get them, or "
            "take them out of the labels."
        )
    by_item: dict[int, str] = {}
    for name, item in items.items():
        if item is not None and by_item.setdefault(item, name) != name:
            raise UserError(f"{raw.path}: {by_item[item]} and {name} are both the picture {source.name(item)}.")
    wanted = sorted(by_item) if listed is None else listed
    bare = [source.name(item) for item in wanted if item not in by_item]
    if bare:
        raise UserError(f"{path}: {some(bare, len(wanted), 'pictures')} have no labels in {raw.path}.")
    mended, truths, sizes = Mended(str(raw.path)), [], {}
    for item in wanted:
        name = by_item[item]
        truth = raw.pictures[name]
        if truth.shares:
            height, width = 1, 1
        else:
            height, width = sizes[name] = truth.size or source.header(item)[:2]
        truth = replace(truth, classes=np.array([number[k] for k in truth.classes.tolist()], dtype=np.int64))
        truths.append(mended.truth(truth, height, width, name, raw.written.get(name)))
    if not truths:
        raise UserError(f"{raw.path}: none of the pictures in {source.path} has labels there.")
    if sizes:
        told = np.concatenate([raw.written.get(name, raw.pictures[name].xyxy) for name in sizes])
        refuse_shares(raw.path, told, list(sizes.values()), "boxes", PIXELS, told[:, 2:] - told[:, :2])
    mended.check()
    return BoxSet(source, wanted, truths, classes, ids, mended, 0 if listed is not None else len(source) - len(wanted))


def numbered(raw: Raw, known: Sequence[str] | None) -> tuple[list[int], list[str], dict[int, int]]:
    """Ids and names of the classes in order, and the number of each id. Raises UserError on ids without a name."""
    used = {k for truth in raw.pictures.values() for k in truth.classes.tolist()}
    nameless = sorted(used - raw.names.keys())
    if nameless:
        listed = ", ".join(f"{k} ({name})" for k, name in sorted(raw.names.items())[:40])
        raise UserError(
            f"{raw.path}: boxes of class {', '.join(map(str, nameless[:5]))}, which is not among its classes. Known: "
            f"{listed}."
        )
    if known is None:
        ids = sorted(raw.names)
        twice = {name for name in raw.names.values() if list(raw.names.values()).count(name) > 1}
        if twice:
            raise UserError(f"{raw.path}: two classes are called {min(twice)}. Give each a name of its own.")
        return ids, [raw.names[k] for k in ids], {k: n for n, k in enumerate(ids)}
    place = {name: k for k, name in enumerate(known)}
    for k in sorted(used):
        if raw.names[k] not in place:
            raise unknown("class", raw.names[k], known, f"{raw.path} has it, the head has not learned it.")
    number = {k: place[name] for k, name in raw.names.items() if name in place}
    back = {place: k for k, place in number.items()}
    return [back.get(k, k) for k in range(len(known))], list(known), number


def finder(raw: Raw, source: Any) -> Callable[[str], int | None]:
    """What tells the number of a picture by the name that the labels have for it."""
    if raw.path.is_dir():  # one label file a picture, of the same name but for the suffix
        whole: dict[str, list[int]] = {}
        last: dict[str, list[int]] = {}
        for i in range(len(source)):
            name = source.name(i)
            stem = name.rpartition(".")[0] if "." in name.rpartition("/")[2] else name
            whole.setdefault(stem, []).append(i)
            last.setdefault(stem.rpartition("/")[2], []).append(i)
        stems = {stem: whole.get(stem) or last.get(stem, []) for stem in raw.pictures}
        for stem, found in stems.items():
            if len(found) > 1:
                names = ", ".join(source.name(i) for i in found[:3])
                raise UserError(f"{raw.path}: {stem} could be the label of any of {names}. Rename them.")
        return lambda name: stems[name][0] if stems[name] else None
    find = Finder(raw.path, source.names, source.place, source.path)
    return find.item
