"""A table by row and column: the contract that CSV (`lines`) and Parquet (`groups`) keep, and a column's cells.

Held is where rows lie, no more.
"""

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from selfsame.storage.disk import Disk

__all__ = ["Cells", "Raw", "base", "clean"]

MISSING = frozenset(("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "\\N", "<NA>"))
COMMA = re.compile(r"-?\d+,\d+")  # a number with a decimal comma, as written where cells are divided by ;


@dataclass
class Raw:
    """The cells of some rows of one column, as they lie in the file."""

    form: Literal["text", "number", "date"]
    """text: strings; number: float64; date: float64, days since 1970"""
    values: Any
    """[n], or where there are `codes` [k]: an object array of strings, None where missing, or float64, NaN there"""
    codes: Int64[np.ndarray, "n"] | None = None
    """which of the values each row has, -1 none"""

    def __len__(self) -> int:
        return len(self.values) if self.codes is None else len(self.codes)

    def each(self) -> Any:
        """[n] values, one a row."""
        if self.codes is None:
            return self.values
        blank = np.array([None if self.form == "text" else np.nan], object if self.form == "text" else np.float64)
        return np.concatenate([self.values, blank])[self.codes]  # -1 is the last


@dataclass
class Cells:
    """A table by row and column. Survives pickling and forking."""

    paths: list[str]
    disk: Disk
    names: list[str]
    """of the columns that hold single values"""
    left_out: dict[str, str] = field(default_factory=dict)
    """columns that hold something else, and what"""
    notes: list[str] = field(default_factory=list)
    blocks: Int64[np.ndarray, "k"] | None = None
    """the first rows of groups that are read as one"""

    def __len__(self) -> int:
        raise NotImplementedError

    def column(self, name: str, rows: Int64[np.ndarray, "n"]) -> Raw:
        """The cells of these rows, ascending."""
        return self.columns([name], rows)[name]

    def columns(self, names: Sequence[str], rows: Int64[np.ndarray, "n"]) -> dict[str, Raw]:
        """Of these rows, ascending. Broken rows are all missing; `broken` says which they are."""
        raise NotImplementedError

    def broken(self, rows: Int64[np.ndarray, "n"]) -> dict[int, str]:
        """Why rows cannot be read, by row."""
        return {}

    def stored(self, row: int) -> int:
        """Bytes of a row at rest."""
        raise NotImplementedError

    def place(self, row: int) -> str:
        """Where a row stands: its number from 0, after the file's name where there are several."""
        raise NotImplementedError

    def drawn(self, seed: int, most: int) -> Int64[np.ndarray, "n"]:
        """At most so many rows, ascending."""
        return np.sort(np.random.default_rng(seed).permutation(len(self))[:most])

    def runs(self, most: int) -> Iterator[Int64[np.ndarray, "n"]]:
        """All rows in order, at most so many at a time, none across two groups."""
        edges = [*(self.blocks.tolist() if self.blocks is not None else [0]), len(self)]
        for low, high in pairwise(edges):
            for start in range(low, high, most):
                yield np.arange(start, min(start + most, high))


def clean(cell: str | None, comma: bool = False) -> str | None:
    """The cell without spaces about it; None where it says that there is no value."""
    if cell is None:
        return None
    cell = cell.strip()
    if cell in MISSING:
        return None
    return cell.replace(",", ".") if comma and "," in cell and COMMA.fullmatch(cell) else cell


def base(paths: Sequence[str], number: int) -> str:
    """The path of a file below the folder that all share."""
    shared = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    return paths[number][len(shared) :].lstrip("/")
