"""Text at a small budget on a processor: encoders trained without labels, beside random weights and TF-IDF.

Three sets of ../shared/data: sentences of film reviews (two classes, split here by a fixed seed: a fifth for the test),
TREC questions (six classes, its own split), and pairs of sentences with a score (STS-B). Learned from the train texts
alone; labels only for the measure: k-NN and a linear probe with all labels and with 1 % of them, and Spearman's
correlation of the cosine with the score. TF-IDF with all labels is the same for all seeds and takes minutes: it is
measured with the first.

    python bench/text.py --sets movies trec --methods simclr maskedwords --seeds 0 1 2 --epochs 20

Stored in bench/results/NAME.json with command, machine, versions and seeds. With `--validate` the test part is never
read: each fifth text of the train part takes its place, of STS-B its own part for that (dev), so that settings can be
chosen; nothing is stored.
"""

import argparse
import csv
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

import numpy as np
import torch

import selfsame as ss
from selfsame.downstream.protocol import Features, Kind, measure
from selfsame.engine.dist import machine
from selfsame.jobs.evaluate import Evaluate
from selfsame.jobs.evaluating import Labelled, parts, raw

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=("movies", "trec", "stsb"), default=["movies", "trec", "stsb"])
    parser.add_argument("--methods", nargs="+", default=["simclr", "maskedwords"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, help="[derived by the run]")
    parser.add_argument("--settings", type=json.loads, default={}, help='more for pretrain, as \'{"views": "simcse"}\'')
    parser.add_argument("--method-settings", type=json.loads, default={}, help="more for the methods")
    parser.add_argument("--validate", action="store_true", help="judge on a fifth of the train part")
    parser.add_argument("--name", default="text")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for name in args.sets:
            learn, measured = prepared(name, Path(place), args.validate)
            for method in args.methods:
                for seed in args.seeds:
                    began = time.monotonic()
                    given = {"epochs": args.epochs} if args.epochs else {}
                    run = ss.pretrain(
                        learn,
                        modality="text",
                        out=Path(place) / f"{name}-{method}-{seed}",
                        method={"name": method, **args.method_settings},
                        seed=seed,
                        **given,
                        **args.settings,
                    )
                    spent = round(time.monotonic() - began)
                    found = judged(run, measured, seed, seed == args.seeds[0])
                    rows += [{"set": name, "method": method, "seed": seed, "wall_s": spent, **row} for row in found]
                    print(
                        json.dumps({"set": name, "method": method, "seed": seed, "wall_s": spent, "rows": found}),
                        flush=True,
                    )
            keep(args, rows)  # after each set: a run that is stopped leaves the sets before
    for one in means(rows):
        print(one)


def judged(run: Any, measured: dict[str, Any], seed: int, first: bool) -> list[dict[str, Any]]:
    """Rows as `evaluate` gives them, of one seed; those of TF-IDF with all labels where it is the first."""
    if "protocols" in measured:
        return ss.evaluate(run, **measured, seeds=1, seed=seed)
    job = Evaluate(run_folder=run.folder, **measured, seeds=1, seed=seed)
    encoder = ss.load(run)
    train, test, _ = parts(job, encoder)
    labelled = Labelled(encoder, train, test, torch.device("cpu"), 0, job.max_skipped)
    trained = labelled.vectors(encoder)
    networks: dict[Kind, Features] = {"encoder": lambda seed: trained, "random": labelled.untrained}
    trivial: dict[Kind, Features] = {"raw": lambda seed: raw(train, test)}
    rows = []
    for features, budgets in ((networks, ["all", "1%"]), (trivial, ["all", "1%"] if first else ["1%"])):
        rows += measure(features, train.labels, test.labels, ("knn", "linear"), budgets, [seed])
    return [row.model_dump() for row in rows]


def keep(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    if args.validate:
        return
    result = {
        "command": shlex.join(["python", "bench/text.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "rows": rows,
        "mean": means(rows),
    }
    path = HERE / "results" / f"{args.name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def means(rows: list[dict[str, Any]]) -> list[str]:
    """The mean over seeds of each set, method, features, protocol and budget, in words."""
    held: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        key = tuple(str(row[part]) for part in ("set", "method", "features", "protocol", "labels"))
        held.setdefault(key, []).append(row["mean"])
    return [
        f"{' '.join(key)}: {100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1) if len(values) > 1 else 0:.1f}"
        for key, values in held.items()
    ]


def prepared(name: str, place: Path, validate: bool = False) -> tuple[str, dict[str, Any]]:
    """The texts to learn from, and what to measure on: the test part, or to `validate` a fifth of the train part."""
    if name == "stsb":
        return pairs(place, "dev" if validate else "test")
    train, test = movies() if name == "movies" else trec()
    if validate:
        train, test = [row for k, row in enumerate(train) if k % 5], train[::5]
    paths = [written(place / f"{name}-{part}.csv", rows) for part, rows in (("train", train), ("test", test))]
    measured = {"labelled": paths[0], "test": paths[1], "labels": "label", "test_labels": "label"}
    return paths[0], {**measured, "budgets": "all,1%"}


def written(path: Path, rows: list[tuple[str, str]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


def movies() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    rows = []
    for label in ("neg", "pos"):
        lines = (DATA / "movie_polarity" / f"rt-polarity.{label}").read_text(encoding="utf-8").split("\n")
        rows += [(line.strip(), label) for line in lines if line.strip()]
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = [rows[i] for i in order]
    test = len(rows) // 5
    return mixed[test:], mixed[:test]


def trec() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    parts = []
    for file in ("train_5500.label", "TREC_10.label"):
        lines = (DATA / "trec_questions" / file).read_text(encoding="latin-1").split("\n")
        split = [line.split(" ", 1) for line in lines if line.strip()]
        parts.append([(text.strip(), label.split(":")[0]) for label, text in split])
    return parts[0], parts[1]


def pairs(place: Path, measured: str) -> tuple[str, dict[str, Any]]:
    """All sentences of the train pairs, each once; the pairs of the measured part with their scores."""
    tables = {}
    for part in ("train", measured):
        with (DATA / "stsb" / f"stsb-en-{part}.csv").open(newline="", encoding="utf-8") as file:
            tables[part] = [row for row in csv.reader(file) if len(row) == 3]
    sentences = list(dict.fromkeys(text for row in tables["train"] for text in row[:2]))
    learn = place / "stsb-train.txt"
    learn.write_text("".join(f"{' '.join(one.split())}\n" for one in sentences), encoding="utf-8")
    test = place / f"stsb-{measured}.csv"
    with test.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sentence1", "sentence2", "score"), *tables[measured]])
    return str(learn), {"labelled": str(test), "labels": "score", "protocols": "similarity"}


if __name__ == "__main__":
    main()
