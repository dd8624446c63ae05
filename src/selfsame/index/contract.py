"""What every index is: unit vectors of one encoder under unique names, labels where there are any; and its errors."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float, Int

from selfsame.errors import UserError, unknown
from selfsame.index import approximate
from selfsame.index.approximate import Graph
from selfsame.records import Record
from selfsame.storage.encoders import fingerprint
from selfsame.storage.names import repeated
from selfsame.types import Encoder

FORMAT = 1  # of what is said of an index beside its vectors
AT_ONCE = 16_384  # rows that are worked on at once: 32 MB of 512 numbers
COMPARED = 20_000  # names that a wrong one is compared with
PRIVATE: Literal["c"] = (
    "c"  # kind of map: torch takes it without a warning, and what is written to it never reaches the file
)


class Made(Record):
    """What made the vectors of an index."""

    fingerprint: str
    """of the encoder: `storage.encoders.fingerprint`"""
    modality: str
    size: int
    """of a view, as the encoder's spec has it; 0 where it has none"""
    dim: int
    run: str | None = None
    """folder of the run, absolute"""

    @classmethod
    def by(cls, encoder: Encoder, run: str | Path | None = None) -> Self:
        return cls(
            fingerprint=fingerprint(encoder),
            modality=str(encoder.spec["modality"]),
            size=int(encoder.spec.get("size", 0)),
            dim=encoder.dim,
            run=None if run is None else str(Path(run).expanduser().absolute()),
        )


class Origin(Record):
    """Where items came from: their name in the index is the prefix and their name there."""

    path: str
    prefix: str = ""


