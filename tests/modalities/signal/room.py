"""What the tests of series share: statistics, a source in memory."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfsame.modalities import signal
from selfsame.modalities.signal.source import SignalSource
from selfsame.modalities.signal.stats import Stats


def stats_of(channels: int = 2, **given: object) -> Stats:
    values = {
        "items": 10,
        "channels": channels,
        "mean": tuple(20.0 + k for k in range(channels)),
        "std": tuple(5.0 / (k + 1) for k in range(channels)),
        "shortest": 48,
        "median": 48,
        "longest": 48,
        "missing": 0.0,
    }
    return Stats.model_validate(values | given)


def batch(rows: int = 6, channels: int = 2, steps: int = 48, seed: int = 0) -> Tensor:
    """Series on the scale of `stats_of`."""
    stats = stats_of(channels)
    noise = torch.randn(rows, channels, steps, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool1d(noise, 5, 1, 2)
    return torch.tensor(stats.mean)[:, None] + torch.tensor(stats.std)[:, None] * smooth / smooth.std()


def source_of(x: np.ndarray, folder: Path, **reading: object) -> SignalSource:
    np.save(folder / "source.npy", x)
    return signal.open_source(str(folder / "source.npy"), reading=signal.Reading(**reading))
