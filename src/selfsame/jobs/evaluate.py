"""Measure an encoder on labelled data, always beside random weights and raw input."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from selfsame.errors import UserError, unknown
from selfsame.jobs.checked import checked
from selfsame.records import Record

if TYPE_CHECKING:
    from torch import nn

PROTOCOLS = ("knn", "linear", "finetune", "similarity", "frozen")
OF_TASKS = ("size", "head_samples", "head_batch")  # settings that go with --task alone
NOT_OF_TASKS = {  # what goes with anything else -> what is meant with --task
    "epochs": "With --task each head is trained on as many samples whatever the number of labels: give --head-samples, "
    "the passes times the items",
    "batch_size": "With --task the items of a step are given by --head-batch",
    "supervised": "With --task the network is always trained from random weights too: leave it out",
    "pairs": "It goes with --protocols similarity: leave it out",
}


class Evaluate(Record):
    """Measure an encoder on labelled data, beside random weights and raw input."""

    run_folder: Path
    """folder of a run; or of a task run, which is scored"""
    labelled: str
    """labelled data: class folders, or anything with --labels; train/ and test/ (or val/) in it are used as such"""
    test: str | None = None
    """the test part; without it, and without train/ and test/, a part is split off by seed, class by class"""
    labels: str | None = None
    """CSV or Parquet path,label, file.npz::y_train or a column [class folders, the list's own, y_ of the same name]"""
    test_labels: str | None = None
    """the same for --test [the column that --labels names]"""
    groups: str | None = None
    """items that stay together, as of one patient, when a part is split off: as of `adapt`"""
    protocols: str = "knn,linear"
    """of knn, linear, finetune, separated by commas; or similarity, of pairs with a score; with --task, of frozen and
    finetune [both]"""
    task: Any = None
    """learn this task as `adapt` does, from the encoder, from random weights and from scratch; settings by --task.x"""
    size: Annotated[int | None, Field(ge=8)] = None
    """of a view, with --task [the task's own]"""
    head_samples: Annotated[int | None, Field(ge=1)] = None
    """samples that each head is trained on, whatever the number of labels, with --task [the task's own]"""
    head_batch: Annotated[int | None, Field(ge=1)] = None
    """items in one step of it; where fewer are labelled all of them, and so more steps"""
    pairs: str = "sentence1,sentence2"
    """the two columns of items whose similarity --labels says, for --protocols similarity"""
    budgets: str = "all"
    """labels that may be used: all, 1%, 10%, 10/class; separated by commas"""
    supervised: bool = False
    """also train the same network from random weights with the labels only"""
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    """repetitions with other label subsets, random weights and validation parts"""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """share of each class split off for testing where no test part is given"""
    epochs: Annotated[int, Field(ge=1)] = 30
    """of fine-tuning and of the supervised baseline; with --task see --head-samples"""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """of fine-tuning and of the supervised baseline"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """first of the seeds"""
    workers: Annotated[int | None, Field(ge=0)] = None
    """reading processes [cores - 1]"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    """largest share of unreadable items to go on with"""

    @field_validator("protocols", "budgets")
    @classmethod
    def _without_blanks(cls, given: str) -> str:
        return ",".join(name.strip() for name in given.split(","))

    @field_validator("protocols")
    @classmethod
    def _protocols(cls, given: str) -> str:
        for name in given.split(","):
            if name not in PROTOCOLS:
                raise unknown("protocol", name, PROTOCOLS)
        if "similarity" in given.split(",") and given != "similarity":
            raise UserError(f"--protocols {given}: similarity is measured on pairs. Give it alone.")
        return given

    @field_validator("task", mode="before")
    @classmethod
    def _task(cls, given: Any) -> Any:
        if given is None:
            return None
        from selfsame.jobs.adapt import task_of

        return task_of(given)

    @model_validator(mode="after")
    def _together(self) -> Self:
        asked = set(self.protocols.split(","))
        if self.task is None and "frozen" in asked:
            raise UserError(
                "--protocols frozen goes with --task; without a task, linear is measured on frozen features."
            )
        if self.task is not None and "protocols" in self.model_fields_set and not asked <= {"frozen", "finetune"}:
            raise UserError(f"--protocols {self.protocols}: with --task, heads are learned frozen, finetune or both.")
        idle = NOT_OF_TASKS if self.task is not None else OF_TASKS
        for name in sorted(set(idle) & self.model_fields_set):
            if getattr(self, name) in (None, False):
                continue
            flag, given = f"--{name.replace('_', '-')}", getattr(self, name)
            told = flag if given is True else f"{flag} {given}"
            cure = NOT_OF_TASKS.get(name, "It goes with --task NAME: give that too, or leave it out")
            raise UserError(f"{told} would change nothing here. {cure}.")
        return self

    def run(self, encoder: "nn.Module | None" = None) -> dict[str, Any]:
        """{"rows": [...], "verdicts": [...], ...}; also kept as evaluation.json in the run folder."""
        if (self.run_folder / "task.json").exists():
            if self.task is not None:
                raise UserError(f"{self.run_folder} is a task run, so its task is known: leave --task out.")
            from selfsame.jobs.scoring import of_task_run

            return of_task_run(self, encoder)
        if (self.run_folder / "job.json").exists():
            from selfsame.downstream import saved

            if saved.began(self.run_folder):
                raise saved.unfinished(self.run_folder)
        if self.task is not None:
            from selfsame.jobs.scoring import of_starts

            return of_starts(self, encoder)
        from selfsame.jobs.evaluating import run

        return run(self, encoder)


def evaluate(
    run: Any, labelled: str | Path, encoder: "nn.Module | None" = None, **settings: Any
) -> list[dict[str, Any]]:
    """Measure a run (or run folder) on labelled data; settings are the fields of `Evaluate`. Returns the rows.

    `encoder` is a module of the architecture that was trained, where the run was given one in Python.
    """
    job = checked(Evaluate, {"run_folder": getattr(run, "folder", run), "labelled": str(labelled), **settings})
    return job.run(encoder)["rows"]
