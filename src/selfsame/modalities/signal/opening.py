"""From a path to a source of series: an array, a `.ts` file, a table, a folder of these; with labels, if there are any.

Raises UserError where there is nothing to read.
"""

import itertools
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from selfsame.errors import UserError, unknown
from selfsame.modalities.signal import tables, ts
from selfsame.modalities.signal.reading import Reading
from selfsame.modalities.signal.records import ArrayRecords, JoinedRecords, Listed, ListedRecords
from selfsame.modalities.signal.source import SignalSource
from selfsame.modalities.signal.tables import Codes, Opened
from selfsame.storage.arrays import (
    described,
    label_strings,
    labels_beside,
    load_array,
    misfit,
    npz_key,
    npz_keys,
    split_key,
)
from selfsame.storage.folders import (
    depth_of,
    folder_labels,
    listed,
    matching,
    mostly,
    nowhere,
    split_glob,
    suffix_of,
    walk,
)
from selfsame.storage.tables import TABLES, Finder, paths_and_labels, some

__all__ = ["open_source", "reading_for", "reads"]

SUFFIXES = (".npy", ".npz", ".ts", ".csv", ".parquet")
NO_TABLES = (".npy", ".npz", ".ts")
OF_TABLES = ("columns", "id", "time", "leave_out")  # what of a reading says something of tables alone
SERIES = ("x_train", "x", "signal", "signals", "series", "X_train", "X")  # arrays taken when none is named, best first
LABELS = ("y_train", "y", "labels", "Y_train", "Y")
RATES, NAMES = ("fs", "rate", "sampling_rate"), ("channels", "leads", "names")  # told by arrays beside the series
FIRST = 1000  # files of a folder whose names are looked at
FEW = 8  # steps: [n t] with fewer, and very many rows, is one record [t c]


def open_source(path: str, labels: str | None = None, reading: Reading | None = None) -> SignalSource:
    """List the series at `path`.

    .npy or .npz (`file.npz::key`): [n c t], [n t], and with `reading.window` also one record [t] or [t c]; .ts; .csv
    and .parquet with a step a row and a channel a column; or a folder or a glob of these, where a table or .npy is one
    record. `labels` is a column of the tables, an array (`file.npz::key`), a CSV `path,label` with names of items or of
    files, or "folders"; without it they are those that the source has itself, or none. Raises UserError.
    """
    reading = reading or Reading()
    path = str(Path(path).expanduser()) if path else path
    column = labels if labels is not None and is_column(labels) else None
    file, key = split_key(path)
    place = Path(file)
    if place.is_dir():
        names = [name for name in walk(place) if suffix_of(name) in SUFFIXES]
        opened = open_files(path, place, names, reading, column, lambda: other_files(place))
    elif not place.exists():
        root, pattern = split_glob(path)
        if not pattern or not Path(root).is_dir():
            raise nowhere(root if pattern else file)
        below = list(matching(walk(Path(root), depth_of(pattern)), pattern))
        names = [name for name in below if suffix_of(name) in SUFFIXES]
        opened = open_files(path, Path(root), names, reading, column, lambda: f"{len(below)} other files")
    else:
        opened = open_file(file, key, reading, column)
    source = SignalSource(path, opened, reading)
    if not len(source):
        raise UserError(f"{path}: it holds no series.")
    if labels is not None and not (column is not None and opened.step_labels is not None):
        source.labels = labels_from(labels, source, place)
    return source


def is_column(labels: str) -> bool:
    """Whether labels are named by a column: neither a file nor the word for folders."""
    return labels != "folders" and suffix_of(split_key(labels)[0]) not in (*TABLES, ".npy", ".npz")


def reads(path: str) -> int:
    """How many of the first items at `path` look like series, by its suffix and its first content; 0 for none.

    Of tables it is how many of the first rows, since the same rows may be items of a table: which, the user says.
    """
    try:
        path = str(Path(path).expanduser()) if path else path
        file, key = split_key(path)
        place = Path(file)
        if place.is_dir():
            return reads_files(place, walk(place))
        if place.exists():
            return reads_file(file, key)
        root, pattern = split_glob(path)
        if not pattern or not Path(root).is_dir():
            return 0
        return reads_files(Path(root), matching(walk(Path(root), depth_of(pattern)), pattern))
    except Exception:  # whatever a file of any kind may raise: it is none of ours
        return 0


