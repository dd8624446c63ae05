"""The training step beside a peer's and beside a minimal loop written by hand: samples a second of processor time.

    OMP_NUM_THREADS=1 python bench/step.py --net resnet18 --size 32 --batch 64
    OMP_NUM_THREADS=1 python bench/step.py --net resnet50 --size 96 --batch 16

A sample is both views, forward, backward, optimiser and average of the target, in turns; views are made already, the
networks are the same (torchvision's), the heads as wide, the optimiser SGD. `lightly` is as shipped; `lightly tuned`
has channels-last and, where the processor computes it, bf16, as `selfsame` and `minimal` have. Needs lightly and the
contenders of ../shared/bench. Stored in bench/results/step-NET-SIZE.json, of bf16 in step-NET-SIZE-bf16.json.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line sets it, here for all contenders

HERE = Path(__file__).parent
BENCH = HERE.parents[1] / "shared" / "bench"
sys.path[:0] = [str(HERE), str(BENCH)]

import common
import torch
from torch import Tensor

import selfsame as ss
from nets import resnet
from selfsame.engine.dist import has_bf16, machine, place
from selfsame.engine.feed import Batch
from selfsame.engine.loop import Loop, one_step
from selfsame.engine.optim import make_optimizer

CPU = torch.device("cpu")


def ours(net: str, size: int, batch: int, bf16: bool) -> Callable[[Tensor, Tensor], object]:
    """The engine's step on views that are given."""
    trunk, _ = resnet(net, small=size <= 64)
    method = ss.methods.BYOL(hidden=1024 if size <= 64 else 4096, momentum=0.99, output_norm="none")
    learner = place(method.build(ss.encoder(trunk, size)), CPU).train()
    precision = "bf16" if bf16 else "fp32"
    settings = {"steps": 10_000, "batch": batch, "lr": 0.06, "weight_decay": 5e-4, "warmup": 0}
    loop = Loop(optimizer="sgd", precision=precision, **settings)
    optimizer = make_optimizer(loop.optimizer, learner, loop.lr, loop.weight_decay)
    step = 0

    def run(x0: Tensor, x1: Tensor) -> None:
        nonlocal step
        views = [x.contiguous(memory_format=torch.channels_last) for x in (x0, x1)]
        rows = slice(0, batch)
        one_step(learner, optimizer, Batch(step, views), lambda samples, draws: samples, loop, rows, CPU)
        learner.after_step(step / loop.steps)
        step += 1

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    bf16 = has_bf16(CPU)
    shared = common.contenders("STEPS")
    given = (args.net, args.size, args.batch)
    kinds = {"lightly": shared["lightly"](*given), "selfsame": ours(*given, bf16)}
    kinds["minimal"] = shared["minimal CL bf16" if bf16 else "minimal channels_last"](*given)
    if bf16:
        kinds["lightly tuned"] = shared["lightly CL bf16"](*given)
    x0, x1 = torch.rand(2, args.batch, 3, args.size, args.size)
    turns = {name: lambda run=run: (run(x0, x1), args.batch)[1] for name, run in kinds.items()}
    rates = {name: rate["cpu"] for name, rate in common.interleave(turns, args.rounds).items()}
    rows = [
        {
            "contender": name,
            "samples_per_cpu_s": round(statistics.median(rate), 2),
            "ratio": round(statistics.median(a / b for a, b in zip(rate, rates["lightly"], strict=True)), 2),
            "to_minimal": round(statistics.median(a / b for a, b in zip(rate, rates["minimal"], strict=True)), 2),
        }
        for name, rate in rates.items()
    ]
    for row in rows:
        print(json.dumps(row), flush=True)
    result = {
        "command": f"OMP_NUM_THREADS={torch.get_num_threads()} "
        + shlex.join(["python", "bench/step.py", *sys.argv[1:]]),
        "net": args.net,
        "size": args.size,
        "batch": args.batch,
        "bf16": bf16,
        "machine": machine(CPU),
        "rows": rows,
    }
    (HERE / "results" / f"step-{args.net}-{args.size}{'-bf16' if bf16 else ''}.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
