"""What one GPU gives: the step beside a loop by hand, the device half of the views, whole runs from files and cache.

    python bench/card.py steps --cases resnet18 resnet50 vit      # ready views; eager and compiled, in turns
    python bench/card.py views                                    # compiled graph beside the steps one by one
    python bench/card.py runs --photos ../shared/data/clothing/train --cases resnet50 vit --seconds 40 --compile
    python bench/card.py methods --epochs 20                      # CIFAR-10: eight methods side by side on one card

A sample is both views of an item, forward, backward, optimiser and average of the target, in bf16. The loop by hand is
the shortest that does the same: BYOL of torch and torchvision alone, eager. Whole runs are `selfsame pretrain` by its
command, stopped after some seconds; their rate is that of the log's second half, looks at the health and saves
included. Photos are copied under several names until there are 3,072. `methods` trains ResNet-18 on 10,000 images of
CIFAR-10 with each method for equally long, all at once, and judges them as ../shared/bench does, beside random weights.
`--beside N` waits until N of these scripts have compiled, and they then time in turns: compiling takes the longest.
Stored in bench/results/card.json, by card.
"""

import argparse
import copy
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from filelock import FileLock
from judge import knn, probe
from torch import Tensor, nn

import selfsame as ss
from selfsame.engine.cards import CARDS
from selfsame.engine.compiling import compiled, tried_out
from selfsame.engine.dist import machine, place
from selfsame.engine.feed import Batch
from selfsame.engine.loop import Loop, one_step
from selfsame.engine.optim import make_optimizer
from selfsame.modalities import image
from selfsame.modalities.image import graph
from selfsame.records import ViewPlan
from selfsame.types import Draws

