"""What it costs to open many items: seconds, and memory beyond that of a process that opens nothing.

    python bench/memory.py                          # 10^3 to 10^6 items
    python bench/memory.py --sizes 10000000 --ways list --rounds 1

Two ways: `folder`, a tree of empty .jpg files, 1,000 a folder; `list`, a .txt that names files which are all there, by
way of links to one folder of 1,000, so that ten million names need no ten million files. A fresh process for each
measure, in turns, medians; memory is the peak of the resident set. Results go into bench/results/memory.json, where
those of other sizes stay.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from selfsame.engine.dist import machine

HERE = Path(__file__).parent
EACH = 1000  # files a folder
CHILD = """
import resource, sys, time
from selfsame.modalities.image import open_source
began, count = time.perf_counter(), 0
if len(sys.argv) > 1:
    source = open_source(sys.argv[1])
    count = len(source)
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(count, time.perf_counter() - began, peak)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--ways", nargs="+", choices=("folder", "list"), default=["folder", "list"])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    path = HERE / "results" / "memory.json"
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder), args)
    done = {(row["way"], row["items"]) for row in rows}
    if path.exists():
        rows += [row for row in json.loads(path.read_text())["rows"] if (row["way"], row["items"]) not in done]
    rows.sort(key=lambda row: (row["way"], row["items"]))
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def measured(folder: Path, args: argparse.Namespace) -> list[dict]:
    places = {(way, items): made(folder, way, items) for way in args.ways for items in args.sizes}
    said = {
        "rounds": args.rounds,
        "command": shlex.join(["python", "bench/memory.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
    }
    found: dict[tuple[str, int], list[tuple[float, int]]] = {what: [] for what in places}
    for _ in range(args.rounds):
        empty = opened()[2]
        for (way, items), place in places.items():
            count, seconds, peak = opened(place)
            if count != items:
                sys.exit(f"{place}: {count} items, not {items}")
            found[way, items].append((seconds, max(0, peak - empty)))
    rows = []
    for (way, items), values in found.items():
        seconds, size = (statistics.median(column) for column in zip(*values, strict=True))
        rows.append({"way": way, "items": items, "seconds": round(seconds, 3), "mib": round(size / 2**20, 1), **said})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def opened(place: Path | None = None) -> tuple[int, float, int]:
    """(items, seconds, bytes at the peak) of a process that opens this place, or none."""
    command = [sys.executable, "-c", CHILD, *([str(place)] if place else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    count, seconds, peak = done.stdout.split()
    return int(count), float(seconds), int(peak)


def made(folder: Path, way: str, items: int) -> Path:
    """A place with so many made-up items."""
    place = folder / f"{way}{items}"
    if way == "folder":
        for first in range(0, items, EACH):
            (inside := place / f"{first // EACH:06}").mkdir(parents=True)
            for i in range(min(EACH, items - first)):
                (inside / f"IMG_{first + i:08}.jpg").touch()
        return place
    (real := place / "real").mkdir(parents=True)
    for i in range(min(EACH, items)):
        (real / f"IMG_{i:04}.jpg").touch()
    with (place / "items.txt").open("w") as names:
        for first in range(0, items, EACH):
            (place / f"{first // EACH:06}").symlink_to(real)
            names.writelines(f"{first // EACH:06}/IMG_{i:04}.jpg\n" for i in range(min(EACH, items - first)))
    return place / "items.txt"


if __name__ == "__main__":
    main()
