"""Exact search: the cosine of each query with every vector, by blocks, so that a memory map is read once through."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

QUERIES = 1024  # that are compared with a block at once
BLOCK = 65_536  # rows compared at once, at most
PRODUCTS = 16 << 20  # of a block, at most: 64 MB
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
            size = min(BLOCK, max(1, PRODUCTS // len(asked) // GROUP) * GROUP)
            room = np.empty(len(asked) * min(size, total), np.float32)  # once: new pages cost as much as the product
            best, places = torch.zeros(len(asked), 0), torch.zeros(len(asked), 0, dtype=torch.int64)
            for start in range(0, total, size):
                some = slice(start, min(start + size, total))
                block = np.ascontiguousarray(vectors[some] if rows is None else vectors[rows[some]])
                products = room[: len(asked) * len(block)].reshape(len(asked), len(block))
                if len(asked) < FEW:
                    # Of few queries the memory is the limit, and BLAS reads it slower than row by row.
                    parts = zip(np.array_split(block, threads), np.array_split(products, threads, axis=1), strict=True)
                    list(pool.map(partial(dots, asked), parts))
                else:  # numpy's own, and not torch's: it was as fast as any on the processors measured
                    np.matmul(asked, block.T, out=products)
                best, places = merged(best, places, torch.from_numpy(products), start, k)
            cosines[first : first + QUERIES], found[first : first + QUERIES] = best.clamp(-1, 1), places
    return cosines, found if rows is None else np.asarray(rows)[found]


def dots(asked: Float[np.ndarray, "q d"], part: tuple[np.ndarray, np.ndarray]) -> None:
    block, products = part
    for query, row in zip(asked, products, strict=True):
        np.vecdot(block, query, out=row)


def merged(
    best: Float[Tensor, "q m"], places: Int[Tensor, "q m"], products: Float[Tensor, "q b"], start: int, k: int
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """The k largest of what was found so far (falling) and the products of a block that begins at row `start`.

    What was found so far is written over.
    """
    if best.shape[1] < k:
        values, at = largest(products, k)
        best, order = torch.cat([best, values], dim=1).topk(min(k, best.shape[1] + values.shape[1]), dim=1)
        return best, torch.cat([places, at + start], dim=1).gather(1, order)
    rows, values, at = above(products, best[:, -1])
    best[rows], order = torch.cat([best[rows], values], dim=1).topk(k, dim=1)
    places[rows] = torch.cat([places[rows], at + start], dim=1).gather(1, order)
    return best, places


def largest(values: Float[Tensor, "q b"], k: int) -> tuple[Float[Tensor, "q m"], Int[Tensor, "q m"]]:
    """Values among which the k largest of each row are, and their places.

    The k largest lie in the k groups with the largest maxima: a group with a larger maximum holds a larger value, of
    which there are fewer than k. The maxima take one quick pass, and few values are left to be sorted.
    """
    width = values.shape[1] // GROUP
    if width < 4 * k:
        return values.topk(min(k, values.shape[1]), dim=1, sorted=False)
    groups = maxima(values, width).topk(k, dim=1, sorted=False)[1]
    places = (groups[:, None] + width * torch.arange(GROUP)[:, None]).flatten(1)
    rest = torch.arange(width * GROUP, values.shape[1]).expand(len(values), -1)
    places = torch.cat([places, rest], dim=1)
    return values.gather(1, places), places


def maxima(values: Float[Tensor, "q b"], width: int) -> Float[Tensor, "q w"]:
    """Of GROUP values each, `width` apart; what is left at the end is in none."""
    return values[:, : width * GROUP].unflatten(1, (GROUP, width)).amax(1)


def above(
    values: Float[Tensor, "q b"], floor: Float[Tensor, "q"]
) -> tuple[Int[Tensor, "h"], Float[Tensor, "h m"], Int[Tensor, "h m"]]:
    """(rows with values larger than their floor, these, their places); filled up with minus infinity.

    Soon there are few: only groups whose maximum is larger are looked into.
    """
    width = values.shape[1] // GROUP
    row, group = (maxima(values, width) > floor[:, None]).nonzero(as_tuple=True)
    columns = (group[:, None] + width * torch.arange(GROUP)).flatten()
    row = row.repeat_interleave(GROUP)
    if rest := values.shape[1] - width * GROUP:
        row = torch.cat([row, torch.arange(len(values)).repeat_interleave(rest)])
        columns = torch.cat([columns, torch.arange(width * GROUP, values.shape[1]).repeat(len(values))])
        row, order = row.sort(stable=True)
        columns = columns[order]
    found = values[row, columns]
    keep = found > floor[row]
    rows, of, counts = row[keep].unique_consecutive(return_inverse=True, return_counts=True)
    place = torch.arange(len(of)) - (counts.cumsum(0) - counts)[of]
    most = int(counts.max()) if len(rows) else 0
    kept = torch.full((len(rows), most), -torch.inf)
    at = torch.zeros(len(rows), most, dtype=torch.int64)
    kept[of, place], at[of, place] = found[keep], columns[keep]
    return rows, kept, at
