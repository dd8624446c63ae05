"""Image encoders as folders that `transformers` loads: ResNetModel, ViTModel, or any network of timm.

Names in the files are those that the library's own published folders have, so that older versions read them too.
Raises: UserError where the library has no network like the encoder's, or its outputs differ.
"""

import importlib.util
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from torchvision.models import ResNet, VisionTransformer
from torchvision.models.resnet import BasicBlock as VisionBasicBlock
from torchvision.models.resnet import Bottleneck as VisionBottleneck

from selfsame.errors import UserError
from selfsame.modalities.image.encoder import SMALL, ImageEncoder
from selfsame.modalities.image.views import WHOLE
from selfsame.storage.compared import compared, uncompared
from selfsame.storage.wanted import Fed, Wanted

BLOCKS = BasicBlock | Bottleneck | VisionBasicBlock | VisionBottleneck
PICTURE = "photo.jpg"  # in the snippet
PARTS = {"conv": "convolution", "bn": "normalization"}


@dataclass(frozen=True)
class Names:
    """How a library names the tensors of a vision transformer, beside the names of a folder."""

    block: str
    """the start of the names of a block, with its number"""
    joint: str
    """query, key and value together"""
    within: dict[str, str]
    """the parts of a block"""
    outside: dict[str, str]


OF_TIMM = Names(
    r"blocks\.(\d+)\.",
    "attn.qkv.",
    {
        "norm1": "layernorm_before",
        "attn.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
    {
        "cls_token": "embeddings.cls_token",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "pos_embed": "embeddings.position_embeddings",
        "norm": "layernorm",
    },
)
OF_TORCHVISION = Names(
    r"encoder\.layers\.encoder_layer_(\d+)\.",
    "self_attention.in_proj_",
    {
        "ln_1": "layernorm_before",
        "self_attention.out_proj": "attention.output.dense",
        "ln_2": "layernorm_after",
        "mlp.0": "intermediate.dense",
        "mlp.3": "output.dense",
    },
    {
        "class_token": "embeddings.cls_token",
        "conv_proj": "embeddings.patch_embeddings.projection",
        "encoder.pos_embedding": "embeddings.position_embeddings",
        "encoder.ln": "layernorm",
    },
)


def write(encoder: ImageEncoder, fed: Fed, folder: Path, wanted: Wanted) -> dict[str, Any]:
    """config.json, model.safetensors and preprocessor_config.json; the snippet's `vectors` are the encoder's."""
    found = as_resnet(encoder) or as_vit(encoder) or as_timm(encoder)
    if found is None:
        raise UserError(f"transformers has no network like {encoder.spec['name']}: {why_not(encoder)}")
    config, state, vector = found
    kind = torch.float16 if wanted.half else torch.float32
    state = {
        name: value.to(kind).contiguous().clone() if value.is_floating_point() else value.clone()
        for name, value in state.items()
    }
    config["dtype"] = config["torch_dtype"] = str(kind).removeprefix("torch.")  # the former name, and the latter
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    described = {
        "input": "float32 [b, c, h, w]: pixels in [0, 1], then (pixels - mean) / std",
        "class": config["architectures"][0],
    }
    if encoder.spec["channels"] in (1, 3):
        (folder / "preprocessor_config.json").write_text(
            json.dumps(processor(encoder.spec), indent=2) + "\n", encoding="utf-8"
        )
    full = ".float()" if wanted.half else ""
    stats = encoder.spec["stats"]
    load = (
        "import torch\nfrom transformers import AutoModel\n\n"
        f"model = AutoModel.from_pretrained({str(folder)!r}){full}.eval()\n"
        f"mean = torch.tensor({list(stats['mean'])}).view(1, -1, 1, 1)\n"
        f"std = torch.tensor({list(stats['std'])}).view(1, -1, 1, 1)\n"
    )
    use = f"with torch.inference_mode():\n    vectors = model((pixels - mean) / std).{vector}\n"
    if importlib.util.find_spec("transformers") is None:
        facts = {"snippet": f"{load}{fed.name} = {fed.made}\n{use}", **uncompared("transformers")}
    else:
        facts = compared(encoder, fed, load, use, wanted)
    if encoder.spec["channels"] in (1, 3):
        facts["snippet"] = with_processor(folder, full, vector)
        if importlib.util.find_spec("transformers") is not None:
            check_snippet(facts["snippet"], encoder)
    return {**described, **facts}


def with_processor(folder: Path, full: str, vector: str) -> str:
    """Python that makes `vectors` of picture files, by the processor in the folder."""
    return (
        "import torch\n"
        "from PIL import Image\n"
        "from transformers import AutoImageProcessor, AutoModel\n\n"
        f"model = AutoModel.from_pretrained({str(folder)!r}){full}.eval()\n"
        f"processor = AutoImageProcessor.from_pretrained({str(folder)!r})\n"
        f"images = [Image.open({PICTURE!r})]  # yours\n"
        'pixel_values = processor(images, return_tensors="pt")["pixel_values"]\n'
        f"with torch.inference_mode():\n    vectors = model(pixel_values).{vector}\n"
    )


def check_snippet(snippet: str, encoder: ImageEncoder) -> None:
    """Run the snippet on a picture of some size. Raises UserError where no vectors come of it."""
    mode, names = "RGB" if encoder.spec["channels"] == 3 else "L", dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="selfsame-") as place:
        file = Path(place) / "photo.png"
        size = encoder.spec["size"]
        Image.radial_gradient("L").resize((size + 9, size + 32)).convert(mode).save(file)
        exec(snippet.replace(repr(PICTURE), repr(str(file))), names)
    found = names["vectors"]
    if found.shape != (1, encoder.dim) or not found.isfinite().all():
        raise UserError(f"the folder's image processor and network give no vector [1 {encoder.dim}] of a picture.")


