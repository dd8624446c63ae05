"""Backbones for detectors: rebuilt as those libraries build them, and by themselves where they are installed."""

import pytest
import torch
import torchvision
import yaml
from safetensors.torch import load_file
from torch import nn

from selfsame.errors import UserError
from selfsame.modalities.image.encoder import make_encoder, own_encoder
from selfsame.modalities.image.exports import export
from tests.modalities.image.test_encoder import GREY, RGB, Conv
from tests.modalities.image.test_export import expected, trained


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return trained(make_encoder("resnet18", 96, RGB))


def test_ultralytics_gets_the_encoder_as_its_layers_are_numbered(resnet, tmp_path):
    """Its module TorchVision: a sequence of the children but the last two, whose batch norms have epsilon 0.001."""
    facts = export(resnet, "ultralytics", tmp_path / "yolo")
    held = load_file(tmp_path / "yolo" / "backbone.safetensors")
    network = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.Sequential(*list(torchvision.models.resnet18(weights=None).children())[:-2])
    )
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-3
    network.load_state_dict({name.replace("model.", "", 1).replace(".m.", "."): held[name] for name in held})
    pixels = torch.rand(2, 3, 128, 96)  # of any size; not normalised
    with torch.no_grad():
        vectors = network.eval()(pixels).mean((2, 3))
    torch.testing.assert_close(vectors, expected(resnet, pixels), atol=1e-4, rtol=1e-4)
    assert facts["class"] == "TorchVision" and "not normalised" in facts["input"]


