"""Table encoders: a residual MLP, an FT-Transformer, or a network of one's own, with scaling and embedding inside.

Raises: UserError on unknown names, tables of other columns, wrongly shaped or prepared rows, and saved encoders that do
not fit; TypeError where a network has no maps or tokens.
"""

import re
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import ConfigDict, ValidationError
from torch import Tensor, nn

from selfsame import types
from selfsame.errors import UserError, too_few_blocks, unknown
from selfsame.modalities.table.networks import FTTransformer, Own, ResidualMLP, mean_of
from selfsame.modalities.table.stats import Stats
from selfsame.nn.norm import at_rest, use_group_norm
from selfsame.records import Record
from selfsame.storage import encoders
from selfsame.storage.weights import tensors

__all__ = ["TableEncoder", "build_encoder", "load_encoder", "make_encoder", "own_encoder", "save_encoder"]

MLPS = {"mlp": (256, 3, 16), "mlp-tiny": (32, 1, 4)}  # width, blocks, width of a column's token
TRANSFORMERS = {"ft-tiny": (32, 2, 4), "ft-small": (96, 3, 8), "ft": (192, 3, 8)}  # width, blocks, heads; ft is RTDL's
CELL = 16  # width of a column's token where events are the tokens
LEAST = 4  # events of a view


class Spec(Record):
    """What encoder.json must hold. Other keys are let through."""

    model_config = ConfigDict(extra="ignore")

    modality: Literal["table"]
    library: Literal["selfsame", "own"]
    name: str
    """of the network; of an own one, "package.module:factory" or the class of the given module"""
    size: int
    """columns of a row, or events of a view"""
    stats: Stats
    dim: int
    norm: Literal["batch", "group"] = "batch"
    pool: Literal["own", "tokens"] = "own"
    """the vector: what the network makes of it, or the mean of its tokens"""


