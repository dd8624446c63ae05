"""The graph of an index in a folder: what faiss wrote, and the row of each of its items."""

from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from selfsame.engine.state import write_whole
from selfsame.index import approximate, exact
from selfsame.index.approximate import Graph

KEPT = 0.5  # share of a graph's items that are still there, from which on it is grown and not made anew


class Net:
    """A graph whose items are rows of an index; -1 stands for those that are gone."""

    def __init__(self, graph: Any, rows: Int[np.ndarray, "m"]) -> None:
        self.graph, self.rows = graph, rows

    @classmethod
    def read(cls, folder: Path, known: Graph, whole: bool = False) -> Self:
        """Mapped, to be searched, or `whole`, to be grown. Raises UserError."""
        graph = approximate.read(folder / known.file, whole)
        return cls(graph, np.fromfile(folder / known.rows_file, "<i8", graph.ntotal))

    @classmethod
    def to_grow(cls, folder: Path, known: Graph | None, live: Int[np.ndarray, "n"], dim: int) -> tuple[Self, int]:
        """(the graph that is there, the rows up to which it has all); a new one where most of its items are gone."""
        if known is not None:
            net = cls.read(folder, known, whole=True)
            if np.isin(net.rows, live).mean() >= KEPT:
                return net, known.covered
        return cls(approximate.new(dim), np.zeros(0, np.int64)), 0

    def grow(self, vectors: Float[np.ndarray, "rows d"], rows: Int[np.ndarray, "l"]) -> None:
        approximate.grown(self.graph, vectors, rows)
        self.rows = np.concatenate([self.rows, rows])

    def write(self, folder: Path, number: int) -> dict[str, str]:
        """The files, as `Graph` names them."""
        files = {"file": f"graph-{number}.faiss", "rows_file": f"graph-{number}.i64"}
        approximate.written(self.graph, folder / files["file"])
        write_rows(folder / files["rows_file"], self.rows)
        return files

    def among(self, live: Int[np.ndarray, "n"], count: int, covered: int) -> Self:
        """Know which of `count` rows are items, and which of these came later than the graph."""
        alive = np.zeros(count + 1, dtype=bool)  # the last for -1
        alive[live] = True
        self.alive, self.late = approximate.kept(alive[self.rows]), live[live >= covered]
        return self

    def walked(
        self, vectors: Float[np.ndarray, "rows d"], queries: Float[np.ndarray, "q d"], k: int, view: int
    ) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]] | None:
        """Cosines and rows that the graph and exact search among what came later find; None where they are too few."""
        cosines, places = approximate.search(self.graph, queries, k, view, self.alive)
        found = np.where(places < 0, -1, self.rows[places])
        cosines = np.where(places < 0, -np.inf, cosines)
        if len(self.late):
            more, at = exact.search(vectors, queries, min(k, len(self.late)), self.late)
            cosines, found = np.concatenate([cosines, more], axis=1), np.concatenate([found, at], axis=1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        cosines, found = np.take_along_axis(cosines, order, 1), np.take_along_axis(found, order, 1)
        return None if (found < 0).any() else (cosines.clip(-1, 1).astype(np.float32), found)


def moved(folder: Path, graph: Graph, live: Int[np.ndarray, "n"], count: int, number: int) -> Graph:
    """The graph as it is when of `count` rows the items move together: its items are the same, at other rows."""
    rows = np.fromfile(folder / graph.rows_file, "<i8")
    place = np.full(count + 1, -1, dtype="<i8")  # the last for -1
    place[live] = np.arange(len(live))
    file = graph.rows_file.replace(".i64", f"-{number}.i64")
    write_rows(folder / file, place[rows])
    return graph.changed(rows_file=file, covered=int(np.searchsorted(live, graph.covered)))


def write_rows(path: Path, rows: Int[np.ndarray, "m"]) -> None:
    write_whole(path, lambda draft: draft.write_bytes(rows.astype("<i8").tobytes()))
