import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

import selfsame as ss
from selfsame.errors import UserError
from selfsame.modalities.image import exports
from selfsame.modalities.image.encoder import ImageEncoder, make_encoder, own_encoder, save_encoder
from selfsame.modalities.image.exports import export
from selfsame.modalities.image.views import plain_box
from selfsame.storage import exports as whole_exports
from tests import nets
from tests.modalities.image.test_encoder import GREY, RGB, Conv, images, tiny_vit


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
    assert (
        held["input_size"] == [1, 32, 32]
        and held["mean"] == [0.5]
        and held["crop"] == 1
        and held["snippet"] == facts["snippet"]
    )


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


# Options --------------------------------------------------------------------------------------------------------------


def outputs(file, to, given: Tensor) -> list[Tensor]:
    """What a file gives, loaded by hand."""
    if to == "torch":
        with torch.no_grad():
            out = torch.export.load(file).module()(given)
        return [out] if isinstance(out, Tensor) else list(out)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(one) for one in session.run(None, {"pixels": given.numpy()})]


@pytest.fixture(scope="module")
def conv() -> ImageEncoder:
    torch.manual_seed(0)
    return trained(own_encoder(Conv(), 16, RGB))


@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_dense_features_come_beside_the_vector(conv, to, tmp_path):
    """Golden: the largest difference is 1e-5 or less in full precision."""
    if to == "onnx":
        pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    facts = export(conv, to, tmp_path / "net", maps=True)
    assert facts["maps"] == [
        {"channels": 8, "places": [16, 16], "stride": [1.0, 1.0]},
        {"channels": 6, "places": [8, 8], "stride": [2.0, 2.0]},
    ]
    pixels = torch.rand(3, 3, 16, 16)
    vector, *maps = outputs(facts["files"][0], to, pixels)
    conv.eval()
    with torch.no_grad():
        assert (vector - conv(pixels)).abs().max() <= 1e-5
        for one, other in zip(maps, conv.maps(pixels), strict=True):
            assert one.shape == other.shape and (one - other).abs().max() <= 1e-5
    assert facts["difference"] <= 1e-5 and facts["options"] == "maps"


def test_a_file_with_preprocessing_takes_stored_pictures_of_any_size(tmp_path):
    """The vectors are those that the package reads pictures to: cosine 0.999 or more, of wide ones and high ones."""
    pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    encoder = trained(own_encoder(Conv(), 72, RGB))  # over 64 px a plain view leaves out an eighth of the short side
    facts = export(encoder, "onnx", tmp_path / "net", preprocessing="hwc")
    assert "uint8 [b, h, w, c] of any height and width" in facts["input"]
    for height, width in ((90, 140), (150, 80), (60, 61)):
        rows = torch.linspace(0, 1, height)[:, None, None] * torch.tensor([250.0, 120, 30])
        picture = (rows + 60 * torch.sin(torch.arange(width) / 5.0)[None, :, None]).clamp(0, 255).byte()
        np.save(tmp_path / "picture.npy", picture[None].numpy())
        ours = torch.as_tensor(ss.embed(encoder.eval(), tmp_path / "picture.npy", workers=0).vectors)
        (theirs,) = outputs(facts["files"][0], "onnx", picture[None])
        assert torch.cosine_similarity(ours, theirs).min() > 0.999
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)


def test_channels_may_come_first_and_values_may_be_deep(tmp_path):
    encoder = trained(own_encoder(Conv(), 16, replace(RGB, bits=16, white=4095)))
    facts = export(encoder, "torch", tmp_path / "net", preprocessing="chw")
    (vectors,) = outputs(facts["files"][0], "torch", torch.full((2, 3, 20, 30), 4095).to(torch.uint16))
    torch.testing.assert_close(vectors, expected(encoder, torch.ones(2, 3, 16, 16)), atol=1e-4, rtol=1e-4)


