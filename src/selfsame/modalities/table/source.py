"""Rows, or the events of a user, read by number. Small tables are held as numbers, large ones stream.

Raises UserError where there is nothing to read, UnreadableItem for one broken row.
"""

import difflib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain, islice
from os import getpid
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from selfsame.errors import UnreadableItem, UserError, unknown
from selfsame.modalities.table.cells import Cells, clean
from selfsame.modalities.table.encode import as_dates, as_numbers, as_words, encoded, found_form
from selfsame.modalities.table.finding import CSV, PARQUET, cells_of, paths_of
from selfsame.modalities.table.groups import ParquetCells
from selfsame.modalities.table.lines import CsvCells, has_header, head_of, is_number, parsed, separator_of
from selfsame.modalities.table.reading import Reading
from selfsame.modalities.table.stats import Stats
from selfsame.storage.disk import disk_of, is_address, plain_path
from selfsame.storage.folders import mostly, suffix_of
from selfsame.storage.names import Names, repeated

__all__ = ["SequenceSource", "TableSource", "open_source", "reads"]

FIRST = 1000  # lines from which it is seen whether a file is a table
FILES = 10_000  # files of a folder whose names are looked at
LOOKED = 50_000  # rows that are looked at when a table is measured: all, or of more as many
HELD = 256 << 20  # bytes: a table that is no larger as float32 is held in memory; of larger ones as many groups
RUN = 65_536  # rows of a CSV that are parsed at a time
WHOLE = 1 << 30  # bytes of a Parquet table as float32 up to which its rows can be put together by user
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".wav", ".flac", ".ogg", ".mp3", ".npy")


