"""Where the time of the worker half goes."""

import time
from collections.abc import Sequence
from typing import Any

from selfsame.modalities.image.decode import Picture
from selfsame.modalities.image.recipes import Views
from selfsame.modalities.image.views import sample
from selfsame.records import ViewPlan
from selfsame.types import Draws

__all__ = ["timed_sample"]


class Timed:
    """Stands for a source, and takes the time that its pictures need to be opened and decoded."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.array = source.array
        self.form = source.form
        self.seconds = {"read": 0.0, "decode": 0.0}

    def fetch(self, items: Sequence[int]) -> None:
        began = time.perf_counter()
        self.source.fetch(items)
        self.seconds["read"] += time.perf_counter() - began

    def open(self, i: int) -> Picture:
        began = time.perf_counter()
        picture = self.source.open(i)
        self.seconds["read"] += time.perf_counter() - began
        load = picture._load

        def timed(reduce: int) -> Any:
            began = time.perf_counter()
            loaded = load(reduce)
            self.seconds["decode"] += time.perf_counter() - began
            return loaded

        picture._load = timed
        return picture


def timed_sample(source: Any, items: Sequence[int], plan: ViewPlan, views: Views, draws: Draws) -> dict[str, float]:
    """Seconds of `sample` by part: read, decode, cut. What a cache or an array holds is decoded already."""
    timed = Timed(source)
    began = time.perf_counter()
    sample(timed, items, plan, views, draws)
    total = time.perf_counter() - began
    return {**timed.seconds, "cut": total - sum(timed.seconds.values())}
