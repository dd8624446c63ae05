"""What `pretrain` does: open, measure, plan, learn, keep, report. The only place where all rooms meet."""

import functools
import hashlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from selfsame.downstream.knn import knn_accuracy
from selfsame.engine import dist, shard
from selfsame.engine.feed import VIEW, Batch, Steps, Survey, feed
from selfsame.engine.health import ADVICE, Health
from selfsame.engine.loop import Loop, train
from selfsame.engine.plan import Line, Wishes, plan_loop, workers_for
from selfsame.engine.related import Related
from selfsame.engine.state import LOCK, claimed, saved, step_of, write_text, writing
from selfsame.engine.watch import console, say
from selfsame.errors import UserError
from selfsame.jobs.checked import checked
from selfsame.jobs.data import (
    SKIPPED,
    all_vectors,
    check_share,
    describe,
    digest_of,
    fixed_views,
    held_out,
    open_data,
    printable,
    read_skipped,
    relations,
    warn_skipped,
    write_skipped,
)
from selfsame.jobs.pretrain import FREE_TO_CHANGE, Pretrain
from selfsame.jobs.runs import EVALUATION, JOB, PLAN, REPORT, RESULT, Run, load, read_json
from selfsame.nn.blocks import recomputed
from selfsame.nn.norm import largest_divisor
from selfsame.records import Budget, Method, Record, ViewPlan
from selfsame.report.page import flat
from selfsame.types import Draws, Encoder, Learner, mixed

BEST = "best"
PROBED = 1000  # labelled items whose k-NN accuracy is followed
# Lines of the plan that a run which goes on shows anew.
MAY_CHANGE = ("data", "epochs", "steps", "workers", "device", "processes", "shard", "activations")


class Begun(Record):
    """What plan.json of a begun run holds of its decisions."""

    fingerprint: str
    size: int
    encoder: str
    loop: Loop
    method_settings: dict[str, Any]
    stats: dict[str, Any]
    cache: dict[str, Any] | None
    lines: list[Line]


