"""Views of series, made: the worker half (cut), the device half (all the rest). `recipes` says how strong.

Raises UnreadableItem where an item cannot be read.
"""

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.signal import steps
from selfsame.modalities.signal.recipes import View, Views
from selfsame.modalities.signal.stats import Stats
from selfsame.records import ViewPlan
from selfsame.types import Draws

__all__ = ["make_views", "sample"]

# Worker half ---------------------------------------------------------------------------------------------------------


def sample(
    source: Any, items: Sequence[int], plan: ViewPlan, views: Views, draws: Draws
) -> list[Float[Tensor, "b c t"]]:
    """Cut the views of the items: random crops, and plain views. Float32 as stored, NaN where a value is missing.

    Args:
        source: a SignalSource, or what stands for one. Where it has `attempt(i, read)`, items are read through it.
        items: their numbers, one for each row of `draws`.
        draws: each random view takes one `uniform(4)`: length, place, and two more; near ones a `normal(1)` beside.

    Near views keep to the items of `source.among`, where there are such: to nothing that is held out.

    A tensor a view in the order full, part, plain. A crop or an item that is shorter than the view ends in NaN. The
    plain view of a longer item is its middle. Raises UnreadableItem.
    """
    if plan.part and views.part_size > views.size:
        raise UserError(
            f"part views of {views.part_size} steps are longer than the full views of {views.size}. Lower "
            "--views.part-size, or raise the size."
        )
    kinds = views.strengths(plan)
    numbers = [draws.uniform(4).numpy() for _ in kinds]
    away = [draws.normal(1).numpy()[:, 0] if views.pairs == "near" else np.zeros(len(items)) for _ in kinds]
    sizes = [views.size] * plan.full + [views.part_size] * plan.part + [views.size] * plan.plain
    made = [np.full((len(items), source.channels, size), np.nan, np.float32) for size in sizes]

    def cut(item: int, row: int) -> None:
        values = Stretch(source, item)
        frame, found = runs_of(values, plan, views, sizes, [n[row].tolist() for n in numbers], [a[row] for a in away])
        for k, (start, stop) in enumerate(found):
            piece = values[start, stop]
            shift = start - frame if views.stay and k < plan.full else 0
            if k < len(kinds) and numbers[k][row, 3] < kinds[k].stretch:
                piece = stretched(piece, min(values.length, sizes[k]))
            made[k][row] = np.nan  # an item that could not be read may have left something
            made[k][row, :, shift : shift + piece.shape[1]] = piece

    attempt = getattr(source, "attempt", None)
    for row, item in enumerate(items):
        read = functools.partial(cut, row=row)
        attempt(item, read) if attempt else read(item)
    return [torch.from_numpy(view) for view in made]


def runs_of(
    values: "Stretch", plan: ViewPlan, views: Views, sizes: list[int], numbers: list[list[float]], away: list[float]
) -> tuple[int, list[tuple[int, int]]]:
    """The first step of the frame, and first step and step after the last of every view, counted in the record.

    Args:
        numbers: of each random view four in [0, 1): length, place, and two for what few views need.
        away: of each random view how far from the first a near one is, in units of `reach`.
    """
    fits = min(values.length, views.size)
    frame, length = values.start, values.length
    if numbers and (views.stay or views.pairs == "overlap"):  # all full views are of one frame, as long as a view
        frame, length = frame + int(numbers[0][2] * (length - fits + 1)), fits
    found: list[tuple[int, int]] = []
    low = high = 0
    for k, (kind, (share, place, _, more)) in enumerate(zip(views.strengths(plan), numbers, strict=True)):
        run = min(max(1, round(fits * (kind.crop[0] + (kind.crop[1] - kind.crop[0]) * share))), sizes[k])
        if k >= plan.full:
            start = values.start + int(place * (values.length - run + 1))
        elif views.pairs == "overlap" and k % 2:  # shares low .. high with the one before, and goes on behind it
            found.append((low, high + int(place * (frame + length - high + 1))))
            continue
        elif views.pairs == "near" and k:
            run = found[0][1] - found[0][0]
            start = round(found[0][0] + away[k] * views.reach * run)
            start = min(max(start, values.near[0]), values.near[1] - run)
        else:
            start = frame + int(place * (length - run + 1))
        low, high = start, start + run
        if views.pairs == "overlap" and k < plan.full:
            start = frame + int(more * (low - frame + 1))
        found.append((start, high))
    middle = values.start + (values.length - fits) // 2
    return frame, found + [(middle, middle + fits)] * plan.plain


class Stretch:
    """The run of a record that an item is. Read once; what lies about it is read where it is asked for."""

    def __init__(self, source: Any, item: int) -> None:
        self.source = source
        self.record, self.start, stop = source.place(item)
        self.values = source.read(item)
        self.length = stop - self.start
        self.item = item

    @functools.cached_property
    def near(self) -> tuple[int, int]:
        return neighbourhood(self.source, self.item)

    def __getitem__(self, ends: tuple[int, int]) -> np.ndarray:
        """[c t] of these steps of the record; of the item itself where there is nothing to be read."""
        start, stop = ends[0] - self.start, ends[1] - self.start
        if start >= 0 and stop <= self.length:
            piece = self.values[:, start:stop]
        else:
            try:
                piece = self.source.piece(self.record, *ends)
            except UnreadableItem:
                piece = self.values[:, : stop - start]
        return self.values[:, : stop - start] if np.isnan(piece).all() else piece


