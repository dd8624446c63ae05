"""Approximate search: a graph over the vectors, walked from item to nearer item, through faiss.

Source: HNSW, Malkov & Yashunin 2016, arXiv 1603.09320; links and width of the building search as in its section 4.
What a graph misses is measured, on items of the index itself: recall@10 against exact search.
"""

import errno
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from selfsame.engine.state import write_whole
from selfsame.errors import UserError, missing
from selfsame.records import Record

LINKS = 32  # of an item in the graph, M
BUILDING = 100  # items kept in view while a new one is placed, efConstruction
VIEWS = (32, 64, 128, 256, 512)  # items kept in view while searching, ef: the first with the recall wanted is taken
WANTED = 0.95  # recall@10; with the widest view, what it gives is taken
ASKED = 200  # items that recall is measured on
AT_ONCE = 16_384  # rows put into a graph at once

Search = Callable[[Float[np.ndarray, "q d"], int], list[list[str]]]  # queries, k -> names


class Graph(Record):
    """How an index is searched approximately, and what was measured when that was made."""

    kind: str
    view: int
    """items kept in view while searching"""
    recall: float
    """share of the `k` truly nearest that were found"""
    k: int
    asked: int
    """items it was measured on"""
    items: int
    """of the index at that time"""
    file: str = ""
    """of the graph, in the folder of the index"""
    rows_file: str = ""
    """the row of each item of the graph, -1 for those that are gone"""
    covered: int = 0
    """rows up to which all are in the graph; later ones are compared one by one"""


def measured(names: list[str], vectors: Float[np.ndarray, "q d"], one: Search, two: Search, k: int) -> float:
    """Recall: the share of what `two` finds that `one` finds too; of each item its k nearest without itself."""

    def nearest(search: Search) -> list[set[str]]:
        found = search(vectors, k + 1)
        return [set([n for n in line if n != name][:k]) for name, line in zip(names, found, strict=True)]

    hits = [len(a & b) for a, b in zip(nearest(one), nearest(two), strict=True)]
    return sum(hits) / (k * len(names))


def widened(items: int, recall: Callable[[int, int], float]) -> tuple[int, int, float]:
    """(view, k, recall) with the narrowest view that gives the recall wanted; `recall(view, k)` measures it."""
    k = min(10, items - 1)
    if k < 1:
        raise UserError("approximate search needs two items or more. Add some first.")
    for view in VIEWS:
        found = recall(view, k)
        if found >= WANTED:
            break
    return view, k, found


def library() -> Any:
    if importlib.util.find_spec("faiss") is None:
        raise missing("search", "faiss-cpu", "approximate search")
    import faiss

    return faiss


def new(dim: int) -> Any:
    faiss = library()
    graph = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = BUILDING
    return graph


def grown(graph: Any, vectors: Float[np.ndarray, "n d"], rows: Int[np.ndarray, "m"]) -> None:
    """Put rows into a graph, in blocks; it holds a copy of them in memory."""
    for start in range(0, len(rows), AT_ONCE):
        graph.add(np.ascontiguousarray(vectors[rows[start : start + AT_ONCE]]))


def written(graph: Any, path: Path) -> None:
    def write(draft: Path) -> None:
        try:
            library().write_index(graph, str(draft))
        except RuntimeError as error:
            # faiss says what the system said in words only.
            full = "No space left" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error).splitlines()[0]) from error

    write_whole(path, write)


def read(path: Path, whole: bool = False) -> Any:
    """A graph; mapped, so that a search reads what it passes, or `whole`, to be grown. Raises UserError."""
    faiss = library()
    try:
        return faiss.read_index(str(path), 0 if whole else faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise UserError(
            f"{path} is damaged ({' '.join(str(error).split())[:200]}). Search with --exact, or make it again with "
            "--add --approximate-above."
        ) from None


def search(
    graph: Any, queries: Float[np.ndarray, "q d"], k: int, view: int, alive: Any
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """Cosines, falling, and numbers in the graph, -1 where fewer than k were found; `alive`: a selector of `kept`."""
    faiss = library()
    settings = faiss.SearchParametersHNSW(efSearch=max(view, k), sel=alive)
    return graph.search(np.ascontiguousarray(queries, dtype=np.float32), k, params=settings)


def kept(alive: np.ndarray) -> Any:
    """A selector of the numbers at which `alive` is true; None where all are."""
    if alive.all():
        return None
    bits = np.packbits(alive, bitorder="little")
    selector = library().IDSelectorBitmap(bits)
    selector.bits_kept = bits  # it points to them
    return selector
