"""What `evaluate` does for tasks: a task run on labelled items; or a run, adapted from each start at label budgets."""

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selfsame import __version__, modalities
from selfsame.downstream import saved
from selfsame.downstream.adapting import Wholes, judged
from selfsame.downstream.split import budget, read_budget
from selfsame.downstream.standings import Standing, Start, Way, sentences, table
from selfsame.downstream.task import Examples, Model, Task
from selfsame.engine import dist
from selfsame.engine.state import check_writable, write_text
from selfsame.engine.watch import console, counted, duration, say, silent
from selfsame.errors import UserError
from selfsame.jobs.adapt import FREE_TO_CHANGE, Adapt
from selfsame.jobs.data import labels_for, parts_of
from selfsame.jobs.evaluate import Evaluate
from selfsame.jobs.evaluating import CALIBRATED, redrawn
from selfsame.jobs.fitting import Fit, Planned, check_size, looks, new_model, planned, workers_of
from selfsame.jobs.labelled import Labels, divided, grouped
from selfsame.jobs.runs import EVALUATION, JOB, RESULT, load, read_json
from selfsame.jobs.task_report import refresh, write_pictures, write_standings
from selfsame.nn.norm import calibrated
from selfsame.records import Record
from selfsame.types import Draws, Encoder

NOT_OF_ONE = {"run_folder", "task", "budgets", "protocols", "seeds", "seed"}  # which trainings, not what one is
TASKS = "tasks"  # folder in a run with what was measured of its encoder, a folder a task


def of_task_run(job: Evaluate, module: nn.Module | None = None) -> dict[str, Any]:
    """The scores of a task run on labelled items, beside what is said without an encoder."""
    if job.groups is not None:
        raise UserError("--groups says how items are divided, and of a task run all are scored. Leave it out.")
    model = saved.load(job.run_folder, module)
    check_writable(job.run_folder)
    on = dist.device(job.device)
    model.to(on)
    train, test = parts_of(job.labelled)
    path, labels = job.test or test or train, labels_of(job, test)
    examples = model.task.open(path, labels, model.encoder, model.facts)
    examples.most_skipped = job.max_skipped
    items = list(range(len(examples)))
    here = f": {examples.here.summary}" if examples.here is not None else ""
    say(f"{counted(len(items), 'labelled item')}{here}; the head was made for {model.facts.summary}")
    given = read_json(job.run_folder / JOB)  # what the head was learned with
    seen = learned_from(given, path, labels, model, examples)
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
        called = model.task.baseline(model.facts)
        rows.append(Standing.of("trivial", "-", "as adapted", trained, chosen, [guessed.found()], called))
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


def learned_from(given: dict[str, Any], path: str, labels: str | None, model: Model, examples: Examples) -> bool:
    """Whether the head was trained with some of these items; `given` is the job that did.

    Label files of several parts may speak of pictures in one folder: then the pictures tell. What cannot be read any
    more may have been the same.
    """
    learned = parts_of(given["labelled"])[0]
    if not same_place(learned, path):
        return False
    if labels == given["labels"] or (labels and given["labels"] and same_place(labels, given["labels"])):
        return True
    try:
        with silent():
            its = labels_for(given["labels"], learned, given["labelled"])
            others = model.task.open(learned, its, model.encoder, model.facts)
    except UserError:
        return True
    known = {others.part_of(i) for i in range(len(others))}
    return any(examples.part_of(i) in known for i in range(len(examples)))


def same_place(one: str, other: str) -> bool:
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def guesser(
    job: Evaluate, given: dict[str, Any], model: Model, test: str | None
) -> Callable[[Examples, int], Any] | None:
    """What is said without an encoder, learned from the labels the head was trained with, where these are there."""
    path, labels = (job.labelled, job.labels) if test is not None else (str(given["labelled"]), given["labels"])
    whole, path = path, parts_of(path)[0]
    labels = labels_for(labels, path, whole)
    try:
        with silent():  # what there is to say of them was said when the head was learned
            examples = model.task.open(path, labels, model.encoder, model.facts)
        return model.task.trivial(examples, list(range(len(examples))))
    except UserError as error:
        say(f"no trivial baseline: the labels the head was trained with cannot be read ({error})", "yellow")
        return None


