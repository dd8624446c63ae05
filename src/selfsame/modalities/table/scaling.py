"""Numbers brought to one scale and back, and values drawn from the marginal of a column: `Stats` as tensors.

A row of a sample has three numbers that are none: NaN where a value is missing, +inf where a view hides it, and -inf in
all columns of an event that is not there, at the end of a short sequence.
"""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from selfsame.modalities.table.stats import LEVELS, NUMERIC, Column, Stats

__all__ = ["ABSENT", "HIDDEN", "Marginals", "Scaler", "marginals", "standard_scores"]

HIDDEN, ABSENT = math.inf, -math.inf
FARTHEST = 10.0  # standard deviations: values further out are taken as so far, so that one typing slip rules nothing


def standard_scores(column: Column) -> tuple[list[float], list[float]]:
    """The distinct quantiles of a column, and the normal score of each: of its rank in the middle of equal ones."""
    at: dict[float, list[int]] = {}
    for k, value in enumerate(column.quantiles):
        at.setdefault(value, []).append(k)
    last = len(column.quantiles) - 1
    half = 0.5 / max(1, last)
    levels = [min(max(sum(places) / len(places) / max(1, last), half), 1 - half) for places in at.values()]
    return list(at), [NormalDist().inv_cdf(level) for level in levels]


