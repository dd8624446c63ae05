"""index.json, which says what counts of the files of an index in a folder; and the lock under which they change."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from pydantic import ValidationError

from selfsame.engine.state import write_text, writing
from selfsame.errors import NO_LABEL, UserError
from selfsame.index.approximate import Graph
from selfsame.index.contract import FORMAT, Made, Origin
from selfsame.records import Record

CONTENTS = "index.json"


class Part(Origin):
    """Rows that came from one place, up to the row `rows`."""

    rows: int


class Contents(Record):
    """index.json."""

    format: int = FORMAT
    made: Made
    near: str | None = None
    """the run's folder as seen from the index, so that both can be moved together"""
    rows: int = 0
    removed: int = 0
    text: int = 0
    """bytes of the names"""
    number: int = 1
    """of the files"""
    classes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    unfinished: str | None = None
    """the data that is being embedded"""
    graph: Graph | None = None


def contents(folder: Path) -> Contents:
    """index.json, checked. Raises UserError."""
    path = folder / CONTENTS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found["format"]
        if not isinstance(version, int):
            raise TypeError("its format is no number")
        if version > FORMAT:
            raise UserError(
                f"{path} has format {version}; this selfsame reads up to {FORMAT}. Install a newer selfsame."
            )
        return Contents.model_validate(found)
    except (FileNotFoundError, NotADirectoryError):
        what = "is no index (it has no index.json)" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} {what}. Make one with: selfsame index RUN PATH --out {folder}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged ({reason}). Restore it, or make the index again.") from None


def save(folder: Path, now: Contents) -> None:
    write_text(folder / CONTENTS, now.model_dump_json(indent=1) + "\n")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Let nobody else write meanwhile. Raises UserError where somebody does; the system frees it at the end."""
    lock = FileLock(folder / ".lock")
    with writing(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is changing {folder}. Wait until it is done and try again.") from None
    try:
        yield
    finally:
        lock.release()


def settled(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def coded(labels: Sequence[str | None] | None, count: int, classes: Sequence[str]) -> tuple[bytes, list[str]]:
    """The labels as numbers, and the classes with those that are new behind them."""
    numbers = {name: number for number, name in enumerate(classes)}
    given = labels if labels is not None else [None] * count
    codes = [-1 if label is None or label == NO_LABEL else numbers.setdefault(label, len(numbers)) for label in given]
    return np.array(codes, dtype="<i4").tobytes(), list(numbers)


def lengthened(parts: Sequence[Part], origin: Origin, rows: int) -> list[Part]:
    last = parts[-1:]
    if last and (last[0].path, last[0].prefix) == (origin.path, origin.prefix):
        parts = parts[:-1]
    return [*parts, Part(path=origin.path, prefix=origin.prefix, rows=rows)]
