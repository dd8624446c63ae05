"""What a large table costs: time and memory to open, measure and read it, as `pretrain` reads it.

    python bench/table_memory.py --parquet 10000000 --csv 2000000

Makes the files itself, in a temporary folder: 4 numbers, 2 counts, 2 categories, in Parquet groups of 250,000 rows. A
process of its own opens each, measures it, and reads `--steps` batches in the order of the engine. Memory is the peak
of that process less what it held when all was imported. Stored in bench/results/table_memory.json.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
GROUP, BATCH = 250_000, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parquet", type=int, default=10_000_000)
    parser.add_argument("--csv", type=int, default=2_000_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(args.read, args.steps)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, count in (("parquet", args.parquet), ("csv", args.csv)):
            if count:
                path = Path(folder) / f"table.{kind}"
                made(path, count)
                command = [sys.executable, __file__, "--read", str(path), "--steps", str(args.steps)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr[-2000:])
                found = json.loads(done.stdout.splitlines()[-1])
                rows.append({"kind": kind, "rows": count, "file_mib": path.stat().st_size >> 20, **found})
                print(json.dumps(rows[-1]), flush=True)
                path.unlink()
    path = HERE / "results" / "table_memory.json"
    command = shlex.join(["python", "bench/table_memory.py", *sys.argv[1:]])
    rows = [{**row, "batch": BATCH, "command": command} for row in rows]
    if path.exists():  # of the other kind what was measured before
        new = {row["kind"] for row in rows}
        rows += [row for row in json.loads(path.read_text())["rows"] if row["kind"] not in new]
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def made(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"word{k}" for k in range(200)])
    names = ["a", "b", "c", "d", "clicks", "shown", "site", "device"]

    def group(size: int) -> list[np.ndarray]:
        numbers = [rng.normal(size=size).astype(np.float32) for _ in range(4)]
        counts = [(rng.exponential(20, size) ** 1.5).astype(np.int32) for _ in range(2)]
        return [*numbers, *counts, words[rng.integers(0, 200, size)], words[rng.integers(0, 5, size)]]

    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        with parquet.ParquetWriter(path, pa.table(dict(zip(names, group(2), strict=True))).schema) as file:
            for start in range(0, count, GROUP):
                held = group(min(GROUP, count - start))
                file.write_table(pa.table(dict(zip(names, held, strict=True))), row_group_size=GROUP)
        return
    with path.open("w") as text:
        text.write(",".join(names) + "\n")
        for start in range(0, count, GROUP):
            held = group(min(GROUP, count - start))
            texts = [[f"{value:.4f}" for value in part] for part in held[:4]] + [part.tolist() for part in held[4:]]
            text.writelines(",".join(map(str, line)) + "\n" for line in zip(*texts, strict=True))


def read(path: str, steps: int) -> dict[str, float]:
    """Open, measure, and read batches, in this process."""
    from functools import partial

    import torch  # noqa: F401 - counted in what a process holds anyway

    from selfsame.engine.feed import Steps
    from selfsame.modalities import table
    from selfsame.records import ViewPlan

    with_all = partial(table.sample, plan=ViewPlan(full=2))  # all is imported before memory is looked at
    if path.endswith(".parquet"):
        import pyarrow.parquet  # noqa: F401
    before = peak()
    began = time.perf_counter()
    source = table.open_source(path)
    opened = time.perf_counter()
    stats, _ = table.measure(source)
    source.fit(stats)
    measured = time.perf_counter()
    views = table.recipe("auto", len(stats.columns), stats)

    def sample(held: object, items: list[int], draws: object) -> list:
        return with_all(held, items, views=views, draws=draws)

    feed = Steps(source, np.arange(len(source)), sample, BATCH, slice(0, BATCH), 0)
    used = time.process_time()
    for step in range(steps):
        feed[step]
    used, ended = time.process_time() - used, time.perf_counter()
    return {
        "open_seconds": round(opened - began, 2),
        "measure_seconds": round(measured - opened, 2),
        "rows_per_second": round(steps * BATCH / (ended - measured)),
        "rows_per_core_second": round(steps * BATCH / used),  # where others use the machine too
        "memory_mib": (peak() - before) >> 20,
        "blocks": 0 if source.blocks is None else len(source.blocks),
        "window": source.window,
    }


def peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)


if __name__ == "__main__":
    main()
