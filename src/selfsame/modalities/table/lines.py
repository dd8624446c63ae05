"""CSV: rows are lines, read when they are asked for; its separator, header and quotes are found from its first ones.

Raises UserError on files that are no tables; one broken row is told by `broken`.
"""

import csv
import io
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from selfsame.errors import UserError
from selfsame.modalities.table.cells import MISSING, Cells, Raw, base, clean
from selfsame.modalities.table.marks import SCAN, line_starts
from selfsame.modalities.table.reading import Reading
from selfsame.storage.disk import Disk
from selfsame.storage.tables import check_quotes

__all__ = ["CsvCells", "has_header", "head_of", "is_number", "parsed", "separator_of"]

SEPARATORS = (",", ";", "\t", "|")
HEAD = 1 << 20  # bytes of a CSV that its separator and its header are found from
OPEN = 16  # files of a table at a time
BATCH = 4096  # rows of a CSV at most whose cells are kept until others are asked for
NEAR = 16 << 10  # bytes between two rows of a CSV up to which they are read at once
LOOKED_INTO = 64  # rows that go over several lines, the longest, that are searched for rows that a quote has swallowed


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
