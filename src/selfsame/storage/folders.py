"""Folders, globs and zips: what lies in them, in order, and the labels that folders give.

Raises UserError where a place cannot be listed.
"""

import difflib
import os
import posixpath
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from selfsame.errors import UserError


def walk(root: Path, depth: int | None = None) -> Iterator[str]:
    """Names of the files below `root`, '/'-separated, sorted, without hidden ones; each folder once, however linked."""
    for run in runs(root, depth):
        yield from run


def runs(root: Path, depth: int | None = None) -> Iterator[list[str]]:
    """The same, many at a time. All names of one folder are held at once, no more."""
    seen: set[tuple[int, int]] = set()

    def folder(path: str, prefix: str, depth: int | None) -> Iterator[list[str]]:
        try:
            status = Path(path).stat()
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(inside(path))
        except OSError as error:
            raise UserError(f"{path}: this folder cannot be listed: {error.strerror}.") from error
        files: list[str] = []
        for name in entries:
            if name[-1] != "/":
                files.append(prefix + name)
            elif depth != 1:
                yield files
                files = []
                yield from folder(f"{path}/{name[:-1]}", prefix + name, depth and depth - 1)
        yield files

    return folder(str(root), "", depth)


def inside(path: str) -> Iterator[str]:
    """The files and folders of a folder, these with a slash: sorted so, a walk gives whole names in order."""
    with os.scandir(path) as found:
        for entry in found:
            name = entry.name
            if name[0] == ".":
                continue
            if entry.is_symlink():
                yield f"{name}/" if is_folder(entry) else name  # a broken link is an item that cannot be read
            elif entry.is_file():
                yield name
            elif entry.is_dir():  # anything else is a pipe or a device
                yield f"{name}/"


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def split_glob(path: str) -> tuple[str, tuple[str, ...]]:
    """The part of a path or address before its first wildcard, and the rest, empty where there is no wildcard."""
    parts = tuple(path.split("/")) if "://" in path else Path(path).parts
    start = next((k for k, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts))
    root = "/".join(parts[:start]) if "://" in path else str(Path(*parts[:start]))
    return root, parts[start:]


def depth_of(pattern: tuple[str, ...]) -> int | None:
    """How deep below the root a pattern can match; None for any depth."""
    return None if "**" in pattern else len(pattern)


def matching(names: Iterable[str], pattern: tuple[str, ...]) -> Iterator[str]:
    return (name for name in names if matches(tuple(name.split("/")), pattern))


def matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return matches(parts, pattern[1:]) or (bool(parts) and matches(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


MEDICAL = {
    ".nii": "NIfTI", ".nii.gz": "NIfTI", ".dcm": "DICOM", ".dicom": "DICOM", ".mha": "MetaImage", ".mhd": "MetaImage",
    ".nrrd": "NRRD",
}  # fmt: skip
SOUNDS = (".m4a", ".aac", ".wma", ".amr", ".mka")  # that libsndfile does not read


def suffix_of(name: str) -> str:
    """The suffix with its dot, in small letters; of NIfTI's packed files both."""
    suffix = posixpath.splitext(name)[1].lower()
    return ".nii.gz" if suffix == ".gz" and name.lower().endswith(".nii.gz") else suffix


def converted(suffixes: Iterable[str]) -> str:
    """A sentence for medical images or sound that nothing here reads: how to convert them. "" where there are none."""
    there = set(suffixes)
    kinds = sorted({MEDICAL[suffix] for suffix in there if suffix in MEDICAL})
    if sounds := sorted(there & set(SOUNDS)):
        return f" Convert {' and '.join(sounds)} first, as with: ffmpeg -i in{sounds[0]} out.flac."
    if not kinds:
        return ""
    return (
        f" {' and '.join(kinds)} files are not read: write each slice as a 16-bit PNG or TIFF, and its mask as a PNG "
        "of the same name (SimpleITK, nibabel and pydicom read them)."
    )


def arrays_apart(suffixes: Iterable[str]) -> str:
    """A sentence for arrays in a folder, which are items by themselves: how to give them. "" where there are none."""
    there = set(suffixes)
    ways = {".npz": "FILE.npz::ARRAY", ".npy": "FILE.npy"}
    given = [way for suffix, way in ways.items() if suffix in there]
    return f" Arrays are given by their file: {' or '.join(given)}." if given else ""


def listed(ignored: dict[str, int]) -> str:
    """As in: 12 .pdf, 3 .txt, 1 without suffix."""
    most = Counter(ignored).most_common(5)
    shown = ", ".join(f"{number} {suffix or 'without suffix'}" for suffix, number in most) or "no files"
    return shown + (" and others" if len(ignored) > 5 else "")


def folder_labels(names: Sequence[str]) -> list[str] | None:
    """For each name the first folder in which the names differ; None where there is no such folder."""
    if not len(names):
        return None
    # What the first and the last in order share, all share.
    shared = posixpath.commonprefix([min(names).split("/")[:-1], max(names).split("/")[:-1]])
    depth = len(shared)
    labels: list[str] = []
    for name in names:
        parts = name.split("/", depth + 1)
        if len(parts) < depth + 2:
            return None
        labels.append(sys.intern(parts[depth]))
    return labels


def check_there(path: str) -> None:
    """Raises UserError where a plain path, no address and no pattern, leads nowhere or may not be followed."""
    if "://" in path or any(sign in path for sign in "*?[{"):
        return
    place = Path(path.split("::")[0]).expanduser()
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise nowhere(str(place)) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be opened: {error.strerror}.") from error


def nowhere(path: str) -> UserError:
    """The error for a path that does not exist, with the nearest name that does."""
    place = Path(path)
    while not place.parent.exists():
        place = place.parent
    names = sorted(entry.name for entry in place.parent.iterdir()) if place.parent.is_dir() else []
    near = difflib.get_close_matches(place.name, names, n=1, cutoff=0.5)
    hint = (
        f" Did you mean {str(place.parent / near[0])!r}?"
        if near
        else f" There is no {place.name!r} in {Path.cwd() if place.parent == Path() else place.parent}."
    )
    return UserError(f"{path}: no such file or folder.{hint}")


def opened_zip(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path}: not a zip, or a damaged one ({error}).") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be opened: {error.strerror}.") from error


def mostly(names: Iterable[str], suffixes: Iterable[str]) -> bool:
    """Whether files of these kinds are at least half of all: whether rows of theirs are what a folder is about."""
    kinds = Counter(suffix_of(name) for name in names)
    return 2 * sum(kinds[kind] for kind in suffixes) >= kinds.total()
