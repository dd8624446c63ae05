"""Which files of a folder, a glob or a zip are images, and the labels that their folders give.

Raises UserError where a place cannot be listed.
"""

import difflib
import os
import posixpath
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.image.decode import Picture, readable, suffixes


def walk(root: Path, depth: int | None = None) -> Iterator[str]:
    """Names of the files below `root`, '/'-separated, without hidden ones; each folder once, however it is linked."""
    seen: set[tuple[int, int]] = set()

    def folder(path: str, prefix: str, depth: int | None) -> Iterator[str]:
        try:
            status = Path(path).stat()
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{path}: this folder cannot be listed: {error.strerror}.") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if is_folder(entry):
                if depth != 1:
                    yield from folder(entry.path, f"{prefix}{entry.name}/", depth and depth - 1)
            elif entry.is_symlink() or entry.is_file():  # a broken link is an item that cannot be read; a pipe is none
                yield prefix + entry.name

    return folder(str(root), "", depth)


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def split_glob(path: str) -> tuple[Path, tuple[str, ...]]:
    """The part of a path before its first wildcard, and the rest, empty where there is no wildcard."""
    parts = Path(path).parts
    start = next((k for k, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts))
    return Path(*parts[:start]), parts[start:]


def matching(root: Path, pattern: tuple[str, ...]) -> Iterator[str]:
    depth = None if "**" in pattern else len(pattern)
    return (name for name in walk(root, depth) if matches(tuple(name.split("/")), pattern))


def matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return matches(parts, pattern[1:]) or (bool(parts) and matches(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def chosen(names: Iterable[str], opened: Callable[[str], IO[bytes]]) -> tuple[list[str], dict[str, int]]:
    """The images among the names, sorted, and the others counted by suffix. Files without suffix are looked into."""
    images: list[str] = []
    ignored: Counter[str] = Counter()
    for name in names:
        suffix = suffix_of(name)
        if suffix in suffixes() or (not suffix and holds_image(opened, name)):
            images.append(name)
        else:
            ignored[suffix] += 1
    return sorted(images), dict(ignored)


def is_image(root: Path, name: str) -> bool:
    suffix = suffix_of(name)
    return suffix in suffixes() if suffix else holds_image(files_of(root), name)


def files_of(root: Path) -> Callable[[str], IO[bytes]]:
    return lambda name: (root / name).open("rb")


def holds_image(opened: Callable[[str], IO[bytes]], name: str) -> bool:
    try:
        with readable(), opened(name) as file:
            Picture(file)
    except UnreadableItem:
        return False
    return True


def suffix_of(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def listed(ignored: dict[str, int]) -> str:
    """As in: 12 .pdf, 3 .txt, 1 without suffix."""
    most = Counter(ignored).most_common(5)
    shown = ", ".join(f"{number} {suffix or 'without suffix'}" for suffix, number in most) or "no files"
    return shown + (" and others" if len(ignored) > 5 else "")


def folder_labels(names: Sequence[str]) -> list[str] | None:
    """For each name the first folder in which the names differ; None where there is no such folder."""
    depth = 0
    while True:
        split = [name.split("/", depth + 1) for name in names]
        if any(len(parts) < depth + 2 for parts in split):
            return None
        if any(parts[depth] != split[0][depth] for parts in split):
            return [sys.intern(parts[depth]) for parts in split]
        depth += 1


def nowhere(path: str) -> UserError:
    """The error for a path that does not exist, with the nearest name that does."""
    if re.match(r"[a-z0-9]{2,}:/", path):  # a path has lost one of the two slashes
        return UserError(f"{path} is an address. Data is read from this machine's disks only: download it first.")
    place = Path(path)
    while not place.parent.exists():
        place = place.parent
    names = sorted(entry.name for entry in place.parent.iterdir()) if place.parent.is_dir() else []
    near = difflib.get_close_matches(place.name, names, n=1, cutoff=0.5)
    hint = (
        f" Did you mean {str(place.parent / near[0])!r}?" if near else f" There is no {place.name!r} in {place.parent}."
    )
    return UserError(f"{path}: no such file or folder.{hint}")


def opened_zip(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path}: not a zip, or a damaged one ({error}).") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be opened: {error.strerror}.") from error
