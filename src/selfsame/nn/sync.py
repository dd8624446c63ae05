"""Sums and batch norm over the rows of all processes, on any device; torch's SyncBatchNorm works on GPUs only.

Source: Ioffe & Szegedy 2015, arXiv 1502.03167; the processes' statistics are combined as in Chan et al. 1979.
Raises: UserError for a batch norm with a forward of its own.
"""

from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as td
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from selfsame.errors import UserError

M = TypeVar("M", bound=nn.Module)


def synchronised(module: M) -> M:
    """Let every batch norm in it, in train mode, see the whole batch of all processes; returns the same module.

    Only the class of the layers changes: parameters, buffers, settings and the keys of the state stay as they are.
    In eval mode, and outside a process group, the layers are what they were. Torch's own SyncBatchNorm is left alone,
    and so are those that have a training mode of their own already, as of `nn.split`.
    """
    fronted(module, WholeBatch)
    return module


def fronted(module: nn.Module, front: type["Front"]) -> list[Any]:
    """Put `front` before the class of each batch norm that has none before it; returns these layers.

    Raises UserError for one with a forward of its own.
    """
    made: dict[type, type] = {}
    changed = []
    for name, part in module.named_modules():
        if not isinstance(part, _BatchNorm) or isinstance(part, Front | nn.SyncBatchNorm):
            continue
        kind = type(part)
        if kind.forward not in (_BatchNorm.forward, BatchNormAct2d.forward):
            raise UserError(
                f"the batch norm {name} is a {kind.__name__}, whose own forward cannot be {front.becomes}. "
                f"Use torch's or timm's BatchNorm, {front.instead}."
            )
        named = f"{front.__name__.removesuffix('Batch')}{kind.__name__}"
        part.__class__ = made.setdefault(kind, type(named, (front, kind), {}))
        changed.append(part)
    return changed


class Front(_BatchNorm):
    """In front of a batch norm class: another training mode."""

    becomes: ClassVar[str]  # what it makes of a batch norm, and what to do where it cannot, for the error
    instead: ClassVar[str]


class WholeBatch(Front):
    """The training mode over all processes. They may have different row counts."""

    becomes = "spread over processes"
    instead = "--method.norm group, or one process"

    @torch.compiler.disable  # the compiler cannot follow collectives inside a backward of one's own
    def forward(self, x: Float[Tensor, "b c *rest"]) -> Float[Tensor, "b c *rest"]:
        if not self.training or not td.is_initialized():
            return super().forward(x)
        self._check_input_dim(x)
        mean, variance, total = statistics(x)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self._follow(mean, variance * (total / (total - 1)))
        y = _Normalise.apply(x, mean, variance, total, self.weight, self.bias, self.eps)
        return self.act(self.drop(y)) if isinstance(self, BatchNormAct2d) else y

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.mul_(1 - share).add_(mean, alpha=share)
        self.running_var.mul_(1 - share).add_(variance, alpha=share)


