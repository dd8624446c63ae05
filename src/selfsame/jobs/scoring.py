"""What `evaluate` does for tasks: a task run on labelled items; or a run, adapted from each start at label budgets."""

import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selfsame import modalities
from selfsame.downstream import saved
from selfsame.downstream.adapting import Wholes, judged
from selfsame.downstream.split import budget, read_budget
from selfsame.downstream.standings import Standing, Start, Way, sentences, table
from selfsame.downstream.task import Examples, Model, Task
from selfsame.engine import dist
from selfsame.engine.state import check_writable, write_text
from selfsame.engine.watch import console, say
from selfsame.errors import UserError
from selfsame.jobs.adapt import Adapt
from selfsame.jobs.adapting import Fit, Labels, divided, grouped, new_model, parts_of, planned, workers_of
from selfsame.jobs.evaluate import Evaluate
from selfsame.jobs.evaluating import CALIBRATED, redrawn
from selfsame.jobs.runs import EVALUATION, JOB, RESULT, load, read_json
from selfsame.jobs.task_report import refresh, write_pictures, write_standings
from selfsame.nn.norm import calibrated
from selfsame.types import Draws, Encoder

TASKS = "tasks"  # folder in a run with what was measured of its encoder, a folder a task


def of_task_run(job: Evaluate, module: nn.Module | None = None) -> dict[str, Any]:
    """The scores of a task run on labelled items, beside what one would say without looking."""
    if job.groups is not None:
        raise UserError("--groups says how items are divided, and of a task run all are scored. Leave it out.")
    model = saved.load(job.run_folder, module)
    check_writable(job.run_folder)
    on = dist.device(job.device)
    model.to(on)
    train, test = parts_of(job.labelled)
    examples = model.task.open(job.test or test or train, labels_of(job, test), model.encoder, model.facts)
    examples.most_skipped = job.max_skipped
    items = list(range(len(examples)))
    say(f"{len(items):,} labelled items: {model.facts.summary}")
    given = read_json(job.run_folder / JOB)  # what the head was learned with
    seen = learned_from(given, job.test or test or train)
    if seen:
        say("caution: the head was learned from these items, so its scores are too good", "yellow")
    scores = model.task.scores(model.facts)
    guess, guessed = guesser(job, given, model, test), model.task.scores(model.facts)
    for i, prediction in model.task.predictions(model, examples, items, on, workers_of(job, examples)):
        truth = examples.truth(i)
        scores.add(prediction, truth)
        if guess is not None:
            guessed.add(guess(examples, i), truth)
    examples.check_skipped()
    chosen = model.task.chosen_by(model.facts)
    found = scores.found()
    trained = int(read_json(job.run_folder / RESULT).get("items", 0))
    rows = [Standing.of("encoder", "-", "as adapted", trained, chosen, [found])]
    if guess is not None:
        rows.append(Standing.of("trivial", "-", "as adapted", trained, chosen, [guessed.found()]))
    console.print(table(rows))
    result = {
        "task": type(model.task).name,
        "labelled": job.labelled,
        "test": len(items) - len(examples.skipped),
        "seen": seen,
        "score": chosen,
        "scores": found,
        "machine": dist.machine(on),
        "rows": [row.model_dump() for row in rows],
        "verdicts": [],
    }
    write_text(job.run_folder / EVALUATION, json.dumps(result, indent=1) + "\n")
    write_pictures(job.run_folder, model, examples, items, on)
    refresh(job.run_folder, result)
    return result


def learned_from(given: dict[str, Any], path: str) -> bool:
    """Whether the head was trained with the items at this path; `given` is the job that did."""
    return Path(parts_of(given["labelled"])[0]).expanduser().resolve() == Path(path).expanduser().resolve()


def guesser(
    job: Evaluate, given: dict[str, Any], model: Model, test: str | None
) -> Callable[[Examples, int], Any] | None:
    """What one would say without looking, learned from the labels the head was trained with, where these are there."""
    path, labels = (job.labelled, job.labels) if test is not None else (str(given["labelled"]), given["labels"])
    path = parts_of(path)[0]
    try:
        examples = model.task.open(path, labels, model.encoder, model.facts)
        return model.task.trivial(examples, list(range(len(examples))))
    except UserError as error:
        say(f"no trivial baseline: the labels the head was trained with cannot be read ({error})", "yellow")
        return None


def labels_of(job: Evaluate, test: str | None) -> str | None:
    return job.test_labels or job.labels if job.test or test else job.labels


# From each start -----------------------------------------------------------------------------------------------------


