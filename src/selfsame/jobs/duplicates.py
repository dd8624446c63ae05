"""Find copies: exact ones, and near ones by perceptual hash, by the raw input, by an encoder. Deletes nothing."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from selfsame.errors import UserError, unknown
from selfsame.jobs.checked import checked
from selfsame.records import Record

KINDS = ("exact", "hash", "raw", "encoder")


class Duplicates(Record):
    """Find exact and near copies among items, or between two parts; deletes nothing."""

    data: str
    """folder, glob, list, array, zip, table, shards or address of items"""
    out: Path = Path("duplicates")
    """folder for duplicates.csv, duplicates.json and report.html"""
    run_folder: Path | None = None
    """folder of a run: its encoder too finds near copies, of any kind of data"""
    by: str = "auto"
    """of exact, hash, raw, encoder, separated by commas [all that these data and --run allow; raw: of sound]"""
    distance: Annotated[int, Field(ge=0, le=11)] = 4
    """bits of 64 in which perceptual hashes of near copies may differ"""
    far: Annotated[float | None, Field(gt=0, lt=1)] = None
    """false-accept rate: share of pairs of different items whose vectors call them copies [0.02 / (items - 1)]"""
    threshold: Annotated[float | None, Field(ge=-1, le=1)] = None
    """cosine from which on items are copies, in place of one calibrated on these data by --far"""
    across: tuple[str, str] | None = None
    """two parts, as train test: folders in DATA or paths; only copies between them are sought"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """draws the items and views that calibrate the threshold, and the cells of a large search"""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """items read and encoded at once"""
    workers: Annotated[int | None, Field(ge=0)] = None
    """reading processes [cores - 1]"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    """largest share of unreadable items to go on with"""
    modality: str | None = None
    """image, audio, signal, text, table, or a module of your own [by what is found; with --run, that of the run]"""
    reading: dict[str, Any] | None = None
    """how the data are read, by kind: a column, a rate, a window; --modality KIND --help shows --reading.x"""

    @field_validator("by")
    @classmethod
    def _by(cls, given: str) -> str:
        names = [name.strip() for name in given.split(",")]
        for name in names:
            if name not in KINDS and given != "auto":
                raise unknown("way to find copies", name, KINDS)
        return ",".join(names)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wanted = self.by.split(",")
        if "encoder" in wanted and self.run_folder is None:
            raise UserError("--by encoder needs an encoder: give --run RUN, the folder of a run of selfsame pretrain.")
        if self.far is not None and self.threshold is not None:
            raise UserError("--far and --threshold both say from which cosine on items are copies. Give one of them.")
        if self.run_folder is not None and (self.modality or self.reading):
            flag = "--modality" if self.modality else "--reading"
            raise UserError(f"{flag}: with --run, items are read as those that the encoder learned from. Leave it out.")
        return self

    def run(self) -> dict[str, Any]:
        """What duplicates.json holds: thresholds, how they were found, and the groups."""
        from selfsame.jobs.deduplicating import run

        return run(self)


def duplicates(data: str | Path, run: Any = None, out: str | Path = "duplicates", **settings: Any) -> dict[str, Any]:
    """Find copies, with a run (or run folder) also by its encoder; settings are the fields of `Duplicates`."""
    folder = None if run is None else getattr(run, "folder", run)
    return checked(Duplicates, {"data": str(data), "run_folder": folder, "out": out, **settings}).run()
