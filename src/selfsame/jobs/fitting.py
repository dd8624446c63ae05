"""A head in training, of `adapt` and of `evaluate --task`: how it is planned, tried for its time, and trained."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from selfsame.downstream.adapting import (
    FROZEN,
    REACH,
    SCRATCH,
    SLOWEST,
    Adapted,
    Pace,
    Validation,
    drawn,
    numbers,
    share_for,
    unlearned,
)
from selfsame.downstream.task import Examples, Model, Task
from selfsame.engine import dist
from selfsame.engine.feed import VIEW, Steps
from selfsame.engine.loop import Loop, train
from selfsame.engine.plan import Line, workers_for
from selfsame.engine.stopwatch import peak
from selfsame.errors import UserError
from selfsame.jobs.adapt import Fitting
from selfsame.jobs.evaluate import Evaluate
from selfsame.jobs.labelled import Labels
from selfsame.nn.attention import written_out
from selfsame.types import Draws, Encoder, mixed

LEAST_STEPS = 200  # the batch is made smaller before a head gets fewer
TRIED = 8  # items predicted to see how long a look takes


def given_size(task: Task, job: Fitting | Evaluate) -> tuple[str, int] | None:
    """The flag by which the user gave the size of a view, and what it says."""
    return ("--size", job.size) if job.size else task.size_given


def check_size(task: Task, encoder: Encoder, job: Fitting | Evaluate) -> None:
    """Raise UserError, before anything is read, where the encoder takes pictures of other sizes than is asked for."""
    given = given_size(task, job)
    if given is None or encoder.spec["modality"] != "image":
        return
    flag, size = given
    patch: tuple[int, ...] = getattr(encoder, "patch", ()) if encoder.has_tokens else ()
    if encoder.has_pieces and not any(size % side for side in patch):
        return
    view = torch.zeros(1, 1, 1, 1).expand(1, int(encoder.spec["channels"]), size, size)
    try:
        with torch.no_grad():
            encoder(view)
    except (RuntimeError, ValueError) as error:  # a UserError is a ValueError
        raise UserError(f"{flag} {size}: the encoder cannot take it: {error}") from None


@contextmanager
def within_memory(model: Model, batch: int) -> Iterator[None]:
    """Say of torch's error about memory what a user can do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        flag, _ = model.task.size_given or ("--size", 0)
        raise UserError(
            f"a step of {batch} views of {model.size} px does not fit in memory. Lower --batch-size (of `evaluate` "
            f"--head-batch), or {flag}."
        ) from None


def new_model(task: Task, encoder: Encoder, examples: Examples, job: Fitting) -> Model:
    size = job.size or task.default_size(encoder, examples)
    torch.manual_seed(mixed(job.seed, 21))
    try:
        head = task.head(encoder, examples.facts, size)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        flag, _ = given_size(task, job) or ("a view of", size)
        raise UserError(f"{flag} {size}: the encoder {encoder.called} cannot take it: {error}") from None
    return Model(encoder, head, task, examples.facts, size)


@dataclass(frozen=True)
class Planned:
    """What was decided of a head before it is trained, and the lines that say so."""

    loop: Loop
    pace: Pace
    on: torch.device
    workers: int
    lines: list[Line]


