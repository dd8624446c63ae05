"""Exact search: the cosine of each query with every vector, by blocks, so that a memory map is read once through."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 8192  # rows compared at once
QUERIES = 256  # that are compared with a block at once
FEW = 4  # queries from which on a matrix product is faster than dot products row by row
GROUP = 16  # rows of which first only the best is looked at


def search(
    vectors: Float[np.ndarray, "n d"],
    queries: Float[np.ndarray, "q d"],
    k: int,
    rows: Int[np.ndarray, "m"] | None = None,
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """The k largest cosines of each query, falling, and the rows they belong to; of unit vectors, 1 <= k <= n.

    `rows` (ascending) are those to be compared, where not all are. Which of equals comes first is not said.
    """
    total = len(vectors) if rows is None else len(rows)
    cosines = np.zeros((len(queries), k), np.float32)
    found = np.zeros((len(queries), k), np.int64)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(queries), QUERIES):
            asked = np.ascontiguousarray(queries[first : first + QUERIES], dtype=np.float32)
            best, places = torch.zeros(len(asked), 0), torch.zeros(len(asked), 0, dtype=torch.int64)
            for start in range(0, total, BLOCK):
                some = slice(start, min(start + BLOCK, total))
                block = np.ascontiguousarray(vectors[some] if rows is None else vectors[rows[some]])
                if len(asked) < FEW:
                    # Of few queries the memory is the limit, and BLAS reads it slower than row by row.
                    parts = np.array_split(block, threads)
                    of_block = torch.from_numpy(np.concatenate([*pool.map(partial(dots, asked), parts)], axis=1))
                else:
                    of_block = torch.from_numpy(asked) @ torch.from_numpy(block).T
                values, at = largest(of_block, k)
                best, order = torch.cat([best, values], dim=1).topk(min(k, start + len(block)), dim=1)
                places = torch.cat([places, at + start], dim=1).gather(1, order)
            cosines[first : first + QUERIES], found[first : first + QUERIES] = best.clamp(-1, 1), places
    return cosines, found if rows is None else np.asarray(rows)[found]


def dots(asked: Float[np.ndarray, "q d"], block: Float[np.ndarray, "b d"]) -> Float[np.ndarray, "q b"]:
    return np.stack([np.vecdot(block, query) for query in asked])


def largest(values: Float[Tensor, "q b"], k: int) -> tuple[Float[Tensor, "q m"], Int[Tensor, "q m"]]:
    """Values among which the k largest of each row are, and their places.

    The k largest lie in the k groups with the largest maxima: a group with a larger maximum holds a larger value, of
    which there are fewer than k. The maxima take one quick pass, and few values are left to be sorted.
    """
    width = values.shape[1] // GROUP
    if width < 4 * k:
        return values.topk(min(k, values.shape[1]), dim=1, sorted=False)
    whole = width * GROUP
    groups = values[:, :whole].unflatten(1, (GROUP, width)).amax(1).topk(k, dim=1, sorted=False)[1]
    places = (groups[:, None] + width * torch.arange(GROUP)[:, None]).flatten(1)
    rest = torch.arange(whole, values.shape[1]).expand(len(values), -1)
    places = torch.cat([places, rest], dim=1)
    return values.gather(1, places), places