class Scaler(nn.Module):
    """Columns of numbers and dates [... c] on one scale, and back.

    Numbers by normal scores of their rank among the quantiles, linear between two of these (scaling "quantile"), or
    less the mean, by the standard deviation ("standard"); counts so after log(1 + |x|) with the sign of x; dates and
    ratios always so, which leaves their distances as they are. All is sums and products, without a search, so that it
    can be exported.
    """

    knots: Tensor  # [c k] ascending
    steps: Tensor  # [c k-1] to the next
    scores: Tensor  # [c k]
    rises: Tensor  # [c k-1] to the next
    mean: Tensor  # [c]
    std: Tensor
    by_rank: Tensor  # [c] which columns
    by_log: Tensor

    def __init__(self, stats: Stats) -> None:
        super().__init__()
        columns = [column for column in stats.columns if column.kind in NUMERIC]
        knots, scores = torch.zeros(len(columns), LEVELS), torch.zeros(len(columns), LEVELS)
        for k, column in enumerate(columns):
            values, ranks = standard_scores(column)
            knots[k], scores[k] = values[-1], ranks[-1]
            knots[k, : len(values)], scores[k, : len(ranks)] = torch.tensor(values), torch.tensor(ranks)
        self.register_buffer("knots", knots)
        self.register_buffer("scores", scores)
        self.register_buffer("steps", knots.diff(dim=1))
        self.register_buffer("rises", scores.diff(dim=1))
        self.register_buffer("mean", torch.tensor([column.mean for column in columns], dtype=torch.float32))
        self.register_buffer("std", torch.tensor([column.std for column in columns], dtype=torch.float32))
        ranked = stats.scaling == "quantile"
        self.register_buffer("by_rank", torch.tensor([ranked and column.kind == "number" for column in columns]))
        self.register_buffer("by_log", torch.tensor([column.kind == "count" for column in columns]))

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        ranks = self.scores[:, 0] + walked(x, self.knots, self.steps, self.rises)
        flat = torch.where(self.by_log, x.sign() * x.abs().log1p(), x)
        scores = torch.where(self.by_rank, ranks, (flat - self.mean) / self.std)
        return scores.clamp(-FARTHEST, FARTHEST)

    def back(self, z: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """The values that have these scores."""
        of_ranks = self.knots[:, 0] + walked(z, self.scores, self.rises, self.steps)
        flat = z * self.std + self.mean
        values = torch.where(self.by_log, flat.sign() * flat.abs().expm1(), flat)
        return torch.where(self.by_rank, of_ranks, values)


def walked(
    x: Float[Tensor, "*b c"], knots: Float[Tensor, "c k"], gaps: Float[Tensor, "c j"], rises: Float[Tensor, "c j"]
) -> Float[Tensor, "*b c"]:
    """How far a line through knots rises up to x: the whole of each gap below it, and its share of the one it is in."""
    shares = (x[..., None] - knots[:, :-1]) / torch.where(gaps > 0, gaps, 1.0)
    return (shares.clamp(0, 1) * rises).sum(dim=-1)


class Marginals(NamedTuple):
    """What views need of a table: where its columns lie, and how their values are spread."""

    owner: Int[Tensor, "w"]
    """which column each number of a row belongs to"""
    numbers: Int[Tensor, "m"]
    """places of numbers and dates in a row"""
    counts: Bool[Tensor, "m"]
    """which of these are counts"""
    scaler: Scaler
    missing: Float[Tensor, "n"]
    """share of rows without a value, of each column"""
    quantiles: Float[Tensor, "m k"]
    whole: Bool[Tensor, "m"]
    codes: Int[Tensor, "c"]
    """places of categories in a row"""
    ladders: Float[Tensor, "c k"]
    """how many rows have this code or a smaller one, as a share"""
    hashed: Int[Tensor, "h"]
    """places of hashed columns in a row"""
    samples: Int[Tensor, "h s"]
    lengths: Int[Tensor, "h"]
    """how many of the samples are there"""
    texts: tuple[tuple[int, Float[Tensor, "s w"]], ...]
    """of each column of text where it begins, and the texts of some rows"""

    def to(self, device: torch.device) -> "Marginals":
        moved: dict[str, Any] = {
            name: tuple((start, bags.to(device)) for start, bags in value)
            if isinstance(value, tuple)
            else value.to(device)
            for name, value in self._asdict().items()
        }
        return Marginals(**moved)

    def drawn(self, chances: Float[Tensor, "*b n"]) -> Float[Tensor, "*b w"]:
        """A value of each column, from a chance in [0, 1) each: NaN as often as values are missing."""
        gone = chances < self.missing
        rest = (chances - self.missing) / (1 - self.missing).clamp_min(1e-6)
        rest = rest.clamp(0, 1 - 2**-24)[..., self.owner]
        made = torch.full_like(rest, math.nan)
        if len(self.numbers):
            place = rest[..., self.numbers] * (LEVELS - 1)
            low = place.floor()
            share = torch.where(self.whole, (place - low).round(), place - low)
            ends = [at_each(self.quantiles, (low + k).clamp(max=LEVELS - 1).long()) for k in (0, 1)]
            made[..., self.numbers] = ends[0] + share * (ends[1] - ends[0])
        if len(self.codes):
            wanted = rest[..., self.codes].movedim(-1, 0).flatten(1).contiguous()
            found = torch.searchsorted(self.ladders, wanted, right=True).clamp(max=self.ladders.shape[1] - 1)
            made[..., self.codes] = found.float().unflatten(1, chances.shape[:-1]).movedim(0, -1)
        if len(self.hashed):
            made[..., self.hashed] = at_each(self.samples, (rest[..., self.hashed] * self.lengths).long()).float()
        for start, bags in self.texts:
            if len(bags):
                made[..., start : start + bags.shape[1]] = bags[(rest[..., start] * len(bags)).long()]
        return torch.where(gone[..., self.owner], math.nan, made)


def at_each(table: Tensor, places: Int[Tensor, "*b c"]) -> Tensor:
    """Of each column the value at its place: table [c k]."""
    return table[torch.arange(len(table), device=table.device), places]


_KNOWN: dict[tuple[int, torch.device], tuple[Stats, Marginals]] = {}


def marginals(stats: Stats, device: torch.device) -> Marginals:
    """Of these statistics, on a device. The last few are kept: each step asks for them."""
    key = (id(stats), device)
    if key not in _KNOWN or _KNOWN[key][0] is not stats:
        while len(_KNOWN) >= 4:
            _KNOWN.pop(next(iter(_KNOWN)))
        _KNOWN[key] = stats, made(stats).to(device)
    return _KNOWN[key][1]


def made(stats: Stats) -> Marginals:
    pairs = list(zip(stats.columns, stats.starts, strict=True))
    numbers = [(column, start) for column, start in pairs if column.kind in NUMERIC]
    codes = [(column, start) for column, start in pairs if column.kind == "category"]
    hashed = [(column, start) for column, start in pairs if column.kind == "hash"]
    longest = max((column.codes for column, _ in codes), default=1)
    ladders = torch.ones(len(codes), longest)
    for k, (column, _) in enumerate(codes):
        ladder = torch.tensor(column.shares, dtype=torch.float64).cumsum(0)
        ladders[k, : len(ladder)] = (ladder / ladder[-1].clamp_min(1e-12)).float()
        ladders[k, len(ladder) - 1 :] = 1.0  # rounding must not make a code that is not there
    lengths = [len(column.sample) for column, _ in hashed]
    samples = torch.zeros(len(hashed), max(lengths, default=1), dtype=torch.long)
    for k, (column, _) in enumerate(hashed):
        samples[k, : len(column.sample)] = torch.tensor(column.sample)
    texts = []
    for column, start in pairs:
        if column.kind == "text":
            bags = torch.zeros(len(column.bags), column.width)
            for row, held in enumerate(column.bags):
                for place, value in held:
                    bags[row, place] = value
            texts.append((start, bags))
    owner = [k for k, column in enumerate(stats.columns) for _ in range(column.width)]
    return Marginals(
        owner=torch.tensor(owner),
        numbers=torch.tensor([start for _, start in numbers], dtype=torch.long),
        counts=torch.tensor([column.kind == "count" for column, _ in numbers], dtype=torch.bool),
        scaler=Scaler(stats),
        missing=torch.tensor([column.missing for column in stats.columns]),
        quantiles=torch.tensor([column.quantiles for column, _ in numbers]).reshape(len(numbers), LEVELS),
        whole=torch.tensor([column.whole for column, _ in numbers], dtype=torch.bool),
        codes=torch.tensor([start for _, start in codes], dtype=torch.long),
        ladders=ladders,
        hashed=torch.tensor([start for _, start in hashed], dtype=torch.long),
        samples=samples,
        lengths=torch.tensor(lengths, dtype=torch.long),
        texts=tuple(texts),
    )
