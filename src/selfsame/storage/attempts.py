"""Doing something with many items of which some cannot be read."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from selfsame.errors import UnreadableItem

CHUNK = 256  # items a thread takes at a time, at most

T = TypeVar("T")


def attempted(
    pool: ThreadPoolExecutor, job: Callable[[int], T], items: Iterable[int], blocks: np.ndarray | None = None
) -> tuple[dict[int, T], dict[int, str]]:
    """The job's results by item, and the reasons of the items it failed on.

    `blocks`: the first items of blocks, ascending, of which each is read by one thread.
    """

    def chunk(some: list[int]) -> list[T | UnreadableItem]:
        results: list[T | UnreadableItem] = []
        for item in some:
            try:
                results.append(job(item))
            except UnreadableItem as reason:
                results.append(reason)
        return results

    items = list(items)
    size = max(1, min(CHUNK, len(items) // 64))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    if blocks is not None and len(items):
        edges = np.flatnonzero(np.diff(np.searchsorted(blocks, items, side="right"))) + 1
        chunks = [part.tolist() for part in np.split(np.array(items), edges)]
    done: dict[int, T] = {}
    failed: dict[int, str] = {}
    for some, results in zip(chunks, pool.map(chunk, chunks), strict=True):
        for item, result in zip(some, results, strict=True):
            if isinstance(result, UnreadableItem):
                failed[item] = str(result)
            else:
                done[item] = result
    return done, failed
