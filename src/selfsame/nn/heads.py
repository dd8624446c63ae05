"""Small heads that sit on top of an encoder."""

from itertools import pairwise
from typing import Literal

from torch import nn

from selfsame.nn.whiten import Whiten

Norm = Literal["batch", "group"]
LastNorm = Literal["none", "plain", "affine"]
OutputNorm = Literal["none", "plain", "whiten"]


def mlp(d_in: int, d_hidden: int, d_out: int, norm: Norm = "batch", output_norm: OutputNorm = "none") -> nn.Sequential:
    """Linear, norm, ReLU, Linear: projector and predictor of BYOL (arXiv 2006.07733, section 3.3).

    As in the reference code the first layer has a bias although a norm follows, and the last has none. `output_norm`
    plain ends with a norm without scale and shift, as the projectors of MoCo v3 (arXiv 2104.02057) and SimSiam do;
    whiten also removes the correlation of columns (`nn.whiten`).
    """
    layers: list[nn.Module] = [nn.Linear(d_in, d_hidden), normed(norm, d_hidden), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(d_hidden, d_out, bias=False))
    return nn.Sequential(*layers, *ending(output_norm, d_out, norm))


def ending(output_norm: OutputNorm, width: int, norm: Norm = "batch") -> list[nn.Module]:
    """What stands at the end of a projector: nothing, a norm without scale and shift, or whitening."""
    if output_norm == "none":
        return []
    return [Whiten(width) if output_norm == "whiten" else normed(norm, width, affine=False)]


def tower(
    *widths: int,
    norm: Norm | None = "batch",
    bias: bool = False,
    last_bias: bool = False,
    last: LastNorm = "none",
    gelu: bool = False,
) -> nn.Sequential:
    """Linear layers with a norm and a ReLU, or a GELU, after each but the last: heads of any depth.

    `widths` from the input to the output. `bias`: of the hidden layers. `last`: the norm at the end, none, plain
    (without scale and shift) or affine.
    """
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths[:-1]):
        layers += [nn.Linear(d_in, d_out, bias=bias or norm is None)]
        layers += [normed(norm, d_out)] if norm else []
        layers += [nn.GELU() if gelu else nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last_bias))
    if last != "none":
        layers.append(normed(norm or "batch", widths[-1], affine=last == "affine"))
    return nn.Sequential(*layers)


def normed(norm: Norm, width: int, affine: bool = True) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm1d(width, affine=affine)
    return nn.GroupNorm(groups(width), width, affine=affine)


def groups(width: int, most: int = 16) -> int:
    """The largest number of groups, at most 16 (BYOL without batch statistics, arXiv 2010.10241), dividing `width`.

    Two channels at least are left in a group: the norm of one alone would not depend on its input.
    """
    return max(g for g in range(1, most + 1) if width % g == 0 and (width // g > 1 or g == 1))
