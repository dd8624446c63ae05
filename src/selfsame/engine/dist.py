"""Devices and processes. Started by torchrun, srun or `jobs.launching`; else all here is a no-op on one device.

So that none waits for ever, whatever makes one process leave the common path is told to all: `agreed`, `by_first`.
"""

import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selfsame.errors import UserError

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")
PATIENCE = timedelta(hours=1)  # the others wait while the first writes its report
SETTLING = 0.1  # seconds for what gloo's threads still hold


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def placed() -> bool:
    """Whether whoever started this process has given it a place among others."""
    return "WORLD_SIZE" in os.environ or "RANK" in os.environ


def first() -> bool:
    return rank() == 0


def device(name: str = "auto") -> torch.device:
    """The device to work on: CUDA, Apple's MPS, or the CPU, in this order; or the one named, if it is there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}. Known: auto, cpu, cuda, cuda:N, mps.") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, False):
        have = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise UserError(f"device {name!r} is not on this machine. It has: {have}.")
    if chosen.type == "cuda" and chosen.index is not None and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise UserError(f"device {name!r} is one GPU for several processes. Give cuda, and each takes one of its own.")
    if chosen.type == "cuda" and chosen.index is None:
        mine = int(os.environ.get("LOCAL_RANK", 0))
        # Slurm may show each task its own GPU alone, as with --gpus-per-task.
        alone = "SLURM_STEP_ID" in os.environ and torch.cuda.device_count() == 1
        chosen = torch.device("cuda", 0 if alone else mine)
    if chosen.type == "cuda" and chosen.index >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not on this machine. It has {torch.cuda.device_count()} CUDA devices.")
    return chosen


def has_bf16(on: torch.device) -> bool:
    """Whether bf16 arithmetic pays: native on the GPU, or AVX-512 / AMX instructions of the processor."""
    if on.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if on.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False


@contextmanager
def group(on: torch.device) -> Iterator[None]:
    """Join the other processes, if there are any, and leave them in the end."""
    if world() == 1 or td.is_initialized():
        yield
        return
    store, number, count = next(td.rendezvous("env://", timeout=PATIENCE))
    seat = {"store": td.PrefixStore(meeting_place(store, number, count), store), "rank": number, "world_size": count}
    if on.type == "cuda":
        torch.cuda.set_device(on)
        td.init_process_group("nccl", timeout=PATIENCE, device_id=on, **seat)
    else:
        td.init_process_group("gloo", timeout=PATIENCE, **seat)
    try:
        barrier()  # nobody writes before all have read what stands in the run folder
        yield
    finally:
        # gloo's threads need the interpreter's lock to let go of the last tensors, and torch 2.8 waits for the threads
        # while it holds that lock: each then waits for the other, for ever. So they get the lock first.
        time.sleep(SETTLING if on.type != "cuda" else 0)
        td.destroy_process_group()


def meeting_place(store: td.Store, number: int, count: int) -> str:
    """A new word that all `count` processes know, under which they leave their addresses.

    The store may outlive a group: torchrun keeps it when it starts processes again, and one that reads the address of
    a dead process waits for ever. So nothing old is believed: each process asks the first with a word of its own, and
    the answer stands under that word.
    """
    until = time.monotonic() + PATIENCE.total_seconds()
    if number > 0:
        mine = uuid.uuid4().hex
        store.set(f"asks {number}", mine)
        store.wait([f"answer {mine}"], PATIENCE)
        place = store.get(f"answer {mine}").decode()
        store.set(f"{place} {number}", "here")
        return place
    place, missing = uuid.uuid4().hex, set(range(1, count))
    answered: set[str] = set()
    while missing:
        for other in sorted(missing):
            if store.check([f"{place} {other}"]):
                missing.remove(other)
            elif store.check([f"asks {other}"]) and (word := store.get(f"asks {other}").decode()) not in answered:
                store.set(f"answer {word}", place)  # perhaps a dead one's: then the living one will ask too
                answered.add(word)
        if missing and time.monotonic() > until:
            raise UserError(f"of {count} processes, {len(missing)} did not come. Are all of them started?")
        time.sleep(0.01)
    return place


def rows(batch: int) -> slice:
    """This process's rows of a global batch: every n-th, so that a micro-batch has the same rows for any n."""
    return slice(rank(), batch, world())


def place(learner: M, on: torch.device) -> M:
    """The learner on its device; with several processes its batch norms see the rows of all."""
    learner = learner.to(on).to(memory_format=torch.channels_last)
    if world() > 1:
        from selfsame.nn.sync import synchronised

        synchronised(learner)
    return learner


def wrap(learner: nn.Module, on: torch.device) -> nn.Module:
    """The learner as it is called in training: gradients are averaged over the processes.

    Parameters and buffers, the target's too, become those of the first process.
    """
    if world() == 1:
        return learner
    alike(learner)
    ids = [on.index] if on.type == "cuda" else None
    with warnings.catch_warnings():
        # torch 2.15 has a new name for broadcast_buffers, which 2.8 does not know.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(learner, device_ids=ids, broadcast_buffers=False)


@torch.no_grad()
def alike(learner: nn.Module) -> None:
    """Give every process the parameters and buffers of the first."""
    for tensor in learner.state_dict().values():
        whole = tensor.contiguous()
        td.broadcast(whole, 0)
        tensor.copy_(whole)


def summing(forward: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Around each micro-batch of a step: the processes' gradients are averaged once, after the last.

    A divided learner averages them after each: to keep them whole until the last would need the memory it saves.
    """
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) and not last else nullcontext()


def barrier() -> None:
    if td.is_initialized():
        td.barrier()


def mean(values: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each scalar over the processes. All must name the same ones."""
    if td.is_initialized():
        stacked = torch.stack([value.detach().double() for value in values.values()])
        td.all_reduce(stacked)
        return dict(zip(values, (stacked / world()).tolist(), strict=True))
    return {name: float(value) for name, value in values.items()}


def agreed(*signs: float) -> list[float]:
    """The largest of each number over the processes: what one has met, all act on."""
    if not td.is_initialized():
        return list(signs)
    found = torch.tensor(signs, dtype=torch.float64, device="cuda" if td.get_backend() == "nccl" else "cpu")
    td.all_reduce(found, td.ReduceOp.MAX)
    return found.tolist()


def gathered(found: dict[int, str]) -> dict[int, str]:
    """What all processes found, as one."""
    if not td.is_initialized():
        return found
    parts: list[Any] = [None] * world()
    td.all_gather_object(parts, found)
    return {key: value for part in parts for key, value in part.items()}


def by_first(act: Callable[[], T]) -> T:
    """What `act` gives the first process, which alone does it, for all. A UserError there is raised by all."""
    if not td.is_initialized():
        return act()
    outcome: list[Any] = [None, None]
    if first():
        try:
            outcome[0] = act()
        except UserError as error:
            outcome[1] = error
    td.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def machine(on: torch.device) -> str:
    """One line that says what ran: GPU, cores, processor and its vector instructions, versions."""
    import platform

    name = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open() as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux: platform's word stands
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f"{torch.cuda.get_device_name(on)}, " if on.type == "cuda" else ""
    vectors = torch.backends.cpu.get_cpu_capability()
    if vectors != "DEFAULT":  # so torch calls what it knows no name of
        name += f" ({vectors} with bf16)" if has_bf16(torch.device("cpu")) else f" ({vectors})"
    return f"{gpu}{cores} cores {name}, Python {platform.python_version()}, torch {torch.__version__}"
