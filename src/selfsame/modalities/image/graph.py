"""The device half of views compiled by torch, for GPUs: one graph a pipeline, of the same shapes at every step.

On CUDA where a run is compiled (`compile_views`); SELFSAME_COMPILE=1 says so for every device, and 0 for none. Where
torch cannot compile, one line says so, and the steps are done one by one, as without it. The two agree to rounding.
"""

import itertools
import logging
import os
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["attempted", "compile_views", "compiled", "moved", "one_thread", "wanted"]

T = TypeVar("T")
BACKEND = "inductor"
ALIGNED = 4  # numbers, which are 16 bytes: where vector instructions want a tensor to begin
numbers = itertools.count()  # of the pipelines of this process
asked_for = False  # by the run of this process
failed = False  # whether torch could not compile a pipeline in this process


def wanted(on: torch.device) -> bool:
    """Whether views on this device are compiled."""
    said = os.environ.get("SELFSAME_COMPILE", "")
    return not failed and (
        asked_for and on.type == "cuda" if said not in ("0", "1") else said == "1" and on.type != "meta"
    )


def compile_views(yes: bool) -> None:
    """Whether views are compiled on GPUs from here on."""
    global asked_for
    asked_for = yes


def attempted(make: Callable[[], T]) -> T | None:
    """What a compiled `make` gives; None where torch cannot compile it, which is said once and not tried again."""
    global failed
    try:
        return make()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler, Triton or the driver may raise
        failed = True
        if os.environ.get("RANK", "0") == "0":
            cause = getattr(error, "inner_exception", error)  # dynamo wraps what its back end raises
            reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
            logging.getLogger(__name__).warning(
                "torch cannot compile the views, so they are made step by step (SELFSAME_COMPILE=0 does not try): %s",
                reason,
            )
        return None


def compiled(make: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """`make(pixels, table)` as one graph, compiled when it is first called; and once more for other numbers of rows."""
    # Dynamo takes functions of one name and place for one: it would give up after some pipelines, and take what differs
    # between two of them (the side of a view) for what changes from call to call.
    given: Any = make
    code = given.__code__.replace(co_name=f"{given.__name__}_{next(numbers)}")
    own = types.FunctionType(code, given.__globals__, code.co_name, None, given.__closure__)
    graph = torch.compile(own, backend=BACKEND, fullgraph=True)
    seen: set[int] = set()

    def run(pixels: Tensor, table: Tensor) -> Tensor:
        with torch.no_grad():
            if len(pixels) in seen:
                return graph(pixels, table)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # compilers chat
                made = graph(pixels, table)
        seen.add(len(pixels))
        return made

    return run


def moved(tensors: Sequence[Tensor], on: torch.device) -> list[Tensor]:
    """Tensors of one type on the device, all in one transfer from pinned memory, for which nothing waits."""
    lengths = [-(-tensor.numel() // ALIGNED) * ALIGNED for tensor in tensors]
    packed = torch.empty(sum(lengths), dtype=tensors[0].dtype, pin_memory=on.type == "cuda")
    for place, tensor in zip(packed.split(lengths), tensors, strict=True):
        place[: tensor.numel()].copy_(tensor.flatten())
    there = packed.to(on, non_blocking=True).split(lengths)
    return [place[: tensor.numel()].view(tensor.shape) for place, tensor in zip(there, tensors, strict=True)]


@contextmanager
def one_thread() -> Iterator[None]:
    """For work on a few numbers a row, which many threads only hold up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
