"""Image encoders as backbones of detectors: for ultralytics, and for MMDetection and its relatives.

Neither reads weights from anything but pickles, which are not written here: a folder holds the tensors as .safetensors
and a configuration, and the snippet hands the tensors on. Both libraries are used only to compare, where they are
installed; ultralytics is licensed under the AGPL 3, which concerns who runs the snippet.
Raises: UserError where the library has no network like the encoder's, or its outputs differ.
"""

import importlib
import importlib.util
import os
import pprint
import re
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save_file
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from torchvision.models import ResNet

from selfsame.errors import UserError
from selfsame.modalities.image.encoder import SMALL, ImageEncoder
from selfsame.modalities.image.for_transformers import as_resnet, as_vit
from selfsame.storage.compared import compared, uncompared
from selfsame.storage.wanted import Fed, Wanted

EPSILON = 1e-3  # of batch norms in ultralytics, which sets it whatever it was
DEPTHS = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}  # 50 is 34 with deeper blocks


# ultralytics ----------------------------------------------------------------------------------------------------------


def ultralytics(encoder: ImageEncoder, fed: Fed, folder: Path, wanted: Wanted) -> dict[str, Any]:
    """backbone.safetensors and detector.yaml: the residual net as its module TorchVision, maps 1/8 to 1/32 to a head.

    Its detectors are fed with pixels in [0, 1], so the first layer of the file normalises them. Batch norms have
    another epsilon there: their weights are scaled so that what they give in eval mode stays.
    """
    name, widths = residual(encoder, "ultralytics")
    if encoder.spec["channels"] != 3:
        raise UserError(
            "ultralytics' module for networks of torchvision takes 3 channels, and the encoder "
            f"{encoder.spec['channels']}. Export to onnx or torch."
        )
    if name not in torchvision.models.list_models(torchvision.models) or encoder.spec["options"]:
        raise UserError(
            f"ultralytics takes residual nets as torchvision has them, in full width, and it has no {encoder.called}. "
            "Export to onnx or torch."
        )
    mean, std = (torch.tensor(encoder.spec["stats"][key]) for key in ("mean", "std"))
    state = {
        "model.0.weight": torch.diag(1 / std)[:, :, None, None].contiguous(),
        "model.0.bias": -mean / std,
    }
    trunk: Any = encoder.trunk
    order = [
        "conv1",
        "bn1",
        "act1" if isinstance(trunk, TimmResNet) else "relu",
        "maxpool",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]
    for place, part in enumerate(order):
        layers = dict(getattr(trunk, part).named_modules(prefix=f"model.1.m.{place}"))
        for key, value in getattr(trunk, part).state_dict().items():
            layer = layers[f"model.1.m.{place}.{key}".rpartition(".")[0]]
            if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None and key.endswith("weight"):
                value = value * ((layer.running_var + EPSILON) / (layer.running_var + layer.eps)).sqrt()
            state[f"model.1.m.{place}.{key}"] = value.contiguous().clone()
    save_file(state, folder / "backbone.safetensors")
    (folder / "detector.yaml").write_text(
        f"""# A detector on {encoder.spec["name"]} as selfsame trained it. Weights: backbone.safetensors, by the snippet
# in selfsame.json. The head stands on the maps as they are: a neck may be put between.
nc: 80  # classes; training takes the number of your data
backbone:
  - [-1, 1, nn.Conv2d, [3, 3, 1]]  # 0: (pixels - mean) / std
  - [-1, 1, TorchVision, [{widths[3]}, {name}, null, True, 2, True]]  # 1: the encoder, nothing downloaded
head:
  - [1, 1, Index, [{widths[1]}, 6]]  # 2: 1/8
  - [1, 1, Index, [{widths[2]}, 7]]  # 3: 1/16
  - [1, 1, Index, [{widths[3]}, 8]]  # 4: 1/32
  - [[2, 3, 4], 1, Detect, [nc]]  # 5
""",
        encoding="utf-8",
    )
    load = (
        "import torch\nfrom safetensors.torch import load_file\nfrom ultralytics import YOLO\n\n"
        f"detector = YOLO({str(folder / 'detector.yaml')!r}, task='detect')\n"
        f"detector.model.load_state_dict(load_file({str(folder / 'backbone.safetensors')!r}), strict=False)\n"
        "detector.load(detector.model)  # so that detector.train(data=...) begins with these weights\n"
        "normalise, backbone = detector.model.eval().model[:2]\n"
    )
    use = "with torch.inference_mode():\n    vectors = backbone(normalise(pixels))[-1].mean((2, 3))\n"
    told = {"input": "float32 [b, 3, h, w] in [0, 1], not normalised: the first layer does it", "class": "TorchVision"}
    snippet = f"{load}{fed.name} = {fed.made}\n{use}"
    if importlib.util.find_spec("ultralytics") is None:
        return {**told, "snippet": snippet, **uncompared("ultralytics")}
    os.environ.setdefault("YOLO_OFFLINE", "true")  # it looks for the network when it is imported
    return {**told, **compared(encoder, fed, load, use, wanted)}


