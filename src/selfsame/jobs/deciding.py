"""What is decided before a run: what stands in its folder, the items, sizes, settings, loop; and the plan's lines."""

import functools
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from selfsame import modalities
from selfsame.engine import dist, shard
from selfsame.engine.loop import Loop
from selfsame.engine.plan import Line, Wishes, plan_loop, workers_for
from selfsame.engine.related import Related
from selfsame.engine.watch import console, say
from selfsame.errors import UserError
from selfsame.jobs.checked import checked
from selfsame.jobs.data import (
    describe,
    digest_of,
    held_out,
    lines_of_columns,
    open_data,
    read_as,
    relations,
    without_relatives,
)
from selfsame.jobs.pretrain import FREE_TO_CHANGE, Pretrain
from selfsame.jobs.runs import PLAN, Run, earlier, read_json
from selfsame.nn.blocks import recomputed
from selfsame.nn.norm import largest_divisor
from selfsame.records import Budget, Method, Record
from selfsame.report.page import flat
from selfsame.types import Encoder, Learner, mixed

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


class Deciding:
    """A run before it begins. The parts are made in the order of the lines of `Pretraining.run`."""

    quiet: bool = False
    """as what the data are read has been said: of one run after another on the same"""

    why_usual = ""  # why the encoder that is taken unasked is that one
    was: dict[str, Any] | None = None  # the job of an earlier run in this folder
    before: Begun | None = None  # what it decided

    def __init__(self, job: Pretrain) -> None:
        self.job = job
        self.folder = job.folder
        self.on = dist.device(job.device)
        if job.processes not in (None, dist.world()):
            raise UserError(
                f"--processes {job.processes}, but {dist.world()} were started. Leave it out where torchrun or srun "
                "starts the processes."
            )

    def opened(self) -> None:
        """Open and measure the data, and choose the items to learn from."""
        job = self.job
        self.data = open_data(job.data, job.modality, job.max_skipped, job.seed, self.folder, job.reading, self.quiet)
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

    # What stands in the folder already

    def earlier(self) -> dict[str, Any] | None:
        """The job of an earlier run in this folder. Raises UserError when its settings are not these."""
        return earlier(self.job, self.folder, FREE_TO_CHANGE)

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
            cuts = "window" in type(self.data.reading).model_fields
            raise UserError(
                f"{self.job.data} has {count} readable item{'s' if count != 1 else ''}; "
                f"at least 4 are needed to learn from. {'It was' if count == 1 else 'They were'} read as "
                f"{self.data.modality.name}: give more"
                + (", or cut long ones into items by --reading.window." if cuts else ".")
                + (" --modality says otherwise." if self.job.modality is None else "")
            )
        learn_from, look_at = held_out(self.readable, self.job.seed)
        wanted = self.job.sample
        if wanted is None:
            return learn_from, look_at
        if wanted > len(learn_from):
            raise UserError(
                f"--sample {wanted:,} is more than the {len(learn_from):,} items to learn from "
                f"({len(look_at):,} are held out). Give a smaller one, or leave it out for all."
            )
        order = np.random.default_rng(mixed(self.job.seed, 13)).permutation(len(learn_from))
        return np.sort(learn_from[order[:wanted]]), look_at

    def prepared(self) -> Learner:
        """Decide everything and build the learner, on its device."""
        job, stats = self.job, self.data.stats
        encoder = self.decided()
        if hasattr(self.data.modality, "compile_views"):
            self.data.modality.compile_views(self.loop.compile)
        learner = dist.place(self.method.build(encoder, self.items), self.on)
        saving = self.save_memory(learner)
        self.lines = [
            Line(name="data", value=describe(self.data), why=shown_stats(stats)),
            *lines_of_columns(self.data),
            *self.line_of_sample(),
            Line(name="held out", value=f"{len(self.look_at)} items", why="to watch the health, never trained on"),
            *self.line_of_pairs(),
            Line(
                name="view size",
                value=self.data.modality.size_told(self.size, stats),
                why="given" if job.size else "from the data",
            ),
            Line(name="views", value=str(job.views["name"]), why=changed_line(job.views)),
            Line(name="encoder", value=f"{self.name}, {encoder.dim}-d", why=self.why_encoder(encoder)),
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

    def line_of_sample(self) -> list[Line]:
        if self.job.sample is None:
            return []
        return [Line(name="sample", value=f"{self.items:,} items to learn from", why="given; drawn by the seed")]

    @functools.cached_property
    def related(self) -> Related | None:
        return None if self.relations is None else Related(self.relations, self.learn_from)

    def line_of_pairs(self) -> list[Line]:
        """What the plan says of related items. Raises UserError where they make no pairs."""
        if self.relations is None or self.related is None:
            return []
        job = self.job
        if self.method.plan.full < 2:
            raise UserError(
                f"--related {job.related}: --method {type(job.method).name} takes one full view of an item, "
                "so there is no pair. Leave --related out, or choose a method that compares two."
            )
        alone, total = without_relatives(self.related, job.related), len(self.learn_from)
        single = f"; {alone:,} of {total:,} items have no relative and pair with themselves" if alone else ""
        return [Line(name="pairs", value="related items", why=f"{self.relations.summary}{single}")]

    def decided(self) -> Encoder:
        """Decide everything, for `items` items, and make the encoder."""
        job, modality, stats = self.job, self.data.modality, self.data.stats
        large = self.on.type == "cuda"
        self.module = module = job.encoder if not isinstance(job.encoder, str) else None
        begun = self.before  # what was derived then holds, also on another device
        default_size = begun.size if begun else modality.default_size(stats, large)
        self.size: int = job.size or default_size
        name = job.encoder
        if name == "auto":
            name = begun.encoder if begun else self.usual_encoder(large)
        weights = str(job.init) if job.init else None
        with read_as(modality, job.modality is None):
            self.views = strengths(modality, job.views, self.size, stats)
            torch.manual_seed(mixed(job.seed, 1))
            if module is None:
                check_kind(name, modality.name)
                encoder = modality.make_encoder(name, self.size, stats, weights)
            else:
                encoder = modality.own_encoder(module, self.size, stats, weights)
        if way := self.data.reading.model_dump(mode="json"):
            encoder.spec["reading"] = way
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
            micro=self.loop.accumulate,
            piece_axes=encoder.piece_axes,
        )
        self.method: Method = job.method.fitted(budget)
        self.paced(self.method.pace(budget))
        if self.before is not None:
            self.method = checked(type(self.method), self.before.method_settings, ["method"])
        check_fit(self.method, encoder, budget, self.name_of_encoder(name))
        for text in self.method.doubts(budget):
            say(f"caution: {text}", "yellow")
        in_memory = getattr(self.data.source, "array", None) is not None
        self.workers, self.why_workers = workers_for(in_memory, job.workers, large)
        self.cache, self.line_of_cache = dist.by_first(self.planned_cache)
        self.name = self.name_of_encoder(name)
        return encoder

    def usual_encoder(self, large: bool) -> str:
        """The network where none is named: one that has what the method needs, where the modality knows such."""
        modality: Any = self.data.modality
        if hasattr(modality, "encoder_for"):
            name, self.why_usual = modality.encoder_for(type(self.job.method).needs, self.size, large)
            return name
        return modality.default_encoder(self.size, large)

    def why_encoder(self, encoder: Encoder) -> str:
        found = f"{count(encoder):.1f} M parameters"
        return f"{found}; {self.why_usual}" if self.why_usual else found

    def paced(self, factor: float) -> None:
        """Change the derived learning rate by the method's factor; one that was given stays."""
        if factor == 1 or self.job.lr is not None or self.before is not None:
            return
        self.loop = self.loop.changed(lr=round(factor * self.loop.lr, 8))
        self.lines_of_loop = [
            line.changed(value=f"{self.loop.lr:g}", why=f"{line.why}, times {factor:g} for the method")
            if line.name == "learning rate"
            else line
            for line in self.lines_of_loop
        ]

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
        """The loop of the run in the folder; only its length may change, and what goes by the device."""
        same = same_stats(begun.stats, self.data.stats)
        if begun.fingerprint != self.fingerprint or not same:
            weights = self.folder / "encoder.safetensors"
            start = f", and --init {weights} to start from its weights" if weights.exists() else ""
            then, now = (begun.fingerprint, self.fingerprint) if same else ("other content", "the same names")
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
        free = ("steps", "save_every", "keep_states", "health_every", "shard", "checkpoint_activations", "compile")
        return before.changed(**{field: getattr(fresh, field) for field in free})

    def planned_cache(self) -> tuple[Any, Line]:
        """What of the items is kept decoded, and the line of the plan that says so."""
        modality: Any = self.data.modality
        most = None if self.job.cache is None else int(self.job.cache * 2**30)
        passes = self.loop.steps * self.loop.batch / self.items
        plan: Any = None
        why = "the data are at rest decoded, or there is no place for more"
        if not hasattr(modality, "plan_cache"):
            why = f"{modality.name} data are read anew each time"
        if self.before is not None:
            plan = self.before.cache and modality.CachePlan.model_validate(self.before.cache)
        elif most == 0 or passes < 1.5:
            why = "given" if most == 0 else "the data are read once"
        elif hasattr(modality, "plan_cache"):
            plan = modality.plan_cache(self.data.source, self.readable, self.views, most)
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


