"""A learner divided over the processes: each holds a part of every parameter, gradient and moment (fully_shard).

Whatever leaves this file is whole: saved states, the encoder that is looked at and kept. So a run goes on in any number
of processes, divided or not. Source: Zhao et al. 2023, arXiv 2304.11277, as torch's fully_shard does it.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.optim import Optimizer

from selfsame.engine import dist
from selfsame.errors import UserError
from selfsame.nn.blocks import blocks
from selfsame.types import Learner

WAYS = ("foreach", "fused", "capturable", "differentiable")  # of an optimiser, to compute the same

M = TypeVar("M", bound=nn.Module)


def sharded(learner: M, on: torch.device) -> M:
    """Divide a learner that stands whole on its device; what a block needs of the others comes when it runs.

    What is in no block (stems, heads) comes once a step. Buffers, such as batch norms' statistics, stay whole.
    Raises UserError outside a group of processes for parameters that are one number without an axis, and for
    methods with surveys.
    """
    if isinstance(learner, Learner) and type(learner).surveys is not Learner.surveys:
        raise UserError(
            "--shard does not work with methods that look at all items between passes: they need whole parameters "
            "outside of a step. Leave --shard out."
        )
    if dist.world() == 1:
        raise UserError("--shard divides the learner over processes, and there is one. Give --processes 2 or more.")
    scalars = [name for name, p in learner.named_parameters() if p.ndim == 0]
    if scalars:
        raise UserError(
            f"--shard divides parameters along their first axis, and {scalars[0]} has none. Give it the shape [1]."
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.alike(learner)
    learner = learner.to(memory_format=torch.contiguous_format)
    mesh = init_device_mesh(on.type, (dist.world(),))
    parts: list[nn.Module] = [*blocks(learner), learner]
    for part in parts:
        unit = fully_shard(part, mesh=mesh)
        if on.type != "cuda":  # gloo of torch 2.8 takes NCCL's average for a sum, and says nothing
            unit.set_force_sum_reduction_for_comms(True)
    return learner


@contextmanager
def explained() -> Iterator[None]:
    """Say of torch's error about a parameter that is not there as a whole what a user can do."""
    try:
        yield
    except RuntimeError as error:
        if "DTensor" not in str(error):
            raise
        raise UserError(
            "--shard does not work with this method as it is set: it needs parameters where torch has put them away, "
            "as after a gradient that is taken inside the forward pass (BYOL's --method.adversary). Leave --shard out."
        ) from error


def divided(x: Any) -> bool:
    """Whether this process holds a part of it, as of the parameters of a divided learner."""
    # Half a second to import: a training needs it anyway, but nothing else shall wait for it.
    from torch.distributed.tensor import DTensor

    return isinstance(x, DTensor)


def norms(parts: Sequence[Tensor], parted: bool) -> Tensor:
    """The Euclidean norm [n] of each tensor; where they are divided, of the whole of which this process has a part."""
    each = torch._foreach_norm(list(parts))
    found = torch.stack([norm if norm.dtype == torch.float64 else norm.float() for norm in each])
    if not parted:
        return found
    squares = found.double().square()
    td.all_reduce(squares)
    return squares.sqrt().to(found.dtype)


def local(x: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory; the tensor itself where it is not divided."""
    return x.to_local() if divided(x) else x  # type: ignore[attr-defined]


def full(x: Any) -> Any:
    """The whole of a divided tensor, for which all must ask together; whatever else it is, itself."""
    return x.full_tensor() if divided(x) else x


def whole(state: Any) -> Any:
    """A copy of a state on the CPU of the first process, every divided tensor whole; all must call it together.

    Nothing in it changes when the training goes on. The other processes get None in place of each tensor.
    """
    if isinstance(state, Tensor):
        found = full(state)
        return found.detach().to("cpu", copy=True) if dist.first() else None
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    return [whole(value) for value in state] if isinstance(state, list) else state


def divided_as(value: Any, like: Any) -> Any:
    """This process's part of a whole tensor, where `like` is a divided one of that shape; else the value itself."""
    if not isinstance(value, Tensor) or not isinstance(like, Tensor) or value.shape != like.shape:
        return value
    if not divided(like):
        # Fused optimisers take a moment to lie in memory as its weight does; one that was divided has lost that.
        same = value.stride() == like.stride()
        return value if same else torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    # No source: every process has read the whole, and takes its part of it without asking.
    parted: Any = like
    whole = value.to(parted.device, parted.dtype)
    return distribute_tensor(whole, parted.device_mesh, parted.placements, src_data_rank=None)


def load(learner: nn.Module, optimizer: Optimizer, weights: dict[str, Any], moments: dict[str, Any]) -> None:
    """Load whole states, saved by `save`, into a learner and an optimiser, divided or not."""
    now = learner.state_dict()
    learner.load_state_dict({name: divided_as(value, now.get(name)) for name, value in weights.items()}, strict=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if len(moments["state"]) <= len(parameters):  # else it refuses below, and says why
        of_each = moments["state"].items()
        state = {i: {key: divided_as(value, parameters[i]) for key, value in each.items()} for i, each in of_each}
        groups = moments["param_groups"]
        if len(groups) == len(optimizer.param_groups):  # how it is computed is this process's matter, not the state's
            ways = [{key: own[key] for key in WAYS if key in own} for own in optimizer.param_groups]
            groups = [{**group, **way} for group, way in zip(groups, ways, strict=True)]
        moments = {**moments, "state": state, "param_groups": groups}
    optimizer.load_state_dict(moments)


def copied(encoder: M) -> M:
    """A second encoder for `current` to fill, made before the first is divided: the first process's, on the CPU."""
    return copy.deepcopy(encoder).to("cpu" if dist.first() else "meta")


@contextmanager
def current(shown: nn.Module, encoder: nn.Module, on: torch.device) -> Iterator[None]:
    """Under it the first process's `shown` is what `encoder` is now, whole and on the device. All must call it.

    `shown` is the encoder itself, then nothing is done, or `copied` from it before it was divided.
    """
    if shown is encoder:
        yield
        return
    if dist.first():
        shown.to(on)
    values = shown.state_dict()
    for name, value in encoder.state_dict().items():
        found = full(value)
        if dist.first():
            values[name].copy_(found)
    try:
        yield
    finally:
        if dist.first():
            shown.cpu()
