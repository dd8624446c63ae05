"""What `plan` does: decide as `pretrain` does, count a step, measure the reading, and price both."""

from typing import Any

import numpy as np
import torch

from selfsame.engine import dist
from selfsame.engine.cards import Card
from selfsame.engine.cost import SHARE, Cost, Counted, Job, priced, times
from selfsame.engine.feed import CUT, VIEW, Patient
from selfsame.engine.plan import Line
from selfsame.engine.rehearse import rehearsed
from selfsame.engine.watch import duration, say
from selfsame.errors import UserError
from selfsame.jobs.data import describe, lines_of_columns
from selfsame.jobs.deciding import count, show_lines
from selfsame.jobs.pretrain import Pretrain
from selfsame.jobs.pretraining import Pretraining
from selfsame.jobs.profiling import timed_reading
from selfsame.nn.blocks import recomputed
from selfsame.types import Draws, Learner, mixed

SHOWN = 4  # items whose samples say what a batch looks like
WEIGHED = 1000  # items whose bytes at rest are looked up
CORES = 16  # of a GPU; servers of eight GPUs have 96 to 192 cores
DEARER = 1.2  # times as long as without sharing statistics: worth a word
WAITING = 0.2  # share of a step in exchanges that is worth a word


def priced_on(job: Pretrain, card: Card, gpus: int, items: int | None, network: float | None) -> dict[str, Any]:
    """Price the job on cards, and print it."""
    work = opened(job.changed(precision=job.precision or "bf16"), items)
    work.on = torch.device("cuda")  # for what is decided by the kind of device; nothing is put there
    learner, problems = fitting(work, gpus)
    asked = asked_of(work)
    counted = counted_of(work, learner, rows_of(work, gpus), gpus)
    cost = priced(counted, asked, card, gpus, network)
    if gpus > 1:
        problems += dearer(work, counted, counted_of(work, learner, rows_of(work, gpus), 1), card)
    problems += misfits(work, cost, card, gpus) + unsaid(work, counted) + cautions(work)
    lines = [*lines_of_job(work, learner), *lines_of_cost(cost, asked, card, gpus)]
    said(lines, problems, MODEL.format(share=SHARE, machine=dist.machine(torch.device("cpu"))))
    return {
        **document(work, asked, problems),
        "gpus": gpus,
        "card": card.changed(network=network or card.network).model_dump(),
        "cost": cost.model_dump(),
    }


def measured(job: Pretrain, items: int | None) -> dict[str, Any]:
    """Measure a step of the job on this machine, and print what the whole would take."""
    work = opened(job, items)
    learner = work.prepared()
    asked = asked_of(work)
    step, memory = work.trial(learner, work.steps(learner.by_item))
    try:
        flops: float | None = flops_of(counted_of(work, learner.to("cpu"), rows_of(work, 1), 1))
    except UserError:  # it cannot be counted; it was measured all the same
        flops = None
    seconds = step * asked.steps
    found = {
        "step": step,
        "memory": memory,
        "items_a_second": asked.batch / step,
        "flops": flops,
        "seconds": seconds,
        "storage": {
            "items": asked.items * asked.at_rest,
            "cache": None if asked.cached is None else asked.items * asked.cached,
        },
    }
    rate = asked.batch / step
    shown = f"{flops * rate / 1e9:,.0f} GFLOP/s" if flops else "its arithmetic cannot be counted without running it"
    lines = [
        *lines_of_job(work, learner),
        Line(name="a step", value=duration_of(step), why=f"measured in a trial step; {rate:,.1f} items/s, {shown}"),
        Line(name="memory", value=size(memory), why="measured, the peak of the process"),
        *lines_of_storage(asked),
        Line(name="time", value=duration(seconds), why=f"{asked.steps:,} steps as long as the one measured"),
    ]
    said(lines, cautions(work), f"Measured on {dist.machine(work.on)}.")
    return {**document(work, asked, []), "gpus": 0, "machine": dist.machine(work.on), "measured": found}


# What is asked -------------------------------------------------------------------------------------------------------


def opened(job: Pretrain, items: int | None) -> Pretraining:
    """The data opened and measured; counted as so many, where that is asked."""
    if dist.world() > 1:
        raise UserError("selfsame plan prices any number of GPUs in one process. Start it without torchrun.")
    work = Pretraining(job)
    work.opened()
    work.items = items or work.items
    return work