def labels_of(job: Evaluate, test: str | None) -> str | None:
    """Of the test part, where there is one."""
    if job.test:
        return job.test_labels or job.labels
    return job.test_labels or labels_for(job.labels, test, job.labelled) if test else job.labels


# From each start -----------------------------------------------------------------------------------------------------


def of_starts(job: Evaluate, module: nn.Module | None = None) -> dict[str, Any]:
    """The task learned from the encoder and from its baselines, at label budgets, with several seeds.

    All heads are trained in the same way: same items, same seeds, same steps. The test part chooses nothing. What was
    measured already of the same settings, data and encoder is not measured again.
    """
    for wanted in job.budgets.split(","):
        read_budget(wanted)
    return Starts(job, load(job.run_folder, module)).found()


class Training(Record):
    """One head that is trained, or, of the start trivial, guessed."""

    start: Start
    way: Way
    labels: str
    seed: int

    @property
    def told(self) -> str:
        return f"{self.start}, {self.way}, labels {self.labels}, seed {self.seed}"


class Starts:
    """The trainings of a task from each start, and what is known of them so far."""

    def __init__(self, job: Evaluate, encoder: Encoder) -> None:
        self.job, self.encoder = job, encoder
        check_writable(job.run_folder)
        self.on = dist.device(job.device)
        self.task: Task = job.task
        self.task.refuse(encoder)
        check_size(self.task, encoder, job)
        self.place = job.run_folder / TASKS / type(self.task).name
        self.examples, self.test, self.train_items, self.test_items, self.groups = parts(job, self.task, encoder)
        self.chosen = self.task.chosen_by(self.examples.facts)
        strata = self.examples.strata[self.train_items]
        self.use = {
            (wanted, seed): [self.train_items[k] for k in budget(strata, wanted, seed).tolist()]
            for wanted in job.budgets.split(",")
            for seed in seeds_of(job)
        }
        digest = hashlib.sha256(strata.numpy().tobytes())
        for name in ("encoder.safetensors", "encoder.json"):
            digest.update((job.run_folder / name).read_bytes())
        names = Labels(self.examples, self.train_items, self.test, self.test_items).fingerprint
        self.identity = {
            "job": job.model_dump(mode="json", exclude=FREE_TO_CHANGE | NOT_OF_ONE),
            "task": {"name": type(self.task).name, **self.task.model_dump(mode="json")},
            "fingerprint": f"{names}, {digest.hexdigest()[:16]}",
            "version": __version__,
        }
        self.done: dict[Training, dict[str, float]] = {}

    def found(self) -> dict[str, Any]:
        """All of it: what is known already, and what is measured now."""
        both = self.test is self.examples
        said = f"{len(self.train_items):,} train and {len(self.test_items):,} test items"
        say(f"{said}; {'of both' if both else 'of the train part'}: {self.examples.facts.summary}")
        if self.test.here is not None and not both:
            say(f"of the test part: {self.test.here.summary}")
        self.remember()
        asked = [one for one in self.trainings() if one.start != "trivial"]
        missing = [one for one in asked if one not in self.done]
        if missing:
            self.announce(asked, missing)
        for one in self.trainings():
            if one in self.done:
                continue
            if one.start == "trivial":
                self.done[one] = self.guessed(one)
                continue
            say(f"training {asked.index(one) + 1} of {len(asked)}: {one.told}")
            self.done[one] = self.trained(one)
            write_text(self.place / EVALUATION, json.dumps(self.result(), indent=1) + "\n")
        found = self.result()
        console.print(table(self.rows()))
        for sentence in found["verdicts"]:
            say(sentence)
        write_text(self.place / EVALUATION, json.dumps(found, indent=1) + "\n")
        report = write_standings(self.place, found)
        say(f"report: {report}")
        return found

    def trainings(self) -> list[Training]:
        """All, in their order: budget by budget, and of a budget last what is guessed."""
        listed = []
        for wanted in self.job.budgets.split(","):
            for way in ways_of(self.job):
                starts: tuple[Start, ...] = ("encoder", "random" if way == "frozen" else "supervised")
                listed += [(start, way, wanted) for start in starts]
            listed.append(("trivial", "-", wanted))
        return [
            Training(start=start, way=way, labels=wanted, seed=seed)
            for start, way, wanted in listed
            for seed in seeds_of(self.job)
        ]

    def remember(self) -> None:
        """Take what an earlier evaluation of the same has measured."""
        path = self.place / EVALUATION
        if not path.exists():
            return
        try:
            was = read_json(path)
            if was["identity"] != self.identity:
                return
            done = {Training.model_validate(one["training"]): one["scores"] for one in was["trainings"]}
            unreadable = [{int(i): str(why) for i, why in part.items()} for part in was["skipped"]]
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            return  # damaged, or of another version: measured anew
        self.done = {one: done[one] for one in self.trainings() if one in done}
        for examples, skipped in zip((self.examples, self.test), unreadable, strict=True):
            examples.skipped.update(skipped)
        made = sum(one.start != "trivial" for one in self.done)
        if made:
            say(f"{counted(made, 'training')} of these settings are in {path} already; delete it to measure anew")

    def announce(self, asked: list[Training], missing: list[Training]) -> None:
        """Say how many trainings there are, and about how long they take, by a trial step and a look of each way."""
        any_of = self.model(missing[0])
        if caution := self.task.caution(self.examples, any_of.size):
            say(caution)
        loops = {one: self.planned(one, any_of).loop for one in missing}
        seconds = 0.0
        for way in {one.way: one for one in missing}:
            of_way = [one for one in missing if one.way == way]
            model = self.model(of_way[0])
            labels, plan = self.labels(of_way[0]), self.planned(of_way[0], model)
            trial = Fit(model, labels, plan, self.note).tried()
            look = trial.look / len(labels.check)  # of one item
            for one in of_way:
                loop, check = loops[one], len(self.labels(one).check)
                seconds += loop.steps * trial.step * loop.batch / plan.loop.batch
                seconds += look * (looks(loop) * check + len(self.test_items))
        steps = sorted({loop.steps for loop in loops.values()})
        each = f"{steps[0]:,}" + (f" to {steps[-1]:,}" if len(steps) > 1 else "")
        what = counted(len(asked), "training") + f" of {each} step{'s' if each != '1' else ''}"
        left = f"{len(missing)} of them left, " if len(missing) < len(asked) else ""
        say(f"{what}, {left}about {duration(seconds)}")

    # One training

    def labels(self, one: Training) -> Labels:
        """What it learns from and is chosen by."""
        share = Adapt.model_fields["val_share"].default
        learn, check = divided(self.examples, self.use[one.labels, one.seed], share, one.seed, self.groups)
        return Labels(self.examples, learn, self.examples, check)

    def fitting(self, one: Training) -> Adapt:
        job, items = self.job, len(self.labels(one).learn)
        return Adapt(
            run_folder=job.run_folder, labelled=job.labelled, task=self.task, size=job.size, seed=one.seed,
            workers=job.workers, device=job.device, max_skipped=job.max_skipped,
            batch_size=job.head_batch and min(job.head_batch, items),
            epochs=job.head_samples and job.head_samples / max(1, items),
        )  # fmt: skip

    def model(self, one: Training) -> Model:
        """The network as it begins."""
        if one.start == "encoder":
            begin = copy.deepcopy(self.encoder).to("cpu")
        else:
            modality = modalities.load(str(self.encoder.spec["modality"]))
            begin = redrawn(self.encoder, modality, one.seed, torch.device("cpu"))
        return new_model(self.task, begin, self.examples, self.fitting(one))

    def planned(self, one: Training, model: Model) -> Planned:
        freeze, scratch = one.way == "frozen", one.start != "encoder"
        return planned(self.fitting(one), model, self.labels(one), self.on, freeze=freeze, scratch=scratch)

    def note(self, unreadable: dict[int, str]) -> None:
        self.examples.skipped.update(unreadable)
        self.examples.check_skipped()

    def trained(self, one: Training) -> dict[str, float]:
        """The scores on the test part of one head, trained from one start."""
        model, labels = self.model(one), self.labels(one)
        begin = model.encoder
        if one.way == "frozen" and one.start == "random":  # never trained, its batch norms have not seen the data yet
            calibrated(begin, plain_views(model, self.examples, labels.learn[:CALIBRATED]))
        plan = self.planned(one, model)
        with tempfile.TemporaryDirectory(prefix="selfsame-") as folder:
            Fit(model, labels, plan, self.note).train(Path(folder))
            module = begin.trunk if self.encoder.spec.get("library") == "own" and hasattr(begin, "trunk") else None
            best = saved.load(Path(folder) / "best", module).to(self.on)  # type: ignore[arg-type]
        return judged(best, self.test, self.test_items, self.on, workers_of(self.job, self.test))

    def guessed(self, one: Training) -> dict[str, float]:
        """The scores on the test part of the task's own baseline."""
        guess = self.task.trivial(self.examples, self.use[one.labels, one.seed])
        scores = self.task.scores(self.examples.facts)
        for i in self.test_items:
            if i not in self.test.skipped:
                scores.add(guess(self.test, i), self.test.truth(i))
        return scores.found()

    # What is known

    def rows(self) -> list[Standing]:
        """A row for each start, way and budget all of whose seeds are measured."""
        kinds: dict[tuple[Start, Way, str], list[Training]] = {}
        for one in self.trainings():
            kinds.setdefault((one.start, one.way, one.labels), []).append(one)
        rows = []
        for (start, way, wanted), seeds in kinds.items():
            if all(one in self.done for one in seeds):
                items = len(self.use[wanted, self.job.seed])
                runs = [self.done[one] for one in seeds]
                called = self.task.baseline(self.examples.facts) if start == "trivial" else ""
                rows.append(Standing.of(start, way, wanted, items, self.chosen, runs, called))
        return rows

    def result(self) -> dict[str, Any]:
        rows = self.rows()
        return {
            "run": str(self.job.run_folder),
            "task": type(self.task).name,
            "labelled": self.job.labelled,
            "train": len(self.train_items),
            "test": len(self.test_items),
            "score": self.chosen,
            "lower": self.task.lower,
            "seed": self.job.seed,
            "machine": dist.machine(self.on),
            "rows": [row.model_dump() for row in rows],
            "verdicts": sentences(rows, self.task.lower),
            "identity": self.identity,
            "trainings": [
                {"training": one.model_dump(mode="json"), "scores": scores} for one, scores in self.done.items()
            ],
            "skipped": [{str(i): why for i, why in part.skipped.items()} for part in (self.examples, self.test)],
        }


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
    labels = labels_for(job.labels, train_path, job.labelled)
    examples = task.open(train_path, labels, encoder)
    examples.most_skipped = job.max_skipped
    items = list(range(len(examples)))
    groups = grouped(job.groups, train_path, labels, encoder, examples)
    if test_path is None:
        kept, held = divided(examples, items, job.test_share, job.seed, groups)
        if kept == held:
            raise UserError(f"{job.labelled} has {len(items)} labelled items, too few to split some off. Give --test.")
        say(f"no test part: {job.test_share:.0%} split off by seed {job.seed}")
        return examples, examples, kept, held, groups
    test = task.open(test_path, labels_of(job, test_path), encoder, examples.facts)
    test.most_skipped = job.max_skipped
    return examples, test, items, list(range(len(test))), groups


def plain_views(model: Model, examples: Examples, items: list[int]) -> Iterator[torch.Tensor]:
    """Views of items as they are, by the batch; those that cannot be read are left out."""
    chunks = Wholes(examples, items, model.size)
    for k in range(len(chunks)):
        if samples := chunks[k].samples:
            yield examples.make_views(samples, Draws(0, 0, len(samples[0])), learn=False)[0]
