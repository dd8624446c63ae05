"""From a path to a source of images: a folder, a glob, a list, a zip, an array, shards; with labels, if there are any.

Raises UserError where there is nothing to read.
"""

import posixpath
from itertools import chain, islice
from pathlib import Path

from selfsame.errors import UserError
from selfsame.modalities.image.arrays import IMAGES, label_strings, npz_key, npz_keys, pixels_in, split_key
from selfsame.modalities.image.decode import suffixes
from selfsame.modalities.image.files import IMAGE_FILES
from selfsame.modalities.image.shards import PACKED, SHARDS, open_shards, source_of_shards
from selfsame.modalities.image.source import ArraySource, FileSource, ImageSource, ZipSource
from selfsame.records import Record
from selfsame.storage.arrays import misfit
from selfsame.storage.disk import Disk, disk_of, joined
from selfsame.storage.folders import converted, listed, opened_zip, suffix_of
from selfsame.storage.opening import (
    FIRST,
    Found,
    by_pattern,
    count_of,
    home_spelt,
    in_folder,
    in_list,
    labels_from_csv,
    none_in_folder,
)

LABELS = ("y_train", "y", "labels")


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
        source = source_of_files(by_pattern(path, IMAGE_FILES))
    elif disk.is_folder(file):
        source = open_folder(path)
    elif disk.remote and suffix in (".txt", ".csv", ".npy", ".npz", ".zip"):
        raise UserError(
            f"{path}: lists, arrays and zips are read from this machine's disks: download it first. "
            "At an address are read: a folder, a pattern, .tar and .parquet."
        )
    elif suffix in (".txt", ".csv"):
        source = source_of_files(in_list(path, IMAGE_FILES))
    elif suffix in (".npy", ".npz"):
        source = open_array(file, key)
    elif suffix == ".zip":
        source = ZipSource(path)
    elif disk.remote and suffix in suffixes():
        source = FileSource(path, posixpath.dirname(path), [posixpath.basename(path)])
    elif not disk.remote and IMAGE_FILES.known(disk.open, path):
        source = FileSource(path, Path(path).parent, [Path(path).name])
    else:
        raise UserError(
            f"{path}: no source of images. Give a folder, a glob, a .txt or .csv list, or a .npy, .npz, .zip, .tar or "
            f".parquet file.{converted([suffix])}"
        )
    if labels is not None:
        source.labels = labels_from(str(Path(labels).expanduser()), source)
    return source


def reads(path: str) -> int:
    """How many of the first items at `path` look like images, by suffix or content; 0 where nothing is there."""
    path = home_spelt(path)
    file, key = split_key(path)
    suffix = suffix_of(file)
    try:
        disk = disk_of(file)
        folder = disk.is_folder(file)
        if not folder and (disk.remote or suffix in SHARDS):
            return len(open_source(path))
        if folder:
            names = islice(chain.from_iterable(disk.runs(file)), FIRST)
            return sum(suffix_of(name) in SHARDS for name in names) + count_of(file, IMAGE_FILES)
        if suffix in (".npy", ".npz"):
            return pixels_in(file, key)
        if suffix == ".zip":
            with opened_zip(file) as members:
                return sum(suffix_of(name) in suffixes() for name in members.namelist())
        return count_of(path, IMAGE_FILES)
    except (UserError, OSError):
        return 0


# Opening -------------------------------------------------------------------------------------------------------------


def open_folder(path: str) -> ImageSource:
    found = in_folder(path, IMAGE_FILES)
    names, ignored = found.names, found.ignored
    held = {suffix: ignored[suffix] for suffix in SHARDS if suffix in ignored}
    if held and sum(held.values()) >= len(names):  # an archive beside many photos is left out, and said so
        if names or len(held) > 1:
            kinds = {**({suffix_of(names[0]): len(names)} if names else {}), **held}
            raise UserError(
                f"{path}: this folder holds shards and other data ({listed(kinds)}). Say which, as in "
                f"{path}/**/*{next(iter(held))}"
            )
        shards = [name for run in disk_of(path).runs(path) for name in run if suffix_of(name) in held]
        return source_of_shards(path, [joined(path, name) for name in shards], None)
    if not names:
        raise none_in_folder(found, IMAGE_FILES)
    return source_of_files(found)


def source_of_files(found: Found) -> FileSource:
    source = FileSource(found.path, found.root, found.names, found.labels)
    source.ignored = found.ignored
    return source


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
        known = suffixes()
        return labels_from_csv(
            Path(file), source.names, source.place, source.path, IMAGE_FILES, lambda cell: suffix_of(cell) in known
        )
    raise UserError(
        f"{path}: labels are read from a .csv with the columns path and label, or for arrays from .npy or .npz."
    )


# Arrays --------------------------------------------------------------------------------------------------------------


def open_array(path: str, key: str | None) -> ArraySource:
    if Path(path).suffix.lower() == ".npy":
        return ArraySource(path, None)
    key = npz_key(path, key, IMAGES)
    source = ArraySource(path, key)
    beside = {"x": "y", "images": "labels"}.get(key, f"y_{key[2:]}" if key.startswith("x_") else None)
    if beside is not None and beside in npz_keys(path):
        labels = label_strings(path, beside)
        error = misfit(path, key, beside, len(labels or ()), len(source))

        def refused() -> list[str]:  # when they are asked for: nothing in training does
            raise error

        source.known_labels = labels if labels is not None and len(labels) == len(source) else refused
    return source