def planned(job: Fitting, model: Model, labels: Labels, on: torch.device, freeze: bool, scratch: bool) -> Planned:
    """How a head is trained on so many labelled items. Raises UserError."""
    task, items = model.task, len(labels.learn)
    if not items:
        raise UserError("there are no labelled items to learn from.")
    large = on.type == "cuda"
    worth = task.worth * (10 if large else 1)
    epochs = job.epochs or float(min(200, max(4, round(worth / items))))
    most = job.batch_size or task.batch
    batch = most
    while job.batch_size is None and batch > 8 and epochs * items / batch < LEAST_STEPS:
        batch //= 2
    batch = min(batch, items)
    if job.batch_size and job.batch_size <= items and batch % dist.world():
        raise UserError(
            f"--batch-size {batch} cannot be divided over {dist.world()} processes. Give a multiple of {dist.world()}, "
            f"or --processes {divisor(batch)}."
        )
    batch = max(dist.world(), batch - batch % dist.world())
    if batch > items or (job.batch_size or 0) > items:
        raise UserError(f"--batch-size {job.batch_size} is larger than the {items} items to learn from.")
    steps = max(1, round(epochs * items / batch))
    lr = job.lr or task.head_lr(freeze)
    pace = FROZEN if freeze else SCRATCH if scratch else tuned(job, model.encoder, steps)
    precision = job.precision or ("bf16" if dist.has_bf16(on) else "fp32")
    loop = Loop(
        steps=steps,
        batch=batch,
        optimizer="adamw",
        lr=lr,
        weight_decay=job.weight_decay,
        warmup=round(0.1 * steps),
        clip=job.clip,
        precision=precision,
        seed=job.seed,
        log_every=max(1, min(50, steps // 100)),
        save_every=max(50, min(1000, steps // 10)),
        health_every=max(10, steps // 20),
    )
    why = "given" if job.encoder_lr else f"{REACH} / steps, {SLOWEST:g} to 1"
    learns = (
        "frozen: the head alone learns"
        if freeze
        else "from random weights, at the head's rate"
        if scratch
        else f"fine-tuned at {pace.top:.3g} of the head's rate ({why}), {pace.decay:g} of it for each block in front"
    )
    lines = [
        Line(name="encoder learns", value="no" if freeze else "yes", why=learns),
        Line(name="epochs", value=f"{epochs:g}", why="given" if job.epochs else f"about {worth:,} samples, 4 to 200"),
        Line(name="batch size", value=str(batch), why="given" if job.batch_size else f"at most {task.batch}"),
        Line(name="learning rate", value=f"{lr:g}", why="given" if job.lr else "of the head; the task's own"),
        Line(name="precision", value=precision, why="given" if job.precision else "what this device is quick at"),
        Line(name="steps", value=f"{steps:,}", why="epochs × items / batch size"),
        Line(name="device", value=str(on), why=dist.machine(on)),
    ]
    if dist.world() > 1:
        lines.append(Line(name="processes", value=str(dist.world()), why="each has its share of a batch"))
    return Planned(loop, pace, on, workers_of(job, labels.examples), lines)


def divisor(batch: int) -> int:
    """The most processes, fewer than there are, that can share a batch."""
    return next(count for count in range(dist.world() - 1, 0, -1) if batch % count == 0)


def tuned(job: Fitting, encoder: Encoder, steps: int) -> Pace:
    """The pace of a pretrained encoder in a run of so many steps: what the user gives, else by `share_for`."""
    return Pace(job.encoder_lr or share_for(steps), job.layer_decay or (0.75 if encoder.has_tokens else 0.9))


def workers_of(job: Any, examples: Examples) -> int:
    source = getattr(examples, "source", None) or getattr(getattr(examples, "opened", None), "source", None)
    return workers_for(getattr(source, "array", None) is not None, job.workers)[0]


@dataclass(frozen=True)
class Trial:
    """What a step and a look took."""

    step: float
    """seconds, without the update of the weights"""
    look: float
    """seconds for one look at the items to choose by"""
    memory: int
    """bytes at the peak"""

    def seconds(self, loop: Loop, done: int = 0) -> float:
        """From so many steps to the end."""
        return (loop.steps - done) * self.step + self.look * looks(loop, done)


def looks(loop: Loop, done: int = 0) -> int:
    """How often is looked at the items to choose by from so many steps on."""
    return -(-loop.steps // loop.health_every) - done // loop.health_every + (not done)


class Fit:
    """A model about to be trained: on its device, its first batch read."""

    def __init__(self, model: Model, labels: Labels, plan: Planned, found: Callable[[dict[int, str]], None]) -> None:
        """`found` is told of items that cannot be read, with the reason."""
        self.model, self.labels, self.plan, self.found = model, labels, plan, found
        loop, on, examples = plan.loop, plan.on, labels.examples
        self.adapted = dist.place(Adapted(model, plan.pace, loop.batch), on)
        self.steps = Steps(
            cast(Any, examples),
            numbers(labels.learn),
            functools.partial(drawn, size=model.size),
            loop.batch,
            dist.rows(loop.batch),
            loop.seed,
        )
        began = time.monotonic()
        first = self.steps[0]
        self.reading = time.monotonic() - began
        if met := dist.gathered(first.skipped):  # the loop tells only of others
            dist.by_first(lambda: found(met))
        self.share = [sample.to(on) for sample in first.samples]
        with within_memory(model, loop.batch):
            unlearned(self.adapted, self.first_views())

    def make_views(self, samples: list[torch.Tensor], draws: Draws) -> list[torch.Tensor]:
        return self.labels.examples.make_views(samples, draws, learn=True)

    def first_views(self) -> list[torch.Tensor]:
        return self.make_views(self.share, Draws(self.plan.loop.seed, 0, len(self.share[0]), stream=VIEW))

    def tried(self) -> Trial:
        """How long a step and a look take, and the memory of a step. Leaves no trace in the model."""
        plan, adapted = self.plan, self.adapted
        on, bf16 = plan.on, plan.loop.precision == "bf16"
        before = {name: value.clone() for name, value in adapted.state_dict().items()}
        adapted.train()
        taken = []
        for _ in range(2):  # the first finds its memory, and what is quick
            began = time.monotonic()
            views = self.first_views()
            quick = written_out() if on.type == "cpu" and bf16 else nullcontext()
            with quick:
                with torch.autocast(on.type, torch.bfloat16, enabled=bf16):
                    loss = adapted(views).loss
                loss.backward()
            waited(on)
            taken.append(time.monotonic() - began)
        adapted.zero_grad(set_to_none=True)
        adapted.load_state_dict(before)
        memory = peak(on)
        reading, working = self.reading / max(1, plan.workers), min(taken)
        step = max(working, reading) if plan.workers else working + reading
        return Trial(step, seconds_of_look(self.model, self.labels, on), memory)

    def train(self, folder: Path) -> tuple[Validation, int]:
        """Train to the end of the loop; the best weights are in best/ of the folder. (validation, first step)"""
        plan, labels = self.plan, self.labels
        validation = Validation(self.model, labels.val, labels.check, plan.on, plan.workers, folder)
        began = train(
            self.adapted, self.steps, self.make_views, plan.loop, folder, plan.on, plan.workers, validation, self.found
        )
        return validation, began


def seconds_of_look(model: Model, labels: Labels, on: torch.device) -> float:
    """Seconds for predictions of all items to choose by, from those for a few."""
    few = labels.check[:TRIED]
    began = time.monotonic()
    for _ in model.task.predictions(model, labels.val, few, on):
        pass
    waited(on)
    return (time.monotonic() - began) * len(labels.check) / len(few)


def waited(on: torch.device) -> None:
    if on.type == "cuda":
        torch.cuda.synchronize(on)
