"""From a path to recordings: a folder, a glob, a list of files, or one file; with labels, if there are any.

Raises UserError where there is nothing to read.
"""

import os
import posixpath
from collections import Counter
from collections.abc import Iterable
from functools import partial
from itertools import chain, islice
from pathlib import Path

from selfsame.errors import UserError
from selfsame.modalities.audio.reading import SUFFIXES, Reading
from selfsame.modalities.audio.source import AudioSource, soundfile
from selfsame.storage.disk import Disk, disk_of, is_address, plain_path
from selfsame.storage.folders import depth_of, folder_labels, listed, matching, split_glob, suffix_of
from selfsame.storage.names import Names, repeated
from selfsame.storage.tables import Finder, paths_and_labels, some, table

__all__ = ["open_source", "reads"]

FIRST = 10_000  # files whose names are looked at to see whether a place holds recordings
OTHERS = (".m4a", ".aac", ".wma", ".mp4", ".webm", ".amr", ".mka")  # sound that libsndfile does not read


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
        source = open_glob(path, reading)
    elif disk.is_folder(path):
        source = open_folder(path, reading)
    elif suffix in (".txt", ".csv") and not disk.remote:
        source = open_list(path, reading, folders)
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


def reads(path: str) -> int:
    """How many recordings are among the first files at `path`, by their suffix; 0 where nothing is there."""
    try:
        path = home_spelt(path)
        disk, suffix = disk_of(path), suffix_of(path)
        if disk.is_folder(path):
            names: Iterable[str] = chain.from_iterable(disk.runs(path))
        elif suffix in SUFFIXES and (disk.remote or disk.exists(path)):
            return 1
        elif not disk.remote and disk.exists(path):
            listing = suffix in (".txt", ".csv")
            names = (cell.strip() for row in table(Path(path)) for cell in row) if listing else ()
        else:
            root, pattern = split_glob(path)
            below = chain.from_iterable(disk.runs(root, depth_of(pattern))) if pattern and disk.is_folder(root) else ()
            names = matching(below, pattern)
        return sum(map(is_recording, islice(names, FIRST)))
    except (UserError, OSError, ValueError):
        return 0


def home_spelt(path: str) -> str:
    return plain_path(path if is_address(path) else str(Path(path).expanduser()))


def is_recording(name: str) -> bool:
    return suffix_of(name) in SUFFIXES


def chosen(names: Iterable[str]) -> tuple[Names, dict[str, int]]:
    """The recordings among the names, in their order, and the others counted by suffix."""
    ignored: Counter[str] = Counter()

    def wanted(name: str) -> bool:
        if is_recording(name):
            return True
        ignored[suffix_of(name)] += 1
        return False

    return Names(filter(wanted, names)), dict(ignored)


def converted(suffixes: Iterable[str]) -> str:
    """What to do with sound of other kinds."""
    found = sorted(set(suffixes) & set(OTHERS))
    return f" Convert {' and '.join(found)} first, as with: ffmpeg -i in{found[0]} out.flac" if found else ""


def open_folder(path: str, reading: Reading | None) -> AudioSource:
    disk = disk_of(path)
    names, ignored = chosen(chain.from_iterable(disk.runs(path)))
    if not names:
        held = f"holds {listed(ignored)}" if ignored else "is empty"
        raise UserError(
            f"{path}: no recordings in this folder. It {held}. Read are {', '.join(SUFFIXES)}.{converted(ignored)}"
        )
    source = AudioSource(path, path if disk.remote else Path(path), names, partial(folder_labels, names), reading)
    source.ignored = ignored
    return source


def open_glob(path: str, reading: Reading | None) -> AudioSource:
    disk = disk_of(path)
    root, pattern = split_glob(path)
    if not pattern or not disk.is_folder(root):
        raise disk.nowhere(root if pattern else path)
    names, ignored = chosen(matching(chain.from_iterable(disk.runs(root, depth_of(pattern))), pattern))
    if not names:
        found = f"only {listed(ignored)}" if ignored else "no file"
        raise UserError(
            f"{path}: this pattern matches {found}. Write ** for folders of any depth, as in sounds/**/*.wav."
            f"{converted(ignored)}"
        )
    source = AudioSource(path, root if disk.remote else Path(root), names, partial(folder_labels, names), reading)
    source.ignored = ignored
    return source


def open_list(path: str, reading: Reading | None, folders: bool) -> AudioSource:
    """Files named one a line (.txt), or in the column `path` or else the first of a .csv; its labels if complete."""
    here = Path(path).parent
    named, labels = paths_and_labels(Path(path), is_recording)
    if not named:
        raise UserError(f"{path}: this list is empty. Give one path a line.")
    names = Names(map(posixpath.normpath, named))
    relative = (name for name in names if not posixpath.isabs(name))
    root = here if any(is_file(here, name) for name in islice(relative, FIRST)) else Path()
    if missing := [name for name in names if not is_file(root, name)]:
        places = "its folder" if root == Path() == here else f"{here} and the working folder"
        raise UserError(f"{path}: {some(missing, len(names), 'files')} are not there. Looked in {places}.")
    if twice := repeated(names):
        raise UserError(f"{path}: {some(twice, len(names), 'files')} are named more than once.")
    own = labels is not None and all(labels) and not folders
    return AudioSource(path, root, names, labels if own else partial(folder_labels, names), reading)


def is_file(root: Path, name: str) -> bool:
    return os.path.isfile(os.path.join(root, name))  # noqa: PTH113, PTH118 - quick, and False for what is no name


def labels_from(path: str, source: AudioSource) -> list[str]:
    """One label a file, from a CSV `path,label`: by a path from the source's root or the CSV's folder, or by a file
    name that is unique. Raises UserError."""
    if not Path(path).exists():
        raise Disk().nowhere(path)
    if Path(path).suffix.lower() != ".csv":
        raise UserError(f'{path}: labels are read from a .csv with the columns path and label, or are "folders".')
    find = Finder(Path(path), source.files, source.place, source.path)
    cells, labels = paths_and_labels(Path(path), find.names_item)
    if labels is None:
        raise UserError(f"{path}: which column is the label? Name the columns path and label.")
    found: dict[int, str] = {}
    for cell, item, label in zip(cells, find.all_of(cells), labels, strict=True):
        if item is not None and found.setdefault(item, label) != label:
            raise UserError(f"{path}: {cell} has two labels, {found[item]} and {label}.")
    bare = [name for k, name in enumerate(source.files) if not found.get(k)]
    if bare:
        raise UserError(f"{path}: {some(bare, len(source.files), 'recordings')} have no label.")
    return [found[k] for k in range(len(source.files))]
