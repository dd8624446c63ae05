"""Image encoders for other libraries: timm and torchvision here; ONNX and torch.export are `storage.exports`'.

Raises: UserError where the target cannot hold the encoder or its outputs differ, or a package is missing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from jaxtyping import Float, Integer
from safetensors.torch import save_file
from torch import Tensor, nn

from selfsame.errors import UserError
from selfsame.modalities.image import for_detectors, for_transformers
from selfsame.modalities.image.encoder import SMALL, ImageEncoder
from selfsame.modalities.image.networks import torchvision_changes
from selfsame.modalities.image.steps import resize_matrices
from selfsame.modalities.image.views import WHOLE
from selfsame.storage.compared import tried
from selfsame.storage.exports import Exporter, Writer
from selfsame.storage.wanted import Axis, Fed, Wanted

PLAIN = "float32 [b, c, h, w] in [0, 1], not normalised: the file normalises by itself"
NORMALISED = "float32 [b, c, h, w]: pixels in [0, 1], then (pixels - mean) / std"


def export(encoder: ImageEncoder, to: str, out: str | Path, **options: Any) -> dict[str, Any]:
    """Write the encoder to `out`, with its facts beside it: see Exporter.export.

    timm and torchvision get the network's weights (.safetensors); transformers a folder that AutoModel loads;
    ultralytics and mmdetection a folder with the backbone and a configuration; onnx (.onnx) and torch (.pt2) the whole
    encoder, normalisation included, for any batch size. Among the facts are mean and std per channel and input_size
    [c, h, w].
    """
    writers: dict[str, Writer] = {
        "timm": library,
        "torchvision": library,
        "transformers": lambda one, to, folder, wanted: for_transformers.write(one, fed(one), folder, wanted),
        "ultralytics": lambda one, to, folder, wanted: for_detectors.ultralytics(one, fed(one), folder, wanted),
        "mmdetection": lambda one, to, folder, wanted: for_detectors.mmdetection(one, fed(one), folder, wanted),
    }
    return Exporter(fed, facts, writers, prepared).export(encoder, to, out, **options)


def fed(encoder: ImageEncoder) -> Fed:
    channels, size = encoder.spec["channels"], encoder.spec["size"]
    shape = (channels, size, size)
    made = f"torch.rand{(2, *shape)}  # your images: float32 in [0, 1]"
    patch = encoder.patch if encoder.has_tokens else (1, 1)
    return Fed(
        "pixels",
        made,
        lambda batch: torch.rand(batch, *shape),
        PLAIN,
        {2: Axis("rows", patch[0]), 3: Axis("columns", patch[1])},
        (lambda lengths: torch.rand(1, channels, *lengths)) if encoder.has_pieces else None,
    )


def prepared(encoder: ImageEncoder, wanted: Wanted) -> tuple[nn.Module, Fed]:
    """The way from stored images of any size to views, and such images: noise with some structure, of two shapes."""
    spec, layout = encoder.spec, wanted.preprocessing or "hwc"
    squeezed = wanted.behind is not None and wanted.behind.whole
    channels, size, deep = spec["channels"], spec["size"], spec["stats"]["bits"] == 16
    white, kind = (spec["stats"]["white"], "uint16") if deep else (255, "uint8")
    before = layout == "chw"

    def example(batch: int, lengths: Sequence[int] = (size + 5, size + 9)) -> Tensor:
        shape = (batch, channels, *lengths) if before else (batch, *lengths, channels)
        return torch.randint(0, white + 1, shape, dtype=torch.int32).to(getattr(torch, kind))

    shape = (2, channels, size + 5, size + 9) if before else (2, size + 5, size + 9, channels)
    made = f"torch.randint(0, {white + 1}, {shape}, dtype=torch.int32).to(torch.{kind})  # your images, of any size"
    axes = {2: Axis("rows"), 3: Axis("columns")} if before else {1: Axis("rows"), 2: Axis("columns")}
    told = f"{kind} [{'b, c, h, w' if before else 'b, h, w, c'}] of any height and width, as stored: the file " + (
        "squeezes it to the view and normalises it" if squeezed else "cuts the middle square, resizes and normalises it"
    )
    return Cut(size, layout, float(white), squeezed), Fed(
        "pixels", made, example, told, axes, lambda lengths: example(1, lengths)
    )


class Cut(nn.Module):
    """The plain view of stored images: the middle square (`views.plain_box`), or all of it, resized, in [0, 1].

    Two products with matrices, which every runtime has, and of any size; a cut that views are made of is rounded to
    stored values too, which this is not.
    """

    def __init__(self, size: int, layout: str, white: float, squeezed: bool = False) -> None:
        super().__init__()
        self.size, self.layout, self.white, self.squeezed = size, layout, white, squeezed

    def forward(self, stored: Integer[Tensor, "b ..."]) -> Float[Tensor, "b c s s"]:
        pixels = stored.to(torch.float32)
        if self.layout == "hwc":
            pixels = pixels.permute(0, 3, 1, 2)
        height, width = pixels.shape[2], pixels.shape[3]
        sides = torch.stack([torch.full((1,), height), torch.full((1,), width)])  # numbers in the graph, not in Python
        if self.squeezed:
            down, across = (
                resize_matrices(torch.zeros_like(side), side, length, self.size)
                for side, length in zip(sides, (height, width), strict=True)
            )
            return ((down @ (pixels @ across.transpose(1, 2))) / self.white).clamp(0, 1)
        short = sides.amin(dim=0)
        side = short
        if self.size > SMALL:
            part = (short * WHOLE).round().long().clamp(min=1)
            side = torch.where((sides == self.size).all(dim=0), short, part)
        down = resize_matrices((sides[0] - side) // 2, side, height, self.size)
        across = resize_matrices((sides[1] - side) // 2, side, width, self.size)
        return ((down @ (pixels @ across.transpose(1, 2))) / self.white).clamp(0, 1)


def facts(encoder: ImageEncoder) -> dict[str, Any]:
    spec, stats = encoder.spec, encoder.spec["stats"]
    return {
        "mean": list(stats["mean"]),
        "std": list(stats["std"]),
        "white": stats["white"],
        "input_size": [spec["channels"], spec["size"], spec["size"]],
        "crop": encoder.crop,
    }


def library(encoder: ImageEncoder, to: str, file: Path, wanted: Wanted) -> dict[str, Any]:
    """The network's weights, for timm or torchvision to load."""
    spec, trunk = encoder.spec, encoder.trunk
    if spec["library"] == "own" or spec["norm"] != "batch":
        why = "a network of your own" if spec["library"] == "own" else "not the library's: its batch norm was replaced"
        raise UserError(f"{to} cannot hold {spec['name']}, which is {why}. Export to onnx or torch.")
    if encoder.averages and to == "torchvision":
        raise UserError(
            f"torchvision's {spec['name']} gives its class token, and this encoder the mean of its patch tokens. "
            "Export to onnx or torch, or take a timm network."
        )
    name = spec["name"].partition(".")[0]  # without timm's tag of pretrained weights
    options = dict(spec["options"])
    if spec["library"] != to:
        known = timm.is_model(name) if to == "timm" else name in torchvision.models.list_models(torchvision.models)
        if not known or options:
            raise UserError(
                f"{to} has no network like {spec['library']}'s {name}{f' with {options}' if options else ''}. "
                f"Export to {spec['library']}, onnx or torch."
            )
    save_file({key: value.contiguous().clone() for key, value in trunk.state_dict().items()}, file)
    layers: dict[str, nn.Module] = {}
    if to == "torchvision":
        layers = torchvision_changes(torchvision.models.get_model(name, weights=None, **options), spec["channels"])
    if spec["small_stem"]:
        layers |= {"conv1": trunk.conv1} if isinstance(trunk.conv1, nn.Conv2d) else {}
        layers |= {"maxpool": nn.Identity()}
    changes = [f"model.set_submodule({part!r}, torch.nn.{layer!r})" for part, layer in layers.items()]
    if spec["small_stem"] and "conv1" not in layers:
        changes.append("model.conv1[0].stride = (1, 1)")
    if encoder.averages:
        changes.append("model.global_pool = 'avg'")
    kwargs = {"num_classes": 0, "in_chans": spec["channels"]} if to == "timm" else {"weights": None}
    kwargs |= options
    call = ", ".join([repr(name), *(f"{key}={value!r}" for key, value in kwargs.items())])
    if to == "timm" and not changes:
        load = f"import timm\nimport torch\n\nmodel = timm.create_model({call}, checkpoint_path={str(file)!r})\n"
    else:
        make = f"timm.create_model({call})" if to == "timm" else f"torchvision.models.get_model({call})"
        load = "\n".join(
            [
                *sorted([f"import {to}", "import torch"]),
                "from safetensors.torch import load_file",
                "",
                f"model = {make}",
                *changes,
                f"model.load_state_dict(load_file({str(file)!r}))",
                "",
            ]
        )
    stats = spec["stats"]
    load += (
        "model.eval()\n"
        f"mean = torch.tensor({list(stats['mean'])}).view(1, -1, 1, 1)\n"
        f"std = torch.tensor({list(stats['std'])}).view(1, -1, 1, 1)\n"
    )
    try:
        checked = tried(
            encoder, fed(encoder), load, "with torch.inference_mode():\n    vectors = model((pixels - mean) / std)\n"
        )
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{to}'s {name} does not take the weights of {spec['library']}'s: {reason}. Export to onnx or torch."
        ) from error
    return {"name": name, "kwargs": kwargs, "input": NORMALISED, **checked}
