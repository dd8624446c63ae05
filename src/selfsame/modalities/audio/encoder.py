"""Audio encoders: a front end, the normalisation of what it gives, and a network; from waveforms to vectors.

Raises: UserError on unknown names, sizes a network cannot take, wrongly scaled or shaped sound, and weights or saved
encoders that do not fit; TypeError where a network has no maps or tokens.
"""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, ValidationError
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from selfsame.errors import UserError
from selfsame.modalities.audio import front
from selfsame.modalities.audio.networks import BYOLA, Waves, check_saved, over_time, resolve, trunk_of
from selfsame.modalities.audio.reading import Stats
from selfsame.nn.norm import at_rest, use_group_norm
from selfsame.nn.vit import PatchTokens
from selfsame.records import Record
from selfsame.storage import encoders
from selfsame.storage.weights import fitting, tensors

__all__ = ["AudioEncoder", "build_encoder", "load_encoder", "make_encoder", "own_encoder", "save_encoder"]

LOUDEST, QUIETEST = 40.0, math.log(front.FLOOR) - 2  # natural logarithms of power that no spectrogram here leaves
PIECES = 4  # lengths of a piece in a view


class Spec(Record):
    """What encoder.json must hold. Other keys are let through."""

    model_config = ConfigDict(extra="ignore")

    modality: Literal["audio"]
    front: Literal["logmel", "stft", "mfcc", "wave"]
    library: Literal["timm", "audio", "own"]
    name: str
    """of the network; of an own one, "package.module:factory" or the class of the given module"""
    size: int
    """samples of a full view"""
    options: dict[str, Any]
    """arguments of the constructor, of those that `networks.OPTIONS` lists"""
    norm: Literal["batch", "group"]
    stats: Stats
    dim: int
    pool: Literal["own", "tokens"] = "own"
    """the vector: what the network makes of it, or the mean of its patch tokens"""