def reads_files(root: Path, names: Iterable[str]) -> int:
    """How many of the first names are like the first that holds series, if any; or its rows, if these are more.

    Rows count only where most files may hold series: a list beside photos does not outnumber them.
    """
    every = list(itertools.islice(names, FIRST))
    found = [name for name in every if suffix_of(name) in SUFFIXES]
    if not found:
        return 0
    file = str(root / found[0])
    if suffix_of(file) == ".npy":
        shape, dtype = described(file, None, SERIES)
        ours = int(is_kind(dtype) and len(shape) in (1, 2))
    else:
        ours = reads_file(file, None)
    alike = sum(suffix_of(name) == suffix_of(file) for name in found)
    return (max(ours, alike) if mostly(every, SUFFIXES) else alike) if ours else 0


def reads_file(file: str, key: str | None) -> int:
    """1 for a file of series, the first rows of a table of them, 0 for others."""
    suffix = suffix_of(file)
    if suffix in (".npy", ".npz"):
        shape, dtype = described(file, key, SERIES)
        return int(is_kind(dtype) and len(shape) in (1, 2, 3))
    if suffix == ".ts":
        return int(ts.looks_like(Path(file)))
    return tables.looks_like(Path(file)) if suffix in (".csv", ".parquet") else 0


def is_kind(dtype: np.dtype) -> bool:
    """Floats and whole numbers with a sign: images have none."""
    return dtype.kind in "fi" and dtype.itemsize > 1


# Files ---------------------------------------------------------------------------------------------------------------


def reading_for(reading: Reading, path: str) -> Reading:
    """As an encoder's series were read, for another path: arrays and .ts files have no columns."""
    if suffix_of(path.partition("::")[0]) not in NO_TABLES:
        return reading
    return reading.changed(**{name: type(getattr(reading, name))() for name in OF_TABLES})


def open_file(file: str, key: str | None, reading: Reading, label: str | None, whole: bool = False) -> Opened:
    """One file. `whole`: of several, of which each is a record."""
    suffix = suffix_of(file)
    for name in OF_TABLES:
        if suffix in NO_TABLES and getattr(reading, name):
            raise UserError(f"--reading.{name} is for tables; {file} has no columns. Leave it out.")
    if suffix in (".npy", ".npz"):
        return open_array(file, key, reading, whole)
    if suffix == ".ts":
        if not ts.looks_like(Path(file)):
            raise UserError(
                f"{file}: no file of series: a .ts file of the UCR archive begins with lines as @problemName."
            )
        return open_ts(file)
    if suffix == ".csv":
        return tables.open_csv(file, reading, label, whole)
    if suffix == ".parquet":
        return tables.open_parquet(file, reading, label, whole)
    raise UserError(
        f"{file}: no source of series. Give a .npy or .npz array, a .ts file, a .csv or .parquet table with a step a "
        "row, or a folder or glob of these."
    )


def open_ts(file: str) -> Opened:
    parsed = ts.parse(file)
    names = [str(k) for k in range(len(parsed.series.lengths))]
    return Opened(ListedRecords(partial(listed_ts, file), parsed.series), names, labels=parsed.labels)


def listed_ts(file: str) -> Listed:
    return ts.parse(file).series