def test_the_middle_square_is_cut_and_resized_as_torch_does():
    """Golden: F.interpolate's antialiased bicubic of the middle square, for sizes of both kinds."""
    for size, (height, width) in ((16, (40, 25)), (16, (9, 12)), (80, (100, 130)), (80, (80, 80))):
        stored = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
        ((top, left, side, _),) = plain_box(height, width, size).tolist()
        square = stored[..., top : top + side, left : left + side].float()
        wanted = F.interpolate(square, (size, size), mode="bicubic", antialias=True).clamp(0, 255) / 255
        torch.testing.assert_close(exports.Cut(size, "chw", 255.0)(stored), wanted, atol=1e-5, rtol=1e-4)
        rows = stored.permute(0, 2, 3, 1)
        assert torch.equal(exports.Cut(size, "hwc", 255.0)(rows), exports.Cut(size, "chw", 255.0)(stored))


@pytest.mark.parametrize("name", ["conv", "vit"])
def test_a_file_of_any_size_takes_larger_and_smaller_views(name, conv, tmp_path):
    encoder = conv if name == "conv" else own_encoder(nets.tokens(), 32, RGB)
    facts = export(encoder, "torch", tmp_path / "net", any_size=True)
    multiple = 1 if name == "conv" else 8
    axis = {"least": 8 if name == "conv" else 16, "multiple_of": multiple, "most": None}
    assert facts["axes"] == {"rows": axis, "columns": axis}
    for height, width in ((16, 24), (40, 32)):
        pixels = torch.rand(2, 3, height, width)
        (vectors,) = outputs(facts["files"][0], "torch", pixels)
        torch.testing.assert_close(vectors, expected(encoder, pixels), atol=1e-5, rtol=1e-4)


def test_half_precision_gives_nearly_the_same_vectors(conv, tmp_path):
    facts = export(conv, "torch", tmp_path / "net", half=True, maps=True)
    assert 0.999 <= facts["cosine"] < 1
    pixels = torch.rand(4, 3, 16, 16)
    vector, *_ = outputs(facts["files"][0], "torch", pixels)
    assert vector.dtype == torch.float32
    assert torch.cosine_similarity(vector, expected(conv, pixels)).min() > 0.999
    assert {value.dtype for value in torch.export.load(facts["files"][0]).state_dict.values() if value.ndim} == {
        torch.float16
    }


def test_half_precision_that_turns_vectors_is_not_kept(conv, tmp_path, monkeypatch):
    monkeypatch.setattr(whole_exports, "COSINE", 1.1)
    with pytest.raises(UserError, match=r"agree to a cosine of [01]\.\d+; .*Leave --half out"):
        export(conv, "torch", tmp_path / "net", half=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("timm", {"maps": True}, "--to timm has no options, and maps was asked for"),
        ("transformers", {"any_size": True}, "any-size was asked for"),
        ("ultralytics", {"half": True}, "half was asked for.*transformers takes half too"),
        ("torch", {"preprocessing": "hwc", "any_size": True}, "of any size already"),
    ],
)
def test_options_that_go_nowhere_are_refused(conv, to, options, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        export(conv, to, tmp_path / "net", **options)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_networks_without_maps_or_of_one_size_say_so(tmp_path):
    with pytest.raises(UserError, match="Flat has no maps"):
        export(own_encoder(Flat(), 8, RGB), "torch", tmp_path / "net", maps=True)
    with pytest.raises(UserError, match="takes views of one size alone"):
        export(own_encoder(tiny_vit("torchvision"), 32, RGB), "torch", tmp_path / "net", any_size=True)
    with pytest.raises(UserError, match=r"Flat cannot be exported to torch with any-size: .* Leave that out"):
        export(own_encoder(Flat(), 8, RGB), "torch", tmp_path / "net", any_size=True)
    assert list(tmp_path.iterdir()) == []


class Flat(nn.Module):
    """A product with all pixels: of one size, without saying so."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))