def test_its_detector_is_fed_with_the_maps_of_three_strides(resnet, tmp_path):
    export(resnet, "ultralytics", tmp_path / "yolo")
    plan = yaml.safe_load((tmp_path / "yolo" / "detector.yaml").read_text())
    normalise, backbone = plan["backbone"]
    assert normalise[2:] == ["nn.Conv2d", [3, 3, 1]]
    assert backbone[2:] == ["TorchVision", [512, "resnet18", None, True, 2, True]]  # None: nothing is downloaded
    *maps, head = plan["head"]
    layers = list(torchvision.models.resnet18(weights=None).children())
    for (_, _, name, (width, place)), stride in zip(maps, (8, 16, 32), strict=True):
        with torch.no_grad():
            found = nn.Sequential(*layers[:place])(torch.zeros(1, 3, 64, 64))  # place 0 is the input
        assert name == "Index" and found.shape[1:] == (width, 64 // stride, 64 // stride)
    assert head == [[2, 3, 4], 1, "Detect", ["nc"]]


@pytest.mark.parametrize(("name", "stats"), [("resnet18@0.25", RGB), ("resnet50@0.125", GREY)])
def test_mmdetection_gets_a_residual_net_by_the_names_of_torchvision(name, stats, tmp_path):
    encoder = make_encoder(name, 96, stats)
    export(encoder, "mmdetection", tmp_path / "mm")
    held = load_file(tmp_path / "mm" / "backbone.safetensors")
    network = torchvision.models.get_model(name.partition("@")[0], weights=None)
    narrow = {key for key in held if key.startswith("layer1.0.downsample.")}  # 64 channels become fewer
    assert held.keys() - narrow == network.state_dict().keys() - {"fc.weight", "fc.bias"} - narrow
    config: dict = {}
    exec((tmp_path / "mm" / "config.py").read_text(), {}, config)
    model = config["model"]
    backbone, width = model["backbone"], 16 if "18" in name else 8
    assert (backbone["type"], backbone["depth"], backbone["style"]) == ("ResNet", int(name[6:8]), "pytorch")
    assert (backbone["base_channels"], backbone["stem_channels"]) == (width, 64)
    assert backbone.get("in_channels", 3) == stats.channels
    last = 2 if "18" in name else 3
    assert model["neck"]["in_channels"] == [held[f"layer{k}.1.bn{last}.weight"].numel() for k in (1, 2, 3, 4)]
    assert model["data_preprocessor"]["mean"] == [value * 255 for value in stats.mean]
    assert model["data_preprocessor"]["std"] == [value * 255 for value in stats.std]
    assert backbone["init_cfg"] == {"type": "Pretrained", "checkpoint": "{{ fileDirname }}/backbone.pth"}
    assert sorted(path.name for path in (tmp_path / "mm").iterdir()) == [
        "backbone.safetensors", "config.py", "selfsame.json",
    ]  # fmt: skip


def test_mmdetection_gets_a_vision_transformer_by_the_names_of_mmpretrain(tmp_path):
    encoder = make_encoder("vit_tiny_patch8_32", 32, RGB)
    export(encoder, "mmdetection", tmp_path / "mm")
    held = load_file(tmp_path / "mm" / "backbone.safetensors")
    own = encoder.trunk.state_dict()
    assert len(held) == len(own)
    for theirs, ours in {
        "cls_token": "cls_token",
        "pos_embed": "pos_embed",
        "patch_embed.projection.weight": "patch_embed.proj.weight",
        "layers.11.ln1.weight": "blocks.11.norm1.weight",
        "layers.3.ln2.bias": "blocks.3.norm2.bias",
        "layers.3.attn.qkv.weight": "blocks.3.attn.qkv.weight",
        "layers.3.attn.proj.bias": "blocks.3.attn.proj.bias",
        "layers.3.ffn.layers.0.0.weight": "blocks.3.mlp.fc1.weight",
        "layers.3.ffn.layers.1.weight": "blocks.3.mlp.fc2.weight",
        "ln1.weight": "norm.weight",
    }.items():
        assert torch.equal(held[theirs], own[ours]), theirs
    config: dict = {}
    exec((tmp_path / "mm" / "config.py").read_text(), {}, config)
    backbone = config["model"]["backbone"]
    assert backbone["arch"] == {"embed_dims": 192, "num_layers": 12, "num_heads": 3, "feedforward_channels": 768}
    assert backbone["norm_cfg"]["eps"] == 1e-6 and backbone["img_size"] == 32 and backbone["patch_size"] == 8


@pytest.mark.parametrize("library", ["ultralytics", "mmdet", "mmpretrain"])
def test_the_library_itself_gives_the_vectors_where_it_is_installed(library, resnet, tmp_path):
    pytest.importorskip(library)
    encoder = make_encoder("vit_tiny_patch8_32", 32, RGB) if library == "mmpretrain" else resnet
    facts = export(encoder, "ultralytics" if library == "ultralytics" else "mmdetection", tmp_path / "it")
    assert facts["difference"] is not None and facts["difference"] <= 1e-5


@pytest.mark.parametrize("to", ["ultralytics", "mmdetection"])
def test_where_it_is_not_installed_the_facts_say_that_nothing_was_compared(to, resnet, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    facts = export(resnet, to, tmp_path / "it")
    assert facts["difference"] is None and "is not installed here, so nothing was compared" in facts["compared"]
    assert str(tmp_path / "it") in facts["snippet"] and ".new" not in facts["snippet"]


@pytest.mark.parametrize(
    ("to", "make", "message"),
    [
        ("ultralytics", lambda: make_encoder("resnet18@0.125", 32, RGB), "stem is that for small images.*64 px"),
        ("ultralytics", lambda: make_encoder("resnet18@0.25", 96, RGB), "as torchvision has them"),
        ("ultralytics", lambda: make_encoder("resnet18", 96, GREY), "takes 3 channels, and the encoder 1"),
        ("ultralytics", lambda: make_encoder("vit_tiny_patch8_32", 32, RGB), "residual nets of the usual form"),
        ("mmdetection", lambda: own_encoder(Conv(), 32, RGB), "no network like Conv"),
        ("mmdetection", lambda: make_encoder("resnet10t@0.1", 96, RGB), "residual nets of the usual form"),
        ("mmdetection", lambda: make_encoder("resnet18@0.1", 96, RGB), r"each stage twice as wide.*\[8, 16, 24, 48\]"),
    ],
)
def test_what_they_cannot_hold_is_refused_in_one_line(to, make, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        export(make(), to, tmp_path / "it")
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
