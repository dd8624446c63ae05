"""Large pictures by overlapping tiles: each is seen at its own scale, and where tiles overlap they are blended."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from selfsame.downstream.adapting import in_float
from selfsame.downstream.pictures import PictureExamples, enlarged
from selfsame.downstream.task import Model
from selfsame.errors import UnreadableItem
from selfsame.modalities.image.views import channels_first
from selfsame.types import Draws

AT_ONCE = 16  # tiles through the model
FAINT = 0.02  # the least weight of a pixel, at a tile's corner


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Where tiles of `side` begin that cover `length`, evenly, at least the share `overlap` of a tile shared."""
    count = 1 if length <= side else int(np.ceil((length - side) / max(1.0, side * (1 - overlap)))) + 1
    return np.linspace(0, max(0, length - side), count).round().astype(int).tolist()


def window(side: int) -> Float[Tensor, "s s"]:
    """Weights of a tile's pixels: a raised cosine, least at the border, where a tile knows least of what is around."""
    slope = torch.hann_window(side + 2, periodic=False)[1:-1]
    return torch.outer(slope, slope).clamp_min(FAINT)


@torch.no_grad()
def classes(
    model: Model, examples: PictureExamples, items: Sequence[int], on: torch.device, tile: int, overlap: float
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w"]]]:
    """(item, class of each pixel) in order, of a model that gives scores [b k g v].

    Probabilities are summed by `window`. One row of tiles is held at a time, so that memory grows with the width of a
    picture, not with its pixels. Items that cannot be read are added to `examples.skipped`.
    """
    was = [(part, part.training) for part in model.modules()]  # a frozen encoder is not in the mode of its head
    model.eval()
    try:
        for i in items:
            try:
                yield i, of_picture(model, examples, i, on, tile, overlap)
            except UnreadableItem as error:
                examples.skipped[i] = str(error)
    finally:
        for part, mode in was:
            part.training = mode


def of_picture(
    model: Model, examples: PictureExamples, i: int, on: torch.device, tile: int, overlap: float
) -> UInt8[np.ndarray, "h w"]:
    picture = examples.source.open(examples.items[i])
    height, width = picture.size
    side = min(tile, height, width)
    tops, lefts = starts(height, side, overlap), starts(width, side, overlap)
    boxes = [(top, left, side, side) for top in tops for left in lefts]
    cuts, weights = picture.cut(boxes, model.size), window(side).to(on)
    found = np.empty((height, width), np.uint8)
    band: Tensor | None = None
    for k, top in enumerate(tops):
        row = [np.asarray(cut) for cut in cuts[k * len(lefts) : (k + 1) * len(lefts)]]
        for start in range(0, len(row), AT_ONCE):
            samples = [channels_first(np.stack(row[start : start + AT_ONCE])).to(on)]
            views = examples.make_views(samples, Draws(0, 0, len(samples[0])), learn=False)[0]
            shares = enlarged(in_float(model(views)), (side, side)).softmax(dim=1) * weights
            if band is None:
                band = shares.new_zeros(shares.shape[1], side, width)
            for left, share in zip(lefts[start : start + AT_ONCE], shares, strict=True):
                band[:, :, left : left + side] += share
        assert band is not None
        done = (tops[k + 1] if k + 1 < len(tops) else height) - top  # rows that no later tile reaches
        found[top : top + done] = band[:, :done].argmax(dim=0).cpu().numpy()
        band = torch.cat([band[:, done:], torch.zeros_like(band[:, :done])], dim=1)
    return found
