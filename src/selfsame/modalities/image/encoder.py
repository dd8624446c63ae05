"""Image encoders: any timm or torchvision network, or one of the user's own, with its normalisation inside.

Raises: UserError on unknown names, sizes a network cannot take, wrongly scaled or shaped images, and weights or
saved encoders that do not fit; TypeError where a network has no maps or tokens.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, ValidationError
from timm.layers import PatchEmbed
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from torchvision.models import ResNet, SwinTransformer, VisionTransformer
from torchvision.ops.misc import Permute

from selfsame.errors import UserError, unknown
from selfsame.modalities.image.networks import check_patches, check_saved, library_trunk, resolve, small_stem
from selfsame.modalities.image.views import WHOLE
from selfsame.modalities.image.weights import HEADS, load_weights
from selfsame.nn.fused.when import passes, work_dtype
from selfsame.nn.norm import at_rest, use_group_norm
from selfsame.nn.vit import PatchTokens, caught
from selfsame.records import Record
from selfsame.storage import encoders

SMALL = 64  # pixels up to which residual nets get the small stem
CONTAINERS = {"features", "blocks", "stages", "layers", "trunk_output", "encoder"}  # whose children are the stages
STATS = ("items", "channels", "bits", "white", "mean", "std", "height", "width", "uniform")


class Scale(Record):
    """The statistics that the normalisation uses. Other keys are let through."""

    model_config = ConfigDict(extra="ignore")

    white: int
    """stored value that becomes 1.0"""
    mean: tuple[float, ...]
    """of each channel, on the [0, 1] scale"""
    std: tuple[float, ...]
    """of each channel, on the [0, 1] scale"""


class Spec(Record):
    """What encoder.json must hold. Other keys are let through."""

    model_config = ConfigDict(extra="ignore")

    modality: Literal["image"]
    library: Literal["timm", "torchvision", "own"]
    name: str
    """of the network; of an own one, "package.module:factory" or the class of the given module"""
    size: int
    channels: int
    options: dict[str, Any]
    """arguments of the library's constructor, of those that `networks.OPTIONS` lists"""
    small_stem: bool
    norm: Literal["batch", "group"]
    stats: Scale
    dim: int
    pool: Literal["own", "tokens"] = "own"
    """the vector: what the network makes of it, or the mean of its patch tokens"""


