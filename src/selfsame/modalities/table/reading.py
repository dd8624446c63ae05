"""How a table is read: the flags `--reading.x`. Loads no torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from selfsame.errors import UserError, unknown
from selfsame.records import Record

__all__ = ["KINDS", "Kind", "Reading", "wishes"]

Kind = Literal["number", "count", "ratio", "category", "hash", "date", "text"]
KINDS: tuple[str, ...] = ("number", "count", "ratio", "category", "hash", "date", "text")


def _words(given: Any) -> Any:
    """`a,b` as ("a", "b"), and {"age": "number"} as ("age=number",)."""
    if isinstance(given, str):
        return tuple(word.strip() for word in given.split(",") if word.strip())
    if isinstance(given, Mapping):
        return tuple(f"{name}={kind}" for name, kind in given.items())
    return tuple(given) if isinstance(given, list) else given


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class Reading(Record):
    """How rows become items. An encoder keeps it, so that it is fed as it was trained."""

    leave_out: Words = ()
    """columns that are no features, as the one to predict: income, or income,fnlwgt"""
    types: Words = ()
    """what columns are, where that is not seen rightly: age=number,zip=category (docs/table.md lists the kinds)"""
    id: str = ""
    """column whose values name the items [the row's number]"""
    by: str = ""
    """column that says whose event a row is: an item is then one user's events [an item is a row]"""
    time: str = ""
    """column that orders the events of a user [the order of the rows]"""
    scaling: Literal["quantile", "standard"] = "quantile"
    """numbers by their rank, as normal scores, or with mean 0 and standard deviation 1"""
    header: Literal["auto", "yes", "no"] = "auto"
    """whether the first line of a CSV names the columns; without names they are c0, c1, ..."""
    separator: str = ""
    """what stands between the cells of a CSV, one sign or the word tab [comma, semicolon, tab or |, as found]"""
    category_values: Annotated[int, Field(ge=2, le=4096)] = 256
    """most values of a category that are told apart by themselves; columns with more are hashed"""
    hash_size: Annotated[int, Field(ge=8, le=2**20)] = 2**14
    """most buckets of a hashed column"""
    text_size: Annotated[int, Field(ge=8, le=4096)] = 64
    """numbers that a column of text becomes"""
    text_units: Literal["words", "letters"] = "words"
    """what is counted in a text: words, or runs of three letters, which stand misspellings"""

    @field_validator("separator")
    @classmethod
    def _one_sign(cls, given: str) -> str:
        given = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}.get(given, given)
        if len(given) > 1:
            raise ValueError("a separator is one sign, or the word tab")
        return given

    @field_validator("types")
    @classmethod
    def _name_and_kind(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        words = [word for one in given for word in one.split(",") if word.strip()]
        for word in words:
            name, equals, kind = word.rpartition("=")
            if not equals or not name:
                raise UserError(f"--reading.types {word!r}: write column=kind, as in age=number,zip=category.")
            if kind.strip() not in KINDS:
                raise unknown(f"kind of column {name.strip()!r}", kind.strip(), KINDS)
        return tuple(word.strip() for word in words)

    @field_validator("time")
    @classmethod
    def _of_someone(cls, given: str, info: Any) -> str:
        if given and not info.data.get("by"):
            raise ValueError("an order in time is for the events of a user: name their column with --reading.by")
        return given


def wishes(reading: Reading) -> dict[str, Kind]:
    """The kinds that the user gave, by column."""
    pairs = (word.rpartition("=") for word in reading.types)
    return {name.strip(): kind.strip() for name, _, kind in pairs}  # type: ignore[misc]
