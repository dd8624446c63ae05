"""Lists of paths with or without labels: .txt, one a line, .csv and .parquet.

Raises UserError on files that are no such list.
"""

import csv
import os
import posixpath
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from selfsame.errors import UserError, missing
from selfsame.storage.names import Names

TABLES = (".csv", ".parquet")  # lists with columns that have names


def table(path: Path, blank: bool = False) -> Iterator[list[str]]:
    """The rows of a .csv (separated by comma, semicolon or tab), or the lines of a .txt, without empty ones.

    Of a .parquet the names of its columns, then its rows as texts. `blank`: rows of a .csv with separators but only
    empty cells come too; lines without anything never do.
    """
    if path.suffix.lower() == ".parquet":
        yield from rows_of_parquet(path)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".txt":
                yield from ([text] for line in file if (text := line.strip()))
                return
            first = file.readline()
            separator = max(",;\t", key=first.count)
            file.seek(0)
            rows = csv.reader(file, delimiter=separator)
            yield from (row for row in rows if (blank and len(row) > 1) or any(cell.strip() for cell in row))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    except csv.Error as error:
        raise UserError(f"{path}: no valid CSV: {error}.") from error


def rows_of_parquet(path: Path) -> Iterator[list[str]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise missing("parquet", "pyarrow", f"to read {path}") from None
    try:
        with pq.ParquetFile(path) as file:
            yield list(file.schema_arrow.names)
            for some_rows in file.iter_batches():
                columns = [column.to_pylist() for column in some_rows.columns]
                yield from (["" if cell is None else str(cell) for cell in row] for row in zip(*columns, strict=True))
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: no valid Parquet: {error}.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}.") from error


def paths_and_labels(path: Path, names_item: Callable[[str], bool]) -> tuple[Names, list[str] | None]:
    """The column `path` or else the first, and the column `label` or else the second of two, of a list."""
    names, columns = paths_and_columns(path, names_item, ("label",))
    return names, columns["label"]


def paths_and_columns(
    path: Path, names_item: Callable[[str], bool], wanted: Sequence[str]
) -> tuple[Names, dict[str, list[str] | None]]:
    """The column `path` or else the first, and those wanted, of a .csv or .txt; None for one that is not there.

    The first row is a header if it has a cell `path`, or if its first cell names no item. Where it names none of those
    wanted, and there are no more other columns than are wanted, they are these in their order.
    """
    rows = table(path)
    first = next(rows, None)
    if first is None:
        return Names(), dict.fromkeys(wanted)
    head = [cell.strip().lower() for cell in first]
    headed = path.suffix.lower() != ".txt" and ("path" in head or not names_item(first[0].strip()))
    width = len(head)
    columns = head if headed else [""] * width
    where = columns.index("path") if "path" in columns else 0
    at = {name: columns.index(name) for name in wanted if name in columns}
    if not at and width <= 1 + len(wanted):
        at = dict(zip(wanted, (k for k in range(width) if k != where), strict=False))
    ragged: list[str] = []
    found: dict[str, list[str]] = {name: [] for name in at}
    total = 1

    def cells() -> Iterator[str]:
        nonlocal total
        for number, row in enumerate(chain([] if headed else [first], rows), 2 if headed else 1):
            total = number
            if len(row) != width:
                ragged.append(str(number))
                continue
            for name, place in at.items():
                found[name].append(sys.intern(row[place].strip()))
            yield row[where].strip()

    names = Names(cells())
    if ragged:
        raise UserError(f"{path}: {some(ragged, total, 'rows')} do not have {width} cells as the first has.")
    return names, {name: found.get(name) for name in wanted}


class Finder:
    """Finds the items that a list names: by a path from the source's root or from the list's folder, or by a file name
    that is unique."""

    def __init__(self, path: Path, names: Sequence[str], root: str | None, where: str) -> None:
        self.path = path
        self.names = names
        self.where = where
        self.here = Path.cwd() / path.parent
        self.by_name = {name: i for i, name in enumerate(names)}
        self.by_file: dict[str, list[int]] = {}
        self.by_place: dict[str, int] = {}
        for name, i in self.by_name.items():
            self.by_file.setdefault(posixpath.basename(name), []).append(i)
            if root is not None:
                self.by_place[os.path.normpath(f"{root}/{name}" if not name.startswith("/") else name)] = i

    def item(self, cell: str) -> int | None:
        """The number of the item, None where there is none. Raises UserError where it could be several."""
        if (name := posixpath.normpath(cell)) in self.by_name:
            return self.by_name[name]
        if (place := os.path.normpath(self.here / cell)) in self.by_place:
            return self.by_place[place]
        same = self.by_file.get(cell, [])
        if len(same) > 1:
            raise UserError(
                f"{self.path}: {cell} could be any of {len(same)} files ({', '.join(self.names[i] for i in same[:3])})."
                " Write the path, not the file name only."
            )
        return same[0] if same else None

    def names_item(self, cell: str) -> bool:
        """Whether a cell names an item or looks like a file, and so is no heading."""
        return self.item(cell) is not None or bool(posixpath.splitext(cell)[1])

    def all_of(self, cells: Sequence[str]) -> list[int | None]:
        """The items of a column; None for files that are there but not in the source. Raises UserError on others."""
        items = [self.item(cell) for cell in cells]
        missing = [
            cell
            for cell, item in zip(cells, items, strict=True)
            if item is None and not (self.path.parent / cell).exists()
        ]
        if missing:
            raise UserError(
                f"{self.path}: {some(missing, len(cells), 'rows')} name files that are neither in {self.where} nor "
                "there."
            )
        return items


def some(names: Sequence[str], total: int, what: str) -> str:
    """As in: 7 of 100 files (a, b, c, ...)."""
    return f"{len(names)} of {total} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def first_names(names: Sequence[str], room: int = 48) -> str:
    """As many names as fit into `room` signs, at least one, as in: age, hours and 12 more."""
    shown, left = 1, room - len(names[0])
    while shown < len(names) and (left := left - 2 - len(names[shown])) >= 0:
        shown += 1
    more = f" and {len(names) - shown:,} more" if shown < len(names) else ""
    return ", ".join(names[:shown]) + more


SWALLOWED = 3  # lines within a row, at least, that look like rows of their own


def check_quotes(path: str, lines: Sequence[str], first: int, separator: str, width: int) -> None:
    """Raise UserError where a row that goes over several lines seems to hold others: a stray quotation mark.

    Lines between its first and its last that are divided into as many cells as the table has columns, nine of ten of
    them, are rows that a mark at the start of a cell has swallowed up to the next one. `first`: the number of its first
    line. Tables of two columns are not judged: any sentence may have one comma.
    """
    inner = [line for line in lines[1:-1] if line.strip()]
    alike = sum(line.count(separator) == width - 1 for line in inner)
    if width > 2 and len(inner) >= SWALLOWED and alike >= 0.9 * len(inner):
        raise UserError(
            f"{path}: in line {first} a quotation mark opens a cell that goes on over {len(lines):,} lines, and "
            f"these look like rows of their own. Remove the stray mark, or double it inside a quoted cell."
        )
