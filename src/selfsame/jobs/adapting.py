"""What `adapt` does: open labels, decide, train head and encoder, keep the best, report."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from selfsame import modalities
from selfsame.downstream import saved
from selfsame.downstream.adapting import Validation
from selfsame.downstream.task import Model, Task
from selfsame.engine import dist
from selfsame.engine.loop import Loop
from selfsame.engine.plan import Line
from selfsame.engine.state import claimed, step_of, write_text, writing
from selfsame.engine.state import saved as stored
from selfsame.engine.watch import counted, duration, say
from selfsame.errors import UserError
from selfsame.jobs.adapt import FREE_TO_CHANGE, Adapt
from selfsame.jobs.data import parts_of
from selfsame.jobs.deciding import count, show_lines
from selfsame.jobs.evaluating import redrawn
from selfsame.jobs.fitting import Fit, Planned, Trial, check_size, divisor, looks, new_model, planned
from selfsame.jobs.labelled import Labels, check_share, opened, write_skipped
from selfsame.jobs.runs import JOB, PLAN, REPORT, RESULT, Run, earlier, load, read_json

BETWEEN_STATES = 60  # seconds at most, where a step is no longer


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
    """As in: 11.18 M; below 0.1 M 12.3 K, below 1 K 774."""
    millions = count(module)
    if millions >= 0.1:
        return f"{millions:.2f} M"
    return f"{1000 * millions:.3g} K" if millions >= 0.001 else f"{1e6 * millions:.0f}"


def kept_together(labels: Labels, job: Adapt) -> list[Line]:
    if labels.groups is None:
        return []
    of_check = labels.groups[labels.check].unique()
    why = f"--groups {job.groups}" if job.groups else "windows of a recording, or objects of a picture"
    value = f"{counted(len(labels.groups.unique()), 'group')}, {len(of_check):,} of them to choose by"
    return [Line(name="kept together", value=value, why=why)]
