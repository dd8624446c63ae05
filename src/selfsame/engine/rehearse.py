"""A training step counted without being run: what it computes, moves, holds and sends.

The learner's own forward pass, backward pass and what comes after are carried out on tensors that have a shape and no
content, so that the largest network takes seconds on any machine, and whatever a method does is in the count.
Operations are those of an eager step in the given precision as torch dispatches them on a processor, which are those
of a GPU but for the choice of kernels.
Raises: UserError for a network whose course depends on the values it sees.
"""

import contextlib
import copy
import importlib.util
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from selfsame.engine.cost import Counted, Exchange, Operation
from selfsame.engine.optim import Name, make_optimizer
from selfsame.errors import UserError
from selfsame.nn.sync import synchronised
from selfsame.types import Learner

__all__ = ["Tally", "rehearsed"]

PROCESSES = 2  # of the pretended group: what one of them sends is then multiplied out in `cost`
STAND_IN = 512  # side of the parameter on which an optimiser shows what it keeps and moves
SMALL_TYPES = (torch.bfloat16, torch.float16)


class Tally(TorchDispatchMode):
    """Under it every operation is written down, and the bytes that live are followed. `part` names what is at work."""

    def __init__(self) -> None:
        super().__init__()
        # Torch has no formula for attention on a processor, and one for convolutions that is wrong with groups.
        aten: Any = torch.ops.aten
        formulas = {
            aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back,
            aten.convolution_backward: _convolution_back,
        }
        self.counter = FlopCounterMode(display=False, custom_mapping=formulas)
        self.operations: list[Operation] = []
        self.exchanges: list[Exchange] = []
        self.part = "forward"
        self.live = self.peak = 0
        self.known: dict[int, Any] = {}

    def __enter__(self) -> Any:
        self.counter.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.counter.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.counter.get_total_flops()
        out = func(*args, **(kwargs or {}))
        taken, given = _tensors((args, kwargs)), _tensors(out)
        for tensor in given:
            self.hold(tensor)
        if func.namespace == "c10d":
            self.exchanges.append(_exchange(func, args))
        elif func.namespace == "aten" and not _only_names(func):
            self.operations.append(
                Operation(
                    part=self.part,
                    flops=self.counter.get_total_flops() - before,
                    bytes=sum(map(_size, taken)) + sum(map(_size, given)),
                    half=any(tensor.dtype in SMALL_TYPES for tensor in taken),
                )
            )
        return out

    def hold(self, tensor: Tensor) -> None:
        """Count the memory behind a tensor until nothing holds it any more."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.known and self.known[key]() is storage:
            return
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone(_: Any) -> None:
            self.live -= size
            self.known.pop(key, None)

        self.known[key] = weakref.ref(storage, gone)


def rehearsed(
    learner: Learner,
    views: Sequence[Tensor],
    rows: int,
    bf16: bool,
    optimizer: Name,
    together: bool,
    device_half: Callable[[int], Any] | None = None,
) -> Counted:
    """One process's share of a step, one micro-batch of it: `rows` items that look like those of `views`.

    Args:
        together: whether there are other processes, with which batch statistics are shared.
        device_half: makes the views of so many items from samples without content, counted too where it can be.
    """
    made = _device_half(device_half, rows)
    fake = FakeTensorMode()
    held = [*learner.parameters(), *learner.buffers()]
    twins = {id(tensor): fake.from_tensor(tensor) for tensor in held}
    twin = copy.deepcopy(learner, dict[int, Any](twins)).train()
    with contextlib.ExitStack() as stack:
        if together:
            stack.enter_context(_pretended_group())
            synchronised(twin)
        stack.enter_context(fake)
        shown = [_of_rows(view, rows) for view in views]
        tally = stack.enter_context(Tally())
        for tensor in [*twins.values(), *shown]:
            tally.hold(tensor)
        resting = tally.live
        _watch_target(twin, tally)
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = (twin(shown, torch.arange(rows)) if twin.by_item else twin(shown)).loss
            tally.part = "backward"
            loss.backward()
            del loss
            tally.part = "after"
            twin.after_step(0.0)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise UserError(
                f"the step of this network cannot be counted without running it: its course depends on values "
                f"({error.func}). Leave out --gpus to have it measured on this machine."
            ) from None
    learning = sum(map(_size, (p for p in learner.parameters() if p.requires_grad)))
    weights = sum(map(_size, held))
    kept, moved = _of_optimizer(optimizer)
    update = Operation(part="update", flops=0, bytes=round(moved * learning), half=False)
    return Counted(
        rows=rows,
        operations=(*made, *tally.operations, update),
        exchanges=tuple(tally.exchanges),
        gradients=learning,
        weights=weights,
        kept=round(kept * learning),
        views=resting - weights,
        peak=tally.peak - resting,
        views_counted=bool(made),
    )


@contextlib.contextmanager
def _pretended_group() -> Iterator[None]:
    """A group whose collectives go nowhere. Nothing is bound and nobody is called."""
    # A part of torch's test kit that its own memory estimates are made with; importing it registers the group's kind.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if importlib.util.find_spec("torch.distributed._meta_registrations") is None:  # torch 2.8 has the shapes here
        importlib.import_module("torch.distributed._tools.fake_collectives")
    td.init_process_group("fake", rank=0, world_size=PROCESSES, store=FakeStore())
    try:
        yield
    finally:
        td.destroy_process_group()


def _device_half(make: Callable[[int], Any] | None, rows: int) -> list[Operation]:
    """The operations of the device half; none where it cannot be carried out without values."""
    if make is None:
        return []
    tally = Tally()
    tally.part = "views"
    try:
        with tally:
            make(rows)
    except (NotImplementedError, RuntimeError):
        return []
    return tally.operations


def _of_optimizer(name: Name) -> tuple[float, float]:
    """(bytes kept, bytes moved by an update) for each byte of the parameters."""
    weight = nn.Parameter(torch.ones(STAND_IN, STAND_IN))
    optimizer = make_optimizer(name, nn.ParameterList([weight]), 0.1, 0.1)
    for _ in range(2):  # the first step makes what is kept
        weight.grad = torch.ones_like(weight)
        with Tally() as tally:
            optimizer.step()
    size = _size(weight)
    kept = sum(_size(value) for one in optimizer.state.values() for value in one.values() if isinstance(value, Tensor))
    return kept / size, sum(operation.bytes for operation in tally.operations) / size


def _watch_target(learner: nn.Module, tally: Tally) -> None:
    """What the learner's `target` does is a part of its own."""
    target = getattr(learner, "target", None)
    if isinstance(target, nn.Module):
        target.register_forward_pre_hook(lambda *_: setattr(tally, "part", "target"))
        target.register_forward_hook(lambda *_: setattr(tally, "part", "forward"))


