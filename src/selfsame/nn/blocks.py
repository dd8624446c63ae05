"""The blocks a deep network is a row of: found in any network, and recomputed in the backward pass to save memory.

Source of the recomputation: Chen et al. 2016, arXiv 1604.06174, with a checkpoint at the input of each block.
Raises: UserError for a network without blocks.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from selfsame.errors import UserError

ROWS = (nn.Sequential, nn.ModuleList)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The parts of rows (Sequential, ModuleList) that have parts and parameters of their own, none inside another.

    Where several stand in a larger one and hold most of its weights, they count: the blocks of a stage rather than the
    stage, but a block rather than the squeeze-and-excitation in it.
    """

    def within(part: nn.Module, in_row: bool) -> list[nn.Module]:
        inner = [block for child in part.children() for block in within(child, isinstance(part, ROWS))]
        if not in_row or isinstance(part, ROWS) or not any(True for _ in part.children()) or not weights(part):
            return inner
        return inner if len(inner) > 1 and 2 * sum(map(weights, inner)) > weights(part) else [part]

    return list(dict.fromkeys(within(module, False)))  # one that stands in two places counts once


def weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def recomputed(encoder: nn.Module) -> int:
    """Let each block keep its input alone in training, and run again in the backward pass; returns how many do.

    The results stay the same up to rounding: random numbers are drawn again as they were, and batch norms' running
    statistics move once. Only the class of the blocks changes; the keys of the state stay as they are.
    """
    found = blocks(encoder)
    if not found:
        raise UserError(
            "--checkpoint-activations recomputes the blocks of a network, and this encoder has none: no Sequential or "
            "ModuleList of parts that have parts. Leave it out."
        )
    made: dict[type, type] = {}
    for block in found:
        kind = type(block)
        block.__class__ = made.setdefault(kind, type(f"Recomputed{kind.__name__}", (Recomputed, kind), {}))
    return len(found)


class Recomputed(nn.Module):
    """In front of a block's class: its forward in training keeps no activations."""

    def forward(self, *given: Any, **named: Any) -> Any:
        if not self.training or not torch.is_grad_enabled():
            return super().forward(*given, **named)

        def contexts() -> tuple[Any, Any]:
            return nullcontext(), spared_statistics(self)

        own = super().forward
        return checkpoint(own, *given, use_reentrant=False, context_fn=contexts, **named)


@contextmanager
def spared_statistics(module: nn.Module) -> Iterator[None]:
    """Under it, the running statistics that batch norms move are copies, which are thrown away.

    Unlike `norm.frozen_statistics` it lets them do all that they did in the first pass, as a recomputation must.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    kept = [(part, name, buffer) for part in norms for name, buffer in part.named_buffers(recurse=False)]
    for part, name, buffer in kept:
        part._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for part, name, buffer in kept:
            part._buffers[name] = buffer
