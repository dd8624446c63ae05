"""Passes of an encoder recorded as CUDA graphs, and played again at every step.

A step of a residual network is over a thousand short kernels, and launching them from Python takes longer than they do,
but for large batches of large images. A graph is launched as one. It is recorded for each size of view, forward and
backward, with the memory that it works in, which it keeps.
"""

import copy
import logging
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from selfsame.nn.fused.when import hooked
from selfsame.nn.joint import parts_now

__all__ = ["Replayed", "replayed"]

DEVICE = "cuda"
FIRST = 2  # passes of a size that are done as they are: cuDNN tries its ways in them, and Triton compiles
MOST = 3  # sizes that are recorded: each keeps memory for its activations


def replayed(encoder: nn.Module) -> None:
    """Let the encoder's forward pass be recorded and played, in place."""
    encoder.forward = Replayed(encoder)


class Replayed:
    """The forward pass of an encoder that learns on a GPU; any other pass is done as it is.

    So is a second pass before the first one's gradient is asked for, which would overwrite what that needs; one that
    somebody watches by hooks; and all of them where a graph cannot be recorded, which is said once.
    """

    def __init__(self, encoder: nn.Module) -> None:
        # Weakly: a circle would keep the memory of its recordings until Python looks for circles.
        self.owner = weakref.ref(encoder)
        self.met: Counter[Any] = Counter()
        self.made: dict[Any, Recording] = {}
        self.failed = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "Replayed":
        return Replayed(copy.deepcopy(self.encoder, memo))  # which records for itself

    @property
    def encoder(self) -> nn.Module:
        found = self.owner()
        assert found is not None
        return found

    @cached_property
    def modules(self) -> list[nn.Module]:
        """Of the encoder, but for itself."""
        return list(self.encoder.modules())[1:]

    @cached_property
    def norms(self) -> list[_BatchNorm]:
        return [part for part in self.modules if isinstance(part, _BatchNorm)]

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())

    def plain(self, view: Tensor) -> Tensor:
        return type(self.encoder).forward(self.encoder, view)

    def __call__(self, view: Tensor) -> Tensor:
        key = self.kind(view)
        if key is None:
            return self.plain(view)
        if key not in self.made:
            self.met[key] += 1
            if self.met[key] <= FIRST or len(self.made) >= MOST or not self.record(key, view):
                return self.plain(view)
        return self.made[key](view) if not self.made[key].busy else self.plain(view)

    def room(self, views: list[Tensor]) -> Tensor:
        """The views, one after the other: where a recording wants them, if there is one that will be played."""
        shape = (sum(map(len, views)), *views[0].shape[1:])
        for made in self.made.values():
            fitting = made.view.shape == shape and made.view.dtype == views[0].dtype and not made.busy
            if fitting and self.made.get(self.kind(made.view)) is made and not any(v.requires_grad for v in views):
                return torch.cat(views, out=made.view)
        return torch.cat(views)

    def kind(self, view: Tensor) -> Any:
        """What a recording holds for; None where there can be none."""
        parts = (self.encoder, *self.modules)
        if (
            self.failed
            or hooked(*parts)
            or not self.encoder.training
            or view.device.type != DEVICE
            or view.requires_grad
            or td.is_initialized()
        ):
            return None
        learning = tuple(p.requires_grad for p in self.parameters) if torch.is_grad_enabled() else None
        modes = tuple((part.training, part.track_running_stats, part.momentum) for part in self.norms)
        half = torch.get_autocast_dtype(DEVICE) if torch.is_autocast_enabled(DEVICE) else None
        return tuple(view.shape), view.stride(), view.dtype, half, learning, modes, parts_now()

    def record(self, key: Any, view: Tensor) -> bool:
        learning = [p for p in self.parameters if p.requires_grad] if torch.is_grad_enabled() else []
        try:
            self.made[key] = Recording(self.encoder, self.plain, learning, view)
        except Exception as error:  # out of memory, or whatever the driver may raise
            self.failed = True
            self.made.clear()  # none is played any more
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            logging.getLogger(__name__).warning("the encoder's passes are launched one by one: %s", reason)
        return not self.failed