@torch.no_grad()
def statistics(x: Float[Tensor, "b c *rest"]) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"], Float[Tensor, "1"]]:
    """(mean, biased variance, number of values) of each channel over all processes, at least in fp32.

    The same to the bit on every process.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    unused = x.new_zeros(x.shape[1], dtype=wide)  # running statistics that do not move; of them the dtype counts
    mean, variance = torch.batch_norm_update_stats(x, unused, unused.clone(), 0.0)  # one pass, nothing large is written
    mine = torch.cat([mean, variance, mean.new_full((1,), x.numel() // x.shape[1])])
    every = [torch.empty_like(mine) for _ in range(td.get_world_size())]
    td.all_gather(every, mine)
    means, variances, counts = torch.stack(every).split([len(mean), len(mean), 1], dim=1)
    total = counts.sum(dim=0)
    share = counts / total
    mean = (share * means).sum(dim=0)
    return mean, (share * (variances + (means - mean).square())).sum(dim=0), total


class _Normalise(Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance are functions of all x.

    The gradient of x is that of the sum of all processes' losses; those of weight and bias are this process's part.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        total: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, mean, torch.rsqrt(variance + eps), total, weight)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, scale, total, weight = ctx.saved_tensors
        gradient = gradients[0]
        # Of torch's own backward only the two sums are wanted: of gradient * (x - mean) * scale, and of gradient.
        ones = torch.ones_like(mean) if weight is None else weight
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, ones, None, None, mean, scale, True, 0.0, [False, True, True]
        )
        of_x = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([of_bias, of_weight]).to(mean.dtype)
            td.all_reduce(sums)
            level, slope = sums / total
            gain = scale * ones
            # gain * (gradient - level - (x - mean) * scale * slope), in fp32 up to the last operation
            shape = (1, -1, *[1] * (x.ndim - 2))
            rest = torch.sub(x, mean.view(shape))
            rest = torch.addcmul((-gain * level).view(shape), rest, (-gain * scale * slope).view(shape), out=rest)
            of_x = torch.addcmul(rest, gradient, gain.view(shape), out=torch.empty_like(x))
        wanted = ctx.needs_input_grad
        return of_x, None, None, None, of_weight if wanted[4] else None, of_bias if wanted[5] else None, None


def world() -> int:
    """How many processes work together."""
    return td.get_world_size() if td.is_initialized() else 1


def places(rows: int, device: torch.device) -> Tensor:
    """Where this process's rows stand in the global batch, as `gathered` orders it: long [rows]."""
    rank = td.get_rank() if td.is_initialized() else 0
    return rank + world() * torch.arange(rows, device=device)


def own(x: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "b ..."]:
    """This process's rows of what stands whole on every process: the other way of `gathered`."""
    return x[td.get_rank() :: world()] if td.is_initialized() else x


@torch.no_grad()
def shared(x: Tensor) -> Tensor:
    """The first process's tensor on all: for what is drawn once for the whole batch."""
    if not td.is_initialized():
        return x
    whole = x.contiguous()
    td.broadcast(whole, 0)
    return whole


def alike(device: torch.device) -> torch.Generator:
    """A generator on the CPU that draws the same on all processes; its seed is the first one's next random number.

    For draws that decide shapes, which the host must know. With several processes on GPUs each call waits for `device`.
    A step that is only counted (`engine.rehearse`) gets real numbers too.
    """
    with unset_fake_temporarily():
        seed = torch.randint(2**62, (1,))
        if td.is_initialized() and device.type != "cpu":
            seed = shared(seed.to(device))
        return torch.Generator().manual_seed(int(shared(seed)))


def mean_of_rows(x: Float[Tensor, "b ..."]) -> Float[Tensor, "..."]:
    """The mean over the rows of all processes, with gradient, at least in float32."""
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return summed(x.sum(dim=0)) / (len(x) * world())


def summed(x: Tensor) -> Tensor:
    """The sum over all processes, x itself where there is one; its gradient is that of the sum of all their losses."""
    return _across(x) if td.is_initialized() else x


def mean_total(total: Tensor) -> Tensor:
    """The mean over the processes of what each counts in its own rows, without gradient.

    A sum over own rows that is divided by it is, after DDP's mean, the sum over all rows divided by the count in all:
    so rows weigh as in one process, where the counts of processes differ.
    """
    return summed(total.detach().float()) / world()


@torch.compiler.disable  # as WholeBatch
def _across(x: Tensor) -> Tensor:
    return _Sum.apply(x)


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        td.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        td.all_reduce(total)
        return total


def gathered(x: Float[Tensor, "b ..."]) -> Float[Tensor, "n ..."]:
    """The rows of all processes in the order of the global batch, x itself where there is one process.

    All must have as many rows: every world-th is a process's own. The gradient is that of the sum of all processes'
    losses; with the mean over processes that DDP takes, losses of the own rows against all, and losses of all rows on
    every process, both learn what one process would. (A gather without gradient turns the direction of the first and
    divides the second by the number of processes.)
    """
    return _all_rows(x) if td.is_initialized() else x


@torch.compiler.disable  # as WholeBatch
def _all_rows(x: Tensor) -> Tensor:
    return _Gather.apply(x)


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(td.get_world_size())]
        td.all_gather(parts, x.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        td.all_reduce(total)
        return total[td.get_rank() :: td.get_world_size()]
