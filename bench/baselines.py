"""BYOL on real images beside random weights and raw pixels: `pretrain` and `evaluate`, defaults but for the budget.

    python bench/baselines.py clothing --epochs 220 --size 96 --encoder narrow:photo --area 0.25 1
    python bench/baselines.py fashion_mnist --epochs 4 --encoder narrow:gray

Data: ../shared/data. The labels are used by `evaluate` alone. Stored in bench/results/DATA.json.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
SETS = {
    "clothing": (DATA / "clothing" / "train", DATA / "clothing"),
    "fashion_mnist": (f"{DATA / 'fashion_mnist' / 'fashion_mnist_30k.npz'}::x_train",) * 2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=SETS)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--size", type=int)
    parser.add_argument("--encoder", default="auto")
    parser.add_argument("--area", type=float, nargs=2, help="share of the image that a crop keeps [of the recipe]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budgets", default="all,10/class")
    args = parser.parse_args()
    sys.path.insert(0, str(HERE))
    import selfsame as ss

    unlabelled, labelled = SETS[args.data]
    cut = {"area": tuple(args.area)} if args.area else {}
    views = {"name": "auto", "one": cut, "two": cut} if cut else "auto"
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            run = ss.pretrain(
                unlabelled, out=Path(folder) / str(seed), epochs=args.epochs, size=args.size,
                encoder=args.encoder, views=views, seed=seed,
            )  # fmt: skip
            rows = ss.evaluate(run, labelled, budgets=args.budgets)
            kept = {"result": run.result, "loop": run.plan["loop"], "size": run.plan["size"]}
            runs.append({"seed": seed, "rows": rows, **kept})
            print(json.dumps(rows), flush=True)
    result = {"command": shlex.join(["python", "bench/baselines.py", *sys.argv[1:]]), "runs": runs}
    path = HERE / "results" / f"{args.data}.json"
    path.write_text(json.dumps(result, indent=1).replace(str(HERE.parents[1]), "..") + "\n")


if __name__ == "__main__":
    main()
