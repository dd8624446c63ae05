"""The text format of the UCR and UEA archives, `.ts`: header lines with @, then a series a line.

Source: "The UEA & UCR time series classification repository", file formats, as its loaders (aeon, sktime) read them.
Dimensions are separated by ':', the class or the target comes last, '?' is a missing value; lengths may differ.
Raises UserError on files that are no such text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selfsame.errors import UserError
from selfsame.modalities.signal.records import Listed
from selfsame.storage.tables import some

__all__ = ["Parsed", "looks_like", "parse"]

FIRST = 2**16  # bytes in which a header begins; comments may come before it


@dataclass
class Parsed:
    """What a file says."""

    series: Listed
    labels: list[str] | None


def looks_like(path: Path) -> bool:
    """Whether it is such a file, and neither TypeScript nor a film."""
    with path.open("rb") as file:
        head = file.read(FIRST)
    lines = [line.strip().lower() for line in head.splitlines()]
    known = (b"@problemname", b"@timestamps", b"@classlabel", b"@univariate", b"@targetlabel", b"@data")
    content = next((line for line in lines if line and not line.startswith((b"#", b"%"))), b"")
    return b"\0" not in head and content.startswith(known)


def parse(path: str) -> Parsed:
    """The series of a file, in its order. One that cannot be read is listed with its reason, not left out."""
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            return parsed(path, enumerate(file, 1))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error


def parsed(path: str, lines: Iterator[tuple[int, str]]) -> Parsed:
    head: dict[str, list[str]] = {}
    for _, line in lines:
        text = line.strip()
        if not text or text.startswith(("#", "%")):
            continue
        if not text.startswith("@"):
            raise UserError(f"{path}: {text[:40]!r} comes before @data. A .ts file begins with its header.")
        name, *values = text.split()
        if name.lower() == "@data":
            break
        head[name.lower()] = values
    else:
        raise UserError(f"{path}: there is no @data, so no series. Is the file whole?")
    if head.get("@timestamps", ["false"])[0].lower() == "true":
        raise UserError(
            f"{path}: its series have time stamps (@timeStamps true); only even steps are read. Resample each series "
            "to one rate, as with np.interp(np.arange(t[0], t[-1], step), t, x), and write plain values."
        )
    labelled = is_true(head, "@classlabel") or is_true(head, "@targetlabel")
    channels = int(head["@dimensions"][0]) if head.get("@dimensions", [""])[0].isdigit() else None
    series: list[np.ndarray] = []
    labels: list[str] = []
    broken: dict[int, str] = {}
    where: list[str] = []
    for number, line in lines:
        text = line.strip()
        if not text or text.startswith(("#", "%")):
            continue
        *dimensions, last = text.split(":")
        if labelled and not dimensions:
            where.append(str(number))
            continue
        labels.append(last.strip())
        channels = channels or len(dimensions) + (not labelled)
        try:
            series.append(values_of(dimensions if labelled else [*dimensions, last], channels))
        except ValueError as error:
            broken[len(series)] = f"line {number}: {error}"
            series.append(np.zeros((channels, 0), np.float32))
    if where:
        raise UserError(
            f"{path}: {some(where, len(labels) + len(where), 'lines')} have no ':' and so no label, which "
            "@classLabel true says there is."
        )
    if not series:
        raise UserError(f"{path}: no series follow @data. Is the file whole?")
    listed = Listed(np.concatenate(series, axis=1), [one.shape[1] for one in series], broken)
    return Parsed(listed, labels if labelled else None)


def is_true(head: dict[str, list[str]], name: str) -> bool:
    return head.get(name, ["false"])[0].lower() == "true"


def values_of(dimensions: list[str], channels: int) -> np.ndarray:
    """[c t], the shorter dimensions ending in NaN. ValueError where a value is no number."""
    if len(dimensions) != channels:
        raise ValueError(f"{len(dimensions)} dimensions where there are {channels}")
    rows = []
    for dimension in dimensions:
        cells = [cell.strip() for cell in dimension.split(",")] if dimension.strip() else []
        if cells and cells[0].startswith("("):
            raise ValueError("it has time stamps; only even steps are read")
        try:
            rows.append(np.array([cell if cell != "?" else "nan" for cell in cells], float))
        except ValueError:
            wrong = next(cell for cell in cells if not is_number(cell))
            raise ValueError(f"{wrong[:20]!r} is no number") from None
    laid = np.full((channels, max(len(row) for row in rows)), np.nan, np.float32)
    with np.errstate(over="ignore"):
        for row, values in zip(laid, rows, strict=True):
            row[: len(values)] = values
    if not laid.shape[1]:
        raise ValueError("no value")
    return laid


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "?"
    return True
