"""Pictures and the files that say what is in them, found by their names: masks, depth.

A file is a label where the deepest telling folder of its path is called so (label/, masks/, SegmentationClass/), or,
without such a folder, where its name begins or ends so (07_mask.png, 07.depth.png). Picture and label belong together
when nothing but these words and the suffix differs: train/image/3.png and train/label/3.png.

Raises UserError where there are no pairs, or more labels than one for a picture.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfsame import modalities
from selfsame.engine.watch import say
from selfsame.errors import UnreadableItem, UserError
from selfsame.records import Record
from selfsame.storage.disk import disk_of, joined
from selfsame.storage.folders import converted
from selfsame.storage.opening import Kind, by_pattern, home_spelt, in_folder

PICTURES = frozenset((
    "color", "colour", "frames", "image", "images", "img", "imgs", "input", "inputs", "jpegimages", "leftimg8bit",
    "photo", "photos", "pictures", "rgb",
))  # fmt: skip
"""words of the folders and files that are pictures"""
BROKEN = 0.01  # largest share of labels that cannot be used, as of items in other jobs


@dataclass(frozen=True)
class Labels:
    """What the labels of a task are called."""

    one: str
    """mask"""
    many: str
    """masks"""
    folder: str
    """an example of a folder of them: label"""
    words: frozenset[str]
    """words of their folders and names, in small letters"""
    suffixes: Collection[str]
    """of their files, with the dot, in small letters"""

    @property
    def kind(self) -> Kind:
        return Kind(self.many, f"{self.folder}/**/*.png", lambda: self.suffixes)


@dataclass
class Pairs:
    """Pictures that have a label."""

    source: Any
    """all pictures there: an image source"""
    items: list[int]
    """those of the source that have a label or, where none are wanted, that are none"""
    files: list[str] = field(default_factory=list)
    """the label of each of `items`"""
    without: list[str] = field(default_factory=list)
    """names of pictures without a label"""
    alone: list[str] = field(default_factory=list)
    """labels without a picture"""

    def left_out(self, labels: Labels) -> str:
        """As in: 30 pictures without a mask (test/15.png ...)."""
        parts = []
        if self.without:
            parts.append(f"{len(self.without):,} pictures without a {labels.one} ({self.without[0]} ...)")
        if self.alone:
            parts.append(f"{len(self.alone):,} {labels.many} without a picture ({self.alone[0]} ...)")
        return ", ".join(parts)


Named = Sequence[tuple[str, str]]  # files, and the keys by which they meet


def find(path: str, where: str | None, labels: Labels, wanted: bool = True, reading: Record | None = None) -> Pairs:
    """The pictures at a path with their labels, which lie in the folder or pattern `where`, or are looked for.

    With `wanted` False no labels are needed: those that lie beside their pictures are left out. `reading` says how
    pictures are read.
    """
    source: Any = modalities.load("image").open_source(path, reading=reading)
    place = source.place
    if place is None or disk_of(str(place)).remote:
        if not wanted:
            return Pairs(source, list(range(len(source))))
        raise UserError(
            f"{path}: {labels.many} are read beside picture files in a folder of this machine. "
            f"Download or unpack it, and give a folder that holds image/ and {labels.folder}/."
        )
    if not wanted:
        if not disk_of(path).is_folder(path):  # pictures that are named one by one, or by a pattern, are meant
            return Pairs(source, list(range(len(source))))
        pictures, found = among(source, place, labels)
        keys = set(pictures.values())
        taken = {file for file, key in found if key in keys}
        return Pairs(source, [i for i in range(len(source)) if joined(place, source.name(i)) not in taken])
    if where is None and disk_of(path).is_folder(path):
        pictures, found = among(source, place, labels)
        if not found and (beside := sibling(Path(path).resolve(), labels)):
            pictures, found = apart(source, place, str(beside), labels)
    elif where is None:
        pictures, found = among(source, place, labels)
    else:
        pictures, found = apart(source, place, home_spelt(where), labels)
    return matched(source, path, labels, pictures, found)


def among(source: Any, place: str, labels: Labels) -> tuple[dict[int, str], Named]:
    """Pictures by number, and labels, that lie below the same place."""
    pictures = {}
    for i in range(len(source)):
        kind, key = role(source.name(i), labels)
        if kind == "picture":
            pictures[i] = key
    names = ((name, *role(name, labels)) for name in in_folder(place, labels.kind).names)
    return pictures, [(joined(place, name), key) for name, kind, key in names if kind == "label"]


def apart(source: Any, place: str, where: str, labels: Labels) -> tuple[dict[int, str], Named]:
    """The same, with the labels in a folder or of a pattern that is named."""
    disk = disk_of(where)
    if disk.remote:
        raise UserError(f"{where}: {labels.many} are read from this machine's disks: download them first.")
    found = in_folder(where, labels.kind) if disk.is_folder(where) else by_pattern(where, labels.kind)
    if not len(found.names):
        raise UserError(
            f"{where}: no {labels.many}: no file ends in {', '.join(sorted(labels.suffixes))}."
            f"{converted(found.ignored)}"
        )
    files = [joined(found.root, name) for name in found.names]
    taken = {str(Path(file).resolve()) for file in files}
    pictures = {
        i: key_of(source.name(i), PICTURES, labels)
        for i in range(len(source))
        if str((Path(place) / source.name(i)).resolve()) not in taken
    }
    keys = [key_of(name, labels.words, labels) for name in found.names]
    if not set(keys) & set(pictures.values()):  # other folders on the two sides: the names of the files decide
        pictures = {i: posixpath.basename(key) for i, key in pictures.items()}
        keys = [posixpath.basename(key) for key in keys]
    return pictures, list(zip(files, keys, strict=True))


def sibling(path: Path, labels: Labels) -> Path | None:
    """The labels of a folder of pictures: label/ of image/, train_masks/ of train/, masks/train/ of images/train/."""
    for folder in (path, *path.parents[:2]):
        own = stripped(folder.name, PICTURES)
        if own is None and folder != path:
            continue
        own, below = folder.name.lower() if own is None else own, path.relative_to(folder)
        like = [one for one in sorted(folder.parent.iterdir()) if stripped(one.name, labels.words) == own]
        found = [one / below for one in like if (one / below).is_dir()]
        if len(found) > 1:
            names = " or ".join(map(str, found))
            raise UserError(f"{path}: its {labels.many} may lie in {names}. Say where with --labels FOLDER.")
        if found:
            return found[0]
    return None


def matched(source: Any, path: str, labels: Labels, pictures: dict[int, str], found: Named) -> Pairs:
    """Pictures and labels of the same key."""
    by_key: dict[str, list[str]] = {}
    for file, key in found:
        by_key.setdefault(key, []).append(file)
    items = [i for i, key in pictures.items() if key in by_key]
    counts = Counter(pictures[i] for i in items)
    for i in items:
        files = by_key[pictures[i]]
        if len(files) > 1:
            raise UserError(
                f"{path}: {source.name(i)} has {len(files)} {labels.many}: {', '.join(files[:3])}. Say which are "
                "meant, by a folder or a pattern: --labels 'gtFine/**/*_labelTrainIds.png'."
            )
        if counts[pictures[i]] > 1:
            twice = [source.name(k) for k in items if pictures[k] == pictures[i]]
            raise UserError(
                f"{path}: {' and '.join(twice[:3])} have one {labels.one}, {files[0]}. Rename or remove one."
            )
    if found and not pictures:
        raise UserError(
            f"{path}: no pictures beside the {len(found):,} {labels.many}. Name the folder of {labels.many} alone."
        )
    if not items and found:
        raise UserError(
            f"{path}: no {labels.one} has the name of a picture. There are {len(pictures):,} pictures, as "
            f"{source.name(next(iter(pictures)))}, and {len(found):,} {labels.many}, as {found[0][0]}. "
            "Give those that belong together the same name."
        )
    if not items:
        raise UserError(
            f"{path}: no {labels.many} found beside the pictures. Put pictures into image/ and {labels.many} of the "
            f"same names into {labels.folder}/, or say where they are with --labels FOLDER."
        )
    return Pairs(
        source,
        items,
        [by_key[pictures[i]][0] for i in items],
        [source.name(i) for i, key in pictures.items() if key not in by_key],
        [file for file, key in found if key not in counts],
    )


def usable(
    found: Pairs,
    broken: dict[int, str],
    size_of: Callable[[str], tuple[int, int]],
    labels: Labels,
    path: str,
    empty: dict[int, str] | None = None,
) -> list[int]:
    """Which of the pairs can be used: not those that are `broken` or `empty`, with the reason, nor those of two sizes.

    Says what is left out. Raises UserError where more than BROKEN of the pairs are broken or of two sizes.
    """

    def odd(k: int) -> str:
        try:
            label, picture = size_of(found.files[k]), tuple(found.source.header(found.items[k])[:2])
        except UnreadableItem:
            return ""  # told where it is read
        if label == picture:
            return ""
        sizes = f"{picture[1]} x {picture[0]} px, its {labels.one} {label[1]} x {label[0]} px"
        return f"the picture has {sizes} ({found.files[k]})"

    with ThreadPoolExecutor(8) as pool:  # the headers alone are read
        broken = broken | {k: reason for k, reason in enumerate(pool.map(odd, range(len(found.files)))) if reason}
    if len(broken) > BROKEN * len(found.items):
        first = min(broken)
        raise UserError(
            f"{len(broken)} of {len(found.items)} {labels.many} at {path} cannot be used (at most {BROKEN:.0%} may "
            f"be). {found.source.name(found.items[first])}: {broken[first]}. Mend or remove them."
        )
    if left_out := found.left_out(labels):
        say(f"left out: {left_out}")
    broken = broken | (empty or {})
    for k, reason in sorted(broken.items()):
        say(f"left out: {found.source.name(found.items[k])}: {reason}", "yellow")
    return [k for k in range(len(found.items)) if k not in broken]


# Names ---------------------------------------------------------------------------------------------------------------


def role(name: str, labels: Labels) -> tuple[str, str]:
    """("picture" or "label", key) of a file, by its deepest telling folder or else by its own name."""
    for folder in reversed(posixpath.dirname(name).split("/")):
        for kind, words in (("label", labels.words), ("picture", PICTURES)):
            if stripped(folder, words) is not None:
                return kind, key_of(name, words, labels)
    stem = posixpath.splitext(posixpath.basename(name))[0]
    words = labels.words if bare(stem, labels.words) != stem else PICTURES
    return "label" if words is labels.words else "picture", key_of(name, words, labels)


def key_of(name: str, words: Collection[str], labels: Labels) -> str:
    """A name without suffix and telling words: of its folders those of its side, of the file itself those of both, so
    that image/IMG_7.jpg and label/IMG_7.png meet."""
    folders, stem = posixpath.dirname(name).split("/"), posixpath.splitext(posixpath.basename(name))[0]
    for place in reversed(range(len(folders))):
        if (rest := stripped(folders[place], words)) is not None:
            folders[place] = rest
            break
    return "/".join([*filter(None, folders), bare(stem, PICTURES | labels.words)])


def unmarked(name: str) -> str:
    """The name of an item without the words at its end that say it is the picture: a/7.color.png -> a/7.png."""
    folder, file = posixpath.split(name)
    stem, suffix = posixpath.splitext(file)
    parts = re.split(r"([^0-9A-Za-z]+)", stem)
    while len(parts) >= 3 and parts[-1].lower() in PICTURES:
        parts = parts[:-2]
    return posixpath.join(folder, "".join(parts) + suffix)


def stripped(folder: str, words: Collection[str]) -> str | None:
    """A folder's name in small letters without the telling words; None where it has none."""
    parts = [part for part in re.split(r"[^0-9a-z]+", folder.lower()) if part]
    if "".join(parts) in words:
        return ""
    rest = [part for part in parts if part not in words]
    return "_".join(rest) if len(rest) < len(parts) else None


def bare(stem: str, words: Collection[str]) -> str:
    """A file's name without telling words at its ends, as long as something is left."""
    parts = re.split(r"([^0-9A-Za-z]+)", stem)
    while len(parts) >= 3 and parts[-1].lower() in words:
        parts = parts[:-2]
    while len(parts) >= 3 and parts[0].lower() in words:
        parts = parts[2:]
    return "".join(parts)
