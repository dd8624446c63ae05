"""A bake-off: several methods trained alike on a sample of the data, and ranked."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from selfsame import methods
from selfsame.errors import UserError
from selfsame.jobs.checked import checked, named
from selfsame.records import Record
from selfsame.storage.disk import plain_path

UNITS = {"s": 1 / 60, "m": 1.0, "h": 60.0}  # minutes


class Compare(Record):
    """Train several methods for the same time or number of samples, and rank them: which is best for this data?"""

    data: str
    """folder, glob, list, array, zip, tar or Parquet shards; no labels needed"""
    methods: str = "all"
    """names separated by commas, or all that fit the encoder; `selfsame methods` lists them"""
    budget: str = "10m"
    """what each run may use: time to train (10m, 2h), or samples to see (40000)"""
    sample: Annotated[int | None, Field(ge=4)] = None
    """learn from so many of the items, drawn by the seed [all]"""
    seeds: Annotated[int, Field(ge=1, le=100)] = 2
    """runs of each method, for the spread"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """first of the seeds"""
    labels: str | None = None
    """class folders ("folders"), a CSV path,label or file.npz::y: rank by k-NN and linear accuracy; never trained on"""
    labelled: str | None = None
    """the labelled data, where it is not the data that is learned from"""
    test: str | None = None
    """its test part [a fifth of each class, split off by the seed]"""
    test_labels: str | None = None
    """as --labels, for --test"""
    out: Path | None = None
    """folder of the comparison and of its runs; what is found there goes on [runs/compare-NAME]"""
    encoder: str = "auto"
    """a network by name, or package.module:factory of your own; the same for all"""
    size: Annotated[int | None, Field(ge=1)] = None
    """of a view: pixels of a side, tokens, steps, samples of a wave [from the data]"""
    views: Any = "auto"
    """strength of the views, the same for all: photo, small, weak, ..., or auto by size"""
    batch_size: Annotated[int | None, Field(ge=2)] = None
    """items in one step"""
    precision: Literal["bf16", "fp32"] | None = None
    """[bf16 where the device computes it]"""
    workers: Annotated[int | None, Field(ge=0)] = None
    """reading processes [cores - 1]"""
    cache: Annotated[float | None, Field(ge=0)] = None
    """GiB of disk for decoded items; 0 for none [half of the memory, half of the free disk]"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    """largest share of unreadable items to go on with"""
    modality: str | None = None
    """image, audio, signal, text, table, or a module of your own [by what is found]"""
    reading: dict[str, Any] | None = None
    """how the data are read, by kind: a column, a rate, a window; --modality KIND --help shows --reading.x"""

    @field_validator("data")
    @classmethod
    def _data(cls, given: str) -> str:
        return plain_path(given)

    @field_validator("methods")
    @classmethod
    def _methods(cls, given: str) -> str:
        names = [name.strip() for name in given.split(",") if name.strip()]
        if not names:
            raise ValueError("there is no method; give names separated by commas, or all")
        for name in names:
            if name != "all":
                methods.load(name)
        if len(set(names)) < len(names):
            raise ValueError("a method stands there twice")
        return ",".join(names)

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, given: Any) -> str:
        text = str(given).strip().replace("_", "")
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
        if not found or float(found[1]) <= 0 or (not found[2] and "." in text):
            raise ValueError("a budget is a time (90s, 10m, 2h) or a number of samples (40000)")
        return text

    @field_validator("views")
    @classmethod
    def _views(cls, given: Any) -> dict[str, Any]:
        return {"name": "auto", **named(given, "views")}

    @property
    def minutes(self) -> float | None:
        """Minutes of training for each run; None where the budget is a number of samples."""
        return float(self.budget[:-1]) * UNITS[self.budget[-1]] if self.budget[-1] in UNITS else None

    @property
    def samples(self) -> int | None:
        """Samples each run sees; None where the budget is a time."""
        return int(self.budget) if self.minutes is None else None

    @property
    def names(self) -> list[str]:
        """The methods to try, in their order."""
        given = self.methods.split(",")
        return methods.names() if "all" in given else given

    @property
    def folder(self) -> Path:
        if self.out is not None:
            return self.out
        path = Path(re.split(r"[*?{\[]", self.data.split("::")[0])[0])
        return Path("runs") / f"compare-{path.stem or path.resolve().name}"

    def run(self) -> dict[str, Any]:
        """{"rows": one a method, best first, "baselines": ..., ...}; kept as comparison.json beside report.html.

        Raises UserError where a method that was named cannot work with the encoder or the data, before any is trained.
        """
        from selfsame.jobs.comparing import compared

        if self.labels is None and (self.test or self.test_labels or self.labelled):
            raise UserError(
                '--labelled and --test are for measuring with labels: give --labels too ("folders" or a file).'
            )
        return compared(self)


def compare(data: str | Path, **settings: Any) -> dict[str, Any]:
    """Train several methods alike and rank them; settings are the fields of `Compare`."""
    from selfsame.jobs.pretrain import path_of

    return checked(Compare, {"data": path_of(data), **settings}).run()
