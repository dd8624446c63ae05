"""Encoders of series: networks along time with their normalisation inside, and what is missing told to them.

Raises: UserError on unknown names, wrongly shaped or scaled series, and saved encoders that do not fit; TypeError where
a network has no maps or tokens.
"""

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict, ValidationError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from selfsame import types
from selfsame.errors import UserError, too_few_blocks
from selfsame.modalities.signal.networks import Net, covered, network
from selfsame.modalities.signal.stats import Stats
from selfsame.nn.norm import at_rest, use_group_norm
from selfsame.nn.vit import caught, hidden, kept
from selfsame.records import Record
from selfsame.storage import encoders
from selfsame.storage.weights import tensors

__all__ = ["SignalEncoder", "build_encoder", "load_encoder", "make_encoder", "own_encoder", "save_encoder"]

FAR = 1e4  # standard deviations from the mean: beyond it values are of other units
PIECES = 8  # of a view, half over each other, are as long as a piece: 15 pieces in all
LEAST = 8  # steps of a piece


class Spec(Record):
    """What encoder.json must hold. Other keys are let through."""

    model_config = ConfigDict(extra="ignore")

    modality: Literal["signal"]
    name: str
    """of the network; of an own one, "package.module:factory" or the class of the given module"""
    own: bool
    size: int
    """steps of a view"""
    norm: Literal["batch", "group"]
    stats: Stats
    dim: int


