"""Texts at rest, read by number: lines of files, whole files, rows of tables. Labels are for evaluation only.

Nothing is held but where items begin: files of any size are read item by item.
Raises UserError where there is nothing to read, UnreadableItem for one bad item.
"""

import codecs
import contextlib
import csv
import io
import json
import sys
import unicodedata
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from selfsame.errors import NO_LABEL, UnreadableItem, UserError, unknown
from selfsame.modalities.text.reading import Reading
from selfsame.storage.disk import Disk
from selfsame.storage.folders import listed
from selfsame.storage.index import kept
from selfsame.storage.tables import SWALLOWED, check_quotes, first_names

if TYPE_CHECKING:
    from selfsame.modalities.text.stats import Stats
    from selfsame.modalities.text.tokens import Codec
    from selfsame.storage.shards import Rows

LONGEST = 1 << 16  # bytes of an item that are read; what is behind is left out, and counted
LOOKED = 100_000  # items that are read at opening: all, or of more than these as many, drawn by the seed
BLOCK = 1 << 23  # bytes of a file that are looked through at a time for its lines
GUESSED = 200  # rows that are looked at to find the column of the text
MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
LOOKED_INTO = 64  # rows over several lines, the longest, that are looked into for rows that a quote has swallowed
HEADING = 60, 6  # characters and words of a column's name at most


class TextSource:
    """Texts read by number. Survives pickling and forking.

    `labels` may be a function that finds them: they are not looked for before they are wanted.
    """

    looks = LOOKED
    blocks: Int64[np.ndarray, "k"] | None = None
    window = 1
    array = None
    noted = None
    """nothing: what `measure` finds is all in its statistics"""
    column = ""
    """the column of the text, where there are columns"""
    columns: Sequence[str] = ()
    """the names of all columns"""

    def __init__(self, path: str, reading: Reading, labels: Any = None) -> None:
        self.path = path
        self.reading = reading
        self.known_labels = labels
        self.labelled_by = ""
        """the column that was asked for as labels"""
        self.empty = 0
        """lines without text, which are no items"""
        self.ignored: dict[str, int] = {}
        """files that are no text, counted by their suffix"""
        self.coding: str | None = None
        self.made: Codec | None = None

    @property
    def roles(self) -> list[tuple[str, str, str]]:
        """Which column of a table is the text, and which are not read."""
        if not self.column:
            return []
        others = [name for name in self.columns if name != self.column]
        found = [("text column", self.column, "given" if self.reading.column else "of words, with the longest texts")]
        return [*found, ("left out", first_names(others), "no text")] if others else found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "known_labels": None, "made": None}  # of no use to workers, or made there

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, i: int) -> str:
        """As in reviews.txt:12, or the path below the folder. Unique."""
        raise NotImplementedError

    def held(self, i: int) -> bytes | str:
        """The item as it lies there, cut after LONGEST bytes. Raises UnreadableItem."""
        raise NotImplementedError

    def labels_by_column(self, name: str) -> list[str]:
        """The cells of a column; NO_LABEL for rows that cannot be read. Raises UserError for unknown names."""
        raise NotImplementedError

    def stored(self, i: int) -> int:
        """Bytes of the item at rest."""
        raise NotImplementedError

    @property
    def labels(self) -> list[str] | None:
        if self.labelled_by and self.labelled_by == self.column:
            raise UserError(f"--labels {self.column}: this is the column of the text. Give another.")
        if callable(self.known_labels):
            self.known_labels = self.known_labels()
        return self.known_labels

    @labels.setter
    def labels(self, labels: Any) -> None:
        self.known_labels = labels

    @property
    def place(self) -> str | None:
        """The folder that names are relative to; None where they name no files."""
        return None

    def fit(self, stats: "Stats") -> None:
        """From now on `codec` is that of these statistics, and so is the column, unless the reading names one.

        Raises UserError where the table has several columns and none is the one that was learned from.
        """
        self.coding, self.made = stats.tokenizer, None
        if self.reading.column is not None or not stats.column or len(self.columns) < 2:
            return
        if stats.column not in self.columns:
            raise UserError(
                f"{self.path} has no column {stats.column!r}, which the encoder learned from. It has: "
                f"{', '.join(self.columns)}. Give the column of the text that name."
            )
        if stats.column != self.column:
            self.take(stats.column)

    def take(self, column: str) -> None:
        """Read the texts of this column of the table from now on."""
        self.column = column

    @property
    def codec(self) -> "Codec":
        """What makes token numbers of texts. Made in each process."""
        from selfsame.modalities.text.tokens import Codec

        if self.made is None:
            assert self.coding is not None, "the source has not been fitted"
            self.made = Codec(self.coding)
        return self.made

    def read(self, i: int) -> str:
        """The text, its blanks and line ends one blank each, in Unicode's composed form. Raises UnreadableItem."""
        held = self.held(i)
        text = held if isinstance(held, str) else decoded(held, self.reading.encoding)
        text = text.encode("utf-8", "replace").decode()  # half a character, as "\\ud83d" of a JSON may be: one of "?"
        text = " ".join(unicodedata.normalize("NFC", text).split())
        if not text:
            raise UnreadableItem("there is no text in it")
        return text

    def read_rest(self, i: int) -> bool:
        """Whether something of the item is left out, because it is very long."""
        return self.stored(i) > LONGEST

    @property
    def left_out(self) -> str:
        """As in: 12 .pdf, 3 empty lines."""
        parts = [listed(self.ignored)] if self.ignored else []
        if self.empty:
            parts.append(f"{self.empty:,} empty line{'s' if self.empty > 1 else ''}")
        return ", ".join(parts)


