"""What makes steps faster on a GPU: networks fused or compiled one by one, convolutions chosen by trial.

Networks, not the learner as a whole: its passes through a network (two views, online and slow) would each be compiled
anew, and losses with their queues and counters would have torch compile again from step to step. What is left as it is
costs little beside the networks.
"""

import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as td
from torch import nn

from selfsame.engine.replaying import replayed
from selfsame.types import Encoder

__all__ = ["able", "as_it_is", "compiled", "tried_out"]

BACKEND = "inductor"
PASSES = ("both",)  # of an encoder, beside its forward pass, that methods take views through


def able() -> bool:
    """Whether torch can compile for a GPU here: with Triton, which needs a C compiler."""
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


def compiled(learner: nn.Module, precision: str = "fp32") -> nn.Module:
    """The learner, its encoders (online and slow) made faster in place; returned for convenience.

    Residual networks that learn in bf16 on a GPU, in one process, take the way of `nn.fused`, and their passes are
    recorded. All others are compiled by torch: each size of view once for learning, and once without gradients. Names
    of weights stay as they are.
    """
    for part in learner.modules():
        if not isinstance(part, Encoder):
            continue
        if precision == "bf16" and not td.is_initialized() and on_gpu(part) and fused(part):
            replayed(part)
            continue
        part.compile(dynamic=False, backend=BACKEND)
        for name in PASSES:
            setattr(part, name, torch.compile(getattr(part, name), dynamic=False, backend=BACKEND))
    return learner


def on_gpu(part: nn.Module) -> bool:
    return any(p.is_cuda for p in part.parameters())


def fused(encoder: Encoder) -> bool:
    """Whether residual networks in it take their quick way, which is tried first."""
    from selfsame.nn.fused.networks import fuse, try_out, unfuse  # brings timm and torchvision

    if not fuse(encoder):
        return False
    try:
        try_out(encoder)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler, Triton or the driver may raise
        unfuse(encoder)
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        logging.getLogger(__name__).warning("the fused kernels do not work here, torch compiles: %s", reason)
        return False
    return True


def as_it_is() -> Any:
    """A context in which nothing is compiled: for passes of other sizes and modes, made now and then."""
    return torch.compiler.set_stance("force_eager")


@contextmanager
def tried_out() -> Iterator[None]:
    """Under it cuDNN tries its ways to compute each convolution it meets, and keeps the fastest.

    Shapes are the same at every step, so that it pays. Without effect on a CPU.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
