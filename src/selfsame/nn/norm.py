"""Networks without batch statistics, and batch norm that looks but does not learn.

Group norm with weight standardisation serves BYOL as well as batch norm: Richemond et al. 2020, arXiv 2010.10241.
Raises: UserError where there is no batch norm to replace.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import BatchNormAct2d, GroupNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from selfsame.errors import UserError

M = TypeVar("M", bound=nn.Module)


def standardised(weight: Float[Tensor, "out *fan"], eps: float = 1e-4) -> Float[Tensor, "out *fan"]:
    """Each output channel's weights with mean 0 and variance 1 / fan_in (Brock et al. 2021, arXiv 2101.08692).

    There is no learnable gain: the group norm that follows has one. `eps` is the smallest fan_in * variance.
    """
    fan = tuple(range(1, weight.ndim))
    variance, mean = torch.var_mean(weight, dim=fan, correction=0, keepdim=True)
    return (weight - mean) * torch.rsqrt((variance * weight[0].numel()).clamp_min(eps))


class Standardised(nn.Module):
    """`standardised` as a parametrisation, so that every kind of convolution keeps its own forward."""

    def forward(self, weight: Tensor) -> Tensor:
        return standardised(weight)


def use_group_norm(module: M, groups: int = 16) -> M:
    """Replace, in place, every batch norm by group norm and standardise every Conv1d and Conv2d; returns it.

    The number of groups is the largest divisor of the channels that is at most `groups`; a BatchNorm1d, which
    sees vectors or series, becomes one group (layer norm). The affine weights are kept, and so are the activations of
    timm's fused layers. Convolutions that see one number only (fan_in 1) have nothing to standardise.
    """
    if not any(isinstance(part, _BatchNorm) for part in module.modules()):
        raise UserError(f"{type(module).__name__} has no batch norm to replace by group norm. Leave its norm as it is.")
    done: dict[nn.Module, nn.Module] = {}  # a layer used twice stays one layer
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, _BatchNorm):
                if child not in done:
                    done[child] = _group_norm(child, groups)
                parent._modules[name] = done[child]
            elif isinstance(child, nn.Conv1d | nn.Conv2d) and child not in done and child.weight[0].numel() > 1:
                done[child] = parametrize.register_parametrization(child, "weight", Standardised())
    return module


def group_norm(
    x: Float[Tensor, "b c *rest"], groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Float[Tensor, "b c *rest"]:
    """torch's group norm. On a processor bfloat16 is laid out channel by channel for it, and back.

    Where channels come last, torch 2.14 needs eight times as long there: 85 ms for 3,136 pieces of 8 x 8 with 16
    channels, forward and backward.
    """
    last = x.ndim == 4 and x.dtype == torch.bfloat16 and x.device.type == "cpu" and not x.is_contiguous()
    if not last:
        return F.group_norm(x, groups, weight, bias, eps)
    return F.group_norm(x.contiguous(), groups, weight, bias, eps).contiguous(memory_format=torch.channels_last)


class GroupNorm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class ActiveGroupNorm(GroupNormAct):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(group_norm(x, self.num_groups, self.weight, self.bias, self.eps)))


def largest_divisor(width: int, most: int) -> int:
    """The largest number up to `most` that divides `width`."""
    return max(number for number in range(1, most + 1) if width % number == 0)


def _group_norm(old: _BatchNorm, groups: int) -> nn.GroupNorm:
    channels = old.num_features
    count = 1 if isinstance(old, nn.BatchNorm1d) else largest_divisor(channels, groups)
    new: nn.GroupNorm
    if isinstance(old, BatchNormAct2d):
        new = ActiveGroupNorm(channels, count, eps=old.eps, affine=old.affine, apply_act=False)
        new.drop, new.act = old.drop, old.act
    else:
        new = GroupNorm(count, channels, eps=old.eps, affine=old.affine)
    if old.affine:
        new.weight, new.bias = old.weight, old.bias
    return new.train(old.training)


@contextmanager
def at_rest(*modules: nn.Module) -> Iterator[None]:
    """Under it the modules are in eval mode; each part has its own mode again afterwards."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Under it, batch norms in training mode use the batch's statistics but do not move their running ones.

    For inputs that are not of the data, such as adversarial views. Batch norms in eval mode are not changed.
    """
    tracking = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    for part in tracking:
        part.track_running_stats = False  # in eval mode the running statistics are used all the same
    try:
        yield
    finally:
        for part in tracking:
            part.track_running_stats = True


@torch.no_grad()
def calibrated(module: M, batches: Iterable[Tensor]) -> M:
    """The module in eval mode, its batch norms' statistics those of these batches [b ...], averaged."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.reset_running_stats()
        part.momentum = None  # torch: the plain average of all batches
    module.train()
    for batch in batches:
        module(batch)
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum
    return module.eval()
