"""Where the time of a step goes: the training loop's own step, with a stopwatch."""

import resource
import sys
import time
from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import nn

from selfsame.engine import dist
from selfsame.engine.compiling import compiled, tried_out
from selfsame.engine.feed import Steps, feed
from selfsame.engine.loop import Loop, MakeViews, one_step
from selfsame.engine.optim import make_optimizer
from selfsame.types import Learner

__all__ = ["PARTS", "peak", "timed_steps"]

PARTS = ("waiting", "move", "views", "forward", "target", "backward", "update", "after")
"""In their order: for the reading processes; to the device; device half; forward, without and in the target; backward;
the optimiser; what the learner does after a step (the target's average, a queue)."""


def peak(on: torch.device) -> int:
    """Bytes of memory at the peak of this process so far: of the GPU, where it works on one."""
    if on.type == "cuda":
        return torch.cuda.max_memory_allocated(on)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Stopwatch:
    """Seconds by part. Waits for the device at each lap, so that a part is charged for its own work."""

    def __init__(self, on: torch.device) -> None:
        self.on = on
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = self.now()
        self.seconds[part] += now - self.last
        self.last = now

    def now(self) -> float:
        if self.on.type == "cuda":
            torch.cuda.synchronize(self.on)
        elif self.on.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()


def timed_steps(
    learner: Learner, steps: Steps, make_views: MakeViews, loop: Loop, on: torch.device, workers: int, count: int
) -> dict[str, float]:
    """Seconds of each of PARTS in a step, the mean of `count` steps after some uncounted ones. Trains the learner.

    The forward pass of a module that the learner calls `target` is counted by itself.
    """
    optimizer = make_optimizer(loop.optimizer, learner, loop.lr, loop.weight_decay)
    forward = dist.wrap(compiled(learner, loop.precision) if loop.compile else learner, on)
    learner.train()
    watch = Stopwatch(on)
    inside = watch_target(learner, watch)
    before = 4 if loop.compile else 2  # in which networks are compiled, or passes recorded
    with tried_out():
        for done, batch in enumerate(feed(steps, 0, before + count, workers, pin=on.type == "cuda")):
            if done == before:
                watch.seconds.clear()
                inside.clear()
            watch.lap("waiting" if done > before else "first")
            ready = partial(learner.before_update, done / (before + count))
            one_step(forward, optimizer, batch, make_views, loop, steps.rows, on, watch.lap, ready)
            learner.after_step(done / (before + count))
            watch.lap("after")
    seconds = {part: watch.seconds[part] / count for part in PARTS}
    seconds["waiting"] = watch.seconds["waiting"] / max(1, count - 1)
    seconds["target"] = sum(inside) / count
    seconds["forward"] -= seconds["target"]
    return seconds


def watch_target(learner: nn.Module, watch: Stopwatch) -> list[float]:
    """A list that gets the seconds of each pass through `learner.target`."""
    inside: list[float] = []
    began: list[float] = []

    def enter(*_: Any) -> None:
        began.append(watch.now())

    def leave(*_: Any) -> None:
        inside.append(watch.now() - began.pop())

    target = getattr(learner, "target", None)
    if isinstance(target, nn.Module):
        target.register_forward_pre_hook(enter)
        target.register_forward_hook(leave)
    return inside
