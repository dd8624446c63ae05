"""Learn an encoder from unlabelled data: the job, its plan, and what it leaves in the run folder."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from selfsame import methods
from selfsame.errors import UserError, unknown
from selfsame.jobs.checked import checked, named
from selfsame.jobs.runs import Run
from selfsame.records import Method, Record
from selfsame.storage.disk import plain_path

FREE_TO_CHANGE = {"out", "workers", "device", "max_skipped", "epochs", "save_every", "keep_states", "labels"}
FREE_TO_CHANGE |= {"processes", "shard", "checkpoint_activations"}  # they change where a step is computed, not what
GIVEN = "given in Python"  # ends the name of an encoder that is no name


BEARING = (
    *("encoder", "size", "views", "related", "related_window", "batch_size", "accumulate", "optimizer", "clip"),
    *("init", "lr", "weight_decay", "weight_decay_end", "warmup_epochs", "schedule"),
)
"""fields that bear on what a run comes to, beside its method, its data and its length"""


class Training(Record):
    """What a training is made of: the settings that `pretrain` and `profile` share."""

    data: str
    """folder, glob, list, array, zip, table, tar or Parquet shards, or an address as s3://...; no labels needed"""
    method: Any = "byol"
    """how to learn; `selfsame methods` lists them, `selfsame methods byol` the settings --method.x"""
    preset: str | None = None
    """settings that go together, as imagenet or cifar; `selfsame methods NAME` lists them; what else is given wins"""
    encoder: Any = "auto"
    """a network by name (resnet18@0.5: half as wide; bert-mini; ...), or package.module:factory of your own"""
    size: Annotated[int | None, Field(ge=1)] = None
    """of a view: pixels of a side, tokens, steps, samples of a wave [from the data]"""
    views: Any = "auto"
    """strength of the views: auto by size, photo, small, weak, moco2, ...; --views photo --help shows --views.one.x"""
    sample: Annotated[int | None, Field(ge=4)] = None
    """learn from so many of the items, drawn by the seed [all]"""
    related: str | None = None
    """pairs of related items: "folders" (items of a folder belong together), or a CSV path,group[,time]; reads twice"""
    related_window: Annotated[float | None, Field(gt=0)] = None
    """largest difference in time, or in the order of names where no times are given [the whole group]"""
    epochs: Annotated[float | None, Field(gt=0)] = None
    """passes over the data; raise it to extend a finished run"""
    batch_size: Annotated[int | None, Field(ge=2)] = None
    """items in one step"""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """micro-batches a step is divided into, to save memory"""
    optimizer: Literal["sgd", "adamw", "lars"] | None = None
    """[adamw]"""
    clip: Annotated[float | None, Field(gt=0)] = None
    """shorten the gradient to this norm, as for vision transformers; none unless given"""
    precision: Literal["bf16", "fp32"] | None = None
    """[bf16 where the device computes it]"""
    compile: bool | None = None
    """compile networks and views first [long runs on a GPU]"""
    checkpoint_activations: bool = False
    """keep the input of each block only and run it again in the backward pass: less memory, same result"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """same seed, same run"""
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

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        """What the preset says, under what is given."""
        if not isinstance(given, dict) or given.get("preset") is None:
            return given
        method = given.get("method", "byol")
        if isinstance(method, Method):
            kind, own = type(method), {name: getattr(method, name) for name in method.model_fields_set}
        else:
            own = named(method, "method")
            kind = methods.load(own.pop("name", "byol"))
        name = given["preset"]
        presets = kind.known_presets()
        if name not in presets:
            raise unknown(f"preset of {kind.name or kind.__qualname__}", str(name), presets)
        preset = presets[name]
        training = {key: value for key, value in preset.training.items() if key in cls.model_fields}
        # A paper's settings are all of them: what it does not name is the method's default, and is not fitted.
        papers = {} if preset.derived else {field: info.default for field, info in kind.model_fields.items()}
        merged = checked(kind, {**papers, **preset.method, **own}, ["method"])
        wanted = {key: value for key, value in given.items() if value is not None}
        if "views" in training and "views" in wanted:
            wanted["views"] = over(named(training["views"], "views"), named(wanted["views"], "views"))
        return {**given, **training, **wanted, "method": merged}

    @field_validator("data")
    @classmethod
    def _data(cls, given: str) -> str:
        return plain_path(given)

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, given: Any) -> Method:
        if isinstance(given, Method):
            own = type(given).__module__.removeprefix(f"{methods.__name__}.")
            if own in methods.names():
                methods.load(own)  # gives the class its name, where it was imported without
            return given
        settings = named(given, "method")
        return checked(methods.load(settings.pop("name", "byol")), settings, ["method"])

    @field_serializer("method")
    def _named(self, method: Method) -> dict[str, Any]:
        return {
            "name": type(method).name or type(method).__qualname__,
            **method.model_dump(mode="json", exclude_unset=True),
        }

    @field_validator("encoder")
    @classmethod
    def _encoder(cls, given: Any) -> Any:
        if not isinstance(given, str) and not callable(getattr(given, "parameters", None)):
            raise ValueError("an encoder is a name, a dotted path package.module:factory, or a torch module")
        return given

    @field_serializer("encoder")
    def _encoder_name(self, encoder: Any) -> str:
        return encoder if isinstance(encoder, str) else f"a {type(encoder).__name__} {GIVEN}"

    @model_validator(mode="after")
    def _together(self) -> Self:
        for name in ("shard", "checkpoint_activations"):
            if self.compile and getattr(self, name, False):
                raise UserError(
                    f"--compile and --{name.replace('_', '-')} do not work together. Leave one of them out."
                )
        if self.related_window is not None and self.related is None:
            raise UserError("--related-window says how far related items may be apart: give --related too.")
        return self

    @field_validator("views")
    @classmethod
    def _views(cls, given: Any) -> dict[str, Any]:
        return {"name": "auto", **named(given, "views")}


def over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Settings over those of a preset; under another name the preset's are not its own."""
    if above.get("name", below.get("name")) != below.get("name"):
        return above
    found = dict(below)
    for key, value in above.items():
        under = found.get(key)
        found[key] = {**under, **value} if isinstance(value, dict) and isinstance(under, dict) else value
    return found


