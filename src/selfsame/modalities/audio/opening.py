"""From a path to recordings: a folder, a glob, a list of files, or one file; with labels, if there are any.

Raises UserError where there is nothing to read.
"""

import posixpath
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from selfsame.errors import UserError
from selfsame.modalities.audio.reading import SUFFIXES, Reading
from selfsame.modalities.audio.source import AudioSource, soundfile
from selfsame.storage.disk import Disk, disk_of
from selfsame.storage.folders import SOUNDS, folder_labels, suffix_of
from selfsame.storage.opening import (
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

__all__ = ["open_source", "reads"]

OTHERS = (*SOUNDS, ".mp4", ".webm")  # sound that libsndfile does not read; the latter are films where they are read


def open_source(path: str, labels: str | None = None, reading: Reading | None = None) -> AudioSource:
    """List the recordings at `path`: a folder, a glob, a .txt or .csv list, or one file.

    Folder, glob and file may also lie at an address, as s3://bucket/sounds. `labels` is a CSV `path,label`, or
    "folders"; without it the labels are a list's own, or the folders the recordings lie in, or none. Raises UserError.
    """
    soundfile()  # what is missing is said before anything is listed
    path = home_spelt(path)
    disk, suffix = disk_of(path), suffix_of(path)
    folders = labels == "folders"
    if not disk.exists(path):
        source = source_of(by_pattern(path, RECORDINGS), reading, folders)
    elif disk.is_folder(path):
        found = in_folder(path, RECORDINGS)
        if not found.names:
            raise none_in_folder(found, RECORDINGS)
        source = source_of(found, reading, folders)
    elif suffix in (".txt", ".csv") and not disk.remote:
        source = source_of(in_list(path, RECORDINGS), reading, folders)
    elif suffix in SUFFIXES:
        root = posixpath.dirname(path) if disk.remote else Path(path).parent
        source = AudioSource(path, root, [posixpath.basename(path)], None, reading)
    else:
        raise UserError(
            f"{path}: no source of recordings. Give a folder, a glob, a .txt or .csv list, or a recording: "
            f"{', '.join(SUFFIXES)}.{converted([suffix])}"
        )
    if folders and source.labels is None:
        raise UserError(
            f"{path}: the recordings lie in no folders of their own, one a class, so folders give no labels. Give a "
            "CSV with the columns path and label."
        )
    if labels is not None and not folders:
        source.file_labels = labels_from(str(Path(labels).expanduser()), source)
    return source


def converted(suffixes: Iterable[str]) -> str:
    """What to do with sound of other kinds."""
    found = sorted(set(suffixes) & set(OTHERS))
    return f" Convert {' and '.join(found)} first, as with: ffmpeg -i in{found[0]} out.flac" if found else ""


RECORDINGS = Kind("recordings", "sounds/**/*.wav", lambda: SUFFIXES, cure=converted)


def reads(path: str) -> int:
    """How many of the first files at `path` are recordings, by their suffix; 0 where nothing is there."""
    try:
        return count_of(home_spelt(path), RECORDINGS)
    except (UserError, OSError, ValueError):
        return 0


def source_of(found: Found, reading: Reading | None, folders: bool = False) -> AudioSource:
    """`folders`: the labels are the folders, whatever a list says."""
    labels = partial(folder_labels, found.names) if folders else found.labels
    source = AudioSource(found.path, found.root, found.names, labels, reading)
    source.ignored = found.ignored
    return source


def labels_from(path: str, source: AudioSource) -> list[str]:
    """One label a file, from a CSV `path,label`. Raises UserError."""
    if not Path(path).exists():
        raise Disk().nowhere(path)
    if Path(path).suffix.lower() not in TABLES:
        raise UserError(
            f'{path}: labels are read from a .csv or .parquet with the columns path and label, or are "folders".'
        )
    where = source.path
    return labels_from_csv(
        Path(path), source.files, source.place, where, RECORDINGS, lambda cell: suffix_of(cell) in SUFFIXES
    )