class TableEncoder(types.Encoder):
    """A network and the preparation of the table that it was made for.

    Takes float32 [b w], or of events [b e w], as `sample` and `make_views` give them: numbers as they are in the table,
    categories as codes, NaN where missing. In eval mode codes that are none raise UserError (on an accelerator only the
    first batch is looked at, as looking waits for the device).
    """

    def __init__(self, trunk: nn.Module, spec: dict[str, Any], stats: Stats) -> None:
        super().__init__()
        self.trunk = trunk
        self.spec = spec
        self.stats = stats
        self.dim = spec["dim"]
        pairs = [pair for pair in zip(stats.columns, stats.starts, strict=True) if pair[0].codes]
        self.coded = [(column.name, start, column.codes) for column, start in pairs]
        self.looked = False

    def forward(self, view: Tensor) -> Float[Tensor, "b d"]:
        if self.averages:
            return self.both(view)[0]
        return self.trunk(self.checked(view))

    def checked(self, view: Tensor) -> Tensor:
        """The rows, if they are such as this encoder takes. Raises UserError."""
        stats, shape = self.stats, list(view.shape)
        taken = f"[b, events, {stats.width}]" if stats.by else f"[b, {stats.width}]"
        if view.ndim != (3 if stats.by else 2):
            advice = " It looks like one item: add the batch axis with x[None]." if view.ndim + 1 == len(
                taken.split(",")
            ) else ""  # fmt: skip
            raise UserError(f"got rows of shape {shape}; accepted is a batch {taken}.{advice}")
        if view.shape[-1] != stats.width:
            names = ", ".join(column.name for column in stats.columns[:8]) + (", ..." if len(stats.columns) > 8 else "")
            raise UserError(
                f"got rows of {view.shape[-1]} numbers (shape {shape}); the encoder takes {stats.width}: {names}."
            )
        if not view.is_floating_point():
            raise UserError(
                f"got rows of {view.dtype}; accepted are floats: numbers as they are in the table, categories "
                "as codes, NaN where a value is missing."
            )
        if torch.compiler.is_compiling() or view.device.type == "meta":
            return view
        if self.training or not self.coded or not view.numel() or (self.looked and not view.is_cpu):
            return view
        self.looked = True
        for name, place, codes in self.coded:
            held = view.detach()[..., place]
            held = held[held.isfinite()]
            if held.numel() and bool(((held != held.round()) | (held < 0) | (held >= codes)).any()):
                wrong = held[(held != held.round()) | (held < 0) | (held >= codes)][0]
                raise UserError(
                    f"got {float(wrong):.4g} in {name}; accepted are the codes 0 to {codes - 1} of its values. "
                    "These rows look as if they were scaled or coded elsewhere; the encoder prepares them by itself."
                )
        return view

    # Maps

    @property
    def has_maps(self) -> bool:
        """Whether the network is one of ours: own ones have none."""
        return isinstance(self.trunk, ResidualMLP | FTTransformer)

    def maps(self, view: Tensor) -> list[Tensor]:
        """Of the MLP the columns' tokens [b c n] and its features [b d 1]; of a transformer its tokens [b d n]; of
        events [b d e]."""
        return self.with_maps(view)[1]

    def with_maps(self, view: Tensor) -> tuple[Float[Tensor, "b d"], list[Tensor]]:
        if isinstance(self.trunk, ResidualMLP):
            return self.trunk.with_maps(self.checked(view))
        if isinstance(self.trunk, FTTransformer):
            vector, tokens = self.both(view)
            return vector, [tokens.transpose(1, 2)]
        raise TypeError(f"{self.spec['name']} has no maps. Choose mlp or ft-small.")

    @property
    def map_widths(self) -> tuple[int, ...]:
        if isinstance(self.trunk, ResidualMLP) and not self.trunk.events:
            return self.trunk.cell, self.trunk.dim
        if self.has_maps:
            return (self.dim,)
        raise TypeError(f"{self.spec['name']} has no maps. Choose mlp or ft-small.")

    # Tokens

    @property
    def has_tokens(self) -> bool:
        """Whether the network is a transformer."""
        return isinstance(self.trunk, FTTransformer)

    @property
    def transformer(self) -> FTTransformer:
        if not isinstance(self.trunk, FTTransformer):
            raise TypeError(f"{self.spec['name']} has no tokens. Choose a transformer, such as ft-small.")
        return self.trunk

    @property
    def embedding(self) -> nn.Module | None:
        """What makes tokens of columns, or of events."""
        return self.trunk.tokeniser if isinstance(self.trunk, FTTransformer) else None

    def both(
        self, view: Tensor, keep: Int[Tensor, "b m"] | None = None, hide: types.Hidden | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n d"]]:
        """The vector and the tokens of columns or of events, without the class token. See `types.Encoder.tokens`."""
        trunk, count = self.transformer, self.grid(view)[0]
        if keep is not None and (keep.ndim != 2 or len(keep) != len(view)):
            raise UserError(f"keep has shape {list(keep.shape)}; it needs a row of numbers for each of {len(view)}.")
        if hide is not None and hide.where.shape != (len(view), count):
            raise UserError(
                f"hide.where has shape {list(hide.where.shape)}; it needs one truth value for each of {len(view)} x "
                f"{count} tokens."
            )
        hidden = None if hide is None else (hide.where, hide.stand_in)
        vector, tokens, gone, _ = trunk.passed(self.checked(view), keep, hidden)
        return (mean_of(tokens, gone) if self.averages else vector), tokens

    def last_layers(self, view: Tensor, last: int) -> list[Float[Tensor, "b n d"]]:
        """The tokens as the `last` last blocks give them, without the final norm."""
        blocks = len(self.transformer.blocks)
        if not 1 <= last <= blocks:
            raise too_few_blocks(last, blocks)
        return self.transformer.passed(self.checked(view), last=last)[3]

    @property
    def averages(self) -> bool:
        """Whether the vector is the mean of the tokens."""
        return self.spec.get("pool") == "tokens"

    def average_tokens(self) -> None:
        """Make the mean of the tokens the vector. TypeError where there are none."""
        _ = self.transformer
        self.spec["pool"] = "tokens"

    def grid(self, view: Tensor) -> tuple[int, ...]:
        """(columns,) of rows, (events,) of sequences."""
        _ = self.transformer
        return (view.shape[1],) if self.stats.by else (len(self.stats.columns),)

    # Pieces

    @property
    def has_pieces(self) -> bool:
        """Whether items are events, which can be cut in time."""
        return bool(self.stats.by)

    def pieces(self, view: Tensor) -> Float[Tensor, "b g e w"]:
        """A quarter of the events each, half over the next: seven of 16 events or more."""
        if not self.stats.by:
            raise TypeError("a row has no pieces: its columns have no order. Items by user have (--reading.by).")
        length = view.shape[1] // 4
        if length < 2:
            raise UserError(f"views of {view.shape[1]} events are too few to cut into pieces; give 8 or more.")
        return view.unfold(1, length, length // 2).permute(0, 1, 3, 2)

    def use_group_norm(self) -> None:
        """Replace batch norm by layer norm. UserError where there is no batch norm."""
        use_group_norm(self.trunk)
        self.spec["norm"] = "group"


# Making --------------------------------------------------------------------------------------------------------------


def make_encoder(name: str, size: int, stats: Stats, weights: str | None = None) -> TableEncoder:
    """A new encoder of the columns of `stats`.

    `name`: mlp, also narrower or wider as mlp@0.5, or mlp-tiny; ft-small, ft-tiny, ft; or "package.module:factory",
    called without arguments, for a network of the user's own on `networks.Flat` features; its first layer may be lazy.
    `size`: the number of columns; of events, as many as a view has. `weights`: a .safetensors file of such an encoder.
    Other weights are drawn from torch's global generator.
    """
    if ":" in name:
        return fresh("own", name, encoders.own_network(name), size, stats, weights)
    return fresh("selfsame", name, network(name, stats), size, stats, weights)


def own_encoder(module: nn.Module, size: int, stats: Stats, weights: str | None = None) -> TableEncoder:
    """An encoder around a module that maps `networks.Flat` features [b f], of events [b e f], to [b d] or [b n d]."""
    return fresh("own", type(module).__qualname__, module, size, stats, weights)


def build_encoder(spec: dict[str, Any], module: nn.Module | None = None) -> TableEncoder:
    """The encoder that `spec` describes, weights not loaded. `module` is needed where an own one was given so."""
    try:
        plan = Spec.model_validate(spec)
    except ValidationError as error:
        raise UserError(f"this is not the description of a table encoder: {' '.join(str(error).split())}") from None
    module = encoders.rebuilt(plan.name, plan.library == "own", module, lambda: network(plan.name, plan.stats))
    trunk = module if plan.library == "selfsame" else Own(plan.stats, module)
    dim = width_of(trunk, plan.name, plan.size, plan.stats)
    if dim != plan.dim:
        raise UserError(
            f"the encoder was saved with width {plan.dim}, but {plan.name} has {dim}. Use the same network."
        )
    if plan.norm == "group":
        use_group_norm(trunk)
    return TableEncoder(trunk, dict(spec), plan.stats)


def network(name: str, stats: Stats) -> nn.Module:
    """One of ours by name. Raises UserError with the nearest name."""
    if name in TRANSFORMERS:
        width, depth, heads = TRANSFORMERS[name]
        return FTTransformer(stats, width, depth, heads, CELL)
    bare, at, share = name.partition("@")
    if bare not in MLPS:
        raise unknown("encoder", name, [*MLPS, *TRANSFORMERS], "A network of your own is named package.module:factory.")
    width, depth, cell = MLPS[bare]
    if at:
        if not re.fullmatch(r"\d*\.?\d+", share) or not 0 < float(share) <= 16:
            raise UserError(f"{name}: the width is a share of the usual, above 0 and up to 16, as in {bare}@0.5.")
        width = max(8, round(width * float(share) / 8) * 8)
    return ResidualMLP(stats, width, depth, cell)


def fresh(library: str, name: str, module: nn.Module, size: int, stats: Stats, weights: str | None) -> TableEncoder:
    if not stats.by and size != len(stats.columns):
        raise UserError(
            f"size {size}: this table has {len(stats.columns)} columns, and a view has them all. Leave it out."
        )
    if stats.by and size < LEAST:
        raise UserError(f"size {size}: a view has {LEAST} events or more.")
    trunk = module if library == "selfsame" else Own(stats, module)
    spec: dict[str, Any] = {
        "modality": "table",
        "library": library,
        "name": name,
        "size": size,
        "norm": "batch",
        "pool": "own",
        "stats": stats.model_dump(mode="json"),
        "dim": width_of(trunk, name, size, stats),
    }
    encoder = TableEncoder(trunk, spec, stats)
    if weights is not None:
        spec["weights"] = start_from(encoder, Path(weights))
    return encoder


def width_of(trunk: nn.Module, name: str, size: int, stats: Stats) -> int:
    """The width of its vector, found by running rows of nothing. Modes and random states stay as they are."""
    if isinstance(trunk, ResidualMLP | FTTransformer):
        return trunk.dim
    shape = (2, size, stats.width) if stats.by else (2, stats.width)
    try:
        # Lazy layers draw their weights here: that is no trial, so the random state goes on.
        with torch.no_grad(), at_rest(trunk):
            return trunk(torch.full(shape, float("nan"))).shape[1]
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, ArithmeticError) as error:
        features = trunk.flat(torch.full(shape, float("nan"))).shape[-1] if isinstance(trunk, Own) else 0
        raise UserError(f"{name} cannot run on rows of {features} features: {error}") from error


def start_from(encoder: TableEncoder, path: Path) -> str:
    """Take weights from a file of another encoder of the same network; what was taken, in words."""
    held = tensors(path)
    own = encoder.state_dict()
    fitting = {key: value for key, value in held.items() if key in own and own[key].shape == value.shape}
    learned = {key for key, _ in encoder.named_parameters()}
    if not learned & fitting.keys():
        raise UserError(f"{path}: none of its {len(held)} tensors fits {encoder.spec['name']} on this table.")
    # How this table is scaled stays: buffers of the other one are of other values.
    moved = {key: value for key, value in fitting.items() if key in learned or "running" in key}
    encoder.load_state_dict(moved, strict=False)
    return f"{len(learned & moved.keys())} of {len(learned)} tensors from {path.name}"


# Keeping -------------------------------------------------------------------------------------------------------------


def save_encoder(encoder: TableEncoder, folder: str | Path) -> None:
    """Write encoder.safetensors and encoder.json. A crash leaves the old files or the new ones, whole."""
    encoders.save(encoder, folder)


def load_encoder(folder: str | Path, module: nn.Module | None = None) -> TableEncoder:
    """Read what `save_encoder` wrote, in eval mode on the CPU. Outputs are equal to the bit.

    An encoder of library "own" imports and calls the factory that encoder.json names: such a folder must be trusted.
    """
    return encoders.load(folder, lambda spec: build_encoder(spec, module))
