"""The files of a table: one, those of a folder or a pattern, of one kind. Raises UserError where there are none."""

from collections import Counter
from itertools import chain

from selfsame.errors import UserError
from selfsame.modalities.table.cells import Cells
from selfsame.modalities.table.groups import ParquetCells
from selfsame.modalities.table.lines import CsvCells
from selfsame.modalities.table.reading import Reading
from selfsame.storage.disk import disk_of, joined
from selfsame.storage.folders import depth_of, listed, matching, split_glob, suffix_of

__all__ = ["CSV", "PARQUET", "cells_of", "paths_of"]

CSV = (".csv", ".tsv", ".tab", ".data", ".txt", ".sample")
PARQUET = (".parquet", ".pq")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")


def paths_of(path: str) -> list[str]:
    """The files of a table: one, those of a pattern with *, or of a folder. Raises UserError where there is none."""
    disk, suffix = disk_of(path), suffix_of(path)
    root, pattern = split_glob(path)
    if pattern and not disk.exists(path):
        if not disk.is_folder(root):
            raise disk.nowhere(root)
        names = list(matching(chain.from_iterable(disk.runs(root, depth_of(pattern))), pattern))
        if not names:
            raise UserError(f"{path}: this pattern matches no file.")
        found = [joined(root, name) for name in names]
    elif disk.is_folder(path):
        every = list(chain.from_iterable(disk.runs(path)))
        kinds = [tuple(name for name in every if suffix_of(name) in kind) for kind in (PARQUET, (".csv", ".tsv"))]
        if all(kinds):
            raise UserError(f"{path}: this folder holds Parquet and CSV files. Say which, as in {path}/*.parquet")
        if not any(kinds):
            others = Counter(suffix_of(name) for name in every)
            raise UserError(
                f"{path}: no tables in this folder. It {f'holds {listed(others)}' if every else 'is empty'}."
            )
        found = [joined(path, name) for name in (kinds[0] or kinds[1])]
    elif not disk.exists(path):
        raise disk.nowhere(path)
    elif suffix in PACKED:
        raise UserError(f"{path} is compressed, and rows could not be read at random. Unpack it first.")
    else:
        found = [path]
    if len({suffix_of(name) in PARQUET for name in found}) > 1:
        raise UserError(f"{path}: Parquet and other files. Give a pattern that matches one kind.")
    return found


def cells_of(path: str, reading: Reading) -> Cells:
    """The table that a path, a pattern or a folder stands for. Raises UserError."""
    paths = paths_of(path)
    kind = ParquetCells if suffix_of(paths[0]) in PARQUET else CsvCells
    return kind(paths, disk_of(paths[0]), reading)