class SignalEncoder(types.Encoder):
    """A network along time, and the normalisation of the series it was made for.

    Takes batches [b c t] of values as they are stored, of any length t; NaN is missing. Each channel is normalised by
    the mean and deviation of the training data, zeros take the place of what is missing, and as many channels more say
    where that is. The vector sums up the steps that have a value, of any channel: their mean and, beside it, their
    largest features; of a transformer the mean of its tokens. A view without any value gives 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: nn.Module, spec: dict[str, Any]) -> None:
        super().__init__()
        self.trunk = trunk
        self.spec = spec
        self.dim = spec["dim"]
        stats = spec["stats"]
        self.register_buffer("mean", torch.tensor(stats["mean"], dtype=torch.float32).view(1, -1, 1))
        self.register_buffer("std", torch.tensor(stats["std"], dtype=torch.float32).view(1, -1, 1))
        self.looked = False

    def forward(self, view: Tensor) -> Float[Tensor, "b d"]:
        if self.has_tokens:
            return self.both(view)[0]
        x, there, inside = self.prepared(view)
        if isinstance(self.trunk, Net):
            return summed_up(self.trunk(x, there, inside)[-1], there)
        return pooled(self.trunk(x), there)

    def prepared(self, view: Tensor) -> tuple[Float[Tensor, "b c t"], Bool[Tensor, "b t"], Bool[Tensor, "b t"]]:
        """Normalised values and, for networks of this package, where they are missing (1); which steps have a value;
        which lie between the first and the last of these."""
        self._check(view)
        if self.has_tokens and view.shape[2] % self.patch:
            view = F.pad(view.float(), (0, -view.shape[2] % self.patch), value=float("nan"))
        values = (view.float() - self.mean.float()) / self.std.float()
        lost = values.isnan()
        values = torch.where(lost, 0.0, values)
        there = ~lost.all(dim=1)
        x = values if self.spec["own"] else torch.cat([values, lost.float()], dim=1)
        begun = there.int().cumsum(dim=1) > 0
        ended = there.int().flip(1).cumsum(dim=1).flip(1) > 0
        return x.to(self.mean.dtype), there, begun & ended

    # Maps ------------------------------------------------------------------------------------------------------------

    def maps(self, view: Tensor) -> list[Float[Tensor, "b w t1"]]:
        """Dense features along time, fine to coarse: one a block or stage; of a transformer its tokens."""
        return self.with_maps(view)[1]

    def with_maps(self, view: Tensor) -> tuple[Float[Tensor, "b d"], list[Float[Tensor, "b w t1"]]]:
        if self.has_tokens:
            vector, tokens = self.both(view)
            return vector, [tokens.transpose(1, 2)]
        x, there, inside = self.prepared(view)
        if isinstance(self.trunk, Net):
            maps = self.trunk(x, there, inside)
            return summed_up(maps[-1], there), maps
        if not callable(getattr(self.trunk, "maps", None)):
            raise TypeError(
                f"{self.spec['name']} has no maps. Give it a method maps(x) that returns its dense features [b c t], "
                "fine to coarse."
            )
        return pooled(self.trunk(x), there), self.trunk.maps(x)  # type: ignore[operator]

    @property
    def has_maps(self) -> bool:
        return isinstance(self.trunk, Net) or self.has_tokens or callable(getattr(self.trunk, "maps", None))

    @property
    def map_widths(self) -> tuple[int, ...]:
        """The channels of each of `maps`. TypeError where there are none."""
        if isinstance(self.trunk, Net):
            return self.trunk.widths
        if self.has_tokens:
            return (self.dim,)
        with torch.no_grad(), at_rest(self):
            return tuple(one.shape[1] for one in self.maps(self._zeros()))

    def _zeros(self) -> Tensor:
        return self.mean.float().expand(2, -1, self.spec["size"]).contiguous()

    # Tokens ----------------------------------------------------------------------------------------------------------

    @property
    def has_tokens(self) -> bool:
        return isinstance(self.trunk, VisionTransformer)

    @property
    def embedding(self) -> nn.Module | None:
        """The projection of the patches of a transformer."""
        return self.trunk.patch_embed if isinstance(self.trunk, VisionTransformer) else None

    @property
    def patch(self) -> int:
        """Steps of a patch of a transformer."""
        trunk: Any = self.trunk
        return trunk.patch_embed.patch_size[1]

    def both(
        self, view: Tensor, keep: Int[Tensor, "b m"] | None = None, hide: types.Hidden | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n d"]]:
        """The vector, the mean of the tokens whose patch has a value, and all tokens after the final norm.

        See `types.Encoder.tokens`. TypeError unless the network is a transformer.
        """
        self.need_tokens()
        x, there, _ = self.prepared(view)
        tokens, known = self._tokens(x, there, keep, hide)
        return averaged(tokens.transpose(1, 2), known), tokens

    def _tokens(
        self, x: Float[Tensor, "b c t"], there: Bool[Tensor, "b t"], keep: Tensor | None, hide: types.Hidden | None
    ) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """Tokens after the final norm, and which patches have a value. No token attends to one without.

        Views that are shorter than the training's have the first positions. A stand-in is attended to wherever it is.
        """
        trunk: Any = self.trunk
        patches = hidden(trunk.patch_embed.proj(x[:, :, None]).flatten(2).transpose(1, 2), hide)
        places = trunk.pos_embed
        if patches.shape[1] > places.shape[1]:
            places = F.interpolate(places.transpose(1, 2), patches.shape[1], mode="linear").transpose(1, 2)
        known = F.max_pool1d(there[:, None].float(), self.patch)[:, 0] > 0
        seen = known if hide is None else known | hide.where
        if keep is not None:
            known, seen = known.gather(1, keep), seen.gather(1, keep)
        seen = (seen | ~seen.any(dim=1, keepdim=True))[:, None, None]
        tokens = trunk.norm_pre(kept(trunk.pos_drop(patches + places[:, : patches.shape[1]]), 0, keep))
        for block in trunk.blocks:
            tokens = block(tokens, attn_mask=seen)
        return trunk.norm(tokens), known

    def last_layers(self, view: Tensor, last: int) -> list[Float[Tensor, "b n d"]]:
        """The tokens as the `last` last blocks give them, without the final norm."""
        self.need_tokens()
        blocks: Any = self.trunk.blocks
        if not 1 <= last <= len(blocks):
            raise too_few_blocks(last, len(blocks))
        x, there, _ = self.prepared(view)
        with caught(list(blocks)[-last:]) as outputs:
            self._tokens(x, there, None, None)
        return outputs

    def average_tokens(self) -> None:
        """The mean of the tokens is the vector already. TypeError where there are none."""
        self.need_tokens()

    def grid(self, view: Tensor) -> tuple[int, ...]:
        """The patches of a view, one axis."""
        self.need_tokens()
        return (-(-view.shape[2] // self.patch),)

    def need_tokens(self) -> None:
        if not self.has_tokens:
            raise TypeError(f"{self.spec['name']} has no tokens. Choose a transformer, such as vit_micro.")

    # Steps -----------------------------------------------------------------------------------------------------------

    @property
    def has_steps(self) -> bool:
        return isinstance(self.trunk, Net) or self.has_tokens

    def steps(self, view: Tensor) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """The coarsest map, or the tokens, along time; and which of these places lie within the series."""
        x, there, inside = self.prepared(view)
        if self.has_tokens:
            tokens, _ = self._tokens(x, there, None, None)
            return tokens, F.max_pool1d(inside[:, None].float(), self.patch)[:, 0] > 0
        if not isinstance(self.trunk, Net):
            raise TypeError(f"{self.spec['name']} has no steps. Choose a network of this package, such as dilated.")
        last = self.trunk(x, there, inside)[-1]
        return last.transpose(1, 2), covered(inside, last.shape[2])

    # Pieces ----------------------------------------------------------------------------------------------------------

    has_pieces = True
    piece_axes = 1

    def pieces(self, view: Tensor) -> Float[Tensor, "b n c s"]:
        """Pieces of an eighth of the view, at least 8 steps, each half over the next, from first to last."""
        length = max(LEAST, view.shape[2] // PIECES)
        if view.shape[2] < 2 * length:
            raise UserError(f"views of {view.shape[2]} steps are too short to cut into pieces; give 16 or more.")
        return view.unfold(2, length, length // 2).transpose(1, 2)

    # ------------------------------------------------------------------------------------------------------------------

    def use_group_norm(self) -> None:
        """Replace batch norm by group norm with weight standardisation. UserError where there is no batch norm."""
        use_group_norm(self.trunk)
        self.spec["norm"] = "group"

    def _check(self, view: Tensor) -> None:
        channels, shape = self.mean.shape[1], list(view.shape)
        if view.ndim != 3:
            advice = " It looks like one series: add the batch axis with x[None]." if view.ndim == 2 else ""
            raise UserError(f"got series of shape {shape}; accepted is a batch [b, {channels}, t].{advice}")
        if view.shape[1] != channels:
            last = " It looks like channels last: use x.transpose(1, 2)." if view.shape[2] == channels else ""
            raise UserError(
                f"got series of {view.shape[1]} channels (shape {shape}); the encoder takes {channels}: "
                f"[b, {channels}, t].{last}"
            )
        if view.dtype == torch.bool or view.is_complex():
            raise UserError(f"got series of {view.dtype}; accepted are floats and whole numbers, as they were stored.")
        if torch.compiler.is_compiling() or self.training or not view.numel() or (self.looked and not view.is_cpu):
            return
        self.looked = True
        known = view.detach().float()
        if bool(known.isinf().any()):
            raise UserError("got infinite values; write NaN where a value is missing.")
        mean, std = self.mean.float(), self.std.float()
        # By the median: other units move all values, a spike of the sensor one.
        away = ((known - mean) / std).abs().transpose(0, 1).flatten(1).nanmedian(dim=1).values.nan_to_num()
        if float(away.max()) > FAR:
            k = int(away.argmax())
            raise UserError(
                f"got values of about {float(away[k]):.3g} standard deviations of the training data from its mean "
                f"(channel {k}): are they in other units? It was trained on {self._units(k)}."
            )
        offset = (mean.abs() / std)[0, :, 0]
        k = int(offset.argmax())
        seen = known[:, k][~known[:, k].isnan()]
        if float(offset[k]) > 20 and seen.numel() > 1 and float(seen.abs().mean()) < 2 and float(mean[0, k].abs()) > 20:
            raise UserError(
                f"got values of about {float(seen.abs().mean()):.2g} in channel {k}, where it was trained on "
                f"{self._units(k)}. They look normalised already; the encoder normalises by itself."
            )

    def _units(self, channel: int) -> str:
        return f"{float(self.mean[0, channel, 0]):.4g} ± {float(self.std[0, channel, 0]):.3g}"


def averaged(x: Float[Tensor, "b w t1"], there: Bool[Tensor, "b t"]) -> Float[Tensor, "b w"]:
    """The mean over the places that stand for a step with a value; 0 where there is none."""
    known = covered(there, x.shape[2])[:, None].to(x.dtype)
    return (x * known).sum(dim=2) / known.sum(dim=2).clamp(min=1)


def summed_up(x: Float[Tensor, "b w t1"], there: Bool[Tensor, "b t"]) -> Float[Tensor, "b 2w"]:
    """The mean over the places that stand for a step with a value, and the largest value there; 0 where there is none.

    The mean says what a series is like throughout, the largest whether something is seen anywhere in it: TS2Vec (arXiv
    2106.10466) takes the latter alone. With random weights of "dilated@0.5" a linear probe read on GunPoint, ArrowHead
    and JapaneseVowels 95, 73 and 96 % from means, 99, 79 and 98 % from the largest, 99, 81 and 99 % from both, seed 0.
    """
    known = covered(there, x.shape[2])[:, None]
    most = x.masked_fill(~known, float("-inf")).amax(dim=2)
    return torch.cat([averaged(x, there), torch.where(known.any(dim=2), most, 0.0)], dim=1)


def pooled(out: Any, there: Bool[Tensor, "b t"]) -> Tensor:
    """The vector of an own network: [b d], or [b d t], averaged over what has a value if its steps are the view's."""
    if isinstance(out, Tensor) and out.ndim == 2:
        return out
    if isinstance(out, Tensor) and out.ndim == 3:
        return averaged(out, there) if out.shape[2] == there.shape[1] else out.mean(dim=2)
    given = f"a tensor of shape {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
    raise UserError(f"the network gives {given}; an encoder of series needs [b d] or [b d t].")


