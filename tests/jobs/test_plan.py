import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import selfsame as ss
from selfsame import cli
from selfsame.engine.cards import CARDS
from selfsame.engine.cost import priced
from selfsame.jobs.checked import checked
from selfsame.jobs.planning import asked_of, at_rest, counted_of, fitting, opened, size, too_large
from selfsame.jobs.pretrain import Pretrain
from tests.conftest import QUICK

SETTINGS = {key: value for key, value in QUICK.items() if key != "precision"}
FLAGS = ["--encoder", "tests.nets:tiny", "--size", "16", "--batch-size", "16", "--workers", "0"]
FLAGS += ["--epochs", "2", "--method.hidden", "16", "--method.out", "8"]


def plan(data, **changes):
    return ss.plan(data, **{**SETTINGS, **changes})


def test_a_job_is_priced_from_the_command_line_and_leaves_nothing_behind(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", str(pictures), *FLAGS, "--gpus", "4", "--gpu", "A100", "--json"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["gpus"] == 4 and result["card"]["name"] == "A100 80GB SXM" and result["precision"] == "bf16"
    assert result["job"]["batch"] == 16 and result["cost"]["compute"]["items"] == 4
    assert result["cost"]["total"]["steps"] == result["job"]["steps"] == 8  # 2 passes of 61 items in batches of 16
    stored = np.mean([path.stat().st_size for path in pictures.glob("*/*.png")])
    assert result["job"]["at_rest"] == pytest.approx(stored, rel=0.05)  # without the held-out ones
    assert result["job"]["read_cache"] > 0 and result["job"]["read_files"] > 0
    for word in ("This is a model", "Measured", "Published", "Assumed", "GPU-hours", "cores a GPU"):
        assert word in shown.err
    assert list(tmp_path.iterdir()) == []


def test_without_gpus_this_machine_is_measured(pictures, capsys):
    result = plan(pictures, items=1600)
    found = result["measured"]
    assert found["step"] > 0 and found["seconds"] == pytest.approx(found["step"] * result["job"]["steps"])
    assert result["job"]["steps"] == 200 and result["job"]["items"] == 1600
    assert found["flops"] > 0 and found["memory"] > 2**20
    assert "Measured on" in capsys.readouterr().err


def test_as_if_there_were_more_items_all_grows_but_what_belongs_to_a_step(pictures):
    one, ten = (plan(pictures, gpus=2, items=items)["cost"] for items in (10_000, 100_000))
    for part, name in (("total", "steps"), ("storage", "items"), ("storage", "cache"), ("total", "gpu_hours")):
        assert ten[part][name] == pytest.approx(10 * one[part][name], rel=1e-3), name
    assert ten["memory"] == one["memory"] and ten["total"]["step"] == one["total"]["step"]


def test_arrays_are_priced_by_their_own_bytes_and_need_no_cache(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (64, 20, 20, 3), dtype=np.uint8))
    result = plan(tmp_path / "x.npy", gpus=1)
    assert result["job"]["at_rest"] == 1200 and result["job"]["cached"] is None
    assert result["cost"]["feeding"]["cores_cache"] is None
    assert result["cost"]["network"]["exchanges"] == 0


def test_a_zip_is_priced_by_its_bytes_as_they_are_stored(pictures, tmp_path):
    shutil.make_archive(str(tmp_path / "all"), "zip", pictures)
    found = at_rest(opened(checked(Pretrain, {"data": str(tmp_path / "all.zip"), **SETTINGS}), None))
    with zipfile.ZipFile(tmp_path / "all.zip") as file:
        stored = [member.compress_size for member in file.infolist() if not member.is_dir()]
    assert found == pytest.approx(np.mean(stored), rel=0.05)  # without the held-out ones


