"""Points as maps with a peak at each, and from such maps back to points between the places of the map.

Coordinates are in places of the map: place j covers j to j + 1, so that its middle is j + 0.5.

Sources: maps as Gaussians and a quarter of a place toward the second neighbour, Xiao et al. 2018 (SimpleBaseline),
arXiv 1804.06208, section 2 (from Newell et al. 2016, arXiv 1603.06937); the peak of a Gaussian by Taylor's series,
Zhang et al. 2020 (DARK), arXiv 1910.06278, section 3.1; the expectation over all places, Sun et al.
2018, arXiv 1711.08229.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

FINE, COARSE = 2.0, 1.0  # standard deviation of a Gaussian in places: that of maps of 64 x 48, and of small ones
SMALL = 24  # places a side up to which a map is small
SHARP = 10.0  # what a map is multiplied by before the softmax of the expectation
LEAST = 1e-10  # under a logarithm


def spread_for(side: int) -> float:
    """Standard deviation of the Gaussians in maps of so many places a side."""
    return COARSE if side <= SMALL else FINE


def gaussians(xy: Float[Tensor, "*b 2"], side: int, spread: float) -> Float[Tensor, "*b g v"]:
    """Maps of side x side with a peak of 1 at each point (x, y): exp(-d^2 / (2 spread^2)), d between middles."""
    places = torch.arange(side, device=xy.device) + 0.5
    across = (places - xy[..., 0, None]) ** 2
    down = (places - xy[..., 1, None]) ** 2
    return torch.exp(-(down[..., :, None] + across[..., None, :]) / (2 * spread**2))


def peaks(maps: Float[Tensor, "n h w"]) -> tuple[Tensor, Tensor, Float[Tensor, "n"]]:
    """Column and row of the greatest value of each map, and that value."""
    value, place = maps.flatten(1).max(dim=1)
    return place % maps.shape[2], place // maps.shape[2], value


def quarter(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n 2"]:
    """The peak, moved by a quarter of a place toward the greater neighbour, across and down."""
    column, row, _ = peaks(maps)
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    n = torch.arange(maps.shape[0], device=maps.device)
    dx = padded[n, row + 1, column + 2] - padded[n, row + 1, column]
    dy = padded[n, row + 2, column + 1] - padded[n, row, column + 1]
    return torch.stack([column + 0.5 + dx.sign() / 4, row + 0.5 + dy.sign() / 4], dim=1)


def dark(maps: Float[Tensor, "n h w"], spread: float) -> Float[Tensor, "n 2"]:
    """The peak of the Gaussian that the smoothed map looks like: exact for one, where it lies two places from the edge.

    The map is smoothed by a Gaussian of `spread`, and the logarithm taken; from its first and second differences at the
    peak follows where the first would be 0. Moved by a place at most. Nearer to the edge: `quarter`.
    """
    reach = max(1, round(3 * spread))
    kernel = torch.exp(-((torch.arange(-reach, reach + 1, device=maps.device) / spread) ** 2) / 2)
    kernel = kernel / kernel.sum()
    smooth = F.conv2d(maps.clamp_min(0)[:, None], kernel[None, None, :, None], padding=(reach, 0))
    smooth = F.conv2d(smooth, kernel[None, None, None], padding=(0, reach))[:, 0]
    logs = smooth.clamp_min(LEAST).log().double()
    column, row, _ = peaks(maps)
    height, width = maps.shape[1:]
    inside = (column >= 2) & (column < width - 2) & (row >= 2) & (row < height - 2)
    n, c, r = torch.arange(maps.shape[0], device=maps.device), column.clamp(2, width - 3), row.clamp(2, height - 3)

    def at(down: int, across: int) -> Tensor:
        return logs[n, r + down, c + across]

    gx, gy = (at(0, 1) - at(0, -1)) / 2, (at(1, 0) - at(-1, 0)) / 2
    xx = (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4
    yy = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4
    xy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
    determinant = xx * yy - xy**2
    peaked = inside & (determinant > LEAST) & (xx < 0)
    safe = determinant.where(peaked, 1.0)
    move = torch.stack([(xy * gy - yy * gx) / safe, (xy * gx - xx * gy) / safe], dim=1).clamp(-1, 1)
    found = torch.stack([column, row], dim=1) + 0.5 + move
    return torch.where(peaked[:, None], found, quarter(maps).double()).to(maps.dtype)


def expected(maps: Float[Tensor, "n h w"], sharp: float = SHARP) -> Float[Tensor, "n 2"]:
    """The mean place under the softmax of the map times `sharp` (soft-argmax)."""
    weight = (maps.flatten(1) * sharp).softmax(dim=1).view_as(maps)
    columns = torch.arange(maps.shape[2], device=maps.device) + 0.5
    rows = torch.arange(maps.shape[1], device=maps.device) + 0.5
    return torch.stack([(weight.sum(dim=1) * columns).sum(dim=1), (weight.sum(dim=2) * rows).sum(dim=1)], dim=1)
