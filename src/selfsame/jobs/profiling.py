"""What `profile` does: the parts of a real training, its worker half and its steps timed."""

import time
from typing import Any

import torch

from selfsame.engine import dist
from selfsame.engine.feed import CUT, Steps
from selfsame.engine.stopwatch import PARTS, timed_steps
from selfsame.engine.watch import console
from selfsame.jobs.pretrain import Pretrain
from selfsame.jobs.pretraining import Pretraining
from selfsame.records import ViewPlan
from selfsame.types import Draws

MEANING = {
    "waiting": "for the reading processes",
    "move": "samples to the device",
    "views": "device half: what is random beside the cut",
    "forward": "online network and loss",
    "target": "the slow copy's forward pass",
    "backward": "gradients",
    "update": "optimiser",
    "after": "average of the target",
    "read": "the file and its header",
    "decode": "to pixels",
    "cut": "crops, resized",
    "sample": "read, decoded and cut",
}
READ = 64  # items whose reading is timed


def profiled(job: Pretrain, count: int) -> dict[str, Any]:
    """Time `count` steps and the reading of some items; print both, and what holds the training up."""
    work = Pretraining(job)
    work.opened()
    learner = work.prepared()
    steps = work.steps(learner.by_item)
    reading = {"from the files": timed_reading(work, steps, work.data.source)}
    parts = timed_steps(learner, steps, work.make_views, work.loop, work.on, work.workers, count)
    if work.cache is not None:  # what these steps have read lies in the cache now: the second pass is the rule
        reading["from the cache"] = timed_reading(work, steps, steps.source.source)
        parts = timed_steps(learner, steps, work.make_views, work.loop, work.on, work.workers, count)
    result = {
        "parts": {part: parts[part] for part in PARTS},
        "reading": reading,
        "items_per_second": work.loop.batch / sum(parts.values()),
        "batch": work.loop.batch,
        "workers": work.workers,
        "encoder": work.name,
        "size": work.size,
        "machine": dist.machine(work.on),
    }
    show(result)
    return result


def timed_reading(work: Pretraining, steps: Steps, source: Any) -> dict[str, float]:
    """Seconds of an item in the worker half, by part, in this process on one thread; the second of two passes.

    An item that is paired with a related one costs two.
    """
    items = steps.items_at(0).tolist()[:READ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a reading process has
    try:
        for _ in range(2):
            draws = Draws(work.loop.seed, 0, len(items), stream=CUT)
            parts = timed_sample(work.data.modality, source, items, work.method.plan, work.views, draws)
    finally:
        torch.set_num_threads(threads)
    read = 1 if steps.related is None else 2
    return {part: read * seconds / len(items) for part, seconds in parts.items()}


def timed_sample(
    modality: Any, source: Any, items: list[int], plan: ViewPlan, views: Any, draws: Draws
) -> dict[str, float]:
    """Seconds of the worker half by the parts that the modality tells apart; as one where it tells none."""
    if hasattr(modality, "timed_sample"):
        return modality.timed_sample(source, items, plan, views, draws)
    began = time.perf_counter()
    modality.sample(source, items, plan, views, draws)
    return {"sample": time.perf_counter() - began}


def show(result: dict[str, Any]) -> None:
    from rich.table import Table

    parts, reading = result["parts"], result["reading"]
    total = sum(parts.values())
    steps = Table("part of a step", box=None, padding=(0, 2, 0, 0))
    for heading in ("ms", "%"):
        steps.add_column(heading, justify="right")
    steps.add_column("")
    for part, seconds in parts.items():
        steps.add_row(part, f"{seconds * 1e3:.1f}", f"{seconds / total:.0%}", f"[dim]{MEANING[part]}[/dim]")
    steps.add_row("all", f"{total * 1e3:.1f}", "", f"[dim]{result['batch']} items[/dim]")
    items = Table("reading an item", box=None, padding=(0, 2, 0, 0))
    for place in reading:
        items.add_column(f"ms {place.removeprefix('from the ')}", justify="right")
    items.add_column("")
    for part in next(iter(reading.values())):
        items.add_row(part, *(f"{one[part] * 1e3:.2f}" for one in reading.values()), f"[dim]{MEANING[part]}[/dim]")
    console.print(steps, "", items, "", verdict(result))


def verdict(result: dict[str, Any]) -> str:
    """The speed, and what holds it up, in one line."""
    parts, workers = result["parts"], result["workers"]
    total = sum(parts.values())
    feeding = max(1, workers) / sum(list(result["reading"].values())[-1].values())
    readers = f"{workers} process{'es' if workers > 1 else ''}" if workers else "the training process itself"
    speed = f"{result['items_per_second']:,.0f} items/s: {1 - parts['waiting'] / total:.0%} of the time it computes"
    if parts["waiting"] < 0.1 * total:
        return f"{speed}. Reading keeps up: {readers} can read about {feeding:,.0f} items/s."
    wanted = result["batch"] / (total - parts["waiting"])
    return (
        f"{speed}, else it waits. It could use {wanted:,.0f} items/s, and {readers} can read about {feeding:,.0f}. "
        "Give more --workers, or a --cache that holds all."
    )