class Pretraining:
    """One run at work. The parts are made in the order of the lines of `run`."""

    def __init__(self, job: Pretrain) -> None:
        self.job = job
        self.folder = job.folder
        self.on = dist.device(job.device)
        if job.processes not in (None, dist.world()):
            raise UserError(
                f"--processes {job.processes}, but {dist.world()} were started. Leave it out where torchrun or srun "
                "starts the processes."
            )

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

    def opened(self) -> None:
        """Open and measure the data, and choose the items to learn from."""
        job = self.job
        say(f"reading {job.data}")
        self.data = open_data(job.data, job.modality, job.max_skipped, job.seed, self.folder)
        self.fingerprint = self.data.fingerprint()
        self.relations = relations(self.data, job.related, job.related_window) if job.related else None
        if self.relations is not None:
            self.fingerprint += f", {digest_of(self.relations)}"
        self.readable = self.data.readable()
        self.learn_from, self.look_at = self.divided()
        self.items = len(self.learn_from)
        number = float(int(hashlib.sha256(self.fingerprint.encode()).hexdigest()[:12], 16))
        if dist.agreed(number, -number) != [number, -number]:
            raise UserError(
                f"{job.data}: the processes find different names there. It must be the same for all of them."
            )

    def learn(self, learner: Learner, probe: Any) -> None:
        """Train from where the folder stands to the end, and keep what came of it."""
        look_at = fixed_views(self.data, self.views, self.look_at.tolist(), self.job.seed, self.on)
        health = Health(self.shown, look_at)
        dist.by_first(self.begin_folder)
        steps = self.steps(learner.by_item)
        self.show_plan(learner, steps)
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

    # What stands in the folder already

    def earlier(self) -> dict[str, Any] | None:
        """The job of an earlier run in this folder. Raises UserError when its settings are not these."""
        path = self.folder / JOB
        if not path.exists():
            inside = sorted(p.name for p in self.folder.iterdir()) if self.folder.is_dir() else []
            # The lock is left by a run that ended before it began, the list by one with too many unreadable items.
            inside = [name for name in inside if name not in (LOCK, SKIPPED)]
            if inside:
                names = ", ".join(inside[:3])
                raise UserError(f"{self.folder} is no run folder and not empty ({names}, ...). Choose another --out.")
            return None
        was, now = read_json(path), self.job.model_dump(mode="json")
        odd = [key for key in now if key not in FREE_TO_CHANGE and was.get(key) != now[key]]
        if odd:
            pairs = "; ".join(f"{key} was {shown(was.get(key))}, now {shown(now[key])}" for key in odd)
            raise UserError(f"{self.folder} holds a run made with other settings: {pairs}. Choose another --out.")
        return was

    def begun(self) -> Begun | None:
        """What an earlier run in this folder decided."""
        if self.was is None or not (self.folder / PLAN).exists():
            return None
        plan = read_json(self.folder / PLAN)
        try:
            return Begun.model_validate({key: plan[key] for key in Begun.model_fields})
        except (KeyError, ValidationError):
            raise UserError(
                f"{self.folder / PLAN} is damaged or of another version. Restore it, or choose another --out."
            ) from None

    def done_already(self) -> bool:
        return Run(self.folder).result.get("steps", 0) >= self.loop.steps if self.was is not None else False

    # Making the parts

    def divided(self) -> tuple[np.ndarray, np.ndarray]:
        count = len(self.readable)
        if count < 4:
            raise UserError(
                f"{self.job.data} has {count} readable item{'s' if count != 1 else ''}; "
                "at least 4 are needed to learn from. Give a folder with more."
            )
        return held_out(self.readable, self.job.seed)

    def prepared(self) -> Learner:
        """Decide everything and build the learner, on its device."""
        job, stats = self.job, self.data.stats
        encoder = self.decided()
        learner = dist.place(self.method.build(encoder, self.items), self.on)
        saving = self.save_memory(learner)
        self.lines = [
            Line(name="data", value=f"{describe(self.data)}, {self.data.modality.name}", why=shown_stats(stats)),
            Line(name="held out", value=f"{len(self.look_at)} items", why="to watch the health, never trained on"),
            *self.line_of_pairs(),
            Line(name="view size", value=f"{self.size} px", why="given" if job.image_size else "from the data"),
            Line(name="views", value=str(job.views["name"]), why=changed_line(job.views)),
            Line(name="encoder", value=f"{self.name}, {encoder.dim}-d", why=f"{count(encoder):.1f} M parameters"),
            Line(name="method", value=type(job.method).name, why=settings_line(self.method)),
            *self.lines_of_loop,
            Line(name="workers", value=str(self.workers), why=self.why_workers),
            self.line_of_cache,
            Line(name="device", value=str(self.on), why=dist.machine(self.on)),
            Line(name="processes", value=str(dist.world()), why=self.started_by()),
            *saving,
        ]
        if self.before is not None:
            then = {line.name: line for line in self.before.lines if line.name not in MAY_CHANGE}
            self.lines = [then.get(line.name, line) for line in self.lines]
        return learner

    def decided(self) -> Encoder:
        """Decide everything, for `items` items, and make the encoder."""
        job, modality, stats = self.job, self.data.modality, self.data.stats
        large = self.on.type == "cuda"
        self.module = module = job.encoder if not isinstance(job.encoder, str) else None
        begun = self.before  # what was derived then holds, also on another device
        default_size = begun.size if begun else modality.default_size(stats, large)
        self.size: int = job.image_size or default_size
        name = job.encoder
        if name == "auto":
            name = begun.encoder if begun else modality.default_encoder(self.size, large)
        self.views = strengths(modality, job.views, self.size, stats)
        torch.manual_seed(mixed(job.seed, 1))
        weights = str(job.init) if job.init else None
        if module is None:
            encoder = modality.make_encoder(name, self.size, stats, weights)
        else:
            encoder = modality.own_encoder(module, self.size, stats, weights)
        self.loop, self.lines_of_loop = plan_loop(self.items, encoder.has_tokens, self.wishes(), self.on, dist.world())
        if self.before is not None:
            self.loop = self.continued(self.before, self.loop)
        if self.loop.batch > self.items:
            raise UserError(
                f"--batch-size {self.loop.batch} is larger than the {self.items} items to learn from. "
                "Give a smaller one."
            )
        self.check_shares()
        budget = Budget(
            items=self.items,
            batch=self.loop.batch,
            steps=self.loop.steps,
            dim=encoder.dim,
            cuts=self.loop.accumulate * dist.world(),
        )
        self.method: Method = job.method.fitted(budget)
        if self.before is not None:
            self.method = checked(type(self.method), self.before.method_settings, ["method"])
        check_fit(self.method, encoder, budget, self.name_of_encoder(name))
        in_memory = getattr(self.data.source, "array", None) is not None
        self.workers, self.why_workers = workers_for(in_memory, job.workers)
        self.cache, self.line_of_cache = dist.by_first(self.planned_cache)
        self.name = self.name_of_encoder(name)
        return encoder

    def name_of_encoder(self, name: Any) -> str:
        return name if self.module is None else type(self.module).__name__

    def check_shares(self) -> None:
        """Raise UserError where a batch cannot be divided over processes and micro-batches."""
        batch, cuts, world = self.loop.batch, self.loop.accumulate, dist.world()
        if batch % world:
            fewer = largest_divisor(batch, world)
            held = "" if self.before is not None else f"Give a multiple of {world}, or "
            raise UserError(
                f"--batch-size {batch} cannot be divided over {world} processes. {held or 'Go on with '}"
                f"--processes {fewer}."
            )
        if batch // (cuts * world) < 2:
            places = f"{cuts} micro-batches" + (f" in each of {world} processes" if world > 1 else "")
            cure = "Raise --batch-size or lower --accumulate" + (" or --processes." if world > 1 else ".")
            raise UserError(
                f"--batch-size {batch} over {places} leaves fewer than 2 items in each; batch statistics need two. "
                f"{cure}"
            )

    def wishes(self) -> Wishes:
        """What the user decided; of a run that goes on, what was decided then, but for its length."""
        given = {field: getattr(self.job, field) for field in Wishes.model_fields}
        if self.before is not None:
            loop = self.before.loop
            kept = ("optimizer", "lr", "weight_decay", "precision")
            passes = loop.batch / len(self.learn_from)
            given |= {"batch_size": loop.batch, "warmup_epochs": loop.warmup * passes}
            given["epochs"] = self.job.epochs or loop.steps * passes
            given |= {field: getattr(loop, field) for field in kept}
        return Wishes(**given)

    def continued(self, begun: Begun, fresh: Loop) -> Loop:
        """The loop of the run in the folder; only its length may change."""
        same = begun.stats == self.data.stats.model_dump(mode="json")
        if begun.fingerprint != self.fingerprint or not same:
            weights = self.folder / "encoder.safetensors"
            start = f", and --init {weights} to start from its weights" if weights.exists() else ""
            then, now = (begun.fingerprint, self.fingerprint) if same else ("other pixels", "the same names")
            raise UserError(
                f"{self.job.data} has changed since {self.folder} was begun ({then} then, {now} now), so the run "
                f"cannot go on exactly. Choose another --out{start}."
            )
        before = begun.loop
        if fresh.steps < before.steps:
            raise UserError(
                f"{self.folder} was planned for {before.steps:,} steps; --epochs now asks for {fresh.steps:,}. "
                "A run can be extended, not shortened. Choose another --out."
            )
        free = ("steps", "save_every", "keep_states", "health_every", "shard", "checkpoint_activations")
        return before.changed(**{field: getattr(fresh, field) for field in free})

    def planned_cache(self) -> tuple[Any, Line]:
        """What of the items is kept decoded, and the line of the plan that says so."""
        most = None if self.job.cache is None else int(self.job.cache * 2**30)
        passes = self.loop.steps * self.loop.batch / self.items
        plan: Any = None
        why = "the data are at rest decoded, or there is no place for more"
        if self.before is not None:
            plan = self.before.cache and self.data.modality.CachePlan.model_validate(self.before.cache)
        elif most == 0 or passes < 1.5:
            why = "given" if most == 0 else "the data are read once"
        else:
            plan = self.data.modality.plan_cache(self.data.source, self.readable, self.views, most)
        value = f"{plan.bytes / 2**30:.2f} GiB" if plan else "none"
        return plan, Line(name="cache", value=value, why=plan.summary if plan else why)

    def save_memory(self, learner: Learner) -> list[Line]:
        """Recompute and divide what the user wants so; `shown` is then the encoder to look at and to keep."""
        lines = []
        self.shown = learner.encoder
        if self.loop.checkpoint_activations:
            found = recomputed(learner.encoder)
            lines.append(Line(name="activations", value="of block inputs", why=f"given; {found} blocks run again"))
        if self.loop.shard:
            self.shown = shard.copied(learner.encoder)
            shard.sharded(learner, self.on)
            value = f"1/{dist.world()} of the learner"
            lines.append(Line(name="shard", value=value, why="given; parameters, gradients, moments in each process"))
        return lines

    def started_by(self) -> str:
        """Why there are as many processes as there are."""
        if self.job.processes is not None:
            return "given"
        if dist.world() == 1:
            return "one device"
        return "one a GPU" if self.on.type == "cuda" else "as they were started"

    def steps(self, by_item: bool = False) -> Steps:
        job, rows = self.job, dist.rows(self.loop.batch)
        source = self.data.source
        if self.cache is not None:
            source = self.data.modality.cached(source, self.readable, self.cache)
        return Steps(
            source, self.learn_from, self.sampler(self.method.plan), self.loop.batch, rows, job.seed, by_item,
            self.related, self.method.plan.full,
        )  # fmt: skip

    @functools.cached_property
    def related(self) -> Related | None:
        return None if self.relations is None else Related(self.relations, self.learn_from)

    def line_of_pairs(self) -> list[Line]:
        """What the plan says of related items. Raises UserError where they make no pairs."""
        if self.relations is None or self.related is None:
            return []
        job, alone = self.job, self.related.alone()
        if self.method.plan.full < 2:
            raise UserError(
                f"--related {job.related}: --method {type(job.method).name} takes one full view of an item, "
                "so there is no pair. Leave --related out, or choose a method that compares two."
            )
        total = len(self.learn_from)
        if alone == total:
            window = "" if job.related_window is None else f" within {job.related_window:g}"
            raise UserError(
                f"--related {job.related}: none of the {total:,} items to learn from has a related one{window}. "
                + ("Raise --related-window." if window else "Give groups of at least two items.")
            )
        single = f"; {alone:,} of {total:,} items have no relative and pair with themselves" if alone else ""
        return [Line(name="pairs", value="related items", why=f"{self.relations.summary}{single}")]

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
        labels = self.data.modality.open_source(self.job.data, path).labels
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

        place = self.folder / BEST
        best = read_json(place / "score.json")["knn"] if (place / "score.json").exists() else -1.0

        def accuracy() -> dict[str, float]:
            nonlocal best
            was = encoder.training
            kept, vectors = all_vectors(encoder, self.data, self.views, chosen.tolist(), self.on, self.workers)
            encoder.train(was)
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
        """Print the plan with the time and memory that a trial step takes here."""
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
        show_lines(self.lines)

    def trial(self, learner: Learner, steps: Steps) -> tuple[float, int]:
        """(seconds of a step, bytes at the peak), from forward and backward passes that leave no trace."""
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        learner.train()
        began = time.monotonic()
        first = steps[0]
        samples = [sample.to(self.on) for sample in first.samples]
        reading = (time.monotonic() - began) / max(1, self.workers)
        share = -(-len(samples[0]) // self.loop.accumulate)
        draws = Draws(self.loop.seed, 0, share, stream=VIEW)
        taken = []
        items = None if first.items is None else first.items[:share].to(self.on)
        for _ in range(2):
            began = time.monotonic()
            views = self.make_views([sample[:share] for sample in samples], draws)
            with shard.explained(), torch.autocast(self.on.type, torch.bfloat16, enabled=self.loop.precision == "bf16"):
                loss = (learner(views) if items is None else learner(views, items)).loss
            loss.backward()
            if self.on.type == "cuda":
                torch.cuda.synchronize(self.on)
            taken.append((time.monotonic() - began) * self.loop.accumulate)
        met = dist.gathered(first.skipped)
        dist.by_first(lambda: self.found(met))
        learner.load_state_dict(before)
        learner.zero_grad(set_to_none=True)
        if self.on.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.on)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        working = min(taken)
        return max(working, reading) if self.workers else working + reading, peak

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
        write_text(self.folder / RESULT, json.dumps(result, indent=1) + "\n")
        colour = "green" if health.verdict == "healthy" else "yellow"
        say(f"{health.verdict}: {ADVICE[health.verdict]}", colour)
        self.report(encoder)
        say(f"encoder, report.html and README.md are in {self.folder}")

    def report(self, encoder: Encoder) -> None:
        from selfsame.jobs.report import write_report

        write_report(self.folder, self.data, encoder, self.views, self.on, self.labels, self.job.seed)


