"""One folder per modality. Adding a modality is adding a folder: this module finds it by its name."""

import importlib
import importlib.util
import pkgutil
from collections import Counter
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from selfsame.errors import UserError, missing, unknown
from selfsame.records import Record
from selfsame.storage.disk import disk_of, is_address
from selfsame.storage.folders import arrays_apart, converted, listed, suffix_of
from selfsame.types import Modality, Source

FIRST = 10_000  # files that are counted where nothing is read
BLANK = 1 << 16  # bytes of a file that are looked at
PARQUET = (".parquet", ".pq")
CLEARLY = 20  # times as many items as of any other kind leave no doubt what a place holds


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def load(name: str) -> Modality:
    """The modality of a name; also one of the user's own, by the name that its module is imported by."""
    if name in names():
        return cast(Modality, importlib.import_module(f"{__name__}.{name}"))
    try:
        own = importlib.import_module(name) if name.replace(".", "_").isidentifier() else None
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, and misses something itself
        own = None
    if own is None or not hasattr(own, "open_source"):
        raise unknown("modality", name, names(), "One of your own is named by its module, which must be importable.")
    return cast(Modality, own)


def of(path: str) -> Modality:
    """The modality that reads `path`. Raises UserError where none does, or where it could be several."""
    found = {name: count for name in names() if (count := int(load(name).reads(path)))}
    order = sorted(found, key=lambda name: -found[name])
    if len(order) == 1 or (order and found[order[0]] >= CLEARLY * found[order[1]]):
        return load(order[0])
    if not order:
        raise nothing(path)
    counted = all(found[name] > 1 for name in order)
    held = " and ".join(f"{name} ({found[name]:,} items)" if counted else name for name in order)
    raise UserError(f"{path} could be {held}. Which is it? Say so with --modality {' or --modality '.join(order)}.")


class Opened(NamedTuple):
    """A source that is read as what an encoder learned from."""

    modality: Modality
    source: Source
    stats: Record
    reading: Record


def open_like(path: str, spec: dict[str, Any], labels: str | None = None, **changes: Any) -> Opened:
    """Open a path for the encoder that `spec` describes: its modality, its way of reading, its statistics.

    `changes`: other fields of its reading, as the column. Raises UserError where the modality has none.
    """
    known = load(str(spec["modality"]))
    stats = known.Stats.model_validate(spec["stats"])
    way = reading_of(spec)
    if hasattr(known, "reading_for"):
        way = known.reading_for(way, path)
    if changes:
        odd = [name for name in changes if name not in known.Reading.model_fields]
        if odd:
            raise UserError(f"{path}: items of the kind {known.name} are not read by {', '.join(odd)}.")
        way = way.changed(**changes)
    source = known.open_source(path, labels, way)
    source.fit(stats)
    return Opened(known, source, stats, way)


def reading_of(spec: dict[str, Any]) -> Record:
    """How the items are read that the encoder learned from which `spec` describes."""
    return load(str(spec["modality"])).Reading.model_validate(spec.get("reading", {}))


def nothing(path: str) -> UserError:
    """The error for a path that no modality reads: what is there, and what is read."""
    where = path if is_address(path) else str(Path(path).expanduser())
    disk = disk_of(where)
    if not disk.exists(where) and not any(sign in where for sign in "*?[{"):
        return disk.nowhere(where.split("::")[0])
    held = converted([suffix_of(where)])
    counts = Counter([suffix_of(where)])
    if disk.exists(where) and not disk.is_folder(where) and disk.cut(where, 0, 2) in (b"\xff\xfe", b"\xfe\xff"):
        suffix = suffix_of(where) or ".txt"
        return UserError(f"{path}: text in UTF-16. Write it anew: iconv -f UTF-16 -t UTF-8 {path} > new{suffix}")
    if disk.is_folder(where):
        counts = Counter(suffix_of(name) for name in islice(chain.from_iterable(disk.runs(where)), FIRST))
        cures = arrays_apart(counts) + converted(counts)
        held = f" It holds {listed(counts)}.{cures}" if counts else " The folder is empty."
    elif disk.exists(where) and not disk.cut(where, 0, BLANK).strip():
        held = " The file is empty." if not disk.cut(where, 0, 1) else " The file holds blank lines alone."
    if counts.keys() & set(PARQUET) and importlib.util.find_spec("pyarrow") is None:
        return missing("parquet", "pyarrow", f"{path}: reading Parquet")
    return UserError(
        f"{path}: nothing here that selfsame reads.{held} It reads: {', '.join(names())}. If it is one of these after "
        "all, say which with --modality."
    )