Found = tuple[dict[str, Any], dict[str, Tensor], str]  # configuration, tensors, and the vector as Python says it


def as_resnet(encoder: ImageEncoder) -> Found | None:
    """A residual net of the usual form: 7x7 stem, pooling, blocks of two or three convolutions, stride in the 3x3 one.

    Its stages may have other widths than the usual. None where it is another.
    """
    trunk: Any = encoder.trunk
    fits = isinstance(trunk, TimmResNet | ResNet) and usual_stem(trunk) and all_of(trunk, nn.ReLU)
    if not fits or encoder.spec["norm"] != "batch":
        return None
    stages: list[Any] = [trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
    deep = isinstance(stages[0][0], Bottleneck | VisionBottleneck)
    if not all(isinstance(block, BLOCKS) and block.conv2.dilation == (1, 1) for stage in stages for block in stage):
        return None
    convolutions = 3 if deep else 2
    state = {}
    for name, value in trunk.state_dict().items():
        stem = re.fullmatch(r"(conv|bn)1\.(\w+)", name)
        inner = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)", name)
        short = re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)", name)
        if stem:
            new = f"embedder.embedder.{PARTS[stem[1]]}.{stem[2]}"
        elif inner:
            place = f"encoder.stages.{int(inner[1]) - 1}.layers.{inner[2]}.layer.{int(inner[4]) - 1}"
            new = f"{place}.{PARTS[inner[3]]}.{inner[5]}"
        elif short:
            part = PARTS["bn" if short[3] == "1" else "conv"]
            new = f"encoder.stages.{int(short[1]) - 1}.layers.{short[2]}.shortcut.{part}.{short[4]}"
        else:
            return None
        state[new] = value
    widths = [(stage[0].conv3 if deep else stage[0].conv2).out_channels for stage in stages]
    if deep and any(4 * stage[0].conv2.out_channels != width for stage, width in zip(stages, widths, strict=True)):
        return None  # wide_resnet and the like
    if any(
        getattr(block, f"conv{k}").groups != 1
        for stage in stages
        for block in stage
        for k in range(1, convolutions + 1)
    ):
        return None  # resnext
    config = {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": encoder.spec["channels"],
        "embedding_size": trunk.conv1.out_channels,
        "hidden_sizes": widths,
        "depths": [len(stage) for stage in stages],
        "layer_type": "bottleneck" if deep else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }
    return config, state, "pooler_output.flatten(1)"


def usual_stem(trunk: Any) -> bool:
    first, pool = trunk.conv1, trunk.maxpool
    return (
        isinstance(first, nn.Conv2d)
        and (first.kernel_size, first.stride) == ((7, 7), (2, 2))
        and isinstance(pool, nn.MaxPool2d)
        and (pool.kernel_size, pool.stride, pool.padding) == (3, 2, 1)
    )