# Making and keeping --------------------------------------------------------------------------------------------------


def make_encoder(name: str, size: int, stats: Any, weights: str | None = None) -> SignalEncoder:
    """A new encoder for series of `size` steps with the channels and the normalisation of `stats`.

    `name`: resnet, resnet18 or dilated, also narrower or wider ("resnet@0.5"); vit_nano, vit_micro, vit_tiny or
    vit_small, also with a patch ("vit_tiny_patch8"); "package.module:factory" for a network of the user's own, called
    without arguments. `weights` is a local file, the encoder.safetensors of such an encoder. Others are drawn from
    torch's global generator.
    """
    return _fresh(network(name, size, stats.channels), name, ":" in name, size, stats, weights)


def own_encoder(module: nn.Module, size: int, stats: Any, weights: str | None = None) -> SignalEncoder:
    """An encoder around a module that maps [b c t], normalised, zeros where missing, to [b d] or [b d t]."""
    return _fresh(module, type(module).__qualname__, True, size, stats, weights)


def _fresh(trunk: nn.Module, name: str, own: bool, size: int, stats: Stats, weights: str | None) -> SignalEncoder:
    spec: dict[str, Any] = {
        "modality": "signal",
        "name": name,
        "own": own,
        "size": size,
        "channels": stats.channels,
        "norm": "batch",
        "stats": stats.model_dump(mode="json"),
        "dim": 0,
    }
    encoder = SignalEncoder(trunk, spec)
    spec["dim"] = encoder.dim = _width(encoder)
    if weights is not None:
        spec["weights"] = _load_weights(encoder, Path(weights))
    return encoder