def fitting(work: Pretraining, gpus: int) -> tuple[Learner, list[str]]:
    """The learner, decided for a batch that can be divided over the cards, and what was wrong with the one asked."""
    encoder = work.decided()
    batch, turns = work.loop.batch, work.loop.accumulate
    least = gpus * turns
    if batch % gpus == 0 and batch // least >= 2:
        return built(work, encoder), []
    why = (
        f"leaves fewer than 2 items for each micro-batch of {gpus:,} GPUs; batch statistics need two"
        if batch // least < 2
        else f"cannot be divided over {gpus:,} GPUs"
    )
    nearest = max(2, round(batch / least)) * least
    if nearest > work.items:
        raise UserError(
            f"--batch-size {batch:,} {why}, and the {work.items:,} items to learn from are fewer than the least that "
            f"would do ({2 * least:,}). Give fewer --gpus, or more data (--items asks about such)."
        )
    work.job = work.job.changed(batch_size=nearest)
    encoder = work.decided()
    said_so = f"--batch-size {batch:,} {why}. What stands here is for --batch-size {nearest}, the nearest that works."
    return built(work, encoder), [said_so]


def built(work: Pretraining, encoder: Any) -> Learner:
    learner = work.method.build(encoder, work.items).to(memory_format=torch.channels_last)
    if work.loop.checkpoint_activations:
        recomputed(learner.encoder)
    return learner


