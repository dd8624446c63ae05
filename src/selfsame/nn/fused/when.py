"""When the quick way through a residual network is taken, and by what."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn

from selfsame.nn.fused import twins
from selfsame.nn.joint import parts_now


def passes(x: Tensor) -> Any:
    """What computes on the device of x: the kernels on a GPU, elsewhere their twins."""
    if x.device.type != "cuda":
        return twins
    from selfsame.nn.fused import kernels

    return kernels


def quick(module: nn.Module, x: Tensor) -> bool:
    """Whether the quick way computes what is asked for."""
    return (
        module.training
        and halved(x)
        and not td.is_initialized()
        and not torch.compiler.is_compiling()
        and len(x) % parts_now() == 0
        and all(
            part.training and part.momentum is not None for part in module.modules() if isinstance(part, nn.BatchNorm2d)
        )
    )


def halved(x: Tensor) -> bool:
    """Whether work on it is in half precision on a GPU."""
    kind = x.device.type
    return kind == "cuda" and (torch.is_autocast_enabled(kind) or x.dtype in (torch.bfloat16, torch.float16))


def hooked(*parts: nn.Module) -> bool:
    """Whether somebody looks at what goes through one of them, which the quick way does not show."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, kind) for part in parts for kind in kinds)


def work_dtype(x: Tensor) -> torch.dtype:
    """In which the work on x is to be done."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@contextmanager
def as_given(x: Tensor) -> Iterator[torch.dtype]:
    """Under it nothing is cast; gives `work_dtype`."""
    dtype = work_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        yield dtype
