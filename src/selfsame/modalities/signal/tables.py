"""Tables with a step a row and a channel a column: CSV in memory, Parquet by row groups.

An id column says which series a row belongs to; without one the rows are one record, to be cut into windows. Rows of a
series may lie apart. Raises UserError where the columns do not say what is what, or time goes in uneven steps.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from selfsame.errors import UserError, missing, unknown
from selfsame.modalities.signal.reading import Reading
from selfsame.modalities.signal.records import FINE, Listed, ListedRecords, Records, TableRecords, floats, too_fine
from selfsame.storage.shards import undamaged
from selfsame.storage.tables import first_names, some, table

__all__ = ["Opened", "header_of", "looks_like", "open_csv", "open_parquet"]

IDS = ("id", "series", "series_id", "record", "case")
TIMES = ("time", "timestamp", "datetime", "date")
LABELS = ("label", "labels", "class", "target")  # never channels, unless --reading.columns says so
MISSING = {"", "nan", "na", "n/a", "null", "none", "?"}
EVEN = 0.2  # of a step: as far as a time may lie from where even steps would put it; stamps are rounded
ROWS = 2**16  # of a CSV, taken at a time
FIRST = 100  # rows by which a table is told to be one of series
RUN = 30  # rows of one label, at least, from which it is seen whether columns go on smoothly
SMOOTH = 0.1  # von Neumann's ratio below which a column does: a correlation of 0.9 from a row to the next
COUNTED = 1000  # rows of a CSV that are counted at most, where no more is asked than which modality reads it


@dataclass
class Opened:
    """A file with series, opened."""

    records: Records
    names: Sequence[str]
    """of the records"""
    channels: tuple[str, ...] = ()
    """names of the channels, where the file gives them"""
    rate: float = 0.0
    labels: list[str] | None = None
    """of the records"""
    refused: UserError | None = None
    """why what lies where labels would is none; raised when labels are asked for"""
    step_labels: "Int64[np.ndarray, 'n'] | None" = None
    """of the steps of all records, one after the other, as numbers of `classes`"""
    classes: Sequence[str] = ()
    roles: list[tuple[str, str, str]] = field(default_factory=list)
    """what became of the columns of a table: (what they are, names, a remark)"""


@dataclass
class Roles:
    """What the columns of a table are."""

    channels: list[str]
    id: str | None
    time: str | None
    label: str | None
    unused: list[str]
    """the others, but for those that the user leaves out"""

    def told(self, reading: Reading) -> list[tuple[str, str, str]]:
        """For the plan: (what columns are, their names shortened, a remark)."""
        count = len(self.channels)
        found = [("channels", first_names(self.channels), f"{count:,} column{'s' if count > 1 else ''} of numbers")]
        if self.id:
            found.append(("series column", self.id, "rows of one value are one series"))
        if self.time:
            found.append(("time column", self.time, "orders the steps and says how many come in a second"))
        if self.label:
            found.append(("label column", self.label, "no channel, never trained on"))
        if left := [*reading.leave_out, *self.unused]:
            found.append(("left out", first_names(left), "given" if reading.leave_out else "no channels"))
        return found

    @property
    def wanted(self) -> list[str]:
        return [*self.channels, *(name for name in (self.id, self.time, self.label) if name)]


def roles_of(path: str, header: Sequence[str], reading: Reading, label: str | None) -> Roles:
    """The roles by what the user says, and else by the usual names. Raises UserError on columns that are not there."""
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path}: {some(twice, len(header), 'columns')} have the same name. Give each its own.")
    for name in (*reading.columns, *reading.leave_out, *(name for name in (reading.id, reading.time, label) if name)):
        if name not in header:
            raise unknown(f"column of {path}", name, header)

    def usual(given: str, names: Sequence[str]) -> str | None:
        free = (name for name in header if name.strip().lower() in names and name not in reading.columns)
        return given or next((name for name in free if name not in reading.leave_out), None)

    label = usual(label or "", LABELS)
    series, time = usual(reading.id, IDS), usual(reading.time, TIMES)
    others = {series, time, label, *reading.leave_out}
    channels = list(reading.columns) or [
        name for name in header if name not in others and name.strip().lower() not in LABELS
    ]
    if both := [name for name in channels if name in others]:
        raise UserError(f"{path}: {', '.join(both)} is named as a channel and as something else. Say which it is.")
    if not channels:
        raise UserError(f"{path}: no column is left for a channel. Its columns: {', '.join(header)}.")
    unused = [name for name in header if name not in {*channels, *others}]
    return Roles(channels, series, time, label, unused)


def one_record(path: str, roles: Roles, reading: Reading, rows: int) -> None:
    """Refuse a table of which it is not known whether it is one record or many."""
    if rows == 1 and roles.id is None:
        raise UserError(f"{path}: one row, and so a series of one step. Write a step a row, a channel a column.")
    if roles.id is None and not reading.window:
        raise UserError(
            f"{path}: its {rows:,} rows are one long record, or many series? Give --reading.window STEPS to cut one "
            "record into items, or --reading.id COLUMN with the series that a row belongs to. Channels would be: "
            f"{', '.join(roles.channels[:8])}{', ...' if len(roles.channels) > 8 else ''}."
        )


# CSV -----------------------------------------------------------------------------------------------------------------


def header_of(path: Path) -> list[str]:
    """The names of the columns of a .csv or .parquet. Raises UserError."""
    if path.suffix.lower() == ".parquet":
        return list(parquet(str(path)).schema_arrow.names)
    header = next(table(path), None)
    if header is None:
        raise UserError(f"{path}: this table is empty.")
    if all(is_number(cell) for cell in header):
        raise UserError(
            f"{path}: the first line has numbers, not the names of columns. Write a header with one name a channel; if "
            "each row is a whole series, save it as .npy [n t] with np.save."
        )
    return [cell.strip() for cell in header]


def open_csv(path: str, reading: Reading, label: str | None = None, whole: bool = False) -> Opened:
    """A CSV. It is read at once, and held as float32. `whole`: it may be one record without windows."""
    roles = roles_of(path, header_of(Path(path)), reading, label)
    columns = csv_columns(path, roles)
    rows = len(columns[roles.channels[0]])
    if not rows:
        raise UserError(f"{path}: only a header, no rows.")
    if not whole:
        one_record(path, roles, reading, rows)
    times = times_of(path, roles.time, columns.get(roles.time or "", []))
    grouping = grouped(path, columns.get(roles.id or ""), times, rows)
    rate = rate_of(path, roles, times, grouping)

    listed = laid([columns[name] for name in roles.channels], grouping)
    records = ListedRecords(partial(csv_listed, path, roles, grouping), listed)
    opened = Opened(records, grouping.names, tuple(roles.channels), rate, roles=roles.told(reading))
    return labelled(path, opened, columns, roles, grouping)


def csv_listed(path: str, roles: Roles, grouping: "Grouping") -> Listed:
    columns = csv_columns(path, roles)
    return laid([columns[name] for name in roles.channels], grouping)


def csv_columns(path: str, roles: Roles) -> dict[str, Any]:
    """The columns that are wanted: channels as float32, ids and labels by number, times as text."""
    # A row of empty cells is a step at which nothing was measured; with an id or a time it would say of which series
    # or when, and without these there it is none.
    rows = table(Path(path), blank=not (roles.id or roles.time))
    header = [cell.strip() for cell in next(row for row in rows if any(cell.strip() for cell in row))]
    found: dict[str, list] = {name: [] for name in roles.wanted}
    ragged: list[str] = []
    total = 1
    while chunk := list(islice(rows, ROWS)):
        odd = [str(total + k + 1) for k, row in enumerate(chunk) if len(row) != len(header)]
        ragged += odd
        if not odd:
            for name, kept in found.items():
                at = header.index(name)
                cells = [row[at] for row in chunk]
                kept.append(numbers(path, name, cells, total + 1) if name in roles.channels else cells)
        total += len(chunk)
    if ragged:
        raise UserError(
            f"{path}: {some(ragged, total, 'rows')} do not have {len(header)} cells as the header has. Series of "
            "unequal lengths are written one below the other, with an id column."
        )
    joined: dict[str, Any] = {}
    for name, parts in found.items():
        if name in roles.channels:
            joined[name] = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        else:
            cells = [cell.strip() for part in parts for cell in part]
            joined[name] = cells if name == roles.time else Codes.of(cells)
    return joined


def numbers(path: str, name: str, cells: list[str], first: int) -> np.ndarray:
    """Cells as float32, those that say nothing as NaN. `first`: the row of the first one."""
    try:
        wide = np.array(cells, dtype=float)
    except ValueError:
        cleaned = [cell if cell.strip().lower() not in MISSING else "nan" for cell in cells]
        wrong = next(((k, cell) for k, cell in enumerate(cleaned) if not is_number(cell)), None)
        if wrong is not None:
            raise UserError(
                f"{path}: column {name!r} holds {wrong[1].strip()[:30]!r} (row {first + wrong[0]}), which is no "
                f"number. Leave the column out with --reading.leave-out {name}, or name it: --labels, --reading.id or "
                "--reading.time."
            ) from None
        wide = np.array(cleaned, dtype=float)
    known = wide[np.isfinite(wide)]
    if len(known) and 0 < known.std() < FINE * abs(known.mean()):
        raise too_fine(path, f"column {name!r}", known.std(), known.mean())
    with np.errstate(over="ignore"):
        return wide.astype(np.float32)


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# Parquet -------------------------------------------------------------------------------------------------------------


def parquet(path: str) -> Any:
    """The file, open. Raises UserError where it is none, or pyarrow is not there."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise missing("parquet", "pyarrow", f"to read {path}") from None
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: no Parquet file, or a damaged one ({error}).") from error


