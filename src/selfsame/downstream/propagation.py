"""A mask carried through the frames of a film by the likeness of features: nothing is learned.

Each place of a frame takes the labels of the places of earlier frames that look most like it: of the first frame, whose
mask is known, and of the last few, near to where it is itself.

Sources: the protocol, Jabri et al. 2020 (contrastive random walk), arXiv 2006.14613, section 4.1 and appendix; its
settings, Caron et al. 2021 (DINO), arXiv 2104.14294, section 4.2.2. Labels stay soft from frame to frame; only what is
written is made hard. Deviation: features are compared block by block with the rows of places that are near enough, so
that memory does not grow with the square of the places; the result is the same.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

BLOCK = 1 << 24  # likenesses held at once: 64 MiB of float32


def affinity(
    targets: Float[Tensor, "t d"],
    sources: Float[Tensor, "s d"],
    temperature: float,
    top: int,
    allowed: Bool[Tensor, "t s"] | None = None,
) -> tuple[Float[Tensor, "t k"], Int[Tensor, "t k"]]:
    """(weights, which sources) of the `top` sources most like each target; exp(cosine / temperature), of sum 1.

    Vectors are of unit length. At least one source must be allowed for each target.
    """
    likeness = targets @ sources.T
    if allowed is not None:
        likeness = likeness.masked_fill(~allowed, -torch.inf)
    best, which = likeness.topk(min(top, likeness.shape[1]), dim=1)
    return (best / temperature).softmax(dim=1), which


def carried(
    target: Float[Tensor, "d h w"],
    features: Float[Tensor, "n d h w"],
    labels: Float[Tensor, "n k h w"],
    temperature: float,
    top: int,
    radius: int | None,
) -> Float[Tensor, "k h w"]:
    """Soft labels of a frame from those of n frames, whose features are of unit length.

    `radius`: places lie at most so many rows and columns apart; None: any place may be asked.
    """
    n, _, height, width = features.shape
    reach = height if radius is None else radius
    span = min(height, 2 * reach + 1)  # rows near enough to one
    rows = max(1, BLOCK // (n * span * width * width))
    found = labels.new_empty(labels.shape[1], height, width)
    columns = torch.arange(width, device=target.device)
    for start in range(0, height, rows):
        stop = min(height, start + rows)
        first, last = max(0, start - reach), min(height, stop + reach)
        near = features[:, :, first:last].permute(0, 2, 3, 1).flatten(0, 2)
        theirs = labels[:, :, first:last].permute(0, 2, 3, 1).flatten(0, 2)
        allowed = None
        if radius is not None:
            r, c = torch.arange(start, stop, device=target.device), torch.arange(first, last, device=target.device)
            high = (r[:, None] - c[None]).abs() <= radius
            wide = (columns[:, None] - columns[None]).abs() <= radius
            allowed = (high[:, None, :, None] & wide[None, :, None, :]).flatten(0, 1).flatten(1).repeat(1, n)
        mine = target[:, start:stop].permute(1, 2, 0).flatten(0, 1)
        weights, which = affinity(mine, near, temperature, top, allowed)
        mixed = (theirs[which] * weights[..., None]).sum(dim=1)
        found[:, start:stop] = mixed.T.unflatten(1, (stop - start, width))
    return found


def propagated(
    frames: Iterable[Float[Tensor, "d h w"]],
    first: Float[Tensor, "k h w"],
    context: int = 7,
    radius: int | None = 12,
    top: int = 5,
    temperature: float = 0.1,
) -> Iterator[Float[Tensor, "k h w"]]:
    """Soft labels of each frame after the first, from the features of all in order and the labels of the first.

    `context`: how many of the last frames are asked beside the first. No more than these are held.
    """
    known: tuple[Tensor, Tensor] | None = None
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=context)
    for features in frames:
        unit = F.normalize(features.float(), dim=0)
        if known is None:
            known = unit, first.to(unit.device)
            continue
        asked = [known, *recent]
        labels = carried(
            unit, torch.stack([f for f, _ in asked]), torch.stack([y for _, y in asked]), temperature, top, radius
        )
        recent.append((unit, labels))
        yield labels


def one_hot(mask: Int[np.ndarray, "h w"], objects: int, size: tuple[int, int]) -> Float[Tensor, "k g v"]:
    """The mask at the places of a map, each by the pixel in its middle; number k is object k, 0 is none."""
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(np.int64)
    small = torch.from_numpy(mask[np.ix_(rows, columns)].astype(np.int64))
    return F.one_hot(small, objects + 1).permute(2, 0, 1).float()


def hard(labels: Float[Tensor, "k g v"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """The strongest object at each pixel: labels are enlarged bilinearly and each is stretched to 0 .. 1 by itself.

    One object at a time: memory does not grow with their number. The first of equals counts.
    """
    best = torch.full(size, -1.0, device=labels.device)
    which = torch.zeros(size, dtype=torch.uint8, device=labels.device)
    for k, one in enumerate(labels):
        large = F.interpolate(one[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        low, high = large.min(), large.max()
        if high > 0:  # an object that is gone stays so
            large = (large - low) / (high - low).clamp_min(1e-12)
        better = large > best
        best, which = torch.where(better, large, best), which.masked_fill(better, k)
    return which.cpu().numpy()
