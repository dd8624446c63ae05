"""Images in shards: tars, as WebDataset's, and Parquet files with the bytes of images."""

import io
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import IO

import numpy as np

from selfsame.errors import UserError
from selfsame.modalities.image.arrays import split_key
from selfsame.modalities.image.decode import suffixes
from selfsame.modalities.image.source import ImageSource
from selfsame.storage.disk import Disk, braces, disk_of, joined
from selfsame.storage.folders import depth_of, folder_labels, listed, matching, split_glob, suffix_of
from selfsame.storage.names import repeated
from selfsame.storage.shards import Rows, members, section

SHARDS = (".tar", ".parquet")
GROUPS = 32  # of Parquet rows, at least, from which items are drawn
PACKED = (".tgz", ".gz", ".bz2", ".xz", ".zst")  # of tars


class TarSource(ImageSource):
    """Images in tars. Each is read where it lies; nothing is unpacked."""

    def __init__(self, path: str, paths: Sequence[str], disk: Disk, kind: str | None) -> None:
        inside, ignored = members(paths, disk, suffixes().__contains__, kind)
        if not len(inside.names):
            raise UserError(f"{path}: no images in {of(paths, 'tar')}. It holds {listed(ignored)}.")
        labels = inside.labels or partial(folder_labels, inside.names)
        super().__init__(path, inside.names, labels, disk)
        self.ignored = ignored
        self.paths = list(paths)
        self.shard, self.start, self.size, self.marks = inside.shard, inside.start, inside.size, inside.marks
        self.alike = bool(repeated(inside.names)) if len(paths) > 1 else False

    def name(self, i: int) -> str:
        """The path inside the tar; after the tar's number, where tars hold the same names."""
        return f"{self.shard[i]:05d}/{self.names[i]}" if self.alike else self.names[i]

    def file(self, i: int) -> IO[bytes]:
        return section(self.disk, self.paths[self.shard[i]], int(self.start[i]), int(self.size[i]))

    def stamp(self, i: int, file: IO[bytes]) -> int:
        return (int(self.marks[self.shard[i]]) + int(self.start[i]) * 1_000_003) % 2**63


class ParquetSource(ImageSource):
    """Images in a column of Parquet files. Rows come in groups, which are read whole."""

    def __init__(self, path: str, paths: Sequence[str], disk: Disk, column: str | None) -> None:
        self.rows = Rows(paths, disk, column)
        super().__init__(path, range(len(self.rows)), self.rows.labels, disk)  # type: ignore[arg-type]
        starts = np.array(self.rows.starts, np.int64)
        self.blocks = starts[:-1]
        self.window = self.rows.window

    def name(self, i: int) -> str:
        return self.rows.name(i)

    def drawn(self, seed: int, most: int) -> list[int]:
        """From few groups, drawn by the seed: no more than hold twice as many items, but some tens of them."""
        rng = np.random.default_rng(seed)
        starts = np.array(self.rows.starts)
        order = rng.permutation(len(starts) - 1)
        enough = int(np.searchsorted(np.cumsum(np.diff(starts)[order]), 2 * most)) + 1
        inside = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in order[: max(GROUPS, enough)]])
        return sorted(rng.permutation(inside)[:most].tolist())

    def file(self, i: int) -> IO[bytes]:
        return io.BytesIO(self.rows.read(i))

    def fetch(self, items: Sequence[int]) -> None:
        """Groups are fetched whole, when the first of their rows is read."""

    def stamp(self, i: int, file: IO[bytes]) -> int:
        return self.rows.mark(i)


def open_shards(path: str) -> ImageSource:
    """Tar or Parquet files: one, those of a pattern with * or braces, or of a folder; `::` names a kind or a column."""
    file, key = split_key(path)
    disk, suffix = disk_of(file), suffix_of(file)
    paths = [one for spelt in braces(file) for one in found(spelt, disk)]
    if suffix in PACKED:
        raise UserError(
            f"{path} is compressed, and cannot be read at random. Images are compressed already: unpack it to a plain "
            "tar (gunzip, unzstd, unxz, bunzip2)."
        )
    return source_of_shards(path, paths, key)


def source_of_shards(path: str, paths: Sequence[str], key: str | None) -> ImageSource:
    """`paths` are the files, all of one kind, that `path` stands for."""
    kind = ParquetSource if suffix_of(paths[0]) == ".parquet" else TarSource
    return kind(path, paths, disk_of(paths[0]), key)


def found(path: str, disk: Disk) -> list[str]:
    """The files that a path or a pattern names. Raises UserError where there is none."""
    root, pattern = split_glob(path)
    if not pattern or disk.exists(path):
        if not disk.exists(path):
            raise disk.nowhere(path)
        return [path]
    if not disk.is_folder(str(root)):
        raise disk.nowhere(str(root))
    names = list(matching(chain.from_iterable(disk.runs(str(root), depth_of(pattern))), pattern))
    if not names:
        raise UserError(f"{path}: this pattern matches no file.")
    return [joined(root, name) for name in names]


def of(paths: Sequence[str], kind: str) -> str:
    return f"this {kind}" if len(paths) == 1 else f"these {len(paths)} {kind}s"
