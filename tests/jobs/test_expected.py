import json
import re

import pytest

import selfsame as ss
from selfsame import methods
from selfsame.jobs import expected as module
from selfsame.jobs.expected import Curve, beside, curves, expected, standing
from selfsame.jobs.methods import described
from selfsame.jobs.pretrain import Pretrain
from selfsame.records import Preset
from tests.conftest import QUICK

CURVE = Curve(
    method="byol",
    preset="quick",
    data="CIFAR-10",
    command="python bench/methods.py",
    machine="a machine",
    seeds=2,
    points=(
        {"samples": 0, "agreement": (0.1, 0.0), "rank": (10.0, 0.0)},
        {"samples": 1000, "agreement": (0.3, 0.02), "rank": (30.0, 1.0)},
    ),
    final="k-NN 40.0 %",
)


def test_between_looks_the_curve_is_a_line_and_beyond_it_nothing_is_known():
    found = expected(CURVE, 500)
    assert found["agreement"][0] == pytest.approx(0.2) and found["rank"][0] == pytest.approx(20)
    assert found["agreement"][1] == pytest.approx(2 * 0.02 + 0.05) and found["rank"][1] == pytest.approx(2 + 0.15 * 20)
    assert expected(CURVE, 1001) is None


@pytest.mark.parametrize(
    ("agreement", "rank", "verdict"),
    [
        (0.3, 30, "on"),
        (0.22, 26, "on"),
        (0.2, 30, "below"),
        (0.3, 20, "below"),
        (0.9, 99, "on"),
        (float("nan"), 30, "below"),
    ],
)
def test_a_run_is_on_its_curve_or_below_it(agreement, rank, verdict):
    found = standing(CURVE, [(0, {"agreement": 0.1, "rank": 10}), (1000, {"agreement": agreement, "rank": rank})])
    assert found["verdict"] == verdict and found["samples"] == 1000
    assert "k-NN 40.0 %" in found["sentence"] and ("BELOW" in found["sentence"]) == (verdict == "below")


def test_looks_beyond_the_curve_are_not_judged_and_random_weights_neither():
    looks = [
        (0, {"agreement": 0.1, "rank": 10}),
        (900, {"agreement": 0.3, "rank": 30}),
        (2000, {"agreement": 0, "rank": 0}),
    ]
    assert standing(CURVE, looks)["samples"] == 900
    assert standing(CURVE, looks[:1]) is None


def test_a_run_with_a_preset_says_where_it_stands(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "curves", lambda: (CURVE,))
    quick = Preset(source="here", training={"encoder": "tests.nets:tiny", "size": 16, "batch_size": 16}, derived=True)
    monkeypatch.setattr(methods.BYOL, "presets", {**methods.BYOL.presets, "quick": quick})
    run = ss.pretrain(pictures, preset="quick", out=tmp_path / "run", epochs=1, workers=0, sample=32)
    assert run.result["expected"]["verdict"] in ("on", "below")
    told = run.result["expected"]["sentence"].split(" (")[0]
    assert told in " ".join(capsys.readouterr().err.split())
    assert told in (run.folder / "report.html").read_text()


def test_a_run_with_other_settings_than_its_preset_is_not_compared_and_says_why(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "curves", lambda: (CURVE,))
    run = ss.pretrain(pictures, preset="quick", out=tmp_path / "run", **{**QUICK, "epochs": 1})
    assert run.result["expected"]["verdict"] == "unknown"
    assert re.match(
        r"not compared with other runs of preset quick: --encoder, --size, .* differ from it. "
        r"Measured: CIFAR-10: k-NN 40.0 % \(2 seeds, a machine\).",
        run.result["expected"]["sentence"],
    )
    assert "expected" not in ss.pretrain(pictures, out=tmp_path / "without", **{**QUICK, "epochs": 1}).result


def test_a_preset_that_was_not_measured_says_so_and_what_its_source_reached():
    found = beside("byol", "imagenet", "ImageNet, ResNet-50, linear: 74.3 % top-1", [], [])
    assert found["verdict"] == "unknown"
    assert found["sentence"] == (
        "there is no measured curve of preset imagenet to compare this run with. "
        "Published: ImageNet, ResNet-50, linear: 74.3 % top-1."
    )


@pytest.mark.parametrize(
    ("preset", "given", "odd"),
    [
        ("quick", {}, []),
        ("quick", {"epochs": 9, "seed": 3, "workers": 0}, []),
        ("quick", {"lr": 0.5}, ["lr"]),
        ("quick", {"encoder": "resnet50", "views": "weak"}, ["encoder", "views"]),
        ("quick", {"method": {"name": "byol", "momentum": 0.996}}, ["method.momentum"]),  # it would be derived
        ("cifar", {"method": {"name": "byol", "momentum": 0.99}}, []),
        ("cifar", {"method": {"name": "byol", "momentum": 0.9, "out": 64}}, ["method.out", "method.momentum"]),
        ("cifar", {"optimizer": "adamw"}, ["optimizer"]),
    ],
)
def test_what_is_not_as_the_preset_says_is_named(preset, given, odd):
    assert Pretrain(data="somewhere", preset=preset, **given).beside_preset == odd


@pytest.mark.parametrize("name", methods.names())
def test_a_run_with_nothing_but_a_preset_is_as_the_preset_says(name):
    for preset in methods.load(name).known_presets():
        assert Pretrain(data="somewhere", method=name, preset=preset).beside_preset == []


def test_what_was_measured_stands_beside_a_preset(capsys):
    presets = described(methods.BYOL)["presets"]
    assert re.search(r"k-NN \d\d\.\d %, linear \d\d\.\d % .random weights .*2 cores", presets["quick"]["measured"])
    assert described(methods.ReLIC)["presets"]["gpu"]["measured"] == "not with this method"
    assert presets["imagenet"]["measured"] == "" and "74.3" in presets["imagenet"]["published"]


def test_stored_curves_are_of_methods_and_presets_that_exist():
    for curve in curves():
        assert curve.preset in methods.load(curve.method).known_presets()
        assert curve.seeds and re.match(r"k-NN \d+\.\d %, linear \d+\.\d % .random weights", curve.final)
        assert [p.samples for p in curve.points] == sorted(p.samples for p in curve.points)
        assert json.loads(curve.model_dump_json())["command"].startswith("python bench/")
