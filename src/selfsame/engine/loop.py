"""The training loop. Knows steps, devices and files; knows no method and no modality.

Everything random or scheduled is a function of the step, so that a run stopped anywhere goes on as if it had not been.
"""

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from selfsame.engine import dist, shard
from selfsame.engine.compiling import as_it_is, compiled, tried_out
from selfsame.engine.feed import VIEW, Batch, Steps, feed
from selfsame.engine.health import ADVICE
from selfsame.engine.optim import Name, Schedule, clip, decay_at, lr_at, make_optimizer, set_rates
from selfsame.engine.state import States, resume, write_text, write_whole
from selfsame.engine.watch import Watch
from selfsame.errors import TrainingStopped, UserError
from selfsame.nn.attention import written_out
from selfsame.nn.columns import widen_single_columns
from selfsame.records import Record
from selfsame.types import Draws, Encoder, Learner, mixed

MakeViews = Callable[[list[Tensor], Draws], list[Tensor]]


class Loop(Record):
    """How long and how fast to train; all derived values are already decided here."""

    steps: int
    batch: int
    """items of one step, over all processes and micro-batches"""
    accumulate: int = 1
    """micro-batches of one step; the target moves once a step"""
    optimizer: Name = "adamw"
    lr: float
    weight_decay: float
    warmup: int
    """steps of linear warm-up"""
    schedule: Schedule = "cosine"
    weight_decay_end: float | None = None
    clip: float | None = None
    precision: Literal["bf16", "fp32"] = "fp32"
    compile: bool = False
    shard: bool = False
    checkpoint_activations: bool = False
    seed: int = 0
    log_every: int = 10
    save_every: int = 500
    keep_states: int = 2
    health_every: int = 50


class Looks(Protocol):
    """Who looks at the learner from time to time: `health.Health`, or the scores of a task."""

    @property
    def encoder(self) -> Encoder: ...

    first: Any
    """what the learner logged of the first step, once `step` was told"""
    verdict: str

    def step(self, logs: Mapping[str, float]) -> None:
        """Take note of what the learner logged of a step."""
        ...

    def measured(self, progress: float, step: int) -> dict[str, Any]:
        """Look after so many steps, the share `progress` of the run; return what is to be logged beside the verdict."""
        ...

    @property
    def hopeless(self) -> bool:
        """Whether the run is to be stopped."""
        ...

    def state(self) -> dict[str, object]: ...
    def restore(self, state: dict[str, object]) -> None: ...


