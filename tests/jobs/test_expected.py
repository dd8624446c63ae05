import json

import pytest

import selfsame as ss
from selfsame.jobs import expected as module
from selfsame.jobs.expected import Curve, curves, expected, standing
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
    small = {"epochs": 1, "batch_size": 16, "workers": 0, "sample": 32}
    run = ss.pretrain(pictures, preset="quick", out=tmp_path / "run", **small)
    assert run.result["expected"]["verdict"] in ("on", "below")
    assert run.result["expected"]["sentence"].split(" (")[0] in " ".join(capsys.readouterr().err.split())
    other = ss.pretrain(pictures, preset="quick", out=tmp_path / "other", **QUICK)  # another encoder, other settings
    assert "expected" not in other.result


def test_stored_curves_are_of_methods_and_presets_that_exist():
    from selfsame import methods

    for curve in curves():
        assert curve.preset in methods.load(curve.method).known_presets()
        assert [p.samples for p in curve.points] == sorted(p.samples for p in curve.points)
        assert json.loads(curve.model_dump_json())["command"].startswith("python bench/")
