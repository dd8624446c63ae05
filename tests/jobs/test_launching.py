"""`pretrain` that starts its own processes. What several processes compute together: tests/processes.py."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import selfsame as ss
from selfsame.cli import main
from selfsame.engine import dist, plan
from selfsame.engine.loop import Interrupted
from selfsame.errors import TrainingStopped
from selfsame.jobs import launching
from selfsame.jobs.pretrain import Pretrain
from selfsame.methods.byol import BYOL
from selfsame.modalities import image
from selfsame.records import Method
from tests import scenes
from tests.conftest import QUICK, paint
from tests.forked import Forked

ROOT = Path(__file__).parents[2]
SETTINGS = {**QUICK, "optimizer": "sgd", "lr": 0.002, "epochs": 12, "device": "cpu"}
SETTINGS["method"] = {**QUICK["method"], "output_norm": "none"}  # whitening few rows makes much of rounding


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=np.stack([paint(k % 4, k, 16) for k in range(60)]))
    return path


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    return ss.pretrain(data, out=tmp_path_factory.mktemp("alone") / "run", **SETTINGS)


def words(data, out, *more):
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in SETTINGS.items() if key != "method"]
    return [
        "pretrain",
        str(data),
        f"--out={out}",
        *flags,
        "--method.hidden=16",
        "--method.out=8",
        "--method.output-norm=none",
        *more,
    ]


def assert_same_encoder(one, two):
    one, two = (load_file(folder / "encoder.safetensors") for folder in (one, two))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=1e-4, atol=1e-5)


# Whole runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def warm(monkeypatch):
    """The processes need not load torch anew."""
    monkeypatch.setattr(launching, "subprocess", SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE))


def test_what_a_process_fails_of_is_raised_where_it_was_started(tmp_path, capfd):
    """Started as users start it; how several of them work together does not hang on that."""
    with pytest.raises(ss.UserError, match="no such file or folder"):
        launching.launch(Pretrain(data=str(tmp_path / "none"), out=tmp_path / "run", **SETTINGS), 1)
    assert capfd.readouterr() == ("", "")


def test_two_processes_give_the_encoder_of_one_and_each_thing_is_said_once(data, alone, tmp_path, warm, capfd):
    assert main(words(data, tmp_path / "two", "--processes=2", "--json")) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)["steps"] == alone.result["steps"]
    assert shown.err.count("reading ") == 1 and "Warning" not in shown.err
    run = ss.Run(tmp_path / "two")
    lines = {line["name"]: line for line in run.plan["lines"]}
    assert (lines["processes"]["value"], lines["processes"]["why"]) == ("2", "given")
    assert_same_encoder(run.folder, alone.folder)


def test_two_processes_give_the_head_of_one(tmp_path, warm):
    """Pixels that count for nothing lie on one side only, so that the processes count differently."""
    stats = image.Stats(
        items=8, channels=3, bits=8, white=255, mean=(0.5,) * 3, std=(0.25,) * 3, height=32, width=32, uniform=True
    )
    (tmp_path / "encoder").mkdir()
    torch.manual_seed(0)
    image.save_encoder(image.make_encoder("resnet10t@0.125", 32, stats), tmp_path / "encoder")
    made = scenes.scenes(32, 32)
    for k, one in enumerate(made):
        one.mask[: 4 * (k % 8)] = 255
    path = str(scenes.write_masks(tmp_path / "labelled", made))
    settings = {"task": "segmentation", "epochs": 2, "batch_size": 16, "workers": 0, "precision": "fp32"}
    settings |= {"device": "cpu", "lr": 1e-3}
    runs = [
        ss.adapt(tmp_path / "encoder", path, out=tmp_path / str(count), processes=count, **settings) for count in (1, 2)
    ]
    folders = [run.folder for run in runs]
    one, two = ([row for row in run.log if "dice loss" in row] for run in runs)
    for name in ("cross-entropy", "dice loss"):  # both are of all pixels of a batch
        assert one[0][name] == pytest.approx(two[0][name], rel=1e-5)
        assert [row[name] for row in one] == pytest.approx([row[name] for row in two], rel=1e-2)
    # Rounding carries values over kinks of ReLUs, and AdamW makes whole steps of gradients that are all but 0; without
    # either they are the same (`test_every_task_learns_the_same_with_two_processes_as_with_one`).
    begin, one, two = (load_file(place / "encoder.safetensors") for place in (tmp_path / "encoder", *folders))
    learned = [key for key in begin if key.endswith(("weight", "bias"))]
    apart = sum((one[key] - two[key]).abs().sum() for key in learned)
    assert apart < 0.1 * sum((one[key] - begin[key]).abs().sum() for key in learned)
    one, two = (load_file(place / "head.safetensors") for place in folders)
    apart = torch.cat([(one[key] - two[key]).abs().flatten() for key in one])
    assert (apart > 1e-4).float().mean() < 0.05
    assert {line["name"]: line["value"] for line in runs[1].plan["lines"]}["processes"] == "2"
    assert runs[0].result["validation"] == pytest.approx(runs[1].result["validation"], abs=1e-2)


def started(command, **environment):
    places = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return Forked(
        [sys.executable, "-m", "selfsame", *command], stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, **places, **environment},
    )  # fmt: skip


def some_steps(out):
    until = time.monotonic() + 100
    while not (out / "log.jsonl").exists() or (out / "log.jsonl").read_text().count("\n") < 2:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_ctrl_c_stops_all_processes_and_one_can_go_on(data, alone, tmp_path, warm, capfd):
    """They are of sessions of their own (see `Forked`): from a terminal, the signal reaches the command alone."""
    out, came = tmp_path / "run", []

    def press():
        some_steps(out)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, lambda *_: came.append("after the run"))
    try:
        thread = threading.Thread(target=press)
        thread.start()
        assert main(words(data, out, "--processes=2")) == 128 + signal.SIGINT
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not came and not (out / "result.json").exists()
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("the state is saved. Run the same command again to go on.") == 1
    assert "Traceback" not in said
    ss.pretrain(data, out=out, **SETTINGS)
    assert_same_encoder(out, alone.folder)


def test_tasks_of_slurm_meet_stop_at_its_signal_and_go_on(data, alone, tmp_path):
    out = tmp_path / "run"
    told = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0"}
    told |= {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_CPUS_PER_TASK": "1"}
    tasks = [started(words(data, out), **told, SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in "01"]
    some_steps(out)
    for task in tasks:
        os.killpg(task.pid, signal.SIGUSR1)
    said = [task.communicate(timeout=60)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [128 + signal.SIGUSR1] * 2, said
    assert not (out / "result.json").exists()
    said = " ".join(" ".join(said).split())
    assert said.count("reading ") == said.count("the state is saved. Run the same command again to go on.") == 1
    assert "Traceback" not in said
    assert {line["name"]: line["value"] for line in ss.Run(out).plan["lines"]}["processes"] == "2"
    ss.pretrain(data, out=out, **SETTINGS)
    assert_same_encoder(out, alone.folder)


# How many ------------------------------------------------------------------------------------------------------------


def gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("there", "settings", "count"),
    [
        (0, {}, 1),
        (1, {}, 1),
        (4, {}, 4),
        (4, {"device": "cuda"}, 4),
        (4, {"device": "cuda:2"}, 1),
        (4, {"device": "cpu"}, 1),
        (4, {"processes": 2}, 2),
        (4, {"device": "cpu", "processes": 9}, 9),
        (0, {"processes": 3}, 3),
    ],
)
def test_each_gpu_gets_a_process_unless_told_otherwise(there, settings, count, monkeypatch):
    gpus(monkeypatch, there)
    assert launching.processes_for(Pretrain(data="photos", **settings)) == count


class Private(Method):
    """A method that only this file knows."""


@pytest.mark.parametrize(
    ("there", "settings", "message"),
    [
        (4, {"processes": 5}, "takes a GPU of its own, and there are 4. Give at most 4, or --device cpu"),
        (4, {"device": "cuda:1", "processes": 2}, "cannot share the one device cuda:1"),
        (0, {"encoder": nn.Linear(1, 1), "processes": 2}, "package.module:factory"),
        (0, {"method": Private(), "processes": 2}, "method Private is known here alone"),
    ],
)
def test_processes_that_cannot_be_are_refused(there, settings, message, monkeypatch):
    gpus(monkeypatch, there)
    with pytest.raises(ss.UserError, match=message):
        launching.processes_for(Pretrain(data="photos", **settings))


def test_a_network_given_in_python_trains_on_one_of_several_gpus_and_is_told(monkeypatch, capsys):
    gpus(monkeypatch, 2)
    assert launching.processes_for(Pretrain(data="photos", encoder=nn.Linear(1, 1))) == 1
    assert "one of 2 GPUs is used" in capsys.readouterr().err


def test_what_torchrun_has_started_starts_no_more_and_must_be_as_many_as_asked_for(monkeypatch, data, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(launching, "launch", lambda *_: pytest.fail("started"))
    with pytest.raises(ss.UserError, match="--processes 2, but 1 were started"):
        ss.pretrain(data, out=tmp_path / "run", processes=2, **SETTINGS)


@pytest.mark.parametrize(("count", "batch"), [(1, 64), (2, 64), (3, 63), (5, 60)])
def test_a_batch_size_by_the_rules_can_be_shared(count, batch):
    loop, _ = plan.plan_loop(5000, False, plan.Wishes(), torch.device("cpu"), count)
    assert loop.batch == batch


@pytest.mark.parametrize(
    ("begun", "message"),
    [
        (False, "--batch-size 16 cannot be divided over 3 processes. Give a multiple of 3, or --processes 2"),
        (True, "cannot be divided over 3 processes. Go on with --processes 2"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(begun, message, monkeypatch, data, alone):
    from selfsame.jobs.pretraining import Pretraining

    work = Pretraining(Pretrain(data=str(data), out=alone.folder, **SETTINGS))
    work.before = object() if begun else None
    work.loop = plan.plan_loop(50, False, plan.Wishes(batch_size=16), torch.device("cpu"))[0]
    monkeypatch.setattr(dist, "world", lambda: 3)
    with pytest.raises(ss.UserError, match=message):
        work.check_shares()


# How they end --------------------------------------------------------------------------------------------------------


def process(program):
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)


def ended(processes):
    codes = launching.waited_for(processes)
    for one in processes:
        one.stdin.close()
    return codes


def test_when_one_fails_the_others_have_some_time_to_end_by_themselves(monkeypatch):
    monkeypatch.setattr(launching, "GRACE", 0.5)
    began = time.monotonic()
    codes = ended([process("import time; time.sleep(60)"), process("raise SystemExit(3)")])
    assert list(codes.items()) == [(1, 3), (0, -signal.SIGKILL)]
    assert 0.5 <= time.monotonic() - began < 30


def test_without_a_failure_all_may_take_as_long_as_they_like(monkeypatch):
    monkeypatch.setattr(launching, "GRACE", 0.0)
    assert ended([process("import time; time.sleep(0.3)"), process("")]) == {1: 0, 0: 0}


@pytest.mark.parametrize(
    ("outcomes", "codes", "kind", "message"),
    [
        ({1: {"kind": "UserError", "text": "one"}, 0: {"kind": "TrainingStopped", "text": "nought"}}, {1: 2, 0: 2},
         TrainingStopped, "nought"),
        ({0: {"kind": "Interrupted", "step": 7, "signal": 15}}, {0: 143, 1: 143}, Interrupted, "after step 7"),
        ({}, {1: -9, 0: 1}, ss.UserError, "process 1 of 2 was ended by SIGKILL"),
        ({}, {1: 1, 0: -6}, RuntimeError, "process 1 of 2 failed with exit code 1"),
    ],
)  # fmt: skip
def test_the_lowest_process_that_said_why_speaks_for_all(outcomes, codes, kind, message, tmp_path):
    for rank, outcome in outcomes.items():
        (tmp_path / f"outcome-{rank:06d}.json").write_text(json.dumps(outcome))
    with pytest.raises(kind, match=message):
        launching.raise_outcome(tmp_path, codes, [])


def test_all_well_is_no_error_and_ctrl_c_before_the_first_step_is_ctrl_c(tmp_path):
    launching.raise_outcome(tmp_path, {0: 0, 1: 0}, [])
    with pytest.raises(KeyboardInterrupt):
        launching.raise_outcome(tmp_path, {0: -2, 1: 130}, [signal.SIGINT])


def test_a_process_whose_launcher_is_gone_stops_as_if_it_were_asked_to():
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        here, there = os.pipe()
        threading.Thread(target=launching.watch_over, args=(here,), daemon=True).start()
        assert not came.wait(0.1)
        os.close(there)
        assert came.wait(10)
        os.close(here)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_job_is_the_same_after_the_way_to_another_process():
    job = Pretrain(data="photos", out="runs/x", method={"name": "byol", "momentum": 0.9}, views={"one": {"blur": 0.5}})
    sent = Pretrain.model_validate(json.loads(json.dumps(job.model_dump(mode="json"))))
    assert sent == job and isinstance(sent.method, BYOL)
    assert sent.method.model_fields_set == {"momentum"}
