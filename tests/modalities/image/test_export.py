import importlib.util
import json

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from selfsame.errors import UserError
from selfsame.modalities.image import exports
from selfsame.modalities.image.encoder import ImageEncoder, make_encoder, own_encoder, save_encoder
from selfsame.modalities.image.exports import export
from tests.modalities.image.test_encoder import GREY, RGB, Conv, images


def trained(encoder: ImageEncoder) -> ImageEncoder:
    """With running statistics that are not those of a new network."""
    encoder.train()(images(8, encoder.spec["channels"], encoder.spec["size"]))
    return encoder


@pytest.fixture(scope="module")
def resnet() -> ImageEncoder:
    torch.manual_seed(0)
    return trained(make_encoder("resnet18", 32, GREY))


def expected(encoder: ImageEncoder, pixels: Tensor) -> Tensor:
    was = encoder.training
    encoder.eval()
    with torch.no_grad():
        vectors = encoder(pixels)
    encoder.train(was)
    return vectors


@pytest.mark.parametrize("to", ["timm", "torchvision"])
def test_the_snippet_loads_a_small_stem_in_either_library(resnet, to, tmp_path):
    facts = export(resnet, to, tmp_path / "net")
    names: dict = {}
    with torch.no_grad():
        exec(facts["snippet"], names)
    assert f"import {to}" in facts["snippet"] and "selfsame" not in facts["snippet"].replace(str(tmp_path), "")
    torch.testing.assert_close(names["vectors"], expected(resnet, names["pixels"]), atol=1e-5, rtol=1e-5)
    assert resnet.training  # the encoder itself is as it was
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    held = json.loads((tmp_path / "net.json").read_text())
    assert held["input_size"] == [1, 32, 32] and held["mean"] == [0.5] and held["snippet"] == facts["snippet"]