def decoded(data: bytes, encoding: str) -> str:
    """The text of these bytes; a character that was cut through at their end is left out. Raises UnreadableItem."""
    if b"\0" in data:
        raise UnreadableItem("it holds zero bytes: no text, or one in UTF-16, which must be converted to UTF-8")
    try:
        return codecs.getincrementaldecoder(encoding)().decode(data, final=len(data) < LONGEST)
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{data[error.start]:02x} at {error.start} is no {encoding.upper()}"
        hint = "; if it is Latin-1 or Windows-1252: --reading.encoding cp1252" if encoding == "utf-8" else ""
        raise UnreadableItem(f"{wrong}{hint}") from None


class LineSource(TextSource):
    """One line an item, of one or several files."""

    def __init__(
        self, path: str, root: str, names: Sequence[str], reading: Reading, labels: Any = None, marked: bool = False
    ) -> None:
        super().__init__(path, reading, labels)
        self.root = root
        self.files = list(names)
        found = [lines_of(str(Path(root) / name)) for name in self.files]
        self.firsts = np.cumsum([0, *(len(one["start"]) for one in found)])
        self.start, self.size, self.line = (
            np.concatenate([one[key] for one in found]) for key in ("start", "size", "line")
        )
        self.empty = sum(int(one["empty"]) for one in found)
        if not len(self):
            raise UserError(f"{path}: there is no line with text in it.")

    def __len__(self) -> int:
        return len(self.start)

    def file_of(self, i: int) -> str:
        return self.files[bisect_right(self.firsts, i) - 1]

    def name(self, i: int) -> str:
        return f"{self.file_of(i)}:{self.line[range(len(self))[i]]}"

    def stored(self, i: int) -> int:
        return int(self.size[i])

    def held(self, i: int) -> bytes | str:
        place = str(Path(self.root) / self.file_of(i))
        try:
            return Disk().cut(place, int(self.start[i]), min(int(self.size[i]), LONGEST))
        except OSError as error:
            raise UnreadableItem(f"{place} cannot be read: {error.strerror}") from error

    def labels_of_files(self) -> list[str] | None:
        """The names of the files without suffix, where there are several."""
        if len(self.files) < 2:
            return None
        stems = [Path(name).stem for name in self.files]
        words = stems if len(set(stems)) == len(stems) else self.files
        return [word for word, count in zip(words, np.diff(self.firsts), strict=True) for _ in range(count)]


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


class FileSource(TextSource):
    """One file an item. Names are relative to `root`, or absolute."""

    def __init__(self, path: str, root: str, names: Sequence[str], reading: Reading, labels: Any = None) -> None:
        super().__init__(path, reading, labels)
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    @property
    def place(self) -> str:
        return str(Path.cwd() / self.root)

    def name(self, i: int) -> str:
        return self.names[i]

    def stored(self, i: int) -> int:
        try:
            return (Path(self.root) / self.names[i]).stat().st_size
        except OSError as error:
            raise UnreadableItem(f"it cannot be read: {error.strerror}") from error

    def held(self, i: int) -> bytes | str:
        try:
            data = Disk().cut(str(Path(self.root) / self.names[i]), 0, LONGEST)
        except OSError as error:
            raise UnreadableItem(f"it cannot be read: {error.strerror}") from error
        for mark, kind in MARKS.items():
            if data.startswith(mark):
                raise UnreadableItem(f"it is in {kind}, which must be converted to UTF-8")
        return data.removeprefix(codecs.BOM_UTF8)


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


