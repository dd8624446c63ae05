"""Series of the UCR and UEA archives: learned features beside random weights, raw series, and 1-NN by DTW.

    python bench/series.py                       # all seven sets, three seeds
    python bench/series.py GunPoint --seeds 0 --samples 2000
    python bench/series.py --method byol --views mixed --encoder resnet18@0.5

Data: ../shared/data/ucr_series, the official parts. An encoder learns from the series of the training part alone,
without labels; the linear probe and 1-NN (cosine) are fitted on its vectors of that part and scored on the test part.
Beside it: the same network with random weights, the raw series (brought to one length) with the same probe and with
1-NN by Euclidean distance and by DTW in a band of a tenth. Stored in bench/results/series.json, a seed after the other:
the same command goes on where it was stopped, and `--again` begins a set anew.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

import numpy as np
import torch

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data" / "ucr_series"
SETS = (
    *("ArrowHead", "GunPoint", "ItalyPowerDemand", "OSULeaf"),
    *("BasicMotions", "JapaneseVowels", "PickupGestureWiimoteZ"),
)
BAND = 0.1  # of the length: half of what a path may leave the diagonal by, either way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=", ".join(SETS))
    parser.add_argument("--method", default="ts2vec")
    parser.add_argument("--views", default="auto")
    parser.add_argument("--encoder", default="auto")
    parser.add_argument("--samples", type=int, default=6400, help="series seen in all")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--again", action="store_true", help="measure what is stored once more")
    args = parser.parse_args()
    sys.path.insert(0, str(HERE))
    path = HERE / "results" / "series.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in args.sets or SETS:
        for result in of_set(name, args, None if args.again else found.get(name)):
            found[name] = result
            path.write_text(json.dumps(found, indent=1) + "\n")
            print(line(name, found[name]), flush=True)
    wins = [name for name in found if found[name]["above raw 1-NN"] or found[name]["above random"]]
    print(f"above 1-NN on raw series or above random weights, by more than the spread: {len(wins)} of {len(found)}")


def of_set(name: str, args: argparse.Namespace, held: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Accuracies in per cent, by feature and protocol, a number a seed where there is chance in it; after each seed.

    `held` is what an earlier call found: its seeds are kept if its settings are the same.
    """
    import selfsame as ss
    from selfsame.engine.dist import machine
    from selfsame.modalities import signal

    settings = {key: value for key, value in vars(args).items() if key not in ("sets", "seeds", "again")}
    rows: dict[str, list[float]] = {}
    seeds: list[int] = []
    seconds: dict[str, float] = {}
    if held is not None and held["asked"] == settings:
        rows, seeds, seconds = held["rows"], held["settings"]["seeds"], held["seconds"]
    if not set(args.seeds) - set(seeds):
        return
    train, test = (str(DATA / name / f"{name}_{part}.ts") for part in ("TRAIN", "TEST"))
    sources = [signal.open_source(path) for path in (train, test)]
    stats, _ = signal.measure(sources[0])
    for source in sources:
        source.fit(stats)
    classes = sorted(set(sources[0].labels))
    y, truth = (torch.tensor([classes.index(label) for label in source.labels]) for source in sources)
    raw = signal.raw_vectors([(source, range(len(source))) for source in sources], stats)
    for kind, band in (("Euclidean", None), ("DTW", BAND)):
        began = time.perf_counter()
        rows[f"raw, 1-NN {kind}"] = [100 * float((y[nearest_raw(raw, stats.channels, band)] == truth).float().mean())]
        seconds[kind] = time.perf_counter() - began
    for seed in [seed for seed in args.seeds if seed not in seeds]:
        rows.setdefault("raw, linear", []).append(probe(*raw, y, truth, seed))
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            run = ss.pretrain(
                train, out=Path(folder) / "run", method=args.method, views=args.views, encoder=args.encoder,
                epochs=args.samples / len(sources[0]), batch_size=min(args.batch, len(sources[0]) // 2),
                seed=seed, workers=0, precision="fp32",
            )  # fmt: skip
            seconds["pretraining"] = time.perf_counter() - began
            learned = run.encoder
        torch.manual_seed(seed)
        fresh = signal.build_encoder({**learned.spec, "norm": "batch"})
        for kind, encoder in (("encoder", learned), ("random", fresh)):
            vectors = [vectors_of(encoder, source, stats) for source in sources]
            rows.setdefault(f"{kind}, linear", []).append(probe(*vectors, y, truth, seed))
            rows.setdefault(f"{kind}, 1-NN", []).append(one_nearest(*vectors, y, truth))
        seeds = [*seeds, seed]
        encoder, random = rows["encoder, linear"], rows["random, linear"]
        yield {
            "rows": rows,
            "above raw 1-NN": above(encoder, rows["raw, 1-NN Euclidean"]),
            "above random": above(encoder, random),
            "asked": settings,
            "settings": {"seeds": seeds, "encoder": learned.spec["name"], "machine": machine(torch.device("cpu"))},
            "seconds": seconds,
        }


def above(one: list[float], other: list[float]) -> bool:
    """Whether its mean is, by more than the larger standard deviation of the two; one seed has none."""
    if len(one) < 2:
        return False
    spread = max(deviation(one), deviation(other))
    return statistics.fmean(one) - statistics.fmean(other) > spread


def vectors_of(encoder: Any, source: Any, stats: Any) -> torch.Tensor:
    """Of all series, in eval mode."""
    from selfsame.modalities import signal
    from selfsame.records import ViewPlan
    from selfsame.types import Draws

    views, plan = signal.recipe("weak", encoder.spec["size"], stats), ViewPlan(full=0, plain=1)
    encoder.eval()
    made = []
    with torch.inference_mode():
        for k in range(0, len(source), 128):
            items = range(k, min(k + 128, len(source)))
            made.append(encoder(signal.sample(source, items, plan, views, Draws(0, 0, len(items)))[0]))
    return torch.cat(made)


def probe(train: torch.Tensor, test: torch.Tensor, y: torch.Tensor, truth: torch.Tensor, seed: int) -> float:
    from selfsame.downstream.linear import linear_accuracy

    return 100 * linear_accuracy(train, y, test, truth, seed)


def one_nearest(train: torch.Tensor, test: torch.Tensor, y: torch.Tensor, truth: torch.Tensor) -> float:
    from selfsame.downstream.knn import knn_accuracy

    return 100 * knn_accuracy(train, y, test, truth, k=1)


def nearest_raw(raw: list[torch.Tensor], channels: int, band: float | None) -> np.ndarray:
    from dtw import nearest

    train, test = (one.numpy().reshape(len(one), channels, -1).astype(np.float64) for one in raw)
    return nearest(train, test, band)


def deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def line(name: str, found: dict[str, Any]) -> str:
    shown = (
        f"{key} {statistics.fmean(values):.1f}{f' ± {deviation(values):.1f}' if len(values) > 1 else ''}"
        for key, values in found["rows"].items()
    )
    return f"{name}: {'; '.join(shown)}"


if __name__ == "__main__":
    main()
