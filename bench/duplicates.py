"""Copies among a million vectors: time, memory, and what the approximate join finds.

    python bench/duplicates.py --items 1000000 --width 256

Vectors are those of a mixture of clusters, as the vectors of photos are: each is a random centre plus noise, its cosine
with others of its cluster about 0.5. One in twenty is a copy of another item, of a cosine drawn from 0.8 to 0.99. The
threshold is calibrated as `selfsame duplicates` does it, without being told which are copies. Pairs and groups are
compared with what was planted. Stored in bench/results/duplicates.json.
"""

import argparse
import json
import os
import resource
import shlex
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

import numpy as np

HERE = Path(__file__).parent
BLOCK = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "duplicates.json")
    args = parser.parse_args()
    import torch

    from selfsame.engine.dist import machine
    from selfsame.index.calibration import calibrated, far_of
    from selfsame.index.groups import stars
    from selfsame.index.pairs import near_pairs

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    vectors, originals, cosines = planted(args.items, args.width, args.seed)
    copies = np.arange(args.items - len(originals), args.items)
    seconds, processor = {}, {}

    def timed(name, act):
        began, used = time.perf_counter(), time.process_time()
        result = act()
        seconds[name] = round(time.perf_counter() - began, 1)
        processor[name] = round(time.process_time() - used, 1)
        print(f"{name}: {seconds[name]} s, of a processor {processor[name]} s", flush=True)
        return result

    threshold, _ = timed("threshold", lambda: calibrated(vectors, far_of(len(vectors)), args.seed))
    print(threshold, flush=True)
    join = timed("join", lambda: near_pairs(vectors, threshold.value, seed=args.seed))
    leader, _ = timed("groups", lambda: stars(len(vectors), join.pairs, np.arange(len(vectors))))
    found = set((join.pairs[:, 0] * args.items + join.pairs[:, 1]).tolist())
    wanted = cosines >= threshold.value
    hit = np.array([int(a) * args.items + int(b) in found for a, b in zip(originals, copies, strict=True)])
    result = {
        "command": shlex.join(["python", "bench/duplicates.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "items": args.items,
        "width": args.width,
        "copies": len(copies),
        "threshold": threshold.value,
        "far": threshold.far,
        "seconds": seconds,
        "processor_seconds": processor,
        "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "exact": join.exact,
        "cells": join.cells,
        "probes": join.probes,
        "recall_measured": join.recall,
        "recall_measured_on": join.judged,
        "pairs": len(join.pairs),
        "planted_above_threshold": int(wanted.sum()),
        "planted_found_of_these": float(hit[wanted].mean()),
        "copies_grouped": float((leader != np.arange(len(leader)))[copies].mean()),
    }
    args.out.write_text(json.dumps(result, indent=1).replace(str(HERE.parents[1]), "..") + "\n")
    print(json.dumps(result, indent=1))


def planted(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors; which items the last twentieth of them are copies of; the cosines of the two."""
    rng = np.random.default_rng(seed)
    clusters = max(8, n // 500)
    centres = unit(rng.standard_normal((clusters, d), dtype=np.float32))
    x = np.empty((n, d), np.float32)
    for start in range(0, n, BLOCK):
        rows = min(BLOCK, n - start)
        noise = rng.standard_normal((rows, d), dtype=np.float32) / np.float32(np.sqrt(d))
        x[start : start + rows] = unit(centres[rng.integers(clusters, size=rows)] + noise)
    count = n // 20
    originals = rng.permutation(n - count)[:count]
    cosines = rng.uniform(0.8, 0.99, count).astype(np.float32)
    noise = rng.standard_normal((count, d), dtype=np.float32)
    own = x[originals]
    noise = unit(noise - (noise * own).sum(axis=1, keepdims=True) * own)
    x[n - count :] = cosines[:, None] * own + np.sqrt(1 - cosines**2)[:, None] * noise
    return x, originals, cosines


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
