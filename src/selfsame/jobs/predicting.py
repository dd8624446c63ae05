"""What `predict` does: items through a saved model, one prediction after the other."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from selfsame.downstream import saved
from selfsame.downstream.task import Examples, Model
from selfsame.engine import dist
from selfsame.engine.watch import counted, say
from selfsame.errors import UserError, printable
from selfsame.jobs.checked import spared
from selfsame.jobs.data import check_rate
from selfsame.jobs.fitting import workers_of
from selfsame.jobs.predict import Predict


def written(job: Predict, module: nn.Module | None = None) -> dict[str, Any]:
    """Write all predictions; what is there already is replaced when all are made."""
    model, examples = opened(job, module)
    spared(job.out, job.data, map(examples.name, range(len(examples))))
    accepted = model.task.suffixes()
    if job.out.suffix.lower() not in accepted:
        shown = " or ".join(f"*{suffix}" if suffix else "a folder" for suffix in accepted)
        raise UserError(
            f"--out {job.out}: predictions of --task {type(model.task).name} are written to {shown}. Give that."
        )

    whole: set[str] = set()  # pictures, of which several examples may be parts
    parts = 0

    def named() -> Iterator[tuple[str, Any]]:
        nonlocal parts
        for i, found in predicted(job, model, examples):
            whole.add(examples.part_of(i))
            parts += model.task.count(found)
            yield printable(examples.name(i)), found
        # Before anything takes the place of what is there.
        examples.check_skipped(job.max_skipped, f"items of {job.data}")

    files = model.task.write(named(), model.facts, job.out)
    skipped = {printable(examples.name(i)): why for i, why in examples.skipped.items()}
    if skipped:
        name, why = next(iter(skipped.items()))
        more = ", ..." if len(skipped) > 1 else ""
        say(f"{counted(len(skipped), 'unreadable item')} left out: {name} ({why}){more}", "yellow")
    count = f"{parts:,} prediction{'s' if parts != 1 else ''}"
    if model.task.parts[1]:
        pictures = f"{len(whole):,} picture{'s' if len(whole) != 1 else ''}"
        count = f"{parts:,} {model.task.parts[parts != 1]} in {pictures}"
    say(f"{count} {'is' if parts == 1 else 'are'} in {job.out}", "green")
    return {"files": [str(path) for path in files], "items": len(examples) - len(skipped), "skipped": skipped}


def in_memory(job: Predict, module: nn.Module | None = None) -> list[tuple[str, Any]]:
    """All predictions with the names of their items."""
    model, examples = opened(job, module)
    found = [(examples.name(i), prediction) for i, prediction in predicted(job, model, examples)]
    examples.check_skipped(job.max_skipped, f"items of {job.data}")
    return found


def opened(job: Predict, module: nn.Module | None) -> tuple[Model, Examples]:
    model = saved.load(job.run_folder, module).to(dist.device(job.device))
    spec = model.encoder.spec
    if job.fps is not None:
        if spec["modality"] != "image":
            raise UserError(
                f"--fps {job.fps:g} is of videos; {job.run_folder} is for {spec['modality']}. Leave it out."
            )
        model.encoder.spec = {**spec, "reading": {**spec.get("reading", {}), "fps": job.fps}}
    examples = model.task.open(job.data, None, model.encoder, model.facts, labelled=False)
    check_rate(getattr(examples, "source", None), job.data, job.fps)
    return model, examples


def predicted(job: Predict, model: Model, examples: Examples) -> Iterator[tuple[int, Any]]:
    on, workers = dist.device(job.device), workers_of(job, examples)
    return model.task.predictions(model, examples, range(len(examples)), on, workers)
