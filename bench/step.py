"""The training step beside a peer's and beside a minimal loop written by hand: samples a second of processor time.

    OMP_NUM_THREADS=1 python bench/step.py --net resnet18 --size 32 --batch 64
    OMP_NUM_THREADS=1 python bench/step.py --net resnet50 --size 96 --batch 16

A sample is both views, forward, backward, optimiser and average of the target, in turns, each contender in a process of
its own; views are made already, the networks are the same (torchvision's), the heads as wide, the optimiser SGD.
`lightly` is as shipped; `lightly tuned` has channels-last and, where the processor computes it, bf16, as `selfsame` and
`minimal` have. `selfsame` has the memory settings that its command line makes. Beside them stands what the processor
gives at most: the arithmetic of the step (its convolutions and products), and how fast products of large square
matrices are. Needs lightly and the contenders of ../shared/bench. Stored in bench/results/step-NET-SIZE.json, of bf16
in step-NET-SIZE-bf16.json.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

HERE = Path(__file__).parent
BENCH = HERE.parents[1] / "shared" / "bench"
sys.path[:0] = [str(HERE), str(BENCH)]

import common
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import selfsame as ss
from nets import resnet
from selfsame.cli import keep_heap
from selfsame.engine.dist import has_bf16, machine, place
from selfsame.engine.feed import Batch
from selfsame.engine.loop import Loop, one_step
from selfsame.engine.optim import make_optimizer

CPU = torch.device("cpu")
SIDE = 2048  # of the square matrices whose product is the most that the processor gives


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


def contender(name: str, net: str, size: int, batch: int) -> Callable[[Tensor, Tensor], object]:
    bf16 = has_bf16(CPU)
    if name == "selfsame":
        return ours(net, size, batch, bf16)
    if name == "product":
        return product(bf16)
    shared = {
        "lightly": "lightly",
        "minimal": "minimal CL bf16" if bf16 else "minimal channels_last",
        "lightly tuned": "lightly CL bf16",
    }
    found = common.contenders("STEPS")
    if shared[name] not in found:
        sys.exit(f"{name} does not run here; is it installed? pip install lightly")
    return found[shared[name]](net, size, batch)


def product(bf16: bool) -> Callable[[Tensor, Tensor], object]:
    """A product of two large matrices."""
    one, two = torch.randn(2, SIDE, SIDE, dtype=torch.bfloat16 if bf16 else torch.float32)
    return lambda x0, x1: one @ two


def arithmetic(net: str, size: int, batch: int, bf16: bool) -> float:
    """Floating-point operations of a step of ours in its convolutions and products, in 10^9."""
    run = ours(net, size, batch, bf16)
    with FlopCounterMode(display=False) as counter:
        run(*torch.rand(2, batch, 3, size, size))
    return counter.get_total_flops() / 1e9


def serve(name: str, net: str, size: int, batch: int) -> None:
    """One contender: for each line it is sent it makes a step and answers with its seconds of processor time."""
    if name == "selfsame":
        keep_heap()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    run = contender(name, net, size, batch)
    x0, x1 = torch.rand(2, batch, 3, size, size)
    for _ in sys.stdin:
        began = time.process_time()
        run(x0, x1)
        print(time.process_time() - began, file=sys.__stdout__, flush=True)


class Turn:
    """A contender in its own process, with the environment it is run in by its users."""

    def __init__(self, name: str, flags: list[str]) -> None:
        own = {"THP_MEM_ALLOC_ENABLE": "1"} if name == "selfsame" else {}
        command = [sys.executable, __file__, *flags, "--serve", name]
        environment = {**os.environ, **own}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        while True:  # peers print words of their own
            line = self.process.stdout.readline()
            try:
                return float(line)
            except ValueError:
                if not line:
                    raise SystemExit("a contender has ended") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.net, args.size, args.batch)
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    bf16 = has_bf16(CPU)
    flags = [f"--net={args.net}", f"--size={args.size}", f"--batch={args.batch}"]
    turns = {
        name: Turn(name, flags)
        for name in ("lightly", "selfsame", "minimal", *(["lightly tuned"] if bf16 else []), "product")
    }
    for turn in turns.values():
        turn(), turn()  # to be warm
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(args.rounds):
        for name, turn in turns.items():
            rates[name].append(args.batch / statistics.median(turn() for _ in range(3)))
    for turn in turns.values():
        turn.process.kill()
    operations = arithmetic(args.net, args.size, args.batch, bf16)
    most = 2 * SIDE**3 / 1e9 * statistics.median(rates.pop("product")) / args.batch
    reached = operations * statistics.median(rates["selfsame"]) / args.batch
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
        "step_gflop": round(operations, 1),
        "gflop_per_cpu_s": round(reached, 1),
        "gflop_per_cpu_s_of_a_product": round(most, 1),
    }
    print(json.dumps({key: value for key, value in result.items() if "gflop" in key}), flush=True)
    (HERE / "results" / f"step-{args.net}-{args.size}{'-bf16' if bf16 else ''}.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
