"""What jobs on the vectors of items are told: of which run, of which items, where the result goes."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from selfsame.records import Record


class OfVectors(Record):
    """Settings of every job that looks at the vectors of items."""

    FOLDER: ClassVar[str]
    """where the result goes, in the run folder"""

    run_folder: Path
    """folder of a run"""
    data: str
    """folder, glob, list, array, zip, table, shards or address of items"""
    out: Path | None = None
    """folder of the result [a folder of the command's name in the run folder]"""
    labels: str | None = None
    """CSV path,label, file.npz::y or a column [class folders, the list's own column, y_ of the same name]"""
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

    @property
    def place(self) -> Path:
        """The folder of the result."""
        return self.out or self.run_folder / self.FOLDER
