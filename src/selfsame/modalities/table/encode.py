"""Cells as numbers: a value as it is, a category as its code, a text as a hashed bag of words; NaN where missing.

Hashing: Weinberger et al. 2009, arXiv 0902.2206, with signs, so that what meets in one bucket cancels on average.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from selfsame.modalities.table.cells import Raw
from selfsame.modalities.table.stats import NUMERIC, Column

__all__ = ["as_dates", "as_numbers", "as_words", "bag", "bucket", "encoded", "found_form"]

PATTERNS = ("iso", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d-%m-%Y", "%Y%m%d", "%d.%m.%Y %H:%M",
            "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%Y/%m/%d %H:%M:%S")  # fmt: skip
DAY = 86_400
LETTERS = 3


def encoded(column: Column, raw: Raw) -> Float32[np.ndarray, "n w"]:
    """The numbers of a column. Categories that were not seen when it was measured have code 0."""
    if raw.codes is not None:  # each value once, then all rows
        values = encoded(column, Raw(raw.form, raw.values))
        blank = np.full((1, column.width), np.nan, np.float32)
        return np.concatenate([values, blank])[raw.codes]
    if column.kind == "date":
        return as_dates(raw, column.form).astype(np.float32)[:, None]
    if column.kind in NUMERIC:
        return as_numbers(raw)[0].astype(np.float32)[:, None]
    words = as_words(raw)
    if column.kind == "text":
        return texts(words, column.width, column.form)
    if column.kind == "hash":
        return codes_of(words, lambda word: bucket(word, column.codes))
    known = {value: k + 1 for k, value in enumerate(column.values)}
    return codes_of(words, lambda word: known.get(word, 0))


def codes_of(words: Sequence[str | None], code: Callable[[str], int]) -> Float32[np.ndarray, "n 1"]:
    return np.array([np.nan if word is None else code(word) for word in words], np.float32).reshape(-1, 1)


def as_numbers(raw: Raw) -> tuple[Float64[np.ndarray, "n"], Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """The numbers, NaN for all else; which cells hold words; which hold infinity."""
    if raw.form != "text":
        values = np.asarray(raw.each(), np.float64).copy()
        words = np.zeros(len(values), bool)
    else:
        cells = raw.each()
        blank = np.array([cell is None for cell in cells], bool)
        try:
            values = np.where(blank, "nan", cells).astype("U64").astype(np.float64)
            words = np.zeros(len(values), bool)
        except ValueError:
            values = np.array([number(cell) for cell in cells], np.float64).reshape(-1)
            words = np.isnan(values) & ~blank
    endless = np.isinf(values)
    values[endless] = np.nan
    return values, words, endless


def number(cell: str | None) -> float:
    try:
        return float("nan") if cell is None or "_" in cell else float(cell)
    except ValueError:
        return float("nan")


def as_words(raw: Raw) -> list[str | None]:
    """The cells as text; whole numbers without a point, as a CSV would have them."""
    if raw.form == "text":
        return list(raw.each())
    values = np.asarray(raw.each(), np.float64)
    return [None if not np.isfinite(v) else str(int(v)) if v == int(v) else repr(float(v)) for v in values]


def as_dates(raw: Raw, form: str) -> Float64[np.ndarray, "n"]:
    """Days since 1970 in UTC; NaN where there is none. Times without a zone are taken as UTC."""
    if raw.form == "date":
        return np.asarray(raw.each(), np.float64)
    if form in ("seconds", "milliseconds"):
        return as_numbers(raw)[0] / (DAY if form == "seconds" else 1000 * DAY)
    return np.array([day(cell, form) for cell in as_words(raw)], np.float64).reshape(-1)


def day(cell: str | None, form: str) -> float:
    if cell is None:
        return float("nan")
    try:
        moment = datetime.fromisoformat(cell) if form == "iso" else datetime.strptime(cell, form)
    except ValueError:
        return float("nan")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp() / DAY


def found_form(cells: Sequence[str]) -> str:
    """The first form that nearly all of these cells have as dates; empty where there is none."""
    if not cells:
        return ""
    if all(cell.isdigit() for cell in cells) and not all(len(cell) == 8 for cell in cells):
        return ""
    for form in PATTERNS:
        if form == "iso" and all(cell.isdigit() for cell in cells):
            continue  # 20200131 is as likely a number; its own pattern stands further on
        good = np.isfinite([day(cell, form) for cell in cells])
        if good.mean() > 0.95 and good[:3].any():
            return form
    return ""


def bucket(word: str, size: int) -> int:
    """One of `size` buckets, the same on every machine."""
    return (zlib.crc32(word.encode("utf-8", "surrogatepass")) * 0x9E3779B1 % 2**32) * size >> 32


def units(text: str, form: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    if form == "words":
        return words
    return [f" {word} "[k : k + LETTERS] for word in words for k in range(len(word) + 2 - LETTERS + 1)]


def bag(text: str, size: int, form: str) -> dict[int, float]:
    """{place: value} of a text: 1 + log(count) with a sign, at the place of each unit; of length 1 in all."""
    held: dict[int, float] = {}
    for unit, count in Counter(units(text, form)).items():
        sign = 1.0 if bucket(f"{unit}\0", 2) else -1.0
        place = bucket(unit, size)
        held[place] = held.get(place, 0.0) + sign * (1 + float(np.log(count)))
    length = sum(value**2 for value in held.values()) ** 0.5
    return {place: value / length for place, value in held.items() if value} if length else {}


def texts(words: Sequence[str | None], size: int, form: str) -> Float[np.ndarray, "n w"]:
    made = np.zeros((len(words), size), np.float32)
    for row, text in enumerate(words):
        if text is None:
            made[row] = np.nan
            continue
        for place, value in bag(text, size, form).items():
            made[row, place] = value
    return made


def word_of(column: Column, value: Any) -> str:
    """A number of a view as a person reads it. `value` is that of one column, [w]."""
    first = float(value[0])
    if np.isneginf(first):
        return ""
    if np.isposinf(first):
        return "(hidden)"
    if np.isnan(first):
        return "(missing)"
    if column.kind == "category":
        return column.values[int(first) - 1] if first >= 1 else "(other)"
    if column.kind == "hash":
        return f"#{int(first)}"
    if column.kind == "date":
        return datetime.fromtimestamp(first * DAY, UTC).strftime("%Y-%m-%d %H:%M")
    if column.kind == "text":
        return f"(text, {int(np.count_nonzero(value))} of {len(value)} numbers)"
    return f"{first:.6g}"
