"""A small room to train in: 64 painted pictures in memory, crops as views, the tiny encoder."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfsame import methods
from selfsame.engine.feed import Batch, Steps, Survey, feed
from selfsame.engine.health import Health
from selfsame.engine.loop import Loop, train
from selfsame.errors import UnreadableItem
from selfsame.types import Draws, Learner
from tests.conftest import Tiny, paint

SIDE = 16


@functools.cache
def painted() -> np.ndarray:
    return np.stack([paint(k % 4, k) for k in range(80)])


class Pictures:
    """64 to learn from and 16 to look at; some may be broken."""

    labels = blocks = None

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 80

    def name(self, i: int) -> str:
        return f"picture {i}"

    def read(self, i: int) -> np.ndarray:
        if i in self.broken:
            raise UnreadableItem("cut short")
        return painted()[i]

    def fit(self, stats: Any) -> None:
        pass


def cut(source: Any, items: Any, draws: Draws) -> list[Tensor]:
    """The worker half: two random crops of each picture, uint8 [b 3 16 16]."""
    pictures = [source.attempt(i, source.read) if hasattr(source, "attempt") else source.read(i) for i in items]
    views = []
    for _ in range(2):
        corners = (draws.uniform(2) * (24 - SIDE + 1)).long().tolist()
        crops = [p[y : y + SIDE, x : x + SIDE] for p, (y, x) in zip(pictures, corners, strict=True)]
        views.append(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous())
    return views


def make_views(samples: list[Tensor], draws: Draws) -> list[Tensor]:
    """The device half: another brightness and contrast, some noise."""
    views = []
    for sample in samples:
        bright, strong = draws.uniform(2).view(-1, 2, 1, 1, 1).unbind(1)
        noise = draws.normal(sample[0].numel()).view(sample.shape)
        views.append(((sample / 255 - 0.5) * (0.6 + 0.8 * strong) + 0.5 + 0.4 * (bright - 0.5)) + 0.03 * noise)
    return views


def plain(source: Any, items: Any, draws: Draws) -> list[Tensor]:
    """The middle of each picture."""
    pictures = [source.attempt(i, source.read)[4:-4, 4:-4] for i in items]
    return [torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()]


def surveyed(steps: Steps, workers: int = 0) -> Iterator[Batch]:
    """All items as they are, as `pretrain` shows them."""
    everything = Survey(steps, plain)
    for batch in feed(everything, 0, len(everything), workers):
        batch.samples = [sample / 255 for sample in batch.samples]
        yield batch


class Bare(Tiny):
    """Without norms: nothing keeps its vectors apart."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 8, 3))

    def use_group_norm(self) -> None:
        """There is none to replace."""


def learner(seed: int = 0, encoder: type[Tiny] = Tiny, **settings: Any) -> Learner:
    torch.manual_seed(seed)
    return methods.BYOL(**{"hidden": 32, "out": 8, **settings}).build(encoder())


def loop(steps: int = 12, **settings: Any) -> Loop:
    usual = {"batch": 16, "lr": 2e-3, "weight_decay": 0.05, "warmup": 2, "log_every": 1, "save_every": 4}
    return Loop(steps=steps, **{**usual, "health_every": 4, **settings})


def health_of(one: Learner) -> Health:
    held_out = list(range(64, 80))
    samples = cut(Pictures(), held_out, Draws(9, 0, 16))
    return Health(one.encoder, lambda: make_views(samples, Draws(9, 0, 16, stream=1)))


def run(
    folder: Path,
    one: Learner,
    plan: Loop,
    workers: int = 0,
    source: Any = None,
    views: Callable[[list[Tensor], Draws], list[Tensor]] = make_views,
    health: Health | None = None,
    found: Callable[[dict[int, str]], None] = lambda _: None,
) -> int:
    """Train as `pretrain` does."""
    rows = slice(0, plan.batch)
    steps = Steps(source or Pictures(), np.arange(64), cut, plan.batch, rows, plan.seed, one.by_item)
    return train(
        one, steps, views, plan, folder, torch.device("cpu"), workers, health or health_of(one), found,
        survey=functools.partial(surveyed, steps, workers),
    )  # fmt: skip
