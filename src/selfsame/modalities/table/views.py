"""Views of rows and of sequences of events: the worker half reads and crops, the device half does all the rest.

A view has the shape of what it is a view of, so that an encoder takes both. `recipes` says how strong, `scaling` which
numbers stand for what is missing, hidden or not there. Raises UnreadableItem where a row is broken.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.table.recipes import View, Views
from selfsame.modalities.table.scaling import ABSENT, HIDDEN, Marginals, marginals
from selfsame.modalities.table.stats import Stats
from selfsame.records import ViewPlan
from selfsame.types import Draws

__all__ = ["make_views", "sample"]

SURE = 2.0  # standard deviations at which the normal curve in place of a binomial is cut: then c <= n stays so

# Worker half ---------------------------------------------------------------------------------------------------------


def sample(
    source: Any, items: Sequence[int], plan: ViewPlan, views: Views, draws: Draws
) -> list[Float32[Tensor, "b *e w"]]:
    """The rows of the items, a tensor a view in the order full, part, plain.

    Of a table by rows [b w]; by user [b size w], events in order, the last of a plain view, those of a random crop
    else. Views that mix rows come as [b 2 ...], each row with that of another item.

    Args:
        source: a fitted TableSource, or what stands for one. Where it has `attempt(i, read)`, broken rows are read
            through it, and other rows are taken from `among` alone.
        draws: each random view takes one `uniform(3)`: another item, length of the crop, start of it; where rows are
            mixed and are events, two more for the crop of the other.
    """
    kinds = views.strengths(plan)
    own = Reader(source, list(items))
    made = []
    for kind in kinds:
        mixes = kind.cutmix > 0 or kind.mixup > 0
        numbers = draws.uniform(5 if mixes and own.events else 3).numpy()
        rows = own.rows(views.size, kind, numbers[:, 1:3])
        if mixes:
            partners = source.partners(own.items, numbers[:, 0].astype(np.float64), getattr(source, "among", None))
            others = Reader(source, partners.tolist()).rows(views.size, kind, numbers[:, 3:5])
            rows = np.stack([rows, others], axis=1)
        made.append(rows)
    made += [own.rows(views.size) for _ in range(plan.plain)]
    return [torch.from_numpy(rows) for rows in made]


class Reader:
    """Some items of a source, read once whatever is asked of them."""

    def __init__(self, source: Any, items: list[int]) -> None:
        assert source.stats is not None
        self.events = bool(source.stats.by)
        self.items = items
        attempt = getattr(source, "attempt", None)
        if not self.events:
            self.held = source.rows(items) if attempt is None else self.read_by(attempt, source)
            return
        if attempt is None:
            self.each = [source.rows(source.events(i)) for i in items]
        else:
            found: list[Any] = [None] * len(items)
            for k, item in enumerate(items):
                attempt(item, functools.partial(self.put, source, found, k))
            self.each = found

    def put(self, source: Any, found: list[Any], k: int, i: int) -> None:
        found[k] = source.rows(source.events(i))
        self.items[k] = i

    def read_by(self, attempt: Any, source: Any) -> Float32[np.ndarray, "b w"]:
        """All rows at once; where one of them is broken, each by itself, with another in its place."""
        try:
            return source.rows(self.items)
        except UnreadableItem:
            rows: list[Any] = [None] * len(self.items)

            def keep(k: int, i: int) -> None:
                rows[k] = source.rows([i])[0]
                self.items[k] = i

            for k, item in enumerate(list(self.items)):
                attempt(item, functools.partial(keep, k))
            return np.stack(rows)

    def rows(self, size: int, kind: View | None = None, chances: Any = None) -> Float32[np.ndarray, "b *e w"]:
        """[b w], or of events [b size w] of a crop, or the last; padded at the end."""
        if not self.events:
            return self.held
        width = self.each[0].shape[1]
        made = np.full((len(self.each), size, width), ABSENT, np.float32)
        for k, rows in enumerate(self.each):
            length = min(size, len(rows))
            start = len(rows) - length
            if kind is not None:
                low, high = kind.crop
                share = low + (high - low) * float(chances[k, 0])
                length = max(1, min(size, round(share * len(rows))))
                start = int(float(chances[k, 1]) * (len(rows) - length + 1))
            made[k, :length] = rows[start : start + length]
        return made


# Device half ---------------------------------------------------------------------------------------------------------


def make_views(
    samples: list[Float[Tensor, "b *e w"]], plan: ViewPlan, views: Views, stats: Stats, draws: Draws
) -> list[Float[Tensor, "b *e w"]]:
    """Transform what `sample` has read, on the device it is on. Plain views stay as they are.

    Random numbers are drawn on the CPU for the steps that a view has, in the order of `View`. Every row is changed by
    its own numbers alone.
    """
    if samples and samples[0].shape[-1] != stats.width:
        raise UserError(f"samples have {samples[0].shape[-1]} numbers a row, the table {stats.width}.")
    kinds = views.strengths(plan)
    made = [transformed(x, kind, stats, draws) for x, kind in zip(samples, kinds, strict=False)]
    return made + list(samples[len(kinds) :])


def transformed(x: Float[Tensor, "b *e w"], view: View, stats: Stats, draws: Draws) -> Float[Tensor, "b *e w"]:
    of = marginals(stats, x.device)
    device, columns = x.device, len(stats.columns)
    other = None
    if view.cutmix or view.mixup:
        x, other = x.unbind(1)
    shape = x.shape[1:-1]  # () of rows, (events,) of sequences
    cells = shape.numel() * columns

    def uniform(per_cell: int = 1) -> Float[Tensor, "b *e n"]:
        return draws.uniform(cells * per_cell).view(-1, *shape, columns * per_cell).to(device)

    def chosen(share: float, exact: bool) -> Bool[Tensor, "b *e w"]:
        """Which numbers of each row: a share of its columns, of events each column with this probability."""
        if shape:
            return (uniform() < share)[..., of.owner]
        places = draws.order(columns).to(device)
        wanted = torch.full((len(x), 1), max(1.0, float(int(share * columns))), device=device)
        if not exact:  # a whole number of columns that is right on average; one stays
            wanted = (share * columns + draws.uniform(1).to(device)).floor().clamp(max=columns - 1)
        return (places < wanted)[:, of.owner]

    absent = torch.isneginf(x)
    if view.cutmix:
        assert other is not None
        here = (uniform() < view.cutmix)[..., of.owner]
        x = torch.where(here & ~torch.isneginf(other), other, x)
    if view.mixup:
        assert other is not None
        x = mixed_up(x, other, view.mixup, of, uniform()[..., of.owner])
    if view.replace:
        x = torch.where(chosen(view.replace, exact=True), of.drawn(uniform()), x)
    if view.noise and len(of.numbers):
        scores = of.scaler(x[..., of.numbers])
        noise = draws.normal(shape.numel() * len(of.numbers)).view(-1, *shape, len(of.numbers)).to(device)
        x = with_numbers(x, of, of.scaler.back(scores + view.noise * noise))
    if view.thin and bool(of.counts.any()):
        chance, normal = draws.uniform(1).to(device), draws.normal(1).to(device)
        x = thinned(x, 1 - view.thin * chance, normal.clamp(-SURE, SURE), of)
    if view.drop_words:
        for start, bags in of.texts:
            width = bags.shape[1]
            gone = draws.uniform(shape.numel() * width).view(-1, *shape, width).to(device) < view.drop_words
            words = x[..., start : start + width]
            x = x.clone()
            x[..., start : start + width] = torch.where(gone & words.isfinite(), 0.0, words)
    if view.mask:
        x = torch.where(chosen(view.mask, exact=False), HIDDEN, x)
    if view.mask_events and shape:
        gone = draws.uniform(shape.numel()).view(-1, *shape, 1).to(device) < view.mask_events
        x = torch.where(gone, HIDDEN, x)
    return torch.where(absent, ABSENT, x)


def with_numbers(x: Tensor, of: Marginals, values: Float[Tensor, "*b m"]) -> Tensor:
    """The rows with other numbers, where there was one."""
    before = x[..., of.numbers]
    x = x.clone()
    x[..., of.numbers] = torch.where(before.isfinite(), values, before)
    return x


def mixed_up(x: Tensor, other: Tensor, weight: float, of: Marginals, chances: Float[Tensor, "*b w"]) -> Tensor:
    """Numbers and texts averaged with another row's, categories the other's with probability `weight`."""
    both = x.isfinite() & other.isfinite()
    mixed = torch.where((chances < weight) & both, other, x)
    for start, bags in of.texts:
        these = slice(start, start + bags.shape[1])
        mean = x[..., these] + weight * (other[..., these] - x[..., these])
        mixed[..., these] = torch.where(both[..., these], mean, x[..., these])
    if len(of.numbers):
        one, two = (of.scaler(rows[..., of.numbers]) for rows in (x, other))
        values = of.scaler.back(one + weight * (two - one))
        mixed[..., of.numbers] = torch.where(both[..., of.numbers], values, x[..., of.numbers])
    return mixed


def thinned(x: Tensor, keep: Float[Tensor, "b 1"], normal: Float[Tensor, "b 1"], of: Marginals) -> Tensor:
    """Counts c as binomial ones of c with probability `keep`, by their normal curve: clicks seen for a shorter time.

    One probability and one deviation for all counts of a row: where c <= n before, as of clicks and impressions, it
    stays so. Negative and broken counts stay as they are.
    """
    extra = (1,) * (x.ndim - 2)
    keep, normal = keep.view(-1, *extra, 1), normal.view(-1, *extra, 1)
    before = x[..., of.numbers]
    whole = before.clamp(min=0)
    fewer = (whole * keep + normal * (whole * keep * (1 - keep)).sqrt()).round()
    fewer = torch.minimum(fewer.clamp(min=0), whole)
    can = of.counts & before.isfinite() & (before >= 0)
    x = x.clone()
    x[..., of.numbers] = torch.where(can, fewer, before)
    return x