# Where items begin ---------------------------------------------------------------------------------------------------


def lines_of(path: str) -> dict[str, np.ndarray]:
    """Start, size and number of the lines of a file that are not empty; how many are. Kept on disk."""
    try:
        state = Disk().state(path)
        return kept(f"lines 1 {path} {state}", lambda: scanned_lines(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error


def scanned_lines(path: str) -> dict[str, np.ndarray]:
    ends: list[np.ndarray] = []
    inked: list[np.ndarray] = []
    offset = seen = 0
    with Path(path).open("rb") as file:
        mark = file.read(4)
        if kind := next((kind for mark_of, kind in MARKS.items() if mark.startswith(mark_of)), None):
            raise UserError(f"{path} is in {kind}. Convert it: iconv -f {kind} -t UTF-8 {path} > new.txt")
        file.seek(0)
        while block := file.read(BLOCK):
            values = np.frombuffer(block, np.uint8)
            here = np.flatnonzero(values == 10)
            ink = np.cumsum(values > 32) + seen
            ends.append(here + offset)
            inked.append(ink[here])
            seen, offset = int(ink[-1]), offset + len(block)
    end = np.concatenate([*ends, [offset]]).astype(np.int64)
    ink = np.diff(np.concatenate([[0], *inked, [seen]]))
    start = np.concatenate([[0], end[:-1] + 1])
    if mark.startswith(codecs.BOM_UTF8):
        start[0], ink[0] = 3, ink[0] - 3
    full = np.flatnonzero(ink > 0)
    last = len(end) - 1 if start[-1] >= offset else len(end)  # behind the last line end there is no line
    return {
        "start": start[full],
        "size": (end - start)[full],
        "line": full + 1,
        "empty": np.array(last - len(full)),
    }


def rows_of(path: str) -> dict[str, np.ndarray]:
    """Start, size and line of each row of a CSV, and how it is separated. A row may go over several lines."""
    starts = array("q")  # start, size and line of each row in turn: 24 bytes, where a tuple takes 160
    place, lines, empty = 0, 0, 0
    with Path(path).open("rb") as file, any_cell():
        mark = file.read(4)
        if kind := next((kind for mark_of, kind in MARKS.items() if mark.startswith(mark_of)), None):
            raise UserError(f"{path} is in {kind}. Convert it: iconv -f {kind} -t UTF-8 {path} > new.csv")
        place = 3 if mark.startswith(codecs.BOM_UTF8) else 0
        file.seek(place)
        heading = file.readline().decode("latin-1")
        separator = max(",;\t", key=heading.count)
        file.seek(place)

        def told() -> Iterator[str]:
            nonlocal place, lines
            for line in file:
                place, lines = place + len(line), lines + 1
                yield line.decode("latin-1")  # quotes, separators and line ends are where they are in UTF-8

        before, line = place, 1
        first = heading_size = width = 0
        try:
            for row in csv.reader(told(), delimiter=separator):
                if not any(cell.strip() for cell in row):
                    empty += 1
                elif not width:
                    first, heading_size, width = before, place - before, len(row)
                else:
                    starts.extend((before, place - before, line))
                before, line = place, lines + 1
        except csv.Error as error:
            raise UserError(f"{path}: no valid CSV: {error}.") from error
    if not width:
        raise UserError(f"{path}: this file is empty.")
    table = np.array(starts, np.int64).reshape(-1, 3)
    found: dict[str, Any] = {"start": table[:, 0], "size": table[:, 1], "line": table[:, 2], "empty": empty}
    found |= {"separator": separator, "width": width, "first": first, "heading": heading_size}
    return {key: np.asarray(value) for key, value in found.items()}


@contextlib.contextmanager
def any_cell() -> Iterator[None]:
    """Under it the csv module takes cells of any length."""
    before = csv.field_size_limit(1 << 30)
    try:
        yield
    finally:
        csv.field_size_limit(before)