# MMDetection ----------------------------------------------------------------------------------------------------------


def mmdetection(encoder: ImageEncoder, fed: Fed, folder: Path, wanted: Wanted) -> dict[str, Any]:
    """backbone.safetensors and config.py: a ResNet for MMDetection, or a VisionTransformer of MMPreTrain.

    The snippet makes backbone.pth of the tensors, as MMEngine reads nothing else; config.py names it.
    """
    if isinstance(encoder.trunk, TimmResNet | ResNet):
        backbone, state, where = mm_resnet(encoder)
        vectors, library = "backbone((pixels - mean) / std)[-1].mean((2, 3))", "mmdet"
    else:
        backbone, state = mm_vit(encoder)
        where, library = [], "mmpretrain"
        vectors = "backbone((pixels - mean) / std)[-1]" + (".mean((2, 3))" if encoder.averages else "")
    save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / "backbone.safetensors")
    stats = encoder.spec["stats"]
    white = 255.0 if stats["bits"] == 8 else float(stats["white"])
    preprocessor = {
        "mean": [value * white for value in stats["mean"]],
        "std": [value * white for value in stats["std"]],
        **({"bgr_to_rgb": True} if encoder.spec["channels"] == 3 else {}),
    }
    lines = [
        f"# {encoder.spec['name']} as selfsame trained it. Name a configuration of {library} here to lay this over it:",
        "# _base_ = ...",
        "# backbone.pth is made of backbone.safetensors by the snippet in selfsame.json.",
        "model = dict(",
        f"    data_preprocessor=dict({keywords(preprocessor)}),",
        f"    backbone=dict({keywords(backbone)},",
        "        init_cfg=dict(type='Pretrained', checkpoint='{{ fileDirname }}/backbone.pth')),",
        *([f"    neck=dict(in_channels={where}),"] if where else []),
        ")",
    ]
    (folder / "config.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    load = (
        f"import {library}.models\nimport torch\nfrom mmengine.config import Config\n"
        f"from {library}.registry import MODELS\nfrom safetensors.torch import load_file\n\n"
        f"tensors = load_file({str(folder / 'backbone.safetensors')!r})\n"
        f"torch.save({{'state_dict': tensors}}, {str(folder / 'backbone.pth')!r})\n"
        f"config = Config.fromfile({str(folder / 'config.py')!r})\n"
        "backbone = MODELS.build(config.model.backbone)\n"
        "backbone.init_weights()  # reads backbone.pth\n"
        "backbone.eval()\n"
        f"mean = torch.tensor({list(stats['mean'])}).view(1, -1, 1, 1)\n"
        f"std = torch.tensor({list(stats['std'])}).view(1, -1, 1, 1)\n"
    )
    use = f"with torch.inference_mode():\n    vectors = {vectors}\n"
    told = {"input": "float32 [b, c, h, w]: pixels in [0, 1], then (pixels - mean) / std", "class": backbone["type"]}
    snippet = f"{load}{fed.name} = {fed.made}\n{use}"
    reason = unusable(library)
    if reason:
        return {**told, "snippet": snippet, **uncompared(library, reason)}
    try:
        return {**told, **compared(encoder, fed, load, use, wanted)}
    finally:
        (folder / "backbone.pth").unlink(missing_ok=True)  # the user's to make, where it is needed


