"""Masks of a few rectangles on a grid of patches, as many on every process as it has rows, drawn for the whole batch.

Source: BEiT, Bao et al. 2021, arXiv 2106.08254, algorithm 1; shares in sub-intervals over the batch as in DINOv2,
Oquab et al. 2023, 2304.07193. Deviation: a rectangle never covers more than is still wanted, instead of being drawn
again until it does not; so all rows of a batch are drawn together, without asking the device.
"""

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from selfsame.nn.sync import own, shared, world

BLOCKS = 10  # rectangles at most; each takes half of what is wanted on average, so nearly all is reached
LEAST = 4  # patches of a rectangle, where as many are still wanted
SLIMMEST = 0.3  # height / width of a rectangle is log-uniform from here to 1 / SLIMMEST


def block_masks(rows: int, grid: tuple[int, ...], low: float, high: float, device: torch.device) -> Bool[Tensor, "b n"]:
    """True where a patch is hidden: of row i about a share of low to high, at least one and never above high * n.

    The shares of the whole batch lie one in each of equal parts of [low, high], in a random order.
    """
    everyone = rows * world()
    drawn = shared(torch.rand(everyone, 2 + 4 * BLOCKS, device=device))
    place = drawn[:, 0].argsort().argsort()
    share = own(low + (high - low) * (place + drawn[:, 1]) / everyone)
    height, width = grid if len(grid) == 2 else (1, math.prod(grid))
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    mask = torch.zeros(rows, height, width, dtype=torch.bool, device=device)
    wanted = (share * height * width).floor().clamp(1, most_hidden(grid, high))
    for block in own(drawn[:, 2:]).unflatten(1, (BLOCKS, 4)).unbind(1):
        size, slimness, top, left = block.unbind(1)
        missing = wanted - mask.sum(dim=(1, 2))
        least = missing.clamp(max=LEAST)
        area = least + size * (missing - least)
        ratio = (math.log(1 / SLIMMEST) * (2 * slimness - 1)).exp()
        tall = (area * ratio).sqrt().round().clamp(min=1).minimum(area.floor()).clamp(max=height)
        wide = (area / tall.clamp(min=1)).floor().clamp(max=width)
        mask |= inside(y, top, tall, height)[:, :, None] & inside(x, left, wide, width)[:, None, :]
    return mask.flatten(1)


def most_hidden(grid: tuple[int, ...], high: float) -> int:
    """How many patches a mask of `block_masks` hides at most."""
    return max(1, int(high * math.prod(grid)))


def inside(line: Tensor, start: Tensor, length: Tensor, end: int) -> Bool[Tensor, "b n"]:
    """Which places of a line lie in a stretch of this length, whose start is drawn: in [0, 1)."""
    first = (start * (end - length + 1)).floor()[:, None]
    return (line >= first) & (line < first + length[:, None])
