"""The items of an index that are nearest to a query."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from selfsame.errors import UserError
from selfsame.jobs.checked import checked
from selfsame.records import Record

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from selfsame.index.contract import Found, Index


class Search(Record):
    """Find the items of an index that are nearest to a query, by cosine."""

    index: str
    """folder of an index, or its postgresql:// address"""
    query: str
    """a file (or several items: a folder, a list, ...), the name of an item of the index, or a text where texts lie"""
    k: Annotated[int, Field(ge=1)] = 10
    """items to find"""
    label: str | None = None
    """find only items with this label"""
    exact: bool = False
    """compare with every vector, also where the index has a graph for approximate search"""
    picture: Path | None = None
    """.png to draw the query and what was found in"""
    run_folder: Path | None = None
    """folder of the run that made the index [where it was then]"""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """query items encoded at once"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""

    @field_validator("picture")
    @classmethod
    def _png(cls, given: Path | None) -> Path | None:
        if given is not None and given.suffix.lower() != ".png":
            raise UserError(f"--picture {given}: it is written as PNG. Give a name that ends with .png.")
        return given

    def run(self) -> dict[str, Any]:
        from selfsame.jobs.searching import searched, told

        index, queries, found = searched(self)
        return told(self, index, queries, found)

    def show(self, result: dict[str, Any]) -> None:
        """What `run` found as a table on the screen, where it is not printed as JSON."""
        from selfsame.jobs.searching import show

        show(result)


def search(
    index: "Index | str | Path",
    query: "str | Path | np.ndarray",
    k: int = 10,
    run: Any = None,
    encoder: "nn.Module | None" = None,
    **settings: Any,
) -> "Found":
    """The k items of an index nearest to a file, an item of the index, or vectors [d] or [q d].

    `run` says where the run that made the index is now, where it was moved, or is the encoder itself; `encoder` is a
    module of its architecture, where it was given one in Python. Settings are the fields of `Search`. Raises UserError.
    """
    from selfsame.index.contract import Index
    from selfsame.index.store import opened
    from selfsame.jobs.searching import drawn, searched
    from selfsame.types import Encoder

    there = index if isinstance(index, Index) else opened(index)
    if not isinstance(query, (str, Path)):
        return there.search(query, k, settings.get("label"), settings.get("exact", False))
    folder = None if run is None or isinstance(run, Encoder) else getattr(run, "folder", run)
    job = checked(Search, {"index": there.place, "query": str(query), "k": k, "run_folder": folder, **settings})
    _, queries, found = searched(job, there, run if isinstance(run, Encoder) else None, encoder)
    if job.picture is not None:
        drawn(job, there, queries, found)
    return found