class Interrupted(Exception):
    """The user or the system asked to stop; the state was saved first."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped after step {step}; the state is saved. Run the same command again to go on.")
        self.step = step
        self.signal_number = signal_number


def train(
    learner: Learner,
    steps: Steps,
    make_views: MakeViews,
    loop: Loop,
    folder: Path,
    on: torch.device,
    workers: int,
    health: Looks,
    found: Callable[[dict[int, str]], None],
    probe: Callable[[], dict[str, float]] | None = None,
    survey: Callable[[], Iterator[Batch]] | None = None,
) -> int:
    """Train to `loop.steps` and return the step it began at. The learner must already be on its device.

    Args:
        make_views: the device half of the views.
        found: told of unreadable items when they are met; may raise to stop the run.
        probe: further measures to log with each look at the health (k-NN accuracy where there are labels).
        survey: reads every item as it is, for learners that ask for it.

    Raises:
        TrainingStopped: not a number, or collapsed; the state before it stays, the step is kept in `failure/`.
        Interrupted: after SIGTERM or Ctrl-C, once the state is saved.
    """
    optimizer = make_optimizer(loop.optimizer, learner, loop.lr, loop.weight_decay)
    learner.train()
    if on.type == "cpu" and loop.precision == "bf16":
        widen_single_columns(learner)
    step, extra = resume(folder / "state", learner, optimizer)
    health.restore(extra.get("health", {}))
    if dist.agreed(step, -step) != [step, -step]:
        raise UserError(f"the processes see different states in {folder}. It must be on a disk that all of them share.")
    forward: nn.Module = learner  # one that is divided averages its gradients by itself
    if not loop.shard:
        forward = dist.wrap(compiled(learner, loop.precision) if loop.compile else learner, on)
    watch = Watch(folder, loop.steps, step, loop.batch)
    began = step
    # A host synchronisation each step is free on the CPU and costly on a GPU.
    check_every = 1 if on.type == "cpu" else loop.log_every
    unreadable: dict[int, str] = {}

    def due(every: int) -> bool:
        return step % every == 0 or step == loop.steps

    def examine() -> str | None:
        """Look and log; the verdict where there is no hope."""
        seen = health.measured(step / loop.steps, step)
        more = probe() if probe is not None else {}
        watch.row(step, **seen, verdict=health.verdict, **more)
        return health.verdict if health.hopeless else None

    def looked() -> str | None:
        with as_it_is(), shard.current(health.encoder, learner.encoder, on):
            return dist.by_first(examine)

    with signals() as asked, watch.progress(), tried_out(), States(folder / "state", loop.keep_states) as states:
        if step == 0:
            looked()
        for batch in feed(steps, step, loop.steps, workers, pin=on.type == "cuda"):
            unreadable.update(batch.skipped)
            unreadable.update(surveyed(learner, survey, step, loop, len(steps.items), on))
            lr = lr_at(step, loop.steps, loop.warmup, loop.lr, loop.schedule)
            set_rates(optimizer, lr, loop.lr, decay_at(step, loop.steps, loop.weight_decay, loop.weight_decay_end))
            ready = partial(learner.before_update, step / loop.steps)
            logs = one_step(forward, optimizer, batch, make_views, loop, steps.rows, on, before_update=ready)
            learner.after_step(step / loop.steps)
            step += 1
            watch.tick(step)
            if health.first is None or due(loop.health_every):
                health.step(dist.mean(logs))
            stop = asked[0] if asked and dist.world() == 1 else 0
            if due(check_every) or due(loop.save_every) or stop:
                odd = not bool(torch.isfinite(logs["loss"]))
                signs = odd, asked[0] if asked else 0, bool(unreadable), states.failed
                diverged, stop, met, unwritten = map(int, dist.agreed(*signs))
                if unwritten:
                    states.finish()  # says why
                if met:
                    dist.by_first(partial(found, dist.gathered(unreadable)))
                    unreadable = {}
                if diverged:
                    raise failed("diverging", step, batch, make_views, loop, steps, folder, on)
            if due(loop.log_every):
                watch.row(step, **dist.mean(logs), lr=lr, items_per_second=watch.rate(step))
            if due(loop.health_every):
                hopeless = looked()
                if hopeless:
                    raise failed(hopeless, step, batch, make_views, loop, steps, folder, on)
            if due(loop.save_every) or stop:
                if not finite(learner):  # the step's loss came before its gradient
                    raise failed("diverging", step, batch, make_views, loop, steps, folder, on)
                states.save(step, learner, optimizer, {"health": health.state()})
            if stop and step < loop.steps:
                states.finish()
                raise Interrupted(step, stop)
    return began


@torch.no_grad()
def surveyed(
    learner: Learner, survey: Callable[[], Iterator[Batch]] | None, step: int, loop: Loop, items: int, on: torch.device
) -> dict[int, str]:
    """Let the learner see all items where it wants to, at the first step that begins in a pass over the data.

    So all items have been learned from in the passes before. Returns the unreadable items that were met.
    """
    number = step * loop.batch // items
    if step and number == (step - 1) * loop.batch // items:
        return {}
    if not learner.surveys(number):
        return {}
    if survey is None:
        raise UserError(f"{type(learner).__module__} wants to see all items between passes: `train` needs a survey.")
    met: dict[int, str] = {}

    def look() -> Iterator[tuple[list[Tensor], Tensor]]:
        for batch in survey():
            met.update(batch.skipped)
            assert batch.items is not None
            with torch.autocast(on.type, torch.bfloat16, enabled=loop.precision == "bf16"):
                yield [move(sample, on) for sample in batch.samples], move(batch.items, on)

    torch.manual_seed(mixed(loop.seed, step, 3))
    learner.survey(look())
    return met


def one_step(
    forward: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    make_views: MakeViews,
    loop: Loop,
    rows: slice,
    on: torch.device,
    lap: Callable[[str], None] = lambda part: None,
    before_update: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """One optimiser step over all micro-batches of a batch; what the learner logged, averaged over them.

    `lap` is told the name of each part when it ends, for `profile`. `before_update` runs when the gradients are there.
    """
    # Whatever the learner draws (dropout, an adversary's start) is a function of the step and the process.
    torch.manual_seed(mixed(loop.seed, batch.step, 2, dist.rank()))
    optimizer.zero_grad(set_to_none=True)
    logs: dict[str, Tensor] = {}
    for number, (samples, draws, items) in enumerate(parts(batch, loop, rows), 1):
        items = items if items is None else move(items, on)
        moved = [move(sample, on) for sample in samples]
        lap("move")
        views = make_views(moved, draws)
        lap("views")
        # Around the backward pass too: what is recomputed there must be computed in the same way.
        quick = written_out() if on.type == "cpu" and loop.precision == "bf16" else nullcontext()
        with dist.summing(forward, last=number == loop.accumulate), quick:
            with torch.autocast(on.type, torch.bfloat16, enabled=loop.precision == "bf16"):
                out = forward(views) if items is None else forward(views, items)
            lap("forward")
            (out.loss / loop.accumulate).backward()
        lap("backward")
        for name, value in {"loss": out.loss, **out.logs}.items():
            share = value.detach() / loop.accumulate
            logs[name] = logs[name] + share if name in logs else share
    before_update()
    clip(optimizer, loop.clip)
    optimizer.step()
    lap("update")
    return logs


def parts(batch: Batch, loop: Loop, rows: slice) -> Iterator[tuple[list[Tensor], Draws, Tensor | None]]:
    """The micro-batches of a step: near-equal cuts of this process's rows, each with its own rows' random numbers."""
    mine = range(*rows.indices(loop.batch))
    edges = [len(mine) * k // loop.accumulate for k in range(loop.accumulate + 1)]
    for low, high in pairwise(edges):
        cut = mine[low:high]
        draws = Draws(loop.seed, batch.step, loop.batch, slice(cut.start, cut.stop, cut.step), VIEW)
        yield (
            [sample[low:high] for sample in batch.samples],
            draws,
            None if batch.items is None else batch.items[low:high],
        )


def finite(learner: nn.Module) -> bool:
    parameters = [shard.local(p.detach()) for p in learner.parameters()]
    return bool(shard.norms(parameters, shard.divided(next(learner.parameters()))).isfinite().all())


def move(sample: Tensor, on: torch.device) -> Tensor:
    return sample.to(on, non_blocking=True)


def failed(
    verdict: str,
    step: int,
    batch: Batch,
    make_views: MakeViews,
    loop: Loop,
    steps: Steps,
    folder: Path,
    on: torch.device,
) -> TrainingStopped:
    """Keep what the last step saw in failure/, and build the error that says why the run ends here."""
    name = f"{verdict} found after step {step}"
    if dist.first():
        made = [
            [view.detach().cpu() for view in make_views([move(sample, on) for sample in samples], draws)]
            for samples, draws, _ in parts(batch, loop, steps.rows)
        ]
        content = {f"view_{k}": torch.cat(views).contiguous() for k, views in enumerate(zip(*made, strict=True))}
        place = folder / "failure"
        write_whole(place / f"step-{step:09d}.safetensors", lambda draft: save_file(content, draft))
        items = [steps.source.name(int(i)) for i in steps.items_at(batch.step)]
        story = {"verdict": verdict, "step": step, "items": items, "loop": loop.model_dump(mode="json")}
        write_text(place / f"step-{step:09d}.json", json.dumps(story, indent=1))
    return TrainingStopped(
        f"{name}. {ADVICE[verdict]} The step's items and views are in {folder / 'failure'}; "
        "the states saved before it are untouched."
    )


@contextmanager
def signals() -> Iterator[list[int]]:
    """A list that gets the number of a signal that asks to stop; a second Ctrl-C ends at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    with stopping(note):
        yield asked


@contextmanager
def stopping(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Under it, `handler` is told of the signals that ask to stop: SIGTERM, Ctrl-C, and SIGUSR1 of batch systems."""
    before: dict[int, Any] = {}
    try:
        for wanted in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGTERM)):
            before.setdefault(wanted, signal.signal(wanted, handler))
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
