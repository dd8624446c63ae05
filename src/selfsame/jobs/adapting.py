"""What `adapt` does: open labels, decide, train head and encoder, keep the best, report."""

import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from selfsame import modalities
from selfsame.downstream import saved
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
from selfsame.downstream.split import budget, grouped_split, stratified_split
from selfsame.downstream.task import Examples, Model, Task
from selfsame.engine import dist
from selfsame.engine.feed import VIEW, Steps
from selfsame.engine.loop import Loop, train
from selfsame.engine.plan import Line, workers_for
from selfsame.engine.state import claimed, step_of, write_text, writing
from selfsame.engine.state import saved as stored
from selfsame.engine.stopwatch import peak
from selfsame.engine.watch import counted, duration, say
from selfsame.errors import UserError
from selfsame.jobs.adapt import FREE_TO_CHANGE, Adapt, Fitting
from selfsame.jobs.data import parts_of
from selfsame.jobs.deciding import count, show_lines
from selfsame.jobs.evaluate import Evaluate
from selfsame.jobs.evaluating import redrawn
from selfsame.jobs.grouping import groups_of, parts_together
from selfsame.jobs.runs import JOB, PLAN, REPORT, RESULT, SKIPPED, Run, earlier, load, read_json
from selfsame.nn.attention import written_out
from selfsame.types import Draws, Encoder, mixed

LEAST_STEPS = 200  # the batch is made smaller before a head gets fewer
TRIED = 8  # items predicted to see how long a look takes
BETWEEN_STATES = 60  # seconds at most, where a step is no longer


@dataclass
class Labels:
    """Labelled items in two parts: to learn from, and to choose the best weights by."""

    examples: Examples
    learn: list[int]
    val: Examples
    check: list[int]
    groups: Tensor | None = None
    """of each item a number; items of one are all learned from, or all chosen by"""

    @property
    def both(self) -> list[Examples]:
        """What items are read from: one, or that of --val too."""
        return [self.examples] if self.val is self.examples else [self.examples, self.val]

    @property
    def fingerprint(self) -> str:
        """Changes with the names, the parts and the facts."""
        digest = hashlib.sha256(self.examples.facts.model_dump_json().encode())
        for examples, items in ((self.examples, self.learn), (self.val, self.check)):
            names = "".join(f"{examples.name(i)}\n" for i in items)
            digest.update(names.encode("utf-8", "surrogateescape"))
        return f"{len(self.learn)} + {len(self.check)} items, {digest.hexdigest()[:16]}"


