"""What a training would cost on given cards: a model, made of what was counted, measured, published and assumed.

The time of an operation is the longer of its arithmetic at the card's peak and its bytes at the bandwidth of the
card's memory (the roofline: Williams, Waterman & Patterson 2009); a step reaches SHARE of that. The time of an
exchange between cards is that of NCCL's own model. docs/scale.md has the formulas and worked answers.
Loads no torch.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field

from selfsame.engine.cards import Card
from selfsame.records import Record

__all__ = ["Compute", "Cost", "Counted", "Exchange", "Feeding", "Job", "Memory", "Network", "Operation", "Storage",
           "Total", "gathered_in", "priced", "reduced_in", "roofline", "times"]  # fmt: skip

SHARE = 0.573
"""Of the roofline that an eager step reaches: NVIDIA's 2,470 images/s of ResNet-50 on an A100 in mixed precision
(DeepLearningExamples, ResNet50v1.5 of PyTorch, DGX A100 80GB) over what this model says of that step. bench/scale.py
makes the figure, and sets others beside it that it was not fitted to."""
LAUNCH = 5e-6  # seconds: assumed of an eager operation on the processor that starts it; a step takes no less
WIRE = 0.8  # share of a link's bandwidth that a large exchange reaches: assumed
FREE = 0.1  # of a card's memory left for its driver, workspaces of kernels, and fragments: assumed
TREE, RING = 6.8e-6, 6.6e-6  # seconds to begin, NCCL's model (src/graph/tuning.cc, protocol LL)
TREE_HOP, RING_HOP = 5.0e-6, 2.7e-6  # seconds to another server, the same


class Operation(NamedTuple):
    """One operation of a step."""

    part: str
    """of the step, as in `stopwatch.PARTS`"""
    flops: int
    bytes: int
    """read and written"""
    half: bool
    """whether it takes numbers of 16 bits"""


class Exchange(NamedTuple):
    """One exchange between all processes, in which each gives so many bytes."""

    gather: bool
    """each gets what all gave; else each gets the sum"""
    bytes: int


@dataclass(frozen=True)
class Counted:
    """One process's micro-batch, counted by `rehearse`. Sizes in bytes."""

    rows: int
    """items of the micro-batch"""
    operations: tuple[Operation, ...]
    exchanges: tuple[Exchange, ...]
    """beside that of the gradients"""
    gradients: int
    weights: int
    """of online and target network, with what is no parameter"""
    kept: int
    """by the optimiser"""
    views: int
    peak: int
    """that lives at once beside weights and views: activations, gradients, what comes between"""
    views_counted: bool
    """whether the device half of the views is among the operations"""


class Job(Record):
    """What is asked."""

    items: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    """items of a step, over all processes"""
    steps: Annotated[int, Field(ge=1)]
    accumulate: Annotated[int, Field(ge=1)] = 1
    keep_states: Annotated[int, Field(ge=1)] = 2
    at_rest: float
    """bytes of an item"""
    cached: float | None = None
    """bytes of an item in a cache; None where none is kept"""
    read_files: float
    """seconds that one core takes to read, decode and cut an item"""
    read_cache: float | None = None
    """the same from the cache"""


class Compute(Record):
    """On each card."""

    items: int
    """of a step"""
    flops: float
    """of an item: all its views, forward and backward"""
    bytes: float
    """read and written in the card's memory for an item"""
    operations: int
    """of a step"""
    seconds: float
    """of a step, without exchanges"""
    share: float
    """of the card's peak"""
    limit: float
    """items a second at the card's peak, if nothing but arithmetic took time"""
    parts: dict[str, float]
    """seconds of a step"""


class Memory(Record):
    """Of each card, in bytes."""

    weights: int
    optimizer: int
    gradients: int
    """twice where there are several cards, which exchange them from a second copy"""
    activations: int
    views: int
    total: int
    room: int
    """what the card has for all this"""


class Network(Record):
    """Of each card and step."""

    gradients: int
    """bytes that are summed over all cards"""
    statistics: int
    """bytes that a card gives to all other exchanges"""
    received: float
    """bytes that a card gets in all of them"""
    exchanges: int
    gradient_seconds: float
    hidden_seconds: float
    """of them, behind the backward pass"""
    statistics_seconds: float
    """which nothing hides"""


class Storage(Record):
    """In bytes."""

    items: float
    cache: float | None
    states: int
    read_a_second: float
    """from the items' place by all cards together"""


class Feeding(Record):
    """Of each card: cores of the processor that the measuring was done on."""

    items_a_second: float
    cores_files: float
    cores_cache: float | None


class Total(Record):
    step: float
    """seconds"""
    steps: int
    items_a_second: float
    """of all cards"""
    seconds: float
    gpu_hours: float
    kwh: float
    """at the full power of the cards, without servers and cooling"""


class Cost(Record):
    """The answer."""

    compute: Compute
    memory: Memory
    network: Network
    storage: Storage
    feeding: Feeding
    total: Total


