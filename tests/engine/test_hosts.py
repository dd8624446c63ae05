"""Two hosts on one machine: network namespaces, joined by a cable in the kernel. Needs root and the command `ip`."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import selfsame as ss
from tests.conftest import QUICK, paint

ROOT = Path(__file__).parents[2]
SETTINGS = {**QUICK, "optimizer": "sgd", "lr": 0.002, "device": "cpu"}


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine gives no network namespaces: ip {' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture
def hosts():
    """Names of two namespaces, with the addresses 10.77.0.1 and 10.77.0.2 on their device `eth0`."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two hosts on one machine need root and the command `ip`")
    names = [f"selfsame-{os.getpid()}-{k}" for k in (1, 2)]
    with ExitStack() as undo:
        for name in names:
            ip("netns", "add", name)
            undo.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)
        ip("-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for k, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{k}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        yield names


@pytest.mark.hosts
def test_two_hosts_train_together_to_the_weights_of_one_process(hosts, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.stack([paint(k % 4, k, 16) for k in range(60)]))
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in SETTINGS.items() if key != "method"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    environment["GLOO_SOCKET_IFNAME"] = "eth0"
    started = []
    for number, name in enumerate(hosts):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
        command += ["--nproc-per-node=1", f"--node-rank={number}", "--master-addr=10.77.0.1", "--master-port=29500"]
        command += ["-m", "selfsame", "pretrain", str(tmp_path / "data.npz"), f"--out={tmp_path / 'both'}", *flags]
        command += ["--method.hidden=16", "--method.out=8", "--shard"]
        started.append(subprocess.Popen(command, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True))
    try:
        said = [one.communicate(timeout=200)[0] for one in started]
    finally:
        for one in started:
            one.kill()
    assert [one.returncode for one in started] == [0, 0], said
    both = ss.Run(tmp_path / "both")
    assert {line["name"]: line["value"] for line in both.plan["lines"]}["processes"] == "2"
    alone = ss.pretrain(tmp_path / "data.npz", out=tmp_path / "alone", **SETTINGS)
    one, two = (load_file(run.folder / "encoder.safetensors") for run in (both, alone))
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=1e-4, atol=1e-5)