class Recording:
    """One pass, of views like the one given."""

    out: Tensor

    def __init__(self, encoder: nn.Module, plain: Any, learning: list[nn.Parameter], view: Tensor) -> None:
        torch.cuda.empty_cache()  # what steps before it held lies elsewhere than what the graph will hold
        self.learning = learning
        self.view = view.clone()
        self.pending: weakref.ref[Any] | None = None
        buffers = list(encoder.buffers())
        kept = [buffer.clone() for buffer in buffers]
        side, now = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(now)
        try:
            with aliased(encoder) as alias:
                self.capture(plain, [alias[p] for p in learning], side, now)
        except Exception:
            torch.cuda.set_stream(now)  # where a recording breaks off, torch leaves its stream current
            settle_random_numbers()
            raise
        finally:
            torch._foreach_copy_(buffers, kept)  # the trial pass is none of the run's
        self.out = self.out.detach()

    def capture(self, plain: Any, learning: list[Tensor], side: Any, now: Any) -> None:
        # Weights that are cast are cast within the graph, so that it sees what they have become.
        cast = partial(torch.autocast, "cuda", torch.get_autocast_dtype("cuda"), cache_enabled=False)
        half = torch.is_autocast_enabled("cuda")
        with torch.cuda.stream(side):  # libraries set themselves up for a stream at first use
            with cast(enabled=half):
                out = plain(self.view)
            with cast(enabled=False):  # as the engine's backward pass is
                gradients(out, learning)
        del out
        now.wait_stream(side)
        torch.cuda.synchronize()
        self.forward = torch.cuda.CUDAGraph()
        recorded = partial(torch.cuda.graph, stream=side, capture_error_mode="thread_local")
        with recorded(self.forward), cast(enabled=half):
            self.out = plain(self.view)
        if learning:
            self.d = torch.empty_like(self.out)
            self.backward = torch.cuda.CUDAGraph()
            with recorded(self.backward, pool=self.forward.pool()), cast(enabled=False):
                self.gradients = gradients(self.out, learning, self.d)

    def take(self, view: Tensor) -> None:
        if view.data_ptr() != self.view.data_ptr():
            self.view.copy_(view)

    def free_gradients(self) -> None:
        """Keep what an earlier pass of this step left in memory of the graph, before it is played again.

        Gradients lie where activations lay, so that already the next forward pass writes there.
        """
        for parameter, mine in zip(self.learning, self.gradients, strict=True):
            left = parameter.grad
            if left is not None and mine is not None and left.data_ptr() == mine.data_ptr():
                parameter.grad = left.clone()

    @property
    def busy(self) -> bool:
        """Whether the gradient of the last pass may still be asked for."""
        return self.pending is not None and self.pending() is not None

    def __call__(self, view: Tensor) -> Tensor:
        if not self.learning:
            self.take(view)
            self.forward.replay()
            return self.out.clone()
        return _Played.apply(self, view, *self.learning)


@contextmanager
def aliased(encoder: nn.Module) -> Iterator[dict[Tensor, Tensor]]:
    """Under it the encoder computes with other leaves that lie in the same memory; gives those of its parameters.

    The node that takes a parameter's gradient keeps the stream on which it was made, for as long as any pass that has
    met it is alive (a loss that is still held, views of another size in the same step). A recorded gradient would wait
    for that stream, which breaks the recording off.
    """
    alias: dict[Tensor, Tensor] = {p: p.detach().requires_grad_(p.requires_grad) for p in encoder.parameters()}
    places = [(part._parameters, name, p) for part in encoder.modules() for name, p in part._parameters.items()]
    try:
        for where, name, p in places:
            where[name] = None if p is None else alias[p]  # type: ignore[assignment]
        yield alias
    finally:
        for where, name, p in places:
            where[name] = p


def gradients(out: Tensor, learning: list[Tensor], d: Tensor | None = None) -> list[Tensor | None]:
    if not learning:
        return []
    d = torch.zeros_like(out) if d is None else d
    return list(torch.autograd.grad(out, learning, d, allow_unused=True))


def settle_random_numbers() -> None:
    """After a recording that broke off torch takes all random numbers for recorded ones, until one has succeeded."""
    with suppress(RuntimeError):  # what stopped the recording is told, not this
        some = torch.zeros(1, device=DEVICE)
        with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
            some.add_(1)


class Pass:
    """Lives as long as the graph of one pass does."""


class _Played(Function):
    @staticmethod
    def forward(ctx: Any, recording: Recording, view: Tensor, *_: Tensor) -> Tensor:
        recording.free_gradients()
        recording.take(view)
        recording.forward.replay()
        ctx.recording, ctx.token = recording, Pass()
        recording.pending = weakref.ref(ctx.token)
        return recording.out.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        recording: Recording = ctx.recording
        if recording.pending is None or recording.pending() is not ctx.token:
            raise RuntimeError("the gradient of a pass was asked for twice, or after the next pass of its size")
        recording.d.copy_(gradients[0])
        recording.backward.replay()
        recording.pending = None
        # Aliases, which torch takes for gradients as they are, where there are none to add them to.
        return None, None, *(None if g is None else g.detach() for g in recording.gradients)
