"""From a path to a source of images: a folder, a glob, a list, a zip, an array, shards, videos; with labels, if any.

Raises UserError where there is nothing to read.
"""

import posixpath
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

from pydantic import Field

from selfsame.errors import UserError
from selfsame.modalities.image.arrays import IMAGES, label_strings, npz_key, npz_keys, pixels_in, split_key
from selfsame.modalities.image.decode import suffixes
from selfsame.modalities.image.files import IMAGE_FILES, VIDEO_FILES, VIDEO_SUFFIXES
from selfsame.modalities.image.shards import PACKED, SHARDS, open_shards, source_of_shards
from selfsame.modalities.image.source import ArraySource, FileSource, ImageSource, ZipSource
from selfsame.modalities.image.video import VideoSource
from selfsame.records import Record
from selfsame.storage.arrays import misfit
from selfsame.storage.disk import Disk, disk_of, joined
from selfsame.storage.folders import converted, listed, opened_zip, suffix_of
from selfsame.storage.opening import (
    FIRST,
    Found,
    Kind,
    by_pattern,
    count_of,
    home_spelt,
    in_folder,
    in_list,
    labels_from_csv,
    none_in_folder,
)
from selfsame.storage.tables import TABLES

LABELS = ("y_train", "y", "labels")


class Reading(Record):
    """How images are read."""

    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    """frames a second that are items, of videos; unless given, every frame"""


def open_source(path: str, labels: str | None = None, reading: Reading | None = None) -> ImageSource:
    """List the images at `path`.

    A folder, a glob, a .txt or .csv list, .npy, .npz (`file.npz::key`), .zip, tar or Parquet shards (one, a folder or a
    pattern of them), or one image; of these folder, glob, shards and image also at an address, as s3://bucket/photos.
    Where these name videos and no images, the frames of the videos. `labels` is a CSV `path,label` or, for arrays, an
    array (`file.npz::key`); without it the labels are those the source has itself: a list's label column, `y_...`
    beside `x_...`, a shard's `.cls` or `label`, the folders the images lie in, or none. Raises UserError.
    """
    fps = reading.fps if reading is not None else None
    path = home_spelt(path)
    file, key = split_key(path)
    disk, suffix = disk_of(file), suffix_of(file)
    source: ImageSource
    if suffix in (*SHARDS, *PACKED) and not disk.is_folder(file):  # a folder may be called anything
        source = open_shards(path)
    elif not disk.exists(file):
        kind = kind_at(path)
        source = source_of_files(by_pattern(path, kind), kind, fps)
    elif disk.is_folder(file):
        source = open_folder(path, fps)
    elif disk.remote and suffix in (".txt", ".csv", ".npy", ".npz", ".zip"):
        raise UserError(
            f"{path}: lists, arrays and zips are read from this machine's disks: download it first. "
            "At an address are read: a folder, a pattern, .tar and .parquet."
        )
    elif suffix in (".txt", ".csv"):
        kind = kind_at(path)
        source = source_of_files(in_list(path, kind), kind, fps)
    elif suffix in (".npy", ".npz"):
        source = open_array(file, key)
    elif suffix == ".zip":
        source = ZipSource(path)
    elif suffix in VIDEO_SUFFIXES:
        root = posixpath.dirname(path) if disk.remote else Path(path).parent
        source = VideoSource(path, root, [posixpath.basename(path)], fps=fps)
    elif disk.remote and suffix in suffixes():
        source = FileSource(path, posixpath.dirname(path), [posixpath.basename(path)])
    elif not disk.remote and IMAGE_FILES.known(disk.open, path):
        source = FileSource(path, Path(path).parent, [Path(path).name])
    else:
        raise UserError(
            f"{path}: no source of images. Give a folder, a glob, a .txt or .csv list, or a .npy, .npz, .zip, .tar, "
            f".parquet or video file ({', '.join(VIDEO_SUFFIXES)}).{converted([suffix])}"
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
            shards = sum(suffix_of(name) in SHARDS for name in names)
            return shards + count_of(file, IMAGE_FILES) + count_of(file, VIDEO_FILES)
        if suffix in (".npy", ".npz"):
            return pixels_in(file, key)
        if suffix == ".zip":
            with opened_zip(file) as members:
                return sum(suffix_of(name) in suffixes() for name in members.namelist())
        return count_of(path, kind_at(path))
    except (UserError, OSError):
        return 0


# Opening -------------------------------------------------------------------------------------------------------------


def open_folder(path: str, fps: float | None) -> ImageSource:
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
    videos = {suffix: ignored[suffix] for suffix in VIDEO_SUFFIXES if suffix in ignored}
    if videos and not names:
        return source_of_files(in_folder(path, VIDEO_FILES), VIDEO_FILES, fps)
    if videos and sum(videos.values()) >= len(names):  # a clip or two beside many photos are left out, and said so
        kinds = {suffix_of(names[0]): len(names), **videos}
        raise UserError(
            f"{path}: this folder holds images and videos ({listed(kinds)}). Say which, as in "
            f"{path}/**/*{next(iter(videos))}"
        )
    if not names:
        raise none_in_folder(found, IMAGE_FILES)
    return source_of_files(found)


def kind_at(path: str) -> Kind:
    """What a pattern or a list names, or a file is: videos, where some are and none is an image."""

    def count(kind: Kind) -> int:
        try:
            return count_of(path, kind)
        except (UserError, OSError):  # said where it is opened
            return 0

    return VIDEO_FILES if not count(IMAGE_FILES) and count(VIDEO_FILES) else IMAGE_FILES


def source_of_files(found: Found, kind: Kind = IMAGE_FILES, fps: float | None = None) -> ImageSource:
    source: ImageSource
    if kind is VIDEO_FILES:
        source = VideoSource(found.path, found.root, found.names, found.labels, fps)
    else:
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
    if suffix in TABLES and isinstance(source, VideoSource) and count_of(file, VIDEO_FILES):  # a line a video
        of_videos = labels_from_csv(
            Path(file), source.videos, source.place, source.path, VIDEO_FILES, lambda c: suffix_of(c) in VIDEO_SUFFIXES
        )
        source.label_frames(of_videos)
        assert source.labels is not None
        return source.labels
    if suffix in TABLES:
        known = suffixes()
        return labels_from_csv(
            Path(file), source.names, source.place, source.path, IMAGE_FILES, lambda cell: suffix_of(cell) in known
        )
    raise UserError(
        f"{path}: labels are read from a .csv or .parquet with the columns path and label, or for arrays "
        "from .npy or .npz."
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
