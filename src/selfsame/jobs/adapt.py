"""Put an encoder to a task: train a head on labelled items, with the encoder frozen or fine-tuned."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from selfsame.errors import UserError
from selfsame.jobs.checked import checked, named
from selfsame.jobs.runs import Run
from selfsame.records import Record

if TYPE_CHECKING:
    from torch import nn

FREE_TO_CHANGE = {"out", "workers", "device", "max_skipped", "save_every", "keep_states", "processes"}


def task_of(given: Any) -> Any:
    """The settings of a task, from its name, or a mapping with `name`. Raises UserError."""
    from selfsame.downstream import tasks
    from selfsame.downstream.task import Task

    if isinstance(given, Task):
        return given
    settings = named(given, "task")
    return checked(tasks.load(settings.pop("name", "classification")), settings, ["task"])


class Fitting(Record):
    """How a head is trained; None leaves it to the task, the data and the machine."""

    task: Any = "classification"
    """classification, segmentation, detection, depth, keypoints; `--task NAME --help` shows its settings --task.x"""
    size: Annotated[int | None, Field(ge=8)] = None
    """of a view, as of pretraining: pixels of a side [the encoder's, or more where places matter]"""
    epochs: Annotated[float | None, Field(gt=0)] = None
    """passes over the labelled items [by their number]"""
    batch_size: Annotated[int | None, Field(ge=1)] = None
    """items in one step"""
    lr: Annotated[float | None, Field(gt=0)] = None
    """peak learning rate of the head"""
    encoder_lr: Annotated[float | None, Field(gt=0)] = None
    """the encoder's learning rate as a share of it [100 / steps, at least 0.1 and at most 1]"""
    layer_decay: Annotated[float | None, Field(gt=0, le=1)] = None
    """each block of the encoder learns at so much of the rate of the one behind it [0.75 transformers, 0.9 others]"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """of all weights but biases and norms"""
    clip: Annotated[float | None, Field(gt=0)] = 1.0
    """shorten the gradient to this norm"""
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """share of the labelled items set aside to choose the best weights by, where no --val is given"""
    precision: Literal["bf16", "fp32"] | None = None
    """[bf16 where the device computes it]"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """same seed, same head"""
    workers: Annotated[int | None, Field(ge=0)] = None
    """reading processes [cores - 1]"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    """largest share of unreadable items to go on with"""

    @field_validator("task", mode="before")
    @classmethod
    def _task(cls, given: Any) -> Any:
        return task_of(given)

    @field_serializer("task")
    def _named(self, task: Any) -> dict[str, Any]:
        return {"name": type(task).name, **task.model_dump(mode="json", exclude_unset=True)}


class Adapt(Fitting):
    """Train a head for a task on an encoder and labelled items."""

    run_folder: Path
    """folder of a run, whose encoder is used"""
    labelled: str
    """labelled items, in the form of the task; of a folder with train/ and test/ (or val/) in it, train/"""
    out: Path | None = None
    """folder of the task run; an unfinished one found there goes on [runs/NAME-TASK]"""
    labels: str | None = None
    """where the labels are, unless they lie as the task expects: a CSV, a Parquet, a JSON, a folder, a column"""
    val: str | None = None
    """items to choose the best weights by [a share of the labelled ones]"""
    val_labels: str | None = None
    """the labels of --val"""
    groups: str | None = None
    """items that stay together, as of one patient, when some are set aside: "folders", a pattern as "(patient[0-9]+)_",
    a CSV path,group (or file.csv::column), or a column [windows of a recording, objects of a picture]"""
    budget: str = "all"
    """labels that are used: all, 10%, 10/class"""
    freeze: bool = False
    """train the head alone; the encoder stays as it is"""
    scratch: bool = False
    """start the encoder from random weights: what the labels alone can do"""
    save_every: Annotated[int | None, Field(ge=1)] = None
    """steps between two saved states"""
    keep_states: Annotated[int, Field(ge=1)] = 2
    """saved states to keep, the newest"""
    processes: Annotated[int | None, Field(ge=1)] = None
    """training processes to start on this machine [one a GPU; one without]"""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.groups is not None and self.val is not None:
            raise UserError("--groups says how items are divided, and with --val none are. Leave one of them out.")
        for name, given in (("--encoder-lr", self.encoder_lr), ("--layer-decay", self.layer_decay)):
            if given is not None and (self.freeze or self.scratch):
                what = "--freeze, the encoder does not learn" if self.freeze else "--scratch, all learns at one rate"
                raise UserError(
                    f"{name} {given:g} is of a pretrained encoder that is fine-tuned; with {what}. Leave one out."
                )
        return self

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"{self.run_folder.resolve().name}-{type(self.task).name}"

    def run(self, encoder: "nn.Module | None" = None) -> Run:
        """Train, or go on where it stopped, in as many processes as `processes` says.

        `encoder`: a module of the user's own, where the run has one.

        Raises:
            UserError: input that cannot be used, a folder of other settings, a full disk.
            TrainingStopped: not a number.
            Interrupted: stopped by a signal, state saved.
        """
        from selfsame.engine import dist, slurm
        from selfsame.jobs.adapting import Adapting
        from selfsame.jobs.launching import launch, processes_for

        slurm.take_seat()
        if not dist.placed() and (count := processes_for(self, encoder)) > 1:
            launch(self, count)
            return Run(self.folder)
        return Adapting(self, encoder).run()


def adapt(run: Any, labelled: str | Path, encoder: "nn.Module | None" = None, **settings: Any) -> Run:
    """Train a head for a task on a run (or run folder); settings are the fields of `Adapt`. Returns the task run."""
    given = {"run_folder": getattr(run, "folder", run), "labelled": str(labelled), **settings}
    return checked(Adapt, given).run(encoder)