def open_parquet(path: str, reading: Reading, label: str | None = None, whole: bool = False) -> Opened:
    """A Parquet file, read by row groups; where rows of a series lie apart it is read at once."""
    import pyarrow as pa

    file = parquet(path)
    roles = roles_of(path, header_of(Path(path)), reading, label)
    for name in roles.channels:
        kind = file.schema_arrow.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise UserError(
                f"{path}: column {name!r} is of type {kind}, no number. Leave it out with --reading.leave-out {name}, "
                "or name it: --labels, --reading.id or --reading.time."
            )
    rows = file.metadata.num_rows
    if not rows:
        raise UserError(f"{path}: no rows.")
    if not whole:
        one_record(path, roles, reading, rows)
    columns: dict[str, Any] = {name: parquet_codes(path, file, name) for name in (roles.id, roles.label) if name}
    times = parquet_times(path, file, roles.time) if roles.time else None
    grouping = grouped(path, columns.get(roles.id or ""), times, rows)
    rate = rate_of(path, roles, times, grouping)
    records: Records
    if grouping.order is None:
        groups = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
        records = TableRecords(path, roles.channels, grouping.lengths.tolist(), groups)
    else:
        records = ListedRecords(partial(parquet_listed, path, roles, grouping))
    opened = Opened(records, grouping.names, tuple(roles.channels), rate, roles=roles.told(reading))
    return labelled(path, opened, columns, roles, grouping)


