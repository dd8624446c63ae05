"""The rows of an index in a folder as they lie in its files, at one state of index.json; read where needed, once."""

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from selfsame.engine.state import writing
from selfsame.errors import UserError
from selfsame.index.contents import Contents
from selfsame.index.contract import AT_ONCE, PRIVATE
from selfsame.storage.names import Names


class Rows:
    """Rows by number, those that were taken out among them, and the items, which are the rest.

    Raises UserError where a file is missing, or shorter than index.json says.
    """

    KINDS: ClassVar = {"vectors": "f32", "names": "txt", "ends": "i64", "labels": "i32", "removed": "i64"}

    def __init__(self, folder: Path, now: Contents) -> None:
        self.folder, self.now = folder, now
        for kind, size in self.sizes().items():
            path = self.file(kind)
            there = path.stat().st_size if path.is_file() else -1
            if there < size:
                what = "is missing" if there < 0 else f"has {there:,} bytes, of which {size:,} are needed"
                raise UserError(
                    f"{path} {what}: the index of {now.rows:,} rows is damaged, perhaps a copy that was cut short. "
                    "Copy it again, or make it again."
                )

    # Files -----------------------------------------------------------------------------------------------------------

    def sizes(self) -> dict[str, int]:
        """Bytes that count, of each kind of file."""
        now = self.now
        return {
            "vectors": 4 * now.rows * now.made.dim,
            "names": now.text,
            "ends": 8 * now.rows,
            "labels": 4 * now.rows,
            "removed": 8 * now.removed,
        }

    def file(self, kind: str, number: int | None = None) -> Path:
        return self.folder / f"{kind}-{number or self.now.number}.{self.KINDS[kind]}"

    def array(self, kind: str, dtype: str, count: int) -> np.ndarray:
        return np.fromfile(self.file(kind), dtype, count)

    # Of all rows -----------------------------------------------------------------------------------------------------

    @cached_property
    def vectors(self) -> Float[np.ndarray, "rows d"]:
        shape = (self.now.rows, self.now.made.dim)
        if not all(shape):
            return np.zeros(shape, np.float32)
        return np.memmap(self.file("vectors"), np.dtype("<f4"), PRIVATE, shape=shape)

    @cached_property
    def names(self) -> Names:
        return Names.of(self.array("names", "<u1", self.now.text), self.array("ends", "<i8", self.now.rows))

    @cached_property
    def codes(self) -> Int[np.ndarray, "rows"]:
        """The number of each label among the classes; -1 for none."""
        return self.array("labels", "<i4", self.now.rows)

    @cached_property
    def marks(self) -> Int[np.ndarray, "rows"]:
        """A hash of each name: much smaller than a dictionary of names."""
        return np.fromiter(map(hash, self.names), np.int64, self.now.rows)

    @cached_property
    def removed(self) -> Int[np.ndarray, "removed"]:
        return np.sort(self.array("removed", "<i8", self.now.removed))

    # Of the items ----------------------------------------------------------------------------------------------------

    @cached_property
    def live(self) -> Int[np.ndarray, "n"]:
        """The rows of the items, ascending."""
        keep = np.ones(self.now.rows, dtype=bool)
        keep[self.removed] = False
        return np.flatnonzero(keep)

    @cached_property
    def live_names(self) -> Names:
        return Names(self.names[int(row)] for row in self.live) if self.now.removed else self.names

    @cached_property
    def live_vectors(self) -> Float[np.ndarray, "n d"]:
        """Gathered in a file without a name where some rows were taken out: it goes with its map."""
        shape = (len(self.live), self.now.made.dim)
        if not self.now.removed or not all(shape):
            return self.vectors[: shape[0]]
        with tempfile.TemporaryFile() as file, writing(Path(tempfile.gettempdir())):
            for start in range(0, len(self.live), AT_ONCE):
                file.write(self.vectors[self.live[start : start + AT_ONCE]].tobytes())
            file.flush()
            return np.memmap(file, np.dtype("<f4"), PRIVATE, shape=shape)

    def of(self, name: str) -> int | None:
        """The row of the item with a name."""
        for row in np.flatnonzero(self.marks == hash(name)).tolist():
            place = int(np.searchsorted(self.removed, row))
            gone = place < len(self.removed) and self.removed[place] == row
            if not gone and self.names[row] == name:
                return row
        return None

    def of_each(self, names: Sequence[str]) -> list[int | None]:
        if len(names) < 64:
            return [self.of(name) for name in names]
        maybe = self.live[np.isin(self.marks[self.live], list(map(hash, names)))]
        rows = {self.names[int(row)]: int(row) for row in maybe}
        return [rows.get(name) for name in names]