@pytest.mark.parametrize(
    ("batch", "gpus", "said", "taken"),
    [(16, 3, "cannot be divided over 3 GPUs", 15), (16, 16, "fewer than 2 items", 32), (16, 30, "fewer than 2", 60)],
)
def test_a_batch_that_does_not_fit_is_said_and_the_nearest_is_taken(pictures, batch, gpus, said, taken):
    work = opened(checked(Pretrain, {"data": str(pictures), **SETTINGS, "batch_size": batch}), None)
    _, problems = fitting(work, gpus)
    assert said in problems[0] and f"--batch-size {taken}," in problems[0]
    assert work.loop.batch == taken


def test_a_problem_is_part_of_the_answer_and_shown(pictures, capsys):
    result = plan(pictures, gpus=3)
    assert "cannot be divided over 3 GPUs" in result["problems"][0]
    assert result["job"]["batch"] == 15 and result["cost"]["compute"]["items"] == 5
    assert "caution: --batch-size 16 cannot be divided" in " ".join(capsys.readouterr().err.split())


def test_what_does_not_fit_into_the_card_is_said_with_the_cures(pictures):
    settings = {"items": 10**6, "batch_size": 2**14, "size": 224, "gpus": 1, "gpu": "rtx3090"}
    result = plan(pictures, **settings)
    memory, text = result["cost"]["memory"], " ".join(result["problems"])
    assert memory["total"] > memory["room"] and "do not fit" in text and "--checkpoint-activations" in text
    turns = int(text.split("--accumulate ")[1].split(";")[0])
    cured = plan(pictures, **settings, accumulate=turns)
    assert cured["cost"]["memory"]["total"] <= memory["room"]
    assert not any("do not fit" in problem for problem in cured["problems"])


@pytest.mark.parametrize(
    ("steady", "growing", "said", "unsaid"),
    [(90, 5, "too large alone: divide them, --shard", "--accumulate"), (30, 100, "--accumulate 3", "--shard"),
     (70, 20, "or --shard", "divide them")],
)  # fmt: skip
def test_the_cure_goes_by_what_fills_the_card(pictures, steady, growing, said, unsaid):
    """Of a card with room for 72 GiB; sizes in GiB."""
    work = opened(checked(Pretrain, {"data": str(pictures), **SETTINGS}), 10_000)
    fitting(work, 1)
    found = counted_of(work, work.method.build(work.decided()), 16, 1)
    large = replace(found, weights=steady * 2**30, kept=0, gradients=0, views=0, peak=growing * 2**30)
    text = too_large(work, priced(large, asked_of(work), CARDS["h100"], 1), CARDS["h100"])
    assert said in text and unsaid not in text


def test_more_than_it_can_say_is_said(pictures):
    assert any("--compile" in problem for problem in plan(pictures, gpus=1, compile=True)["problems"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gpus", "-1"], "greater than or equal to 0"),
        (["--gpus", "2", "--gpu", "h10"], "unknown card 'h10'. Did you mean"),
        (["--gpu", "h100"], "--gpu h100 needs --gpus N"),
        (["--network", "10"], "--network 10.0 needs --gpus N"),
        (["--gpus", "2", "--network", "0"], "greater than 0"),
        (["--gpus", "2", "--items", "3"], "greater than or equal to 4"),
        (["--gpus", "64"], "fewer than the least that would do (128)"),
    ],
)
def test_wrong_input_is_refused_in_one_line(pictures, capsys, flags, said):
    assert cli.main(["plan", str(pictures), *FLAGS, *flags]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and said in line


def test_a_missing_path_is_refused_as_pretrain_refuses_it(tmp_path):
    with pytest.raises(ss.UserError, match="no such file"):
        plan(tmp_path / "nowhere", gpus=8)


def test_processes_of_torchrun_are_told_to_stay_at_home(pictures, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ss.UserError, match="without torchrun"):
        plan(pictures, gpus=2)


@pytest.mark.parametrize(("count", "shown"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (4.5158e14, "452 TB")])
def test_bytes_are_shown_as_a_person_reads_them(count, shown):
    assert size(count) == shown
