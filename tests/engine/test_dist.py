"""How processes find each other, and go on when one of them is lost. What they compute together: tests/processes.py."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as td

import selfsame
from selfsame.engine import dist, shard
from selfsame.errors import UserError
from selfsame.methods.deepcluster import DeepCluster
from tests.conftest import Tiny, paint

ROOT = Path(__file__).parents[2]


def meet(store, count=3):
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda number: dist.meeting_place(store, number, count), range(count)))


def test_all_processes_learn_the_same_new_word_whatever_was_left_in_the_store():
    store = td.HashStore()
    store.set("asks 1", "a word of the dead")
    store.set("asks 2", "another")
    words = [meet(store) for _ in range(3)]
    assert all(len(set(group)) == 1 for group in words)
    assert len({group[0] for group in words}) == 3


def test_processes_that_do_not_come_are_told(monkeypatch):
    monkeypatch.setattr(dist, "PATIENCE", dist.timedelta(seconds=0.2))
    with pytest.raises(UserError, match="of 3 processes, 2 did not come"):
        dist.meeting_place(td.HashStore(), 0, 3)


def started(folder, name):
    places = [str(Path(selfsame.__file__).parents[1]), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "selfsame", "pretrain"]
    command += [str(folder / "data.npz"), "--out", str(folder / name), "--encoder", "tests.nets:tiny", "--workers", "0"]
    command += ["--size", "16", "--batch-size", "16", "--epochs", "24", "--save-every", "5"]
    command += ["--method.hidden", "16", "--method.out", "8", "--precision", "fp32"]
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)


def children(process):
    """The processes that torchrun has started."""
    task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(word) for word in task.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes by /proc")
def test_when_one_of_two_processes_is_killed_the_job_goes_on_by_itself_to_the_same_weights(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.stack([paint(k % 4, k, 16) for k in range(60)]))
    calm = started(tmp_path, "calm")
    assert calm.wait(120) == 0, (tmp_path / "calm.log").read_text()[-3000:]
    run = started(tmp_path, "run")
    try:
        until = time.monotonic() + 60
        while not list((tmp_path / "run" / "state").glob("step-*10.pt")) and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(children(run)[-1], signal.SIGKILL)
        assert run.wait(120) == 0, (tmp_path / "run.log").read_text()[-3000:]
    finally:
        run.kill()
    assert "exitcode: -9" in (tmp_path / "run.log").read_text()
    weights = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("calm", "run")]
    assert weights[0] == weights[1]
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("calm", "run")]
    steps = [[row["step"] for row in map(json.loads, log) if "loss" in row] for log in logs]
    assert steps[0] == steps[1]


def test_a_learner_that_looks_at_all_items_is_not_divided():
    with pytest.raises(UserError, match="--shard does not work with methods that look at all items between passes"):
        shard.sharded(DeepCluster(clusters=2).build(Tiny(), 4), dist.device("cpu"))
