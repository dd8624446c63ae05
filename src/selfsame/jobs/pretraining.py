"""What `pretrain` does: decide, learn, keep, report. The only place where all rooms meet."""

import functools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from selfsame.downstream.knn import knn_accuracy
from selfsame.engine import dist, shard
from selfsame.engine.feed import VIEW, Batch, Steps, Survey, feed
from selfsame.engine.health import ADVICE, Health
from selfsame.engine.loop import train
from selfsame.engine.plan import Line
from selfsame.engine.state import claimed, saved, step_of, write_text, writing
from selfsame.engine.stopwatch import peak
from selfsame.engine.watch import duration, say
from selfsame.errors import UserError, printable
from selfsame.jobs.data import Plain, check_share, fixed_views, joined, read_skipped, warn_skipped, write_skipped
from selfsame.jobs.deciding import Deciding, differing, show_lines
from selfsame.jobs.expected import MEASURES, beside
from selfsame.jobs.runs import EVALUATION, JOB, PLAN, REPORT, RESULT, SKIPPED, Run, load, read_json
from selfsame.records import ViewPlan
from selfsame.types import Draws, Encoder, Learner, mixed

BEST = "best"
MEASURED = ("time", "memory")  # lines of the plan that are measured anew by each process
LONG_PASS = 4.0  # seconds of a pass beside which half a second of setting up is little
PROBED = 1000  # labelled items whose k-NN accuracy is followed
KEPT = 2**29  # bytes of the samples of these, and of as many to compare them with, that are read once for all looks