def open_array(file: str, key: str | None, reading: Reading, whole: bool) -> Opened:
    npz = suffix_of(file) == ".npz"
    key = npz_key(file, key, SERIES) if npz else None
    shape, dtype = described(file, key, SERIES)
    shown = f"{file}::{key}" if key else file
    lay = lay_of(shape, dtype, shown, reading.window, whole)
    records = ArrayRecords(file, key, lay)
    opened = Opened(records, [str(k) for k in range(len(records.lengths))])
    if key is None:
        return opened
    keys = npz_keys(file)
    opened.channels = next((names for name in NAMES if name in keys if (names := names_in(file, name, records))), ())
    rates = [load_array(file, name) for name in RATES if name in keys]
    opened.rate = next((float(rate) for rate in rates if rate.size == 1 and rate.dtype.kind in "fiu"), 0.0)
    beside = labels_beside(file, key)
    if beside is not None:
        found = label_strings(file, beside)
        if found is not None and len(found) == len(opened.names):
            opened.labels = found
        elif found is not None and len(found) == int(records.lengths.sum()):
            codes = Codes.of(found)
            opened.step_labels, opened.classes = codes.numbers, codes.texts
        else:
            opened.refused = misfit(file, key, beside, len(found or ()), len(opened.names))
    return opened


def lay_of(shape: tuple[int, ...], dtype: np.dtype, shown: str, window: int, whole: bool) -> str:
    """How the axes of an array lie: "n c t", "n t", "t c" or "t". Raises UserError where it is no array of series."""
    form = " x ".join(str(length) for length in shape) or "one number"
    if dtype.kind not in "fiu" or (dtype.kind == "f" and dtype.itemsize > 8):
        raise UserError(
            f"{shown}: series of {dtype}; floats and whole numbers are read. Save it as x.astype('float32')."
        )
    if len(shape) not in (1, 2, 3) or 0 in shape:
        raise UserError(f"{shown}: an array of {form}; series are [n c t] or [n t], or one record [t] or [t c].")
    if whole:
        if len(shape) == 3 or (len(shape) == 2 and shape[1] > 256 and shape[0] < shape[1]):
            raise UserError(
                f"{shown}: an array of {form}; of several files each is one record [t] or [t c], rows are steps."
            )
        return "t" if len(shape) == 1 else "t c"
    if len(shape) == 3:
        return "n c t"
    if window:
        return "t" if len(shape) == 1 else "n t" if shape[1] >= window else "t c"
    if len(shape) == 1 or (shape[1] < FEW and shape[0] > 1000 * shape[1]):
        raise UserError(
            f"{shown}: an array of {form} looks like one long record. Give --reading.window STEPS to cut it into items"
            f"{'' if len(shape) == 1 else '; if it is many short series, save it as [n 1 t] with x[:, None]'}."
        )
    return "n t"


def names_in(file: str, key: str, records: ArrayRecords) -> tuple[str, ...]:
    found = load_array(file, key)
    fits = found.dtype.kind == "U" and found.shape == (records.channels,) and len(set(found.tolist())) == len(found)
    return tuple(str(name) for name in found) if fits else ()


def open_files(
    path: str, root: Path, names: Sequence[str], reading: Reading, label: str | None, others: object
) -> Opened:
    """Several files of one kind, one after the other."""
    if not names:
        raise UserError(f"{path}: no series here, only {others()}. Read are {', '.join(SUFFIXES)}.")  # type: ignore[operator]
    kinds = sorted({suffix_of(name) for name in names})
    if len(kinds) > 1 or kinds[0] in (".ts", ".npz"):
        if len(names) == 1:
            return open_file(str(root / names[0]), None, reading, label)
        shown = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        raise UserError(
            f"{path}: {len(names)} files ({shown}); which one? Give it alone. Of several only .csv, .parquet or .npy "
            "are read together, of one kind, each a record."
        )
    parts = [open_file(str(root / name), None, reading, label, whole=True) for name in names]
    first = parts[0]
    for part, name in zip(parts, names, strict=True):
        if set(part.channels) != set(first.channels):
            odd = sorted(set(part.channels) ^ set(first.channels))
            raise UserError(
                f"{path}: {name} and {names[0]} have different columns ({', '.join(odd[:5])}). Name those that all "
                "have with --reading.columns."
            )
        if part.channels != first.channels:
            raise UserError(
                f"{path}: {name} has its columns in another order than {names[0]}. Fix it with --reading.columns "
                f"{' '.join(first.channels[:8])}."
            )
        if first.rate and part.rate and abs(part.rate - first.rate) > 0.05 * first.rate:
            raise UserError(
                f"{path}: {name} has {part.rate:.6g} steps a second and {names[0]} {first.rate:.6g}. Bring them to one "
                "rate first, as with scipy.signal.resample_poly."
            )
    joined = JoinedRecords([part.records for part in parts], names)
    named = [
        name if one == "0" else f"{name}/{one}" for part, name in zip(parts, names, strict=True) for one in part.names
    ]
    opened = Opened(joined, named, first.channels, first.rate, roles=first.roles)
    if all(part.step_labels is not None for part in parts):
        number: dict[str, int] = {}
        codes = [
            np.array([number.setdefault(one, len(number)) for one in part.classes], np.int64)[part.step_labels]
            for part in parts
        ]
        opened.step_labels, opened.classes = np.concatenate(codes), list(number)
    else:
        opened.labels = folder_labels(named)
    return opened


