"""What makes vectors of rows: a tokeniser of columns, a residual MLP and a transformer over columns or events.

Source: Gorishniy et al. 2021, arXiv 2106.11959 ("RTDL"): ResNet (section 3.2) and FT-Transformer (3.3); piecewise
linear numbers as in Gorishniy et al. 2022, arXiv 2203.05556, section 3.2. Deviations: no dropout, for views are noise
enough; the bins of all numbers are the same, on the scale of `scaling`, not each column's own quantiles, of which that
scale is made; the vector is what RTDL's last linear layer would see.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from selfsame.errors import UserError
from selfsame.modalities.table.scaling import Scaler
from selfsame.modalities.table.stats import NUMERIC, Stats
from selfsame.nn.positions import sincos

__all__ = ["FTTransformer", "Flat", "ResidualMLP", "Tokeniser"]

EDGES = (-3.0, -1.5, -0.9, -0.5, 0.0, 0.5, 0.9, 1.5, 3.0)  # of the bins of numbers, in standard deviations; a choice
YEAR, WEEK = 365.2425, 7.0  # days
CAP = 64  # codes of a category that have a place of their own in `Flat`


class Numbers(nn.Module):
    """The features of numbers and dates: [... c] -> [... c f], 0 where there is none."""

    features = 1 + len(EDGES) - 1 + 6
    dates: Tensor  # [c 1], 1 for dates
    low: Tensor  # [k] of the bins
    step: Tensor

    def __init__(self, stats: Stats) -> None:
        super().__init__()
        self.scaler = Scaler(stats)
        dates = [column.kind == "date" for column in stats.columns if column.kind in NUMERIC]
        self.register_buffer("dates", torch.tensor(dates, dtype=torch.float32)[:, None])
        edges = torch.tensor(EDGES)
        self.register_buffer("low", edges[:-1].clone())
        self.register_buffer("step", edges.diff())

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c f"]:
        """The scaled number; its share of each bin; of a date sine and cosine of year, week and day."""
        there = x.isfinite()
        x = torch.where(there, x, 0.0)
        scaled = self.scaler(x)[..., None]
        bins = ((scaled - self.low) / self.step).clamp(0, 1) - 0.5
        turns = torch.stack([x / YEAR, x / WEEK, x], dim=-1)
        turns = 2 * math.pi * (turns - turns.floor())  # of float32 only the fraction counts
        cycles = torch.cat([turns.sin(), turns.cos()], dim=-1) * self.dates
        return torch.cat([scaled, bins, cycles], dim=-1) * there[..., None]


class Tokeniser(nn.Module):
    """One token a column: [... w] -> [... n d] (RTDL, 3.3).

    A number is a linear map of its features, a category a vector of its own, a text a linear map; a missing value is a
    vector of its column, a hidden one a vector that all share. Each column then adds its own vector.
    """

    number_places: Tensor  # in a row, of numbers and dates
    code_places: Tensor
    first_places: Tensor  # of every column
    back: Tensor  # from numbers, codes, texts to the order of the columns
    sizes: Tensor  # codes of each column that has some
    offsets: Tensor  # where they begin in the table of vectors

    def __init__(self, stats: Stats, dim: int) -> None:
        super().__init__()
        pairs = list(zip(stats.columns, stats.starts, strict=True))
        kinds = {"number": [], "code": [], "text": []}  # type: dict[str, list[int]]
        for k, (column, _) in enumerate(pairs):
            kinds["number" if column.kind in NUMERIC else "text" if column.kind == "text" else "code"].append(k)
        order = [*kinds["number"], *kinds["code"], *kinds["text"]]
        places = [[stats.starts[k] for k in kinds[kind]] for kind in ("number", "code")]
        self.register_buffer("number_places", torch.tensor(places[0], dtype=torch.long))
        self.register_buffer("code_places", torch.tensor(places[1], dtype=torch.long))
        self.register_buffer("first_places", torch.tensor(stats.starts, dtype=torch.long))
        self.register_buffer("back", torch.tensor(order).argsort())
        self.spans = [(stats.starts[k], stats.columns[k].width) for k in kinds["text"]]
        sizes = torch.tensor([stats.columns[k].codes for k in kinds["code"]], dtype=torch.long)
        self.register_buffer("sizes", sizes)
        self.register_buffer("offsets", sizes.cumsum(0) - sizes)
        bound = dim**-0.5
        self.numbers = Numbers(stats)
        self.weight = drawn((len(places[0]), Numbers.features, dim), bound / math.sqrt(3))
        self.words = nn.Embedding(int(sizes.sum()) or 1, dim)
        nn.init.uniform_(self.words.weight, -bound, bound)
        self.texts = nn.ModuleList(nn.Linear(width, dim, bias=False) for _, width in self.spans)
        self.missing = drawn((len(pairs), dim), bound)
        self.hidden = drawn((dim,), bound)
        self.column = drawn((len(pairs), dim), bound)

    def forward(self, x: Float[Tensor, "*b w"]) -> Float[Tensor, "*b n d"]:
        return self.values(x) + self.column

    def values(self, x: Float[Tensor, "*b w"]) -> Float[Tensor, "*b n d"]:
        """Without the vector that tells which column it is."""
        x = x.to(self.column.dtype)
        parts = []
        if len(self.number_places):
            features = self.numbers(x[..., self.number_places])
            parts.append(torch.einsum("...cf,cfd->...cd", features, self.weight))
        if len(self.code_places):
            codes = x[..., self.code_places]
            known = codes.isfinite() & (codes >= 0) & (codes < self.sizes)
            parts.append(self.words(torch.where(known, codes, 0.0).long() + self.offsets))
        for (start, width), linear in zip(self.spans, self.texts, strict=True):
            text = x[..., start : start + width]
            parts.append(linear(torch.where(text.isfinite(), text, 0.0) * math.sqrt(width) / 2)[..., None, :])
        tokens = torch.cat(parts, dim=-2).index_select(-2, self.back)
        first = x[..., self.first_places][..., None]
        tokens = torch.where(first.isnan(), self.missing.to(tokens.dtype), tokens)
        return torch.where(first.isinf(), self.hidden.to(tokens.dtype), tokens)


def drawn(shape: tuple[int, ...], bound: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def absent(x: Float[Tensor, "b e w"]) -> Bool[Tensor, "b e"]:
    """The events that are not there."""
    return torch.isneginf(x[..., 0])


def mean_of(tokens: Float[Tensor, "b n d"], gone: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b d"]:
    """The mean of the tokens that are there."""
    if gone is None:
        return tokens.mean(dim=1)
    there = (~gone)[..., None].to(tokens.dtype)
    return (tokens * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)


# Residual MLP --------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """x + W2 relu(W1 norm(x)), the inner width twice the outer (RTDL, 3.2)."""

    def __init__(self, width: int, batch_norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return x + self.narrow(F.relu(self.wide(self.norm(x))))


class ResidualMLP(nn.Module):
    """Columns side by side, a linear layer, residual blocks, norm and ReLU: [b w] -> [b d].

    Of events [b e w] each passes by itself, with layer norms, since events that are not there must not count in a batch
    norm; the vector is the mean over events.
    """

    def __init__(self, stats: Stats, width: int, depth: int, cell: int) -> None:
        super().__init__()
        self.events = bool(stats.by)
        self.tokeniser = Tokeniser(stats, cell)
        self.first = nn.Linear(len(stats.columns) * cell, width)
        self.blocks = nn.ModuleList(Residual(width, not self.events) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if self.events else nn.BatchNorm1d(width)
        self.dim, self.cell = width, cell

    def forward(self, x: Float[Tensor, "b *e w"]) -> Float[Tensor, "b d"]:
        return self.with_maps(x)[0]

    def with_maps(self, x: Float[Tensor, "b *e w"]) -> tuple[Float[Tensor, "b d"], list[Tensor]]:
        """The vector, and as maps the tokens of the columns [b cell n] and the blocks' features [b d 1]; of events
        their features [b d e] alone."""
        tokens = self.tokeniser(x)
        y = self.first(tokens.flatten(-2))
        for block in self.blocks:
            y = block(y)
        y = F.relu(self.norm(y))
        if not self.events:
            return y, [tokens.transpose(1, 2), y[..., None]]
        gone = absent(x)
        return mean_of(y, gone), [torch.where(gone[:, None], 0.0, y.transpose(1, 2))]


# Transformer ---------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention, then a gated layer (ReGLU) of 4/3 the width, each after its norm (RTDL, appendix)."""

    def __init__(self, width: int, heads: int, first: bool) -> None:
        super().__init__()
        self.heads = heads
        # RTDL's first block has no norm before its attention: with it, it found training harder.
        self.norm1: nn.Module = nn.Identity() if first else nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        inner = int(width * 4 / 3)
        self.wide = nn.Linear(width, 2 * inner)
        self.narrow = nn.Linear(inner, width)

    def forward(self, x: Float[Tensor, "b n d"], gone: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b n d"]:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = None if gone is None else (~gone)[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        value, gate = self.wide(self.norm2(x)).chunk(2, dim=-1)
        return x + self.narrow(value * F.relu(gate))


class Events(nn.Module):
    """One token an event: its columns side by side through a linear layer: [b e w] -> [b e d]."""

    def __init__(self, stats: Stats, width: int, cell: int) -> None:
        super().__init__()
        self.tokeniser = Tokeniser(stats, cell)
        self.linear = nn.Linear(len(stats.columns) * cell, width)

    def forward(self, x: Float[Tensor, "b e w"]) -> Float[Tensor, "b e d"]:
        return self.linear(self.tokeniser(x).flatten(-2))


class FTTransformer(nn.Module):
    """FT-Transformer: tokens of columns and a class token through blocks of attention: [b w] -> [b d].

    Of events [b e w] the tokens are events, with sine positions counted from the first event of the view.
    """

    def __init__(self, stats: Stats, width: int, depth: int, heads: int, cell: int) -> None:
        super().__init__()
        self.events = bool(stats.by)
        self.tokeniser: nn.Module = Events(stats, width, cell) if self.events else Tokeniser(stats, width)
        self.first = drawn((width,), width**-0.5)  # the class token
        self.blocks = nn.ModuleList(Block(width, heads, k == 0) for k in range(depth))
        self.norm = nn.LayerNorm(width)
        self.dim = width

    def passed(
        self,
        x: Float[Tensor, "b *e w"],
        keep: Int[Tensor, "b m"] | None = None,
        hidden: tuple[Bool[Tensor, "b n"], Float[Tensor, "d"]] | None = None,
        last: int = 0,
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n d"], Bool[Tensor, "b n"] | None, list[Tensor]]:
        """Class token and tokens after the final norm, which events are not there, and the tokens of the last blocks.

        `hidden` tokens are replaced before they are told which column or which event they are.
        """
        if isinstance(self.tokeniser, Tokeniser):
            values = self.tokeniser.values(x)
            place: Tensor = self.tokeniser.column
        else:
            values = self.tokeniser(x)
            place = sincos((x.shape[1],), self.dim, x.device).to(values.dtype).view(x.shape[1], -1)
        if hidden is not None:
            values = torch.where(hidden[0][..., None], hidden[1].to(values.dtype), values)
        tokens = values + place
        gone = absent(x) if self.events else None
        if keep is not None:
            tokens = tokens.gather(1, keep[..., None].expand(-1, -1, self.dim))
            gone = None if gone is None else gone.gather(1, keep)
        tokens = torch.cat([self.first.to(tokens.dtype).expand(x.shape[0], 1, -1), tokens], dim=1)
        masked = None if gone is None else F.pad(gone, (1, 0))
        outputs = []
        for block in self.blocks:
            tokens = block(tokens, masked)
            outputs.append(tokens[:, 1:])
        tokens = self.norm(tokens)
        return tokens[:, 0], tokens[:, 1:], gone, outputs[len(outputs) - last :]

    def forward(self, x: Float[Tensor, "b *e w"]) -> Float[Tensor, "b d"]:
        return self.passed(x)[0]


# Rows as plain features ----------------------------------------------------------------------------------------------


class Flat(nn.Module):
    """Rows as one would give them to a linear model, for networks of one's own: [... w] -> [... f].

    Scaled numbers, of dates also sine and cosine of year, week and day; one-hot categories, at most `CAP` values of
    each; texts as they are; then for each column whether it is missing and whether it is hidden.
    """

    def __init__(self, stats: Stats) -> None:
        super().__init__()
        pairs = list(zip(stats.columns, stats.starts, strict=True))
        self.numbers = Numbers(stats)
        self.place = [start for column, start in pairs if column.kind in NUMERIC]
        self.codes = [(start, min(column.codes, CAP)) for column, start in pairs if column.kind in ("category", "hash")]
        self.texts = [(start, start + column.width) for column, start in pairs if column.kind == "text"]
        self.firsts = stats.starts
        dates = [column.kind == "date" for column in stats.columns if column.kind in NUMERIC]
        cycles = range(len(EDGES), Numbers.features)
        kept = [k * Numbers.features + f for k, date in enumerate(dates) for f in (0, *(cycles if date else ()))]
        self.register_buffer("kept", torch.tensor(kept, dtype=torch.long))

    def forward(self, x: Float[Tensor, "*b w"]) -> Float[Tensor, "*b f"]:
        parts = []
        if self.place:
            parts.append(self.numbers(x[..., self.place]).flatten(-2)[..., self.kept])
        for start, size in self.codes:
            codes = x[..., start]
            numbers = torch.arange(size, device=x.device, dtype=x.dtype)
            known = torch.where(codes.isfinite() & (codes >= size), 0.0, codes)
            parts.append((known[..., None] == numbers).to(x.dtype))
        for start, end in self.texts:
            parts.append(torch.where(x[..., start:end].isfinite(), x[..., start:end], 0.0))
        first = x[..., self.firsts]
        parts += [first.isnan().to(x.dtype), first.isinf().to(x.dtype)]
        return torch.cat(parts, dim=-1)


class Own(nn.Module):
    """A network of the user's own, on `Flat` features: [b f] or [b e f] -> [b d].

    Where it gives a token for each event, those of events that are not there do not count.
    """

    def __init__(self, stats: Stats, module: nn.Module) -> None:
        super().__init__()
        self.flat = Flat(stats)
        self.module = module

    def forward(self, x: Float[Tensor, "b *e w"]) -> Float[Tensor, "b d"]:
        out = self.module(self.flat(x))
        if not isinstance(out, Tensor) or out.ndim not in (2, 3):
            given = f"a tensor of shape {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise UserError(f"the network gives {given}; an encoder needs [b d], or [b n d], which is averaged.")
        if out.ndim == 3 and x.ndim == 3 and out.shape[1] == x.shape[1]:  # one token an event
            return mean_of(out, absent(x))
        return out if out.ndim == 2 else out.mean(dim=1)
