"""Whitening: the columns of a batch of vectors made uncorrelated, each with mean 0 and variance 1.

Source: Huang et al. 2018, arXiv 1804.08450 (decorrelated batch norm, in groups), and 2019, 1904.03441 (by Newton's
iteration). That it keeps self-supervised vectors from lying along a few directions: Ermolov et al. 2021, 2007.06346,
and Hua et al. 2021, 2105.00470.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfsame.nn.norm import largest_divisor
from selfsame.nn.sync import summed

GROUP = 16  # columns whitened together: their covariance must be estimated from one batch
SHRINK = 0.01  # of the mean variance, added to every variance: keeps directions that carry nothing from being blown up
EPS = 1e-5  # added as well, as batch norm does, for columns that never change
ITERATIONS = 7  # of Newton's; each raises the smallest directions by at most a half


class Whiten(nn.Module):
    """ZCA whitening of [b d] within groups of columns, over the rows of all processes; no scale, no shift.

    It goes by the batch in eval mode too and keeps no running statistics, so it belongs into a head that only trains.
    A group has at most GROUP columns, as many as divide the width: of a prime width, each column is scaled alone.
    Computed in float32 at least. Deviations from the sources: the covariance is shrunk towards a multiple of the
    identity, and columns are grouped by place, not shuffled.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.size = largest_divisor(width, GROUP)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
            grouped = x.unflatten(1, (-1, self.size)).transpose(0, 1)  # [g b s]
            rows = summed(x.new_full((), len(x)))
            grouped = grouped - summed(grouped.sum(1, keepdim=True)) / rows
            covariance = summed(grouped.transpose(1, 2) @ grouped) / rows
            return (grouped @ inverse_root(covariance)).transpose(0, 1).flatten(1)


def inverse_root(covariance: Float[Tensor, "g s s"]) -> Float[Tensor, "g s s"]:
    """The symmetric inverse square root of each shrunk covariance, by the coupled Newton iteration."""
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    variance = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    shrunk = covariance + (SHRINK * variance + EPS) * eye
    norm = shrunk.flatten(1).norm(dim=1)[:, None, None]
    root, inverse = shrunk / norm, eye.expand_as(shrunk)
    for left in reversed(range(ITERATIONS)):
        step = torch.baddbmm(eye, inverse, root, beta=1.5, alpha=-0.5)  # (3 - inverse root) / 2 in one operation
        inverse = step @ inverse
        root = root @ step if left else root
    return inverse / norm.sqrt()
