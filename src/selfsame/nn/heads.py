"""Small heads that sit on top of an encoder."""

from typing import Literal

from torch import nn

Norm = Literal["batch", "group"]


def mlp(d_in: int, d_hidden: int, d_out: int, norm: Norm = "batch") -> nn.Sequential:
    """Linear, norm, ReLU, Linear: projector and predictor of BYOL (arXiv 2006.07733, section 3.3).

    As in the reference code the first layer has a bias although a norm follows, and the last has none.
    """
    hidden = nn.BatchNorm1d(d_hidden) if norm == "batch" else nn.GroupNorm(groups(d_hidden), d_hidden)
    return nn.Sequential(
        nn.Linear(d_in, d_hidden), hidden, nn.ReLU(inplace=True), nn.Linear(d_hidden, d_out, bias=False)
    )


def groups(width: int, most: int = 16) -> int:
    """The largest number of groups, at most 16 (BYOL without batch statistics, arXiv 2010.10241), dividing `width`."""
    return max(g for g in range(1, most + 1) if width % g == 0)
