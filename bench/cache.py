"""What the pixel cache gives: photos read, cut and counted without it, while it is filled, and from it.

    OMP_NUM_THREADS=1 python bench/cache.py

The worker half of two views (224 px) of made photos of 640 x 480, in one process, in turns: images a second of
processor time. And how long it takes to open a cache that is full. No peer is needed; beside one it stands in
bench/views.py. Stored in bench/results/cache.json.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from selfsame.engine.dist import machine
from selfsame.modalities.image import cached, measure, open_source, plan_cache, recipe, sample
from selfsame.records import ViewPlan
from selfsame.types import Draws

HERE = Path(__file__).parent
SIZE, PLAN = 224, ViewPlan(full=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measures = measured(Path(folder), args.count, args.rounds)
    result = {
        "command": f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '2')} "
        + shlex.join(["python", "bench/cache.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "count": args.count,
        "rounds": args.rounds,
        **measures,
    }
    (HERE / "results" / "cache.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measured(folder: Path, count: int, rounds: int) -> dict:
    (folder / "photos").mkdir()
    for i in range(count):
        small = np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        photo = Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC)
        photo.save(folder / "photos" / f"{i:05}.jpg", quality=90)
    source = open_source(str(folder / "photos"))
    stats, _ = measure(source)
    source.fit(stats)
    items, views = np.arange(count), recipe("auto", SIZE, stats)
    rates: dict[str, list[float]] = {"without": [], "filling": [], "cached": []}
    opening = []
    for turn in range(-1, rounds):  # the first is not counted
        os.environ["SELFSAME_CACHE"] = str(folder / f"cache{turn}")  # an empty one
        plan = plan_cache(source, items, views, None)
        sources = {"without": source, "filling": cached(source, items, plan)}
        began = time.perf_counter()
        for name in rates:
            if name == "cached":
                began = time.perf_counter()
                sources[name] = cached(source, items, plan)
                opening.append(time.perf_counter() - began)
            spent = time.process_time()
            sample(sources[name], range(count), PLAN, views, Draws(0, turn + 1, count))
            if turn >= 0:
                rates[name].append(count / (time.process_time() - spent))
    kept = [
        {"what": name, "images_per_cpu_s": round(statistics.median(found), 1)}
        | {"ratio": round(statistics.median(a / b for a, b in zip(found, rates["without"], strict=True)), 2)}
        for name, found in rates.items()
    ]
    return {"rows": kept, "opened_ms": round(1000 * statistics.median(opening), 2)}


if __name__ == "__main__":
    main()