def as_vit(encoder: ImageEncoder) -> Found | None:
    """A vision transformer of the usual form: class token, learned positions, norms before, exact GELU; else None."""
    trunk: Any = encoder.trunk
    if isinstance(trunk, VisionTransformer):
        names, blocks, norm, side, patch = (
            OF_TORCHVISION, list(trunk.encoder.layers), trunk.encoder.ln, trunk.image_size, trunk.patch_size
        )  # fmt: skip
        heads = blocks[0].num_heads
    elif isinstance(trunk, TimmViT) and encoder.has_tokens and (trunk.global_pool == "token" or encoder.averages):
        (side, other), (patch, wide) = trunk.patch_embed.img_size, trunk.patch_embed.patch_size
        if side != other or patch != wide:
            return None
        names, blocks, norm = OF_TIMM, list(trunk.blocks), trunk.norm
        heads = blocks[0].attn.num_heads
    else:
        return None
    approximate = any(part.approximate != "none" for part in trunk.modules() if isinstance(part, nn.GELU))
    if approximate or not all_of(trunk, nn.GELU):
        return None
    state = {}
    for name, value in trunk.state_dict().items():
        within = re.match(names.block, name)
        inner = name[within.end() :] if within else ""
        part, _, kind = (inner or name).rpartition(".")
        if within and inner.startswith(names.joint):
            for third, one in zip(("query", "key", "value"), value.chunk(3), strict=True):
                state[f"encoder.layer.{within[1]}.attention.attention.{third}.{inner.removeprefix(names.joint)}"] = one
        elif within and part in names.within:
            state[f"encoder.layer.{within[1]}.{names.within[part]}.{kind}"] = value
        elif name in names.outside:
            state[names.outside[name]] = value
        elif not within and part in names.outside:
            state[f"{names.outside[part]}.{kind}"] = value
        else:
            return None
    width, places = state["embeddings.patch_embeddings.projection.weight"].shape[0], (side // patch) ** 2 + 1
    biased = "encoder.layer.0.attention.attention.query.bias" in state
    if state.get("embeddings.position_embeddings", torch.empty(0)).shape != (1, places, width):
        return None
    # The library's pooler ends in a layer: this one lets the class token through.
    state |= {"pooler.dense.weight": torch.eye(width), "pooler.dense.bias": torch.zeros(width)}
    config = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": heads,
        "intermediate_size": state["encoder.layer.0.intermediate.dense.weight"].shape[0],
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": norm.eps,
        "image_size": side,
        "patch_size": patch,
        "num_channels": encoder.spec["channels"],
        "qkv_bias": biased,
        "pooler_output_size": width,
        "pooler_act": "linear",
    }
    return config, state, "last_hidden_state[:, 1:].mean(1)" if encoder.averages else "pooler_output"


def as_timm(encoder: ImageEncoder) -> Found | None:
    """Any network of timm as it is, which `transformers` wraps; None where it was changed, or is no network of timm."""
    spec = encoder.spec
    if spec["library"] != "timm" or spec["norm"] != "batch" or spec["small_stem"]:
        return None
    name = spec["name"].partition(".")[0]
    options = {"in_chans": spec["channels"], **spec["options"]}
    if encoder.averages:
        options |= {"global_pool": "avg", "fc_norm": False}
    config = {
        "architectures": ["TimmWrapperModel"],
        "model_type": "timm_wrapper",
        "architecture": name,
        "model_args": options,
        "do_pooling": True,
        "num_classes": 0,
        "label_names": [],
    }
    return config, {f"timm_model.{key}": value for key, value in encoder.trunk.state_dict().items()}, "pooler_output"


def why_not(encoder: ImageEncoder) -> str:
    spec = encoder.spec
    if spec["norm"] != "batch":
        return "its batch norm was replaced. Export to onnx or torch."
    if spec["small_stem"]:
        return (
            "its residual nets begin with a 7x7 convolution of stride 2 and pooling, and this one, for "
            f"{spec['size']} px, with a 3x3 one. Residual nets for more than {SMALL} px and vision transformers of any "
            "size can be exported; this one goes to timm, torchvision, onnx or torch."
        )
    return (
        "it takes residual nets and vision transformers of the usual form, and all networks of timm. "
        f"Export to {'onnx or torch' if spec['library'] == 'own' else 'torchvision, onnx or torch'}."
    )


def all_of(trunk: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether all activations are of one kind."""
    found = [
        part
        for part in trunk.modules()
        if type(part).__module__.startswith(("torch.nn.modules.activation", "timm.layers.activation"))
    ]
    return all(isinstance(part, kind | nn.MultiheadAttention) for part in found)


def processor(spec: dict[str, Any]) -> dict[str, Any]:
    """What `AutoImageProcessor` is to do: the middle square as `views.plain_box` cuts it, resized and normalised."""
    size, stats = spec["size"], spec["stats"]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": spec["channels"] == 3,
        "do_resize": True,
        "size": {"shortest_edge": size if size <= SMALL else round(size / WHOLE)},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / stats["white"],
        "do_normalize": True,
        "image_mean": list(stats["mean"]),
        "image_std": list(stats["std"]),
    }