def other_files(folder: Path) -> str:
    counted: dict[str, int] = {}
    for name in itertools.islice(walk(folder), FIRST):
        counted[suffix_of(name)] = counted.get(suffix_of(name), 0) + 1
    return listed(counted)


# Labels --------------------------------------------------------------------------------------------------------------


def labels_from(labels: str, source: SignalSource, place: Path) -> list[str]:
    """One label an item. Raises UserError."""
    if labels == "folders":
        found = folder_labels([source.names[source.place(i)[0]] for i in range(len(source))])
        if found is None:
            raise UserError(f"{source.path}: its series do not lie in folders, one a class.")
        return found
    if is_column(labels):
        header = tables.header_of(place) if place.is_file() and suffix_of(str(place)) in (".csv", ".parquet") else []
        if header:
            raise unknown(f"column of {source.path}", labels, header)
        raise UserError(
            f"--labels {labels}: {source.path} has no columns. Give an array file.npz::key, a .csv or .parquet with "
            "the columns path,label, or leave it out where the series have labels of their own."
        )
    file, key = split_key(str(Path(labels).expanduser()))
    if not Path(file).exists():
        raise nowhere(file)
    if suffix_of(file) in TABLES:
        return labels_from_csv(Path(file), source)
    key = npz_key(file, key, LABELS) if suffix_of(file) == ".npz" else None
    found = label_strings(file, key)
    if found is None:
        raise UserError(f"{labels}: labels are one whole number or one text a series.")
    if len(found) == len(source):
        return found
    lengths = source.records.lengths
    if len(found) == len(lengths):
        return [found[source.place(i)[0]] for i in range(len(source))]
    if len(found) == int(lengths.sum()):
        number: dict[str, int] = {}
        codes = np.array([number.setdefault(one, len(number)) for one in found], np.int64)
        return source.labels_of_steps(codes, list(number))
    raise UserError(
        f"{labels}: {len(found):,} labels for {len(source):,} items of {source.path} ({len(lengths):,} records, "
        f"{int(lengths.sum()):,} steps). Give one an item, a record or a step."
    )


def labels_from_csv(path: Path, source: SignalSource) -> list[str]:
    """Labels by the name of an item, or of the record that it is cut from."""
    records = [str(name) for name in source.names]
    root = source.path if Path(source.path).is_dir() else None
    find = Finder(path, records, root, source.path)
    cells, labels = paths_and_labels(path, lambda cell: find.item(cell) is not None)
    if labels is None:
        raise UserError(f"{path}: which column is the label? Name the columns path and label.")
    given: dict[str, str] = {}
    of_record: dict[int, str] = {}
    for cell, label in zip(cells, labels, strict=True):
        record = find.item(cell)
        before = given.setdefault(cell, label) if record is None else of_record.setdefault(record, label)
        if before != label:
            raise UserError(f"{path}: {cell} has two labels, {before} and {label}.")
    found = [given.get(source.name(i)) or of_record.get(source.place(i)[0], "") for i in range(len(source))]
    bare = [source.name(i) for i, label in enumerate(found) if not label]
    if bare:
        raise UserError(f"{path}: {some(bare, len(found), 'series')} have no label.")
    return found
