"""Where text stands in a view, and what is made of its places: means that padding has no influence on.

A view is token numbers [b n], each row of r tokens filled up with 0.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from selfsame.errors import UserError


def trimmed(view: Int[Tensor, "b n"]) -> Int[Tensor, "b m"]:
    """Without the columns that are padding in all rows, where looking costs no waiting for a device."""
    if not view.is_cpu or torch.compiler.is_compiling() or isinstance(view, FakeTensor):
        return view
    return view[:, : max(1, int((view != 0).sum(dim=1).max()))] if view.numel() else view


def owners(view: Tensor) -> Int[Tensor, "b n"]:
    """Which token each place belongs to: floor(j r / n) of the r tokens of a row."""
    n = view.shape[1]
    real = (view != 0).sum(dim=1, keepdim=True).clamp(min=1)
    return torch.arange(n, device=view.device) * real // n


def spread_over(tokens: Float[Tensor, "b m d"], owner: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    return tokens.gather(1, owner[..., None].expand(-1, -1, tokens.shape[2]))


def averaged(features: Float[Tensor, "b c n"], real: Bool[Tensor, "b n"]) -> Float[Tensor, "b c"]:
    """The mean over the places that hold text."""
    weight = real.to(features.dtype)
    return (features * weight[:, None]).sum(dim=2) / weight.sum(dim=1, keepdim=True).clamp(min=1)


def pooled(out: Any, view: Tensor, name: str) -> Float[Tensor, "b d"]:
    if isinstance(out, Tensor) and out.ndim == 2:
        return out
    if isinstance(out, Tensor) and out.ndim == 3 and out.shape[1] == view.shape[1]:
        return averaged(out.transpose(1, 2), view != 0)
    given = f"a tensor of shape {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
    raise UserError(f"{name} gives {given} for tokens [b, n]; an encoder needs [b d] or [b n d].")
