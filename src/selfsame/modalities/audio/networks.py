"""The networks of audio encoders, by name: timm's on spectrograms, BYOL-A's own, and residual nets on raw waves.

Raises UserError on unknown names, and on options and sizes that a network cannot take.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from selfsame.errors import UserError, unknown
from selfsame.storage.encoders import own_network

Front = Literal["logmel", "stft", "mfcc", "wave"]
FRONTS: tuple[Front, ...] = ("logmel", "stft", "mfcc", "wave")
Library = Literal["timm", "audio", "own"]
OPTIONS: dict[str, tuple[str, ...]] = {  # the constructor's arguments that `resolve` gives; files may give no others
    "timm": ("img_size", "patch_size", "dynamic_img_size", "channels", "stem_width"),
    "audio": ("rows", "width"),
    "own": (),
}
OWN = ("byola",)  # networks of this file on spectrograms
WAVES = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2)}  # blocks of each stage
FEWEST = 4  # patches of a view, at least


def resolve(name: str, rows: int, frames: int) -> tuple[Front, Library, str, dict[str, Any]]:
    """Front end, library, the library's name of the network, and the constructor's options.

    Args:
        rows: of the spectrogram, by front end a function of the statistics; frames: of a full view.
    """
    if ":" in name:
        return "logmel", "own", name, {}
    front, slash, bare = name.partition("/")
    if not slash:
        front, bare = "logmel", name
    if front not in FRONTS:
        raise unknown("front end", front, FRONTS, "As in mfcc/resnet18; without one the log-mel spectrogram is taken.")
    base, at, width = bare.partition("@")
    if front == "wave":
        if base not in WAVES:
            raise unknown("encoder of raw waves", base, WAVES)
        return front, "audio", base, {"width": width_of(bare, width) if at else 1.0}
    if base in OWN:
        return front, "audio", base, {"rows": rows, "width": width_of(bare, width) if at else 1.0}
    if at:
        return front, *of_width(base, width)
    patch = re.fullmatch(r"(\w*?vit\w*?)_patch(\d+)(?:x(\d+))?(_\d+)?", bare)
    if patch:
        found = next((one for one in (f"{patch[1]}_patch{k}_224" for k in (16, 14, 32, 8)) if timm.is_model(one)), None)
        found = found or (patch[1] if timm.is_model(patch[1]) else None)
        if found:
            sides = int(patch[2]), int(patch[3] or patch[2])
            check_patches(bare, sides, rows, frames)
            options = {"img_size": [rows, frames], "patch_size": list(sides), "dynamic_img_size": True}
            return front, "timm", found, options
    if timm.is_model(bare):
        if is_transformer(bare):
            raise UserError(
                f"{name}: say how spectrograms of {rows} bands and {frames} frames are cut into patches, as in "
                f"vit_tiny_patch16 (squares of 16) or vit_tiny_patch{rows}x2 (whole columns, 2 frames each)."
            )
        return front, "timm", bare, {}
    known = [*timm.list_models(), *OWN, *(f"wave/{one}" for one in WAVES)]
    raise unknown("encoder", name, known, "A network of your own is named package.module:factory.")


def is_transformer(name: str) -> bool:
    return timm.models.model_entrypoint(name).__module__ == VisionTransformer.__module__


def is_residual(name: str) -> bool:
    return timm.models.model_entrypoint(name).__module__ == TimmResNet.__module__


def check_patches(name: str, sides: tuple[int, int], rows: int, frames: int) -> None:
    high, long = sides
    if not high or not long or rows % high:
        fits = ", ".join(str(k) for k in (4, 8, 16, 32, 64) if rows % k == 0)
        raise UserError(f"{name}: patches {high} bands high do not divide {rows} bands. Accepted: {fits or rows}.")
    if frames % long:
        raise UserError(
            f"{name}: patches of {long} frames do not divide a view of {frames} frames. Give a size of "
            f"{frames - frames % long or long} or {frames - frames % long + long} frames, or other patches."
        )
    if (rows // high) * (frames // long) < FEWEST:
        raise UserError(
            f"{name} cuts {rows} bands and {frames} frames into {rows // high} x {frames // long} patches, too few to "
            "learn from. Name finer patches, or give longer views."
        )


def width_of(name: str, width: str) -> float:
    if not re.fullmatch(r"\d*\.?\d+", width) or not 0 < float(width) <= 4:
        raise UserError(
            f"{name}: the width is a share of the usual, above 0 and up to 4, as in {name.split('@')[0]}@0.5."
        )
    return float(width)


def share_of(channels: int, width: float) -> int:
    return max(8, round(channels * width / 8) * 8)


def of_width(name: str, width: str) -> tuple[Library, str, dict[str, Any]]:
    """`resnet18@0.5`: a residual net of timm whose stages have that share of their channels, in multiples of eight."""
    transformer = re.fullmatch(r".+_patch\d+(x\d+)?", name)  # in the way that spectrograms are cut here
    if not timm.is_model(name) and not transformer:
        raise unknown("encoder", name, [*timm.list_models(module="resnet"), *OWN])
    if transformer or not is_residual(name):
        raise UserError(f"{name}@{width}: a width is for the residual nets of timm, such as resnet18@0.5, not {name}.")
    share = width_of(f"{name}@{width}", width)
    options: dict[str, Any] = {"channels": [share_of(channels, share) for channels in (64, 128, 256, 512)]}
    with torch.device("meta"):
        usual: Any = timm.create_model(name, pretrained=False, num_classes=0)
    if isinstance(usual.conv1, nn.Sequential):
        options["stem_width"] = share_of(usual.bn1.num_features, share) // 2
    return "timm", name, options


def check_saved(library: str, name: str, options: Mapping[str, Any]) -> None:
    """Refuse, with UserError, what a file may not ask for: other arguments and names can read files and download."""
    known = {"timm": timm.is_model(name), "audio": name in OWN or name in WAVES, "own": True}
    if not known[library]:
        raise UserError(f"{library} of this version has no network {name!r}. Install the version it was saved with.")
    for option, value in options.items():
        numbers = value if isinstance(value, list) else [value]
        if option not in OPTIONS[library] or not all(isinstance(number, int | float) for number in numbers):
            accepted = ", ".join(OPTIONS[library]) or "none"
            raise UserError(
                f"it asks for {option}={value!r} of {library}'s {name}; accepted: {accepted}, as numbers. No encoder "
                "is saved with another option: do not trust this file."
            )


def trunk_of(library: str, front: str, name: str, options: Mapping[str, Any]) -> nn.Module:
    """The network without a classifier. Draws its weights from the global generator."""
    if library == "own":
        return own_network(name)
    if library == "audio":
        return Waves(WAVES[name], **options) if front == "wave" else BYOLA(**options)
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    if "channels" in given:
        given["channels"] = list(given["channels"])
    try:
        trunk = timm.create_model(name, pretrained=False, num_classes=0, in_chans=1, **given)
    except (RuntimeError, TypeError, ValueError, AssertionError, ArithmeticError) as error:
        raise UserError(f"timm cannot make {name} for spectrograms with {dict(options)}: {error}") from error
    for block in trunk.modules():  # branches begin open, at scale 1, as in BYOL's paper: from 0 learning is slow
        if isinstance(block, BasicBlock | Bottleneck):
            scale = (block.bn3 if isinstance(block, Bottleneck) else block.bn2).weight
            if isinstance(scale, Tensor):
                nn.init.ones_(scale)
    return trunk


def over_time(x: Float[Tensor, "b d *f t"]) -> Float[Tensor, "b d"]:
    """The mean over frequencies, then mean plus maximum over time (BYOL-A v2, arXiv 2204.07402, section III-C)."""
    if x.ndim == 4:
        x = x.mean(dim=2)
    return x.mean(dim=2) + x.amax(dim=2)


class BYOLA(nn.Module):
    """BYOL-A's network: three convolutions with pooling, two layers on each frame, mean plus maximum over time.

    Source: Niizuma et al. 2021, arXiv 2103.06695, table I (AudioNTT2020); pooled as there. `width` 1 is d = 2048.
    [b 1 rows frames] -> [b d].
    """

    def __init__(self, rows: int, width: float = 1.0) -> None:
        super().__init__()
        self.rows, self.dim = int(rows), share_of(2048, width)
        widths = (1, 64, 64, 64)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)
            )
            for c_in, c_out in pairwise(widths)
        )
        high = self.rows
        for _ in self.blocks:
            high = -(-high // 2)
        self.frame = nn.Sequential(
            nn.Linear(64 * high, self.dim), nn.ReLU(), nn.Dropout(0.3), nn.Linear(self.dim, self.dim), nn.ReLU()
        )

    def maps(self, x: Float[Tensor, "b 1 f t"]) -> list[Tensor]:
        made = []
        for block in self.blocks:
            x = block(x)
            made.append(x)
        return made

    def of_maps(self, maps: list[Tensor]) -> Float[Tensor, "b d"]:
        return over_time(self.frame(maps[-1].permute(0, 3, 1, 2).flatten(2)).transpose(1, 2))

    def forward(self, x: Float[Tensor, "b 1 f t"]) -> Float[Tensor, "b d"]:
        return self.of_maps(self.maps(x))


class Waves(nn.Module):
    """A residual net on raw waves: [b 1 t] -> [b d], one step of its last map is 160 samples.

    The strides are those of CPC's encoder (arXiv 1807.03748: 5, 4, 2, 2, 2), the blocks those of ResNet-18 with
    convolutions of 9 samples; pooled by mean plus maximum over time.
    """

    def __init__(self, blocks: tuple[int, ...], width: float = 1.0) -> None:
        super().__init__()
        widths = [share_of(channels, width) for channels in (64, 128, 256, 512)]
        self.dim = widths[-1]
        self.stem = nn.Sequential(
            nn.Conv1d(1, widths[0], 15, stride=5, padding=7, bias=False), nn.BatchNorm1d(widths[0]), nn.ReLU()
        )
        c_in, stages = widths[0], []
        for count, c_out, stride in zip(blocks, widths, (4, 2, 2, 2), strict=True):
            stage = [WaveBlock(c_in if k == 0 else c_out, c_out, stride if k == 0 else 1) for k in range(count)]
            stages.append(nn.Sequential(*stage))
            c_in = c_out
        self.stages = nn.ModuleList(stages)

    def maps(self, x: Float[Tensor, "b 1 t"]) -> list[Tensor]:
        made, x = [], self.stem(x)
        for stage in self.stages:
            x = stage(x)
            made.append(x)
        return made

    def of_maps(self, maps: list[Tensor]) -> Float[Tensor, "b d"]:
        return over_time(maps[-1])

    def forward(self, x: Float[Tensor, "b 1 t"]) -> Float[Tensor, "b d"]:
        return self.of_maps(self.maps(x))


class WaveBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv1d(c_in, c_out, 9, stride=stride, padding=4, bias=False), nn.BatchNorm1d(c_out), nn.ReLU(),
            nn.Conv1d(c_out, c_out, 9, padding=4, bias=False), nn.BatchNorm1d(c_out),
        )  # fmt: skip
        same = c_in == c_out and stride == 1
        self.short = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv1d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm1d(c_out))
        )

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b d s"]:
        return F.relu(self.branch(x) + self.short(x))
