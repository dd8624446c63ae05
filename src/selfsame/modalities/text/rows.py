"""Texts in a column of a table, a row an item: JSON lines, CSV, Parquet. The column of the longest texts is it.

Raises UserError where no column holds text, UnreadableItem for one bad row.
"""

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfsame.errors import NO_LABEL, UnreadableItem, UserError, unknown
from selfsame.modalities.text.lines import any_cell, rows_of
from selfsame.modalities.text.reading import Reading
from selfsame.modalities.text.source import LONGEST, LineSource, TextSource, decoded
from selfsame.storage.disk import Disk
from selfsame.storage.index import kept
from selfsame.storage.tables import SWALLOWED, check_quotes

if TYPE_CHECKING:
    from selfsame.storage.shards import Rows

GUESSED = 200  # rows that are looked at to find the column of the text
LOOKED_INTO = 64  # rows over several lines, the longest, that are looked into for rows that a quote has swallowed
HEADING = 60, 6  # characters and words of a column's name at most


class JsonSource(LineSource):
    """One JSON object a line, the text under one of its keys."""

    def __init__(self, path: str, root: str, names: Sequence[str], reading: Reading) -> None:
        super().__init__(path, root, names, reading)
        rows: list[dict[str, Any]] = []
        for i in range(min(GUESSED, len(self))):
            with contextlib.suppress(UnreadableItem):
                rows.append(self.row(i))
        if not rows:
            raise UserError(f'{path}: none of its first lines is a JSON object, as {{"text": ...}} is.')
        keys = list(dict.fromkeys(key for row in rows for key in row))
        self.column = text_column(path, keys, [[row.get(key) for key in keys] for row in rows], reading.column)
        self.columns = keys

    def row(self, i: int) -> dict[str, Any]:
        place = str(Path(self.root) / self.file_of(i))
        try:  # whole: a cut object is none
            row = json.loads(Disk().cut(place, int(self.start[i]), int(self.size[i])).decode(self.reading.encoding))
        except (ValueError, OSError) as error:
            raise UnreadableItem(f"no JSON: {error}") from None
        if not isinstance(row, dict):
            raise UnreadableItem("no JSON object")
        return row

    def held(self, i: int) -> bytes | str:
        value = self.row(i).get(self.column)
        if not isinstance(value, str):
            raise UnreadableItem(f"no text under {self.column!r}")
        return value[:LONGEST]

    def labels_by_column(self, name: str) -> list[str]:
        if name not in self.columns:
            raise unknown(f"column in {self.path}", name, self.columns)
        return [label_of(self.row, i, name, self.name(i)) for i in range(len(self))]


class CsvSource(TextSource):
    """One row of a CSV an item: comma, semicolon or tab between cells.

    The first row names the columns; where it cannot, for it holds a number or a long text, they are 1, 2, 3, ...
    """

    def __init__(self, path: str, reading: Reading) -> None:
        super().__init__(path, reading)
        key = f"csv 1 {path} {Disk().state(path)}"
        found = kept(key, lambda: rows_of(path))
        self.start, self.size, self.line = found["start"], found["size"], found["line"]
        self.empty = int(found["empty"])
        self.separator = str(found["separator"])
        self.width = int(found["width"])
        try:
            heading = self.cells(int(found["first"]), int(found["heading"]))
        except UnreadableItem as reason:
            raise UserError(f"{path}: the names of its columns cannot be read: {reason}.") from None
        self.columns = [cell.strip() for cell in heading]
        if not is_heading(self.columns):
            self.columns = [str(k) for k in range(1, self.width + 1)]
            first = [int(found["first"])], [int(found["heading"])], [1]
            self.start, self.size, self.line = (
                np.concatenate([head, rest])
                for head, rest in zip(first, (self.start, self.size, self.line), strict=True)
            )
        twice = next((name for name in self.columns if self.columns.count(name) > 1), None)
        if twice is not None:
            raise UserError(
                f"{path}: the column {twice!r} is there {self.columns.count(twice)} times. Give each its own name."
            )
        if not len(self):
            raise UserError(f"{path}: there is no row below the names of the columns.")
        self.check_quotes()
        rows = []
        for i in range(min(GUESSED, len(self))):
            with contextlib.suppress(UnreadableItem):
                rows.append(self.row(i))
        self.take(text_column(path, self.columns, rows, reading.column))

    def check_quotes(self) -> None:
        """Raise UserError where a row over several lines holds others."""
        over = np.diff(self.line, append=self.line[-1])  # of the last row it is not known; it is one of very many
        over[-1] = LOOKED_INTO if self.size[-1] > 4 * np.median(self.size) else 0
        long = np.flatnonzero(over > SWALLOWED)
        for i in long[np.argsort(-over[long], kind="stable")][:LOOKED_INTO].tolist():
            data = Disk().cut(self.path, int(self.start[i]), min(int(self.size[i]), 1 << 20))
            lines = data.decode("latin-1").splitlines()
            check_quotes(self.path, lines, int(self.line[i]), self.separator, self.width)

    def take(self, column: str) -> None:
        self.column, self.at = column, self.columns.index(column)

    def __len__(self) -> int:
        return len(self.start)

    def name(self, i: int) -> str:
        return f"{Path(self.path).name}:{self.line[range(len(self))[i]]}"

    def stored(self, i: int) -> int:
        return int(self.size[i])

    def cells(self, start: int, size: int) -> list[str]:
        text = decoded(Disk().cut(self.path, start, size), self.reading.encoding)
        with any_cell():
            return next(csv.reader(io.StringIO(text, newline=""), delimiter=self.separator), [])

    def row(self, i: int) -> list[str]:
        cells = self.cells(int(self.start[i]), int(self.size[i]))
        if len(cells) != self.width:
            raise UnreadableItem(f"it has {len(cells)} cells, and there are {self.width} columns")
        return cells

    def held(self, i: int) -> bytes | str:
        return self.row(i)[self.at][:LONGEST]

    def labels_by_column(self, name: str) -> list[str]:
        if name not in self.columns:
            raise unknown(f"column in {self.path}", name, self.columns)
        at = self.columns.index(name)
        return [label_of(self.row, i, at, self.name(i)) for i in range(len(self))]


