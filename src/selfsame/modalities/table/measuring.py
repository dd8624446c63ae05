"""What a table's columns are, and what they hold: found from a seeded sample of the rows.

The rules are stated where they stand; `--reading.types` decides otherwise. Raises UserError where no feature is left.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from selfsame.errors import UserError, unknown
from selfsame.modalities.table.cells import Raw
from selfsame.modalities.table.encode import as_dates, as_numbers, as_words, bag, bucket, found_form
from selfsame.modalities.table.lines import CsvCells
from selfsame.modalities.table.reading import Kind, Reading, wishes
from selfsame.modalities.table.stats import LEVELS, NUMERIC, Column, Stats

if TYPE_CHECKING:
    from selfsame.modalities.table.source import TableSource

__all__ = ["column_of", "measure"]

MOSTLY = 0.9  # share of a column's values that are numbers from which on it is one of numbers
DISTINCT = 0.95  # share of a column's words that differ from which on they are names of rows, and no feature
FEW = 50  # rows below which nothing is said from how many values differ
WORDS = 3.0  # a column's values have as many words on average: then it is text
MARGINAL = 512  # rows whose codes or texts are kept as the marginal of a hashed column or of a text
ID = re.compile(r"(?:^|[_\-\s.])(?:id|ids|zip|zipcode|postcode|postal_code|ip|uuid|guid|hash|code)$|[a-z]I[dD]$", re.I)
TIME = re.compile(r"(?:^|[_\-\s.])(?:ts|time|timestamp|date|datetime|created|updated)(?:_at)?$", re.I)


def measure(source: "TableSource", seed: int = 0) -> tuple[Stats, dict[int, str]]:
    """What the columns are, from at most `source.looks` rows drawn by the seed, and the items that cannot be read.

    Columns that tell nothing are left out, with the reason. Raises UserError where a flag names no column, where no
    column is left, or where no row can be read.
    """
    cells, reading = source.cells, source.reading
    every = [*cells.names, *cells.left_out]
    wished = wishes(reading)
    for flag, names in (("leave-out", source.named_out), ("types", wished)):
        for name in names:
            if name not in every:
                raise unknown(f"column in --reading.{flag}", name, every)
    rows = cells.drawn(seed, source.looks)
    broken = cells.broken(rows)
    good = rows[~np.isin(rows, list(broken))] if broken else rows
    if not len(good):
        first = next(iter(broken.values()))
        raise UserError(f"{source.path}: none of the {len(rows)} rows can be read. The first: {first}.")
    left: dict[str, str] = {name: f"holds {what}" for name, what in cells.left_out.items()}
    columns: list[Column] = []
    # A CSV's line is parsed once for all columns; of Parquet each column is read for itself, and then let go.
    every_raw = cells.columns(cells.names, good) if isinstance(cells, CsvCells) else {}
    for name in cells.names:
        if name in source.named_out:
            left[name] = "given"
        elif name == source.label:
            left[name] = "the labels"
        elif name in (reading.by, reading.id):
            left[name] = "names whose event it is" if name == reading.by else "names the row"
        else:
            raw = every_raw.pop(name) if every_raw else cells.column(name, good)
            found = column_of(name, raw, reading, wished.get(name))
            if isinstance(found, Column):
                columns.append(found)
            else:
                left[name] = found
    if not columns and len(good) == 1:
        raise UserError(f"{source.path} has one row, and of one row it is not seen what varies. Give at least 4.")
    if not columns:
        shown = "; ".join(f"{name}: {why}" for name, why in list(left.items())[:5])
        raise UserError(f"{source.path}: no column is left as a feature ({shown}). Name kinds with --reading.types.")
    unreadable = source.items_of(broken)
    lost = []
    if broken and not unreadable:
        lost = [
            f"{len(broken):,} of {len(rows):,} rows cannot be read and are no events ({next(iter(broken.values()))})"
        ]
    stats = Stats(
        items=len(source) - len(unreadable),
        columns=tuple(columns),
        scaling=reading.scaling,
        left_out=tuple(f"{name} ({why})" for name, why in left.items()),
        notes=(*cells.notes, *lost),
        by=reading.by,
        time=reading.time,
        events=source.usual_events(),
    )
    return stats, unreadable


# Columns -------------------------------------------------------------------------------------------------------------


def column_of(name: str, raw: Raw, reading: Reading, wish: Kind | None = None) -> Column | str:
    """What a column is and holds, or why it is no feature."""
    kind, form, note = guessed(name, raw, reading) if wish is None else (wish, "", "")
    if kind == "out":
        return note
    if kind == "date":
        return of_dates(name, raw, form or date_form(name, raw), note)
    if kind in NUMERIC:
        return of_numbers(name, kind, raw, note)
    return of_words(name, kind, as_words(raw), reading, note)


def guessed(name: str, raw: Raw, reading: Reading) -> tuple[Any, str, str]:
    """(kind, form of a date, note), or ("out", "", the reason) of a column that tells nothing.

    Whole numbers under a name such as user_id or zip are codes, not amounts: they are taken as words.
    """
    if raw.form == "date":
        values = raw.each()[np.isfinite(raw.each())]
        if len(np.unique(values)) < 2:
            return "out", "", "all missing" if not len(values) else "always the same"
        return "date", "iso", ""
    values, words, endless = as_numbers(raw)
    found = values[np.isfinite(values)]
    told = len(found) + int(words.sum()) + int(endless.sum())
    if not told or (not len(found) and not words.any()):
        return "out", "", "infinite" if endless.any() else "all missing"
    share = len(found) / told
    notes: list[str] = []
    if len(found) and ID.search(name) and (found == np.rint(found)).all():
        return of_names(as_words(raw), reading, notes)
    if share >= MOSTLY:
        if endless.any():
            notes.append(f"{int(endless.sum())} infinite values, taken as missing")
        if words.any():
            some = next(cell for cell, word in zip(raw.each(), words, strict=True) if word)
            notes.append(f"{words.sum() / told:.1%} are words, as {some!r}, taken as missing")
        return (*of_what_numbers(name, found), "; ".join(notes)) if not_constant(values) else CONSTANT
    cells = [cell for cell in as_words(raw) if cell is not None]
    counts = Counter(cells)
    if share > 0.1:
        notes.append(f"{share:.1%} are numbers, taken as words")
    if form := found_form(cells[:200]):
        return "date", form, "; ".join(notes)
    length = sum(cell.count(" ") + 1 for cell in cells) / len(cells)
    if length >= WORDS and len(counts) > min(reading.category_values, 0.3 * len(cells)):
        return "text", "", "; ".join(notes)
    return of_names(as_words(raw), reading, notes)


def of_names(words: Sequence[str | None], reading: Reading, notes: list[str]) -> tuple[Any, str, str]:
    """A category or, of many values, hashed; no feature where nearly all values differ, or none does."""
    cells = [cell for cell in words if cell is not None]
    distinct = len(set(cells))
    if distinct == 1 and len(cells) == len(words):
        return CONSTANT
    if len(cells) >= FEW and distinct >= DISTINCT * len(cells):
        return "out", "", "nearly all values differ"
    return ("category" if distinct <= reading.category_values else "hash"), "", "; ".join(notes)


CONSTANT = ("out", "", "always the same")


def not_constant(values: Float64[np.ndarray, "n"]) -> bool:
    """Whether something can be learned from it, be it only where a value is missing."""
    return bool(np.isnan(values).any()) or len(np.unique(values)) > 1


def of_what_numbers(name: str, found: Float64[np.ndarray, "n"]) -> tuple[Any, str]:
    """(kind, form) of a column of numbers.

    A name such as ts, and whole numbers that are seconds or
    milliseconds since 1970 in the years from 1973 on: a date. Between 0 and 1, not only these two: a ratio. Whole, not
    below 0, and the largest more than ten times the mean: a count.
    """
    whole = bool((found == np.rint(found)).all())
    distinct = np.unique(found)
    if whole and TIME.search(name) and distinct[0] >= 1e8 and distinct[-1] < 1e14:
        return "date", "milliseconds" if distinct[-1] > 1e11 else "seconds"
    if not whole and distinct[0] >= 0 and distinct[-1] <= 1:
        return "ratio", ""
    if whole and distinct[0] >= 0 and len(distinct) > 10 and distinct[-1] > 10 * (found.mean() + 1):
        return "count", ""
    return "number", ""


def of_numbers(name: str, kind: Kind, raw: Raw, note: str) -> Column:
    values = as_numbers(raw)[0]
    found = values[np.isfinite(values)]
    if not len(found):
        raise UserError(f"--reading.types {name}={kind}: none of the looked at values of {name} is a number.")
    scaled = np.sign(found) * np.log1p(np.abs(found)) if kind == "count" else found
    return numeric(name, kind, values, found, scaled, note, "")


def of_dates(name: str, raw: Raw, form: str, note: str) -> Column:
    values = as_dates(raw, form)
    found = values[np.isfinite(values)]
    if not len(found):
        raise UserError(
            f"--reading.types {name}=date: no form of dates is known in {name}. Known: 2024-12-31, 31.12.2024, "
            "12/31/2024, 20241231, with a time or without, and seconds since 1970."
        )
    return numeric(name, "date", values, found, found, note, form)


def numeric(
    name: str,
    kind: Kind,
    values: Float64[np.ndarray, "n"],
    found: Float64[np.ndarray, "m"],
    scaled: Float64[np.ndarray, "m"],
    note: str,
    form: str,
) -> Column:
    whole = bool((found == np.rint(found)).all())
    # Not interpolated: a column of few values has no others among its quantiles.
    levels = np.quantile(found, np.linspace(0, 1, LEVELS), method="nearest")
    std = float(scaled.std())
    return Column(
        name=name,
        kind=kind,
        missing=round(float(np.isnan(values).mean()), 6),
        quantiles=tuple(float(np.float32(level)) for level in levels),
        mean=float(scaled.mean()),
        std=std if std > 1e-12 * max(1.0, abs(float(scaled.mean()))) else 1.0,
        whole=whole and kind != "date",
        form=form,
        note=note,
    )


def date_form(name: str, raw: Raw) -> str:
    """Of a column that the user says is of dates."""
    if raw.form == "date":
        return "iso"
    values = as_numbers(raw)[0]
    found = values[np.isfinite(values)]
    cells = [cell for cell in as_words(raw) if cell is not None]
    if form := found_form(cells[:200]):
        return form
    return "" if not len(found) else "milliseconds" if float(np.median(found)) > 1e11 else "seconds"


def of_words(name: str, kind: Kind, words: Sequence[str | None], reading: Reading, note: str) -> Column:
    told = [word for word in words if word is not None]
    absent = round(1 - len(told) / max(1, len(words)), 6)
    if kind == "text":
        form, size = reading.text_units, reading.text_size
        bags = tuple(tuple(sorted(bag(word, size, form).items())) for word in told[:MARGINAL])
        return Column(name=name, kind="text", width=size, missing=absent, bags=bags, form=form, note=note)
    counts = Counter(told)
    if kind == "hash":
        size = min(reading.hash_size, 2 ** max(3, int(np.ceil(np.log2(2 * max(1, len(counts)))))))
        sample = tuple(bucket(word, size) for word in told[:MARGINAL])
        return Column(name=name, kind="hash", codes=size, missing=absent, sample=sample, note=note)
    # Of equally frequent values the first in the alphabet: the order must not depend on that of the rows.
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[: reading.category_values]
    if len(most) < len(counts):
        note = "; ".join([*([note] if note else []), f"{len(counts) - len(most)} rarer values are one"])
    kept = sum(count for _, count in most)
    shares = [1 - kept / max(1, len(told)), *(count / max(1, len(told)) for _, count in most)]
    return Column(
        name=name,
        kind="category",
        missing=absent,
        values=tuple(value for value, _ in most),
        shares=tuple(round(share, 8) for share in shares),
        codes=len(most) + 1,
        note=note,
    )
