"""The device half of two views on a CPU, four ways: the kernel, steps on their rows, all steps on all rows, compiled.

    OMP_NUM_THREADS=1 python bench/graph.py

A GPU takes the last way, and the second where torch cannot compile; a CPU the first, and the second where there is no
kernel. Milliseconds of processor time an item, of one thread, the median of rounds in turns; compiling is without the
C++ compiler's own time. Stored in bench/results/graph.json.
"""

import json
import os
import shlex
import statistics
import sys
import time
from pathlib import Path

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # else an earlier run's code is taken

import torch

from selfsame.engine.dist import machine
from selfsame.modalities.image import Stats, graph, kernel, make_views, recipe, views
from selfsame.records import ViewPlan
from selfsame.types import Draws

HERE = Path(__file__).parent
ROUNDS = 7
JOBS = [("photo", 224, 32), ("small", 32, 256), ("weak", 224, 32)]  # recipe, pixels, items
COLOUR = {"channels": 3, "bits": 8, "white": 255, "mean": (0.5,) * 3, "std": (0.25,) * 3, "uniform": True}
WAYS = ("kernel", "rows", "masks", "graph")
AS_THEY_ARE = kernel.compiled, graph.compiled, views.graph_of


def take(way: str) -> None:
    """From here on views are made this way."""
    built, compiled, graph_of = AS_THEY_ARE
    os.environ["SELFSAME_COMPILE"] = "1" if way in ("masks", "graph") else "0"
    kernel.compiled = built if way == "kernel" else lambda: None
    graph.compiled = (lambda make: make) if way == "masks" else compiled
    views.graph_of = graph_of.__wrapped__ if way == "masks" else graph_of


def measured(name: str, side: int, count: int) -> dict:
    stats = Stats(items=count, height=side, width=side, **COLOUR)
    strengths = recipe(name, side, stats)
    pixels = torch.randint(0, 256, (2, count, side, side, 3), generator=torch.Generator().manual_seed(0))
    samples = list(pixels.to(torch.uint8).permute(0, 1, 4, 2, 3))
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for step in range(1 + ROUNDS):
        for way in WAYS:
            take(way)
            began = time.process_time()
            make_views(samples, ViewPlan(full=2), strengths, stats, Draws(0, step, count))
            taken[way].append(time.process_time() - began)
    assert not graph.failed
    medians = {way: round(statistics.median(seconds[1:]) * 1e3 / count, 3) for way, seconds in taken.items()}
    return {"recipe": name, "size": side, "items": count, **medians, "compiling_s": round(taken["graph"][0], 1)}


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for job in JOBS:
        rows.append(measured(*job))
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": shlex.join(["python", "bench/graph.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "rounds": ROUNDS,
        "rows": rows,
    }
    (HERE / "results" / "graph.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