def mm_resnet(encoder: ImageEncoder) -> tuple[dict[str, Any], dict[str, Tensor], list[int]]:
    _, widths = residual(encoder, "mmdetection")
    trunk: Any = encoder.trunk
    config, *_ = as_resnet(encoder) or ({},)
    blocks, deep = tuple(config["depths"]), config["layer_type"] == "bottleneck"
    base = widths[0] // (4 if deep else 1)
    depth = 50 if blocks == (3, 4, 6, 3) and deep else DEPTHS.get(blocks)
    if depth is None or deep != (depth >= 50) or widths != [widths[0] * 2**k for k in range(4)]:
        raise UserError(
            "MMDetection's ResNet has 18, 34, 50, 101 or 152 layers, each stage twice as wide as the one before; "
            f"{encoder.spec['name']} has stages of {list(blocks)} blocks and {widths} channels. "
            "Export to onnx or torch."
        )
    backbone: dict[str, Any] = {"type": "ResNet", "depth": depth, "style": "pytorch"}
    if encoder.spec["channels"] != 3:
        backbone["in_channels"] = encoder.spec["channels"]
    if base != 64 or trunk.conv1.out_channels != 64:
        backbone |= {"base_channels": base, "stem_channels": trunk.conv1.out_channels}
    return {**backbone, "out_indices": (0, 1, 2, 3)}, trunk.state_dict(), widths


def mm_vit(encoder: ImageEncoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    found = as_vit(encoder)
    if found is None or not isinstance(encoder.trunk, TimmViT):
        raise UserError(
            f"MMDetection and MMPreTrain have no network like {encoder.spec['name']}: exported are residual nets for "
            f"more than {SMALL} px, and vision transformers of timm with a class token. Export to onnx or torch."
        )
    config = found[0]
    state = {}
    for name, value in encoder.trunk.state_dict().items():
        name = name.replace("patch_embed.proj.", "patch_embed.projection.").replace("blocks.", "layers.")
        name = re.sub(r"\.norm([12])\.", r".ln\1.", name)
        name = name.replace(".mlp.fc1.", ".ffn.layers.0.0.").replace(".mlp.fc2.", ".ffn.layers.1.")
        state[re.sub(r"^norm\.", "ln1.", name)] = value
    backbone = {
        "type": "mmpretrain.VisionTransformer",
        "arch": {
            "embed_dims": config["hidden_size"],
            "num_layers": config["num_hidden_layers"],
            "num_heads": config["num_attention_heads"],
            "feedforward_channels": config["intermediate_size"],
        },
        "img_size": config["image_size"],
        "patch_size": config["patch_size"],
        "in_channels": config["num_channels"],
        "qkv_bias": config["qkv_bias"],
        "out_type": "featmap" if encoder.averages else "cls_token",
        "norm_cfg": {"type": "LN", "eps": config["layer_norm_eps"]},
    }
    return backbone, state


def unusable(library: str) -> str | None:
    """Why a library cannot be used here; None where it can."""
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed here"
    try:
        importlib.import_module(f"{library}.models")
        importlib.import_module("mmengine.config")
    except Exception as error:  # they need compiled parts of one version, and say so in many ways
        return f"{library} is installed here and cannot be imported ({' '.join(str(error).split())[:120]})"
    return None


def keywords(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={pprint.pformat(value, width=10_000)}" for key, value in values.items())


# Both -----------------------------------------------------------------------------------------------------------------


def residual(encoder: ImageEncoder, to: str) -> tuple[str, list[int]]:
    """Name and widths of a residual net of the usual form. Raises UserError where it is none."""
    found = as_resnet(encoder)
    if found is None:
        small = encoder.spec["small_stem"]
        raise UserError(
            f"{to} has no backbone like {encoder.spec['name']}"
            f"{', whose stem is that for small images' if small else ''}: exported are residual nets of the usual form "
            f"for more than {SMALL} px{', and vision transformers of timm' if to == 'mmdetection' else ''}. "
            "Export to onnx or torch."
        )
    return encoder.spec["name"].partition(".")[0].removeprefix("torchvision/"), found[0]["hidden_sizes"]
