"""Images: files that Pillow and tifffile open, arrays, zips. The package is the object that `types.Modality` names."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from selfsame.modalities.image.cache import CachePlan, cached, plan_cache
from selfsame.modalities.image.encoder import build_encoder, load_encoder, make_encoder, own_encoder, save_encoder
from selfsame.modalities.image.export import export
from selfsame.modalities.image.measure import Stats, measure
from selfsame.modalities.image.opening import open_source, reads
from selfsame.modalities.image.recipes import Views, recipe
from selfsame.modalities.image.sheet import contact_sheet
from selfsame.modalities.image.source import ImageSource
from selfsame.modalities.image.timing import timed_sample
from selfsame.modalities.image.views import make_views, sample
from selfsame.records import ViewPlan
from selfsame.types import Draws

__all__ = [
    "CachePlan",
    "Stats",
    "Views",
    "build_encoder",
    "cached",
    "contact_sheet",
    "default_encoder",
    "default_size",
    "export",
    "load_encoder",
    "make_encoder",
    "make_views",
    "measure",
    "name",
    "open_source",
    "own_encoder",
    "picture",
    "plan_cache",
    "raw_vectors",
    "reads",
    "recipe",
    "sample",
    "save_encoder",
    "timed_sample",
]

name = "image"
SMALL = 64  # pixels: images up to this side are looked at whole, with the small-image recipe and stem


def default_size(stats: Stats, large: bool) -> int:
    """Side of a view: small images as they are; others their short side, at most 224 px on a GPU, 128 px on a CPU."""
    side = min(stats.height, stats.width)
    if side <= SMALL:
        return max(4, side)
    return max(SMALL, min(224 if large else 128, side // 32 * 32))


def default_encoder(size: int, large: bool) -> str:
    """On a GPU resnet50 for photos, as in the papers, and resnet18 for small images; on a CPU nets of half the width.

    A processor trains those several times as fast; resnet10t@0.5 learned photos within an hour (docs/numbers.md,
    clothing). For small images the half width is chosen for its speed alone.
    """
    if large:
        return "resnet50" if size > SMALL else "resnet18"
    return "resnet10t@0.5" if size > SMALL else "resnet18@0.5"


def picture(source: ImageSource, i: int, side: int = 256) -> Image.Image:
    """An item as an RGB picture of at most `side` pixels, for a person to look at; its range is stretched to 8 bits."""
    values = source.read(i)
    if values.dtype != np.uint8:
        low, high = int(values.min()), int(values.max())
        values = ((values.astype(np.float32) - low) * (255 / max(1, high - low))).astype(np.uint8)
    if values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    elif values.shape[2] == 2:
        values = np.concatenate([values, values[..., :1] * 0], axis=2)
    shown = Image.fromarray(np.ascontiguousarray(values[..., :3]))
    if max(shown.size) < side // 2:  # tiny images are enlarged by whole pixels
        factor = side // 2 // max(shown.size)
        return shown.resize((shown.width * factor, shown.height * factor), Image.Resampling.NEAREST)
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    return shown


def raw_vectors(source: ImageSource, items: Sequence[int], stats: Stats, most: int) -> Float[torch.Tensor, "n d"]:
    """The pixels themselves as vectors on the [0, 1] scale: square thumbnails of at most `most` values, flattened."""
    side = max(1, math.isqrt(most // stats.channels))
    views = recipe("weak", min(side, stats.height, stats.width), stats)
    plan = ViewPlan(full=0, plain=1)
    parts = []
    for k in range(0, len(items), 256):
        chosen = list(items[k : k + 256])
        thumbnails: Any = sample(source, chosen, plan, views, Draws(0, 0, len(chosen)))[0]
        parts.append(thumbnails.float().flatten(1) / stats.white)
    return torch.cat(parts)
