"""Networks over series [b c t]: residual nets, dilated convolutions, a patch transformer; by name.

What lies outside of a series, before its first value and after its last, is zero before every convolution, as the
border is: a series gives the same vector however many missing steps follow it.
Raises UserError on unknown names and widths.
"""

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from selfsame.errors import UserError, unknown
from selfsame.storage.encoders import own_network

__all__ = ["Net", "covered", "network", "patch_of"]

SHORT = 128  # steps up to which the stem of resnet18 keeps every step
TOKENS = 16  # at least, where a patch may be chosen
TRANSFORMERS = {  # width, blocks, heads
    "vit_nano": (32, 6, 2),
    "vit_micro": (96, 6, 3),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
}
DILATED = (64, 320, 10)  # hidden width, width of the vector, blocks: TS2Vec (arXiv 2106.10466), its code's defaults
NAMES = ("resnet", "resnet18", "dilated", *TRANSFORMERS)


def covered(mask: Bool[Tensor, "b t"], steps: int) -> Bool[Tensor, "b steps"]:
    """Of each of fewer steps whether any step that it stands for is true. Halved as often as needed, rounded up."""
    while mask.shape[1] > steps:
        mask = F.max_pool1d(mask[:, None].float(), 2, 2, ceil_mode=True)[:, 0] > 0
    return mask


class Net(nn.Module):
    """A network that gives maps [b width t'], fine to coarse, the last of which is averaged to the vector."""

    widths: tuple[int, ...]
    """channels of the maps"""

    def forward(
        self, x: Float[Tensor, "b c t"], there: Bool[Tensor, "b t"], inside: Bool[Tensor, "b t"]
    ) -> list[Float[Tensor, "b w t1"]]:
        """Args: `there` where a step has any value, `inside` from the first such step to the last."""
        raise NotImplementedError


