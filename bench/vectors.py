"""Vectors at work on real data: speakers verified, and abnormal heart beats found, beside what needs no training.

    python bench/vectors.py speakers --runs runs
    python bench/vectors.py beats --runs runs

`speakers`: ../shared/data/spoken_digits, 6 speakers. An encoder learns without labels from 2,700 recordings (all but
index 0 to 4); `selfsame verify` looks at the 300 others, which the encoder has not heard, of speakers whom it has: a
threshold is chosen on three speakers and measured on the other three. `beats`: record 100 of ../shared/data/ecg, cut to
256 steps around each beat; the encoder learns from all 2,271 without labels, and `selfsame outliers` looks for the 34
abnormal ones (33 A, 1 V). A seed is other random weights and, of speakers, another division of them, with one encoder;
of beats another encoder. The trivial feature is the one that the commands put beside the encoder. Runs are kept in
--runs and gone on with.
Stored in bench/results/vectors.json, one key a question.
"""

import argparse
import csv
import json
import os
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

import numpy as np

HERE = Path(__file__).parent
DATA = (HERE.parents[1] / "shared" / "data").resolve()
STORED = HERE / "results" / "vectors.json"
BEFORE, AFTER = 90, 166  # steps of a beat around its mark, at 360 Hz
ABNORMAL = ("A", "V")
Rows = dict[str, list[dict[str, Any]]]  # what was asked -> rows of the job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=("speakers", "beats"))
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs, made if they are not there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, help="of pretraining [5 and 4]")
    parser.add_argument("--encoder", help="[that of a run on such sound, and resnet@0.25]")
    parser.add_argument("--out", type=Path, default=STORED)
    args = parser.parse_args()
    import torch

    from selfsame.engine.dist import machine

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    args.runs.mkdir(parents=True, exist_ok=True)
    if args.question == "speakers":
        told_of, rows = speakers(args)
    else:
        told_of, rows = zip(*(beats(args, seed) for seed in args.seeds), strict=True)
    result = {
        "command": shlex.join(["python", "bench/vectors.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "seeds": args.seeds,
        "runs": told_of,
        "rows": averaged(rows),
    }
    stored = json.loads(args.out.read_text()) if args.out.exists() else {}
    stored[args.question] = result
    args.out.write_text(json.dumps(stored, indent=1).replace(str(HERE.parents[1]), "..") + "\n")
    print(json.dumps(result["rows"], indent=1))


def speakers(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Rows]]:
    import selfsame as ss

    files = sorted((DATA / "spoken_digits").rglob("*.wav"))
    heard = [file for file in files if int(file.stem.split("_")[2]) >= 5]
    listing, asked = args.runs / "heard.txt", args.runs / "asked.csv"
    listing.write_text("".join(f"{file}\n" for file in heard))
    with asked.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([one, one.stem.split("_")[1]] for one in sorted(set(files) - set(heard)))
    run = ss.pretrain(
        str(listing), out=args.runs / f"speakers-{args.seeds[0]}", encoder=args.encoder or "auto",
        epochs=args.epochs or 5, workers=1, seed=args.seeds[0],
    )  # fmt: skip
    rows: list[Rows] = [{"verify": ss.verify(run, asked, seed=seed, seeds=1, workers=0)["rows"]} for seed in args.seeds]
    return [told(run)], rows


def beats(args: argparse.Namespace, seed: int) -> tuple[dict[str, Any], Rows]:
    import selfsame as ss

    record = np.load(DATA / "ecg" / "mitbih_100.npz")
    signal = ((record["signal"] - record["zero"]) / record["gain"]).astype(np.float32)
    marks = [
        (at, kind)
        for at, kind in zip(record["ann_sample"], record["ann_symbol"], strict=True)
        if kind in ("N", *ABNORMAL) and BEFORE <= at < len(signal) - AFTER
    ]
    place = args.runs / "beats.npz"
    np.savez(
        place,
        x=np.stack([signal[at - BEFORE : at + AFTER].T for at, _ in marks]),
        y=np.array([kind for _, kind in marks]),
    )
    run = ss.pretrain(
        str(place), out=args.runs / f"beats-{seed}", encoder=args.encoder or "resnet@0.25", epochs=args.epochs or 4,
        workers=0, seed=seed,
    )  # fmt: skip
    rows = {}
    for neighbour in (10, 50):
        found = ss.outliers(
            run, place, neighbour=neighbour, anomalies=",".join(ABNORMAL), seed=seed, seeds=1, workers=0
        )
        rows[f"outliers, neighbour {neighbour}"] = found["rows"]
    return told(run), rows


def told(run: Any) -> dict[str, Any]:
    spec = run.encoder.spec
    return {
        "encoder": spec["name"],
        "size": spec["size"],
        **{key: run.result.get(key) for key in ("verdict", "seconds", "steps")},
    }


def averaged(of_seeds: Sequence[Rows]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """{what was asked: {features: {figure: [mean, standard deviation]}}} over the seeds."""
    made: dict[str, dict[str, dict[str, list[float]]]] = {}
    for asked in of_seeds[0]:
        made[asked] = {}
        for number, row in enumerate(of_seeds[0][asked]):
            figures = {}
            for name in row["figures"]:
                values = [rows[asked][number]["figures"][name]["mean"] for rows in of_seeds]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                figures[name] = [round(statistics.fmean(values), 4), round(spread, 4)]
            made[asked][row["features"]] = figures
    return made


if __name__ == "__main__":
    main()
