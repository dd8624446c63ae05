"""Where the tokens of a grid lie, of any number of axes: as coordinates and as position vectors."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

LONGEST = 10_000.0  # ratio of the longest and the shortest wave


def coordinates(grid: tuple[int, ...], device: torch.device | None = None) -> Int[Tensor, "n axes"]:
    """The place of each token along each axis, in the order of the tokens: the last axis runs fastest."""
    axes = [torch.arange(length, device=device) for length in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def sincos(grid: tuple[int, ...], width: int, device: torch.device | None = None) -> Float[Tensor, "n width"]:
    """Sines and cosines of the place along each axis, each axis in its own equal share of the width.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5; by axes as in MAE, arXiv 2111.06377, and I-JEPA. Columns
    that are left over stay 0; each axis needs two.
    """
    places = coordinates(grid, device)
    waves = width // (2 * len(grid))
    rates = LONGEST ** -(torch.arange(waves, device=device) / max(1, waves))
    angles = places[..., None] * rates  # [n axes waves]
    vectors = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return torch.nn.functional.pad(vectors, (0, width - vectors.shape[1]))
