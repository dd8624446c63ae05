"""From the maps of an encoder to something for each place of a view: class scores, depth."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from selfsame.downstream.pictures import PictureExamples, enlarged
from selfsame.downstream.trunk import Trunk, shapes_of
from selfsame.types import Encoder

WIDEST = 256  # channels of the coarsest block; each finer one has half of it, as in the depth decoders of the field
LEAST = 16
GROUPS = 8
LEAST_SIZE = 128  # pixels of a view where the user names none and the encoder takes any


def roomy(encoder: Encoder, examples: PictureExamples) -> int:
    """Size of a view for a task of places: the encoder's; at least LEAST_SIZE where it takes any size.

    Never more than the first picture has, but for the encoder's own size.
    """
    size, short = int(encoder.spec["size"]), min(examples.first_size())
    return max(size, min(LEAST_SIZE, short // 32 * 32)) if encoder.has_pieces else size


class PerPixel(nn.Module):
    """A linear map of the encoder's maps at each place: of all of them, enlarged to the finest and laid together.

    A 1x1 convolution of maps laid together is the sum of one on each, and enlarging commutes with it: so it is done at
    each map's own size. Features are brought to one scale by batch norm without weights, as in linear probes of masked
    autoencoders (He et al. 2022, arXiv 2111.06377, A.1).
    """

    def __init__(self, encoder: Encoder, size: int, out: int) -> None:
        super().__init__()
        widths = [width for width, _ in shapes_of(encoder, size)]
        self.parts = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width, affine=False), nn.Conv2d(width, out, 1, bias=k == 0))
            for k, width in enumerate(widths)
        )

    def forward(self, encoder: Encoder, views: Tensor) -> Float[Tensor, "b k h w"]:
        maps = [part(one) for part, one in zip(self.parts, encoder.maps(views), strict=True)]
        return sum((enlarged(one, maps[0].shape[-2:]) for one in maps[1:]), maps[0])


class MultiScale(nn.Module):
    """A decoder over all strides, coarse to fine, with skips, as U-Net (Ronneberger et al. 2015, arXiv 1505.04597).

    Each block enlarges what came from below bilinearly, lays the encoder's map of that size beside it and mixes both by
    two 3x3 convolutions. Deviations: group norm, which does not depend on the batch, and no up-convolution. Before the
    first block the coarsest map is joined by its own means over regions, so that each place knows the whole view (Zhao
    et al. 2017, arXiv 1612.01105, section 3.2, of bins 1, 2, 3 and 6). A map as fine as the view is reached only where
    the encoder has one; what is coarser is enlarged at the end.
    """

    def __init__(self, encoder: Encoder, size: int, out: int) -> None:
        super().__init__()
        self.trunk = Trunk(encoder, size)
        coarse, *finer = self.trunk.widths[::-1]
        width = max(LEAST, min(WIDEST, coarse))
        bins = [number for number in (1, 2, 3, 6) if number <= size // self.trunk.strides[-1]]
        part = max(LEAST, width // 4)
        self.regions = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(number), nn.Conv2d(coarse, part, 1), nn.ReLU()) for number in bins
        )
        self.first = mixed(coarse + part * len(bins), width)
        self.blocks = nn.ModuleList()
        for k, skip in enumerate(finer, start=1):
            narrower = max(LEAST, min(WIDEST >> k, max(skip, LEAST)))
            self.blocks.append(nn.Sequential(mixed(width + skip, narrower), mixed(narrower, narrower)))
            width = narrower
        self.last = nn.Conv2d(width, out, 1)

    def forward(self, encoder: Encoder, views: Tensor) -> Float[Tensor, "b k h w"]:
        coarse, *finer = self.trunk(encoder, views)[::-1]
        shape = coarse.shape[-2:]
        x = self.first(torch.cat([coarse, *(enlarged(region(coarse), shape) for region in self.regions)], dim=1))
        for block, skip in zip(self.blocks, finer, strict=True):
            x = block(torch.cat([enlarged(x, skip.shape[-2:]), skip], dim=1))
        return self.last(x)


def mixed(width: int, out: int) -> nn.Module:
    groups = next(number for number in range(GROUPS, 0, -1) if out % number == 0)
    return nn.Sequential(nn.Conv2d(width, out, 3, padding=1, bias=False), nn.GroupNorm(groups, out), nn.ReLU())


def classes_at(
    scores: Float[Tensor, "k g v"], size: tuple[int, int], at_once: int = 8
) -> tuple[Float[Tensor, "h w"], Tensor]:
    """The greatest score and its class at each of h x w places, the scores enlarged bilinearly a few classes at a time.

    So that a picture of many pixels and classes fits in memory. The first of equal scores counts.
    """
    best: Tensor | None = None
    for start in range(0, len(scores), at_once):
        some = F.interpolate(scores[None, start : start + at_once], size=size, mode="bilinear", align_corners=False)[0]
        value, number = some.max(dim=0)
        if best is None:
            best, which = value, number
        else:
            better = value > best
            best, which = torch.where(better, value, best), torch.where(better, number + start, which)
    assert best is not None
    return best, which
