"""From a path to a source of images: a folder, a glob, a list, a zip, an array, shards; with labels, if there are any.

Raises UserError where there is nothing to read.
"""

import os
import posixpath
from functools import partial
from itertools import chain, islice
from pathlib import Path

from selfsame.errors import UserError
from selfsame.modalities.image.arrays import IMAGES, label_strings, npz_key, npz_keys, pixels_in, split_key
from selfsame.modalities.image.decode import suffixes
from selfsame.modalities.image.files import chosen, is_image, opener
from selfsame.modalities.image.shards import PACKED, SHARDS, open_shards, source_of_shards
from selfsame.modalities.image.source import ArraySource, FileSource, ImageSource, ZipSource
from selfsame.records import Record
from selfsame.storage.disk import Disk, disk_of, is_address, joined, plain_path
from selfsame.storage.folders import depth_of, folder_labels, listed, matching, opened_zip, split_glob, suffix_of, walk
from selfsame.storage.names import Names, repeated
from selfsame.storage.tables import Finder, paths_and_labels, some, table

LABELS = ("y_train", "y", "labels")
FIRST = 10_000  # files whose names are looked at to see whether a place holds images


class Reading(Record):
    """How images are read: there is nothing to choose."""


def open_source(path: str, labels: str | None = None, reading: Reading | None = None) -> ImageSource:
    """List the images at `path`.

    A folder, a glob, a .txt or .csv list, .npy, .npz (`file.npz::key`), .zip, tar or Parquet shards (one, a folder or a
    pattern of them), or one image; of these folder, glob, shards and image also at an address, as s3://bucket/photos.
    `labels` is a CSV `path,label` or, for arrays, an array (`file.npz::key`); without it the labels are those the
    source has itself: a list's label column, `y_...` beside `x_...`, a shard's `.cls` or `label`, the folders the
    images lie in, or none. Raises UserError.
    """
    path = home_spelt(path)
    file, key = split_key(path)
    disk, suffix = disk_of(file), suffix_of(file)
    source: ImageSource
    if suffix in (*SHARDS, *PACKED) and not disk.is_folder(file):  # a folder may be called anything
        source = open_shards(path)
    elif not disk.exists(file):
        source = open_glob(path)
    elif disk.is_folder(file):
        source = open_folder(path)
    elif disk.remote and suffix in (".txt", ".csv", ".npy", ".npz", ".zip"):
        raise UserError(
            f"{path}: lists, arrays and zips are read from this machine's disks: download it first. "
            "At an address are read: a folder, a pattern, .tar and .parquet."
        )
    elif suffix in (".txt", ".csv"):
        source = open_list(path)
    elif suffix in (".npy", ".npz"):
        source = open_array(file, key)
    elif suffix == ".zip":
        source = ZipSource(path)
    elif disk.remote and suffix in suffixes():
        source = FileSource(path, posixpath.dirname(path), [posixpath.basename(path)])
    elif not disk.remote and is_image(Path(), path):
        source = FileSource(path, Path(path).parent, [Path(path).name])
    else:
        raise UserError(
            f"{path}: no source of images. Give a folder, a glob, a .txt or .csv list, or a .npy, .npz, .zip, .tar or "
            ".parquet file."
        )
    if labels is not None:
        source.labels = labels_from(str(Path(labels).expanduser()), source)
    return source


def reads(path: str) -> int:
    """How many of the first items at `path` look like images, by suffix or content; 0 where nothing is there."""
    path = home_spelt(path)
    file, key = split_key(path)
    place, suffix = Path(file), suffix_of(file)
    try:
        disk = disk_of(file)
        folder = disk.is_folder(file)
        if not folder and (disk.remote or suffix in SHARDS):
            return len(open_source(path))
        if folder:
            names = chain.from_iterable(disk.runs(file))
            known = {*suffixes(), *SHARDS}
            return sum(
                suffix_of(name) in known or (not disk.remote and is_image(place, name)) for name in islice(names, FIRST)
            )
        if not place.exists():
            root, pattern = split_glob(path)
            below = islice(matching(walk(Path(root), depth_of(pattern)), pattern), FIRST)
            return sum(is_image(Path(root), name) for name in below) if pattern else 0
        if suffix in (".txt", ".csv"):
            rows = islice(table(place), FIRST)
            return sum(any(suffix_of(cell.strip()) in suffixes() for cell in row) for row in rows)
        if suffix in (".npy", ".npz"):
            return pixels_in(file, key)
        if suffix == ".zip":
            with opened_zip(file) as members:
                return sum(suffix_of(name) in suffixes() for name in members.namelist())
        return is_image(Path(), path)
    except (UserError, OSError):
        return 0


# Opening -------------------------------------------------------------------------------------------------------------


def home_spelt(path: str) -> str:
    return plain_path(path if is_address(path) else str(Path(path).expanduser()))


