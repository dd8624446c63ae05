"""What `adapt` does: open labels, decide, train head and encoder, keep the best, report."""

import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
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
from selfsame.engine.state import claimed, write_text, writing
from selfsame.engine.watch import say
from selfsame.errors import UserError
from selfsame.jobs.adapt import FREE_TO_CHANGE, Adapt, Fitting
from selfsame.jobs.deciding import count, show_lines
from selfsame.jobs.evaluating import redrawn
from selfsame.jobs.grouping import groups_of, parts_together
from selfsame.jobs.runs import JOB, PLAN, REPORT, RESULT, SKIPPED, Run, earlier, load, read_json
from selfsame.types import Draws, Encoder, mixed

LEAST_STEPS = 200  # the batch is made smaller before a head gets fewer


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
            say(f"reading {job.labelled}")
            labels = opened(self.task, encoder, job)
            if job.scratch:
                modality = modalities.load(str(encoder.spec["modality"]))
                encoder = redrawn(encoder, modality, job.seed, torch.device("cpu"))
            model = new_model(self.task, encoder, labels.examples, job)
            plan = planned(job, model, labels, self.on, job.freeze, job.scratch)
            loop = plan.loop.changed(save_every=job.save_every or plan.loop.save_every, keep_states=job.keep_states)
            plan = replace(plan, loop=loop)
            self.lines = [*lines_of(labels, model, job), *plan.lines]
            if was is not None and (self.folder / PLAN).exists():
                loop = self.begun(labels, loop)
                plan = replace(plan, loop=loop)
                if (self.folder / RESULT).exists():
                    say(f"{self.folder} is finished: {loop.steps:,} steps. Choose another --out to train anew.")
                    if not (self.folder / REPORT).exists():
                        dist.by_first(lambda: self.report(saved.load(self.folder, self.module), labels))
                    return Run(self.folder)
            with claimed(self.folder):
                dist.by_first(lambda: self.begin(labels, loop))
                if dist.first():
                    show_lines(self.lines)
                self.learn(model, labels, plan)
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
        now = {name: getattr(loop, name) for name in ("precision", "save_every", "keep_states")}
        return Loop.model_validate({**plan["loop"], **now})

    def begin(self, labels: Labels, loop: Loop) -> None:
        write_text(self.folder / JOB, json.dumps(self.job.model_dump(mode="json"), indent=1) + "\n")
        plan = {
            "fingerprint": labels.fingerprint,
            "loop": loop.model_dump(mode="json"),
            "facts": labels.examples.facts.model_dump(mode="json"),
            "lines": [line.model_dump() for line in self.lines],
        }
        write_text(self.folder / PLAN, json.dumps(plan, indent=1) + "\n")

    def learn(self, model: Model, labels: Labels, plan: "Planned") -> None:
        began = time.monotonic()
        try:
            validation, first = fitted(model, labels, plan, self.folder, self.found(labels))
        except UserError:
            if dist.first() and any(examples.skipped for examples in labels.both):  # a look may have met them
                write_skipped(labels, self.folder)
            raise
        seconds = time.monotonic() - began
        dist.by_first(lambda: self.keep(labels, validation, plan.loop, seconds, first))

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
            "verdict": f"{chosen} {validation.best:.4g} on {len(labels.check)} items to choose by",
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


def parts_of(path: str) -> tuple[str, str | None]:
    """The train and the test part of a labelled path; None where it has no test part of its own."""
    folder = Path(path).expanduser()
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return str(folder / "train"), str(folder / "test")
    return path, None


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


def new_model(task: Task, encoder: Encoder, examples: Examples, job: Fitting) -> Model:
    size = job.size or task.default_size(encoder, examples)
    if caution := task.caution(examples, size):
        say(caution)
    torch.manual_seed(mixed(job.seed, 21))
    try:
        head = task.head(encoder, examples.facts, size)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--size {size}: the encoder {encoder.spec.get('name')} cannot take it: {error}") from None
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
    given = ", ".join(f"{name} {getattr(task, name)}" for name in sorted(task.model_fields_set))
    return [
        Line(name="labelled", value=f"{len(labels.learn):,} items", why=f"labels used: {job.budget}"),
        Line(name="labels", value=labels.examples.facts.summary),
        Line(
            name="to choose by",
            value=f"{len(labels.check):,} items",
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
            value=f"{model.encoder.spec.get('name')}, {model.encoder.dim}-d",
            why=f"{count(model.encoder):.1f} M parameters",
        ),
        Line(name="head", value=f"{count(model.head):.2f} M parameters", why=type(model.head).__name__),
        Line(name="view size", value=str(model.size), why="given" if job.size else "the task's own"),
    ]


def kept_together(labels: Labels, job: Adapt) -> list[Line]:
    if labels.groups is None:
        return []
    of_check = labels.groups[labels.check].unique()
    why = f"--groups {job.groups}" if job.groups else "windows of a recording, or objects of a picture"
    value = f"{len(labels.groups.unique()):,} groups, {len(of_check):,} of them to choose by"
    return [Line(name="kept together", value=value, why=why)]


def workers_of(job: Any, examples: Examples) -> int:
    source = getattr(examples, "source", None) or getattr(getattr(examples, "opened", None), "source", None)
    return workers_for(getattr(source, "array", None) is not None, job.workers)[0]


def fitted(
    model: Model, labels: Labels, plan: Planned, folder: Path, found: Callable[[dict[int, str]], None]
) -> tuple[Validation, int]:
    """Train a model to the end of its loop; the best weights are in best/ of the folder. (validation, first step)

    `found` is told of items that cannot be read, with the reason.
    """
    loop, on, examples = plan.loop, plan.on, labels.examples
    adapted = dist.place(Adapted(model, plan.pace, loop.batch), on)
    rows = dist.rows(loop.batch)
    steps = Steps(
        cast(Any, examples),
        numbers(labels.learn),
        functools.partial(drawn, size=model.size),
        loop.batch,
        rows,
        loop.seed,
    )

    def make_views(samples: list[torch.Tensor], draws: Draws) -> list[torch.Tensor]:
        return examples.make_views(samples, draws, learn=True)

    first = steps[0]
    if met := dist.gathered(first.skipped):  # the loop tells only of others
        dist.by_first(lambda: found(met))
    share = [sample.to(on) for sample in first.samples]
    unlearned(adapted, make_views(share, Draws(loop.seed, 0, len(share[0]), stream=VIEW)))
    validation = Validation(model, labels.val, labels.check, on, plan.workers, folder)
    began = train(adapted, steps, make_views, loop, folder, on, plan.workers, validation, found)
    return validation, began


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