def priced(counted: Counted, job: Job, card: Card, gpus: int, network: float | None = None) -> Cost:
    """What the job costs on so many cards; `network` is the GB/s a card has to other servers, where it is known.

    The micro-batch that was counted must be that of one card.
    """
    turns = job.accumulate
    parts = {part: seconds * (1 if part in ("update", "after") else turns) for part, seconds in times(counted, card)}
    working = sum(parts.values())
    talk = exchanged(counted, card, gpus, parts.get("backward", 0.0) / turns, turns, network)
    step = working + talk.gradient_seconds - talk.hidden_seconds + talk.statistics_seconds
    rate, rows = job.batch / step, counted.rows * turns
    mine = rate / gpus
    flops = sum(operation.flops for operation in counted.operations) / counted.rows
    peak = max(1e-30, sum(operation.flops / peak_of(operation, card) for operation in counted.operations))
    seconds = step * job.steps
    return Cost(
        compute=Compute(
            items=rows,
            flops=flops,
            bytes=sum(operation.bytes for operation in counted.operations) / counted.rows,
            operations=len(counted.operations) * turns,
            seconds=working,
            share=peak * turns / working,
            limit=counted.rows / peak,
            parts=parts,
        ),
        memory=needed(counted, card, gpus),
        network=talk,
        storage=Storage(
            items=job.items * job.at_rest,
            cache=None if job.cached is None else job.items * job.cached,
            states=(counted.weights + counted.kept) * job.keep_states,
            read_a_second=rate * job.at_rest,
        ),
        feeding=Feeding(
            items_a_second=mine,
            cores_files=mine * job.read_files,
            cores_cache=None if job.read_cache is None else mine * job.read_cache,
        ),
        total=Total(
            step=step,
            steps=job.steps,
            items_a_second=rate,
            seconds=seconds,
            gpu_hours=seconds * gpus / 3600,
            kwh=seconds * gpus * card.watts / 3.6e6,
        ),
    )


# Computing -----------------------------------------------------------------------------------------------------------


def times(counted: Counted, card: Card) -> list[tuple[str, float]]:
    """(part, seconds) of a micro-batch, in the order they come."""
    names = list(dict.fromkeys(operation.part for operation in counted.operations))
    found = []
    for name in names:
        mine = [operation for operation in counted.operations if operation.part == name]
        found.append((name, max(roofline(mine, card) / SHARE, LAUNCH * len(mine))))
    return found


def roofline(operations: Iterable[Operation], card: Card) -> float:
    """Seconds at the peaks of the card: each operation by its arithmetic or by its memory, whichever takes longer."""
    memory = card.bandwidth * 1e9
    return sum(max(one.flops / peak_of(one, card), one.bytes / memory) for one in operations)


def peak_of(operation: Operation, card: Card) -> float:
    return (card.bf16 if operation.half else card.fp32) * 1e12


def needed(counted: Counted, card: Card, gpus: int) -> Memory:
    activations = max(0, counted.peak - counted.gradients)
    gradients = counted.gradients * (2 if gpus > 1 else 1)
    return Memory(
        weights=counted.weights,
        optimizer=counted.kept,
        gradients=gradients,
        activations=activations,
        views=counted.views,
        total=counted.weights + counted.kept + gradients + activations + counted.views,
        room=int(card.memory * 2**30 * (1 - FREE)),
    )


# Exchanging ----------------------------------------------------------------------------------------------------------


def exchanged(
    counted: Counted, card: Card, gpus: int, backward: float, turns: int, network: float | None = None
) -> Network:
    """All exchanges of a step. Gradients are summed once, behind the last backward pass."""
    outside = card.network if network is None else network
    one = reduced_in(counted.gradients, card, gpus, outside)
    others = sum((gathered_in if it.gather else reduced_in)(it.bytes, card, gpus, outside) for it in counted.exchanges)
    given = sum(it.bytes for it in counted.exchanges)
    got = sum(it.bytes * ((gpus - 1) if it.gather else 2 * (gpus - 1) / gpus) for it in counted.exchanges)
    alone = gpus == 1
    return Network(
        gradients=0 if alone else counted.gradients,
        statistics=0 if alone else given * turns,
        received=got * turns + counted.gradients * 2 * (gpus - 1) / gpus,
        exchanges=0 if alone else len(counted.exchanges) * turns + 1,
        gradient_seconds=one,
        hidden_seconds=min(one, backward),
        statistics_seconds=others * turns,
    )


def reduced_in(size: int, card: Card, gpus: int, network: float) -> float:
    """Seconds until each of the cards has the sum of what all gave: in the server, between servers, in the server.

    Short ones wait for a tree of hops, there and back; long ones for the bytes on the links.
    """
    if gpus == 1:
        return 0.0
    near, far = servers(card, gpus)
    hops = 2 * ((near - 1) * card.hop * 1e-6 + math.log2(far) * TREE_HOP)
    inside = 2 * (near - 1) / near * size / (card.link * 1e9 * WIRE)
    between = 2 * (far - 1) / far * size / (near * network * 1e9 * WIRE)
    return TREE + hops + inside + between


def gathered_in(size: int, card: Card, gpus: int, network: float) -> float:
    """Seconds until each of the cards has what every other gave, passed on round a ring that visits all."""
    if gpus == 1:
        return 0.0
    near, far = servers(card, gpus)
    hops = (gpus - far) * card.hop * 1e-6 + (far - 1) * RING_HOP
    inside = (gpus - 1) * size / (card.link * 1e9 * WIRE)
    between = max(0, gpus - near) * size / (near * network * 1e9 * WIRE)
    return RING + hops + inside + between


def servers(card: Card, gpus: int) -> tuple[int, int]:
    """(cards of a server at work, servers)."""
    near = min(gpus, card.a_server)
    return near, -(-gpus // near)
