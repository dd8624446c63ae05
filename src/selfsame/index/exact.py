"""Exact search: the cosine of each query with every vector, by blocks, so that a memory map is read once through."""

import numpy as np
import torch
from jaxtyping import Float, Int

BLOCK = 8192  # rows compared at once
QUERIES = 256  # that are compared with a block at once


def search(
    vectors: Float[np.ndarray, "n d"],
    queries: Float[np.ndarray, "q d"],
    k: int,
    rows: Int[np.ndarray, "m"] | None = None,
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """The k largest cosines of each query, falling, and the rows they belong to; of unit vectors, 1 <= k <= n.

    `rows` (ascending) are those to be compared, where not all are.
    """
    total = len(vectors) if rows is None else len(rows)
    found = [], []
    for first in range(0, len(queries), QUERIES):
        asked = torch.from_numpy(np.ascontiguousarray(queries[first : first + QUERIES], dtype=np.float32))
        best = torch.zeros(len(asked), 0)
        places = torch.zeros(len(asked), 0, dtype=torch.int64)
        for start in range(0, total, BLOCK):
            block = vectors[start : start + BLOCK] if rows is None else vectors[rows[start : start + BLOCK]]
            cosines = asked @ torch.from_numpy(np.ascontiguousarray(block)).T
            some, at = cosines.topk(min(k, len(block)), dim=1)
            best = torch.cat([best, some], dim=1)
            places = torch.cat([places, at + start], dim=1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            places = places.gather(1, order)
        found[0].append(best)
        found[1].append(places)
    cosines, where = (torch.cat(part).numpy() for part in found)
    return cosines.clip(-1, 1), where if rows is None else np.asarray(rows)[where]
