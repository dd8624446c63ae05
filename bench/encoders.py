"""How fast a processor trains the encoders it might be given by default: BYOL forward and backward, in turns.

    OMP_NUM_THREADS=1 python bench/encoders.py --size 96 resnet18 resnet10t@0.5 resnet18@0.5
    OMP_NUM_THREADS=1 python bench/encoders.py --size 32 resnet18 resnet18@0.5

Random pixels, views already made, fp32, heads as `pretrain` fits them, no optimiser. Stored in
bench/results/encoders-SIZE.json: samples per second of processor time, the median of the rounds' ratios to the first.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

import torch

import selfsame as ss
from selfsame.engine.dist import machine
from selfsame.modalities.image import Stats, make_encoder
from selfsame.records import Budget

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", 2))
    torch.set_num_threads(threads)
    side, white = args.size, {"channels": 3, "bits": 8, "white": 255, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    stats = Stats(items=0, height=side, width=side, uniform=True, **white)
    views = [torch.rand(args.batch, 3, side, side).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    learners = {}
    for name in args.encoders:
        torch.manual_seed(0)
        encoder = make_encoder(name, side, stats)
        method = ss.methods.BYOL().fitted(Budget(items=10_000, batch=args.batch, steps=1000, dim=encoder.dim))
        learners[name] = method.build(encoder).to(memory_format=torch.channels_last).train()
    rates: dict[str, list[float]] = {name: [] for name in learners}
    for turn in range(-1, args.rounds):  # the first is not counted
        for name, learner in learners.items():
            began = time.process_time()
            learner(views).loss.backward()
            if turn >= 0:
                rates[name].append(args.batch / (time.process_time() - began))
            learner.zero_grad(set_to_none=True)
    base = rates[args.encoders[0]]
    rows = [
        {
            "encoder": name,
            "dim": learners[name].encoder.dim,
            "samples_per_cpu_s": round(statistics.median(found), 1),
            "ratio": round(statistics.median(one / other for one, other in zip(found, base, strict=True)), 2),
        }
        for name, found in rates.items()
    ]
    result = {
        "command": f"OMP_NUM_THREADS={threads} {shlex.join(['python', 'bench/encoders.py', *sys.argv[1:]])}",
        "machine": machine(torch.device("cpu")),
        "size": side,
        "batch": args.batch,
        "rounds": args.rounds,
        "rows": rows,
    }
    (HERE / "results" / f"encoders-{side}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