HERE = Path(__file__).parent
RESULT = HERE / "results" / "card.json"
ITEMS = 3072
PATIENCE = 150  # seconds until the first rows of a run's log
PASSES = 8  # in forward passes: two views online, each with a backward pass of twice the cost, and two of the target
CASES: dict[str, dict[str, Any]] = {  # forward GFLOP of a view
    "resnet18": {"encoder": "resnet18", "size": 32, "batch": 512, "flop": 1.11, "hidden": 1024},
    "resnet50": {"encoder": "resnet50", "size": 224, "batch": 256, "flop": 8.18, "hidden": 4096},
    "vit": {"encoder": "vit_small_patch16_224", "size": 224, "batch": 256, "flop": 9.2, "hidden": 4096},
}
METHODS = ["byol", "moco", "mocov3", "simclr", "swav", "dino", "barlowtwins", "vicreg"]
DATA = HERE.parents[1] / "shared" / "data" / "cifar10" / "cifar10_10k.npz"
GPU = torch.device("cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("steps", "views", "runs", "methods"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--seconds", type=float, default=40, help="of a whole run, after its first step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["files", "cache"])
    parser.add_argument("--compile", action="store_true", help="whole runs, compiled")
    parser.add_argument("--beside", type=int, default=1, help="how many of these scripts time steps at the same time")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--encoder", default="resnet18")
    args = parser.parse_args()
    if args.what == "steps":
        for case in args.cases:
            kept("steps", case, steps(case, args.rounds, args.beside))
    elif args.what == "views":
        for case in ("resnet18", "resnet50"):
            kept("views", case, views(CASES[case]["size"], CASES[case]["batch"], args.rounds))
    elif args.what == "methods":
        learned(args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            photos = many(args.photos, Path(folder) / "photos")
            for case in args.cases:
                for way in args.ways:
                    found = whole(case, photos, Path(folder), way, args.seconds, args.compile)
                    kept("runs", f"{case} from {way}{', compiled' if args.compile else ''}", found)


def kept(what: str, name: str, found: dict[str, Any]) -> None:
    """Print and store."""
    print(json.dumps({"what": what, "name": name, **found}), flush=True)
    with alone("store"):
        stored = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        rows = stored.setdefault(machine(GPU), {}).setdefault(what, {})
        rows[name] = {"command": shlex.join(["python", "bench/card.py", *sys.argv[1:]]), **found}
        RESULT.write_text(json.dumps(stored, indent=1) + "\n")


@contextmanager
def alone(what: str) -> Iterator[None]:
    """No other of these scripts does this meanwhile."""
    with FileLock(Path(tempfile.gettempdir()) / f"card-{what}.lock"):
        yield


def together(count: int) -> None:
    """Wait until this many of these scripts have come here, two minutes at most."""
    place = Path(tempfile.gettempdir()) / f"card-ready-{os.getppid()}"
    place.mkdir(exist_ok=True)
    (place / str(os.getpid())).touch()
    until = time.monotonic() + 120
    while len(list(place.iterdir())) < count and time.monotonic() < until:
        time.sleep(0.2)


def share(case: str, rate: float) -> float | None:
    """Of the card's peak in bf16."""
    name = torch.cuda.get_device_name(GPU).lower().replace(" ", "")
    peak = next((card.bf16 for key, card in CARDS.items() if key in name), None)
    return round(rate * PASSES * CASES[case]["flop"] * 1e9 / (peak * 1e12), 3) if peak else None


# The step ------------------------------------------------------------------------------------------------------------


def steps(case: str, rounds: int, beside: int) -> dict[str, Any]:
    """Samples a second of each contender on views that are ready, in turns."""
    it = CASES[case]
    shape = (it["batch"], 3, it["size"], it["size"])
    ready = [torch.rand(shape, device=GPU).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    made: dict[str, Callable[[list[Tensor]], object]] = {
        "by hand": by_hand(case), "selfsame": ours(case, False), "selfsame compiled": ours(case, True)
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in made}
    warming: dict[str, float] = {}
    with tried_out():
        for name, run in made.items():
            began = time.perf_counter()
            for _ in range(4):
                run(ready)
            torch.cuda.synchronize()
            warming[name] = round(time.perf_counter() - began, 1)
        count = max(5, round(6000 / it["batch"]))
        together(beside)
        with alone("steps"):
            for _ in range(rounds):
                for name, run in made.items():
                    began = time.perf_counter()
                    for _ in range(count):
                        run(ready)
                    torch.cuda.synchronize()
                    rates[name].append(count * it["batch"] / (time.perf_counter() - began))
    middle = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "size": it["size"],
        "batch": it["batch"],
        "samples_per_second": {name: round(rate) for name, rate in middle.items()},
        "to_hand": {name: round(rate / middle["by hand"], 2) for name, rate in middle.items()},
        "share_of_peak": {name: share(case, rate) for name, rate in middle.items()},
        "first_steps_s": warming,
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
    }


def ours(case: str, quick: bool) -> Callable[[list[Tensor]], object]:
    """The engine's step on views that are given."""
    it = CASES[case]
    torch.manual_seed(0)
    stats = stats_of(it["size"])
    encoder = image.make_encoder(it["encoder"], it["size"], stats)
    method = ss.methods.BYOL(hidden=it["hidden"], momentum=0.99, output_norm="none")
    learner = place(method.build(encoder), GPU).train()
    loop = Loop(steps=10_000, batch=it["batch"], lr=1e-3, weight_decay=0.05, warmup=0, precision="bf16")
    optimizer = make_optimizer(loop.optimizer, learner, loop.lr, loop.weight_decay)
    forward = compiled(learner, "bf16") if quick else learner
    step = 0

    def run(views: list[Tensor]) -> None:
        nonlocal step
        rows = slice(0, it["batch"])
        one_step(forward, optimizer, Batch(step, views), lambda samples, draws: samples, loop, rows, GPU)
        learner.after_step(step / loop.steps)  # type: ignore[operator]
        step += 1

    return run


def by_hand(case: str) -> Callable[[list[Tensor]], object]:
    """BYOL as one would write it for one GPU: bf16, channels last, fused optimiser, multi-tensor average."""
    it = CASES[case]
    torch.manual_seed(0)
    options = {"img_size": it["size"]} if case == "vit" else {}
    trunk = timm.create_model(it["encoder"], num_classes=0, **options)
    if it["size"] <= 64:
        trunk.conv1, trunk.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()

    def mlp(into: int) -> nn.Sequential:
        wide = it["hidden"]
        return nn.Sequential(nn.Linear(into, wide), nn.BatchNorm1d(wide), nn.ReLU(), nn.Linear(wide, 256))

    online = nn.Sequential(trunk, mlp(trunk.num_features)).to(GPU, memory_format=torch.channels_last).train()
    predictor = mlp(256).to(GPU)
    target = copy.deepcopy(online).requires_grad_(False)
    learning = [*online.parameters(), *predictor.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=1e-3, weight_decay=0.05, fused=True)
    mean, std = (torch.tensor([value] * 3, device=GPU).view(1, 3, 1, 1) for value in (0.5, 0.25))

    def run(views: list[Tensor]) -> None:
        optimizer.zero_grad(set_to_none=True)
        one, two = ((view - mean) / std for view in views)
        with torch.autocast("cuda", torch.bfloat16):
            p, q = predictor(online(one)), predictor(online(two))
            with torch.no_grad():
                y, z = target(two), target(one)
            loss = (
                4 - 2 * (F.cosine_similarity(p.float(), y.float()) + F.cosine_similarity(q.float(), z.float())).mean()
            )
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 0.01)

    return run


def stats_of(size: int) -> Any:
    return image.Stats(items=64, channels=3, bits=8, white=255, mean=(0.5,) * 3, std=(0.25,) * 3, height=size,
                       width=size, uniform=True)  # fmt: skip


# The device half -----------------------------------------------------------------------------------------------------


def views(size: int, batch: int, rounds: int) -> dict[str, Any]:
    """Milliseconds for two views of a batch that lies on the card as uint8, in turns."""
    stats = stats_of(size)
    recipe, plan = image.recipe("auto", size, stats), ViewPlan(full=2)
    shape = (batch, size, size, 3)
    pixels = [torch.randint(0, 256, shape, dtype=torch.uint8, device=GPU).permute(0, 3, 1, 2) for _ in range(2)]
    ways = {"step by step": "0", "one graph": "1"}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            os.environ["SELFSAME_COMPILE"] = way
            torch.cuda.synchronize()
            began = time.perf_counter()
            for step in range(10):
                image.make_views(pixels, plan, recipe, stats, Draws(0, step, batch))
            torch.cuda.synchronize()
            found[name].append((time.perf_counter() - began) / 10 * 1e3)
    middle = {name: round(statistics.median(times[1:]), 2) for name, times in found.items()}
    compiling = round((found["one graph"][0] - middle["one graph"]) / 100, 1)
    return {"size": size, "batch": batch, "ms": middle, "compiling_s": compiling, "compiled": not graph.failed}


# Whole runs ----------------------------------------------------------------------------------------------------------


def many(photos: Path, folder: Path) -> Path:
    """The photos under several names."""
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    folder.mkdir()
    for k in range(ITEMS):
        shutil.copy(files[k % len(files)], folder / f"{k:05d}.jpg")
    return folder


def whole(case: str, photos: Path, folder: Path, way: str, seconds: float, quick: bool) -> dict[str, Any]:
    """A run by its command."""
    it, run = CASES[case], folder / f"{case}-{way}-{quick}"
    command = [
        sys.executable, "-m", "selfsame", "pretrain", str(photos), "--out", str(run), "--encoder", it["encoder"],
        "--size", str(it["size"]), "--batch-size", str(it["batch"]), "--epochs", "400", "--device", "cuda",
        *(["--cache", "0"] if way == "files" else []), "--compile" if quick else "--compile=false",
    ]  # fmt: skip
    began = time.monotonic()
    with (folder / "out.txt").open("w") as out:
        training = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        until = None
        while training.poll() is None and time.monotonic() < (until or began + PATIENCE):
            time.sleep(0.2)
            if until is None and len(told(run)) > 1:
                first, until = time.monotonic() - began, time.monotonic() + seconds
        training.send_signal(signal.SIGTERM)
        training.wait()
    rows = told(run)
    if len(rows) < 4:
        raise SystemExit((folder / "out.txt").read_text()[-3000:])
    at = [row["step"] * it["batch"] / row["items_per_second"] for row in rows]  # seconds since its first step
    half = len(rows) // 2
    rate = (rows[-1]["step"] - rows[half]["step"]) * it["batch"] / (at[-1] - at[half])
    plan = json.loads((run / "plan.json").read_text())
    lines = {line["name"]: line["value"] for line in plan["lines"]}
    return {
        "size": it["size"],
        "batch": it["batch"],
        "items_per_second": round(rate),
        "share_of_peak": share(case, rate),
        "until_first_row_s": round(first, 1),
        "steps": rows[-1]["step"],
        "plan": {name: lines.get(name) for name in ("workers", "cache")},
    }


def told(run: Path) -> list[dict[str, Any]]:
    path = run / "log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [row for row in map(json.loads, lines) if "items_per_second" in row]


# Methods -------------------------------------------------------------------------------------------------------------


def learned(args: argparse.Namespace) -> None:
    """Runs of several methods at once, each in a process of its own, and what became of them."""
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for name in args.methods:
            command = [
                sys.executable, "-m", "selfsame", "pretrain", f"{args.data}::x_train", "--out", f"{folder}/{name}",
                "--method", name, "--encoder", args.encoder, "--epochs", str(args.epochs), "--compile=false",
                "--batch-size", str(args.batch_size), "--device", GPU.type,
            ]  # fmt: skip
            with Path(folder, f"{name}.txt").open("w") as out:
                running[name] = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        torch.manual_seed(0)
        rows = {"epochs": args.epochs, "batch": args.batch_size, "encoder": args.encoder}
        untrained = image.make_encoder(args.encoder, 32, stats_of(32))
        kept("methods", "random weights", judged(untrained, args.data) | rows)
        while running:
            time.sleep(0.5)
            for name in [name for name, run in running.items() if run.poll() is not None]:
                if running.pop(name).returncode:
                    print(f"{name}: {Path(folder, f'{name}.txt').read_text()[-800:]}", flush=True)
                    continue
                told = ss.Run(Path(folder, name)).result
                some = {key: told.get(key) for key in ("steps", "seconds", "items_per_second", "verdict", "seed")}
                kept("methods", name, judged(ss.load(Path(folder, name)), args.data) | rows | some)


def judged(encoder: nn.Module, data: Path) -> dict[str, float]:
    """k-NN and probe accuracy in per cent, of the test part by all training images."""
    encoder = encoder.to(GPU).eval()
    with np.load(data) as parts, torch.inference_mode():
        pixels = {part: torch.from_numpy(parts[f"x_{part}"]).permute(0, 3, 1, 2) for part in ("train", "test")}
        y, truth = (torch.from_numpy(parts[f"y_{part}"].astype(np.int64).ravel()) for part in ("train", "test"))
        train, test = (
            torch.cat([encoder(some.to(GPU)).float().cpu() for some in one.split(500)]) for one in pixels.values()
        )
    return {
        "knn": round(knn(train.clone(), y, test.clone(), truth), 2),
        "probe": round(probe(train.clone(), y, test.clone(), truth), 2),
    }


if __name__ == "__main__":
    main()
