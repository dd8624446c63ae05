"""A task's place from Slurm's words. Two tasks that meet: tests/jobs/test_launching.py."""

import os

import pytest
import torch

from selfsame.engine import dist, plan, slurm
from selfsame.errors import UserError

TOLD = {  # to the task of rank 5 of 7, the second of three on the second node
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_NTASKS": "7",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_JOB_NODELIST": "gpu[01-04]",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
}


def test_a_task_of_srun_gets_its_place():
    assert slurm.seat(TOLD) == {
        "RANK": "5",
        "WORLD_SIZE": "7",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": "16711",
    }


def test_every_job_and_step_has_a_port_that_systems_do_not_hand_out():
    ports = [int(slurm.seat({**TOLD, "SLURM_JOB_ID": str(job)})["MASTER_PORT"]) for job in (1, 19_999, 20_000, 10**9)]
    assert all(12_000 <= port < 32_000 for port in ports) and len(set(ports)) >= 3
    steps = {slurm.seat({**TOLD, "SLURM_STEP_ID": str(step)})["MASTER_PORT"] for step in range(10)}
    assert len(steps) == 10


def test_an_address_that_the_user_gives_holds():
    given = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "999"}
    assert given.items() <= slurm.seat({**TOLD, **given}).items()


def test_the_batch_script_and_a_single_task_are_no_tasks_of_several():
    batch = {key: value for key, value in TOLD.items() if "STEP" not in key}
    assert slurm.seat({}) == slurm.seat(batch) == slurm.seat({**TOLD, "SLURM_STEP_NUM_TASKS": "1"}) == {}


@pytest.mark.parametrize("given", [{"RANK": "1", "WORLD_SIZE": "2"}, {}])
def test_torchrun_s_words_win(given, monkeypatch):
    for key, value in {**TOLD, **given}.items():
        monkeypatch.setenv(key, value)
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if key not in given:
            monkeypatch.setenv(key, "")  # so that it is taken away after the test
            monkeypatch.delenv(key)
    slurm.take_seat()
    assert (dist.rank(), dist.world()) == ((1, 2) if given else (5, 7))
    assert ("MASTER_ADDR" in os.environ) is not bool(given)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[07-09,12],login1", "gpu07"),
        ("a[3,5-7]", "a3"),
        ("rack[1-2]n[01-16]-ib,x", "rack1n01-ib"),
        ("node-7.cluster.org", "node-7.cluster.org"),
    ],
)
def test_the_first_of_slurm_s_hosts(hosts, first):
    assert slurm.first_host(hosts) == first


@pytest.mark.parametrize(
    ("tasks", "each"), [("8", [8]), ("4(x3)", [4, 4, 4]), ("2(x2),1", [2, 2, 1]), ("1,2(x1)", [1, 2])]
)
def test_the_tasks_of_each_node(tasks, each):
    assert slurm.shares(tasks) == each


@pytest.mark.parametrize(
    "wrong",
    [{"SLURM_LOCALID": None}, {"SLURM_STEP_NODELIST": "[", "SLURM_JOB_NODELIST": ""}, {"SLURM_NODEID": "9"},
     {"SLURM_STEP_TASKS_PER_NODE": "many"}, {"SLURM_STEP_NUM_TASKS": "x"}],
)  # fmt: skip
def test_words_that_cannot_be_read_are_said(wrong):
    told = {key: value for key, value in {**TOLD, **wrong}.items() if value is not None}
    with pytest.raises(UserError, match=r"srun has started several tasks.*Start them by torchrun"):
        slurm.seat(told)


@pytest.mark.parametrize(("gpus", "step", "index"), [(1, "0", 0), (4, "0", 3), (4, None, 3)])
def test_a_task_that_is_shown_one_gpu_takes_it(gpus, step, index, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", "3")
    if step is not None:
        monkeypatch.setenv("SLURM_STEP_ID", step)
    assert dist.device("cuda").index == index


def test_slurm_s_share_of_the_cores_is_what_reading_processes_go_by(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert plan.workers_for(False, None)[0] == 5