class Pretrain(Training):
    """Learn an encoder from unlabelled data."""

    out: Path | None = None
    """run folder; an unfinished run found there goes on [runs/NAME]"""
    init: Path | None = None
    """weight file to start from instead of random weights"""
    lr: Annotated[float | None, Field(gt=0)] = None
    """peak learning rate"""
    weight_decay: Annotated[float | None, Field(ge=0)] = None
    """of all weights but biases and norms"""
    weight_decay_end: Annotated[float | None, Field(ge=0)] = None
    """weight decay at the end, reached by half a cosine [as at the start]"""
    warmup_epochs: Annotated[float | None, Field(ge=0)] = None
    """epochs of rising learning rate"""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """learning rate after the warm-up: cosine to 0, a tenth after 60 and 80 % of the run, or constant"""
    labels: str | None = None
    """class folders ("folders"), a CSV path,label or file.npz::y: k-NN accuracy while it trains, never for training"""
    save_every: Annotated[int | None, Field(ge=1)] = None
    """steps between two saved states"""
    keep_states: Annotated[int, Field(ge=1)] = 2
    """saved states to keep, the newest"""
    processes: Annotated[int | None, Field(ge=1)] = None
    """training processes to start on this machine [one a GPU; one without]"""
    shard: bool = False
    """divide parameters, gradients and moments over the processes: less memory in each, same result"""

    @property
    def beside_preset(self) -> list[str]:
        """What bears on the result and is not as its preset says, by the names of fields; the length may be another.

        What a preset does not name is derived, or of a paper's preset the default.
        """
        preset = type(self.method).known_presets()[self.preset or ""]
        wanted = {name: field.default for name, field in type(self).model_fields.items() if name in BEARING}
        wanted |= {key: value for key, value in preset.training.items() if key in BEARING}
        wanted["views"] = {"name": "auto", **named(preset.training.get("views", "auto"), "views")}
        odd = [key for key, value in wanted.items() if getattr(self, key) != value]
        theirs = type(self.method)(**preset.method)
        given = self.method.model_fields_set
        free = [
            key for key in type(self.method).model_fields if not preset.derived or key in given | set(preset.method)
        ]
        derived = given - set(preset.method) if preset.derived else set()  # given in place of what would be derived
        changed = [key for key in free if key in derived or getattr(self.method, key) != getattr(theirs, key)]
        return [*odd, *(f"method.{key}" for key in changed)]

    @property
    def folder(self) -> Path:
        if self.out is not None:
            return self.out
        path = Path(re.split(r"[*?{\[]", self.data.split("::")[0])[0])
        return Path("runs") / (path.stem or path.resolve().name)

    def run(self) -> Run:
        """Do it, or go on where it stopped, in as many processes as `processes` says.

        See `Pretraining.run` for what is raised.
        """
        from selfsame.engine import dist, slurm
        from selfsame.jobs.launching import launch, processes_for
        from selfsame.jobs.pretraining import Pretraining

        slurm.take_seat()
        if not dist.placed() and (count := processes_for(self)) > 1:
            launch(self, count)
            return Run(self.folder)

        return Pretraining(self).run()


def pretrain(data: str | Path, **settings: Any) -> Run:
    """Learn an encoder from unlabelled data; settings are the fields of `Pretrain`. Returns the finished run."""
    return checked(Pretrain, {"data": path_of(data), **settings}).run()


def path_of(data: Any) -> str:
    """Where data is. Raises UserError for data itself."""
    if not isinstance(data, str | Path):
        raise UserError(f"data is named by its path, not given as {type(data).__name__}: save it as .npy first.")
    return str(data)
