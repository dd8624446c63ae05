"""Which files of a folder, a glob or an archive are images."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from selfsame.errors import UnreadableItem
from selfsame.modalities.image.decode import Picture, readable, suffixes
from selfsame.storage.disk import Disk, joined
from selfsame.storage.folders import suffix_of
from selfsame.storage.names import Names


def chosen(runs: Iterable[Iterable[str]], opened: Callable[[str], IO[bytes]]) -> tuple[Names, dict[str, int]]:
    """The images among the names, in their order, and the others counted by suffix.

    Files without suffix are looked into.
    """
    images, known = Names(), suffixes()
    ignored: Counter[str] = Counter()

    def wanted(name: str) -> bool:
        if name[name.rfind(".") :].lower() in known:
            return True
        suffix = suffix_of(name)
        if not suffix and holds_image(opened, name):
            return True
        ignored[suffix] += 1
        return False

    for run in runs:
        images.extend(filter(wanted, run))
    return images, dict(ignored)


def is_image(root: Path, name: str) -> bool:
    suffix = suffix_of(name)
    return suffix in suffixes() if suffix else holds_image(opener(Disk(), root), name)


def opener(disk: Disk, root: Path | str) -> Callable[[str], IO[bytes]]:
    """What opens the files below a root by their names."""
    return lambda name: disk.open(joined(root, name))


def holds_image(opened: Callable[[str], IO[bytes]], name: str) -> bool:
    try:
        with readable(), opened(name) as file:
            Picture(file)
    except UnreadableItem:
        return False
    return True
