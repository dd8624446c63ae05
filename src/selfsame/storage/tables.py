"""Lists of paths with or without labels: .txt, one a line, and .csv.

Raises UserError on files that are no such list.
"""

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from selfsame.errors import UserError
from selfsame.storage.names import Names


def table(path: Path) -> Iterator[list[str]]:
    """The rows of a .csv (separated by comma, semicolon or tab), or the lines of a .txt, without empty ones."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".txt":
                yield from ([text] for line in file if (text := line.strip()))
                return
            first = file.readline()
            separator = max(",;\t", key=first.count)
            file.seek(0)
            rows = csv.reader(file, delimiter=separator)
            yield from (row for row in rows if any(cell.strip() for cell in row))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    except csv.Error as error:
        raise UserError(f"{path}: no valid CSV: {error}.") from error


def paths_and_labels(path: Path, names_item: Callable[[str], bool]) -> tuple[Names, list[str] | None]:
    """The column `path` or else the first, and the column `label` or else the second of two, of a .csv or .txt.

    The first row is a header if it has a cell `path`, or if its first cell names no item.
    """
    rows = table(path)
    first = next(rows, None)
    if first is None:
        return Names(), None
    head = [cell.strip().lower() for cell in first]
    headed = path.suffix.lower() != ".txt" and ("path" in head or not names_item(first[0].strip()))
    width = len(head)
    columns = head if headed else [""] * width
    where = columns.index("path") if "path" in columns else 0
    label: int | None = 1 - where if width == 2 else None
    if "label" in columns:
        label = columns.index("label")
    ragged: list[str] = []
    labels: list[str] = []
    total = 1

    def cells() -> Iterator[str]:
        nonlocal total
        for number, row in enumerate(chain([] if headed else [first], rows), 2 if headed else 1):
            total = number
            if len(row) != width:
                ragged.append(str(number))
                continue
            if label is not None:
                labels.append(sys.intern(row[label].strip()))
            yield row[where].strip()

    names = Names(cells())
    if ragged:
        raise UserError(f"{path}: {some(ragged, total, 'rows')} do not have {width} cells as the first has.")
    return names, None if label is None else labels


def some(names: Sequence[str], total: int, what: str) -> str:
    """As in: 7 of 100 files (a, b, c, ...)."""
    return f"{len(names)} of {total} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
