"""Tables at rest: the cells of CSV files by lines, of Parquet files by groups of rows. Held is where rows lie, no more.

Raises UserError on files that are no tables, UnreadableItem for one broken row.
"""

import csv
import io
import os
import posixpath
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from selfsame.errors import UserError, missing
from selfsame.modalities.table.reading import Reading
from selfsame.storage.disk import Disk, disk_of, joined
from selfsame.storage.folders import depth_of, listed, matching, split_glob, suffix_of
from selfsame.storage.shards import undamaged
from selfsame.storage.tables import check_quotes

__all__ = ["CSV", "PARQUET", "Cells", "CsvCells", "ParquetCells", "Raw", "cells_of", "paths_of"]

CSV = (".csv", ".tsv", ".tab", ".data", ".txt", ".sample")
PARQUET = (".parquet", ".pq")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
MISSING = frozenset(("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "\\N", "<NA>"))
SEPARATORS = (",", ";", "\t", "|")
HEAD = 1 << 20  # bytes of a CSV that its separator and its header are found from
OPEN = 16  # files of a table at a time
BATCH = 4096  # rows of a CSV at most whose cells are kept until others are asked for
NEAR = 16 << 10  # bytes between two rows of a CSV up to which they are read at once
SCAN = 8 << 20  # bytes of a CSV read at a time
LOOKED_INTO = (
    64  # rows that go over several lines, the longest, that are looked into for rows that a quote has swallowed
)
GROUP = 1 << 30  # bytes of a group of Parquet rows: a larger one cannot be held by every reading process
GROUPS = 32  # of Parquet rows, at least, from which the rows to look at are drawn
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


# CSV -----------------------------------------------------------------------------------------------------------------


class CsvCells(Cells):
    """CSV files with the same columns. Where each line begins is noted; lines are read when they are asked for.

    A row of another number of cells is broken, but for short rows between tabs: their last cells are missing.
    """

    def __init__(self, paths: Sequence[str], disk: Disk, reading: Reading) -> None:
        head, _ = head_of(paths[0], disk)
        self.separator = reading.separator or separator_of(head)
        first = parsed(head, self.separator)
        if not first:
            raise UserError(f"{paths[0]}: no rows. A table has one row a line, its cells divided by commas or tabs.")
        titled = has_header(first) if reading.header == "auto" else reading.header == "yes"
        names = [cell.strip() for cell in first[0]] if titled else [f"c{k}" for k in range(self.usual(first))]
        names, notes = unique(names)
        super().__init__(list(paths), disk, names, notes=notes)
        self.titled = titled
        self.files: dict[int, int] = {}
        self.last: tuple[bytes, list[list[str] | str]] | None = None
        self.width = len(names)
        starts, firsts, ends = [], [0], []
        for path in self.paths:
            found, end, lines = line_starts(path, disk, self.separator)
            self.check_quotes(path, found, end, lines)
            if titled:
                if path != self.paths[0] and (other := self.header_of(path)) != first[0]:
                    raise UserError(
                        f"{path} has other columns than {self.paths[0]}: {', '.join(other[:6])}. The files of one "
                        "table have the same header."
                    )
                found = found[1:]
            starts.append(found)
            firsts.append(firsts[-1] + len(found))
            ends.append(end)
        self.starts = np.concatenate(starts)
        self.firsts = firsts
        self.ends = ends
        if not len(self.starts):
            raise UserError(f"{paths[0]}: only a header ({', '.join(names[:6])}), no rows.")

    def check_quotes(self, path: str, starts: Int64[np.ndarray, "n"], end: int, lines: Int64[np.ndarray, "m"]) -> None:
        """Raise UserError where a row over several lines holds others. `lines`: where lines end within cells."""
        if not len(lines):
            return
        rows, counts = np.unique(np.searchsorted(starts, lines, side="right") - 1, return_counts=True)
        stops = np.append(starts[1:], end)
        for row in rows[np.argsort(-counts, kind="stable")][:LOOKED_INTO].tolist():
            start = int(starts[row])
            data = self.disk.cut(path, start, min(int(stops[row]) - start, HEAD))
            number = row + 1 + int(np.searchsorted(lines, start))
            check_quotes(path, decoded(data).splitlines(), number, self.separator, self.width)

    def usual(self, rows: list[list[str]]) -> int:
        """Cells of a row, where no header says how many: most rows have them; between tabs, the longest."""
        widths = Counter(map(len, rows))
        return max(widths) if self.separator == "\t" else widths.most_common(1)[0][0]

    def header_of(self, path: str) -> list[str]:
        rows = parsed(head_of(path, self.disk)[0], self.separator)
        return rows[0] if rows else []

    def __len__(self) -> int:
        return len(self.starts)

    def span(self, row: int) -> tuple[int, int, int]:
        """File, first byte, and the byte behind the last."""
        number = bisect_right(self.firsts, row) - 1
        last = row + 1 == self.firsts[number + 1]
        return number, int(self.starts[row]), self.ends[number] if last else int(self.starts[row + 1])

    def stored(self, row: int) -> int:
        _, start, end = self.span(row)
        return end - start

    def place(self, row: int) -> str:
        number = bisect_right(self.firsts, row) - 1
        return str(row) if len(self.paths) == 1 else f"{base(self.paths, number)}/{row - self.firsts[number]}"

    def lines(self, rows: Int64[np.ndarray, "n"]) -> Iterator[list[str] | str]:
        """The cells of each row, or the reason why it has none. Rows that lie side by side are read together."""
        k = 0
        while k < len(rows):
            number, start, end = self.span(int(rows[k]))
            spans = [(start, end)]
            while k + len(spans) < len(rows):
                other, begin, stop = self.span(int(rows[k + len(spans)]))
                if other != number or stop - start > SCAN or begin - end > NEAR:
                    break
                spans.append((begin, stop))
                end = stop
            data = self.cut(number, start, end - start)
            texts = [data[begin - start : stop - start] for begin, stop in spans]
            yield from self.split(texts)
            k += len(spans)

    def split(self, texts: list[bytes]) -> Iterator[list[str] | str]:
        rows = parsed(b"\n".join(text.strip(b"\r\n") for text in texts), self.separator)
        if len(rows) != len(texts):  # a quotation mark that is never closed, or a line that was changed: one by one
            each = [parsed(text, self.separator) for text in texts]
            rows = [found[0] if len(found) == 1 else [] for found in each]
        for row in rows:
            if self.separator == "\t" and 0 < len(row) < self.width:
                # Tabs at the end of a line are lost easily: an editor that takes off blanks takes them too.
                row = row + [""] * (self.width - len(row))
            if len(row) == self.width:
                yield row
            else:
                yield f"{len(row)} cells in a table of {self.width} columns" if row else "not one row: a stray quote?"

    def columns(self, names: Sequence[str], rows: Int64[np.ndarray, "n"]) -> dict[str, Raw]:
        places = [self.names.index(name) for name in names]
        blank = [None] * self.width
        held = [blank if isinstance(row, str) else row for row in self.each(rows)]
        comma = self.separator == ";"
        found = {}
        for name, place in zip(names, places, strict=True):
            values = np.empty(len(held), object)
            values[:] = [clean(row[place], comma) for row in held]
            found[name] = Raw("text", values)
        return found

    def broken(self, rows: Int64[np.ndarray, "n"]) -> dict[int, str]:
        return {int(row): line for row, line in zip(rows, self.each(rows), strict=True) if isinstance(line, str)}

    def each(self, rows: Int64[np.ndarray, "n"]) -> list[list[str] | str]:
        """`lines` of these rows. Those of a batch are kept until others are asked for: first it is asked which of them
        are broken, then what stands in them."""
        if len(rows) > BATCH:
            return list(self.lines(rows))
        key = rows.tobytes()
        if self.last is None or self.last[0] != key:
            self.last = key, list(self.lines(rows))
        return self.last[1]

    def cut(self, number: int, start: int, length: int) -> bytes:
        """Bytes of a file, which stays open: to open it for each row costs more than to read the row."""
        if self.disk.remote:
            return self.disk.cut(self.paths[number], start, length)
        if number not in self.files:
            if len(self.files) >= OPEN:
                os.close(self.files.pop(next(iter(self.files))))
            self.files[number] = os.open(self.paths[number], os.O_RDONLY)
        return os.pread(self.files[number], length, start)  # no place is shared with a process that was forked

    def __del__(self) -> None:
        for file in getattr(self, "files", {}).values():
            os.close(file)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "last": None, "files": {}}


def clean(cell: str | None, comma: bool = False) -> str | None:
    """The cell without spaces about it; None where it says that there is no value."""
    if cell is None:
        return None
    cell = cell.strip()
    if cell in MISSING:
        return None
    return cell.replace(",", ".") if comma and "," in cell and COMMA.fullmatch(cell) else cell


def head_of(path: str, disk: Disk) -> tuple[bytes, bool]:
    """The first lines of a file, whole ones, and whether they are all."""
    try:
        data = disk.cut(path, 0, HEAD)
    except FileNotFoundError:
        raise disk.nowhere(path) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: text in UTF-16. Write it anew in UTF-8: iconv -f UTF-16 -t UTF-8 {path} > new.csv")
    if b"\0" in data:
        raise UserError(f"{path}: not a text file, so no CSV.")
    if len(data) < HEAD:
        return data.removeprefix(b"\xef\xbb\xbf"), True
    return data[: data.rfind(b"\n") + 1].removeprefix(b"\xef\xbb\xbf"), False


def decoded(data: bytes) -> str:
    """As UTF-8; a line that is none as Latin-1, as old spreadsheets write: every byte is a letter there.

    Each line for itself, so that a row reads the same whatever is read with it.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        lines = data.splitlines(keepends=True)
        return "".join(map(decoded, lines)) if len(lines) > 1 else data.decode("latin-1")


def parsed(data: bytes, separator: str) -> list[list[str]]:
    """The rows of some lines, without blank ones. A row that breaks the rules of CSV has no cells."""
    text = decoded(data).replace("\r\n", "\n").replace("\r", "\n")
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t")
        return [row for row in rows if any(cell.strip() for cell in row) or len(row) > 1]
    except csv.Error:
        return []


def separator_of(head: bytes) -> str:
    """The sign that divides the first lines into most cells, the same number in each if any does so."""
    lines = b"\n".join(head.splitlines()[:64])

    def rank(sign: str) -> tuple[float, int]:
        widths = Counter(len(row) for row in parsed(lines, sign))
        if not widths:
            return 0.0, 0
        width, rows = widths.most_common(1)[0]
        return (rows / sum(widths.values()) if width > 1 else 0.0), width

    best = max(SEPARATORS, key=rank)
    return best if rank(best)[1] > 1 else ","


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: words, each another one, that are no values of their columns."""
    first = [cell.strip() for cell in rows[0]]
    if any(is_number(cell) for cell in first) or sum(cell in MISSING for cell in first) > len(first) / 2:
        return False
    below = [row for row in rows[1:513] if len(row) == len(first)]
    if not below:
        return len(rows) == 1
    recurring = sum(any(row[k].strip() == cell for row in below) for k, cell in enumerate(first) if cell)
    return recurring <= len(first) // 8


def unique(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names, each once: a second `age` becomes `age.2`, no name the column's number; and what was done."""
    found: list[str] = []
    changed: list[str] = []
    for k, name in enumerate(names):
        new, count = name or f"c{k}", 1
        while new in found:
            count += 1
            new = f"{name or f'c{k}'}.{count}"
        if count > 1:
            changed.append(f"{name} as {new}")
        found.append(new)
    return found, [f"names that stand twice in the header: {', '.join(changed[:5])}"] if changed else []


def line_starts(path: str, disk: Disk, separator: str) -> tuple[Int64[np.ndarray, "n"], int, Int64[np.ndarray, "m"]]:
    """Where each row begins, without blank lines; where the last ends; and where lines end within a cell.

    A line within quotation marks is no row of its own, unless the last of them is never closed: then they are plain
    signs, as the inches of a screen.
    """
    starts, end, lines, closed = scanned(path, disk, separator)
    return (starts, end, lines) if closed else scanned(path, disk, "")[:3]


def scanned(path: str, disk: Disk, separator: str) -> tuple[Int64[np.ndarray, "n"], int, Int64[np.ndarray, "m"], bool]:
    """Where rows begin, bytes of the file, where lines end within cells, and whether all quotation marks are closed;
    without a separator these are plain signs."""
    found: list[np.ndarray] = []
    inner: list[np.ndarray] = [np.zeros(0, np.int64)]
    place, fresh = 0, True  # fresh: the next sign that is none of a line's end begins a row
    marks = Marks(separator) if separator else None
    with disk.open(path, SCAN) as file:
        while data := file.read(SCAN):
            signs = np.frombuffer(data, np.uint8)
            ends = np.flatnonzero((signs == 10) | (signs == 13))
            if marks:
                within = marks.within
                edges = marks.edges(signs)
                if within or len(edges):
                    outside = (within + np.searchsorted(edges, ends)) % 2 == 0
                    held = ends[~outside]
                    inner.append(place + held[signs[held] == 10].astype(np.int64))
                    ends = ends[outside]
            begins = np.concatenate([[0] if fresh else [], ends + 1]).astype(np.int64)
            begins = begins[begins < len(signs)]
            # Of several line ends in a row, and before spaces only, what is between them begins no row.
            begins = begins[(signs[begins] != 10) & (signs[begins] != 13)]
            found.append(place + begins)
            fresh = bool(len(ends) and ends[-1] == len(signs) - 1)
            place += len(signs)
    starts = np.concatenate(found) if found else np.zeros(0, np.int64)
    if len(starts) and starts[0] == 0 and disk.cut(path, 0, 3) == b"\xef\xbb\xbf":
        starts[0] = 3
    return starts, place, np.concatenate(inner), not (marks and marks.within)


class Marks:
    """The quotation marks of a file that open or close a cell, as module csv takes them, chunk after chunk.

    One opens a cell only as its first sign: behind a separator, a line's end or, but for tabs, spaces behind these.
    Any other outside is a plain sign, as in 5" disk. Within, the next one closes; two in a row close and open again.
    """

    def __init__(self, separator: str) -> None:
        self.separator = ord(separator)
        self.within = False
        self.first = True  # no chunk was seen yet
        self.closing = False  # the sign before the chunk is a mark that closed a cell
        self.last = 10  # the sign before the chunk
        self.solid = 10  # the last one before it that is no space

    def edges(self, signs: UInt8[np.ndarray, "n"]) -> Int64[np.ndarray, "k"]:
        """Where in the next chunk a quoted cell begins or ends, ascending."""
        quotes = np.flatnonzero(signs == 34)
        kept = np.zeros(0, bool)
        if len(quotes):
            after = signs[quotes - 1]
            if quotes[0] == 0:
                after[0] = self.last
            again = after == 34
            again[0] &= self.closing
            spaced = np.flatnonzero(after == 32)
            if self.separator != 9 and len(spaced):
                solid = np.flatnonzero(signs != 32)  # the quotes are among them
                behind = np.searchsorted(solid, quotes[spaced])
                after[spaced] = np.where(behind > 0, signs[solid[behind - 1]], self.solid)
            opening = (after == self.separator) | (after == 10) | (after == 13)
            if self.first and signs[:4].tobytes() == b'\xef\xbb\xbf"':
                opening[0] = True
            kept = self.turning(opening, again)
        self.closing = bool(len(quotes) and kept[-1] and quotes[-1] == len(signs) - 1 and not self.within)
        self.first, self.last = False, int(signs[-1])
        if self.last != 32:
            self.solid = self.last
        elif len(solid := np.flatnonzero(signs != 32)):
            self.solid = int(signs[solid[-1]])
        return quotes[kept]

    def turning(self, opening: Bool[np.ndarray, "k"], again: Bool[np.ndarray, "k"]) -> Bool[np.ndarray, "k"]:
        """Which marks open or close a cell, of those that may open one and those right behind another."""
        count = len(opening)
        kept = np.ones(count, bool)
        openings, plain = np.flatnonzero(opening), np.flatnonzero(~(opening | again))
        by_parity = [plain[plain % 2 == k] for k in (0, 1)]
        place = int(self.within)  # of the next mark that must open: every second one, up to one that cannot
        while (k := np.searchsorted(by_parity[place % 2], place)) < len(by_parity[place % 2]):
            stray = int(by_parity[place % 2][k])
            k = np.searchsorted(openings, stray)
            place = int(openings[k]) if k < len(openings) else count
            kept[stray:place] = False
        self.within = (count - place) % 2 == 1
        return kept


# Parquet -------------------------------------------------------------------------------------------------------------


class ParquetCells(Cells):
    """Parquet files with the same columns. A column of a group of rows is read at once."""

    def __init__(self, paths: Sequence[str], disk: Disk, reading: Reading) -> None:
        super().__init__(list(paths), disk, [])
        self.files: dict[str, Any] = {}
        schema = self.file(paths[0]).schema_arrow
        if len(set(schema.names)) < len(schema.names):
            twice = next(name for name, count in Counter(schema.names).items() if count > 1)
            raise UserError(f"{paths[0]}: two columns are named {twice!r}. Write the file anew with other names.")
        for column in schema:
            if why := nested(column.type):
                self.left_out[column.name] = why
            else:
                self.names.append(column.name)
        counts: list[int] = []
        self.groups: list[tuple[str, int]] = []
        self.firsts: list[int] = []
        self.bytes: list[int] = []
        for path in self.paths:
            file = self.file(path)
            if absent := [name for name in self.names if name not in file.schema_arrow.names]:
                raise UserError(f"{path} has no column {absent[0]!r}, which {paths[0]} has.")
            self.firsts.append(sum(counts))
            for k in range(file.num_row_groups):
                group = file.metadata.row_group(k)
                if group.num_rows:
                    counts.append(group.num_rows)
                    self.groups.append((path, k))
                    self.bytes.append(group.total_byte_size)
        if not counts:
            raise UserError(f"{paths[0]}: no rows.")
        self.edges = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.blocks = self.edges[:-1]
        self.largest(len(self.names))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "files": {}}

    def largest(self, width: int) -> int:
        """Bytes of the largest group at so many float32 a row. Raises UserError where no process should hold it."""
        rows = int(np.diff(self.edges).max())
        if (size := rows * max(1, width) * 4) > GROUP:
            raise UserError(
                f"{self.paths[0]}: groups of {rows:,} rows, {size / 2**30:.1f} GiB as numbers, which each reading "
                "process would hold. Write the file anew with smaller ones, as pyarrow.parquet.write_table(table, "
                "path, row_group_size=100_000) does."
            )
        return size

    def __len__(self) -> int:
        return int(self.edges[-1])

    def file(self, path: str) -> Any:
        """The file, opened anew: a handle that came through a fork would share its place with the parent."""
        pa, parquet = arrow()
        try:
            return parquet.ParquetFile(self.disk.open(path) if self.disk.remote else path)
        except FileNotFoundError:
            raise self.disk.nowhere(path) from None
        except UserError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"{path}: no Parquet file, or a damaged one ({reason}).") from None

    def stored(self, row: int) -> int:
        group = bisect_right(self.blocks, row) - 1  # type: ignore[arg-type]
        return max(1, self.bytes[group] // int(self.edges[group + 1] - self.edges[group]))

    def place(self, row: int) -> str:
        number = bisect_right(self.firsts, row) - 1
        return str(row) if len(self.paths) == 1 else f"{base(self.paths, number)}/{row - self.firsts[number]}"

    def columns(self, names: Sequence[str], rows: Int64[np.ndarray, "n"]) -> dict[str, Raw]:
        pa, _ = arrow()
        groups = np.searchsorted(self.edges, rows, side="right") - 1
        parts: dict[str, list[Raw]] = {name: [] for name in names}
        for group in np.unique(groups).tolist():
            path, k = self.groups[group]
            inside = rows[groups == group] - self.edges[group]
            whole = len(inside) == self.edges[group + 1] - self.edges[group]
            file = self.file(path)
            for name in names:  # one by one: so at most a column of a group is held beside what is made of it
                with undamaged(path, f"group {k} of its rows, column {name!r},"):
                    values = file.read_row_group(k, columns=[name]).column(0)
                parts[name].append(raw_of(values if whole else values.take(pa.array(inside))))
        return {name: one_of(found) for name, found in parts.items()}

    def drawn(self, seed: int, most: int) -> Int64[np.ndarray, "n"]:
        """From few groups, drawn by the seed: no more than hold twice as many rows, but some tens of them."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.groups))
        enough = int(np.searchsorted(np.cumsum(np.diff(self.edges)[order]), 2 * most)) + 1
        share = [np.arange(self.edges[k], self.edges[k + 1]) for k in order[: max(GROUPS, enough)]]
        chosen = [rng.permutation(part)[: max(1, -(-most // len(share)))] for part in share]
        return np.sort(rng.permutation(np.concatenate(chosen))[:most])


def arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise missing("parquet", "pyarrow", "Parquet") from None
    return pa, parquet


def nested(kind: Any) -> str:
    """What a column holds that is no single value; empty where it holds single values."""
    pa, _ = arrow()
    of = pa.types
    if of.is_dictionary(kind):
        return nested(kind.value_type)
    if of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
        return "lists"
    if of.is_struct(kind) or of.is_map(kind) or of.is_union(kind):
        return "nested values"
    if of.is_binary(kind) or of.is_large_binary(kind) or of.is_fixed_size_binary(kind):
        return "bytes"
    return ""


def raw_of(values: Any) -> Raw:
    """A column of Arrow as `Raw`."""
    pa, _ = arrow()
    of, kind = pa.types, values.type
    from pyarrow import compute

    if of.is_date(kind) or of.is_timestamp(kind):
        stamps = compute.cast(values, pa.timestamp("us")).cast(pa.int64())
        return Raw("date", floats(stamps) / 86_400e6)
    if of.is_time(kind) or of.is_duration(kind):
        values = values.cast(pa.int64() if values.type.bit_width == 64 else pa.int32())
        kind = values.type
    if of.is_integer(kind) or of.is_floating(kind) or of.is_decimal(kind):
        return Raw("number", floats(values))
    if of.is_null(kind):
        return Raw("text", np.full(len(values), None, object))
    if of.is_boolean(kind):
        values = values.cast(pa.string())
    coded = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
    if not of.is_dictionary(coded.type):
        coded = coded.cast(pa.large_string()).dictionary_encode()
    words = [None if word is None else clean(str(word)) for word in coded.dictionary.to_pylist()]
    kept = np.empty(len(words), object)
    kept[:] = words
    codes = compute.fill_null(coded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return Raw("text", kept, codes)


def floats(values: Any) -> Float64[np.ndarray, "n"]:
    pa, _ = arrow()
    return values.cast(pa.float64(), safe=False).to_numpy().astype(np.float64, copy=False)


def one_of(parts: list[Raw]) -> Raw:
    """Of one column in several groups."""
    if len(parts) == 1:
        return parts[0]
    return Raw(parts[0].form, np.concatenate([part.each() for part in parts]))


# Finding the files ---------------------------------------------------------------------------------------------------


def base(paths: Sequence[str], number: int) -> str:
    """The path of a file below the folder that all share."""
    shared = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    return paths[number][len(shared) :].lstrip("/")


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
