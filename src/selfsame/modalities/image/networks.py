"""The networks of timm and torchvision, and those of the user, by name, made into the trunk of an encoder.

Raises UserError on unknown names, and on options and sizes that a network cannot take.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import timm
import torch
import torchvision
from timm.layers import PatchEmbed
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from torchvision.models import ResNet

from selfsame.errors import UserError, unknown
from selfsame.storage.encoders import own_network

OPTIONS: dict[str, tuple[str, ...]] = {  # the constructor's arguments that `resolve` gives; files may give no others
    "timm": (
        *("img_size", "patch_size", "dynamic_img_size", "channels", "stem_width"),
        *("embed_dim", "depth", "num_heads"),
    ),
    "torchvision": ("image_size", "input_size", "aux_logits", "init_weights"),
    "own": (),
}


HEAD = 32  # channels of a head of attention, where a transformer's width is given


def resolve(name: str, size: int) -> tuple[str, str, dict[str, Any]]:
    """Library, its name for the network, and the constructor's options, which depend on the size."""
    if ":" in name:
        return "own", name, {}
    if "@" in name:
        bare, measure = name.split("@", 1)
        blocks = re.fullmatch(r"(\d+)x(\d+)", measure)
        return of_blocks(bare, size, int(blocks[1]), int(blocks[2])) if blocks else of_width(bare, measure)
    bare = name.removeprefix("torchvision/")
    models = torchvision.models.list_models(module=torchvision.models)
    if bare == name:
        patch = re.fullmatch(r"(\w*?(?:vit|deit)\w*_patch)(\d+)(_\d+)?", name)
        if timm.is_model(name):
            return "timm", name, {"img_size": size, **of_any_size(name)}
        if patch:
            for size_of_paper in ("16_224", "14_224", "32_224", "16_384", "8_224"):
                if timm.is_model(patch[1] + size_of_paper):
                    found = patch[1] + size_of_paper
                    return "timm", found, {"img_size": size, "patch_size": int(patch[2]), **of_any_size(found)}
    if bare in models:
        options: dict[str, Any] = {}
        if bare.startswith("vit_"):
            options = {"image_size": size}
        elif bare.startswith("maxvit"):
            options = {"input_size": [size, size]}
        elif bare in ("googlenet", "inception_v3"):
            options = {"aux_logits": False, "init_weights": True}
        return "torchvision", bare, options
    known = [f"torchvision/{model}" for model in models]
    if bare == name:
        known = [*timm.list_models(), *(model for model in models if not timm.is_model(model))]
    raise unknown("encoder", name, known, "A network of your own is named package.module:factory.")


def of_any_size(name: str) -> dict[str, Any]:
    """What lets a plain vision transformer take views of other sizes, its position vectors resized: for multi-crop."""
    plain = timm.models.model_entrypoint(name).__module__ == TimmViT.__module__
    return {"dynamic_img_size": True} if plain else {}


def of_width(name: str, width: str) -> tuple[str, str, dict[str, Any]]:
    """`resnet18@0.5`: a residual net of timm whose stages have that share of their channels, in multiples of eight.

    A deep stem is narrowed as well; the single 7x7 or 3x3 convolution of the others keeps its 64 channels.
    """
    if re.search("vit|deit", name):
        raise UserError(f"{name}@{width}: of a vision transformer width and blocks are given, as in {name}@128x6.")
    if not timm.is_model(name):
        raise unknown("encoder", name, timm.list_models(module="resnet"))
    if timm.models.model_entrypoint(name).__module__ != TimmResNet.__module__:
        raise UserError(f"{name}@{width}: a width is for the residual nets of timm, such as resnet18@0.5, not {name}.")
    if not re.fullmatch(r"\d*\.?\d+", width) or not 0 < float(width) <= 4:
        raise UserError(f"{name}@{width}: the width is a share of the usual, above 0 and up to 4, as in {name}@0.5.")

    def share(channels: int) -> int:
        return max(8, round(channels * float(width) / 8) * 8)

    options: dict[str, Any] = {"channels": [share(channels) for channels in (64, 128, 256, 512)]}
    with torch.device("meta"):
        usual: Any = timm.create_model(name, pretrained=False, num_classes=0)
    if isinstance(usual.conv1, nn.Sequential):
        options["stem_width"] = share(usual.bn1.num_features) // 2
    return "timm", name, options


