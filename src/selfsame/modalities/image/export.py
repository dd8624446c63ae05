"""Encoders in the formats of other libraries: timm, torchvision, ONNX and torch.export.

Every file is loaded again and compared with the encoder before it takes its place.
Raises: UserError where the target cannot hold the encoder or its outputs differ, or a package is missing.
"""

import contextlib
import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from selfsame.errors import UserError, missing, unknown
from selfsame.modalities.image.encoder import ImageEncoder
from selfsame.modalities.image.networks import torchvision_changes

SUFFIX = {"timm": ".safetensors", "torchvision": ".safetensors", "onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = {"timm": 1e-5, "torchvision": 1e-5, "onnx": 1e-4, "torch": 1e-4}
PLAIN = "float32 [b, c, h, w] in [0, 1], not normalised: the file normalises by itself"
NORMALISED = "float32 [b, c, h, w]: pixels in [0, 1], then (pixels - mean) / std"

Target = Literal["timm", "torchvision", "onnx", "torch"]


def export(encoder: ImageEncoder, to: Target, out: str | Path) -> dict[str, Any]:
    """Write the encoder to the file `out`, with its facts in a .json of the same name beside it.

    timm and torchvision get the network's weights (.safetensors); onnx (.onnx) and torch (.pt2) get the whole
    encoder, normalisation included, for any batch size. The facts are returned: files, input, mean and std per
    channel, input_size [c, h, w], `snippet` (the Python that loads the file, which was run) and `difference`, the
    largest absolute difference of outputs in units of the largest output, at most 1e-5 (onnx, torch: 1e-4).
    """
    if to not in SUFFIX:
        raise unknown("export", to, SUFFIX)
    out = Path(out)
    if not out.suffix:
        out = out.with_suffix(SUFFIX[to])
    if out.suffix != SUFFIX[to]:
        raise UserError(
            f"export to {to} writes {SUFFIX[to]} files, and {out.name} is none. Name it {out.stem}{SUFFIX[to]}."
        )
    beside = out.with_suffix(".json")
    if beside.is_file() and not _ours(beside):
        raise UserError(f"{beside} is there already and is no earlier export, so {out.name} needs another name.")
    out.parent.mkdir(parents=True, exist_ok=True)
    encoder = copy.deepcopy(encoder).cpu().float().eval()
    new = out.with_name(f"{out.stem}.new{out.suffix}")
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):  # rebuilding networks draws weights
            writers = {"timm": _library, "torchvision": _library, "onnx": _onnx, "torch": _torch}
            facts = writers[to](encoder, to, new)
        if not facts["difference"] <= TOLERANCE[to]:
            raise UserError(
                f"the encoder and its export to {to} differ by {facts['difference']:.2g} of the largest output; "
                f"at most {TOLERANCE[to]:g} is allowed. Nothing was written."
            )
        new.replace(out)
    finally:
        new.unlink(missing_ok=True)
    spec, stats = encoder.spec, encoder.spec["stats"]
    facts["snippet"] = facts["snippet"].replace(repr(str(new)), repr(str(out)))
    described = {
        "to": to,
        "name": spec["name"],
        **facts,
        "mean": list(stats["mean"]),
        "std": list(stats["std"]),
        "white": stats["white"],
        "input_size": [spec["channels"], spec["size"], spec["size"]],
        "crop": 1.0,
        "dim": encoder.dim,
    }
    beside.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return {**described, "files": [str(out), str(beside)]}


def _ours(file: Path) -> bool:
    """Whether a .json was written by an earlier export, so that it may be written again."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(held, dict) and {"to", "snippet", "difference"} <= held.keys()


def _library(encoder: ImageEncoder, to: str, file: Path) -> dict[str, Any]:
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
        checked = _run(encoder, load, "with torch.inference_mode():\n    vectors = model((pixels - mean) / std)\n")
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{to}'s {name} does not take the weights of {spec['library']}'s: {reason}. Export to onnx or torch."
        ) from error
    return {"name": name, "kwargs": kwargs, "input": NORMALISED, **checked}


def _onnx(encoder: ImageEncoder, to: str, file: Path) -> dict[str, Any]:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise missing("onnx", package, "export to onnx")
    torch.onnx.export(
        encoder,
        (_example(encoder, 2),),
        str(file),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["pixels"],
        output_names=["vectors"],
        external_data=False,
        verbose=False,
    )
    load = (
        "import onnxruntime\nimport torch\n\n"
        f"session = onnxruntime.InferenceSession({str(file)!r}, providers=['CPUExecutionProvider'])\n"
    )
    return {"input": PLAIN, **_run(encoder, load, "vectors = session.run(None, {'pixels': pixels.numpy()})[0]\n")}


def _torch(encoder: ImageEncoder, to: str, file: Path) -> dict[str, Any]:
    program = torch.export.export(
        encoder, (_example(encoder, 2),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
    )
    torch.export.save(program, file)
    load = f"import torch\n\nmodel = torch.export.load({str(file)!r}).module()\n"
    return {"input": PLAIN, **_run(encoder, load, "with torch.inference_mode():\n    vectors = model(pixels)\n")}


def _example(encoder: ImageEncoder, batch: int) -> Tensor:
    size = encoder.spec["size"]
    return torch.rand(batch, encoder.spec["channels"], size, size)


def _run(encoder: ImageEncoder, load: str, use: str) -> dict[str, Any]:
    """The snippet, and how far what it gives is from the encoder, on batches of 2 (its own) and of 1 and 3."""
    shape = list(_example(encoder, 2).shape)
    snippet = load + f"pixels = torch.rand{tuple(shape)}  # your images: float32 in [0, 1]\n" + use
    names: dict[str, Any] = {}
    difference = 0.0
    with torch.no_grad():
        exec(snippet, names)
        for batch in (None, 1, 3):
            if batch is not None:
                names["pixels"] = _example(encoder, batch)
                exec(use, names)
            vectors = torch.as_tensor(names["vectors"])
            expected = encoder(names["pixels"])
            if vectors.shape != expected.shape:
                raise UserError(f"the exported file gives {list(vectors.shape)}, the encoder {list(expected.shape)}.")
            difference = max(
                difference, float((vectors - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
            )
    return {"snippet": snippet, "difference": difference}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither prints, warnings nor logs below errors: exporters chat."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
