"""Files of one kind: those of a folder, of a pattern, of a list, and the labels of a CSV beside them.

Raises UserError where there are none.
"""

import os
import posixpath
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import IO, Any

from selfsame.errors import UserError
from selfsame.storage.disk import Disk, disk_of, is_address, joined, plain_path
from selfsame.storage.folders import depth_of, folder_labels, listed, matching, split_glob, suffix_of, walk
from selfsame.storage.names import AT_ONCE, Names, repeated
from selfsame.storage.tables import Finder, paths_and_labels, some, table

FIRST = 10_000  # files that are looked at to see what a place holds
LISTED = 64  # names of one folder, in a run of a list, above which the folder is listed

Opened = Callable[[str], IO[bytes]]  # a file by its name


@dataclass(frozen=True)
class Kind:
    """Files of one kind."""

    plural: str
    """what they are called: images"""
    pattern: str
    """an example of one for all of them: photos/**/*.jpg"""
    suffixes: Callable[[], Collection[str]]
    """by which they are known, with the dot, in small letters"""
    holds: Callable[[Opened, str], bool] = lambda opened, name: False
    """whether a file without suffix is one, by its content"""
    cure: Callable[[Iterable[str]], str] = lambda suffixes: ""
    """a sentence for files of other suffixes, as how to convert them; "" for none"""

    def chosen(self, runs: Iterable[Iterable[str]], opened: Opened) -> tuple[Names, dict[str, int]]:
        """Those among the names, in their order, and the others counted by suffix."""
        found, known = Names(), set(self.suffixes())
        ignored: Counter[str] = Counter()

        def wanted(name: str) -> bool:
            if name[name.rfind(".") :].lower() in known:
                return True
            suffix = suffix_of(name)
            if not suffix and self.holds(opened, name):
                return True
            ignored[suffix] += 1
            return False

        for run in runs:
            found.extend(filter(wanted, run))
        return found, dict(ignored)

    def known(self, opened: Opened, name: str) -> bool:
        suffix = suffix_of(name)
        return suffix in self.suffixes() if suffix else self.holds(opened, name)


@dataclass(frozen=True)
class Found:
    """The files of a kind that a path names."""

    path: str
    root: Path | str
    """what names are relative to"""
    names: Sequence[str]
    labels: list[str] | Callable[[], list[str] | None] | None
    ignored: dict[str, int]
    """other files there, counted by suffix"""


def home_spelt(path: str) -> str:
    return plain_path(path if is_address(path) else str(Path(path).expanduser()))


def opener(disk: Disk, root: Path | str) -> Opened:
    """What opens the files below a root by their names."""
    return lambda name: disk.open(joined(root, name))


def in_folder(path: str, kind: Kind) -> Found:
    """All below a folder; there may be none."""
    disk = disk_of(path)
    names, ignored = kind.chosen(disk.runs(path), opener(disk, path))
    return Found(path, path if disk.remote else Path(path), names, partial(folder_labels, names), ignored)


def none_in_folder(found: Found, kind: Kind) -> UserError:
    held = f"holds {listed(found.ignored)}" if found.ignored else "is empty"
    return UserError(f"{found.path}: no {kind.plural} in this folder. It {held}.{kind.cure(found.ignored)}")


def by_pattern(path: str, kind: Kind) -> Found:
    """Those whose names match a glob."""
    disk = disk_of(path)
    root, pattern = split_glob(path)
    if not pattern or not disk.is_folder(root):
        raise disk.nowhere(root if pattern else path)
    below = chain.from_iterable(disk.runs(root, depth_of(pattern)))
    names, ignored = kind.chosen([matching(below, pattern)], opener(disk, root))
    if not names:
        found = f"only {listed(ignored)}" if ignored else "no file"
        raise UserError(
            f"{path}: this pattern matches {found}. Write ** for folders of any depth, as in {kind.pattern}."
            f"{kind.cure(ignored)}"
        )
    return Found(path, root if disk.remote else Path(root), names, partial(folder_labels, names), ignored)