def of_starts(job: Evaluate, module: nn.Module | None = None) -> dict[str, Any]:
    """The task learned from the encoder and from its baselines, at label budgets, with several seeds.

    All heads are trained in the same way: same items, same seeds, same steps. The test part chooses nothing.
    """
    budgets, ways = job.budgets.split(","), ways_of(job)
    for wanted in budgets:
        read_budget(wanted)
    encoder = load(job.run_folder, module)
    check_writable(job.run_folder)
    on = dist.device(job.device)
    task: Task = job.task
    task.refuse(encoder)
    examples, test, train_items, test_items, groups = parts(job, task, encoder)
    chosen = task.chosen_by(examples.facts)
    say(f"{len(train_items):,} train and {len(test_items):,} test items: {examples.facts.summary}")
    rows: list[Standing] = []
    place = job.run_folder / TASKS / type(task).name

    def result() -> dict[str, Any]:
        return {
            "run": str(job.run_folder),
            "task": type(task).name,
            "labelled": job.labelled,
            "train": len(train_items),
            "test": len(test_items),
            "score": chosen,
            "lower": task.lower,
            "seed": job.seed,
            "machine": dist.machine(on),
            "rows": [row.model_dump() for row in rows],
            "verdicts": sentences(rows, task.lower),
        }

    strata = examples.strata[train_items]
    for wanted in budgets:
        use = {s: [train_items[k] for k in budget(strata, wanted, s).tolist()] for s in seeds_of(job)}
        for way in ways:
            starts: tuple[Start, ...] = ("encoder", "random" if way == "frozen" else "supervised")
            for start in starts:
                runs = []
                for seed in seeds_of(job):
                    say(f"{start}, {way}, labels {wanted}, seed {seed}")
                    runs.append(
                        one(job, task, encoder, examples, use[seed], groups, test, test_items, way, start, seed, on)
                    )
                rows.append(Standing.of(start, way, wanted, len(use[job.seed]), chosen, runs))
                write_text(place / EVALUATION, json.dumps(result(), indent=1) + "\n")
        guesses = []
        for seed in seeds_of(job):
            guess, scores = task.trivial(examples, use[seed]), task.scores(examples.facts)
            for i in test_items:
                if i not in test.skipped:
                    scores.add(guess(test, i), test.truth(i))
            guesses.append(scores.found())
        rows.append(Standing.of("trivial", "-", wanted, len(use[job.seed]), chosen, guesses))
    console.print(table(rows))
    found = result()
    for sentence in found["verdicts"]:
        say(sentence)
    write_text(place / EVALUATION, json.dumps(found, indent=1) + "\n")
    report = write_standings(place, found)
    say(f"report: {report}")
    return found


def ways_of(job: Evaluate) -> list[Way]:
    """Of --protocols, those that tasks have."""
    known: tuple[Way, ...] = ("frozen", "finetune")
    asked = job.protocols.split(",")
    return [way for way in known if way in asked] or list(known)


def seeds_of(job: Evaluate) -> range:
    return range(job.seed, job.seed + job.seeds)


def parts(
    job: Evaluate, task: Task, encoder: Encoder
) -> tuple[Examples, Examples, list[int], list[int], torch.Tensor | None]:
    """Train and test examples, which of their items, and the groups of train's that stay together.

    A test part is split off where none is given.
    """
    train_path, test_path = parts_of(job.labelled)
    test_path = job.test or test_path
    examples = task.open(train_path, job.labels, encoder)
    examples.most_skipped = job.max_skipped
    items = list(range(len(examples)))
    groups = grouped(job.groups, train_path, job.labels, encoder, examples)
    if test_path is None:
        kept, held = divided(examples, items, job.test_share, job.seed, groups)
        if kept == held:
            raise UserError(f"{job.labelled} has {len(items)} labelled items, too few to split some off. Give --test.")
        say(f"no test part: {job.test_share:.0%} split off by seed {job.seed}")
        return examples, examples, kept, held, groups
    test = task.open(test_path, labels_of(job, test_path), encoder, examples.facts)
    test.most_skipped = job.max_skipped
    return examples, test, items, list(range(len(test))), groups


def one(
    job: Evaluate,
    task: Task,
    encoder: Encoder,
    examples: Examples,
    use: Sequence[int],
    groups: torch.Tensor | None,
    test: Examples,
    test_items: Sequence[int],
    way: Way,
    start: Start,
    seed: int,
    on: torch.device,
) -> dict[str, float]:
    """The scores on the test part of one head, trained from one start."""
    learn, check = divided(examples, use, Adapt.model_fields["val_share"].default, seed, groups)
    fit = Adapt(
        run_folder=job.run_folder, labelled=job.labelled, task=task, size=job.size, seed=seed, workers=job.workers,
        device=job.device, max_skipped=job.max_skipped, batch_size=job.head_batch and min(job.head_batch, len(learn)),
        epochs=job.head_samples and job.head_samples / len(learn),
    )  # fmt: skip
    if start == "encoder":
        begin = copy.deepcopy(encoder).to("cpu")
    else:
        begin = redrawn(encoder, modalities.load(str(encoder.spec["modality"])), seed, torch.device("cpu"))
    model = new_model(task, begin, examples, fit)
    if way == "frozen" and start == "random":  # never trained, its batch norms have not seen the data yet
        calibrated(begin, plain_views(model, examples, learn[:CALIBRATED]))
    labels = Labels(examples, learn, examples, check)
    plan = planned(fit, model, labels, on, freeze=way == "frozen", scratch=start != "encoder")

    def found(unreadable: dict[int, str]) -> None:
        examples.skipped.update(unreadable)
        examples.check_skipped()

    with tempfile.TemporaryDirectory(prefix="selfsame-") as folder:
        Fit(model, labels, plan, found).train(Path(folder))
        module = begin.trunk if encoder.spec.get("library") == "own" and hasattr(begin, "trunk") else None
        best = saved.load(Path(folder) / "best", module).to(on)  # type: ignore[arg-type]
    return judged(best, test, test_items, on, workers_of(job, test))


def plain_views(model: Model, examples: Examples, items: list[int]) -> Iterator[torch.Tensor]:
    """Views of items as they are, by the batch; those that cannot be read are left out."""
    chunks = Wholes(examples, items, model.size)
    for k in range(len(chunks)):
        if samples := chunks[k].samples:
            yield examples.make_views(samples, Draws(0, 0, len(samples[0])), learn=False)[0]
