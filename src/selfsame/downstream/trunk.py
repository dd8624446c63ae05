"""The intermediate maps of an encoder as a pyramid, for heads that look at places.

Residual nets have one map a stage. A plain vision transformer has one resolution: the pyramid is then made of its
patch tokens by transposed convolutions and pooling, as the simple feature pyramid of Li et al. 2022 (ViTDet),
arXiv 2203.16527, section 3 (there from strides 4 to 32; layer norm is the group norm of one group here).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfsame.nn.norm import at_rest
from selfsame.types import Encoder


class Trunk(nn.Module):
    """Maps of an encoder, fine to coarse, at least two; what it adds to make them is learned with the head.

    `strides` are pixels of a view for one place of each map, `widths` their channels.
    """

    strides: tuple[int, ...]
    widths: tuple[int, ...]

    def __init__(self, encoder: Encoder, size: int) -> None:
        super().__init__()
        shapes = shapes_of(encoder, size)
        self.made: nn.ModuleList | None = None
        if len(shapes) > 1:
            self.strides = tuple(max(1, round(size / side)) for _, side in shapes)
            self.widths = tuple(width for width, _ in shapes)
            return
        (width, side), stride = shapes[0], max(1, round(size / shapes[0][1]))
        parts: list[tuple[int, nn.Module]] = []
        if stride >= 4:
            parts.append(
                (stride // 4, nn.Sequential(doubled(width), nn.GroupNorm(1, width), nn.GELU(), doubled(width)))
            )
        if stride >= 2:
            parts.append((stride // 2, doubled(width)))
        parts.append((stride, nn.Identity()))
        if side >= 2:
            parts.append((stride * 2, nn.MaxPool2d(2)))
        self.made = nn.ModuleList(part for _, part in parts)
        self.strides = tuple(each for each, _ in parts)
        self.widths = (width,) * len(parts)

    def forward(self, encoder: Encoder, views: Tensor) -> list[Float[Tensor, "b c h w"]]:
        maps = encoder.maps(views)
        return maps if self.made is None else [part(maps[-1]) for part in self.made]


def doubled(width: int) -> nn.Module:
    """Twice as many places each way."""
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)


@torch.no_grad()
def shapes_of(encoder: Encoder, size: int) -> list[tuple[int, int]]:
    """(channels, places a side) of each map of a view of `size`, found by running zeros."""
    device = next(encoder.parameters()).device
    with at_rest(encoder):
        zeros = torch.zeros(2, encoder.spec["channels"], size, size, device=device)
        return [(one.shape[1], one.shape[2]) for one in encoder.maps(zeros)]