def open_folder(path: str) -> ImageSource:
    disk = disk_of(path)
    names, ignored = chosen(disk.runs(path), opener(disk, path))
    held = {suffix: ignored[suffix] for suffix in SHARDS if suffix in ignored}
    if held and sum(held.values()) >= len(names):  # an archive beside many photos is left out, and said so
        if names or len(held) > 1:
            kinds = {**({suffix_of(names[0]): len(names)} if names else {}), **held}
            raise UserError(
                f"{path}: this folder holds shards and other data ({listed(kinds)}). Say which, as in "
                f"{path}/**/*{next(iter(held))}"
            )
        shards = [name for run in disk.runs(path) for name in run if suffix_of(name) in held]
        return source_of_shards(path, [joined(path, name) for name in shards], None)
    if not names:
        raise UserError(
            f"{path}: no images in this folder. It {f'holds {listed(ignored)}' if ignored else 'is empty'}."
        )
    source = FileSource(path, path if disk.remote else Path(path), names, partial(folder_labels, names))
    source.ignored = ignored
    return source


def open_glob(path: str) -> FileSource:
    disk = disk_of(path)
    root, pattern = split_glob(path)
    if not pattern or not disk.is_folder(root):
        raise disk.nowhere(root if pattern else split_key(path)[0])
    below = chain.from_iterable(disk.runs(root, depth_of(pattern)))
    names, ignored = chosen([matching(below, pattern)], opener(disk, root))
    if not names:
        found = f"only {listed(ignored)}" if ignored else "no file"
        raise UserError(
            f"{path}: this pattern matches {found}. Write ** for folders of any depth, as in photos/**/*.jpg."
        )
    source = FileSource(path, root if disk.remote else Path(root), names, partial(folder_labels, names))
    source.ignored = ignored
    return source


def open_list(path: str) -> FileSource:
    """Files named one a line (.txt), or in the column `path` or else the first of a .csv; its labels if complete."""
    here = Path(path).parent
    named, labels = paths_and_labels(Path(path), lambda cell: suffix_of(cell) in suffixes() or is_file(here, cell))
    if not named:
        raise UserError(f"{path}: this list is empty. Give one path a line.")
    names = Names(map(posixpath.normpath, named))
    relative = (name for name in names if not posixpath.isabs(name))
    root = here if any(is_file(here, name) for name in islice(relative, FIRST)) else Path()
    missing = [name for name in names if not is_file(root, name)]
    if missing:
        places = "its folder" if root == Path() == here else f"{here} and the working folder"
        raise UserError(f"{path}: {some(missing, len(names), 'files')} are not there. Looked in {places}.")
    if twice := repeated(names):
        raise UserError(f"{path}: {some(twice, len(names), 'files')} are named more than once.")
    given = partial(folder_labels, names) if labels is None else labels if all(labels) else None
    return FileSource(path, root, names, given)


def is_file(root: Path, name: str) -> bool:
    return os.path.isfile(os.path.join(root, name))  # noqa: PTH113, PTH118 - quick, and False for what is no name


# Labels --------------------------------------------------------------------------------------------------------------


def labels_from(path: str, source: ImageSource) -> list[str]:
    """One label an item, from a CSV `path,label` or, for an array of images, an array of labels. Raises UserError."""
    file, key = split_key(path)
    suffix = Path(file).suffix.lower()
    if not Path(file).exists():
        raise Disk().nowhere(file)
    if suffix in (".npy", ".npz") and isinstance(source, ArraySource):
        key = npz_key(file, key, LABELS) if suffix == ".npz" else None
        labels = label_strings(file, key)
        if labels is None:
            raise UserError(f"{path}: labels are one whole number or one text an item.")
        if len(labels) != len(source):
            raise UserError(f"{path}: {len(labels)} labels for the {len(source)} images of {source.path}.")
        return labels
    if suffix == ".csv":
        return labels_from_csv(Path(file), source)
    raise UserError(
        f"{path}: labels are read from a .csv with the columns path and label, or for arrays from .npy or .npz."
    )


def labels_from_csv(path: Path, source: ImageSource) -> list[str]:
    """Labels by name: a path from the source's root or from the CSV's folder, or a file name that is unique."""
    find = Finder(path, source.names, source.place, source.path)
    cells, labels = paths_and_labels(path, lambda cell: find.item(cell) is not None or suffix_of(cell) in suffixes())
    if labels is None:
        raise UserError(f"{path}: which column is the label? Name the columns path and label.")
    found: dict[int, str] = {}
    for cell, item, label in zip(cells, find.all_of(cells), labels, strict=True):
        if item is not None and found.setdefault(item, label) != label:
            raise UserError(f"{path}: {cell} has two labels, {found[item]} and {label}.")
    bare = [source.name(i) for i in range(len(source)) if not found.get(i)]
    if bare:
        raise UserError(f"{path}: {some(bare, len(source), 'images')} have no label.")
    return [found[i] for i in range(len(source))]


# Arrays --------------------------------------------------------------------------------------------------------------


def open_array(path: str, key: str | None) -> ArraySource:
    if Path(path).suffix.lower() == ".npy":
        return ArraySource(path, None)
    key = npz_key(path, key, IMAGES)
    source = ArraySource(path, key)
    beside = {"x": "y", "images": "labels"}.get(key, f"y_{key[2:]}" if key.startswith("x_") else None)
    if beside in npz_keys(path):
        labels = label_strings(path, beside)
        source.labels = labels if labels is not None and len(labels) == len(source) else None
    return source