class Adapting:
    """One head in training."""

    def __init__(self, job: Adapt, module: nn.Module | None) -> None:
        self.job, self.module, self.folder = job, module, job.folder
        self.on = dist.device(job.device)
        self.task: Task = job.task

    def run(self) -> Run:
        job = self.job
        if self.folder.resolve() == job.run_folder.resolve():
            raise UserError(f"--out {self.folder} is the run whose encoder is used. Choose another --out.")
        if job.processes not in (None, dist.world()):
            raise UserError(
                f"--processes {job.processes}, but {dist.world()} were started. Leave it out where torchrun or srun "
                "starts the processes."
            )
        was = earlier(job, self.folder, FREE_TO_CHANGE)
        with dist.group(self.on):
            encoder = load(job.run_folder, self.module)
            self.task.refuse(encoder)
            check_size(self.task, encoder, job)
            say(f"reading {job.labelled}")
            labels = opened(self.task, encoder, job)
            if job.scratch:
                modality = modalities.load(str(encoder.spec["modality"]))
                encoder = redrawn(encoder, modality, job.seed, torch.device("cpu"))
            model = new_model(self.task, encoder, labels.examples, job)
            if caution := self.task.caution(labels.examples, model.size):
                say(caution)
            plan = planned(job, model, labels, self.on, job.freeze, job.scratch)
            loop = plan.loop.changed(save_every=job.save_every or plan.loop.save_every, keep_states=job.keep_states)
            self.lines = [*lines_of(labels, model, job), *plan.lines]
            goes_on = was is not None and (self.folder / PLAN).exists()
            if goes_on:
                loop = self.begun(labels, loop)
                if (self.folder / RESULT).exists():
                    say(f"{self.folder} is finished: {loop.steps:,} steps. Choose another --out to train anew.")
                    if not (self.folder / REPORT).exists():
                        dist.by_first(lambda: self.report(saved.load(self.folder, self.module), labels))
                    return Run(self.folder)
            with claimed(self.folder):
                self.learn(model, labels, replace(plan, loop=loop), goes_on)
        return Run(self.folder)

    def begun(self, labels: Labels, loop: Loop) -> Loop:
        """The loop of the plan that is there: how many processes share a batch must not change it. Raises UserError."""
        plan = read_json(self.folder / PLAN)
        then, batch = plan.get("fingerprint"), int(plan["loop"]["batch"])
        if batch % dist.world():
            raise UserError(
                f"{self.folder} was begun with batches of {batch}, which {dist.world()} processes cannot share evenly. "
                f"Go on with --processes {divisor(batch)}."
            )
        if then != labels.fingerprint:
            raise UserError(
                f"{self.job.labelled} has changed since {self.folder} was begun ({then} then, {labels.fingerprint} "
                "now), so it cannot go on exactly. Choose another --out."
            )
        free = ("precision", "keep_states", *(["save_every"] if self.job.save_every else []))
        return Loop.model_validate({**plan["loop"], **{name: getattr(loop, name) for name in free}})

    def begin(self, labels: Labels, loop: Loop) -> None:
        write_text(self.folder / JOB, json.dumps(self.job.model_dump(mode="json"), indent=1) + "\n")
        plan = {
            "fingerprint": labels.fingerprint,
            "loop": loop.model_dump(mode="json"),
            "facts": labels.examples.facts.model_dump(mode="json"),
            "lines": [line.model_dump() for line in self.lines],
        }
        write_text(self.folder / PLAN, json.dumps(plan, indent=1) + "\n")

    def learn(self, model: Model, labels: Labels, plan: "Planned", goes_on: bool) -> None:
        try:
            fit = Fit(model, labels, plan, self.found(labels))
            trial = fit.tried()
            if not goes_on:
                fit.plan = plan = replace(plan, loop=dist.by_first(lambda: self.saving(plan.loop, trial)))
            dist.by_first(lambda: self.begin(labels, plan.loop))
            if dist.first():
                self.show_plan(labels, plan.loop, trial, goes_on)
            began = time.monotonic()
            validation, first = fit.train(self.folder)
        except UserError:
            if dist.first() and any(examples.skipped for examples in labels.both):  # a look may have met them
                write_skipped(labels, self.folder)
            raise
        seconds = time.monotonic() - began
        dist.by_first(lambda: self.keep(labels, validation, plan.loop, seconds, first))

    def saving(self, loop: Loop, trial: "Trial") -> Loop:
        """The loop with states so near to each other that a run of slow steps loses about a minute at most."""
        if self.job.save_every is not None:
            return loop
        return loop.changed(save_every=max(1, min(loop.save_every, int(BETWEEN_STATES / max(trial.step, 1e-9)))))

    def show_plan(self, labels: Labels, loop: Loop, trial: "Trial", goes_on: bool) -> None:
        """Print the plan with the time and memory that a trial step takes here; of a run that goes on, where."""
        states = stored(self.folder / "state")
        done = step_of(states[-1]) if states else 0
        left = duration(trial.seconds(loop, done))
        if states:
            say(f"{self.folder} goes on at step {done:,} of {loop.steps:,}, {left} left; plan in {PLAN}")
            return
        if goes_on:
            say(f"no state was saved before {self.folder} stopped: it begins anew, {left}; plan in {PLAN}")
            return
        rate = f"{loop.batch / trial.step:,.0f} items/s in a trial step here"
        seen = f"{counted(looks(loop), 'look')} at {counted(len(labels.check), 'item')} to choose by"
        time_line = Line(name="time", value=left, why=f"{rate}, and {seen}")
        memory = Line(name="memory", value=f"{trial.memory / 2**30:.1f} GiB", why="peak in the trial step")
        show_lines([*self.lines, time_line, memory])

    def found(self, labels: Labels) -> Callable[[dict[int, str]], None]:
        def note(unreadable: dict[int, str]) -> None:
            labels.examples.skipped.update(unreadable)
            write_skipped(labels, self.folder)
            check_share(labels, self.folder)

        return note

    def keep(self, labels: Labels, validation: Validation, loop: Loop, seconds: float, first: int) -> None:
        """The best weights, the result, the report and the card."""
        best = saved.load(self.folder / "best", self.module)
        with writing(self.folder / saved.HEAD):
            saved.save(best, self.folder)
        write_skipped(labels, self.folder)
        chosen = self.task.chosen_by(labels.examples.facts)
        log = [row for row in Run(self.folder).log if f"val/{chosen}" in row]
        at = min(log, key=lambda row: abs(row["step"] - validation.best_at * loop.steps))
        result = {
            "verdict": f"{chosen} {validation.best:.4g} on {counted(len(labels.check), 'item')} to choose by",
            "task": type(self.task).name,
            "score": chosen,
            "validation": {name.removeprefix("val/"): at[name] for name in at if name.startswith("val/")},
            "best_step": round(validation.best_at * loop.steps),
            "steps": loop.steps,
            "items": len(labels.learn),
            "skipped": sum(len(examples.skipped) for examples in labels.both),
            "seconds": round(seconds, 1),
            "items_per_second": round((loop.steps - first) * loop.batch / max(seconds, 1e-9), 1),
            "machine": dist.machine(self.on),
            "seed": self.job.seed,
        }
        write_text(self.folder / RESULT, json.dumps(result, indent=1) + "\n")
        if result["best_step"]:
            say(f"{result['verdict']}, after step {result['best_step']:,} of {loop.steps:,}", "green")
        else:
            say(
                f"{result['verdict']}, before the first step: nothing that was learned is better, so the weights are "
                "those it began with. Give more --epochs, or more labels.",
                "yellow",
            )
        self.report(best, labels)
        say(f"encoder, head, report.html and README.md are in {self.folder}")

    def report(self, model: Model, labels: Labels) -> None:
        from selfsame.jobs.task_report import write_report

        write_report(self.folder, model.to(self.on), labels.val, labels.check, self.on)


