"""Series at rest, read by number: whole records, or windows cut from long ones. Labels are for evaluation only.

Raises UserError where there is nothing to read, UnreadableItem for one broken item.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.signal.reading import Reading
from selfsame.modalities.signal.stats import Stats
from selfsame.modalities.signal.tables import Opened
from selfsame.storage.tables import first_names

__all__ = ["SignalSource"]

LOOKED = 20_000  # items that are read to measure them: all, or of more than these as many, drawn by the seed


class SignalSource:
    """Series read by number. Holds names and places, not series that lie on disk; survives pickling and forking."""

    looks = LOOKED
    window = 2
    """row groups of a Parquet file that a process holds at once"""
    noted: Any = None
    left_out = ""

    def __init__(self, path: str, opened: Opened, reading: Reading) -> None:
        self.path = path
        self.records = opened.records
        self.names = opened.names
        self.names_of_channels = opened.channels
        self.rate = reading.rate or opened.rate
        self.reading = reading
        self.opened: Opened | None = opened
        self.order: list[int] | None = None
        """the channels in the order of `fit`; None as they are"""
        lengths = self.records.lengths
        if reading.window:
            # A record that is shorter than a window is one item; else what is left after the last whole window is not
            # looked at.
            self.counts = np.where(lengths < reading.window, 1, 1 + (lengths - reading.window) // reading.step)
        else:
            self.counts = np.ones(len(lengths), np.int64)
        self.firsts = np.cumsum(self.counts) - self.counts
        self.known_labels: list[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": None, "known_labels": None}  # of no use to workers

    def __len__(self) -> int:
        return int(self.counts.sum())

    def place(self, i: int) -> tuple[int, int, int]:
        """Record, first step, and step after the last, of an item."""
        record = int(np.searchsorted(self.firsts, i, side="right")) - 1
        length = int(self.records.lengths[record])
        if not self.reading.window:
            return record, 0, length
        start = (i - int(self.firsts[record])) * self.reading.step
        return record, start, min(start + self.reading.window, length)

    def name(self, i: int) -> str:
        """The record's name; of a window with its first step: record@1200. Unique."""
        record, start, _ = self.place(i)
        return f"{self.names[record]}@{start}" if self.reading.window else self.names[record]

    def read(self, i: int, exact: bool = False) -> Float[np.ndarray, "c t"]:
        """The series, NaN where a value is missing, as float32, or float64 if `exact`. Raises UnreadableItem."""
        values = self.piece(*self.place(i), exact)
        if np.isnan(values).all():
            raise UnreadableItem("it has no value" if values.shape[1] else "it has no steps")
        return values

    def piece(self, record: int, start: int, stop: int, exact: bool = False) -> Float[np.ndarray, "c t"]:
        """Steps of a record, a copy; it may be without any value. Raises UnreadableItem."""
        try:
            found = self.records.piece(record, start, stop)
        except OSError as error:
            raise UnreadableItem(f"cannot be read: {error.strerror or error}") from None
        if self.order is not None:
            found = found[self.order]
        with np.errstate(over="ignore"):
            values = np.array(found, dtype=np.float32, order="C")
        wrong = np.isinf(values)
        if wrong.any():
            channel, step = (int(k) for k in np.argwhere(wrong)[0])
            raise UnreadableItem(
                f"channel {channel} is infinite, or beyond float32, at step {start + step}: write NaN where a value "
                "is missing"
            )
        return found.astype(np.float64) if exact else values

    def stored(self, i: int) -> int:
        """Bytes of the item as float32."""
        _, start, stop = self.place(i)
        return 4 * self.channels * (stop - start)

    def drawn(self, seed: int, most: int) -> list[int]:
        """At most `most` items, drawn by the seed, ascending."""
        return sorted(np.random.default_rng(seed).permutation(len(self))[:most].tolist())

    @property
    def channels(self) -> int:
        return len(self.order) if self.order is not None else self.records.channels

    def fit(self, stats: Stats) -> None:
        """From now on every item comes with the channels of `stats`: by name where both have names.

        Raises UserError where channels are not there, or where the rates, as far as known, differ by more than 5 %.
        """
        if stats.rate and self.rate and abs(self.rate - stats.rate) > 0.05 * stats.rate:
            raise UserError(
                f"{self.path} has {self.rate:.6g} steps a second; wanted are {stats.rate:.6g}, at which the encoder "
                "was trained. Bring it to that rate first, as with scipy.signal.resample_poly."
            )
        names = self.names_of_channels
        if stats.names and names:
            lost = [name for name in stats.names if name not in names]
            if lost:
                raise UserError(
                    f"{self.path} has no channel {', '.join(lost[:5])}; wanted are {', '.join(stats.names[:20])}, and "
                    f"it has {', '.join(names[:20])}. Rename its columns as they were when the encoder was trained."
                )
            self.order = [names.index(name) for name in stats.names] if names != stats.names else None
        elif self.records.channels != stats.channels:
            raise UserError(
                f"{self.path} has {self.records.channels} channels; wanted are {stats.channels}. Choose those that the "
                "encoder was trained on."
            )

    @property
    def roles(self) -> list[tuple[str, str, str]]:
        """What became of the columns of a table, or the names that an array gives its channels."""
        if self.opened is not None and self.opened.roles:
            return self.opened.roles
        names = self.names_of_channels
        return [("channels", first_names(names), f"{len(names):,} by name")] if names else []

    @property
    def array(self) -> Float32[np.ndarray, "n c t"] | None:
        """All items as one array, where each is a record and they lie in memory; shorter ones end in NaN."""
        if self.reading.window or self.order is not None:
            return None
        return self.records.all()

    @property
    def blocks(self) -> Int64[np.ndarray, "k"] | None:
        """The first items of row groups; None where each item is read by itself."""
        steps = self.records.blocks
        if steps is None:
            return None
        lengths = self.records.lengths
        record = np.searchsorted(np.cumsum(lengths), steps, side="right").clip(max=len(lengths) - 1)
        if not self.reading.window:
            return np.unique(record)
        into = steps - (np.cumsum(lengths) - lengths)[record]
        within = np.minimum(-(-into // self.reading.step), self.counts[record] - 1)
        return np.unique(self.firsts[record] + within)

    @property
    def labels(self) -> list[str] | None:
        """One label an item: of its record, or of most of its steps. Raises UserError where what there is fits none."""
        if self.known_labels is None and self.opened is not None:
            opened = self.opened
            if opened.refused is not None:
                raise opened.refused
            if opened.step_labels is not None:
                self.known_labels = self.labels_of_steps(opened.step_labels, opened.classes)
            elif opened.labels is not None:
                self.known_labels = [opened.labels[k] for k in np.repeat(np.arange(len(self.counts)), self.counts)]
        return self.known_labels

    @labels.setter
    def labels(self, labels: list[str] | None) -> None:
        self.known_labels = labels

    def labels_of_steps(self, codes: Int64[np.ndarray, "n"], classes: Sequence[str]) -> list[str]:
        lengths = self.records.lengths
        begins = np.cumsum(lengths) - lengths
        labels = []
        for i in range(len(self)):
            record, start, stop = self.place(i)
            found = np.bincount(codes[begins[record] + start : begins[record] + stop])
            if not self.reading.window and np.count_nonzero(found) > 1:
                named = ", ".join(classes[k] for k in np.flatnonzero(found)[:3])
                raise UserError(
                    f"{self.path}: the rows of series {self.names[record]} have several labels ({named}). Cut it into "
                    "windows with --reading.window, which take the label of most of their steps, or give it one label."
                )
            labels.append(classes[int(found.argmax())])
        return labels
