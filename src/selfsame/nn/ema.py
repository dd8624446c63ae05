"""A slow copy of a network.

Source: BYOL, arXiv 2006.07733, section 3.1; batch-norm buffers as in its reference code.
"""

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from selfsame.errors import UserError
from selfsame.nn.joint import each

Buffers = Literal["own", "copy", "average"]


class Target(nn.Module):
    """A copy of `online` that learns only through `follow`; no gradient ever reaches it.

    Parameters move towards the online ones. Batch-norm statistics are its own by default: the copy runs in train
    mode and keeps what it sees, as the reference code does. They can be copied or averaged instead.
    """

    def __init__(self, online: nn.Module, buffers: Buffers = "own") -> None:
        super().__init__()
        self.net = copy.deepcopy(online).requires_grad_(False)
        self.buffers_from = buffers

    @torch.no_grad()
    def forward(self, x: Any) -> Any:
        """What the slow copy makes of a view, or of each of a list of views."""
        return each(self.net, x) if isinstance(x, list) else self.net(x)

    @torch.no_grad()
    def follow(self, online: nn.Module, momentum: float) -> None:
        """target <- momentum * target + (1 - momentum) * online, in the parameters' own precision."""
        mine: list[Tensor] = list(self.net.parameters())
        theirs: list[Tensor] = list(online.parameters())
        torch._foreach_lerp_(mine, theirs, 1.0 - momentum)
        if self.buffers_from == "own":
            return
        for kept, given in zip(self.net.buffers(), online.buffers(), strict=True):
            # A counter has no average: a lerp through int would set num_batches_tracked to 0.
            if self.buffers_from == "copy" or not kept.is_floating_point():
                kept.copy_(given)
            else:
                kept.lerp_(given, 1.0 - momentum)


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` (progress 0) to `end` (progress 1). Raises UserError outside [0, 1]."""
    if not 0 <= progress <= 1:
        raise UserError(f"progress is {progress}; it is the share of the run that is done, from 0 to 1.")
    return end - (end - start) * (1 + math.cos(math.pi * progress)) / 2


def linear(start: float, end: float, progress: float) -> float:
    """A straight line from `start` (progress 0) to `end` (progress 1). Raises UserError outside [0, 1]."""
    if not 0 <= progress <= 1:
        raise UserError(f"progress is {progress}; it is the share of the run that is done, from 0 to 1.")
    return start + (end - start) * progress


def able_to_follow(momentum: float, steps: int) -> float:
    """The momentum, made less where the run is so short that the copy would stay behind.

    Its memory 1 / (1 - momentum) is at most 1.6 % of the run's steps, or 5.
    """
    return round(min(momentum, 1 - 1 / max(5.0, 0.016 * steps)), 6)


def momentum_for(batch: int, steps: int) -> float:
    """Momentum of the target for a batch size and length of run.

    0.99 at batch 256, as the CIFAR recipes have it, to the power batch / 256 (the scaling rule of arXiv 2307.13813),
    but the target must be able to follow.
    """
    return able_to_follow(0.99 ** (batch / 256), steps)
