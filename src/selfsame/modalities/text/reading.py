"""How texts are read: which column, which items, which bytes, which tokenizer."""

import codecs
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from selfsame.errors import UserError
from selfsame.records import Record

__all__ = ["Reading"]


def _known(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        plain = "a\n".encode(encoding) == b"a\n"
    except (LookupError, UnicodeError, TypeError):
        raise ValueError(
            f"unknown encoding {encoding!r}; accepted are such as utf-8, latin-1, cp1252, gb18030"
        ) from None
    if not plain:
        raise ValueError(f"lines cannot be found in {encoding}: convert the file, as iconv -f {encoding} -t utf-8 does")
    return name


class Reading(Record):
    """How texts are read."""

    column: str | None = None
    """the column of the text in a CSV, Parquet or JSONL [the only one of text, or the one with the longest]"""
    items: Literal["auto", "lines", "files"] = "auto"
    """what an item is in text files: a line or a file [of one file its lines, of a folder its files]"""
    tokenizer: str | None = None
    """a local tokenizer.json, or a folder with one [trained on the texts]"""
    vocabulary: Annotated[int, Field(ge=300, le=200_000)] | None = None
    """words and pieces of words that a tokenizer is trained to know [by the amount of text]"""
    lower: bool = True
    """whether a tokenizer that is trained makes capital letters small"""
    encoding: Annotated[str, AfterValidator(_known)] = "utf-8"
    """of text files, CSV and JSONL"""


def as_reading(given: Any) -> Reading:
    """What `open_source` was given: nothing, a record or a dict."""
    if isinstance(given, Reading):
        return given
    try:
        return Reading.model_validate(given or {})
    except ValueError as error:
        raise UserError(f"--reading: {' '.join(str(error).split())}") from None