def check_fit(method: Method, encoder: Encoder, budget: Budget, name: str) -> None:
    """Raise UserError where the method cannot work with this encoder, or in a run of this size."""
    cures = {
        "tokens": "Choose a vision transformer, as --encoder vit_tiny_patch16_224 (at 32 px vit_tiny_patch4_32).",
        "maps": "Choose a network with dense features, as --encoder resnet18.",
        "pieces": "Choose a method that does not cut its views into pieces.",
    }
    for need in method.needs:
        if not getattr(encoder, f"has_{need}"):
            raise UserError(
                f"--method {type(method).name} needs an encoder with {need}; {name} has none. {cures[need]}"
            )
    wrong = method.misfits(budget)
    if wrong:
        raise UserError(f"--method {type(method).name} does not go together with this run: {' '.join(wrong)}")


def sampled(source: Any, items: Any, draws: Draws, modality: str, plan: Any, views: Any) -> list[torch.Tensor]:
    """The worker half, by the modality's name, so that it can be sent to worker processes."""
    from selfsame import modalities

    return modalities.load(modality).sample(source, items, plan, views, draws)


def show_lines(lines: list[Line]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for line in lines:
        table.add_row(line.name, line.value, f"[dim]{line.why}[/dim]")
    console.print(table)


def strengths(modality: Any, wish: dict[str, Any], size: int, stats: Record) -> Record:
    """The recipe by name, with the values given on top. Raises UserError on unknown keys."""
    views = modality.recipe(str(wish["name"]), size, stats)
    return merged(views, {key: value for key, value in wish.items() if key != "name"}, ["views"])


def merged(record: Record, changes: dict[str, Any], place: list[str]) -> Record:
    values = {
        key: merged(getattr(record, key), value, [*place, key]).model_dump()
        if isinstance(value, dict) and isinstance(getattr(record, key, None), Record)
        else value
        for key, value in changes.items()
    }
    return checked(type(record), {**record.model_dump(), **values}, place)


def count(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value)


def shown_stats(stats: Any) -> str:
    return getattr(stats, "summary", "")


def settings_line(method: Method) -> str:
    return ", ".join(f"{name} {getattr(method, name)}" for name in sorted(method.model_fields_set))


def changed_line(views: dict[str, Any]) -> str:
    """The strengths given on top of the recipe, as in: one.area 0.2 to 1.0, one.flip 0.0."""
    given = [(name, value if isinstance(value, list | tuple) else [value]) for name, value in flat(views)]
    return ", ".join(f"{name} {' to '.join(map(str, ends))}" for name, ends in given if name != "name")


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
