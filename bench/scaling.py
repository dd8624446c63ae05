"""Two processes beside one on the same job: samples a second of wall time, one thread each, in turns.

    python bench/scaling.py

`selfsame pretrain` under torchrun (gloo, CPU): BYOL with ResNet-18 of half the width on made 32 px images in memory,
the same batch over all processes, so the same training. Looked at are the steps 2 to 9, between two looks at the
health. Efficiency is the ratio of the rates over the number of
processes, the median of the rounds. All processes share the cores of one machine, with whatever else runs there: the
load beside is stored too. Stored in bench/results/scaling.json.
"""

import argparse
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from selfsame.engine.dist import machine

HERE = Path(__file__).parent
ITEMS = 2048
FIRST, LAST = 2, 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    rates: dict[int, list[float]] = {count: [] for count in args.processes}
    loads = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        np.savez(data, x=np.random.default_rng(0).integers(0, 256, (ITEMS, 32, 32, 3), dtype=np.uint8))
        for turn in range(args.rounds):
            loads.append(os.getloadavg()[0])
            for count in rates:
                rate = trained(data, Path(folder) / f"run-{turn}-{count}", count, args)
                rates[count].append(rate)
                print(f"{count} processes: {rate:.1f} samples/s", flush=True)
    first = args.processes[0]
    rows = [
        {
            "processes": count,
            "samples_per_s": round(statistics.median(found), 1),
            "efficiency": round(
                statistics.median(a / b * first / count for a, b in zip(found, rates[first], strict=True)), 2
            ),
        }
        for count, found in rates.items()
    ]
    result = {
        "command": shlex.join(["python", "bench/scaling.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "batch": args.batch,
        "steps": args.steps,
        "rounds": args.rounds,
        "load": round(statistics.median(loads), 1),
        "rates": rates,
        "rows": rows,
    }
    (HERE / "results" / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def trained(data: Path, out: Path, processes: int, args: argparse.Namespace) -> float:
    """Samples a second between the ends of the steps FIRST and LAST, from its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    epochs = args.steps * args.batch / (ITEMS - ITEMS // 20)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={processes}"]
    command += ["--master-addr=127.0.0.1", f"--master-port={port}", "-m", "selfsame", "pretrain", str(data)]
    command += ["--out", str(out), "--encoder", "resnet18@0.5", "--batch-size", str(args.batch), "--workers", "0"]
    command += ["--epochs", f"{epochs}", "--precision", "fp32"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    # The log has the mean rate since the start: from it comes when a step was done.
    done_at = {row["step"]: row["step"] * args.batch / row["items_per_second"] for row in rows if "loss" in row}
    return (LAST - FIRST) * args.batch / (done_at[LAST] - done_at[FIRST])


if __name__ == "__main__":
    main()
