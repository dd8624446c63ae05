"""The pixels themselves as vectors: what an encoder of images has to be better than."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float

from selfsame.modalities.image.recipes import recipe
from selfsame.modalities.image.source import ImageSource
from selfsame.modalities.image.stats import Stats
from selfsame.modalities.image.views import sample
from selfsame.records import ViewPlan
from selfsame.types import Draws

raw_name = "pixels of a thumbnail"
MOST = 1024  # values of a thumbnail, to keep the probe quick


def raw_vectors(parts: Sequence[tuple[ImageSource, Sequence[int]]], stats: Stats) -> list[Float[torch.Tensor, "n d"]]:
    """Of each part square thumbnails of at most `MOST` values, flattened, on the [0, 1] scale."""
    side = max(1, math.isqrt(MOST // stats.channels))
    views = recipe("weak", min(side, stats.height, stats.width), stats)
    plan = ViewPlan(full=0, plain=1)

    def of(source: ImageSource, items: Sequence[int]) -> Float[torch.Tensor, "n d"]:
        found = []
        for k in range(0, len(items), 256):
            chosen = list(items[k : k + 256])
            thumbnails: Any = sample(source, chosen, plan, views, Draws(0, 0, len(chosen)))[0]
            found.append(thumbnails.float().flatten(1) / stats.white)
        return torch.cat(found)

    return [of(source, items) for source, items in parts]
