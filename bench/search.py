"""How fast an index is searched and made: beside faiss's exact index in turns, large ones by themselves.

    python bench/search.py                       exact search beside faiss.IndexFlatIP, 200,000 x 512
    python bench/search.py --large 1000000       adding this many, taking some out, moving the rest, searching
    python bench/search.py --graph 50000         approximate search: time to make it, its file, recall, queries a second
    python bench/search.py --server 100000       the same interface on PostgreSQL, of the wheel pgserver

Vectors are drawn in heaps (200 centres, noise of 0.7 of their spread), which is easier for a graph than noise alone and
harder than some encoders. In turns: each round asks one and then the other; the best round of each counts, by the clock
and by the time of the processor, which others on the machine disturb less. Stored in bench/results/search.json.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1]))

from selfsame.engine.dist import machine
from selfsame.index import exact
from selfsame.index.contract import Index, Made
from selfsame.index.store import created, opened

HERE = Path(__file__).parent
PART = 16_384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--large", type=int)
    parser.add_argument("--graph", type=int)
    parser.add_argument("--server", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    threadpool_limits(args.threads)  # what numpy multiplies with
    if args.large:
        kind, found = "large", large(args.large, args.dim)
    elif args.graph:
        kind, found = "graph", graph(args.graph, args.dim)
    elif args.server:
        kind, found = "server", server(args.server, args.dim)
    else:
        kind, found = "exact", beside_faiss(args.items, args.dim, args.rounds, args.threads)
    about = {"command": shlex.join(["python", "bench/search.py", *sys.argv[1:]]), "threads": args.threads}
    about |= {"load": os.getloadavg()[0], "machine": machine(torch.device("cpu"))}
    path = HERE / "results" / "search.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, kind: {**about, **found}}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def drawn(count: int, dim: int, seed: int = 0) -> np.ndarray:
    centres = np.random.default_rng(99).standard_normal((200, dim), dtype=np.float32)
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim), dtype=np.float32)
    vectors *= 0.7
    vectors += centres[rng.integers(0, 200, count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def timed(act: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    clock, cpu = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - clock, time.process_time() - cpu


def beside_faiss(items: int, dim: int, rounds: int, threads: int) -> dict[str, Any]:
    import faiss

    faiss.omp_set_num_threads(threads)
    vectors = drawn(items, dim)
    flat = faiss.IndexFlatIP(dim)
    flat.add(vectors)
    rows = []
    for count in (1, 10, 100, 1000):
        queries = drawn(count, dim, 1)
        ways = {
            "faiss": lambda q=queries: flat.search(q, 10),
            "selfsame": lambda q=queries: exact.search(vectors, q, 10),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds if count < 1000 else min(rounds, 3)):
            for name, act in ways.items():
                times[name].append(timed(act))
        theirs, ours = flat.search(queries, 10)[1], exact.search(vectors, queries, 10)[1]
        same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(theirs, ours, strict=True)])
        best = {name: (min(t[0] for t in some), min(t[1] for t in some)) for name, some in times.items()}
        row = {"queries": count, "same": float(same)}
        for name, (clock, cpu) in best.items():
            row |= {f"{name}_per_second": round(count / clock, 2), f"{name}_per_cpu_second": round(count / cpu, 2)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return {"items": items, "dim": dim, "rounds": rounds, "rows": rows}


def own_memory() -> float:
    """MiB that are this process's alone, without the pages of files it maps."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def filled(index: Index, items: int, dim: int) -> float:
    """Seconds to add the items, in parts, without those to draw them."""
    seconds = 0.0
    for start in range(0, items, PART):
        count = min(PART, items - start)
        vectors, names = drawn(count, dim, start + 1), [f"photos/{k:08d}.jpg" for k in range(start, start + count)]
        seconds += timed(
            lambda n=names, v=vectors: index.add(n, v, ["even", "odd"] * (len(n) // 2) + ["even"] * (len(n) % 2))
        )[0]
    return seconds


def large(items: int, dim: int) -> dict[str, Any]:
    made = Made(fingerprint="0" * 32, modality="image", size=96, dim=dim)
    with tempfile.TemporaryDirectory() as folder:
        before = own_memory()
        place = Path(folder) / "idx"
        index = created(place, made)
        result: dict[str, Any] = {"items": items, "dim": dim, "add_s": filled(index, items, dim)}
        result["add_own_mib"] = own_memory() - before
        result["vectors_mib"] = items * dim * 4 / 2**20
        index = opened(place)
        queries = drawn(100, dim, 7)
        index.search(queries[:1], 10)
        result["search_1_s"] = min(timed(lambda: index.search(queries[:1], 10))[0] for _ in range(3))
        result["search_100_s"] = timed(lambda: index.search(queries, 10))[0]
        result["search_label_s"] = timed(lambda: index.search(queries[:1], 10, label="odd"))[0]
        gone = [f"photos/{k:08d}.jpg" for k in range(0, items, 5)]
        result["remove_s"] = timed(lambda: index.remove(gone))[0]
        result["removed"] = len(gone)
        result["compact_s"] = timed(lambda: index.compact())[0]  # type: ignore[attr-defined]
        result["own_mib_at_the_end"] = own_memory() - before
        return result


def graph(items: int, dim: int) -> dict[str, Any]:
    made = Made(fingerprint="0" * 32, modality="image", size=96, dim=dim)
    with tempfile.TemporaryDirectory() as folder:
        index = created(Path(folder) / "idx", made)
        filled(index, items, dim)
        seconds, cpu = timed(index.approximate)
        known = index.graph
        assert known is not None
        result: dict[str, Any] = {"items": items, "dim": dim, "build_s": seconds, "build_cpu_s": cpu}
        result |= known.model_dump(include={"kind", "view", "recall", "k", "asked"})
        result["file_mib"] = (Path(folder) / "idx" / known.file).stat().st_size / 2**20
        return result | both(index, drawn(100, dim, 7))


def both(index: Index, queries: np.ndarray) -> dict[str, Any]:
    index.search(queries[:1], 10)
    walked = min(timed(lambda: index.search(queries, 10))[0] for _ in range(2))
    compared = min(timed(lambda: index.search(queries, 10, exact=True))[0] for _ in range(2))
    return {"approximate_per_second": len(queries) / walked, "exact_per_second": len(queries) / compared}


def server(items: int, dim: int) -> dict[str, Any]:
    from tests.index.server import running

    made = Made(fingerprint="0" * 32, modality="image", size=96, dim=dim)
    with running() as address:
        index = created(f"{address}&table=bench", made)
        before = own_memory()
        result: dict[str, Any] = {"items": items, "dim": dim, "add_s": filled(index, items, dim)}
        result["add_own_mib"] = own_memory() - before
        result["build_s"] = timed(index.approximate)[0]
        known = index.graph
        assert known is not None
        result |= known.model_dump(include={"kind", "view", "recall", "k", "asked"})
        result |= both(index, drawn(20, dim, 7))
        index.close()
        return result


if __name__ == "__main__":
    main()
