import json

import pytest
import torch

import selfsame as ss
from selfsame.cli import main
from tests.conftest import QUICK
from tests.nets import tiny


@pytest.fixture(scope="module")
def resnet(pictures, tmp_path_factory):
    """The folder of a run around a network that timm knows."""
    out = tmp_path_factory.mktemp("exports") / "run"
    settings = {"size": 16, "epochs": 1, "batch_size": 16, "workers": 0, "precision": "fp32"}
    method = {"name": "byol", "hidden": 16, "out": 8}
    return ss.pretrain(pictures, out=out, encoder="resnet10t", method=method, **settings).folder


def test_a_weight_file_for_timm_lies_in_the_run_folder_and_loads_there(resnet):
    import timm
    from safetensors.torch import load_file

    result = ss.export(ss.Run(resnet), "timm")
    assert result["out"] == str(resnet / "export" / "timm.safetensors") and result["difference"] < 1e-4
    weights = load_file(result["out"])
    model = timm.create_model("resnet10t", num_classes=0)
    fits = [
        name for name, value in model.state_dict().items() if name in weights and weights[name].shape == value.shape
    ]
    assert len(fits) > 0.9 * len(model.state_dict())
    assert "timm" in result["snippet"]


def test_the_whole_encoder_for_torch_gives_the_same_outputs(finished, tmp_path):
    result = ss.export(finished, "torch", tmp_path / "x.pt2")
    assert [str(tmp_path / "x.pt2")] == [str(file) for file in result["files"]][:1]
    program = torch.export.load(tmp_path / "x.pt2").module()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(program(x), ss.load(finished)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_the_command_prints_one_json_document_and_nothing_else(finished, tmp_path, capfd, to):
    if to == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    out = tmp_path / {"torch": "x.pt2", "onnx": "x.onnx"}[to]
    assert main(["export", str(finished), "--to", to, "--out", str(out), "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["out"] == str(out) and out.stat().st_size > 0
    assert 0 <= result["difference"] < 1e-3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"to": "tim"},
            r"--to 'tim': input should be 'timm', 'torchvision', 'transformers', 'ultralytics', .* 'onnx' or 'torch'",
        ),
        ({"run": "none"}, "there is no folder none"),
        ({"to": "timm"}, "tests.nets:tiny"),  # no network of timm
        ({"to": "transformers"}, "no network like tests.nets:tiny"),
        ({"preprocessing": "whc"}, r"--preprocessing 'whc': input should be 'hwc' or 'chw'"),
        ({"to": "timm", "maps": True}, "--to timm has no options, and maps was asked for"),
    ],
)
def test_wrong_input_is_said_in_one_line(finished, tmp_path, given, message):
    with pytest.raises(ss.UserError, match=message) as error:
        ss.export(**{"run": finished, "to": "torch", "out": tmp_path / "x", **given})
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_path_through_a_file_is_refused(finished, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ss.UserError, match=r"cannot write .*a part of this path is a file"):
        ss.export(finished, "torch", tmp_path / "file" / "x.pt2")


def test_a_network_given_in_python_is_exported_with_it(pictures, tmp_path):
    run = ss.pretrain(pictures, out=tmp_path / "run", **{**QUICK, "encoder": tiny()})
    with pytest.raises(ss.UserError, match="encoder=module"):
        ss.export(run, "torch")
    result = ss.export(run, "torch", tmp_path / "net", encoder=tiny())
    assert result["out"] == str(tmp_path / "net.pt2") == result["files"][0]


def test_options_name_the_file_and_are_passed_on(resnet, capfd):
    command = ["export", str(resnet), "--to", "torch", "--maps", "--preprocessing", "hwc", "--json"]
    assert main(command) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["out"] == str(resnet / "export" / "torch-maps-preprocessing.pt2")
    pictures = torch.randint(0, 256, (2, 20, 30, 3), dtype=torch.uint8)
    with torch.no_grad():
        vector, *maps = torch.export.load(result["out"]).module()(pictures)
    assert vector.shape == (2, result["dim"]) and [one.shape[1] for one in maps] == [
        one["channels"] for one in result["maps"]
    ]


def test_a_folder_is_the_result_of_a_folder_and_what_is_not_compared_is_said(pictures, tmp_path, capsys):
    run = ss.pretrain(pictures, out=tmp_path / "run", **{**QUICK, "encoder": "resnet18@0.125", "size": 72})
    capsys.readouterr()
    result = ss.export(run, "mmdetection")
    folder = run.folder / "export" / "mmdetection"
    assert result["out"] == str(folder) and str(folder / "config.py") in result["files"]
    if result["difference"] is None:
        assert "so nothing was compared" in capsys.readouterr().err