def neighbourhood(source: Any, item: int) -> tuple[int, int]:
    """First step and step after the last about an item, in its record, of no item but those of `source.among`.

    All of the record where a source does not say among which items it is read. Of overlapping windows, what the item
    shares with a held-out one stays its own.
    """
    record, start, stop = source.place(item)
    low, high = 0, int(source.records.lengths[record])
    among = getattr(source, "among", None)
    if among is None:
        return low, high
    at = int(np.searchsorted(among, item))
    if at == len(among) or among[at] != item:
        return start, stop
    begin, end = int(source.firsts[record]), int(source.firsts[record] + source.counts[record])
    # Of items that follow each other the number less the place among the items is one; it never falls.
    places = range(len(among))
    first = item - (at - bisect_left(places, item - at, key=lambda k: int(among[k]) - k))
    last = item + (bisect_right(places, item - at, key=lambda k: int(among[k]) - k) - 1 - at)
    if first > begin:
        low = min(start, source.place(first - 1)[2])
    if last < end - 1:
        high = max(stop, source.place(last + 1)[1])
    return low, high


def stretched(piece: np.ndarray, length: int) -> np.ndarray:
    """[c t] brought to a length, linearly between steps; missing where the nearer of two steps is."""
    t = piece.shape[1]
    if t == length or t < 2:
        return piece
    place = np.linspace(0, t - 1, length, dtype=np.float32)
    left = np.minimum(place.astype(np.int64), t - 2)
    weight = place - left
    low, high = piece[:, left], piece[:, left + 1]
    between = low + weight * (high - low)
    return np.where(np.isnan(between), np.where(weight < 0.5, low, high), between)


# Device half ---------------------------------------------------------------------------------------------------------

COLUMNS = (
    "permute",
    "count",
    "time_warp",
    "band",
    "band_width",
    "band_place",
    "flip",
    "gap",
    "gap_length",
    "gap_place",
)
"""What each of the uniform numbers of a view's row is for. All are drawn whatever is used."""


def make_views(
    samples: list[Float[Tensor, "b c t"]], plan: ViewPlan, views: Views, stats: Stats, draws: Draws
) -> list[Float[Tensor, "b c t"]]:
    """Transform what `sample` has cut, on the device it is on: float32 as stored, not normalised, NaN where missing.

    Args:
        samples: in the order full, part, plain.
        stats: strengths are in units of its standard deviations, about its means.
        draws: each random view takes one `uniform(len(COLUMNS))`, and then for the steps it has, in their order, as
            many numbers as these need.

    Plain views stay as they are.
    """
    kinds = views.strengths(plan)
    made = []
    for x, kind in zip(samples, kinds, strict=False):
        mean = torch.tensor(stats.mean, dtype=torch.float32, device=x.device)[:, None]
        std = torch.tensor(stats.std, dtype=torch.float32, device=x.device)[:, None]
        made.append(transformed((x - mean) / std, kind, draws) * std + mean)
    return made + samples[len(kinds) :]


def transformed(x: Float[Tensor, "b c t"], view: View, draws: Draws) -> Float[Tensor, "b c t"]:
    """One pipeline, on values in units of the channels' deviations. No row loses all its values."""
    b, c, t = x.shape
    on = functools.partial(torch.Tensor.to, device=x.device, non_blocking=True)
    number = dict(zip(COLUMNS, on(draws.uniform(len(COLUMNS))).unbind(1), strict=True))
    spans = steps.spans_of(x)

    def only(name: str, done: Tensor) -> Tensor:
        return torch.where((number[name] < getattr(view, name))[:, None, None], done, x)

    def within(name: str) -> Tensor:
        low, high = getattr(view, name)
        return low + (high - low) * number[name]

    def knots(std: float, curves: int) -> Float[Tensor, "b curves knots"]:
        """Of smooth curves about 0."""
        return std * on(draws.normal(steps.KNOTS * curves)).view(b, curves, steps.KNOTS)

    if view.permute:
        count = 1 + (number["count"] * view.segments).long()
        cuts, order = on(draws.uniform(view.segments - 1)), on(draws.uniform(view.segments))
        x = only("permute", steps.permuted(x, spans, count, cuts, order))
    if view.time_warp:
        x = only("time_warp", steps.warped(x, spans, 1 + knots(view.time_warp_std, 1)[:, 0]))
    if view.scale:
        x = x * (1 + view.scale * on(draws.normal(c)))[:, :, None]
    if view.magnitude_warp:
        smooth = steps.smooth(t).to(x.device).T
        x = x * (1 + steps.along(knots(view.magnitude_warp, c) @ smooth, spans))
    if view.filter or view.band:
        decibels = knots(view.filter, 1)[:, 0] if view.filter else torch.zeros(b, steps.KNOTS, device=x.device)
        width = torch.where(number["band"] < view.band, within("band_width"), 0.0)
        x = steps.recoloured(x, gains(decibels, width, number["band_place"], t))
    if view.flip:
        x = only("flip", -x)
    if view.jitter:
        x = x + view.jitter * on(draws.normal(c * t)).view(b, c, t)
    if view.gap:
        x = only("gap", steps.without_run(x, spans, within("gap_length"), number["gap_place"]))
    if view.drop:
        x = steps.without_channels(x, on(draws.uniform(c)), view.drop)
    if view.hide:
        x = steps.without_steps(x, on(draws.uniform(t)), view.hide)
    return x


def gains(
    decibels: Float[Tensor, "b knots"], width: Float[Tensor, "b"], place: Float[Tensor, "b"], steps_of_view: int
) -> Float[Tensor, "b f"]:
    """Of each frequency: smooth through the decibels, and 0 in a band of this share of all, at a place in [0, 1)."""
    f = steps_of_view // 2 + 1
    gain = 10 ** (decibels @ steps.smooth(f).to(decibels.device).T / 20)
    at = torch.arange(f, device=decibels.device) / f
    start = (place * (1 - width))[:, None]
    return gain.masked_fill((at >= start) & (at < start + width[:, None]), 0.0)
