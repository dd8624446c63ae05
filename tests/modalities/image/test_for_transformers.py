"""Folders for transformers: reloaded by it, without a network connection, and compared with the encoder."""

import importlib.util
import json
import socket

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import selfsame as ss
from selfsame.errors import UserError
from selfsame.modalities.image import for_transformers
from selfsame.modalities.image.encoder import ImageEncoder, make_encoder, own_encoder
from selfsame.modalities.image.exports import export
from tests.modalities.image.test_encoder import GREY, RGB, Conv, tiny_vit
from tests.modalities.image.test_export import expected, trained

tf = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refused(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)


def moved(encoder: ImageEncoder) -> ImageEncoder:
    """With norms and positions that are not those of a new network, so that none can be left out unseen."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return trained(encoder)


MADE = {
    "resnet18@0.125": lambda: make_encoder("resnet18@0.125", 96, RGB),
    "resnet50@0.125": lambda: make_encoder("resnet50@0.125", 96, GREY),
    "vit of timm": lambda: own_encoder(tiny_vit("timm"), 32, RGB),
    "vit of torchvision": lambda: own_encoder(tiny_vit("torchvision"), 32, RGB),
    "resnet10t@0.1": lambda: make_encoder("resnet10t@0.1", 96, RGB),
}


def reloaded(folder, encoder, pixels):
    """What AutoModel makes of pixels that are normalised by hand."""
    model = tf.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    mean, std = (torch.tensor(encoder.spec["stats"][key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        return model, model((pixels - mean) / std)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnet18@0.125", "ResNetModel"),
        ("resnet50@0.125", "ResNetModel"),
        ("vit of timm", "ViTModel"),
        ("vit of torchvision", "ViTModel"),
        ("resnet10t@0.1", "TimmWrapperModel"),
    ],
)
def test_automodel_gives_the_vectors_of_the_encoder(name, kind, tmp_path):
    encoder = moved(MADE[name]())
    facts = export(encoder, "transformers", tmp_path / "hub")
    assert facts["difference"] <= 1e-5 and facts["class"] == kind
    pixels = torch.rand(3, *facts["input_size"])
    model, out = reloaded(tmp_path / "hub", encoder, pixels)
    assert type(model).__name__ == kind
    vectors = out.pooler_output.flatten(1)
    torch.testing.assert_close(vectors, expected(encoder, pixels), atol=1e-5, rtol=1e-5)
    assert "AutoImageProcessor" in facts["snippet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub"]
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "selfsame.json"} == {
        path.name for path in (tmp_path / "hub").iterdir()
    }


def test_the_dense_features_are_those_of_the_encoder_too(tmp_path):
    encoder = moved(MADE["vit of timm"]())
    export(encoder, "transformers", tmp_path / "hub")
    pixels = torch.rand(2, 3, 32, 32)
    _, out = reloaded(tmp_path / "hub", encoder, pixels)
    tokens = encoder.eval().tokens(pixels)
    torch.testing.assert_close(out.last_hidden_state[:, 1:], tokens, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["ViTModel", "TimmWrapperModel"])
def test_the_mean_of_the_tokens_is_the_vector_where_it_was_so(kind, tmp_path, monkeypatch):
    encoder = make_encoder("vit_tiny_patch8_32", 32, RGB)
    encoder.average_tokens()
    if kind == "TimmWrapperModel":  # as of a vision transformer that ViTModel cannot hold
        monkeypatch.setattr(for_transformers, "as_vit", lambda encoder: None)
    facts = export(moved(encoder), "transformers", tmp_path / "hub")
    assert facts["difference"] <= 1e-5 and facts["class"] == kind


def test_its_image_processor_prepares_pictures_as_they_are_read(tmp_path):
    """A picture of another size and shape: the vectors of both ways have a cosine of 0.99 or more."""
    encoder = moved(MADE["resnet18@0.125"]())
    facts = export(encoder, "transformers", tmp_path / "hub")
    rows = torch.linspace(0, 1, 150)[:, None, None] * torch.tensor([250.0, 120, 30])
    picture = (rows + 40 * torch.sin(torch.arange(200) / 9.0)[None, :, None]).clamp(0, 255).byte()
    (tmp_path / "pictures").mkdir()
    Image.fromarray(picture.numpy()).save(tmp_path / "pictures" / "a.png")
    names: dict = {}
    exec(facts["snippet"].replace("'photo.jpg'", f"'{tmp_path}/pictures/a.png'"), names)
    theirs = names["vectors"]
    ours = torch.as_tensor(ss.embed(encoder.eval(), tmp_path / "pictures", workers=0).vectors)
    assert names["pixel_values"].shape == (1, 3, 96, 96)
    assert torch.cosine_similarity(ours, theirs).min() > 0.999


def test_gray_pictures_stay_gray_in_its_image_processor(tmp_path):
    encoder = moved(MADE["resnet50@0.125"]())
    export(encoder, "transformers", tmp_path / "hub")
    processor = tf.AutoImageProcessor.from_pretrained(tmp_path / "hub")
    made = processor([Image.new("L", (120, 100), 128)], return_tensors="pt")["pixel_values"]
    assert made.shape == (1, 1, 96, 96)
    torch.testing.assert_close(made, torch.full_like(made, (128 / 255 - 0.5) / 0.2), atol=1e-4, rtol=1e-4)


def test_half_precision_halves_the_file_and_keeps_the_direction(tmp_path):
    encoder = moved(MADE["vit of timm"]())
    export(encoder, "transformers", tmp_path / "whole")
    facts = export(encoder, "transformers", tmp_path / "half", half=True)
    assert 0.999 <= facts["cosine"] < 1 and facts["difference"] > 1e-6 and facts["options"] == "half"
    held = load_file(tmp_path / "half" / "model.safetensors")
    assert {value.dtype for value in held.values()} == {torch.float16}
    assert tf.AutoModel.from_pretrained(tmp_path / "half").dtype == torch.float16


def test_without_the_library_it_is_written_and_says_that_nothing_was_compared(tmp_path, monkeypatch):
    encoder = moved(MADE["vit of timm"]())
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    facts = export(encoder, "transformers", tmp_path / "hub")
    assert facts["difference"] is None
    assert facts["compared"].startswith("transformers is not installed here, so nothing was compared")
    monkeypatch.undo()
    pixels = torch.rand(2, 3, 32, 32)
    _, out = reloaded(tmp_path / "hub", encoder, pixels)
    torch.testing.assert_close(out.pooler_output, expected(encoder, pixels), atol=1e-5, rtol=1e-5)


def without_batch_norm() -> ImageEncoder:
    encoder = make_encoder("resnet10t@0.1", 96, RGB)
    encoder.use_group_norm()
    return encoder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_encoder("resnet18@0.125", 32, RGB),
            r"7x7 convolution .* for 32 px, with a 3x3 one.*more than 64 px",
        ),
        (lambda: own_encoder(Conv(), 32, RGB), r"no network like Conv.*onnx or torch"),
        (without_batch_norm, "batch norm was replaced"),
        (lambda: make_encoder("torchvision/mobilenet_v3_small", 32, RGB), "all networks of timm"),
    ],
)
def test_what_it_cannot_hold_is_refused_in_one_line(make, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        export(make(), "transformers", tmp_path / "hub")
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_network_that_only_looks_alike_is_not_taken_for_the_usual_one(tmp_path):
    vit = tiny_vit("timm")  # an own network, so that timm's wrapper does not take it either
    for block in vit.blocks:
        block.mlp.act = nn.ReLU()
    with pytest.raises(UserError, match="of the usual form"):
        export(own_encoder(vit, 32, RGB), "transformers", tmp_path / "hub")


def test_a_folder_of_somebody_else_is_left_alone_and_an_earlier_export_is_not(tmp_path):
    encoder = MADE["vit of timm"]()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is there already and is no earlier export"):
        export(encoder, "transformers", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["config.json"]
    with pytest.raises(UserError, match="writes a folder of its own"):
        export(encoder, "transformers", ".")
    export(encoder, "transformers", tmp_path / "hub")
    before = load_file(tmp_path / "hub" / "model.safetensors")
    export(moved(encoder), "transformers", tmp_path / "hub")
    after = load_file(tmp_path / "hub" / "model.safetensors")
    assert before.keys() == after.keys() and not torch.equal(before["layernorm.weight"], after["layernorm.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "mine"]


def test_the_configuration_says_where_the_stride_is(tmp_path):
    """Stride in the 3x3 convolution (v1.5, torchvision's and timm's), widths as they are."""
    export(MADE["resnet50@0.125"](), "transformers", tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["downsample_in_bottleneck"] is False and config["layer_type"] == "bottleneck"
    assert config["hidden_sizes"] == [32, 64, 128, 256] and config["embedding_size"] == 64
    assert config["depths"] == [3, 4, 6, 3] and config["num_channels"] == 1