class AudioEncoder(PatchTokens):
    """A network, its front end, and the normalisation of the recordings it was made for.

    Takes waveforms [b t] at the rate of its statistics: int16 as stored, or floats in [-1, 1]; on the front ends logmel
    and mfcc also log-mel spectrograms [b mels frames] as `make_views` gives them, which are not normalised. In eval
    mode floats on another scale raise UserError (on an accelerator only the first batch is looked at, as looking waits
    for the device). A transformer sees a view longer than it was made for window by window and gives the mean.
    """

    def __init__(self, trunk: nn.Module, spec: dict[str, Any]) -> None:
        super().__init__()
        self.trunk = trunk
        self.spec = spec
        self.dim = spec["dim"]
        self.stats = Stats.model_validate(spec["stats"])
        mean, std = normalisation(spec["front"], self.stats)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.looked = False

    mean: Tensor
    std: Tensor

    def forward(self, view: Tensor) -> Float[Tensor, "b d"]:
        x = self.normalised(view)
        if not isinstance(self.trunk, VisionTransformer):
            return self.vector(x)
        return self.by_windows(x)

    def vector(self, x: Tensor) -> Float[Tensor, "b d"]:
        """Of what the trunk sees."""
        trunk: Any = self.trunk
        if isinstance(trunk, TimmResNet):
            return over_time(trunk.forward_features(x))
        if isinstance(trunk, VisionTransformer):
            tokens = trunk.forward_features(x)
            averages = tokens[:, trunk.num_prefix_tokens :].mean(dim=1) if self.averages else None
            return trunk.forward_head(tokens, pre_logits=True) if averages is None else averages
        return _pooled(trunk(x))

    def by_windows(self, x: Float[Tensor, "b 1 f t"]) -> Float[Tensor, "b d"]:
        """The mean of the vectors of as many windows, evenly laid, as cover the view."""
        full = self.spec["options"]["img_size"][1] if "img_size" in self.spec["options"] else x.shape[3]
        count = -(-x.shape[3] // full)
        if count == 1:
            return self.vector(x)
        starts = torch.linspace(0, x.shape[3] - full, count).round().long().tolist()
        windows = torch.cat([x[..., start : start + full] for start in starts])
        return self.vector(windows).unflatten(0, (count, len(x))).mean(dim=0)

    def normalised(self, view: Tensor) -> Tensor:
        """What the trunk sees: [b 1 rows frames], or [b 1 t] of raw waves; mean 0 and standard deviation 1."""
        self._check(view)
        kind, same = self.spec["front"], self.stats.loudness == "same"
        if view.ndim == 2:
            wave = front.scaled(view)
            if kind == "wave":
                x = self.stats.level * front.unit(wave) if same else wave
            elif kind == "stft":
                x = front.log_power(wave, self.stats)
            else:
                x = front.log_mel(wave, self.stats)
        else:
            x = view
        if same and kind != "wave":
            x = front.levelled(x)
        if kind == "mfcc":
            x = front.cepstrum(x)
        x = ((x - self.mean) / self.std).to(self.mean.dtype)[:, None]
        if isinstance(self.trunk, VisionTransformer):  # what is missing of the last column of patches is the mean level
            x = nn.functional.pad(x, (0, -x.shape[3] % self.patch[1]))
        return x

    # Maps --------------------------------------------------------------------------------------------------------

    @property
    def has_maps(self) -> bool:
        """Whether `maps` gives something; of an own network found by running silence."""
        if self.spec["library"] != "own":
            return isinstance(self.trunk, TimmResNet | VisionTransformer | BYOLA | Waves) or hasattr(
                self.trunk, "forward_intermediates"
            )
        return callable(getattr(self.trunk, "maps", None))

    def maps(self, view: Tensor) -> list[Tensor]:
        """Dense features, fine to coarse: [b c f t], of raw waves [b c t]."""
        return self.with_maps(view)[1]

    def with_maps(self, view: Tensor) -> tuple[Float[Tensor, "b d"], list[Tensor]]:
        """The vector and the last map of each resolution; in one pass where the network is known."""
        if not self.has_maps:
            raise TypeError(
                f"{self.spec['name']} has no maps. Give it a method maps(x) that returns its dense features, fine to "
                "coarse."
            )
        trunk: Any = self.trunk
        x = self.normalised(view)
        if isinstance(self.trunk, BYOLA | Waves):
            maps = trunk.maps(x)
            return trunk.of_maps(maps), maps
        if isinstance(self.trunk, TimmResNet):
            maps = []
            x = trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(x))))
            for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
                x = layer(x)
                maps.append(x)
            return over_time(x), maps
        if isinstance(self.trunk, VisionTransformer):
            vector, tokens = self.both(view)
            return vector, [tokens.transpose(1, 2).unflatten(2, self.grid(view))]
        if self.spec["library"] == "own":
            return self.vector(x), trunk.maps(x)
        return self.vector(x), trunk.forward_intermediates(x, intermediates_only=True, output_fmt="NCHW")

    @property
    def map_widths(self) -> tuple[int, ...]:
        """The channels of each of `maps`, found by running silence. TypeError where there are none."""
        with torch.no_grad(), at_rest(self):
            silence = torch.zeros(2, self.spec["size"], dtype=torch.int16, device=self.mean.device)
            return tuple(one.shape[1] for one in self.maps(silence))

    # Tokens: those of PatchTokens, rows are bands from the lowest on, columns follow in time -----------------------

    def grid(self, view: Tensor) -> tuple[int, ...]:
        """Bands and columns of the patches."""
        self.need_tokens()
        frames = front.frames_of(view.shape[1], self.stats.hop) if view.ndim == 2 else view.shape[2]
        return rows_of(self.spec["front"], self.stats) // self.patch[0], -(-frames // self.patch[1])

    def need_tokens(self) -> None:
        if not self.has_tokens:
            raise TypeError(
                f"{self.spec['name']} has no tokens. Choose a vision transformer, such as vit_tiny_patch16."
            )

    # Pieces ------------------------------------------------------------------------------------------------------

    piece_axes = 1  # pieces follow each other in time

    @property
    def has_pieces(self) -> bool:
        """Whether the network takes pieces of a view, which are shorter."""
        return True

    def pieces(self, view: Tensor) -> Float[Tensor, "b k *view"]:
        """Pieces of a quarter of the length, each half over the next, in the order of time: [b 7 ...]."""
        length = view.shape[-1] // PIECES
        if length < (2 * self.stats.hop if view.ndim == 2 else 4):
            raise UserError(f"views of {view.shape[-1]} are too short to cut into pieces; give longer ones.")
        return view.unfold(view.ndim - 1, length, length // 2).movedim(-2, 1)

    def use_group_norm(self) -> None:
        """Replace batch norm by group norm with weight standardisation. UserError where there is no batch norm."""
        use_group_norm(self.trunk)
        self.spec["norm"] = "group"

    def _check(self, view: Tensor) -> None:
        shape, stats, kind = list(view.shape), self.stats, self.spec["front"]
        accepted = f"waveforms [b, samples] at {stats.rate} Hz"
        if kind in ("logmel", "mfcc"):
            accepted += f", or log-mel spectrograms [b, {stats.mels}, frames]"
        if view.ndim == 3 and view.shape[1] == 1:
            raise UserError(
                f"got sound of shape {shape}; accepted are {accepted}. Leave out the channel axis: x[:, 0]."
            )
        if view.ndim == 1:
            raise UserError(f"got sound of shape {shape}; accepted are {accepted}. Add the batch axis with x[None].")
        if view.ndim == 3 and kind in ("stft", "wave"):
            raise UserError(
                f"got spectrograms of shape {shape}; {kind}/{self.spec['name']} takes {accepted}. Choose views that "
                "are waveforms, as with --views wave, or an encoder on log-mel spectrograms."
            )
        if view.ndim not in (2, 3) or (view.ndim == 3 and view.shape[1] != stats.mels) or not view.shape[-1]:
            raise UserError(f"got sound of shape {shape}; accepted are {accepted}.")
        if not (view.is_floating_point() or (view.dtype == torch.int16 and view.ndim == 2)):
            raise UserError(f"got sound of {view.dtype}; accepted are int16 as stored, or floats with full scale 1.")
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return
        if self.training or not view.is_floating_point() or not view.numel() or (self.looked and not view.is_cpu):
            return
        self.looked = True
        low, high = (float(value) for value in view.detach().aminmax())
        if view.ndim == 2 and max(high, -low) > 8:
            raise UserError(
                f"got float samples up to {max(high, -low):.4g}; full scale is 1. This looks like stored 16 bits as "
                "floats: divide by 32768 or pass int16."
            )
        if view.ndim == 3 and (low < QUIETEST or high > LOUDEST):
            raise UserError(
                f"got a spectrogram from {low:.4g} to {high:.4g}; accepted are natural logarithms of power, as "
                "make_views gives them. Pass the waveform instead: the encoder makes the spectrogram by itself."
            )


def rows_of(kind: str, stats: Stats) -> int:
    """Of the spectrogram that a front end makes."""
    return {"logmel": stats.mels, "stft": front.fft_size(stats.frame) // 2, "mfcc": front.coefficients(stats.mels)}.get(
        kind, 1
    )


def normalisation(kind: str, stats: Stats) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what a front end gives: scalars, of cepstra [c 1].

    At one loudness the mean of a view is 0 already, and of cepstra that of the first, which is the loudness.
    """
    same = stats.loudness == "same"
    if kind == "mfcc":
        mean = torch.tensor([0.0 if same else stats.mfcc_mean[0], *stats.mfcc_mean[1:]])
        return mean[:, None], torch.tensor(stats.mfcc_std)[:, None]
    if same and kind != "wave":
        return torch.tensor(0.0), torch.tensor(stats.std if kind == "logmel" else stats.stft_std)
    level, std = {
        "logmel": (stats.mean, stats.std),
        "stft": (stats.stft_mean, stats.stft_std),
        "wave": (0.0, stats.level),
    }[kind]
    return torch.tensor(level), torch.tensor(std)


def make_encoder(name: str, size: int, stats: Stats, weights: str | None = None) -> AudioEncoder:
    """A new encoder for views of `size` samples of the recordings that `stats` describes.

    `name`: a network of timm on log-mel spectrograms: a residual net, also narrower ("resnet18", "resnet18@0.25"), a
    vision transformer with the patch's side or sides, bands by frames ("vit_tiny_patch16", "vit_tiny_patch64x2");
    BYOL-A's own network ("byola", d = 2048; "byola@0.25"); the same on other spectrograms with "stft/" or "mfcc/"
    before the name; "wave/resnet10" and "wave/resnet18" on raw waves; "package.module:factory" for a network of the
    user's own on [b 1 mels frames]. `weights` is a local .safetensors of the same network. Other weights are drawn
    from torch's global generator.
    """
    kind = "logmel" if ":" in name or "/" not in name else name.partition("/")[0]
    frames = front.frames_of(size, stats.hop)
    kind, library, bare, options = resolve(name, rows_of(kind, stats), frames)
    trunk = trunk_of(library, kind, bare, options)
    return _fresh(trunk, kind, library, bare, options, size, stats, weights)


def own_encoder(module: nn.Module, size: int, stats: Stats, weights: str | None = None) -> AudioEncoder:
    """An encoder around a module that maps log-mel spectrograms [b 1 mels frames] to [b d], [b n d] or [b d f t].

    The latter two are averaged, over time as `over_time` does.
    """
    return _fresh(module, "logmel", "own", type(module).__qualname__, {}, size, stats, weights)


def build_encoder(spec: dict[str, Any], module: nn.Module | None = None) -> AudioEncoder:
    """The encoder that `spec` describes, weights not loaded. `module` is needed where an own one was given so.

    A network of library "own" is made by importing and calling the factory that `spec["name"]` names.
    """
    try:
        plan = Spec.model_validate(spec)
    except ValidationError as error:
        reason = str(error).replace("\n", " ")
        raise UserError(f"this is not the description of an audio encoder: {reason}") from None
    if module is None:
        check_saved(plan.library, plan.name, plan.options)
    module = encoders.rebuilt(
        plan.name,
        plan.library == "own",
        module,
        lambda: trunk_of(plan.library, plan.front, plan.name, plan.options),
    )
    if plan.norm == "group":
        use_group_norm(module)
    encoder = AudioEncoder(module, dict(spec))
    dim = _width(encoder, plan.name)
    if dim != plan.dim:
        raise UserError(
            f"the encoder was saved with width {plan.dim}, but {plan.name} has {dim}. Use the same network."
        )
    return encoder


def save_encoder(encoder: AudioEncoder, folder: str | Path) -> None:
    """Write encoder.safetensors and encoder.json, each whole or not at all."""
    encoders.save(encoder, folder)


def load_encoder(folder: str | Path, module: nn.Module | None = None) -> AudioEncoder:
    """Read what `save_encoder` wrote, in eval mode on the CPU. Outputs are equal to the bit.

    An encoder of library "own" imports and calls the factory that encoder.json names: such a folder must be trusted.
    """
    return encoders.load(folder, lambda spec: build_encoder(spec, module))


def _fresh(
    trunk: nn.Module,
    kind: str,
    library: str,
    name: str,
    options: dict[str, Any],
    size: int,
    stats: Stats,
    weights: str | None,
) -> AudioEncoder:
    spec: dict[str, Any] = {
        "modality": "audio",
        "front": kind,
        "library": library,
        "name": name,
        "size": size,
        "options": options,
        "norm": "batch",
        "stats": stats.model_dump(mode="json"),
        "dim": 1,
    }
    encoder = AudioEncoder(trunk, spec)
    encoder.dim = spec["dim"] = _width(encoder, name)
    if weights is not None:
        spec["weights"] = load_weights(encoder, Path(weights))
    return encoder


def load_weights(encoder: AudioEncoder, file: Path) -> dict[str, Any]:
    """Fill the network from a file of tensors of the same network; names may begin with "trunk." as in a run's file."""
    own = encoder.trunk.state_dict()
    fits = fitting({name.removeprefix("trunk."): value for name, value in tensors(file).items()}, own, file)
    encoder.trunk.load_state_dict(fits, strict=False)
    return {"file": str(file), "loaded": len(fits), "of": len(own)}


def _width(encoder: AudioEncoder, name: str) -> int:
    """The width of its vector, found by running silence. Modes, buffers and random states stay as they are."""
    size = encoder.spec["size"]
    try:
        with torch.no_grad(), at_rest(encoder):
            silence = torch.zeros(2, size, dtype=torch.int16, device=encoder.mean.device)
            return encoder(silence).shape[1]
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise UserError(f"{name}: {error}") from None
        raise UserError(f"{name} cannot run on views of {size} samples: {error}") from error


def _pooled(out: Any) -> Tensor:
    if isinstance(out, Tensor):
        if out.ndim == 2:
            return out
        if out.ndim == 3:  # [b n d]
            return out.mean(dim=1)
        if out.ndim == 4:  # [b d f t]
            return over_time(out)
    given = f"a tensor of shape {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
    raise UserError(f"the network gives {given}; an encoder needs [b d], [b n d] or [b d f t].")
