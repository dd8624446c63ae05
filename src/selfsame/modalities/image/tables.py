"""Lists of paths with or without labels: .txt, one a line, and .csv.

Raises UserError on files that are no such list.
"""

import csv
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from selfsame.errors import UserError


def table(path: Path) -> list[list[str]]:
    """The rows of a .csv (separated by comma, semicolon or tab), or the lines of a .txt, without empty ones."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    if path.suffix.lower() == ".txt":
        return [[line.strip()] for line in text.splitlines() if line.strip()]
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    try:
        return [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path}: no valid CSV: {error}.") from error


def paths_and_labels(path: Path, names_item: Callable[[str], bool]) -> tuple[list[str], list[str] | None]:
    """The column `path` or else the first, and the column `label` or else the second of two, of a .csv or .txt.

    The first row is a header if it has a cell `path`, or if its first cell names no item.
    """
    rows = table(path)
    if not rows:
        return [], None
    head = [cell.strip().lower() for cell in rows[0]]
    headed = path.suffix.lower() != ".txt" and ("path" in head or not names_item(rows[0][0].strip()))
    width = len(head)
    ragged = [str(k + 1) for k, row in enumerate(rows) if len(row) != width]
    if ragged:
        raise UserError(f"{path}: {some(ragged, len(rows), 'rows')} do not have {width} cells as the first has.")
    columns = head if headed else [""] * width
    where = columns.index("path") if "path" in columns else 0
    label: int | None = 1 - where if width == 2 else None
    if "label" in columns:
        label = columns.index("label")
    body = rows[1:] if headed else rows
    labels = None if label is None else [sys.intern(row[label].strip()) for row in body]
    return [row[where].strip() for row in body], labels


def some(names: Sequence[str], total: int, what: str) -> str:
    """As in: 7 of 100 files (a, b, c, ...)."""
    return f"{len(names)} of {total} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
