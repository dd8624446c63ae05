"""`embed --ray`: the files are those of the plain path, byte for byte.

Ray runs in a process of its own: it would leave threads and open sockets in that of the other tests.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import selfsame as ss
from selfsame.cli import main
from selfsame.jobs.data import open_like
from selfsame.jobs.on_ray import BLOCK, MOST_BLOCKS, Process, Share, answers, blocking, received

ROOT = Path(__file__).parents[2]
there = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
JOBS = """
import json, os, signal, sys, time

run, data, out = sys.argv[1:]
from selfsame.cli import main
from selfsame.jobs.on_ray import joined
told, before = {}, dict(os.environ)
try:
    with joined("local", 2, "cpu"):
        flags = ["--batch-size", "5", "--ray", "local", "--workers", "2", "--max-skipped", "0.1"]
        told["code"] = main(["embed", run, data, "--out", f"{out}.parquet", *flags])
        told["usage"] = os.environ["RAY_USAGE_STATS_ENABLED"]
        import ray, psutil  # Ray brings the second
        here = psutil.Process()
        others = here.children(recursive=True)
        sockets = [each for one in (here, *others) for each in one.net_connections()]
        told["listens"] = sorted({each.laddr.ip.removeprefix("::ffff:") for each in sockets if each.status == "LISTEN"})
        told["nicer"] = max(one.nice() for one in others) - here.nice()
        told["crowd"] = main(["embed", run, data, "--out", f"{out}-crowd.npy", "--ray", "local", "--workers", "99"])
        place = ray._private.worker._global_node.get_temp_dir_path()
        told["stayed"] = os.path.exists(place)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
except SystemExit as end:
    told["ended"] = end.code
told["left"] = os.path.exists(place)
told["environment"] = dict(os.environ) == before
print(json.dumps(told))
"""


@there
def test_what_ray_writes_is_what_one_process_writes(finished, pictures, tmp_path, capsys):
    data = shutil.copytree(pictures, tmp_path / "data")
    (data / "disc" / "05.png").write_bytes(b"")
    for name in range(2, 7):  # the items 50 to 54: of this batch nothing is left
        (data / "down" / f"0{name}.png").write_bytes(b"")
    paths = [str(Path(ss.__file__).parents[1]), str(ROOT)]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", JOBS, str(finished), str(data), str(tmp_path / "ray")]
    parquet = pytest.importorskip("pyarrow.parquet")
    ended = subprocess.run(command, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    main(["embed", str(finished), str(data), "--out", str(tmp_path / "plain.parquet"), "--batch-size", "5",
          "--workers", "0", "--max-skipped", "0.1"])  # fmt: skip
    assert told["code"] == 0
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "plain.parquet").read_bytes()
    table = parquet.read_table(tmp_path / "ray.parquet")
    assert table.num_rows == 58 and "disc/05.png" not in table["name"].to_pylist()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    assert said and all(line in ended.stderr for line in said)
    assert told["crowd"] == 2 and "--workers 99: the Ray cluster has" in ended.stderr
    assert told["nicer"] == 0  # at Ray's 15 they would stand still on a machine that is busy
    assert told["stayed"] and told["ended"] == 143 and not told["left"]
    assert told["listens"] == ["127.0.0.1"] and told["usage"] == "0" and told["environment"]


@pytest.mark.parametrize("items", [1, 5, 4096, 10**6, 10**10])
@pytest.mark.parametrize("batch", [1, 128, 10_000])
@pytest.mark.parametrize("seats", [1, 64])
def test_blocks_are_enough_for_all_and_not_too_many_to_keep_a_record_of(items, batch, seats):
    batches = -(-items // batch)
    blocks = -(-batches // blocking(items, batch, seats))
    assert 1 <= blocks <= MOST_BLOCKS
    assert blocks >= min(batches, 2 * seats)
    assert blocking(items, batch, seats) * batch <= max(BLOCK, batch, 2 * items / MOST_BLOCKS)


def test_without_the_extra_it_says_how_to_get_it(finished, pictures, monkeypatch):
    encoder = ss.load(finished)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ss.UserError, match=r"--ray needs the package ray.*pip install 'selfsame\[ray\]'"):
        ss.embed(encoder, pictures, ray="local")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 0}, r"--workers 0: with --ray, .* Give 1 or more"),
        ({"device": "mps"}, r"--device mps: with --ray, .* give auto, cpu or cuda"),
        ({"ray": ""}, r"--ray '': string should have at least 1 character"),
    ],
)
def test_what_does_not_go_with_it_is_said(finished, pictures, given, message):
    with pytest.raises(ss.UserError, match=message):
        ss.embed(finished, pictures, **{"ray": "local", **given})


def test_a_place_where_nobody_listens_is_refused_at_once():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(ConnectionRefusedError):
        answers(address)
    with pytest.raises(ConnectionRefusedError):
        answers(f"ray://{address}")


def test_other_items_at_the_same_path_are_refused(finished, pictures, tmp_path):
    data = shutil.copytree(pictures, tmp_path / "data")
    encoder = ss.load(finished)
    share = Share(str(data), open_like(str(data), encoder).fingerprint(), 32, 8, "cpu", 1)
    given = sum(len(row["items"][0]) // 8 for row in Process(share, encoder)({"id": np.arange(2)}))
    assert given == 64
    (data / "disc" / "05.png").unlink()
    (told,) = Process(share, encoder)({"id": np.arange(2)})
    assert "is not what it is where the job was started (63 items" in told["failed"][0]


@there
def test_the_share_of_unreadable_items_holds(finished, pictures, tmp_path, monkeypatch):
    data = shutil.copytree(pictures, tmp_path / "data")
    for name in ("03", "05"):
        (data / "disc" / f"{name}.png").write_bytes(b"")

    def alone(encoder, data, cluster, batch, processes, device):
        process = Process(Share(data.path, data.fingerprint(), 3 * batch, batch, "cpu", 1), encoder)
        tables = process({"id": np.arange(-(-len(data.source) // (3 * batch)))})
        return received(({key: column[0] for key, column in table.items()} for table in tables), data)

    monkeypatch.setattr("selfsame.jobs.on_ray.spread", alone)
    with pytest.raises(ss.UserError, match=r"2 of 64 items .*disc/03.png: .*--max-skipped"):
        ss.embed(finished, data, out=tmp_path / "x.npy", ray="local")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    found = ss.embed(finished, data, ray="local", max_skipped=0.1)
    plain = ss.embed(finished, data, workers=0, max_skipped=0.1)
    ss.embed(finished, data, out=tmp_path / "ray.npy", ray="local", max_skipped=0.1)
    ss.embed(finished, data, out=tmp_path / "plain.npy", workers=0, max_skipped=0.1)
    for suffix in ("npy", "names.txt"):
        assert (tmp_path / f"ray.{suffix}").read_bytes() == (tmp_path / f"plain.{suffix}").read_bytes()
    assert found.skipped == plain.skipped and found.names == plain.names
    assert np.array_equal(found.vectors, plain.vectors)
