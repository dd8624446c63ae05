"""How fast views are made beside lightly's, by one thread: images a second of processor time, in turns.

    OMP_NUM_THREADS=1 python bench/views.py

One image is two finished views. Five measures: `worker` (JPEG bytes to two uint8 crops), `files` (JPEG bytes to the
batch that the encoder sees), `pixels` (the same from decoded photos), `small` (32 px images in memory to the batch) and
`cache` (worker half from the pixel cache once it is filled, beside lightly from JPEG bytes). Needs lightly and
../shared/bench, whose photos and CIFAR-10 images are used. Stored in bench/results/views.json.
"""

import argparse
import io
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line sets it, here for both contenders

HERE = Path(__file__).parent
BENCH = HERE.parents[1] / "shared" / "bench"
sys.path[:0] = [str(HERE), str(BENCH)]

import common
import numpy as np
import torch
from PIL import Image

from selfsame.engine.dist import machine
from selfsame.modalities.image import Stats, cached, make_views, measure, open_source, plan_cache, recipe, sample
from selfsame.modalities.image.cache import CachedSource
from selfsame.modalities.image.decode import Form, Picture, StoredPicture
from selfsame.records import ViewPlan
from selfsame.types import Draws

PLAN = ViewPlan(full=2)
FORM = Form(3, 8, 255)


class Given:
    """Stands for a source: pictures made from what is given, or an array [n h w c]."""

    def __init__(self, items: list, array: np.ndarray | None = None) -> None:
        self.items, self.array = items, array

    def fetch(self, items: Sequence[int]) -> None:
        """All is here."""

    def open(self, i: int) -> Picture:
        item = self.items[i]
        return Picture(io.BytesIO(item), FORM) if isinstance(item, bytes) else StoredPicture(item, FORM)


class Ours:
    """Both halves, as `pretrain` runs them."""

    def __init__(self, source: Given | CachedSource, total: int, size: int) -> None:
        white = {"channels": 3, "bits": 8, "white": 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        self.stats = Stats(items=total, height=size, width=size, uniform=True, **white)
        self.views, self.source, self.total, self.calls = recipe("auto", size, self.stats), source, total, 0

    def worker(self) -> list[torch.Tensor]:
        self.calls += 1
        draws = Draws(0, self.calls, self.total)
        return sample(self.source, range(self.total), PLAN, self.views, draws)

    def both(self) -> list[torch.Tensor]:
        samples = self.worker()
        made = make_views(samples, PLAN, self.views, self.stats, Draws(0, self.calls, self.total, stream=1))
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.stats.mean, self.stats.std))
        return [torch.addcmul(-mean / std, view, 1 / std) for view in made]  # as the encoder does


def filled_cache(raw: list[bytes], size: int, folder: Path) -> CachedSource:
    """The photos as files, and their cache as a first pass leaves it; says how long it takes to open it again."""
    os.environ["SELFSAME_CACHE"] = str(folder / "cache")
    (folder / "photos").mkdir()
    for i, data in enumerate(raw):
        (folder / "photos" / f"{i:04}.jpg").write_bytes(data)
    source = open_source(str(folder / "photos"))
    stats, _ = measure(source)
    source.fit(stats)
    items, views = np.arange(len(raw)), recipe("auto", size, stats)
    plan = plan_cache(source, items, views, None)
    Ours(cached(source, items, plan), len(raw), size).worker()
    began = time.perf_counter()
    again = cached(source, items, plan)
    print(f"cache opened in {time.perf_counter() - began:.4f} s", file=sys.stderr)
    return again


def measures(size: int, count: int, folder: Path) -> dict[str, dict[str, Callable[[], int]]]:
    peers = common.contenders("VIEWS")
    if "lightly BYOLTransform / PIL" not in peers:
        sys.exit("lightly is not installed: pip install lightly")
    lightly = peers["lightly BYOLTransform / PIL"][1]
    raw = common.photo_bytes(count)
    photos = [Image.open(io.BytesIO(data)).convert("RGB") for data in raw]
    small = common.cifar()[0][:512]
    pictures = [Image.fromarray(image) for image in small]
    large, tiny = lightly(size), lightly(32)

    def decoded() -> list[Image.Image]:
        return [Image.open(io.BytesIO(data)).convert("RGB") for data in raw]

    files = Ours(Given(raw), count, size)
    pixels = Ours(Given([np.asarray(photo) for photo in photos]), count, size)
    array = Ours(Given([], small), len(small), 32)
    kept = Ours(filled_cache(raw, size, folder), count, size)
    from_files = {"lightly": lambda: len(large(decoded())[0]), "selfsame": lambda: len(files.both()[0])}
    return {
        "worker": {**from_files, "selfsame": lambda: len(files.worker()[0])},
        "files": from_files,
        "pixels": {"lightly": lambda: len(large(photos)[0]), "selfsame": lambda: len(pixels.both()[0])},
        "cache": {**from_files, "selfsame": lambda: len(kept.worker()[0])},
        "small": {"lightly": lambda: len(tiny(pictures)[0]), "selfsame": lambda: len(array.both()[0])},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(args, Path(folder))
    result = {
        "command": shlex.join(["python", "bench/views.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "rows": rows,
    }
    if not args.only:
        (HERE / "results" / "views.json").write_text(json.dumps(result, indent=1) + "\n")


def measured(args: argparse.Namespace, folder: Path) -> list[dict]:
    rows = []
    for name, contenders in measures(args.size, args.count, folder).items():
        if args.only and name not in args.only:
            continue
        rates = {who: rate["cpu"] for who, rate in common.interleave(contenders, args.rounds).items()}
        ratios = [ours / theirs for ours, theirs in zip(rates["selfsame"], rates["lightly"], strict=True)]
        row = {who: round(statistics.median(rate), 1) for who, rate in rates.items()}
        rows.append({"measure": name, **row, "ratio": round(statistics.median(ratios), 2)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    main()
