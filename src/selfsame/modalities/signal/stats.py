"""What the series are: channels, rate, lengths, mean and deviation, and the items that cannot be read.

Raises UserError where nothing can be read, or where float32 cannot hold what varies.
"""

from typing import TYPE_CHECKING

import numpy as np

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.signal.records import FINE, too_fine
from selfsame.records import Record

if TYPE_CHECKING:
    from selfsame.modalities.signal.source import SignalSource

__all__ = ["Stats", "measure"]

SHORT = 8  # steps: records as [steps, channels] that were taken for series of as many steps as there are channels


class Stats(Record):
    """What is measured from the series and saved with the encoder."""

    items: int
    """items that can be read, as far as they were looked at"""
    channels: int
    names: tuple[str, ...] = ()
    """of the channels, where the data have names"""
    rate: float = 0.0
    """steps a second; 0 where it is not known"""
    mean: tuple[float, ...]
    """of each channel over all values that are there"""
    std: tuple[float, ...]
    """the same; 1 for a channel that is constant or empty, so that dividing by it is safe"""
    constant: tuple[int, ...] = ()
    """channels whose values are all the same"""
    empty: tuple[int, ...] = ()
    """channels without any value"""
    shortest: int
    """steps of the shortest item"""
    median: int
    longest: int
    missing: float
    """share of the values that are missing, in [0, 1]"""

    @property
    def uniform(self) -> bool:
        """Whether all items have one length."""
        return self.shortest == self.longest

    @property
    def cautions(self) -> list[str]:
        """What a person should know before the run begins."""
        found = []
        if len({*self.constant, *self.empty}) == self.channels:
            every = "its channel is" if self.channels == 1 else f"all {self.channels} channels are"
            found.append(
                f"{every} constant over all items, so there is nothing to tell them apart. Are these the right data?"
            )
        if self.longest < SHORT:
            found.append(
                f"the longest of the series has {self.longest} steps, in which there is little to learn from. If a row "
                "is a step of one record, and a column a channel, say how long its items are: --reading.window 256."
            )
        return found

    @property
    def summary(self) -> str:
        """One line for a plan."""
        lengths = f"{self.longest:,} steps" if self.uniform else f"{self.shortest:,} to {self.longest:,} steps"
        parts = [f"{self.channels} channel{'s' if self.channels > 1 else ''}", lengths]
        if self.rate:
            parts.append(f"{self.rate:.6g} a second")
        if self.missing:
            parts.append(f"{max(self.missing, 0.001):.1%} missing")
        for word in ("constant", "empty"):
            if found := getattr(self, word):
                parts.append(f"{word}: {', '.join(self.named(k) for k in found[:5])}{', ...' if found[5:] else ''}")
        return ", ".join(parts)

    def named(self, channel: int) -> str:
        return self.names[channel] if self.names else f"channel {channel}"


def measure(source: "SignalSource", seed: int = 0) -> tuple[Stats, dict[int, str]]:
    """Statistics of the items, and the unreadable ones {item: reason}.

    All items are read, or of more than `source.looks` as many, drawn with `seed`. Sums are in float64, about the first
    value of each channel, so that data far from zero lose nothing.
    """
    looked = range(len(source)) if len(source) <= source.looks else source.drawn(seed, source.looks)
    unreadable: dict[int, str] = {}
    lengths: list[int] = []
    c = source.channels
    origin = np.full(c, np.nan)
    count, total, square = np.zeros(c), np.zeros(c), np.zeros(c)
    low, high = np.full(c, np.inf), np.full(c, -np.inf)
    places = 0
    for item in looked:
        try:
            values = source.read(item, exact=True)
        except UnreadableItem as error:
            unreadable[item] = str(error)
            continue
        lengths.append(values.shape[1])
        places += values.shape[1]
        there = ~np.isnan(values)
        first = values[np.arange(c), there.argmax(axis=1)]
        origin = np.where(np.isnan(origin), first, origin)
        away = np.where(there, values - np.nan_to_num(origin)[:, None], 0)
        count += there.sum(axis=1)
        total += away.sum(axis=1)
        square += (away**2).sum(axis=1)
        low = np.minimum(low, np.where(there, values, np.inf).min(axis=1))
        high = np.maximum(high, np.where(there, values, -np.inf).max(axis=1))
    if not lengths:
        item, reason = next(iter(unreadable.items()))
        raise UserError(
            f"{source.path}: none of the {len(source)} series can be read. The first, {source.name(item)}: {reason}."
        )
    some = np.maximum(count, 1)
    mean = np.nan_to_num(origin) + total / some
    std = np.sqrt(np.maximum(square / some - (total / some) ** 2, 0))
    constant = (count > 0) & (low == high)
    names = source.names_of_channels
    for k in np.flatnonzero((count > 0) & ~constant & (std < FINE * np.abs(mean))):
        which = names[k] if names else f"channel {k}"
        raise too_fine(source.path, which, std[k], mean[k])
    stats = Stats(
        items=len(source) - len(unreadable),
        channels=c,
        names=names,
        rate=source.rate,
        mean=tuple(mean.tolist()),
        std=tuple(np.where((count > 0) & ~constant, std, 1.0).tolist()),
        constant=tuple(np.flatnonzero(constant).tolist()),
        empty=tuple(np.flatnonzero(count == 0).tolist()),
        shortest=min(lengths),
        median=int(np.median(lengths)),
        longest=max(lengths),
        missing=float(1 - count.sum() / (c * places)),
    )
    return stats, unreadable