def _of_rows(view: Tensor, rows: int) -> Tensor:
    made = torch.empty((rows, *view.shape[1:]), dtype=view.dtype)
    return made.contiguous(memory_format=torch.channels_last) if view.ndim == 4 else made


def _only_names(func: Any) -> bool:
    """Whether an operation gives another name to what is there, or takes memory without touching it."""
    names = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
    return names or "empty" in func._opname or func._opname in ("lift_fresh", "set_")


def _exchange(func: Any, args: Any) -> Exchange:
    gather = "allgather" in func._opname
    return Exchange(gather=gather, bytes=sum(map(_size, _tensors(args[1] if gather else args[0]))))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two matrix products: scores, and their mean of the values. Shapes are [b heads n d]."""
    b, heads, n, d = query
    return 2 * b * heads * n * key[2] * (d + value[3])


def _attention_back(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Five products: the scores once more, and the gradients of query, key, value and weights."""
    b, heads, n, d = query
    return 2 * b * heads * n * key[2] * (3 * d + 2 * value[3])


def _convolution_back(gradient: Any, x: Any, weight: Any, *rest: Any, **_: Any) -> int:
    """As many as forward for each of the two gradients that are wanted: that of the input, that of the weight."""
    transposed, wanted = rest[4], rest[7]
    places = (x if transposed else gradient)[2:]
    return 2 * x[0] * math.prod(places) * math.prod(weight) * sum(wanted[:2])
