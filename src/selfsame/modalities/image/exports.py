"""Image encoders in the formats of timm and torchvision; ONNX and torch.export are `storage.exports`'.

Raises: UserError where the target cannot hold the encoder or its outputs differ, or a package is missing.
"""

from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from selfsame.errors import UserError
from selfsame.modalities.image.encoder import ImageEncoder
from selfsame.modalities.image.networks import torchvision_changes
from selfsame.storage.exports import Exporter, Fed, tried

PLAIN = "float32 [b, c, h, w] in [0, 1], not normalised: the file normalises by itself"
NORMALISED = "float32 [b, c, h, w]: pixels in [0, 1], then (pixels - mean) / std"


def export(encoder: ImageEncoder, to: str, out: str | Path) -> dict[str, Any]:
    """Write the encoder to the file `out`, with its facts in a .json of the same name beside it.

    timm and torchvision get the network's weights (.safetensors); onnx (.onnx) and torch (.pt2) get the whole
    encoder, normalisation included, for any batch size. The facts are returned: files, input, mean and std per
    channel, input_size [c, h, w], `snippet` (the Python that loads the file, which was run) and `difference`, the
    largest absolute difference of outputs in units of the largest output, at most 1e-5 (onnx, torch: 1e-4).
    """
    return Exporter(fed, facts, {"timm": library, "torchvision": library}).export(encoder, to, out)


def fed(encoder: ImageEncoder) -> Fed:
    shape = (encoder.spec["channels"], encoder.spec["size"], encoder.spec["size"])
    made = f"torch.rand{(2, *shape)}  # your images: float32 in [0, 1]"
    return Fed("pixels", made, lambda batch: torch.rand(batch, *shape), PLAIN)


def facts(encoder: ImageEncoder) -> dict[str, Any]:
    spec, stats = encoder.spec, encoder.spec["stats"]
    return {
        "mean": list(stats["mean"]),
        "std": list(stats["std"]),
        "white": stats["white"],
        "input_size": [spec["channels"], spec["size"], spec["size"]],
        "crop": 1.0,
    }


def library(encoder: ImageEncoder, to: str, file: Path) -> dict[str, Any]:
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
