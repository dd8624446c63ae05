"""Several views in one pass of a network, with batch norms that see each view by itself.

The result is that of one pass a view, to rounding: the paper's batch statistics are those of one view. On a CPU one
pass over all is faster for few rows, where laying out weights and adding up their gradients weighs: both happen once.
For many it is slower: what the parts of batch norms give is copied side by side, and less of it stays near the core.
Source of the statistics: BYOL's reference code, which passes view by view (arXiv 2006.07733, appendix).
Raises: UserError for views that do not go together.
"""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Self

import torch
import torch.distributed as td
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from selfsame.nn.blocks import Recomputed
from selfsame.nn.split import SplitBatch

FEW = 16  # rows; in trial resnet50 gained at 16 and lost at 32 (bench/step.py measures the step with it)
KNOWN = ("torch", "torchvision", "timm", "selfsame")  # whose modules treat rows alone, but for batch norms
_parts: ContextVar[int] = ContextVar("parts", default=1)


def each(net: nn.Module, views: list[Tensor]) -> list[Tensor]:
    """What an encoder with heads makes of each view [b ...]; the encoder, its first part, in one pass where that pays.

    That is in one process, for networks of known parts: on a CPU for few rows, on a GPU for fused residual networks.
    """
    encoder, *heads = net if isinstance(net, nn.Sequential) else [net]
    together = (
        len({view.shape for view in views}) == 1 < len(views)
        and (few(encoder, views[0]) or encoder.__dict__.get("fused", False))
        and encoder.training
        and not td.is_initialized()
        and not torch.compiler.is_compiling()
        and of_known_parts(encoder)
    )
    if together:
        with Apart(len(views)):
            lay: Any = getattr(encoder.forward, "room", torch.cat)  # where a recorded pass wants them
            found = encoder(lay(views)).chunk(len(views))
    else:
        found = [encoder(view) for view in views]
    made = []
    for vector in found:
        for head in heads:
            vector = head(vector)
        made.append(vector)
    return made


def parts_now() -> int:
    """Of how many views, one after the other, the rows of a pass are (`Apart`)."""
    return _parts.get()


def few(encoder: nn.Module, view: Tensor) -> bool:
    """Whether there are so few rows, on a CPU, that one pass over all views is the faster one."""
    return len(view) <= FEW and view.device.type == "cpu" and encoder._compiled_call_impl is None


def by_size(net: nn.Module, views: list[Tensor]) -> list[Tensor]:
    """What a network makes of each view, with the views of one size that follow each other in one pass together.

    For multi-crop, as its reference codes do it (SwAV, arXiv 2006.09882; DINO, 2104.14294): batch norms see all crops
    of a size at once.
    """
    made: list[Tensor] = []
    start = 0
    while start < len(views):
        end = start
        while end < len(views) and views[end].shape == views[start].shape:
            end += 1
        made += net(torch.cat(views[start:end])).chunk(end - start)
        start = end
    return made


def of_known_parts(net: nn.Module) -> bool:
    """Whether rows meet in batch norms of all rows only, and all of it is done in this pass."""
    parts = list(net.modules())
    known = all(type(part).__module__.partition(".")[0] in KNOWN for part in parts)
    return known and not any(isinstance(part, Recomputed | SplitBatch) for part in parts)


class Apart(TorchFunctionMode):
    """Under it a batch norm in train mode takes the statistics of each of `parts` equal parts of its rows."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def __enter__(self) -> Self:
        self.token = _parts.set(self.parts)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _parts.reset(self.token)

    def __torch_function__(self, func: Callable, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return self.normalised(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def normalised(
        self,
        x: Float[Tensor, "b c *rest"],
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        return _Parts.apply(x, weight, bias, running_mean, running_var, momentum, eps, self.parts)


class _Parts(Function):
    """Torch's batch norm of each part, written side by side."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        parts: int,
    ) -> Tensor:
        y = torch.empty_like(x)
        kept: list[Tensor] = []
        for rows, out in zip(x.chunk(parts), y.chunk(parts), strict=True):
            wide = x.new_empty(0, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
            of_rows = out, torch.empty_like(wide), torch.empty_like(wide)
            torch.native_batch_norm(rows, weight, bias, running_mean, running_var, True, momentum, eps, out=of_rows)
            kept += of_rows[1:]
        ctx.save_for_backward(x, weight, *kept)
        ctx.eps, ctx.parts = eps, parts
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *kept = ctx.saved_tensors
        found = [
            torch.ops.aten.native_batch_norm_backward(
                gradient, rows, weight, None, None, mean, scale, True, ctx.eps, list(ctx.needs_input_grad[:3])
            )
            for gradient, rows, mean, scale in zip(
                gradients[0].chunk(ctx.parts), x.chunk(ctx.parts), kept[::2], kept[1::2], strict=True
            )
        ]
        of_x, of_weight, of_bias = zip(*found, strict=True)
        wanted = ctx.needs_input_grad
        return (
            torch.cat(of_x) if wanted[0] else None,
            sum(of_weight) if wanted[1] else None,
            sum(of_bias) if wanted[2] else None,
            *[None] * 5,
        )
