"""CIFAR-10 at a small budget: BYOL beside random weights and raw pixels, by the measure of ../shared/bench.

10,000 unlabelled training images, ResNet-18 of width 0.25, bf16 where the processor has it; labels only for the
measure. `selfsame` runs with its own defaults but for the budget: the batch, the rates, the momentum are derived.

    python bench/cifar10.py --samples 39936 --seeds 0 1 2
    python bench/cifar10.py --samples 39936 --seeds 0 1 2 --output-norm plain --name cifar10-plain
    python bench/cifar10.py --samples 200000 --curve curve-selfsame-byol

Stored in bench/results/NAME.json with command, machine, versions and seeds.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

import numpy as np
import torch
from judge import knn, probe

import selfsame as ss
from selfsame.engine.dist import machine
from selfsame.jobs.data import held_out
from selfsame.jobs.pretrain import Pretrain
from selfsame.jobs.pretraining import Pretraining

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data" / "cifar10" / "cifar10_10k.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=39_936)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--name", default="cifar10")
    parser.add_argument("--output-norm", choices=("none", "plain", "whiten"), help="in place of what is derived")
    parser.add_argument("--curve", help="measure one run on its way, and store it under this name")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    sys.path.insert(0, str(HERE))
    epochs = args.samples / len(held_out(np.arange(10_000), 0)[0])
    method = {"name": "byol", **({"output_norm": args.output_norm} if args.output_norm else {})}
    job = {"data": f"{DATA}::x_train", "encoder": "narrow:colour", "epochs": epochs, "method": method}
    if args.curve:
        curve(args, job)
        return
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            out = Path(folder) / str(seed)
            began, cpu = time.monotonic(), time.process_time()
            run = ss.pretrain(**job, out=out, seed=seed)
            spent = {"wall_s": round(time.monotonic() - began), "cpu_s": round(time.process_time() - cpu)}
            torch.manual_seed(seed)
            untrained = ss.load(run)
            for part in untrained.modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()
            made = {"plan": run.plan["loop"], "method": run.plan["method_settings"]}
            rows.append({"features": "selfsame BYOL", "seed": seed, **judged(ss.load(run)), **spent, **made})
            rows.append({"features": "random weights", "seed": seed, **judged(untrained)})
            print(json.dumps(rows[-2:]), flush=True)
    rows.append({"features": "raw pixels", **judged(None)})
    result = {
        "command": shlex.join(["python", "bench/cifar10.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "samples": args.samples,
        "rows": rows,
        "mean": {kind: averaged(rows, kind) for kind in ("selfsame BYOL", "random weights", "raw pixels")},
    }
    path = HERE / "results" / f"{args.name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["mean"], indent=1))


class Measured(Pretraining):
    """A run that is measured at every fourth look at its health."""

    looks = 0

    def probe(self, encoder: torch.nn.Module) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            self.looks += 1
            if self.looks % 4 != 1 or self.looks == 1:
                return {}
            encoder.eval()
            with torch.random.fork_rng():
                found = judged(encoder)
            encoder.train()
            return found

        return measure


def curve(args: argparse.Namespace, settings: dict) -> None:
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        out, seed = Path(folder) / "run", args.seeds[0]
        run = Measured(Pretrain(**settings, out=out, seed=seed)).run()
        batch = run.plan["loop"]["batch"]
        measured = [row for row in run.log if "probe" in row]
        points = [{"samples": row["step"] * batch, "knn": row["knn"], "probe": row["probe"]} for row in measured]
        points[-1]["cpu_s"] = round(time.process_time() - began)
        result = {
            "contender": "selfsame BYOL",
            "command": shlex.join(["python", "bench/cifar10.py", *sys.argv[1:]]),
            "machine": machine(torch.device("cpu")),
            "seed": seed,
            "plan": run.plan["loop"],
            "method": run.plan["method_settings"],
            "points": points,
        }
    (HERE / "results" / f"{args.curve}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(points, indent=1))


def judged(encoder: torch.nn.Module | None) -> dict[str, float]:
    """k-NN and probe accuracy of an encoder, or of the pixels."""
    data = np.load(DATA)
    features = []
    for part in ("train", "test"):
        pixels = torch.from_numpy(data[f"x_{part}"]).permute(0, 3, 1, 2)
        if encoder is None:
            features.append((pixels.float() / 255 - 0.5).flatten(1) / 0.25)
            continue
        with torch.inference_mode():
            features.append(torch.cat([encoder(chunk) for chunk in pixels.split(500)]))
    train, test = features
    y, truth = (torch.from_numpy(data[f"y_{part}"].astype(np.int64)) for part in ("train", "test"))
    return {"knn": round(knn(train, y, test, truth), 2), "probe": round(probe(train, y, test, truth), 2)}


def averaged(rows: list[dict], kind: str) -> dict[str, float]:
    rows, found = [row for row in rows if row["features"] == kind], {}
    for key in ("knn", "probe"):
        values = np.array([row[key] for row in rows])
        found |= {key: round(values.mean(), 2), f"{key}_std": round(values.std(ddof=1), 2) if len(values) > 1 else None}
    return found | {"seeds": len(rows)}


if __name__ == "__main__":
    main()
