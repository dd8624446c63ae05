"""Defaults derived from the data, the encoder and the machine, by rules that are printed with the values.

Sources: learning rate in proportion to the batch, Goyal et al. 2017, arXiv 1706.02677; the rest are
rules of thumb, stated where they stand.
"""

import os
from typing import Any, Literal

import torch

from selfsame.engine.compiling import able
from selfsame.engine.dist import has_bf16
from selfsame.engine.loop import Loop
from selfsame.engine.optim import Name, Schedule
from selfsame.records import Record

LONG = 2_000  # steps of a run that is worth up to a minute of compiling
LEAST_STEPS = 600  # the batch is made smaller before a run gets fewer optimiser steps than this


class Line(Record):
    """One line of the plan as it is shown."""

    name: str
    value: str
    why: str = ""


class Wishes(Record):
    """What the user decided; None leaves it to the rules."""

    epochs: float | None = None
    batch_size: int | None = None
    accumulate: int = 1
    optimizer: Name | None = None
    lr: float | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    weight_decay_end: float | None = None
    schedule: Schedule = "cosine"
    clip: float | None = None
    precision: Literal["bf16", "fp32"] | None = None
    compile: bool | None = None
    shard: bool = False
    checkpoint_activations: bool = False
    seed: int = 0
    save_every: int | None = None
    keep_states: int = 2


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_for(in_memory: bool, wish: int | None, gpu: bool = False) -> tuple[int, str]:
    """How many reading processes, and why."""
    if wish is not None:
        return wish, "given"
    if in_memory and not gpu:
        return 0, "the data is in memory"
    mine = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # several processes share the machine's cores
    mine = int(os.environ.get("SLURM_CPUS_PER_TASK", mine))  # and Slurm says how
    if in_memory:  # cutting alone, but the training process is busy with feeding the device
        return max(1, min(4, mine - 1)), "the data is in memory, views are cut beside the training"
    return max(1, min(16, mine - 1)), f"{mine} cores, one for training"


def plan_loop(
    items: int, tokens: bool, wishes: Wishes, on: torch.device, processes: int = 1
) -> tuple[Loop, list[Line]]:
    """Decide the loop for `items` training items; `tokens` says that the encoder is a transformer."""
    lines: list[Line] = []

    def decide(name: str, wish: Any, value: Any, why: str, shown: str | None = None) -> Any:
        chosen = value if wish is None else wish
        lines.append(Line(name=name, value=shown or f"{chosen:g}", why=why if wish is None else "given"))
        return chosen

    large = on.type == "cuda"
    seen = 20_000_000 if large else 200_000
    epochs = decide(
        "epochs",
        wishes.epochs,
        float(min(800, max(10, round(seen / items)))),
        f"about {seen:,} samples, 10 to 800 passes",
    )
    samples = epochs * items
    most = 256 if large else 64
    fitting = most
    while fitting > 16 and samples / fitting < LEAST_STEPS:
        fitting //= 2
    fitting = min(fitting, items)
    fitting -= fitting % processes if fitting >= processes else 0
    shared = f", a multiple of {processes}" if processes > 1 else ""
    batch = decide("batch size", wishes.batch_size, fitting, f"at most {most}, at least {LEAST_STEPS} steps{shared}")
    batch = int(batch)
    steps = max(1, round(samples / batch))
    optimizer = wishes.optimizer or "adamw"
    lines.append(
        Line(name="optimizer", value=optimizer, why="given" if wishes.optimizer else "needs no tuning by size")
    )
    lr = decide("learning rate", wishes.lr, peak_lr(optimizer, batch, tokens), rule_of_lr(optimizer, tokens))
    decay = decide("weight decay", wishes.weight_decay, DECAY[optimizer], f"usual for {optimizer}")
    warm = decide("warm-up epochs", wishes.warmup_epochs, min(10.0, epochs / 20), "1/20 of the run, at most 10")
    precision = wishes.precision or ("bf16" if has_bf16(on) else "fp32")
    why = "given" if wishes.precision else "this device computes it" if precision == "bf16" else "no native bf16 here"
    lines.append(Line(name="precision", value=precision, why=why))
    # Batch norms that meet other processes, and blocks that run again, cannot be compiled as a whole.
    simple = not (wishes.shard or wishes.checkpoint_activations) and (processes == 1 or tokens)
    compiling = large and simple and steps >= LONG and able() if wishes.compile is None else wishes.compile
    if compiling:
        why = "given" if wishes.compile else f"at least {LONG:,} steps on a GPU"
        value = "networks, views of images" if large else "networks"
        lines.append(Line(name="compiled", value=value, why=why))
    loop = Loop(
        steps=steps,
        batch=batch,
        accumulate=wishes.accumulate,
        optimizer=optimizer,
        lr=lr,
        weight_decay=decay,
        warmup=min(steps, round(warm * items / batch)),
        schedule=wishes.schedule,
        weight_decay_end=wishes.weight_decay_end,
        clip=wishes.clip,
        precision=precision,
        compile=compiling,
        shard=wishes.shard,
        checkpoint_activations=wishes.checkpoint_activations,
        seed=wishes.seed,
        log_every=max(1, min(50, steps // 100)),
        # A GPU makes many steps while a state is written or an encoder looked at.
        save_every=wishes.save_every or max(50, min(5000 if large else 1000, steps // 10)),
        keep_states=wishes.keep_states,
        health_every=max(10, min(1000 if large else 200, steps // 20)),
    )
    lines.append(Line(name="steps", value=f"{steps:,}", why="epochs × items / batch size"))
    return loop, lines


DECAY: dict[Name, float] = {"sgd": 5e-4, "adamw": 0.05, "lars": 1.5e-6}


def peak_lr(optimizer: Name, batch: int, tokens: bool) -> float:
    """Learning rate in proportion to the batch; AdamW's by the square root, as its steps have a fixed size."""
    if optimizer == "adamw":
        return round((5e-4 if tokens else 2e-3) * (batch / 256) ** 0.5, 8)
    return round({"sgd": 0.12, "lars": 0.3}[optimizer] * batch / 256, 8)


def rule_of_lr(optimizer: Name, tokens: bool) -> str:
    if optimizer == "adamw":
        return f"{5e-4 if tokens else 2e-3:g} × √(batch / 256)"
    return f"{ {'sgd': 0.12, 'lars': 0.3}[optimizer]:g} × batch / 256"