@dataclass
class Found:
    """The nearest items of each of q queries, best first."""

    names: list[list[str]]  # q lists of k
    cosines: Float[np.ndarray, "q k"]  # in [-1, 1]
    items: Int[np.ndarray, "q k"] | None  # places in `names`, `labels` and `vectors`; None for an index on a server
    labels: list[list[str]] | None  # q lists of k, NO_LABEL where an item has none; None where no item has one

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class Addition:
    """Items that are put into an index together."""

    names: Sequence[str]
    vectors: Float[np.ndarray, "n d"]
    labels: Sequence[str | None] | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        for what, given in (("vectors", self.vectors), ("labels", self.labels)):
            if given is not None and len(given) != len(self.names):
                raise UserError(f"{len(self.names):,} names and {len(given):,} {what}: give one to each item.")

    def blocks(self, dim: int) -> Iterator[tuple[slice, Float[np.ndarray, "b d"]]]:
        """Unit vectors, some at once, and which of the items they are of. Raises UserError as `unit` does."""
        for start in range(0, len(self.names), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            yield some, unit(self.vectors[some], dim, "an item", self.names[some])


class Index(ABC):
    """Unit vectors of one encoder under unique names, searched by cosine."""

    made: Made
    place: str  # where it lies, as shown to people

    @staticmethod
    def open(place: str | Path) -> "Index":
        """`opened`, for those who have the class at hand."""
        from selfsame.index.store import opened  # it knows all kinds, which come from here

        return opened(place)

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """One an item, in the order of `vectors`."""

    @property
    @abstractmethod
    def labels(self) -> list[str] | None:
        """One an item, NO_LABEL where it has none; None where no item has one."""

    @property
    @abstractmethod
    def vectors(self) -> Float[np.ndarray, "n d"]:
        """float32, each of length 1 (0 where the encoder gave zeros); a memory map, whose file stays as it is."""

    @abstractmethod
    def count(self, label: str) -> int:
        """Items with a label. Raises UserError where no item has it."""

    def add(
        self,
        names: Sequence[str],
        vectors: Float[np.ndarray, "n d"],
        labels: Sequence[str | None] | None = None,
        origin: Origin | None = None,
    ) -> None:
        """Put in items, all or none; vectors of any length, labels None or NO_LABEL where there is none.

        Raises UserError for names that are there already, vectors of another width or that are not finite, a full disk.
        """
        self._add(Addition(names, vectors, labels, origin))

    @abstractmethod
    def _add(self, added: Addition) -> None: ...

    def _check_new(self, names: Sequence[str]) -> None:
        """Raise UserError where a name is given twice, or is there already."""
        if twice := repeated(names):
            raise UserError(
                f"the name {twice[0]!r} is given twice; each item of an index has its own. Nothing was added."
            )
        if known := self.known(names):
            raise UserError(
                f"{self.place} holds {len(known):,} of these names already, {known[0]!r} for one. Remove them first, "
                "or give others. Nothing was added."
            )

    @abstractmethod
    def remove(self, names: Sequence[str]) -> int:
        """Take out items, all or none; how many went. Raises UserError for a name that is not there."""

    @abstractmethod
    def known(self, names: Sequence[str]) -> list[str]:
        """Those of the names that are there, in their order."""

    @abstractmethod
    def together(self) -> AbstractContextManager[None]:
        """A block whose additions and removals count all or not at all, where the place can do that; a folder counts
        each by itself, so that what was done before a stop need not be done again."""

    @abstractmethod
    def mark(self, data: str | None) -> None:
        """Note which data is being embedded into it; None: all of it is there."""

    @property
    @abstractmethod
    def unfinished(self) -> str | None:
        """The data that was being embedded into it when the work was stopped."""

    @abstractmethod
    def vector(self, name: str) -> Float[np.ndarray, "d"]:
        """The unit vector of an item. Raises UserError where there is none of this name."""

    @abstractmethod
    def labels_of(self, names: Sequence[str]) -> list[str]:
        """The label of each of these items, NO_LABEL where there is none."""

    @abstractmethod
    def origins_of(self, names: Sequence[str]) -> list[Origin | None]:
        """Where each of these items came from; None where it is not known, or there is no such item."""

    @property
    def runs(self) -> list[Path]:
        """Where the run that made it may be."""
        return [Path(self.made.run)] if self.made.run else []

    @property
    @abstractmethod
    def sources(self) -> list[Origin]:
        """Where items came from, each place once, in the order of the first addition."""

    @property
    @abstractmethod
    def graph(self) -> Graph | None:
        """How it is searched approximately, and what that misses; None where it is searched exactly."""

    @classmethod
    @abstractmethod
    def check_graph(cls, made: Made) -> None:
        """Raise UserError where search among such vectors cannot be made approximate here."""

    @abstractmethod
    def approximate(self) -> Graph:
        """Make search approximate, or bring it up to date with what was added; recall@10 is measured, and kept.

        Raises UserError where what it takes is not installed.
        """

    @abstractmethod
    def _search(self, queries: Float[np.ndarray, "q d"], k: int, label: str | None, view: int) -> Found:
        """`search` with everything checked: unit queries, 1 <= k <= items; `view` 0 is exact."""

    def search(
        self, vectors: Float[np.ndarray, "q d"], k: int = 10, label: str | None = None, exact: bool = False
    ) -> Found:
        """The k items nearest to each vector ([d] or [q d], of any length) by cosine; of one label, if it is given.

        Approximate where the index has a graph, unless it is to be `exact` or one label is asked for. Raises UserError
        for vectors of another width, and for k above the number of items.
        """
        queries = unit(np.atleast_2d(np.asarray(vectors, dtype=np.float32)), self.made.dim, "the query")
        self.check(k, label)
        view = 0 if exact or label is not None or self.graph is None else self.graph.view
        return self._search(queries, k, label, view)

    def _recall(self, view: int, k: int) -> float:
        """Of approximate search with a view, on some items drawn with a fixed seed."""
        drawn = np.random.default_rng(0).permutation(len(self))[: approximate.ASKED]
        names, vectors = self._items(np.sort(drawn))

        def finding(view: int) -> approximate.Search:
            return lambda queries, k: self._search(queries, k, None, view).names

        return approximate.measured(names, vectors, finding(view), finding(0), k)

    @abstractmethod
    def _items(self, places: Int[np.ndarray, "m"]) -> tuple[list[str], Float[np.ndarray, "m d"]]:
        """Names and vectors of the items at these places in the order of `names`."""

    def check(self, k: int, label: str | None = None) -> None:
        """Raise UserError where `search` could not find k items."""
        of_label = "" if label is None else f" with the label {label!r}"
        there = len(self) if label is None else self.count(label)
        if not there:
            raise UserError(
                f"{self.place} holds no items{of_label}. Add some: selfsame index RUN PATH --out {self.place} --add"
            )
        if not 1 <= k <= there:
            raise UserError(f"k is {k}; {self.place} holds {there:,} items{of_label}. Give 1 to {there:,}.")

    def accept(self, other: Made | Encoder) -> None:
        """Raise UserError where vectors of another encoder are about to meet those of this index."""
        theirs = other if isinstance(other, Made) else Made.by(other)
        mine = self.made
        if theirs.modality != mine.modality:
            raise UserError(
                f"{self.place} holds vectors of {mine.modality}; the encoder given is for {theirs.modality}. Give the "
                f"run that made the index{self._run()}, or make another index."
            )
        if theirs.fingerprint != mine.fingerprint:
            raise UserError(
                f"{self.place} was made by another encoder (fingerprint {mine.fingerprint[:8]}; the one given has "
                f"{theirs.fingerprint[:8]}): vectors of two encoders cannot be compared. Give the run that made "
                f"it{self._run()}, or make another index."
            )

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds, as a connection; it goes by itself with the object too."""

    def _run(self) -> str:
        return f" ({self.made.run})" if self.made.run else ""

    def __repr__(self) -> str:
        return f"Index({self.place!r}, {len(self):,} items, {self.made.modality}, width {self.made.dim})"


def unit(vectors: Any, dim: int, what: str, names: Sequence[str] = ()) -> Float[np.ndarray, "n d"]:
    """float32 rows at unit length; a row of zeros stays zero. Raises UserError for another width or non-finite rows."""
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise UserError(f"{what} has a vector of shape {list(rows.shape[1:])}; the index has width {dim}.")
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    odd = np.flatnonzero(~np.isfinite(lengths))
    if len(odd):
        who = f" {names[int(odd[0])]!r}" if names else ""
        raise UserError(f"{what}{who} has a vector that is not finite: the encoder that made it has diverged.")
    return rows / np.where(lengths > 0, lengths, 1).astype(np.float32)[:, None]


def no_label(index: Index, label: str, classes: Iterable[str]) -> UserError:
    """The error for a label that no item has; `classes` are those that some have."""
    classes = list(classes)
    if not classes:
        return UserError(f"{index.place} holds no labels, so none can be {label!r}.")
    return unknown("label", label, classes, f"These are in {index.place}.")


def not_there(index: Index, name: str, advice: str = "", kind: str = "item") -> UserError:
    """The error for a name that no item has; with the nearest ones, where they are few enough to be gone through."""
    if len(index) <= COMPARED:
        return unknown(kind, name, index.names, advice or f"These are in {index.place}.")
    return UserError(
        f"unknown {kind} {name!r}; {index.place} holds {len(index):,} others.{' ' + advice if advice else ''}"
    )