def _width(encoder: SignalEncoder) -> int:
    """The width of its vector, found by running zeros. Modes, buffers and random states stay as they are."""
    size, channels, name = encoder.spec["size"], encoder.spec["channels"], encoder.spec["name"]
    buffers = {key: value.clone() for key, value in encoder.named_buffers()}
    try:
        with torch.no_grad(), at_rest(encoder), torch.random.fork_rng(devices=[]):
            return encoder(encoder._zeros()).shape[1]
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise UserError(f"{name}: {error}") from None
        raise UserError(f"{name} cannot run on {channels} channels of {size} steps: {error}") from error
    finally:
        for key, value in encoder.named_buffers():
            value.copy_(buffers[key])


def _load_weights(encoder: SignalEncoder, file: Path) -> dict[str, Any]:
    """Take the network's weights from a file; the normalisation stays that of the data."""
    state = {key: value for key, value in tensors(file).items() if key not in ("mean", "std")}
    try:
        lost, more = encoder.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{file} is of another network: {' '.join(str(error).split())[:200]}") from None
    odd = [key for key in (*lost, *more) if key not in ("mean", "std")]
    if odd:
        raise UserError(f"{file} is of another network than {encoder.spec['name']}: {', '.join(odd[:3])} ...")
    return {"file": str(file), "tensors": len(state)}


def build_encoder(spec: dict[str, Any], module: nn.Module | None = None) -> SignalEncoder:
    """The encoder that `spec` describes, weights not loaded. `module` is needed where an own one was given so.

    An own network is made by importing and calling the factory that `spec["name"]` names.
    """
    try:
        plan = Spec.model_validate(spec)
    except ValidationError as error:
        reason = str(error).replace("\n", " ")
        raise UserError(f"this is not the description of an encoder of series: {reason}") from None
    if not plan.own and ":" in plan.name:
        raise UserError(f"{plan.name} is no network of this package: do not trust this file.")
    module = encoders.rebuilt(plan.name, plan.own, module, lambda: network(plan.name, plan.size, plan.stats.channels))
    if plan.norm == "group":
        use_group_norm(module)
    encoder = SignalEncoder(module, dict(spec))
    dim = _width(encoder)
    if dim != plan.dim:
        raise UserError(
            f"the encoder was saved with width {plan.dim}, but {plan.name} has {dim}. Use the same network."
        )
    return encoder


def save_encoder(encoder: SignalEncoder, folder: str | Path) -> None:
    """Write encoder.safetensors and encoder.json. A crash leaves the old files or the new ones, whole."""
    encoders.save(encoder, folder)


def load_encoder(folder: str | Path, module: nn.Module | None = None) -> SignalEncoder:
    """Read what `save_encoder` wrote, in eval mode on the CPU. Outputs are equal to the bit.

    An own encoder imports and calls the factory that encoder.json names: such a folder must be trusted.
    """
    return encoders.load(folder, lambda spec: build_encoder(spec, module))