# The parts, also for `evaluate --task` --------------------------------------------------------------------------------


def opened(task: Task, encoder: Encoder, job: Adapt) -> Labels:
    """The labelled items, and which of them choose the weights. Raises UserError."""
    path, _ = parts_of(job.labelled)
    examples = task.open(path, job.labels, encoder)
    examples.most_skipped = job.max_skipped
    use = budget(examples.strata, job.budget, job.seed).tolist()
    if job.val is not None:
        val = task.open(job.val, job.val_labels, encoder, examples.facts)
        val.most_skipped = job.max_skipped
        return Labels(examples, use, val, list(range(len(val))))
    groups = grouped(job.groups, path, job.labels, encoder, examples)
    learn, check = divided(examples, use, job.val_share, job.seed, groups)
    return Labels(examples, learn, examples, check, groups)


def grouped(given: str | None, path: str, labels: str | None, encoder: Encoder, examples: Examples) -> Tensor | None:
    """A number for the group of each item: as given, or by recording or picture; None where each is by itself."""
    if given is None:
        return parts_together(examples)
    source = getattr(examples, "source", None) or getattr(getattr(examples, "opened", None), "source", None)
    numbers = range(len(examples))
    names, wholes = [examples.name(i) for i in numbers], [examples.part_of(i) for i in numbers]
    return groups_of(given, path, labels, encoder.spec, source, names, wholes)


def divided(
    examples: Examples, use: Sequence[int], share: float, seed: int, groups: Tensor | None = None
) -> tuple[list[int], list[int]]:
    """(items to learn from, items to choose by), class by class; all are both where there are fewer than five.

    Items of one of the `groups` stay together; where those in use are of one, all are both.
    """
    if len(use) < 5 or (groups is not None and len(groups[list(use)].unique()) < 2):
        return list(use), list(use)
    strata = examples.strata[list(use)]
    if groups is None:
        learn, check = stratified_split(strata, share, seed)
    else:
        learn, check = grouped_split(strata, groups[list(use)], share, seed)
    if not len(check):
        return list(use), list(use)
    return [use[k] for k in learn.tolist()], [use[k] for k in check.tolist()]


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
    lr = job.lr or (task.lr_frozen if freeze else task.lr)
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


def lines_of(labels: Labels, model: Model, job: Adapt) -> list[Line]:
    """What is learned from, and what learns."""
    task, same = model.task, labels.learn == labels.check
    train, test = parts_of(job.labelled)
    part = f"all of {train}, none of {test}; " if test else ""
    given = ", ".join(f"{name} {told(getattr(task, name))}" for name in sorted(task.model_fields_set))
    return [
        Line(name="labelled", value=counted(len(labels.learn), "item"), why=f"{part}labels used: {job.budget}"),
        Line(name="labels", value=labels.examples.facts.summary),
        Line(
            name="to choose by",
            value=counted(len(labels.check), "item"),
            why="given"
            if job.val
            else "the same: there are too few to set some aside"
            if same
            else "never learned from",
        ),
        *kept_together(labels, job),
        Line(name="task", value=type(task).name, why=given),
        Line(
            name="encoder",
            value=f"{model.encoder.called}, {model.encoder.dim}-d",
            why=f"{count(model.encoder):.1f} M parameters",
        ),
        Line(name="head", value=f"{parameters(model.head)} parameters", why=type(model.head).__name__),
        Line(name="view size", value=str(model.size), why="given" if job.size else "the task's own"),
    ]


def told(value: Any) -> str:
    """A setting in words: of several values each, with spaces."""
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def parameters(module: nn.Module) -> str:
    """As in: 11.18 M, or, below 0.1 M, 12.3 K."""
    millions = count(module)
    return f"{millions:.2f} M" if millions >= 0.1 else f"{1000 * millions:.3g} K"


def kept_together(labels: Labels, job: Adapt) -> list[Line]:
    if labels.groups is None:
        return []
    of_check = labels.groups[labels.check].unique()
    why = f"--groups {job.groups}" if job.groups else "windows of a recording, or objects of a picture"
    value = f"{counted(len(labels.groups.unique()), 'group')}, {len(of_check):,} of them to choose by"
    return [Line(name="kept together", value=value, why=why)]


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


def write_skipped(labels: Labels, folder: Path) -> None:
    """skipped.csv of the items that could not be read."""
    import csv
    import io

    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["name", "reason"])
    for examples in labels.both:
        rows.writerows([examples.name(i), why] for i, why in sorted(examples.skipped.items()))
    write_text(folder / SKIPPED, text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8"))


def check_share(labels: Labels, folder: Path) -> None:
    """Raise UserError where too many items of either part cannot be read."""
    try:
        for examples in labels.both:
            examples.check_skipped()
    except UserError as error:
        raise UserError(f"{error} All are in {folder / SKIPPED}.") from None
