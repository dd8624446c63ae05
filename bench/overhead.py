"""What a method costs beside its networks: losses, queues, assignments, centres, averages of weights.

    OMP_NUM_THREADS=1 python bench/overhead.py                    (all methods, ResNet-18 or a small vision transformer)
    OMP_NUM_THREADS=1 python bench/overhead.py --methods swav,moco --size 64 --batch 64

A network is whatever has parameters and is called as a whole: encoders, slow copies, heads, layers of prototypes. Their
forward and backward passes are timed one by one, each cut off from the others; what is left of the step without the
optimiser is the method's own. Settings are those derived for 50,000 items, of methods that cluster all items for 2,000.
In processor time, the median of some steps. Stored in bench/results/overhead.json.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import torch
from narrow import tokens
from torch import Tensor, nn

import selfsame as ss
from selfsame import methods
from selfsame.engine.dist import has_bf16, machine
from selfsame.records import Budget
from selfsame.types import Encoder

CALLS = ("both", "tokens", "maps", "with_maps", "last_layers")  # of an encoder, beside forward


class Networks:
    """Times every pass of a network, and cuts it off from what is computed with its result."""

    def __init__(self, learner: nn.Module) -> None:
        self.depth = 0
        self.seconds = 0.0
        self.passes: list[tuple[list[Tensor], list[Tensor]]] = []  # (what it gave, what the learner saw of it)
        for part in learner.modules():
            if part is not learner and next(part.parameters(), None) is not None:
                part.forward = self.watched(part.forward)  # type: ignore[method-assign]
                for name in CALLS:
                    if hasattr(part, name) and isinstance(part, Encoder):
                        setattr(part, name, self.watched(getattr(part, name)))

    def watched(self, call: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if self.depth:
                return call(*args, **kwargs)
            self.depth += 1
            began = time.process_time()
            out = call(*args, **kwargs)
            self.seconds += time.process_time() - began
            self.depth -= 1
            return self.cut(out)

        return run

    def cut(self, out: Any) -> Any:
        if isinstance(out, Tensor):
            if not out.requires_grad:
                return out
            leaf = out.detach().requires_grad_()
            self.passes.append(([out], [leaf]))
            return leaf
        if isinstance(out, list | tuple):
            return type(out)(self.cut(one) for one in out)
        return out

    def backward(self) -> None:
        """Through the networks, last to first, from the gradients that the loss has left."""
        began = time.process_time()
        for given, seen in reversed(self.passes):
            pairs = [(one, leaf.grad) for one, leaf in zip(given, seen, strict=True) if leaf.grad is not None]
            if pairs:
                torch.autograd.backward([one for one, _ in pairs], [grad for _, grad in pairs], retain_graph=True)
        self.seconds += time.process_time() - began
        self.passes.clear()


def measured(name: str, size: int, batch: int, rounds: int) -> dict[str, Any]:
    kind = methods.load(name)
    torch.manual_seed(0)
    if "tokens" in kind.needs:
        size, trunk, network = 32, tokens(), "a vision transformer of 6 blocks, 128 wide"
    else:
        import timm

        trunk, network = timm.create_model("resnet18", num_classes=0), "resnet18"
    encoder = ss.encoder(trunk, size)
    for items in (50_000, 2_000):  # fewer for methods that cluster all items at the start
        budget = Budget(items=items, batch=batch, steps=20_000, dim=encoder.dim)
        method = kind().fitted(budget)
        learner = method.build(encoder, items).to(memory_format=torch.channels_last).train()
        if not learner.surveys(0):
            break
    plan = method.plan
    part = max(8, size * 96 // 224 // 8 * 8)
    views = [torch.rand(batch, 3, size, size) for _ in range(plan.full)]
    views += [torch.rand(batch, 3, part, part) for _ in range(plan.part)]
    views += [torch.rand(batch, 3, size, size) for _ in range(plan.plain)]
    views = [view.contiguous(memory_format=torch.channels_last) for view in views]
    rows = torch.arange(batch)
    if learner.surveys(0):
        with torch.no_grad():
            learner.survey(([views[0]], (rows + start) % items) for start in range(0, items, batch))
    networks = Networks(learner)
    found = []
    for turn in range(rounds + 1):
        learner.zero_grad(set_to_none=True)
        networks.seconds = 0.0
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu"))):
            loss = (learner(views, rows) if learner.by_item else learner(views)).loss
        loss.backward()
        networks.backward()
        learner.before_update(0.5)
        learner.after_step(0.5)
        if turn:
            found.append((time.process_time() - began, networks.seconds))
    total = statistics.median(whole for whole, _ in found)
    own = statistics.median(whole - nets for whole, nets in found)
    row = {"method": name, "network": network, "size": size, "batch": batch}
    return {**row, "step_ms": round(1e3 * total, 1), "own_ms": round(1e3 * own, 1), "share": round(own / total, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="all")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    rows = []
    for name in methods.names() if args.methods == "all" else args.methods.split(","):
        rows.append(measured(name, args.size, args.batch, args.rounds))
        print(json.dumps(rows[-1]), flush=True)
    path = HERE / "results" / "overhead.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    result = {
        "command": shlex.join(["python", "bench/overhead.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "rows": rows,
    }
    table = stored.get("rows", [])
    if args.methods == "all":
        stored = {**stored, **result}
    elif table and all((row["size"], row["batch"]) == (args.size, args.batch) for row in table if row["size"] != 32):
        again = {row["method"]: {**row, "command": result["command"]} for row in rows}  # in their places in that table
        stored["rows"] = [again.get(row["method"], row) for row in table]
    else:  # some at other sizes, beside the table of all
        place = (args.size, args.batch)
        others = [other for other in stored.get("others", []) if place != (other["size"], other["batch"])]
        before = [other for other in stored.get("others", []) if place == (other["size"], other["batch"])]
        now = {row["method"] for row in rows}
        kept = [row for other in before for row in other["rows"] if row["method"] not in now]
        entry = {**result, "size": args.size, "batch": args.batch, "rows": [*kept, *rows]}
        stored["others"] = [*others, entry]
    path.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