class ParquetSource(TextSource):
    """One row an item, of Parquet files. Their groups of rows are read whole and held for a while."""

    def __init__(self, path: str, paths: Sequence[str], reading: Reading) -> None:
        from selfsame.storage.shards import Rows

        super().__init__(path, reading)
        self.use(Rows(paths, Disk(), reading.column, choose=self.chosen))
        self.columns = self.rows.file(0).schema_arrow.names
        self.known_labels = self.rows.labels

    def take(self, column: str) -> None:
        from selfsame.storage.shards import Rows

        before = self.rows
        self.use(Rows(before.paths, Disk(), column, choose=self.chosen))
        if self.known_labels == before.labels:
            self.known_labels = self.rows.labels

    def use(self, rows: "Rows") -> None:
        self.rows, self.column = rows, rows.column
        if len(self.rows.starts) > 2:
            self.blocks, self.window = np.array(self.rows.starts[:-1], np.int64), self.rows.window

    def chosen(self, path: str, schema: Any, wish: str | None) -> tuple[str, str | None]:
        from selfsame.storage.shards import arrow

        pa, parquet = arrow()
        kinds = (pa.types.is_string, pa.types.is_large_string, getattr(pa.types, "is_string_view", pa.types.is_string))
        able = [field.name for field in schema if any(kind(field.type) for kind in kinds)]
        if not able:
            raise UserError(f"{path}: no column holds text. It has: {', '.join(schema.names)}.")
        if wish is not None and wish not in able:
            raise unknown(f"column of text in {path}", wish, able)
        if wish is None and len(able) > 1:
            first = next(parquet.ParquetFile(path).iter_batches(GUESSED, columns=able), None)
            rows = [] if first is None else [list(row.values()) for row in first.to_pylist()]
            wish = text_column(path, able, rows, None)
        return wish or able[0], None

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, i: int) -> str:
        return self.rows.name(i)

    def held(self, i: int) -> bytes | str:
        try:
            value: Any = self.rows.read(i)
        except UnicodeDecodeError:
            raise UnreadableItem("it is no UTF-8") from None
        return value[:LONGEST]

    def stored(self, i: int) -> int:
        return len(self.rows.read(i))

    def labels_by_column(self, name: str) -> list[str]:
        if name not in self.columns:
            raise unknown(f"column in {self.path}", name, self.columns)
        from selfsame.storage.shards import class_names

        self.rows.label, self.rows.classes = name, class_names(self.rows.file(0).schema_arrow, name)
        found = self.rows.labels()
        if found is None:
            raise UserError(f"{self.path}: the column {name!r} has rows without a label.")
        return found


def text_column(path: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], wish: str | None) -> str:
    """The column wanted, or of those that hold words the one with the longest texts. Raises UserError."""
    if wish is not None:
        if wish not in columns:
            raise unknown(f"column in {path}", wish, columns)
        return wish
    lengths = {}
    for k, name in enumerate(columns):
        cells = [row[k] for row in rows if isinstance(row[k], str) and row[k].strip()]
        if cells and sum(any(sign.isalpha() for sign in cell) for cell in cells) > len(cells) / 2:
            lengths[name] = sum(map(len, cells)) / len(cells)
    if not lengths:
        raise UserError(f"{path}: no column holds text. It has: {', '.join(columns)}.")
    return max(lengths, key=lengths.__getitem__)


def is_heading(cells: Sequence[str]) -> bool:
    """Whether these may be names of columns: short, and no numbers."""
    longest, words = HEADING
    return all(len(cell) <= longest and len(cell.split()) <= words and not is_number(cell) for cell in cells)


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def label_of(row: Callable[[int], Any], i: int, at: int | str, name: str) -> str:
    """What is at `at` in row i; NO_LABEL where the row cannot be read. Raises UserError where there is nothing."""
    try:
        cells = row(i)
    except UnreadableItem:
        return NO_LABEL
    value = cells.get(at) if isinstance(cells, dict) else cells[at]
    if value is None or not str(value).strip():
        raise UserError(f"{name} has no label.")
    return sys.intern(str(value).strip())