class ImageEncoder(PatchTokens):
    """A network and the normalisation of the images it was made for.

    Takes batches [b c h w] by torchvision's pixel convention: integers are stored values (`white` is 1.0), floats
    lie in [0, 1]. In eval mode floats on another scale raise UserError (on an accelerator only the first batch is
    looked at, as looking waits for the device).
    """

    limits = (0.0, 1.0)
    mean: Tensor
    std: Tensor
    white: Tensor

    def __init__(self, trunk: nn.Module, spec: dict[str, Any]) -> None:
        super().__init__()
        self.trunk = trunk
        self.spec = spec
        self.dim = spec["dim"]
        stats = spec["stats"]
        self.register_buffer("mean", torch.tensor(stats["mean"], dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(stats["std"], dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("white", torch.tensor(float(stats["white"])))
        self.looked = False

    def forward(self, view: Tensor) -> Float[Tensor, "b d"]:
        if self.averages:
            return self.both(view)[0]
        return _pooled(self.trunk(self.normalised(view)))

    def normalised(self, view: Tensor) -> Float[Tensor, "b c h w"]:
        """What the trunk sees: (pixels - mean) / std, pixels on the [0, 1] scale."""
        self._check(view)
        pixels = view
        if not view.is_floating_point():
            # 8-bit images look the same beside deeper ones: 255 is white, whatever the data's own white is.
            pixels = view.float() / (255.0 if view.dtype == torch.uint8 else self.white.float())
        half = pixels.device.type == "cuda" and torch.is_autocast_enabled("cuda")
        if half and self.__dict__.get("fused", False) and not pixels.requires_grad:
            slope = 1 / self.std.flatten()
            return passes(pixels).scaled(pixels, slope, -self.mean.flatten() * slope, work_dtype(pixels))
        # One pass over the pixels: on a processor it costs half of a subtraction and a division.
        return torch.addcmul(-self.mean / self.std, pixels, 1 / self.std).to(self.mean.dtype)

    def maps(self, view: Tensor) -> list[Tensor]:
        """Dense features, fine to coarse: the last map [b c h w] of each resolution.

        A plain vision transformer gives one, its patch tokens after the final norm. An own network gives the
        outputs of its top-level parts, or what its own method `maps(x)` returns. TypeError where there are none.
        """
        images = self.normalised(view)
        trunk: Any = self.trunk
        if isinstance(trunk, VisionTransformer):
            tokens = self.all_tokens(images, None, None)[:, 1:].transpose(1, 2)
            found = [tokens.unflatten(2, tuple(length // trunk.patch_size for length in images.shape[2:]))]
        elif hasattr(trunk, "forward_intermediates"):  # timm
            final = {"norm": True} if isinstance(trunk, TimmViT) else {}
            found = trunk.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW", **final)
        elif callable(getattr(trunk, "maps", None)):
            found = trunk.maps(images)
        else:
            found = self._stage_maps(images)
        if not found:
            raise TypeError(
                f"{self.spec['name']} has no maps: none of its top-level parts gives [b c h w]. "
                "Give it a method maps(x) that returns its dense features, fine to coarse."
            )
        return _last_of_each(found)

    def with_maps(self, view: Tensor) -> tuple[Float[Tensor, "b d"], list[Tensor]]:
        """The vector and what `maps` gives: in one pass for residual nets, else in two."""
        if not isinstance(self.trunk, TimmResNet | ResNet):
            return super().with_maps(view)
        parts = dict(self.trunk.named_modules())
        stem = "act1" if isinstance(self.trunk, TimmResNet) else "relu"
        with caught([parts[name] for name in (stem, "layer1", "layer2", "layer3", "layer4")]) as maps:
            vector = self(view)
        return vector, _last_of_each(maps)

    def _stage_maps(self, images: Tensor) -> list[Tensor]:
        parts = dict(self.trunk.named_modules())
        stages: list[str] = []
        for name in self.stages:
            if isinstance(parts[name], nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) or HEADS.match(f"{name}."):
                break  # the head follows
            if not isinstance(parts[name], Permute):
                stages.append(name)
        with caught([parts[name] for name in stages]) as outputs:
            self.trunk(images)
        maps = [value for value in outputs if isinstance(value, Tensor) and value.ndim == 4]
        if isinstance(self.trunk, SwinTransformer):  # channels last inside
            maps = [value.permute(0, 3, 1, 2) for value in maps]
        return maps

    @property
    def has_maps(self) -> bool:
        """Whether `maps` gives something, found by running zeros; True of known networks without a try."""
        if self.spec["library"] != "own":
            return True
        try:
            return bool(self.map_widths)
        except (TypeError, UserError):
            return False

    @property
    def crop(self) -> float:
        """Share of the short side of a picture that a plain view shows: the middle square of that size.

        Pictures that have the size of a view are seen whole.
        """
        return WHOLE if self.spec["size"] > SMALL else 1.0

    @property
    def map_widths(self) -> tuple[int, ...]:
        """The channels of each of `maps`, found by running zeros. TypeError where there are none."""
        size = self.spec["size"]
        with torch.no_grad(), at_rest(self):
            zeros = torch.zeros(2, self.spec["channels"], size, size, dtype=self.mean.dtype, device=self.mean.device)
            return tuple(one.shape[1] for one in self.maps(zeros))

    @property
    def has_pieces(self) -> bool:
        """Whether the network takes pieces of a view, which are smaller."""
        return _only_size(self.trunk) is None

    def pieces(self, view: Tensor) -> Float[Tensor, "b rows columns c s s"]:
        """Square pieces of a quarter of the side, each half over the next: 7 x 7, as in CPC (arXiv 1807.03748)."""
        side = view.shape[-1] // 4
        if side < 4:
            raise UserError(f"views of {view.shape[-1]} px are too small to cut into pieces; give 16 px or more.")
        return view.unfold(2, side, side // 2).unfold(3, side, side // 2).permute(0, 2, 3, 1, 4, 5)

    @property
    def stages(self) -> list[str]:
        """Names of the network's top-level parts, input to output, for `stage`."""
        return list(_stages(self.trunk))

    def stage(self, view: Tensor, stage: str | int) -> Tensor:
        """What the trunk's part `stage` gives: a name or number of `stages`, or the dotted name of any submodule."""
        if isinstance(stage, int):
            if not -len(self.stages) <= stage < len(self.stages):
                raise UserError(f"no stage {stage}: {self.spec['name']} has {len(self.stages)}, counted from 0.")
            stage = self.stages[stage]
        parts = dict(self.trunk.named_modules())
        if stage not in parts:
            raise unknown("stage", stage, self.stages)
        with caught([parts[stage]], copy=True) as outputs:
            self.trunk(self.normalised(view))
        if not outputs or not isinstance(outputs[-1], Tensor):
            raise UserError(
                f"stage {stage!r} of {self.spec['name']} gives no tensor. Stages: {', '.join(self.stages)}."
            )
        return outputs[-1]

    def use_group_norm(self) -> None:
        """Replace batch norm by group norm with weight standardisation. UserError where there is no batch norm."""
        use_group_norm(self.trunk)
        self.spec["norm"] = "group"

    def _check(self, view: Tensor) -> None:
        channels, shape = self.spec["channels"], list(view.shape)
        if view.ndim != 4:
            advice = " It looks like one image: add the batch axis with x[None]." if view.ndim == 3 else ""
            raise UserError(f"got images of shape {shape}; accepted is a batch [b, {channels}, h, w].{advice}")
        if view.shape[1] != channels:
            last = " It looks like channels last: use x.permute(0, 3, 1, 2)." if view.shape[3] == channels else ""
            raise UserError(
                f"got images of {view.shape[1]} channels (shape {shape}); the encoder takes {channels}: "
                f"[b, {channels}, h, w].{last}"
            )
        if view.dtype == torch.bool or view.is_complex():
            raise UserError(f"got images of {view.dtype}; accepted are integers, or floats in [0, 1].")
        if torch.compiler.is_compiling():
            return
        size = _only_size(self.trunk)
        if size is not None and tuple(view.shape[2:]) != size:
            raise UserError(
                f"got images of {view.shape[2]}x{view.shape[3]} px; {self.spec['name']} was made for "
                f"{size[0]}x{size[1]} px and takes no other size. Resize the images."
            )
        if self.has_tokens:
            rest = [length % side for length, side in zip(view.shape[2:], self.patch, strict=True)]
            if any(rest):
                raise UserError(
                    f"got images of {view.shape[2]}x{view.shape[3]} px; {self.spec['name']} divides them into "
                    f"patches of {self.patch[0]}x{self.patch[1]} px. Give multiples of that."
                )
        if self.training or not view.is_floating_point() or not view.numel() or (self.looked and not view.is_cpu):
            return
        self.looked = True
        low, high = (float(value) for value in view.detach().aminmax())
        if high > 1.5:
            raise UserError(
                f"got float pixels up to {high:.4g}; accepted are [0, 1]. "
                "This looks like 0..255 floats: divide by 255 or pass uint8."
            )
        if low < -0.1:
            raise UserError(
                f"got float pixels down to {low:.4g}; accepted are [0, 1]. "
                "This looks already normalised; the encoder normalises by itself."
            )


def make_encoder(name: str, size: int, stats: Any, weights: str | None = None) -> ImageEncoder:
    """A new encoder for images of `size` x `size` px with the channels and normalisation of `stats`.

    `name`: a model of timm ("resnet50"; of a ViT also with another patch, "vit_tiny_patch4_32", and another width and
    number of blocks, "vit_tiny_patch4_32@128x6"; of a residual net also narrower or wider, "resnet18@0.5"); a
    classification model of torchvision ("torchvision/resnet50", or the bare name
    where timm has none); "package.module:factory", called without arguments, for a network of the user's own. Nothing
    is downloaded: `weights` is a local file, .safetensors or .pt/.pth of tensors, and what was taken from it stands in
    `spec["weights"]`. Other weights are drawn from torch's global generator. Residual nets for up to 64 px get a 3x3
    stem without stride or pooling.
    """
    library, name, options = resolve(name, size)
    try:
        trunk = library_trunk(library, name, stats.channels, options)
    except UserError as error:
        if "img_size" not in options or not isinstance(error.__cause__, TypeError):
            raise
        del options["img_size"]  # convolutional: takes any size
        trunk = library_trunk(library, name, stats.channels, options)
    return _fresh(trunk, library, name, options, size, stats, weights)


def own_encoder(module: nn.Module, size: int, stats: Any, weights: str | None = None) -> ImageEncoder:
    """An encoder around a module that maps [b c h w] to [b d], [b n d] or [b d h w] (the latter two are averaged)."""
    return _fresh(module, "own", type(module).__qualname__, {}, size, stats, weights)


def build_encoder(spec: dict[str, Any], module: nn.Module | None = None) -> ImageEncoder:
    """The encoder that `spec` describes, weights not loaded. `module` is needed where an own one was given so.

    A network of library "own" is made by importing and calling the factory that `spec["name"]` names.
    """
    try:
        plan = Spec.model_validate(spec)
    except ValidationError as error:
        reason = str(error).replace("\n", " ")
        raise UserError(f"this is not the description of an image encoder: {reason}") from None
    if module is None:
        check_saved(plan.library, plan.name, plan.options)
    module = encoders.rebuilt(
        plan.name,
        plan.library == "own",
        module,
        lambda: library_trunk(plan.library, plan.name, plan.channels, plan.options),
    )
    if plan.small_stem:
        small_stem(module)
    if plan.norm == "group":
        use_group_norm(module)
    dim = _width(module, plan.name, plan.size, plan.channels)
    if dim != plan.dim:
        raise UserError(
            f"the encoder was saved with width {plan.dim}, but {plan.name} has {dim}. Use the same network."
        )
    return ImageEncoder(module, dict(spec))


def save_encoder(encoder: ImageEncoder, folder: str | Path) -> None:
    """Write encoder.safetensors and encoder.json, each whole or not at all."""
    encoders.save(encoder, folder)


def load_encoder(folder: str | Path, module: nn.Module | None = None) -> ImageEncoder:
    """Read what `save_encoder` wrote, in eval mode on the CPU. Outputs are equal to the bit.

    An encoder of library "own" imports and calls the factory that encoder.json names: such a folder must be trusted.
    Networks of timm and torchvision are made with the options of `networks.OPTIONS` alone, and run no code of the
    folder.
    """
    return encoders.load(folder, lambda spec: build_encoder(spec, module))


def _fresh(
    trunk: nn.Module, library: str, name: str, options: dict[str, Any], size: int, stats: Any, weights: str | None
) -> ImageEncoder:
    small = library != "own" and size <= SMALL and isinstance(trunk, TimmResNet | ResNet)
    if small:
        small_stem(trunk)
    check_patches(trunk, name, size)
    spec: dict[str, Any] = {
        "modality": "image",
        "library": library,
        "name": name,
        "size": size,
        "channels": stats.channels,
        "options": options,
        "small_stem": small,
        "norm": "batch",
        "stats": {key: _plain(getattr(stats, key)) for key in STATS},
        "dim": _width(trunk, name, size, stats.channels),
    }
    if weights is not None:
        spec["weights"] = load_weights(trunk, Path(weights), stats.channels)
    return ImageEncoder(trunk, spec)


def _plain(value: Any) -> Any:
    return [float(number) for number in value] if isinstance(value, tuple | list) else value


def _only_size(trunk: nn.Module) -> tuple[int, int] | None:
    """Height and width of the only images that the network takes; None where it takes many."""
    if isinstance(trunk, VisionTransformer):
        return trunk.image_size, trunk.image_size
    embed = getattr(trunk, "patch_embed", None)
    if isinstance(embed, PatchEmbed) and embed.strict_img_size and embed.img_size is not None:
        return embed.img_size[0], embed.img_size[1]
    return None


def _width(trunk: nn.Module, name: str, size: int, channels: int) -> int:
    """The width of its vector, found by running zeros. Modes, buffers and random states stay as they are."""
    modes = [(part, part.training) for part in trunk.modules()]
    device = next((tensor.device for tensor in trunk.parameters()), torch.device("cpu"))
    trunk.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return _pooled(trunk(torch.zeros(2, channels, size, size, device=device))).shape[1]
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise UserError(f"{name}: {error}") from None
        raise UserError(f"{name} cannot run on {channels} channels of {size}x{size} px: {error}") from error
    finally:
        for part, mode in modes:
            part.training = mode


def _pooled(out: Any) -> Tensor:
    if isinstance(out, Tensor):
        if out.ndim == 2:
            return out
        if out.ndim == 3:  # [b n d]
            return out.mean(dim=1)
        if out.ndim == 4:  # [b d h w]
            return out.mean(dim=(2, 3))
    given = f"a tensor of shape {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
    raise UserError(f"the network gives {given}; an encoder needs [b d], [b n d] or [b d h w].")


def _last_of_each(maps: list[Tensor]) -> list[Tensor]:
    """The last map [b c h w] of each resolution."""
    coarser = [*(one.shape[2:] != two.shape[2:] for one, two in pairwise(maps)), True]
    return [one for one, last in zip(maps, coarser, strict=True) if last]


def _stages(module: nn.Module, prefix: str = "") -> Iterator[str]:
    for name, part in module.named_children():
        inside = any(True for _ in part.children())
        if inside and (name in CONTAINERS or sum(1 for _ in module.children()) == 1):
            yield from _stages(part, f"{prefix}{name}.")
        elif not isinstance(part, nn.Identity):
            yield f"{prefix}{name}"
