"""Every method by the measure of ../shared/bench: the same training for each, beside random weights and raw pixels.

    python bench/methods.py cifar10 --methods simclr,moco --seeds 2
    python bench/methods.py cifar10 --encoder narrow:tokens --methods ijepa,dino --seeds 2
    python bench/methods.py clothing --methods all

`selfsame compare` does the work, with its defaults but for the budget and the network. CIFAR-10: 10,000 unlabelled
images, 39,936 samples, ResNet-18 of width 0.25 (narrow:tokens is a small vision transformer for methods that need it);
k-NN and probe as ../shared/bench has them. Clothing: 570 photos at 96 px. Labels only for the measure. Each method is
stored in bench/results/methods-DATA.json as it ends, over what was stored of it before: the page is made of all.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
CIFAR = DATA / "cifar10" / "cifar10_10k.npz"
SETS: dict[str, dict[str, Any]] = {
    "cifar10": {
        "data": f"{CIFAR}::x_train",
        "budget": "39936",
        "encoder": "narrow:colour",
    },
    "clothing": {
        "data": str(DATA / "clothing" / "train"),
        "labels": "folders",
        "labelled": str(DATA / "clothing"),
        "budget": "40000",
        "encoder": "resnet10t@0.5",
        "size": 96,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=SETS)
    parser.add_argument("--methods", default="all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="the first; runs of other seeds that are stored stay")
    parser.add_argument("--encoder")
    parser.add_argument("--budget")
    args = parser.parse_args()
    sys.path.insert(0, str(HERE))
    import torch

    from selfsame import methods

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    given = {key: value for key, value in (("encoder", args.encoder), ("budget", args.budget)) if value}
    settings = {**SETS[args.data], **given}
    for name in methods.names() if args.methods == "all" else args.methods.split(","):
        measured(args.data, name, args.seeds, args.seed, settings)


def measured(data: str, name: str, seeds: int, first: int, settings: dict[str, Any]) -> None:
    """Train, measure and store one method."""
    from cifar10 import judged  # k-NN and probe of ../shared/bench, in per cent

    import selfsame as ss

    path = HERE / "results" / f"methods-{data}.json"
    stored = json.loads(path.read_text()) if path.exists() else {"entries": []}
    of_network = [entry for entry in stored["entries"] if entry["encoder"] == settings["encoder"]]
    baselines: dict[str, Any] = of_network[0]["judged"] if of_network else {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = ss.compare(**settings, methods=name, seeds=seeds, seed=first, out=Path(folder) / "all", workers=0)
        except ss.UserError as error:
            print(f"{name}: {error}", flush=True)
            return
        runs = result["runs"]
        for run in runs:
            if run["verdict"] != "stopped" and data == "cifar10":
                done = ss.Run(Path(folder) / "all" / run["folder"])
                batch = done.plan["loop"]["batch"]
                run["looks"] = [
                    {"samples": row["step"] * batch, "agreement": row["health/agreement"], "rank": row["health/rank"]}
                    for row in done.log
                    if "verdict" in row
                ]
                encoder = ss.load(Path(folder) / "all" / run["folder"])
                run |= {f"judge_{key}": value for key, value in judged(encoder).items()}
                baselines = baselines or {"random": judged(untrained(encoder, run["seed"])), "raw": judged(None)}
        plan = ss.Run(Path(folder) / "all" / runs[0]["folder"]).plan if (Path(folder) / "all").exists() else {}
    stored = json.loads(path.read_text()) if path.exists() else {"entries": []}  # another may have ended meanwhile
    key = (name, settings["encoder"], settings["budget"])
    mine = [e for e in stored["entries"] if (e["method"], e["encoder"], e["budget"]) == key]
    stored["entries"] = [e for e in stored["entries"] if (e["method"], e["encoder"], e["budget"]) != key]
    settled = plan.get("method_settings"), plan.get("loop", {}) | {"seed": 0}
    now = {run["seed"] for run in runs}
    for entry in mine:  # of other seeds, where nothing else has changed
        if (entry["settings"], (entry["loop"] or {}) | {"seed": 0}) == settled:
            runs = sorted(
                [*runs, *(run for run in entry["runs"] if run["seed"] not in now)], key=lambda run: run["seed"]
            )
    seeds, first = len(runs), min(run["seed"] for run in runs)
    where = str(HERE.parents[1])
    changed = [f"--{key}={settings[key]}" for key in ("encoder", "budget") if settings[key] != SETS[data][key]]
    entry = {
        "method": name,
        "encoder": settings["encoder"],
        "budget": settings["budget"],
        "command": shlex.join(["python", "bench/methods.py", data, "--methods", name, "--seeds", str(seeds), *changed]),
        "machine": result["machine"],
        "runs": runs,
        "baselines": result["baselines"],
        "judged": baselines,
        "loop": plan.get("loop"),
        "settings": plan.get("method_settings"),
        "views": plan.get("views"),
    }
    stored["entries"] = sorted([*stored["entries"], entry], key=lambda e: (e["encoder"], e["method"]))
    path.write_text(json.dumps(stored, indent=1).replace(where, "..") + "\n")
    print(json.dumps(runs), flush=True)


def untrained(encoder: Any, seed: int) -> Any:
    """The same network, made anew: a reset of its layers would leave what is no layer, as a transformer's positions."""
    import torch

    from selfsame.modalities import image

    torch.manual_seed(seed)
    return image.build_encoder(encoder.spec).eval()


if __name__ == "__main__":
    main()