def same_stats(then: dict[str, Any], now: Record) -> bool:
    """Whether a run began with these statistics; a field may be younger than the run."""
    try:
        return type(now).model_validate(then) == now
    except ValidationError:
        return False


def check_fit(method: Method, encoder: Encoder, budget: Budget, name: str) -> None:
    """Raise UserError where the method cannot work with this encoder, or in a run of this size."""
    cures = {
        "tokens": "Choose a vision transformer, as --encoder vit_tiny_patch16_224 (at 32 px vit_tiny_patch4_32), for "
        "sound vit_tiny_patch16, series vit_nano, texts bert-tiny, tables ft-tiny.",
        "maps": "Choose a network with dense features, as --encoder resnet18.",
        "steps": "It learns from series, as sensors give them.",
        "pieces": "Choose a method that does not cut its views into pieces.",
        "words": "It learns from text alone, with a transformer, as bert-tiny; for other data choose another method.",
    }
    for need in method.needs:
        if not getattr(encoder, f"has_{need}"):
            raise UserError(
                f"--method {type(method).name} needs an encoder with {need}; {name} has none. {cures[need]}"
            )
    wrong = [f"{text[0].upper()}{text[1:].rstrip('.')}." for text in method.misfits(budget)]
    if wrong:
        raise UserError(f"--method {type(method).name} does not go together with this run. {' '.join(wrong)}")