@pytest.mark.parametrize(("name", "side"), [("vit_tiny_patch8_32", 32), ("resnet10t@0.5", 96)])
def test_timm_loads_its_networks_in_one_call(name, side, tmp_path):
    encoder = trained(make_encoder(name, side, RGB))
    facts = export(encoder, "timm", tmp_path / "net.safetensors")
    model = timm.create_model(facts["name"], **facts["kwargs"], checkpoint_path=str(tmp_path / "net.safetensors"))
    pixels = torch.rand(2, 3, side, side)
    mean, std = (torch.tensor(facts[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(model.eval()((pixels - mean) / std), expected(encoder, pixels), atol=1e-5, rtol=1e-5)


def test_a_plain_torchvision_network_takes_the_file_as_it_is(tmp_path):
    encoder = trained(make_encoder("resnet18", 96, RGB))
    export(encoder, "torchvision", tmp_path / "net")
    model = torchvision.models.resnet18(weights=None)
    model.fc = nn.Identity()
    model.load_state_dict(load_file(tmp_path / "net.safetensors"))
    pixels = torch.rand(2, 3, 96, 96)
    vectors = model.eval()(encoder.normalised(pixels))
    torch.testing.assert_close(vectors, expected(encoder, pixels), atol=1e-5, rtol=1e-5)


def test_torchvision_networks_go_to_timm_where_they_are_the_same(tmp_path):
    encoder = trained(make_encoder("torchvision/resnet18", 32, RGB))
    assert export(encoder, "timm", tmp_path / "net")["difference"] <= 1e-5
    with pytest.raises(UserError, match="no network like torchvision's mobilenet_v3_small"):
        export(make_encoder("torchvision/mobilenet_v3_small", 32, RGB), "timm", tmp_path / "other")


def test_the_same_name_with_other_weights_is_refused(tmp_path):
    encoder = make_encoder("efficientnet_b0", 32, RGB)  # of timm, whose layers have other names
    with pytest.raises(UserError, match="does not take the weights"):
        export(encoder, "torchvision", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_libraries_refuse_what_is_not_theirs(tmp_path):
    with pytest.raises(UserError, match=r"your own.*onnx or torch"):
        export(own_encoder(Conv(), 32, RGB), "timm", tmp_path / "net")
    encoder = make_encoder("resnet18", 32, GREY)
    encoder.use_group_norm()
    with pytest.raises(UserError, match="batch norm was replaced"):
        export(encoder, "torchvision", tmp_path / "net")


def test_the_mean_of_the_tokens_is_exported_to_timm(tmp_path):
    encoder = make_encoder("vit_tiny_patch8_32", 32, RGB)
    encoder.average_tokens()
    facts = export(encoder, "timm", tmp_path / "net")
    assert facts["difference"] <= 1e-5 and "global_pool = 'avg'" in facts["snippet"]


def test_torchvision_cannot_hold_the_mean_of_the_tokens(tmp_path):
    encoder = own_encoder(torchvision.models.VisionTransformer(32, 8, 1, 2, 32, 64), 32, RGB)
    encoder.spec |= {"library": "torchvision", "name": "vit_b_16"}
    encoder.average_tokens()
    with pytest.raises(UserError, match="mean of its patch tokens"):
        export(encoder, "torchvision", tmp_path / "net")


def test_a_saved_program_takes_any_batch_of_unnormalised_pixels(tmp_path):
    torch.manual_seed(0)
    encoder = trained(own_encoder(Conv(), 16, RGB))
    facts = export(encoder, "torch", tmp_path / "net")
    program = torch.export.load(tmp_path / "net.pt2").module()
    for batch in (1, 5):
        pixels = torch.rand(batch, 3, 16, 16)
        torch.testing.assert_close(program(pixels), expected(encoder, pixels), atol=1e-5, rtol=1e-4)
    assert "not normalised" in facts["input"] and facts["difference"] <= 1e-4


def test_an_onnx_file_takes_any_batch_of_unnormalised_pixels(tmp_path, capfd):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    encoder = trained(own_encoder(Conv(), 16, RGB))
    encoder.use_group_norm()
    facts = export(encoder, "onnx", tmp_path / "net.onnx")
    assert capfd.readouterr().out == ""
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        pixels = torch.rand(batch, 3, 16, 16)
        (vectors,) = session.run(None, {"pixels": pixels.numpy()})
        torch.testing.assert_close(torch.from_numpy(vectors), expected(encoder, pixels), atol=1e-4, rtol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.onnx"]
    assert facts["difference"] <= 1e-4


def test_without_onnx_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"selfsame\[onnx\]"):
        export(own_encoder(Conv(), 16, RGB), "onnx", tmp_path / "net")


def test_an_export_that_differs_is_not_kept(resnet, tmp_path, monkeypatch):
    save = exports.save_file
    monkeypatch.setattr(
        exports, "save_file", lambda state, file: save({**state, "bn1.bias": state["bn1.bias"] + 0.01}, file)
    )
    with pytest.raises(UserError, match="differ by"):
        export(resnet, "timm", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_wrong_names_are_refused(resnet, tmp_path):
    with pytest.raises(UserError, match="onnx"):
        export(resnet, "onxx", tmp_path / "net")
    with pytest.raises(UserError, match=r"net\.onnx"):
        export(resnet, "onnx", tmp_path / "net.pt2")
    save_encoder(resnet, tmp_path)
    with pytest.raises(UserError, match=r"is no earlier export, so encoder.safetensors needs another name"):
        export(resnet, "timm", tmp_path / "encoder")


def test_a_narrow_network_is_not_taken_for_the_whole_one(tmp_path):
    encoder = make_encoder("resnet18@0.1", 32, RGB)
    with pytest.raises(UserError, match=r"no network like timm's resnet18 with \{'channels': \[8, 16, 24, 48\]\}"):
        export(encoder, "torchvision", tmp_path / "net")


def test_a_file_of_somebody_else_beside_it_is_left_alone_and_an_earlier_export_is_not(tmp_path):
    encoder = trained(make_encoder("resnet10t@0.1", 32, RGB))
    (tmp_path / "model.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"model.json is there already"):
        export(encoder, "timm", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    for _ in range(2):
        export(encoder, "timm", tmp_path / "other")