class TableSource:
    """A table by rows. Survives pickling and forking; what it holds in memory is made anew in each process."""

    looks = LOOKED
    window = 1

    def __init__(self, path: str, cells: Cells, reading: Reading, label: str | None = None) -> None:
        self.path = path
        self.cells = cells
        self.reading = reading
        self.label = label
        self.stats: Stats | None = None
        self.noted: Any = None
        self.loaded: Float32[np.ndarray, "n w"] | None = None
        self.faults: dict[int, str] = {}
        self.groups: OrderedDict[int, Float32[np.ndarray, "m w"]] = OrderedDict()
        self.owner = getpid()
        self.known_labels: list[str] | None = None
        self.ids: Names | None = None
        every = [*cells.names, *cells.left_out]
        for flag, name in (("--labels", label), ("--reading.id", reading.id), ("--reading.by", reading.by),
                           ("--reading.time", reading.time)):  # fmt: skip
            if name and name not in cells.names:
                raise unknown(f"column {flag}", name, every)
        self.named_out = given_names(reading.leave_out, every)
        if isinstance(cells, ParquetCells):
            self.window = max(1, HELD // cells.largest(len(cells.names)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None, "groups": OrderedDict(), "known_labels": None}

    def __len__(self) -> int:
        return len(self.cells)

    # What an item is

    def name(self, i: int) -> str:
        """The row's number, from 0, or its value in the column --reading.id. Unique."""
        if not self.reading.id:
            return self.cells.place(i)
        if self.ids is None:
            self.ids = self.named(self.reading.id)
        return self.ids[i]

    def named(self, column: str) -> Names:
        names = Names(word for words in self.words(column) for word in words)
        if twice := repeated(names):
            raise UserError(
                f"--reading.id {column}: values stand in several rows, as {twice[0]!r}, and names must differ. Give "
                f"--reading.by {column} to take the rows of one as one item."
            )
        return names

    def words(self, column: str) -> Any:
        for rows in self.cells.runs(RUN):
            yield [intern(word) if word else "" for word in as_words(self.cells.column(column, rows))]

    def read(self, i: int) -> dict[str, str]:
        """The row as it is in the file: cells by column, empty where missing. Raises UnreadableItem."""
        return self.shown(np.array([i]))[0]

    def shown(self, rows: Int64[np.ndarray, "n"]) -> list[dict[str, str]]:
        for _, why in self.cells.broken(rows).items():
            raise UnreadableItem(why)
        names = [name for name in self.cells.names if name != self.label]
        columns = self.cells.columns(names, rows)
        words = {name: [str(raw.each()[k]) if raw.form == "date" else word for k, word in enumerate(as_words(raw))]
                 for name, raw in columns.items()}  # fmt: skip
        return [{name: words[name][k] or "" for name in names} for k in range(len(rows))]

    def stored(self, i: int) -> int:
        """Bytes of the row at rest."""
        return self.cells.stored(i)

    @property
    def left_out(self) -> str:
        """Columns are told of in `Stats`; here there are no files beside."""
        return ""

    @property
    def roles(self) -> list[tuple[str, str, str]]:
        """What became of the columns; known once the source is fitted."""
        return self.stats.roles if self.stats is not None else []

    @property
    def labels(self) -> list[str] | None:
        """The column of labels as text; None where none was named."""
        if self.label is None:
            return None
        self.refuse_seen()
        if self.known_labels is None:
            found = [word for words in self.words(self.label) for word in words]
            bare = [self.cells.place(k) for k, word in enumerate(found) if not word]
            if bare:
                raise UserError(
                    f"--labels {self.label}: {len(bare):,} of {len(found):,} rows have no label (rows "
                    f"{', '.join(bare[:3])}{', ...' if len(bare) > 3 else ''}). Leave these rows out of the file."
                )
            self.known_labels = found
        return self.known_labels

    def items_of(self, broken: dict[int, str]) -> dict[int, str]:
        """The items that broken rows make unreadable."""
        return dict(broken)

    def usual_events(self) -> int:
        return 0

    # As numbers

    def fit(self, stats: Stats) -> None:
        """From now on every row comes as the numbers of these columns. Raises UserError where the table lacks one."""
        names = [column.name for column in stats.columns]
        self.stats = stats
        if self.label is not None:
            self.refuse_seen()
        absent = [name for name in names if name not in self.cells.names]
        if absent:
            near = difflib.get_close_matches(absent[0], self.cells.names, n=1, cutoff=0.6)
            more = f" and {len(absent) - 1} more of {len(names)}" if len(absent) > 1 else ""
            hint = f" Is it {near[0]!r} there? Name it alike." if near else ""
            raise UserError(f"{self.path} lacks {absent[0]!r}{more}, which the encoder was trained with.{hint}")
        if stats.by != self.reading.by:
            was = f"events by {stats.by}" if stats.by else "rows"
            raise UserError(
                f"{self.path}: the encoder was trained on {was}. Read it so: --reading.by {stats.by or '(nothing)'}."
            )
        self.loaded, self.groups = None, OrderedDict()
        if isinstance(self.cells, ParquetCells):  # a column may be many numbers, and some columns are none
            self.window = max(1, HELD // self.cells.largest(stats.width))

    def refuse_seen(self) -> None:
        """Raise UserError where the labels are a feature: of the encoder, or before there is one by the flags."""
        known = [column.name for column in self.stats.columns] if self.stats is not None else self.cells.names
        if self.label in known and (self.stats is not None or self.label not in self.named_out):
            raise UserError(
                f"--labels {self.label}: an encoder that has seen the column {self.label} as a feature would be "
                f"measured on what it was told. Train with --reading.leave-out {self.label}."
            )

    @property
    def fits_memory(self) -> bool:
        width = self.stats.width if self.stats is not None else len(self.cells.names)
        return len(self.cells) * width * 4 <= HELD

    @property
    def blocks(self) -> Int64[np.ndarray, "k"] | None:
        """The first rows of groups of Parquet that are read whole; None for CSV, and for what is held in memory."""
        return None if self.fits_memory else self.cells.blocks

    @property
    def array(self) -> Float32[np.ndarray, "n w"] | None:
        """All rows as numbers, where the table is small enough to be held in memory; else None."""
        if self.stats is None or not self.fits_memory:
            return None
        if self.loaded is None:
            self.loaded = np.empty((len(self.cells), self.stats.width), np.float32)
            for rows in self.cells.runs(RUN):
                self.loaded[rows[0] : rows[-1] + 1] = self.numbers(rows)
                self.faults.update(self.cells.broken(rows))
        return self.loaded

    def numbers(self, rows: Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "n w"]:
        """These rows, ascending, from the file."""
        assert self.stats is not None
        made = np.empty((len(rows), self.stats.width), np.float32)
        names = [column.name for column in self.stats.columns]
        # A CSV's line is parsed once for all columns; of Parquet each column is read for itself, and then let go.
        every = self.cells.columns(names, rows) if isinstance(self.cells, CsvCells) else {}
        for column, start in zip(self.stats.columns, self.stats.starts, strict=True):
            raw = every[column.name] if every else self.cells.column(column.name, rows)
            made[:, start : start + column.width] = encoded(column, raw)
        return made

    def rows(self, rows: Sequence[int] | Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "n w"]:
        """Any rows in any order. Raises UnreadableItem where one of them is broken."""
        if self.stats is None:
            raise RuntimeError("the source was not fitted: call fit(stats) before rows are read as numbers")
        wanted = np.asarray(rows, np.int64)
        if self.array is not None:
            self.refuse(wanted)
            return self.array[wanted]
        distinct, back = np.unique(wanted, return_inverse=True)
        if self.cells.blocks is None:
            self.faults.update(self.cells.broken(distinct))
            self.refuse(distinct)
            return self.numbers(distinct)[back]
        made = np.empty((len(distinct), self.stats.width), np.float32)
        starts = np.searchsorted(self.cells.blocks, distinct, side="right") - 1
        for group in np.unique(starts).tolist():
            here = starts == group
            made[here] = self.group(group)[distinct[here] - self.cells.blocks[group]]
        return made[back]

    def refuse(self, rows: Int64[np.ndarray, "n"]) -> None:
        if self.faults:
            for row in rows.tolist():
                if row in self.faults:
                    raise UnreadableItem(self.faults[row])

    def group(self, number: int) -> Float32[np.ndarray, "m w"]:
        """A group of Parquet rows as numbers; `window` of them are held."""
        if self.owner != getpid():  # what a parent held counts for the parent
            self.owner, self.groups = getpid(), OrderedDict()
        found = self.groups.pop(number, None)
        if found is None:
            while len(self.groups) >= self.window:
                self.groups.popitem(last=False)
            assert isinstance(self.cells, ParquetCells)
            found = self.numbers(np.arange(self.cells.edges[number], self.cells.edges[number + 1]))
        self.groups[number] = found
        return found

    def partners(self, items: Sequence[int], chances: np.ndarray, among: Any = None) -> Int64[np.ndarray, "b"]:
        """Another item for each: one of `among`, ascending, chosen by a chance in [0, 1); of its block, if there are
        blocks, so that no other need be read."""
        among = np.arange(len(self)) if among is None else np.asarray(among)
        low, high = np.zeros(len(items), np.int64), np.full(len(items), len(among))
        if self.blocks is not None:
            edges = np.searchsorted(among, np.append(self.blocks, len(self)))
            block = np.searchsorted(self.blocks, np.asarray(items), side="right") - 1
            low, high = edges[block], edges[block + 1]
        return among[np.minimum(low + (chances * (high - low)).astype(np.int64), len(among) - 1)]


class SequenceSource(TableSource):
    """A table by user: an item is one user's rows, in the order of a column or of the file."""

    def __init__(self, path: str, cells: Cells, reading: Reading, label: str | None = None) -> None:
        super().__init__(path, cells, reading, label)
        if isinstance(cells, ParquetCells) and len(cells) * len(cells.names) * 4 > WHOLE:
            raise UserError(
                f"{path}: {len(cells):,} rows of Parquet, too many to put together by user. Write the events as CSV, "
                "whose lines are read one by one, or give a part of the users."
            )
        users, self.user_names = self.users()
        order = np.argsort(users, kind="stable")
        if reading.time:
            order = np.lexsort((np.arange(len(users)), self.times(), users))
        self.order = order[np.searchsorted(users[order], 0) :]  # rows without a user have number -1
        self.first = np.append(np.searchsorted(users[self.order], np.arange(len(self.user_names))), len(self.order))
        if not len(self.user_names):
            raise UserError(f"--reading.by {reading.by}: no row has a value there.")

    def users(self) -> tuple[Int64[np.ndarray, "n"], Names]:
        """Of each row which user it is of, -1 none; and their names, in the order in which they come."""
        known: dict[str, int] = {}
        parts = []
        for words in self.words(self.reading.by):
            parts.append(np.array([known.setdefault(word, len(known)) if word else -1 for word in words], np.int64))
        return np.concatenate(parts), Names(known)

    def times(self) -> np.ndarray:
        """Of each row when it was; rows without a time come last."""
        name, form, parts = self.reading.time, None, []
        for rows in self.cells.runs(RUN):
            raw = self.cells.column(name, rows)
            if form is None:
                form = "" if raw.form == "date" else found_form([word for word in as_words(raw)[:200] if word])
            parts.append(as_dates(raw, form) if form or raw.form == "date" else as_numbers(raw)[0])
        when = np.concatenate(parts)
        if np.isnan(when).all():
            raise UserError(f"--reading.time {name}: its values are neither numbers nor dates.")
        return np.where(np.isnan(when), np.inf, when)

    def __len__(self) -> int:
        return len(self.user_names)

    def name(self, i: int) -> str:
        """The user."""
        return self.user_names[i]

    def events(self, i: int) -> Int64[np.ndarray, "e"]:
        """The rows of a user, in order."""
        return self.order[self.first[i] : self.first[i + 1]]

    def read(self, i: int) -> list[dict[str, str]]:  # type: ignore[override]
        """The user's rows as they are in the file, at most the last hundred. Raises UnreadableItem."""
        rows = self.events(i)[-100:]
        shown = self.shown(np.sort(rows))
        return [shown[k] for k in np.argsort(np.argsort(rows))]

    def stored(self, i: int) -> int:
        return sum(self.cells.stored(int(row)) for row in self.events(i))

    @property
    def blocks(self) -> None:
        """Rows of one user lie anywhere."""
        return None

    @property
    def array(self) -> Float32[np.ndarray, "n w"] | None:
        """The rows of all users, where they are held in memory: workers have nothing to read then."""
        return super().array

    @property
    def fits_memory(self) -> bool:
        width = self.stats.width if self.stats is not None else len(self.cells.names)
        return len(self.cells) * width * 4 <= (WHOLE if self.cells.blocks is not None else HELD)

    @property
    def labels(self) -> list[str] | None:
        """Of each user the label; it must be the same in all rows that have one."""
        if self.label is None:
            return None
        self.refuse_seen()
        if self.known_labels is None:
            words = np.array([word for words in self.words(self.label) for word in words], object)
            found = []
            for i in range(len(self)):
                kinds = {word for word in words[self.events(i)] if word}
                if len(kinds) != 1:
                    shown = " and ".join(sorted(kinds)[:2]) if kinds else "none"
                    raise UserError(
                        f"--labels {self.label}: {self.reading.by} {self.name(i)} has {shown}; a label of a user is "
                        "the same in all its rows."
                    )
                found.append(kinds.pop())
            self.known_labels = found
        return self.known_labels

    def items_of(self, broken: dict[int, str]) -> dict[int, str]:
        """None: whose event a broken row was is not known; it is left out, and `Stats.notes` tells of it."""
        return {}

    def usual_events(self) -> int:
        return int(np.ceil(np.quantile(np.diff(self.first), 0.9)))

    def partners(self, items: Sequence[int], chances: np.ndarray, among: Any = None) -> Int64[np.ndarray, "b"]:
        among = np.arange(len(self)) if among is None else np.asarray(among)
        return among[(chances * len(among)).astype(np.int64)]


def given_names(words: Sequence[str], every: Sequence[str]) -> list[str]:
    """The columns that are named; a word with commas in it is one column where there is one of that name."""
    found = []
    for word in words:
        found += [word] if word in every else [part.strip() for part in word.split(",") if part.strip()]
    return found


# Opening -------------------------------------------------------------------------------------------------------------


def spelt(path: str) -> str:
    return plain_path(path if is_address(path) else str(Path(path).expanduser()))


def open_source(path: str, labels: str | None = None, reading: Reading | None = None) -> TableSource:
    """A table: a CSV, a Parquet file, or a pattern or folder of parts of one. `labels` is the name of a column.

    Raises UserError where there is none, or where a flag names a column that is not there.
    """
    path = spelt(path)
    reading = reading or Reading()
    cells = cells_of(path, reading)
    return (SequenceSource if reading.by else TableSource)(path, cells, reading, labels)


def reads(path: str) -> int:
    """How many of the first lines at `path` look like rows of a table; 0 where nothing is there.

    Where most files of a folder are none of a table, it is how many are: a list beside photos does not outnumber them.
    Lists of files, numbers without names and texts with a label are data of other kinds; `--modality table` reads
    them as a table all the same.
    """
    try:
        place = spelt(path)
        paths, disk = paths_of(place), disk_of(place)
        rows = rows_of_file(paths[0])
        if not rows or not disk.is_folder(place):
            return rows
        every = chain.from_iterable(disk.runs(place))
        return rows if mostly(islice(every, FILES), (*CSV, *PARQUET)) else len(paths)
    except (UserError, OSError):
        return 0


def rows_of_file(path: str) -> int:
    """How many of the first lines of a file look like rows; of Parquet, how many rows it has."""
    suffix = suffix_of(path)
    if suffix in PARQUET:
        cells = cells_of(path, Reading())
        return len(cells) if len(cells.names) > 1 and "bytes" not in cells.left_out.values() else 0
    return rows_in(head_of(path, disk_of(path))[0], suffix) if suffix in CSV else 0


def rows_in(head: bytes, suffix: str) -> int:
    """How many of the first lines are rows; 0 where they look like something else."""
    separator = separator_of(head)
    rows = parsed(b"\n".join(islice(head.splitlines(), FIRST)), separator)
    widths = {len(row) for row in rows}
    if not rows or max(widths) < 2:
        return 0
    if suffix not in (".csv", ".tsv") and (min(widths) < 3 or (len(widths) > 1 and separator != "\t")):
        return 0  # lines of text have some commas, but not the same number in each
    titled = has_header(rows)
    below = rows[1:] if titled and len(rows) > 1 else rows
    cells = [clean(cell) for row in below for cell in row]
    told = [cell for cell in cells if cell]
    if any(suffix_of(cell) in SUFFIXES for cell in told):
        return 0
    if not titled and all(is_number(cell) for cell in told):
        return 0
    longest = max(sum(len(row[k].split()) for row in below if k < len(row)) / len(below) for k in range(len(rows[0])))
    return len(below) if len(rows[0]) > 3 or longest < 4 else 0
