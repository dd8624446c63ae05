"""Devices and processes. Started by torchrun; without it everything here is a no-op on one device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as td
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from selfsame.errors import UserError


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0))


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
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
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
    td.init_process_group("nccl" if on.type == "cuda" else "gloo")
    try:
        yield
    finally:
        td.destroy_process_group()


def wrap(learner: nn.Module, on: torch.device) -> nn.Module:
    """The learner as it is called in training: gradients are averaged over the processes."""
    if world() == 1:
        return learner
    ids = [on.index] if on.type == "cuda" else None
    return DistributedDataParallel(learner, device_ids=ids, broadcast_buffers=False)


def barrier() -> None:
    if td.is_initialized():
        td.barrier()


def machine(on: torch.device) -> str:
    """One line that says what ran: processor or GPU, cores, versions."""
    import platform

    name = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open() as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux: platform's word stands
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f"{torch.cuda.get_device_name(on)}, " if on.type == "cuda" else ""
    return f"{gpu}{cores} cores {name}, Python {platform.python_version()}, torch {torch.__version__}"
