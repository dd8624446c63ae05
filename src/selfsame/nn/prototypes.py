"""Directions that learn, how near vectors are to them, and the loss of predicting another view's assignment to them.

Source: SwAV, Caron et al. 2020, arXiv 2006.09882, section 3.1; DINO, Caron et al. 2021, 2104.14294, section 3.1 and
appendix C (the head); the last layer's weight norm: Salimans & Kingma 2016, 1602.07868.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from selfsame.nn.heads import Norm, OutputNorm, ending, tower


class Prototypes(nn.Module):
    """Cosines [b k] of vectors [b d] with k directions: a linear layer with weight norm whose lengths stay 1.

    In float32 at least: bfloat16 rounds cosines to 1 / 256, of which a temperature of 0.04 makes a tenth.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.itemsize < 4 else x
            return F.normalize(x, dim=1) @ F.normalize(self.weight, dim=1).T


def prototype_head(
    d_in: int, hidden: int, width: int, count: int, output_norm: OutputNorm = "none", norm: Norm | None = None
) -> nn.Sequential:
    """DINO's head: two hidden layers with GELU, a narrow unit vector [b width], its scores [b count].

    The narrow vector is what `head[:-1]` gives, before it is put on the unit sphere. `norm` stands in the hidden layers
    (its code's `use_bn_in_head`); `output_norm`, which is no part of the paper, at the narrow vector's end.
    """
    layers = tower(d_in, hidden, hidden, width, norm=norm, bias=True, last_bias=True, gelu=True)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers, *ending(output_norm, width), Prototypes(width, count))


def across_views(
    targets: Sequence[Float[Tensor, "b k"]], scores: Sequence[Float[Tensor, "b k"]], temperature: float
) -> Float[Tensor, ""]:
    """Mean over targets i and views v other than i of the cross-entropy of softmax(scores_v / temperature).

    Target i is of view i. The cross-entropy is linear in its target, so that each view is passed once.
    """
    losses = []
    for v, score in enumerate(scores):
        others = [target for i, target in enumerate(targets) if i != v]
        if others:
            losses.append(F.cross_entropy(score / temperature, torch.stack(others).sum(dim=0)))
    return torch.stack(losses).sum() / (len(targets) * (len(scores) - 1))


def warming(start: float, end: float, progress: float, share: float) -> float:
    """From `start` to `end` in a straight line over the first `share` of a run, then `end`: DINO's temperature."""
    return end if progress >= share else start + (end - start) * progress / share
