"""What is taken where the user names none, what is told, and the series themselves as vectors."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfsame.modalities.signal.recipes import LEAST
from selfsame.modalities.signal.source import SignalSource
from selfsame.modalities.signal.stats import Stats
from selfsame.modalities.signal.views import stretched

__all__ = ["default_encoder", "default_size", "fragment", "network_names", "raw_name", "raw_vectors", "size_told"]

MOST, MOST_LARGE = 512, 2048  # steps of a view, at most, on a processor and on a GPU
RAW = 4096  # numbers of a raw vector, at most

raw_name = "raw series"


def default_size(stats: Stats, large: bool) -> int:
    """Steps of a view: of the longest item, so that each is seen whole, up to 512 on a processor, 2048 on a GPU."""
    return max(LEAST, min(stats.longest, MOST_LARGE if large else MOST))


def size_told(size: int, stats: Stats) -> str:
    """As in: 360 steps, 1.00 s at 360 a second."""
    return f"{size} steps, {size / stats.rate:.3g} s at {stats.rate:.6g} a second" if stats.rate else f"{size} steps"


def default_encoder(size: int, large: bool) -> str:
    """TS2Vec's dilated convolutions; on a processor at half the width, which trains several times as fast.

    Chosen by a linear probe on random weights, one seed, means alone: on JapaneseVowels (7 to 29 steps) 96 % where
    resnet18@0.25, which halves the steps, had 68 %; on GunPoint and ArrowHead both were alike.
    """
    return "dilated" if large else "dilated@0.5"


def fragment(source: SignalSource, i: int) -> str:
    """No HTML beside the picture: the plot shows the series."""
    return ""


def raw_vectors(parts: Sequence[tuple[SignalSource, Sequence[int]]], stats: Stats) -> list[Float[Tensor, "n d"]]:
    """The series as vectors: in units of the channels' deviations, brought to one length, missing values at the mean.

    The length is the median one of the training data, or less, so that a vector has at most 4096 numbers. A series of
    another length is stretched to it.
    """
    length = max(1, min(stats.median, RAW // stats.channels))
    mean, std = (np.array(values, np.float32)[:, None] for values in (stats.mean, stats.std))

    def vector(source: SignalSource, i: int) -> np.ndarray:
        values = (source.read(i) - mean) / std
        values = stretched(values, length)
        if values.shape[1] != length:  # of one step there is nothing to stretch
            values = np.repeat(values[:, :1], length, axis=1)
        return np.nan_to_num(values).ravel()

    return [
        torch.from_numpy(np.stack([vector(source, i) for i in items]).astype(np.float32))
        if len(items)
        else torch.zeros(0, stats.channels * length)
        for source, items in parts
    ]


def network_names() -> list[str]:
    from selfsame.modalities.signal.networks import NAMES

    return list(NAMES)