def in_list(path: str, kind: Kind) -> Found:
    """Files named one a line (.txt), or in the column `path` or else the first of a .csv; its labels if complete."""
    here = Path(path).parent
    named, labels = paths_and_labels(Path(path), lambda cell: suffix_of(cell) in kind.suffixes() or is_file(here, cell))
    if not named:
        raise UserError(f"{path}: this list is empty. Give one path a line.")
    names = named = Names(map(posixpath.normpath, named))  # one name for both: the list as it was written may go
    relative = (name for name in names if not posixpath.isabs(name))
    root = here if any(is_file(here, name) for name in islice(relative, FIRST)) else Path()
    missing = absent(root, names)
    if missing:
        places = "its folder" if root == Path() == here else f"{here} and the working folder"
        raise UserError(f"{path}: {some(missing, len(names), 'files')} are not there. Looked in {places}.")
    if twice := repeated(names):
        raise UserError(f"{path}: {some(twice, len(names), 'files')} are named more than once.")
    given: Any = partial(folder_labels, names) if labels is None else labels if all(labels) else None
    return Found(path, root, names, given, {})


def absent(root: Path, names: Iterable[str]) -> list[str]:
    """Those that name no file. Quick, for lists of millions: a folder of which many are named is listed once."""
    missing: list[str] = []
    for folder, run in groupby(names, lambda name: name[: name.rfind("/") + 1]):
        while some_names := list(islice(run, AT_ONCE)):
            there = files_of(root / folder, 4 * len(some_names)) if len(some_names) > LISTED else set()
            # A name that a listing has in other letters may open all the same, where a file system takes any case.
            missing += (name for name in some_names if name[len(folder) :] not in there and not is_file(root, name))
    return missing


def files_of(folder: Path, most: int) -> set[str]:
    """The names of the files in a folder; none where it holds more than `most` entries, or cannot be listed."""
    try:
        with os.scandir(folder) as found:
            entries = list(islice(found, most + 1))
            return {entry.name for entry in entries if entry.is_file()} if len(entries) <= most else set()
    except (OSError, ValueError):
        return set()


def is_file(root: Path, name: str) -> bool:
    # Quick too; and False for what is no name of a file.
    try:
        return stat.S_ISREG(os.stat(name if name.startswith("/") else f"{root}/{name}").st_mode)  # noqa: PTH116
    except (OSError, ValueError):
        return False


def count_of(path: str, kind: Kind) -> int:
    """How many of the first files that a path names are of this kind, for a folder, a pattern, a list or a file.

    May raise UserError or OSError where a place cannot be read.
    """
    disk, suffix = disk_of(path), suffix_of(path)
    if disk.is_folder(path):
        opened = opener(disk, path)
        names = islice(chain.from_iterable(disk.runs(path)), FIRST)
        # Over a network only names are looked at.
        return sum(suffix_of(n) in kind.suffixes() or (not disk.remote and kind.known(opened, n)) for n in names)
    if not disk.exists(path):
        root, pattern = split_glob(path)
        if not pattern or disk.remote:
            return len(by_pattern(path, kind).names) if pattern else 0
        below = islice(matching(walk(Path(root), depth_of(pattern)), pattern), FIRST)
        return sum(kind.known(opener(disk, root), name) for name in below)
    if suffix in (".txt", ".csv"):
        rows = islice(table(Path(path)), FIRST)
        return sum(any(suffix_of(cell.strip()) in kind.suffixes() for cell in row) for row in rows)
    return int(kind.known(disk.open, path))


def labels_from_csv(
    path: Path, names: Sequence[str], place: str | None, where: str, kind: Kind, known: Callable[[str], bool]
) -> list[str]:
    """One label for each name, of a CSV `path,label`.

    Its paths are from the root of the names (`place`) or from the CSV's folder, or file names that are unique. `known`
    says whether a cell looks like a path. `where` the names were found is for messages. Raises UserError.
    """
    find = Finder(path, names, place, where)
    cells, labels = paths_and_labels(path, lambda cell: find.item(cell) is not None or known(cell))
    if labels is None:
        raise UserError(f"{path}: which column is the label? Name the columns path and label.")
    found: dict[int, str] = {}
    for cell, item, label in zip(cells, find.all_of(cells), labels, strict=True):
        if item is not None and found.setdefault(item, label) != label:
            raise UserError(f"{path}: {cell} has two labels, {found[item]} and {label}.")
    bare = [name for i, name in enumerate(names) if not found.get(i)]
    if bare:
        raise UserError(
            f"{path}: {some(bare, len(names), kind.plural)} have no label. Label each, or give a CSV of paths "
            "and labels in place of the data: what it names is all that is used then."
        )
    return [found[i] for i in range(len(names))]
