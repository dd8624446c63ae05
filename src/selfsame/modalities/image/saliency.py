"""What stands out of its background: a mask of the object, without labels and without a network.

Source: minimum barrier distance to the border and the contrast of colours to its four sides, as in Zhang et al. 2015,
"Minimum Barrier Salient Object Detection at 80 FPS" (ICCV), cut at Otsu's threshold (1979). It takes for granted that
the border of a crop is mostly background, and that the object differs from it in colour.
Deviations: all pixels are relaxed at once, not in the order of a raster, so that a batch is one computation; colours
are luma and two differences, not CIELAB; no smoothing, and no prior for the centre, which a random crop has not; the
root of the sum is cut, or dark parts of an object would be lost beside bright ones; each image is looked at in at most
32 x 32 pixels. bench/saliency.py measures the masks: good on plain ground, poor on a crowded one. Raises nothing.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["background_of", "mask_of", "saliency"]

SIDE = 32  # pixels a side that are looked at
ROUNDS = 3 * SIDE // 4  # relaxations: ways of as many pixels, and some longer ones, are found
BORDER = 0.1  # of the side, whose colours are those of the background
BINS = 64  # of Otsu's histogram
LEAST, MOST = 0.05, 0.9  # share of the view that an object covers; outside of it nothing can be told
WHITEN = 1e-3  # added to the variance of the border's colours: noise of 3 % is no contrast


def mask_of(x: Float[Tensor, "b c s s"]) -> Bool[Tensor, "b s s"]:
    """Where the object is; all of a view where what stands out covers less than 5 % or more than 90 % of it."""
    height, width = x.shape[2:]
    seen = saliency(x)
    mask = F.interpolate((seen - otsu(seen))[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0] > 0
    share = mask.flatten(1).float().mean(1)
    unclear = (share < LEAST) | (share > MOST)
    return mask | unclear[:, None, None]


def background_of(x: Float[Tensor, "b c s s"], mask: Bool[Tensor, "b s s"]) -> Float[Tensor, "b c s s"]:
    """Views in which the object is filled with the colours about it; views that are all object stay as they are."""
    whole = mask.flatten(1).all(1)
    ground = (~mask | whole[:, None, None]).to(x.dtype)[:, None]
    seen, weight = F.adaptive_avg_pool2d(x * ground, 8), F.adaptive_avg_pool2d(ground, 8)
    for _ in range(8):  # colours spread over the cells that hold nothing of the background
        wide = F.avg_pool2d(seen, 3, 1, 1), F.avg_pool2d(weight, 3, 1, 1)
        empty = weight < 0.05
        seen, weight = torch.where(empty, wide[0], seen), torch.where(empty, wide[1], weight)
    fill = F.interpolate(seen / weight.clamp(min=1e-6), x.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(ground.bool(), x, fill)


def saliency(x: Float[Tensor, "b c s s"]) -> Float[Tensor, "b t t"]:
    """How much each place stands out, in [0, 1], of the image in at most 32 x 32 pixels."""
    side = min(SIDE, *x.shape[2:])
    colours = opponent(F.interpolate(x, (side, side), mode="area"))
    return unit(unit(barrier(colours)) + unit(contrast(colours))).sqrt()


def opponent(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Mean, half of red - green, half of yellow - blue of 3 channels; any others as they are."""
    if x.shape[1] != 3:
        return x
    red, green, blue = x.unbind(1)
    return torch.stack([x.mean(1), (red - green) / 2, (red + green) / 4 - blue / 2], dim=1)


def barrier(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
    """Least range of values (largest - smallest) on any way to the border, summed over channels."""
    inside = torch.zeros_like(x)
    inside[:, :, 1:-1, 1:-1] = 1e3  # no way is known yet
    cost, high, low = 2 * inside, x + inside, x - inside
    for _ in range(ROUNDS):
        for dim, step in ((2, 1), (2, -1), (3, 1), (3, -1)):
            # What comes round from the other side comes from the border, whose cost is 0: the border ignores it.
            above, below = torch.maximum(high.roll(step, dim), x), torch.minimum(low.roll(step, dim), x)
            better = above - below < cost
            cost = torch.where(better, above - below, cost)
            high, low = torch.where(better, above, high), torch.where(better, below, low)
    return cost.sum(1)


def contrast(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
    """Distance of each colour to those of the border, in their standard deviations.

    Of the four sides the one that differs most is left out, for the object may reach it.
    """
    wide = max(1, round(BORDER * x.shape[2]))
    sides = x[:, :, :wide], x[:, :, -wide:], x[..., :wide].transpose(2, 3), x[..., -wide:].transpose(2, 3)
    far = torch.stack([mahalanobis(x, side.flatten(2)) for side in sides])
    far = far / far.flatten(2).amax(2).clamp(min=1e-6)[..., None, None]
    return far.sum(0) - far.amax(0)


def mahalanobis(x: Float[Tensor, "b c h w"], of: Float[Tensor, "b c n"]) -> Float[Tensor, "b h w"]:
    mean = of.mean(2, keepdim=True)
    away = of - mean
    spread = away @ away.transpose(1, 2) / of.shape[2] + WHITEN * torch.eye(x.shape[1], device=x.device)
    gap = x.flatten(2) - mean
    solved = torch.linalg.solve_ex(spread, gap)[0]  # without a look at its success, which would wait for the device
    return (gap * solved).sum(1).clamp(min=0).sqrt().reshape(len(x), *x.shape[2:])


def unit(x: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """From 0 to 1 in each row; 0 where all are equal."""
    low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    return (x - low) / (high - low).clamp(min=1e-6)


def otsu(x: Float[Tensor, "b h w"]) -> Float[Tensor, "b 1 1"]:
    """The threshold in [0, 1] that leaves the least variance on its two sides, of each row."""
    bins = (x.flatten(1) * BINS).long().clamp(max=BINS - 1)
    counts = torch.zeros(len(x), BINS, device=x.device).scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float))
    places = (torch.arange(BINS, device=x.device) + 0.5) / BINS
    below, total = counts.cumsum(1), counts.sum(1, keepdim=True)
    sums = (counts * places).cumsum(1)
    between = (sums[:, -1:] * below - sums * total).square() / (below * (total - below)).clamp(min=1e-6)
    return ((between[:, :-1].argmax(1) + 1) / BINS)[:, None, None]
