"""lightly's BYOL and SimCLR on the same images, network, number of samples and measure as bench/cifar10.py.

Needs lightly (pip install lightly) and the contenders of ../shared/bench. Prints and stores a curve: one point every
`--every` samples, in bench/results/NAME.json.

    python bench/peers.py --only "lightly BYOL" --samples 200000 --every 40000 --name curve-lightly-byol
"""

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

HERE = Path(__file__).parent
BENCH = HERE.parents[1] / "shared" / "bench"
sys.path[:0] = [str(HERE), str(BENCH)]

import common
import numpy as np
import torch
from judge import knn, probe
from PIL import Image

from selfsame.engine.dist import has_bf16, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", required=True, help="name of the contender")
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--every", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", required=True)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    train_x, train_y, test_x, test_y = common.cifar()
    images = [Image.fromarray(image) for image in train_x]
    make = common.contenders("QUALITY")[args.only]
    common.seed(args.seed)
    batch = make(0.25, 1, 1)["batch"]
    per_epoch, steps = len(images) // batch, args.samples // batch
    common.seed(args.seed)
    it = make(0.25, steps, per_epoch)
    bf16 = has_bf16(torch.device("cpu"))  # where the processor computes it, as bench/cifar10.py
    rng, points, step, began = np.random.RandomState(args.seed), [], 0, time.process_time()

    def measure() -> None:
        module = it["eval_module"].eval()
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in it["norm"])
        features = []
        with torch.no_grad():
            for x in (train_x, test_x):
                pixels = (torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).float() / 255 - mean) / std
                features.append(torch.cat([it["encode"](chunk) for chunk in pixels.split(500)]))
        module.train()
        y, truth = torch.from_numpy(train_y).long(), torch.from_numpy(test_y).long()
        state = torch.get_rng_state()
        row = {"samples": step * batch, "knn": knn(features[0], y, features[1], truth)}
        row["probe"] = probe(features[0], y, features[1], truth)
        torch.set_rng_state(state)
        points.append({**row, "cpu_s": round(time.process_time() - began)})
        print(json.dumps(points[-1]), flush=True)
        result = {
            "contender": args.only,
            "command": shlex.join(["python", "bench/peers.py", *sys.argv[1:]]),
            "seed": args.seed,
            "machine": machine(torch.device("cpu")),
            "bf16": bf16,
            "points": points,
        }
        (HERE / "results" / f"{args.name}.json").write_text(json.dumps(result, indent=1) + "\n")

    while step < steps:
        order = rng.permutation(len(images))
        for start in range(0, per_epoch * batch, batch):
            if step == steps:
                break
            memory = torch.channels_last if it.get("channels_last", True) else torch.contiguous_format
            chosen = [images[j] for j in order[start : start + batch]]
            x0, x1 = (view.contiguous(memory_format=memory) for view in it["views"](chosen))
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                it["step"](x0, x1, step)
            step += 1
            if step % (args.every // batch) == 0 or step == steps:
                measure()


if __name__ == "__main__":
    main()