def rows_of(work: Pretraining, gpus: int) -> int:
    """Items of the largest micro-batch of a card."""
    return -(-work.loop.batch // (gpus * work.loop.accumulate))


def counted_of(work: Pretraining, learner: Learner, rows: int, gpus: int) -> Counted:
    """A micro-batch of this job, counted on views like its own."""
    modality, plan, loop = work.data.modality, work.method.plan, work.loop
    source = Patient(work.data.source, work.learn_from)
    items = work.learn_from[:SHOWN].tolist()
    samples = modality.sample(source, items, plan, work.views, Draws(loop.seed, 0, len(items), stream=CUT))
    views = work.make_views(samples, Draws(loop.seed, 0, len(items), stream=VIEW))

    def device_half(rows: int) -> Any:
        empty = [sample.new_empty((rows, *sample.shape[1:]), device="meta") for sample in samples]
        return work.make_views(empty, Draws(loop.seed, 0, rows, stream=VIEW))

    return rehearsed(learner, views, rows, loop.precision == "bf16", loop.optimizer, gpus > 1, device_half)


def asked_of(work: Pretraining) -> Job:
    """The job in numbers: what was decided, and what reading takes here."""
    steps, loop = work.steps(), work.loop
    from_files = timed_reading(work, steps, work.data.source)
    # Through the cache twice: the first pass fills it, the second is timed.
    from_cache = timed_reading(work, steps, steps.source.source) if work.cache is not None else None
    return Job(
        items=work.items,
        batch=loop.batch,
        steps=loop.steps,
        accumulate=loop.accumulate,
        keep_states=loop.keep_states,
        at_rest=at_rest(work),
        cached=kept(work),
        read_files=sum(from_files.values()),
        read_cache=sum(from_cache.values()) if from_cache else None,
    )


def at_rest(work: Pretraining) -> float:
    """Mean bytes of an item where it lies, from a sample."""
    drawn = np.random.default_rng(mixed(work.job.seed, 13)).permutation(work.learn_from)[:WEIGHED]
    return float(np.mean([work.data.source.stored(int(i)) for i in drawn]))


def kept(work: Pretraining) -> float | None:
    """Mean bytes of an item in a cache that holds all; None where there is none."""
    if work.cache is None:
        return None
    modality: Any = work.data.modality  # one that plans a cache
    plan = modality.plan_cache(work.data.source, work.readable, work.views, 2**62)
    return plan.bytes / len(work.readable)


def flops_of(counted: Counted) -> float:
    return sum(operation.flops for operation in counted.operations) / counted.rows


# What does not work --------------------------------------------------------------------------------------------------


def misfits(work: Pretraining, cost: Cost, card: Card, gpus: int) -> list[str]:
    """What would go wrong on these cards, each with its cure."""
    found = []
    memory, total, talk = cost.memory, cost.total, cost.network
    if memory.total > memory.room:
        found.append(too_large(work, cost, card))
    waiting = 1 - cost.compute.seconds / total.step
    if waiting > WAITING:
        cure = "Fewer GPUs with more items each wait less"
        if talk.statistics_seconds > total.step * WAITING and "norm" in type(work.method).model_fields:
            cure += f"; most of it is for {talk.exchanges - work.loop.accumulate:,} exchanges of batch statistics, "
            cure += "which --method.norm group does without"
        found.append(f"the cards wait {waiting:.0%} of a step for one another. {cure}.")
    feeding = cost.feeding
    cores = feeding.cores_files if feeding.cores_cache is None else feeding.cores_cache
    if cores > CORES:
        place = "" if feeding.cores_cache is None else " from the cache"
        found.append(
            f"feeding a GPU{place} takes {cores:,.0f} cores such as these; usual servers have 12 to 24. "
            "The cards would wait: count with the cores you have."
        )
    return found


def dearer(work: Pretraining, counted: Counted, alone: Counted, card: Card) -> list[str]:
    """What sharing batch statistics costs a card in work of its own, where that is much."""
    ratio = sum(seconds for _, seconds in times(counted, card)) / sum(seconds for _, seconds in times(alone, card))
    if ratio < DEARER:
        return []
    cure = "; nor does --method.norm group" if "norm" in type(work.method).model_fields else ""
    return [
        f"with batch statistics shared, a card computes {ratio:.1f} times as long as one alone: plain operations take "
        "and use them, and read and write each map many times. Networks without batch norm, such as vision "
        f"transformers, do not pay this{cure}."
    ]


def too_large(work: Pretraining, cost: Cost, card: Card) -> str:
    memory, turns, rows = cost.memory, work.loop.accumulate, cost.compute.items // work.loop.accumulate
    steady = memory.weights + memory.optimizer + memory.gradients
    growing = memory.activations + memory.views
    text = f"{size(memory.total)} do not fit into the {size(memory.room)} of a {card.name} that can be used. "
    if steady >= memory.room:
        return f"{text}The weights and what belongs to them ({size(steady)}) are too large alone: divide them, --shard."
    more = -(-growing // (memory.room - steady))
    cures = ["--checkpoint-activations, which computes the forward pass twice", "a smaller --batch-size, more --gpus"]
    if rows // more >= 2:
        cures.insert(0, f"--accumulate {turns * more}")
    if steady > memory.room // 2:
        cures.append("--shard")
    return f"{text}Give {'; or '.join(cures)}."


def cautions(work: Pretraining) -> list[str]:
    """What the data themselves give to think of."""
    return list(getattr(work.data.stats, "cautions", []))


def unsaid(work: Pretraining, counted: Counted) -> list[str]:
    """What the model leaves out of this job."""
    found = []
    if work.loop.compile:
        found.append("what --compile gains is not in this model: it is of an eager step.")
    if not counted.views_counted:
        found.append("the device half of the views cannot be counted without values, and is left out.")
    return found


# What is shown -------------------------------------------------------------------------------------------------------

MODEL = (
    "This is a model, nothing here was run on such a card. Counted: FLOPs, bytes and exchanges of a step, memory. "
    "Measured, on {machine}: reading, and the bytes of the items. Published: the cards. Assumed: a step reaches "
    "{share:.0%} of the card's roofline, as ResNet-50 does on an A100 in NVIDIA's figures, and has all cores it asks "
    "for. Expect up to half more or less. See docs/scale.md."
)


def document(work: Pretraining, asked: Job, problems: list[str]) -> dict[str, Any]:
    return {
        "encoder": work.name,
        "size": work.size,
        "method": type(work.job.method).name,
        "precision": work.loop.precision,
        "optimizer": work.loop.optimizer,
        "job": asked.model_dump(),
        "problems": problems,
    }


def lines_of_job(work: Pretraining, learner: Learner) -> list[Line]:
    loop, items = work.loop, work.items
    here = describe(work.data)
    learned = f"{len(work.learn_from):,} to learn from"
    told = work.data.modality.size_told(work.size, work.data.stats)
    return [
        Line(
            name="data", value=f"{items:,} items", why=here if items != len(work.learn_from) else f"{here}, {learned}"
        ),
        *lines_of_columns(work.data),
        Line(name="encoder", value=f"{work.name}, {told}", why=f"{count(learner.encoder):.1f} M parameters"),
        Line(name="method", value=type(work.job.method).name, why=f"{loop.optimizer}, {loop.precision}"),
        Line(
            name="steps",
            value=f"{loop.steps:,}",
            why=f"{loop.steps * loop.batch / items:,.4g} epochs in batches of {loop.batch:,}",
        ),
    ]


def lines_of_cost(cost: Cost, asked: Job, card: Card, gpus: int) -> list[Line]:
    compute, memory, talk, total = cost.compute, cost.memory, cost.network, cost.total
    lines = [
        Line(
            name="computing",
            value=f"{compute.flops / 1e9:,.1f} GFLOP, {size(compute.bytes)} an item",
            why=f"counted; {compute.limit:,.0f} items/s at the peak of {card.name}, {card.bf16:g} TFLOP/s in bf16",
        ),
        Line(
            name="a step",
            value=duration_of(total.step),
            why=f"{compute.items:,} items a GPU; {compute.share:.0%} of the peak while it computes "
            f"({duration_of(compute.seconds)})",
        ),
        Line(
            name="memory",
            value=f"{size(memory.total)} of {size(memory.room)}",
            why=f"counted: weights {size(memory.weights)}, optimiser {size(memory.optimizer)}, gradients "
            f"{size(memory.gradients)}, activations {size(memory.activations)}, views {size(memory.views)}",
        ),
    ]
    if gpus > 1:
        shown = talk.gradient_seconds - talk.hidden_seconds
        lines += [
            Line(
                name="gradients",
                value=f"{size(talk.gradients)} a step",
                why=f"summed over all GPUs in {duration_of(talk.gradient_seconds)}, {duration_of(shown)} of it seen",
            ),
            Line(
                name="statistics",
                value=f"{talk.exchanges - asked.accumulate:,} exchanges",
                why=f"{size(talk.statistics)} given by each, {duration_of(talk.statistics_seconds)} that nothing hides",
            ),
        ]
    lines += [*lines_of_storage(asked), *lines_of_feeding(cost, asked, gpus)]
    return [
        *lines,
        Line(
            name="time",
            value=duration(total.seconds),
            why=f"{total.items_a_second:,.0f} items/s on {gpus:,} x {card.name}",
        ),
        Line(
            name="GPU-hours",
            value=f"{total.gpu_hours:,.1f}",
            why=f"{total.kwh:,.0f} kWh at the cards' full power, servers and cooling not counted",
        ),
    ]


def lines_of_storage(asked: Job) -> list[Line]:
    read = f"measured: {asked.read_files * 1e3:.2f} ms of a core to read an item"
    lines = [
        Line(name="at rest", value=size(asked.items * asked.at_rest), why=f"{size(asked.at_rest)} an item; {read}")
    ]
    if asked.cached is not None and asked.read_cache is not None:
        why = f"{size(asked.cached)} an item, decoded; {asked.read_cache * 1e3:.2f} ms of a core"
        lines.append(Line(name="cache", value=size(asked.items * asked.cached), why=why))
    return lines


def lines_of_feeding(cost: Cost, asked: Job, gpus: int) -> list[Line]:
    feeding, storage = cost.feeding, cost.storage
    cached = "" if feeding.cores_cache is None else f", {feeding.cores_cache:.1f} from the cache"
    return [
        Line(
            name="cores a GPU",
            value=f"{feeding.cores_files:.1f} from the files{cached}",
            why=f"to read {feeding.items_a_second:,.0f} items/s, cores such as this machine's",
        ),
        Line(
            name="disk",
            value=f"{size(storage.read_a_second)}/s",
            why=f"from the files for {'all GPUs' if gpus > 1 else 'the GPU'}; {asked.keep_states} saved states are "
            f"{size(storage.states)}",
        ),
    ]


def said(lines: list[Line], problems: list[str], end: str) -> None:
    show_lines(lines)
    for text in problems:
        say(f"caution: {text}", "yellow")
    say(end, "dim")


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000:
            return f"{count:,.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB" if count < 1000 else f"{count:,.0f} PB"


def duration_of(seconds: float) -> str:
    """A short time: that of a step."""
    return f"{seconds * 1e3:,.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"