class Residual(nn.Module):
    """Convolutions that each batch norm follows, around them a shortcut; relu between and after."""

    def __init__(self, before: int, after: int, kernels: tuple[int, ...], stride: int = 1, plain: bool = True) -> None:
        """`plain`: whether the shortcut is the input itself, where its width is right."""
        super().__init__()
        widths = [before, *[after] * len(kernels)]
        self.pads = [((k - 1) // 2, k // 2) for k in kernels]
        strides = [stride, *[1] * (len(kernels) - 1)]
        self.convs = nn.ModuleList(
            nn.Conv1d(one, two, k, stride=s, bias=False)
            for one, two, k, s in zip(widths[:-1], widths[1:], kernels, strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(after) for _ in kernels)
        same = before == after and stride == 1
        self.shortcut = None if same else nn.Conv1d(before, after, 1, stride=stride, bias=False)
        self.shortcut_norm = None if same and plain else nn.BatchNorm1d(after)

    def forward(self, x: Float[Tensor, "b c t"], inside: Bool[Tensor, "b t"]) -> Float[Tensor, "b w t1"]:
        y = x
        for k, (conv, norm, pad) in enumerate(zip(self.convs, self.norms, self.pads, strict=True)):
            y = norm(conv(F.pad(only(y if k == 0 else y.relu(), covered(inside, y.shape[2])), pad)))
        x = self.shortcut(x) if self.shortcut is not None else x
        x = self.shortcut_norm(x) if self.shortcut_norm is not None else x
        return (x + y).relu()


def only(x: Float[Tensor, "b c t"], inside: Bool[Tensor, "b t"]) -> Float[Tensor, "b c t"]:
    return x * inside[:, None].to(x.dtype)


class WangResNet(Net):
    """Three blocks of three convolutions with kernels 8, 5, 3, every step kept.

    Source: Wang et al. 2017, arXiv 1611.06455, section on residual networks (64, 128, 128 channels).
    """

    def __init__(self, channels: int, share: float) -> None:
        super().__init__()
        self.widths = tuple(of_share(width, share) for width in (64, 128, 128))
        befores = (channels, *self.widths[:-1])
        self.blocks = nn.ModuleList(
            Residual(one, two, (8, 5, 3), plain=False) for one, two in zip(befores, self.widths, strict=True)
        )
        first: Any = self.blocks[0]
        quiet(first.convs[0], channels // 2)
        quiet(first.shortcut, channels // 2)

    def forward(self, x: Tensor, there: Tensor, inside: Tensor) -> list[Tensor]:
        maps = []
        for block in self.blocks:
            x = block(x, inside)
            maps.append(x)
        return maps


class ResNet18(Net):
    """ResNet-18 (He et al. 2015, arXiv 1512.03385) with kernels along time: stem 7, four stages of two blocks of 3, 3.

    Views of up to 128 steps keep every step in the stem, as small images do; others come to a quarter.
    """

    def __init__(self, channels: int, share: float, size: int) -> None:
        super().__init__()
        self.widths = tuple(of_share(width, share) for width in (64, 128, 256, 512))
        self.short = size <= SHORT
        self.stem = nn.Conv1d(channels, self.widths[0], 7, stride=1 if self.short else 2, padding=3, bias=False)
        self.norm = nn.BatchNorm1d(self.widths[0])
        befores = (self.widths[0], *self.widths[:-1])
        self.stages = nn.ModuleList(
            nn.ModuleList([Residual(one, two, (3, 3), stride), Residual(two, two, (3, 3))])
            for one, two, stride in zip(befores, self.widths, (1, 2, 2, 2), strict=True)
        )
        for part in self.modules():
            if isinstance(part, nn.Conv1d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        quiet(self.stem, channels // 2)

    def forward(self, x: Tensor, there: Tensor, inside: Tensor) -> list[Tensor]:
        x = self.stem(only(x, inside))
        x = self.norm(only(x, covered(inside, x.shape[2]))).relu()
        if not self.short:
            x = F.max_pool1d(only(x, covered(inside, x.shape[2])), 3, 2, 1)
        maps = []
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, covered(inside, x.shape[2]))
            maps.append(x)
        return maps


class Dilated(Net):
    """A linear layer a step, then residual blocks of convolutions of 3 whose gaps double: TS2Vec's encoder.

    Source: Yue et al. 2022, arXiv 2106.10466, and its code: gelu before each convolution, dropout 0.1 at the end. What
    is missing at a step is zero behind the linear layer, so hidden steps are hidden there. Deviation: blocks whose gap
    is longer than the view are left out, which would see nothing but the border.
    """

    def __init__(self, channels: int, share: float, size: int) -> None:
        super().__init__()
        hidden, out, depth = of_share(DILATED[0], share), of_share(DILATED[1], share), DILATED[2]
        depth = min(depth, max(1, math.ceil(math.log2(size))))
        self.widths = (out,)
        self.into = nn.Conv1d(channels, hidden, 1)
        quiet(self.into, channels // 2)
        self.blocks = nn.ModuleList(DilatedBlock(hidden, out if k == depth else hidden, 2**k) for k in range(depth + 1))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, there: Tensor, inside: Tensor) -> list[Tensor]:
        x = only(self.into(x), there)
        for block in self.blocks:
            x = block(x, inside)
        return [self.dropout(x)]


class DilatedBlock(nn.Module):
    def __init__(self, before: int, after: int, gap: int) -> None:
        super().__init__()
        self.one = nn.Conv1d(before, after, 3, padding=gap, dilation=gap)
        self.two = nn.Conv1d(after, after, 3, padding=gap, dilation=gap)
        self.across = nn.Conv1d(before, after, 1) if before != after else None

    def forward(self, x: Float[Tensor, "b c t"], inside: Bool[Tensor, "b t"]) -> Float[Tensor, "b w t"]:
        y = self.one(only(F.gelu(x), inside))
        y = self.two(only(F.gelu(y), inside))
        return (x if self.across is None else self.across(x)) + y


def quiet(conv: nn.Conv1d | nn.Conv2d | Any, first: int) -> None:
    """Begin without regard to the channels from `first` on, which say what is missing: learnt where anything is."""
    with torch.no_grad():
        conv.weight[:, first:] = 0


def of_share(width: int, share: float) -> int:
    return max(8, round(width * share / 8) * 8)


def patch_of(name: str, size: int) -> int:
    """Steps of a patch: `vit_tiny_patch8` says so; else the largest power of 2, up to 16, that gives 16 tokens."""
    found = re.fullmatch(r"vit_\w+?_patch(\d+)", name)
    if found:
        patch = int(found[1])
        if not 1 <= patch <= size // 4:
            raise UserError(
                f"{name} cuts {size} steps into {size // max(1, patch)} patches, too few to learn from (at least 4). "
                f"Name a finer one, such as {name.rpartition('_')[0]}_patch{max(1, size // TOKENS)}."
            )
        return patch
    return 2 ** int(math.log2(max(1, min(16, size // TOKENS))))


def network(name: str, size: int, channels: int) -> nn.Module:
    """A network by name for `channels` channels, each of which comes twice: its values, and where they are missing.

    `resnet@0.5` is half as wide. "package.module:factory" is the user's own, called without arguments; it is given the
    values alone. Draws weights from torch's global generator.
    """
    if ":" in name:
        return own_network(name)
    base, mark, width = name.partition("@")
    bare = re.sub(r"_patch\d+$", "", base)
    if bare not in NAMES or (bare != base and bare not in TRANSFORMERS):
        raise unknown("encoder", name, NAMES, "A network of your own is named package.module:factory.")
    if mark and (not re.fullmatch(r"\d*\.?\d+", width) or not 0 < float(width) <= 4):
        raise UserError(f"{name}: the width is a share of the usual, above 0 and up to 4, as in {base}@0.5.")
    if bare in TRANSFORMERS:
        if mark:
            raise UserError(f"{name}: transformers come in the widths {', '.join(TRANSFORMERS)}, not in shares.")
        return transformer(bare, size, patch_of(base, size), channels)
    share = float(width) if mark else 1.0
    if bare == "resnet":
        return WangResNet(2 * channels, share)
    return ResNet18(2 * channels, share, size) if bare == "resnet18" else Dilated(2 * channels, share, size)


def transformer(name: str, size: int, patch: int, channels: int) -> VisionTransformer:
    """timm's vision transformer on pictures of one row; its vector is the mean of the tokens, without a class token."""
    width, depth, heads = TRANSFORMERS[name]
    trunk = VisionTransformer(
        img_size=(1, -(-size // patch) * patch), patch_size=(1, patch), in_chans=2 * channels, num_classes=0,
        embed_dim=width, depth=depth, num_heads=heads, class_token=False, global_pool="avg", fc_norm=False,
    )  # fmt: skip
    quiet(trunk.patch_embed.proj, channels)
    return trunk
