"""The trivial feature of sound: what an encoder must be better than."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor

from selfsame.modalities.audio import front
from selfsame.modalities.audio.reading import Stats
from selfsame.modalities.audio.source import WHOLE, AudioSource

__all__ = ["raw_name", "raw_vectors"]

raw_name = "log-mel mean and std"


@torch.no_grad()
def raw_vectors(parts: Sequence[tuple[AudioSource, Sequence[int]]], stats: Stats) -> list[Float[Tensor, "n d"]]:
    """Of each band of the log-mel spectrogram mean and standard deviation over time, of each whole item: d = 2 mels.

    Of recordings longer than WHOLE seconds the middle. Nothing is fitted.
    """
    return [torch.stack([statistics(middle(source, i, stats), stats) for i in items]) for source, items in parts]


def middle(source: AudioSource, i: int, stats: Stats, seconds: float = WHOLE) -> Int16[np.ndarray, "t"]:
    """The item, or the middle of a longer one."""
    longest = round(seconds * stats.rate)
    return source.cut(i, lambda total: [(max(0, (total - longest) // 2), min(total, longest))])[0]


def statistics(stored: Int16[np.ndarray, "t"], stats: Stats) -> Float[Tensor, "d"]:
    x = front.log_mel(front.scaled(torch.from_numpy(stored))[None], stats)[0]
    return torch.cat([x.mean(dim=1), x.std(dim=1, correction=0)])
