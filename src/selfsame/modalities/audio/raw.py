"""The trivial feature of sound: what an encoder must be better than."""

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor

from selfsame.errors import UnreadableItem
from selfsame.modalities.audio import front
from selfsame.modalities.audio.reading import Stats
from selfsame.modalities.audio.source import WHOLE, AudioSource

__all__ = ["raw_name", "raw_tells_copies", "raw_vectors"]

raw_name = "log-mel mean and std"
raw_tells_copies = True  # whitened: docs/duplicates.md has what it finds


@torch.no_grad()
def raw_vectors(parts: Sequence[tuple[AudioSource, Sequence[int]]], stats: Stats) -> list[Float[Tensor, "n d"]]:
    """Of each band of the log-mel spectrogram mean and standard deviation over time, of each whole item: d = 2 mels.

    Of recordings longer than WHOLE seconds the middle; where these are damaged there, half of it, and so on, and at
    last of their beginning. Nothing is fitted. Raises UnreadableItem where nothing can be read.
    """
    return [torch.stack([statistics(heard(source, i, stats), stats) for i in items]) for source, items in parts]


def heard(source: AudioSource, i: int, stats: Stats) -> Int16[np.ndarray, "t"]:
    """The middle of an item, or the longest half, quarter, ... of it that can be read, or of its beginning.

    An encoder takes less of a recording than this does, so it may have a vector of one that is damaged further out.
    """
    try:
        return middle(source, i, stats)
    except UnreadableItem as why:
        shares = [2.0**-k for k in range(1, 1 + int(math.log2(WHOLE * stats.rate / stats.frame)))]
        for share in shares:
            with contextlib.suppress(UnreadableItem):
                return middle(source, i, stats, share * WHOLE, whole=0)
        for share in shares:
            longest = round(share * WHOLE * stats.rate)
            with contextlib.suppress(UnreadableItem):
                return source.cut(i, lambda total: [(0, min(total, longest))], whole=0)[0]  # noqa: B023 - called here
        raise why


def middle(
    source: AudioSource, i: int, stats: Stats, seconds: float = WHOLE, whole: float = WHOLE
) -> Int16[np.ndarray, "t"]:
    """The item, or the middle of a longer one; `whole` as in `AudioSource.cut`."""
    longest = round(seconds * stats.rate)
    return source.cut(i, lambda total: [(max(0, (total - longest) // 2), min(total, longest))], whole)[0]


def statistics(stored: Int16[np.ndarray, "t"], stats: Stats) -> Float[Tensor, "d"]:
    x = front.log_mel(front.scaled(torch.from_numpy(stored))[None], stats)[0]
    return torch.cat([x.mean(dim=1), x.std(dim=1, correction=0)])