class Pretraining(Deciding):
    """One run at work."""

    beside: Sequence[Line] = ()
    """the plan of a run that was shown before this one: only what differs is shown"""

    def run(self) -> Run:
        """Learn, or go on, or say that all is done.

        Raises:
            UserError: input that cannot be used, a run folder of other settings, a full disk.
            TrainingStopped: collapse or not a number.
            Interrupted: stopped by a signal, state saved.
        """
        job = self.job
        self.was = self.earlier()
        self.before = self.begun()
        for text in job.method.cautions():
            say(f"caution: {text}", "yellow")
        with dist.group(self.on):
            self.opened()
            learner = self.prepared()
            if self.done_already():
                say(f"{self.folder} is finished: {self.loop.steps:,} steps. Raise --epochs to train on.")
                if not (self.folder / REPORT).exists():  # the run ended while it was written
                    dist.by_first(lambda: self.report(load(self.folder, self.module).to(self.on)))
                return Run(self.folder)
            probe = self.probe(self.shown)  # wrong labels are refused before anything is written
            with claimed(self.folder):
                self.learn(learner, probe)
        return Run(self.folder)

    def learn(self, learner: Learner, probe: Any) -> None:
        """Train from where the folder stands to the end, and keep what came of it."""
        look_at = fixed_views(self.data, self.views, self.look_at.tolist(), self.job.seed, self.on)
        health = Health(self.shown, look_at)
        dist.by_first(self.begin_folder)
        steps = self.steps(learner.by_item)
        try:
            self.show_plan(learner, steps)
        except UserError:
            if self.before is None:  # not begun after all: a corrected command may have this folder
                for name in (JOB, PLAN, *(() if self.data.skipped else (SKIPPED,))):
                    (self.folder / name).unlink(missing_ok=True)
            raise
        began = time.monotonic()
        try:
            first = train(
                learner, steps, self.make_views, self.loop, self.folder, self.on, self.workers, health,
                self.found, probe, functools.partial(self.survey, steps),
            )  # fmt: skip
        finally:
            if self.cache is not None:
                steps.source.sync()
        seconds = time.monotonic() - began
        with shard.current(self.shown, learner.encoder, self.on):
            dist.by_first(lambda: self.keep(self.shown, health, seconds, first))

    # What it learns from

    def steps(self, by_item: bool = False) -> Steps:
        job, rows = self.job, dist.rows(self.loop.batch)
        source = self.data.source
        if self.cache is not None:
            modality: Any = self.data.modality  # one that plans a cache has one
            source = modality.cached(source, self.readable, self.cache)
        return Steps(
            source, self.learn_from, self.sampler(self.method.plan), self.loop.batch, rows, job.seed, by_item,
            self.related, self.method.plan.full,
        )  # fmt: skip

    def sampler(self, plan: ViewPlan) -> Any:
        return functools.partial(sampled, modality=self.data.modality.name, plan=plan, views=self.views)

    def survey(self, steps: Steps) -> Iterator[Batch]:
        """Every item as it is, this process's share, as views on the device."""
        plain = ViewPlan(full=0, plain=1)
        everything = Survey(steps, self.sampler(plain))
        modality, stats = self.data.modality, self.data.stats
        for batch in feed(everything, 0, len(everything), self.workers, pin=self.on.type == "cuda"):
            samples = [sample.to(self.on, non_blocking=True) for sample in batch.samples]
            batch.samples = modality.make_views(samples, plain, self.views, stats, Draws(0, 0, len(samples[0])))
            yield batch

    def make_views(self, samples: list[torch.Tensor], draws: Draws) -> list[torch.Tensor]:
        views = self.data.modality.make_views(samples, self.method.plan, self.views, self.data.stats, draws)
        return [view.contiguous(memory_format=torch.channels_last) if view.ndim == 4 else view for view in views]

    def found(self, unreadable: dict[int, str]) -> None:
        """Note what the workers could not read, and stop when it is too much."""
        self.data.skipped.update(unreadable)
        if len(self.data.skipped) == len(read_skipped(self.folder)):
            return  # not compared with `unreadable`: the look at labelled items may have met others before
        write_skipped(self.data, self.folder)
        check_share(self.data, self.job.max_skipped, self.folder)

    @functools.cached_property
    def labels(self) -> list[str] | None:
        """The labels the user gave for watching and for the report; nothing in training sees them."""
        if self.job.labels is None:
            return None
        path = None if self.job.labels == "folders" else self.job.labels
        labels = self.data.modality.open_source(self.job.data, path, self.data.reading).labels
        if labels is None:
            raise UserError(f"--labels {self.job.labels}: {self.job.data} has no class folders.")
        return labels

    def probe(self, encoder: Encoder) -> Any:
        """k-NN accuracy on labelled items while it trains; None where no labels were given.

        The encoder of the best look is kept in best/, which `ss.load` and `embed` take as they take a run.
        """
        if self.labels is None:
            return None
        names = np.unique(self.labels, return_inverse=True)[1]
        chosen = np.random.default_rng(mixed(self.job.seed, 8)).permutation(self.data.readable())[: 2 * PROBED]
        half = len(chosen) // 2
        plain = Plain(self.data, self.views, chosen.tolist(), self.workers, kept=KEPT)
        place = self.folder / BEST
        best = read_json(place / "score.json")["knn"] if (place / "score.json").exists() else -1.0

        def accuracy() -> dict[str, float]:
            nonlocal best
            kept, vectors = joined(encoder, plain, self.on)
            z, y = torch.from_numpy(vectors), torch.from_numpy(names[kept])
            score = knn_accuracy(z[half:], y[half:], z[:half], y[:half])
            if score > best:
                best = score
                with writing(place):
                    place.mkdir(exist_ok=True)
                    self.data.modality.save_encoder(encoder, place)
                write_text(place / "score.json", json.dumps({"knn": score}) + "\n")
            return {"knn": score}

        return accuracy

    # What is shown and kept

    def begin_folder(self) -> None:
        write_text(self.folder / JOB, json.dumps(self.job.model_dump(mode="json"), indent=1) + "\n")
        (self.folder / RESULT).unlink(missing_ok=True)  # of a run that is extended: it is unfinished again
        plan = {
            "fingerprint": self.fingerprint,
            "loop": self.loop.model_dump(mode="json"),
            "method_settings": self.method.model_dump(mode="json"),
            "views": self.views.model_dump(mode="json"),
            "stats": self.data.stats.model_dump(mode="json"),
            "cache": self.cache and self.cache.model_dump(mode="json"),
            "size": self.size,
            "encoder": self.name,
            "lines": [line.model_dump() for line in self.lines],
        }
        write_text(self.folder / PLAN, json.dumps(plan, indent=1) + "\n")
        listed = dict(read_skipped(self.folder)) if self.before is not None else {}
        if listed:  # items that an earlier part of this run met
            names = ((i, printable(self.data.source.name(i))) for i in range(len(self.data.source)))
            self.data.skipped.update({i: listed[name] for i, name in names if name in listed})
        write_skipped(self.data, self.folder)
        warn_skipped(self.data, self.folder)

    def show_plan(self, learner: Learner, steps: Steps) -> None:
        """Print the plan with the time and memory that a trial step takes here; of a run that goes on, what is new."""
        seconds, memory = self.trial(learner, steps)
        done = saved(self.folder / "state")
        total = seconds * (self.loop.steps - (step_of(done[-1]) if done else 0))
        self.lines += [
            Line(
                name="time", value=duration(total), why=f"{self.loop.batch / seconds:,.0f} items/s in a trial step here"
            ),
            Line(name="memory", value=f"{memory / 2**30:.1f} GiB", why="peak in the trial step"),
        ]
        if not dist.first():
            return
        if self.before is None:
            show_lines(differing(self.lines, self.beside))
            for text in getattr(self.data.stats, "cautions", []) if not self.beside else []:
                say(f"caution: {text}", "yellow")
            return
        new = [line for line in differing(self.lines, self.before.lines) if line.name not in MEASURED]
        at = step_of(done[-1]) if done else 0
        say(f"{self.folder} goes on at step {at:,} of {self.loop.steps:,}, {duration(total)} left; plan in {PLAN}")
        if new:
            say("otherwise than before:")
            show_lines(new)

    def trial(self, learner: Learner, steps: Steps) -> tuple[float, int]:
        """(seconds of a step, bytes at the peak), from forward and backward passes that leave no trace.

        Two, as the first sets much up, or one that is so long that this is little of it.
        """
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        learner.train()
        began = time.monotonic()
        first = steps[0]
        samples = [sample.to(self.on) for sample in first.samples]
        reading = (time.monotonic() - began) / max(1, self.workers)
        share = -(-len(samples[0]) // self.loop.accumulate)
        draws = Draws(self.loop.seed, 0, share, stream=VIEW)
        taken = []
        # `plan --items` asks of fewer items than there are.
        items = None if first.items is None else (first.items[:share] % self.items).to(self.on)
        for _ in range(2):
            began = time.monotonic()
            views = self.make_views([sample[:share] for sample in samples], draws)
            with shard.explained(), torch.autocast(self.on.type, torch.bfloat16, enabled=self.loop.precision == "bf16"):
                loss = (learner(views) if items is None else learner(views, items)).loss
            loss.backward()
            if self.on.type == "cuda":
                torch.cuda.synchronize(self.on)
            taken.append(time.monotonic() - began)
            if taken[0] > LONG_PASS and self.on.type == "cpu" and dist.world() == 1:  # several would have to agree
                break
        met = dist.gathered(first.skipped)
        dist.by_first(lambda: self.found(met))
        learner.load_state_dict(before)
        learner.zero_grad(set_to_none=True)
        working = min(taken) * self.loop.accumulate
        return max(working, reading) if self.workers else working + reading, peak(self.on)

    def keep(self, encoder: Encoder, health: Health, seconds: float, first: int) -> None:
        """The encoder, the result, the report and the model card."""
        modality = self.data.modality
        encoder = encoder.eval()
        with writing(self.folder / "encoder.safetensors"):
            modality.save_encoder(encoder, self.folder)
            for old in (REPORT, EVALUATION):  # of a shorter run: the report is written last
                (self.folder / old).unlink(missing_ok=True)
        log = Run(self.folder).log
        looks = [row for row in log if "verdict" in row]
        result = {
            "verdict": health.verdict,
            "advice": ADVICE[health.verdict],
            "steps": self.loop.steps,
            "items": len(self.data.source),
            "skipped": len(self.data.skipped),
            "seconds": round(seconds, 1),
            "items_per_second": round((self.loop.steps - first) * self.loop.batch / seconds, 1),
            "loss": next((row["loss"] for row in reversed(log) if "loss" in row), None),
            "health": {k.removeprefix("health/"): v for k, v in looks[-1].items() if k.startswith("health/")},
            "health_at_start": {k.removeprefix("health/"): v for k, v in looks[0].items() if k.startswith("health/")},
            "machine": dist.machine(self.on),
            "seed": self.job.seed,
        }
        place = self.standing(looks)
        if place is not None:
            result["expected"] = place
        write_text(self.folder / RESULT, json.dumps(result, indent=1) + "\n")
        colour = "green" if health.verdict == "healthy" else "yellow"
        say(f"{health.verdict}: {ADVICE[health.verdict]}", colour)
        if place is not None:
            say(place["sentence"], {"on": "green", "below": "yellow"}.get(place["verdict"], ""))
        self.report(encoder)
        say(f"encoder, report.html and README.md are in {self.folder}")

    def standing(self, looks: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Where the run stands beside what is known of its preset; None without one."""
        job = self.job
        if job.preset is None:
            return None
        seen = [
            (row["step"] * self.loop.batch, {key: row[f"health/{key}"] for key in MEASURES})
            for row in looks
            if all(isinstance(row.get(f"health/{key}"), float) for key in MEASURES)
        ]
        kind = type(job.method)
        published = kind.known_presets()[job.preset].published
        return beside(kind.name, job.preset, published, job.beside_preset, seen)

    def report(self, encoder: Encoder) -> None:
        from selfsame.jobs.report import write_report

        write_report(
            self.folder, self.data, encoder, self.views, self.on, self.labels, self.job.seed, self.method.plan,
            self.relations,
        )  # fmt: skip


def sampled(source: Any, items: Any, draws: Draws, modality: str, plan: Any, views: Any) -> list[torch.Tensor]:
    """The worker half, by the modality's name, so that it can be sent to worker processes."""
    from selfsame import modalities

    return modalities.load(modality).sample(source, items, plan, views, draws)