def parquet_codes(path: str, file: Any, name: str) -> "Codes":
    """A column of any type, a row group at a time."""
    number: dict[str, int] = {}
    parts = [np.zeros(0, np.int64)]
    for group in range(file.num_row_groups):
        with undamaged(path, f"group {group} of its rows, column {name!r},"):
            column = file.read_row_group(group, columns=[name])[name].combine_chunks().dictionary_encode()
        known = ["" if value is None else str(value) for value in column.dictionary.to_pylist()]
        codes = np.array([number.setdefault(value, len(number)) for value in known] + [-1], np.int64)
        at = column.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)
        if (at == len(known)).any():
            codes[-1] = number.setdefault("", len(number))
        parts.append(codes[at])
    return Codes(np.concatenate(parts), list(number))


def parquet_times(path: str, file: Any, name: str) -> Float64[np.ndarray, "n"]:
    """Seconds of a column of dates, or its numbers, a row group at a time; texts are read as those of a CSV."""
    import pyarrow as pa

    parts = []
    for group in range(file.num_row_groups):
        with undamaged(path, f"group {group} of its rows, column {name!r},"):
            column = file.read_row_group(group, columns=[name])[name].combine_chunks()
        dates = pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
        if column.null_count or not (dates or pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            found = times_of(path, name, column.to_pylist())
            assert found is not None
            parts.append(found)
        elif dates:
            zone = getattr(column.type, "tz", None)
            microseconds = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
            parts.append(microseconds.to_numpy(zero_copy_only=False) / 1e6)
        else:
            parts.append(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    return np.concatenate(parts)


def parquet_listed(path: str, roles: Roles, grouping: "Grouping") -> Listed:
    with undamaged(path, "a group of its rows"):
        known = parquet(path).read(columns=roles.channels)
    return laid([floats(known[name]) for name in roles.channels], grouping)


# Series, times, labels -----------------------------------------------------------------------------------------------


@dataclass
class Codes:
    """Texts of very many rows, few of them different, by number."""

    numbers: Int64[np.ndarray, "n"]
    texts: list[str]
    """each once, in the order in which they come"""

    @classmethod
    def of(cls, cells: Sequence[str]) -> "Codes":
        number: dict[str, int] = {}
        numbers = np.fromiter((number.setdefault(cell, len(number)) for cell in cells), np.int64, len(cells))
        return cls(numbers, list(number))


@dataclass
class Grouping:
    """How rows come together to series."""

    names: list[str]
    lengths: Int64[np.ndarray, "m"]
    order: "Int64[np.ndarray, 'n'] | None"
    """the rows, series by series; None where they lie so"""


def laid(channels: Sequence[np.ndarray], grouping: Grouping) -> Listed:
    """The rows of a table, series by series."""
    values = np.stack(channels)
    return Listed(values if grouping.order is None else values[:, grouping.order], grouping.lengths.tolist(), {})


def grouped(path: str, ids: Codes | None, times: "Float64[np.ndarray, 'n'] | None", rows: int) -> Grouping:
    """Series in the order in which their first rows come, each in the order of time, or else of its rows."""
    ids = ids or Codes(np.zeros(rows, np.int64), ["0"])
    codes, names = ids.numbers, ids.texts
    if "" in names:
        empty = [str(k + 2) for k in np.flatnonzero(codes == names.index(""))]
        raise UserError(f"{path}: {some(empty, rows, 'rows')} have no id, so they belong to no series.")
    order = np.argsort(codes, kind="stable") if times is None else np.lexsort((times, codes))
    lies_so = bool((np.diff(order) == 1).all())
    return Grouping(names, np.bincount(codes, minlength=len(names)), None if lies_so else order)


def times_of(path: str, name: str | None, cells: Sequence[Any]) -> "Float64[np.ndarray, 'n'] | None":
    """Times in seconds, or as the numbers that they are. Raises UserError on cells that say no time."""
    if name is None:
        return None
    found = []
    for row, cell in enumerate(cells, 2):
        try:
            found.append(moment(cell))
        except ValueError:
            raise UserError(
                f"{path}: {str(cell)[:30]!r} in the time column {name!r} (row {row}) is no time. Accepted are numbers "
                f"and dates as 2024-05-01T12:00:00. If it is no time, leave it out: --reading.leave-out {name}."
            ) from None
    return np.array(found)


def moment(cell: Any) -> float:
    """A number, or the seconds of a date since 1970. ValueError where it is neither."""
    if isinstance(cell, datetime.datetime):
        when = cell
    elif isinstance(cell, datetime.date):
        when = datetime.datetime(cell.year, cell.month, cell.day)
    else:
        try:
            number = float(cell)
        except (TypeError, ValueError):
            when = datetime.datetime.fromisoformat(str(cell).strip())
        else:
            if not np.isfinite(number):
                raise ValueError(cell)
            return number
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()


def rate_of(path: str, roles: Roles, times: "Float64[np.ndarray, 'n'] | None", grouping: Grouping) -> float:
    """Steps a second (or a unit of the time column), 0 where not known. Raises UserError on uneven steps."""
    if times is None:
        return 0.0
    times = times if grouping.order is None else times[grouping.order]
    steps = []
    for name, part in zip(grouping.names, np.split(times, np.cumsum(grouping.lengths)[:-1]), strict=True):
        if len(part) < 2:
            continue
        step = (part[-1] - part[0]) / (len(part) - 1)
        away = np.abs(part - part[0] - step * np.arange(len(part)))
        here = f" of series {name}" if roles.id else ""
        if step <= 0 or (np.diff(part) <= 0).any():
            k = int(np.argmax(np.diff(part) <= 0)) if step > 0 else 0
            raise UserError(
                f"{path}: two rows{here} have one time ({part[k]:.10g}). Give --reading.id the column that tells "
                "their series apart, or keep one of them."
            )
        if away.max() > EVEN * step:
            low, high = np.diff(part).min(), np.diff(part).max()
            raise UserError(
                f"{path}: the steps of {roles.time!r}{here} differ, from {low:.4g} to {high:.4g}; only even sampling "
                "is read. Resample it first: in pandas frame.set_index(time).resample('1s').mean().interpolate(), in "
                "numpy np.interp(np.arange(t[0], t[-1], step), t, x); write NaN where nothing was measured. If steps "
                f"are even and the column is no time, leave it out with --reading.leave-out {roles.time}."
            )
        steps.append(step)
    if not steps:
        return 0.0
    middle = float(np.median(steps))
    other = next((k for k, step in enumerate(steps) if abs(step - middle) > 0.05 * middle), None)
    if other is not None:
        raise UserError(
            f"{path}: series come at different rates, a step every {middle:.4g} and every {steps[other]:.4g}. Bring "
            "them to one rate first, as with np.interp or scipy.signal.resample_poly."
        )
    return 1 / middle


def labelled(path: str, opened: Opened, columns: dict[str, Any], roles: Roles, grouping: Grouping) -> Opened:
    """The same with the labels of its label column, of series or, without an id, of steps."""
    if roles.label is None:
        return opened
    found: Codes = columns[roles.label]
    opened.step_labels = found.numbers if grouping.order is None else found.numbers[grouping.order]
    opened.classes = found.texts
    if roles.id is not None:
        firsts = np.cumsum(grouping.lengths) - grouping.lengths
        opened.labels = [opened.classes[code] for code in opened.step_labels[firsts]]
    return opened


def looks_like(path: Path) -> int:
    """How many rows are steps of series: numbers, with a time that rises or an id that repeats in the first ones.

    Where there is neither, most columns must go on smoothly from row to row. 0 where they do not: rows of other
    tables are items of their own. Columns of text other than a label speak against it. Of a CSV at most `COUNTED`
    rows are counted.
    """
    if path.suffix.lower() == ".parquet":
        file = parquet(str(path))
        batch = next(file.iter_batches(batch_size=FIRST), None)
        if batch is None:
            return 0
        total = file.metadata.num_rows
        header = list(batch.schema.names)
        rows = [["" if row[name] is None else str(row[name]) for name in header] for row in batch.to_pylist()]
    else:
        header, *rows = islice(table(path), COUNTED + 1)
        total, rows = len(rows), rows[:FIRST]
    return total if are_steps(header, rows) else 0


def are_steps(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    names = [cell.strip().lower() for cell in header]
    if len(rows) < 3 or any(len(row) != len(header) for row in rows):
        return False
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    special = [name for name in names if name in (*IDS, *TIMES, *LABELS)]
    channels = [name for name in names if name not in special]
    if not channels or not all(number_or_nothing(cell) for name in channels for cell in columns[name]):
        return False
    ids = next((columns[name] for name in names if name in IDS), None)
    if ids is not None:
        return len(set(ids)) < len(ids)
    if any(name in TIMES for name in names):
        try:
            times = [moment(cell) for name in names if name in TIMES for cell in columns[name]]
        except ValueError:
            return False
        return len(times) == len(rows) and bool((np.diff(times) > 0).all())
    label = next((columns[name] for name in names if name in LABELS), [""] * len(rows))
    return flows([columns[name] for name in channels], label)


def flows(channels: Sequence[Sequence[str]], label: Sequence[str]) -> bool:
    """Whether most columns go on from row to row, within the rows of one label: then these may be steps.

    By von Neumann's ratio (1941), the mean square of the differences over twice the variance: 1 of rows in any order,
    near 0 of a smooth series. Columns that only rise or fall, as numbers of rows do, say nothing.
    """
    changes = [k for k in range(1, len(label)) if label[k] != label[k - 1]]
    runs = [range(low, high) for low, high in zip([0, *changes], [*changes, len(label)], strict=True)]
    longest = max(runs, key=len)
    if len(longest) < RUN:
        return False
    ratios = []
    for channel in channels:
        cells = [channel[k] for k in longest]
        values = np.array([float(cell) if is_number(cell) else np.nan for cell in cells])
        values = values[np.isfinite(values)]
        steps = np.diff(values)
        if len(values) >= RUN and (steps > 0).any() and (steps < 0).any():
            ratios.append(float((steps**2).mean() / (2 * values.var())))
    return bool(ratios) and float(np.median(ratios)) < SMOOTH


def number_or_nothing(cell: str) -> bool:
    return is_number(cell) or cell.strip().lower() in MISSING
