"""BYOL with ResNet-18 on images of CIFAR-10's size, as fast as a device can: rate, share of its peak, time to accuracy.

    python bench/speedrun.py --data cifar10.npz --epochs 200                       # a GPU: bf16
    python bench/speedrun.py --epochs 0.3 --encoder resnet18@0.25 --device cpu     # the same road, tried small

The data is an .npz with x_train, y_train, x_test and y_test; 10,000 images of ../shared/data unless given. The run is
`selfsame pretrain` by its command; labels serve the k-NN accuracy (k 20) alone: on its way among 2,000 training images,
at the end of the test part by all training images. lightly publishes 200 epochs of BYOL in 108 minutes on its GPU
(k-NN 86.8 on the 50,000 images). As every run, one of 2,000 steps or more is compiled on a GPU. Stored in
bench/results/speedrun.json.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from judge import knn

import selfsame as ss
from selfsame.engine import dist
from selfsame.engine.cards import CARDS

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data" / "cifar10" / "cifar10_10k.npz"
FULL = 2 * 0.557e9  # FLOP of one forward pass of ResNet-18 on a 32 px image
PASSES = 8  # in forward passes: two views online, each with a backward pass of twice the cost, and two of the target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--epochs", type=float, default=200)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--accuracy", type=float, default=86.8, help="k-NN accuracy whose time is reported, in per cent"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    on = dist.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [
            sys.executable, "-m", "selfsame", "pretrain", f"{args.data}::x_train", "--out", str(run),
            "--labels", f"{args.data}::y_train", "--encoder", args.encoder, "--epochs", str(args.epochs),
            "--batch-size", str(args.batch_size), "--device", args.device, "--seed", str(args.seed),
        ]  # fmt: skip
        began = time.time()
        training = subprocess.Popen(command)
        curve: list[dict[str, float]] = []
        while training.poll() is None:  # the log says the step, the clock here the time
            time.sleep(0.5)
            rows = [row for row in log(run) if "knn" in row]
            curve += [
                {"minutes": (time.time() - began) / 60, "step": row["step"], "knn": 100 * row["knn"]}
                for row in rows[len(curve) :]
            ]
        if training.returncode:
            raise SystemExit(training.returncode)
        minutes = (time.time() - began) / 60
        result = json.loads((run / "result.json").read_text())
        accuracy = judged(ss.load(run), args.data, on)
    reached = next((point["minutes"] for point in curve if point["knn"] >= args.accuracy), None)
    rate = result["items_per_second"]
    told = {
        "command": shlex.join(["python", "bench/speedrun.py", *sys.argv[1:]]),
        "machine": dist.machine(on),
        "encoder": args.encoder,
        "epochs": args.epochs,
        "steps": result["steps"],
        "minutes": round(minutes, 2),
        "images_per_second": rate,
        "share_of_peak": share(rate, on) if args.encoder == "resnet18" else None,
        "minutes_to": {"knn": args.accuracy, "minutes": reached},
        "knn_of_test": round(accuracy, 2),
        "curve": curve,
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "speedrun.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({**told, "curve": f"{len(curve)} points"}, indent=1))


def log(run: Path) -> list[dict[str, float]]:
    path = run / "log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def judged(encoder: torch.nn.Module, data: Path, on: torch.device) -> float:
    """k-NN accuracy of the test part, in per cent, by the vectors of all training images."""
    with np.load(data) as parts, torch.inference_mode():
        encoder = encoder.to(on).eval()

        def vectors(name: str) -> torch.Tensor:
            pixels = torch.from_numpy(parts[name]).permute(0, 3, 1, 2)
            return torch.cat([encoder(some.to(on).float() / 255).float().cpu() for some in pixels.split(500)])

        truth = [torch.from_numpy(parts[name].astype(np.int64).ravel()) for name in ("y_train", "y_test")]
        return knn(vectors("x_train"), truth[0], vectors("x_test"), truth[1])


def share(rate: float, on: torch.device) -> float | None:
    """Of the card's peak in bf16; None for a device whose peak is not known."""
    if on.type != "cuda":
        return None
    name = torch.cuda.get_device_name(on).lower().replace(" ", "")
    peak = next((card.bf16 for key, card in CARDS.items() if key in name), None)
    return round(rate * PASSES * FULL / (peak * 1e12), 3) if peak else None


if __name__ == "__main__":
    main()
