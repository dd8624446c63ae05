"""Records at rest: series of c channels that are read by pieces, [c steps] each, wherever they lie.

Raises UserError where a file cannot be read, UnreadableItem where a record cannot.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int64

from selfsame.errors import UnreadableItem, UserError
from selfsame.storage.arrays import load_array

__all__ = ["ArrayRecords", "JoinedRecords", "ListedRecords", "Records", "TableRecords"]

SMALL = 2**24  # numbers: series of up to so many in all are also handed out as one array


FINE = 1e-6  # of a channel's size: values that vary by less are not told apart as float32


def too_fine(path: str, which: str, std: float, mean: float) -> UserError:
    """The error for a channel that float32 would round to nothing."""
    return UserError(
        f"{path}: {which} varies by {std:.3g} about {mean:.6g}, which float32 does not hold. Subtract its mean before "
        "it is saved, or leave it out if it is a time or a number."
    )


class Records(Protocol):
    """Series by number."""

    lengths: Int64[np.ndarray, "m"]
    """steps of each record"""
    channels: int
    blocks: Int64[np.ndarray, "k"] | None
    """first steps, counted over all records, of runs that can only be read together; None: any piece by itself"""

    def piece(self, record: int, start: int, stop: int) -> np.ndarray:
        """[c steps] of a record, NaN where a value is missing. Raises UnreadableItem."""
        ...

    def all(self) -> Float32[np.ndarray, "m c t"] | None:
        """All records as one array, where they are in memory and few; shorter ones end in NaN."""
        ...


class ArrayRecords:
    """An array of a .npy or .npz. Mapped where it can be; loaded again by a process that it comes to."""

    blocks: "Int64[np.ndarray, 'k'] | None" = None

    def __init__(self, path: str, key: str | None, lay: str) -> None:
        """`lay`: how axes lie, "n c t", "n t", "t c" or "t"; the latter two are one record."""
        self.path, self.key, self.lay = path, key, lay
        self.loaded: np.ndarray | None = None
        n, c, t = self.values.shape
        self.lengths = np.full(n, t, np.int64)
        self.channels = c

    @property
    def values(self) -> np.ndarray:
        """[n c t]"""
        if self.loaded is None:
            values = load_array(self.path, self.key)
            turned = {"n c t": values, "n t": values[:, None] if values.ndim > 1 else values}
            self.loaded = turned[self.lay] if self.lay in turned else np.atleast_2d(values.T)[None]
        return self.loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    def close(self) -> None:
        self.loaded = None

    def piece(self, record: int, start: int, stop: int) -> np.ndarray:
        return self.values[record, :, start:stop]

    def all(self) -> np.ndarray | None:
        return self.values if len(self.lengths) > 1 else None


class ListedRecords:
    """Series of any lengths that a text file holds, in memory; read again by a process that they come to."""

    blocks: "Int64[np.ndarray, 'k'] | None" = None

    def __init__(self, load: Callable[[], "Listed"], listed: "Listed | None" = None) -> None:
        self.load = load
        self.loaded: Listed | None = listed
        self.channels = self.listed.channels
        self.lengths = self.listed.lengths

    @property
    def listed(self) -> "Listed":
        if self.loaded is None:
            self.loaded = self.load()
        return self.loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    def piece(self, record: int, start: int, stop: int) -> np.ndarray:
        listed = self.listed
        if record in listed.broken:
            raise UnreadableItem(listed.broken[record])
        first = listed.firsts[record]
        return listed.values[:, first + start : first + stop]

    def all(self) -> Float32[np.ndarray, "m c t"] | None:
        longest = int(self.lengths.max(initial=0))
        if len(self.lengths) < 2 or len(self.lengths) * longest * self.channels > SMALL:
            return None
        laid = np.full((len(self.lengths), self.channels, longest), np.nan, np.float32)
        for k, (first, length) in enumerate(zip(self.listed.firsts, self.lengths, strict=True)):
            laid[k, :, :length] = self.listed.values[:, first : first + length]
        return laid


class Listed:
    """Series end to end."""

    def __init__(self, values: Float32[np.ndarray, "c total"], lengths: Sequence[int], broken: dict[int, str]) -> None:
        self.values = values
        self.channels = len(values)
        self.lengths = np.array(lengths, np.int64)
        self.firsts = (np.cumsum(self.lengths) - self.lengths).tolist()
        self.broken = broken
        """records that cannot be read, and why; their lengths are 0"""


class TableRecords:
    """Columns of a Parquet file, read by row groups; each record is a run of rows."""

    HELD = 2  # groups kept after reading: a window may lie across two

    def __init__(self, path: str, columns: Sequence[str], lengths: Sequence[int], groups: Sequence[int]) -> None:
        """`lengths`: rows of each record, `groups`: rows of each row group."""
        self.path, self.columns = path, list(columns)
        self.lengths = np.array(lengths, np.int64)
        self.firsts = np.cumsum(self.lengths) - self.lengths
        self.ends = np.cumsum(np.array(groups, np.int64))
        self.channels = len(columns)
        self.blocks = np.concatenate([[0], self.ends[:-1]]) if len(groups) > 1 else None
        self.file: Any = None
        self.held: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "file": None, "held": OrderedDict()}

    def close(self) -> None:
        self.file = None
        self.held.clear()

    def piece(self, record: int, start: int, stop: int) -> np.ndarray:
        low, high = int(self.firsts[record]) + start, int(self.firsts[record]) + stop
        first, last = np.searchsorted(self.ends, [low, max(low, high - 1)], side="right").tolist()
        parts = []
        for group in range(first, last + 1):
            begin = int(self.ends[group - 1]) if group else 0
            parts.append(self.group(group)[:, max(0, low - begin) : high - begin])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def group(self, number: int) -> Float32[np.ndarray, "c rows"]:
        if number not in self.held:
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                self.file = self.file or pq.ParquetFile(self.path)
                table = self.file.read_row_group(number, columns=self.columns)
            except (OSError, pa.ArrowException) as error:
                raise UnreadableItem(f"row group {number} cannot be read: {error}") from None
            self.held[number] = np.stack([floats(table[name]) for name in self.columns])
            while len(self.held) > self.HELD:
                self.held.popitem(last=False)
        self.held.move_to_end(number)
        return self.held[number]

    def all(self) -> None:
        return None


class JoinedRecords:
    """The records of several files, one after the other. Few files are held open at once, so that many can be read."""

    HELD = 16  # parts that stay open, with what they have read
    blocks: "Int64[np.ndarray, 'k'] | None" = None

    def __init__(self, parts: Sequence[Records], names: Sequence[str]) -> None:
        self.parts = list(parts)
        self.open: OrderedDict[int, None] = OrderedDict()
        """numbers of the parts that were read last, the latest at the end"""
        for k in range(len(self.parts)):
            self.close(k)
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.firsts = np.cumsum([0, *(len(part.lengths) for part in parts)])
        self.channels = parts[0].channels
        for part, name in zip(parts, names, strict=True):
            if part.channels != self.channels:
                raise UserError(
                    f"{name} has {part.channels} channels and {names[0]} has {self.channels}: files of one set have "
                    "the same channels. Name those that all have with --reading.columns, or give a folder to each kind."
                )

    def piece(self, record: int, start: int, stop: int) -> np.ndarray:
        part = int(np.searchsorted(self.firsts, record, side="right")) - 1
        self.open[part] = None
        self.open.move_to_end(part)
        while len(self.open) > self.HELD:
            self.close(self.open.popitem(last=False)[0])
        return self.parts[part].piece(record - int(self.firsts[part]), start, stop)

    def close(self, part: int) -> None:
        """Let go of a file; it is opened again when it is read. Texts, parsed at once, stay in memory."""
        held = self.parts[part]
        if isinstance(held, ArrayRecords | TableRecords):
            held.close()

    def all(self) -> None:
        return None


def floats(column: Any) -> Float32[np.ndarray, "n"]:
    """A column of pyarrow as float32, null as NaN."""
    import pyarrow as pa

    return column.combine_chunks().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float32)
