"""What jobs on the vectors of items are told: of which run, of which items, where the result goes."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from selfsame.records import Record


class OfVectors(Record):
    """Settings of every job that looks at the vectors of items."""

    FOLDER: ClassVar[str]
    """where the result goes, in the run folder"""
    BY_PLACE: ClassVar[tuple[str, ...]] = ("data",)

    run_folder: str
    """folder of a run; or an index made by `selfsame index`, which is then all that is needed"""
    data: str | None = None
    """folder, glob, list, array, zip, table, shards or address of items, or an index that the run made"""
    out: Path | None = None
    """folder of the result [a folder of the command's name in the run folder]"""
    labels: str | None = None
    """CSV path,label, file.npz::y or a column [class folders, the list's own column, y_ of the same name, the index]"""
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    """repetitions with other random weights, splits, starts or draws"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """first of the seeds"""
    workers: Annotated[int | None, Field(ge=0)] = None
    """reading processes [cores - 1]"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    """largest share of unreadable items to go on with"""

    @field_validator("run_folder", mode="before")
    @classmethod
    def _text(cls, given: Any) -> Any:
        """Text, for an address of a database is no path."""
        return str(given) if isinstance(given, Path) else given


def values_of(run: Any, data: str | Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """What a record of these jobs is made from: `run` is a run, its folder, or an index."""
    folder = getattr(run, "place", None) or getattr(run, "folder", run)
    return {"run_folder": str(folder), "data": None if data is None else str(data), **settings}
