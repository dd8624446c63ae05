import json

import pytest

import selfsame as ss
from selfsame import cli
from selfsame.engine.stopwatch import PARTS
from selfsame.jobs.profiling import verdict
from tests.conftest import QUICK


def test_every_part_is_timed_and_nothing_is_left_behind(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = ss.profile(pictures, steps=3, **QUICK)
    assert list(result["parts"]) == list(PARTS)
    assert all(result["parts"][part] > 0 for part in PARTS)
    assert result["items_per_second"] == pytest.approx(16 / sum(result["parts"].values()))
    assert set(result["reading"]) == {"from the files", "from the cache"}
    files, cache = result["reading"].values()
    assert list(files) == list(cache) == ["read", "decode", "cut"]
    assert 0 < cache["decode"] < files["decode"]
    assert list(tmp_path.iterdir()) == []
    shown = capsys.readouterr().err
    assert all(part in shown for part in PARTS) and "items/s" in shown


def test_it_is_a_command_and_takes_the_flags_of_pretrain(pictures, capsys):
    flags = ["--encoder", "tests.nets:tiny", "--size", "16", "--steps", "1", "--workers", "0", "--cache", "0"]
    assert cli.main(["profile", str(pictures), *flags, "--method.hidden", "16", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["size"] == 16 and list(result["reading"]) == ["from the files"]


def test_wrong_settings_are_refused_as_pretrain_refuses_them(pictures, tmp_path):
    with pytest.raises(ss.UserError, match="batch-size 1000 is larger"):
        ss.profile(pictures, **{**QUICK, "batch_size": 1000})
    with pytest.raises(ss.UserError, match="no such file"):
        ss.profile(tmp_path / "nowhere")


@pytest.mark.parametrize(("waiting", "said"), [(0.001, "Reading keeps up"), (0.5, "Give more --workers")])
def test_it_says_what_holds_the_training_up(waiting, said):
    parts = dict.fromkeys(PARTS, 0.01) | {"waiting": waiting}
    reading = {"from the files": {"read": 0.001, "decode": 0.006, "cut": 0.003}}
    line = verdict({"parts": parts, "reading": reading, "batch": 64, "workers": 2, "items_per_second": 100})
    assert said in line and "2 processes can read about 200" in line
