"""Records from what people write, in flags, YAML or Python: the first mistake in one line, with the nearest name."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from selfsame.errors import UserError, unknown
from selfsame.records import Record
from selfsame.storage.folders import split_glob

R = TypeVar("R", bound=Record)


def checked(record: type[R], values: Mapping[str, Any], place: Sequence[str] = (), advice: str = "") -> R:
    """The record with these values; `place` is where it stands in a larger one. Raises UserError."""
    try:
        return record.model_validate(dict(values))
    except ValidationError as error:
        raise explained(error, record, place, advice) from None


def named(given: Any, kind: str) -> dict[str, Any]:
    """A name, or a mapping with settings, as a mapping. Raises UserError for anything else."""
    if isinstance(given, str):
        return {"name": given}
    if not isinstance(given, Mapping):
        raise UserError(f"{kind} is {given!r}; accepted are a name, or settings such as {{'name': ..., ...}}.")
    return dict(given)


def spared(out: Path, data: str, names: Iterable[str] = ()) -> None:
    """Raise UserError where a file that is to be written is the file that the data are read from, or one of them.

    `names`: of the items, gone through where `out` is there already and lies among the data.
    """
    if not out.is_file():
        return
    given = Path(split_glob(data.split("::")[0])[0]).expanduser()
    if given.is_file() and out.samefile(given):
        raise UserError(f"--out {out} is the data themselves, which would be lost. Name another file.")
    root, place = (given if given.is_dir() else given.parent).resolve(), out.resolve()
    if not place.is_relative_to(root):
        return
    known = {str(place), place.relative_to(root).as_posix()}
    for name in names:  # a row, a window or a frame is named behind its file
        if name in known or any(name.startswith((f"{file}:", f"{file}@")) for file in known):
            raise UserError(f"--out {out} is one of the data, {name}, which would be lost. Name another file.")


def explained(
    error: ValidationError, record: type[Record] | None = None, place: Sequence[str] = (), advice: str = ""
) -> UserError:
    """The first complaint of pydantic in the words of the command line."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return cause
    where = [*place, *(str(part) for part in first["loc"])]
    end = f" {advice}" if advice else ""
    if first["type"] == "extra_forbidden" and record is not None:
        kind = f"key of {'.'.join(where[:-1])}" if where[:-1] else "key"
        return unknown(kind, where[-1], fields(record, first["loc"][:-1]), advice)
    if first["type"] == "missing":
        return UserError(f"{where[-1]} is not given.{end}")
    flag = f"--{'.'.join(where).replace('_', '-')} " if where else ""
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return UserError(f"{flag}{first['input']!r}: {message[0].lower()}{message[1:]}.{end}")


def fields(record: type[Record], place: Sequence[str | int]) -> list[str]:
    """The keys of a record, or of the one that stands in it at `place`."""
    for part in place:
        inner = record.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, Record)):
            return []
        record = inner
    return list(record.model_fields)
