"""Convolutions of maps that are one column wide, on a processor in bfloat16."""

from typing import Any

import torch.nn.functional as F
from torch import nn


def widen_single_columns(module: nn.Module) -> None:
    """Let strided convolutions in it see a second column, of zeros, beside a single one.

    oneDNN (torch 2.14, bfloat16) does not write the gradient of weights that meet nothing but padding there: it is what
    lay in memory, at times not a number. A padding of half an odd kernel has zeros there anyway, and with a stride of 2
    or more the output is the same. Other convolutions are left as they are.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d) and _meets_it(part):
            part.register_forward_pre_hook(_widened)


def _meets_it(part: nn.Conv1d | nn.Conv2d) -> bool:
    kernel, stride, reach = part.kernel_size[-1], part.stride[-1], part.dilation[-1]
    half = not isinstance(part.padding, str) and kernel % 2 == 1 and part.padding[-1] == reach * (kernel // 2)
    return half and kernel > 1 and stride > 1 and part.padding_mode == "zeros"


def _widened(part: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return (F.pad(given[0], (0, 1)), *given[1:]) if given[0].shape[-1] == 1 else None