def of_blocks(name: str, size: int, width: int, depth: int) -> tuple[str, str, dict[str, Any]]:
    """`vit_tiny_patch4_32@128x6`: a plain vision transformer of 6 blocks, 128 wide, with heads of 32 channels.

    timm's own are made for ImageNet: its smallest has 12 blocks, which is much for a processor and few small images.
    """
    library, found, options = resolve(name, size)
    if "dynamic_img_size" not in options:
        raise UserError(
            f"{name}@{width}x{depth}: width and number of blocks are for plain vision transformers of timm, such as "
            f"vit_tiny_patch4_32@128x6, not {name}. Of residual nets a share of the width is given: resnet18@0.5."
        )
    if not (0 < width <= 4096 and width % HEAD == 0 and 0 < depth <= 100):
        raise UserError(
            f"{name}@{width}x{depth}: the width is a multiple of {HEAD} up to 4096, the number of blocks 1 to 100, as "
            f"in {name}@128x6."
        )
    return library, found, {**options, "embed_dim": width, "depth": depth, "num_heads": width // HEAD}


def check_saved(library: str, name: str, options: Mapping[str, Any]) -> None:
    """Refuse, with UserError, what a file may not ask for: other arguments and names can read files and download."""
    known = {
        "timm": timm.is_model(name),
        "torchvision": name in torchvision.models.list_models(module=torchvision.models),
        "own": True,
    }
    if not known[library]:
        raise UserError(
            f"{library} of this version has no network {name!r}. Install the version that it was saved with."
        )
    for option, value in options.items():
        numbers = value if isinstance(value, list) else [value]
        if option not in OPTIONS[library] or not all(isinstance(number, int) for number in numbers):  # bool is an int
            accepted = ", ".join(OPTIONS[library]) or "none"
            raise UserError(
                f"it asks for {option}={value!r} of {library}'s {name}; accepted: {accepted}, as whole numbers or "
                "true and false. No encoder is saved with another option: do not trust this file."
            )


def library_trunk(library: str, name: str, channels: int, options: Mapping[str, Any]) -> nn.Module:
    """The network without its classifier. Draws its weights from the global generator."""
    if library == "own":
        return own_network(name)
    try:
        if library == "timm":
            trunk = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels, **options)
            open_branches(trunk)
            return trunk
        trunk = torchvision.models.get_model(name, weights=None, **options)
    except (RuntimeError, TypeError, ValueError, AssertionError, ArithmeticError) as error:
        raise UserError(f"{library} cannot make {name} for {channels} channels with {options}: {error}") from error
    for part, replacement in torchvision_changes(trunk, channels).items():
        trunk.set_submodule(part, replacement)
    for part, layer in trunk.named_modules():
        if isinstance(layer, nn.Dropout) and part.startswith(("classifier", "dropout")):
            layer.p = 0.0  # made for the classifier; here it would only blur the vector
    return trunk


def open_branches(trunk: nn.Module) -> None:
    """Start the last batch norm of each residual branch at scale 1, as BYOL's paper did (its reference README).

    timm starts it at 0, which makes deep supervised nets stable. Without labels it is slow: from 0 the network of
    examples/digits.py stayed below raw pixels in a run that passes them from 1.
    """
    for block in trunk.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            scale = (block.bn3 if isinstance(block, Bottleneck) else block.bn2).weight
            if isinstance(scale, Tensor):  # norms without scale have None
                nn.init.ones_(scale)


def torchvision_changes(trunk: nn.Module, channels: int) -> dict[str, nn.Module]:
    """What makes an encoder of a torchvision classifier: its last layer out, its first one to `channels` channels."""
    parts = dict(trunk.named_modules())
    head = [part for part, layer in parts.items() if isinstance(layer, nn.Linear) and layer.out_features == 1000]
    head += [part for part, layer in parts.items() if isinstance(layer, nn.Conv2d) and layer.out_channels == 1000]
    changes: dict[str, nn.Module] = {head[-1]: nn.Identity()}
    first = next(part for part, layer in parts.items() if isinstance(layer, nn.Conv2d))
    old: Any = parts[first]
    if channels != old.in_channels:
        new = nn.Conv2d(
            channels,
            old.out_channels,
            old.kernel_size,
            stride=old.stride,
            padding=old.padding,
            bias=old.bias is not None,
        )
        nn.init.normal_(new.weight, std=float(old.weight.detach().std()) * math.sqrt(old.in_channels / channels))
        if new.bias is not None:
            nn.init.zeros_(new.bias)
        changes[first] = new
    return changes


def small_stem(trunk: nn.Module) -> None:
    """A first convolution of 3x3, stride 1, and no pooling: small images keep their size (He et al. 2016, 4.2)."""
    assert isinstance(trunk, TimmResNet | ResNet)
    if isinstance(trunk.conv1, nn.Conv2d):
        old = trunk.conv1
        trunk.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(trunk.conv1.weight, mode="fan_out", nonlinearity="relu")  # as both libraries do
    else:  # timm's deep stem: three of 3x3, the first with stride 2
        trunk.conv1[0].stride = (1, 1)
    trunk.maxpool = nn.Identity()


def check_patches(trunk: nn.Module, name: str, size: int) -> None:
    if not isinstance(trunk, TimmViT) or not isinstance(trunk.patch_embed, PatchEmbed):
        return
    patch = trunk.patch_embed.patch_size[0]
    if size // patch < 4:
        finer = re.sub(r"_patch\d+(_\d+)?.*", f"_patch{max(1, size // 8)}_{size}", name)
        raise UserError(
            f"{name} cuts {size}x{size} px into {size // patch}x{size // patch} patches of {patch}x{patch}, too few to "
            f"learn from (at least 4x4). Name a finer one, such as {finer}, or another encoder."
        )
    if size % patch:
        below = size - size % patch
        raise UserError(
            f"size {size} is no multiple of the {patch} px patch of {name}. Use {below} or {below + patch}."
        )