def check_kind(name: str, kind: str) -> None:
    """Raise UserError where a network is known for other kinds of data, and not for this one."""

    def knows(one: str) -> bool:
        modality: Any = modalities.load(one)
        stems = {stem(known) for known in modality.network_names()} if hasattr(modality, "network_names") else set()
        return stem(name) in stems

    own = ":" in name and not name.endswith(":class")
    if own or kind not in modalities.names() or knows(kind):
        return
    if others := [one for one in modalities.names() if one != kind and knows(one)]:
        usual = modalities.load(kind).default_encoder(64, False)
        raise UserError(
            f"--encoder {name} is a network for {' and '.join(others)}; this data is read as {kind}. Leave --encoder "
            f"out, or name one for {kind}, as {usual}; or say with --modality what the data are."
        )


def stem(name: str) -> str:
    """The name of a network without what may follow it: width, pooling, size of patches."""
    return re.sub(r"(@|:|_patch).*", "", name)


def show_lines(lines: list[Line]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for line in lines:  # as they are: the name of a column may look like rich's markup
        table.add_row(Text(line.name), Text(line.value), Text(line.why, style="dim"))
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


def differing(lines: list[Line], others: Sequence[Line]) -> list[Line]:
    """Those that another plan does not have so."""
    then = {line.name: line for line in others}
    return [line for line in lines if then.get(line.name) != line]


def shown_stats(stats: Any) -> str:
    """What was measured, in words; of a table without its columns, which have lines of their own."""
    return getattr(stats, "brief", getattr(stats, "summary", ""))


def settings_line(method: Method) -> str:
    return ", ".join(f"{name} {getattr(method, name)}" for name in sorted(method.model_fields_set))


def changed_line(views: dict[str, Any]) -> str:
    """The strengths given on top of the recipe, as in: one.area 0.2 to 1.0, one.flip 0.0."""
    given = [(name, value if isinstance(value, list | tuple) else [value]) for name, value in flat(views)]
    return ", ".join(f"{name} {' to '.join(map(str, ends))}" for name, ends in given if name != "name")
