"""Tables: learn from rows without labels, then measure beside random weights, one-hot features and boosted trees.

    python bench/tables.py adult --seeds 0 1 2
    python bench/tables.py criteo --seeds 0 1 2 --method simclr --views scarf
    python bench/tables.py adult --seeds 0 --method simclr --views scarf --validate     # to choose settings by

Data: ../shared/data/adult_income and ad_clicks. A fifth of the rows of each class is the test part, drawn by the seed;
learning sees the other rows without their label. Each feature goes through the same logistic regression, whose strength
is chosen by three folds of the labelled rows, and through k-NN; labels: all, 10 % and 1 % of the train part (1 % where
that is 50 rows or more). Trees are boosted on the trivial features. Stored in bench/results/tables-DATA.json.

With `--validate` the test part is never read: a fifth of the other rows takes its place, and encoder and random weights
alone are told, and not stored.
"""

import argparse
import csv
import json
import os
import shlex
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

import numpy as np

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
SETS: dict[str, tuple[Path, str, dict[str, Any]]] = {
    "adult": (DATA / "adult_income" / "adult.data", "Salary", {}),
    "criteo": (DATA / "ad_clicks" / "criteo_1k.txt", "c0", {"header": "no"}),
}
LEAST = 50  # labelled rows: fewer say nothing
FOLDED = 4000  # labelled rows at most on which the strength of a probe is chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--method", default="byol")
    parser.add_argument("--views", default="auto")
    parser.add_argument("--encoder", default="auto")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--validate", action="store_true", help="judge on a fifth of the train part")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch

    from selfsame.engine.dist import machine

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    runs = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measured(Path(folder), args, seed))
    result = {
        "command": shlex.join(["python", "bench/tables.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "runs": runs,
        "means": means(runs),
    }
    print(shown(result["means"]))
    if args.validate:
        return
    path = args.out or HERE / "results" / f"tables-{args.data}.json"
    path.write_text(json.dumps(result, indent=1).replace(str(HERE.parents[1]), "..") + "\n")


def measured(folder: Path, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One seed: split, learn, embed, probe."""
    import torch

    import selfsame as ss
    from selfsame.modalities import table

    path, label, reading = SETS[args.data]
    titled = reading.get("header") != "no"
    parts = split(path, folder, label, titled, seed)
    if args.validate:
        (folder / "within").mkdir()
        parts = split(parts["train"], folder / "within", label, titled, seed)
    settings = {"epochs": args.epochs} if args.epochs else {}
    run = ss.pretrain(
        parts["train"], out=folder / "run", modality="table", reading={**reading, "leave_out": label}, seed=seed,
        method=args.method, views=args.views, encoder=args.encoder, workers=0, **settings,
    )  # fmt: skip
    encoder = ss.load(run)
    way = table.Reading(**reading, leave_out=label)
    sources = {name: table.open_source(str(file), label, way) for name, file in parts.items()}
    for source in sources.values():
        source.fit(encoder.stats)
    features = {"encoder": vectors(encoder, sources)}
    torch.manual_seed(seed + 100)
    fresh = table.build_encoder(encoder.spec).train()
    with torch.no_grad():  # its batch norms know the data, as those of the encoder do
        for _ in range(20):
            fresh(torch.from_numpy(sources["train"].array[np.random.default_rng(seed).permutation(512)]))
    features["random"] = vectors(fresh.eval(), sources)
    if not args.validate:
        every = [(source, range(len(source))) for source in sources.values()]
        raw = [part.numpy() for part in table.raw_vectors(every, encoder.stats)]
        features["one-hot"] = {"train": raw[0], "test": raw[1]}
    truth = {name: np.array(source.labels) for name, source in sources.items()}
    positive = sorted(set(truth["train"]))[-1]
    truth = {name: (labels == positive).astype(int) for name, labels in truth.items()}
    rows = []
    for budget in ("all", "10%", "1%"):
        use = subset(truth["train"], budget, seed)
        if len(use) < LEAST:
            continue
        for name, values in features.items():
            scores = {"linear": probe(values["train"][use], truth["train"][use], values["test"], seed)}
            if name == "one-hot":
                scores["trees"] = trees(values["train"][use], truth["train"][use], values["test"], seed)
            rows += [
                {"features": name, "protocol": how, "labels": budget, **judged(found, truth["test"])}
                for how, found in scores.items()
            ]
            accuracy = neighbours(values["train"][use], truth["train"][use], values["test"], truth["test"])
            rows.append({"features": name, "protocol": "knn", "labels": budget, "accuracy": accuracy})
    told = {key: run.result.get(key) for key in ("verdict", "seconds", "steps")}
    print(json.dumps({"seed": seed, **told}), flush=True)
    return {"seed": seed, "rows": rows, "share": float(truth["test"].mean()), **told}


def split(path: Path, folder: Path, label: str, titled: bool, seed: int) -> dict[str, Path]:
    """train.csv and test.csv, a fifth of each class in the test part."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    head, lines = (lines[:1], lines[1:]) if titled else ([], lines)
    separator = "\t" if "\t" in lines[0] else ","
    place = 0 if not titled else [cell.strip() for cell in next(csv.reader(head))].index(label)
    kinds = np.array([line.split(separator)[place].strip() for line in lines])
    rng = np.random.default_rng(seed)
    test = np.zeros(len(lines), bool)
    for kind in np.unique(kinds):
        here = rng.permutation(np.flatnonzero(kinds == kind))
        test[here[: len(here) // 5]] = True
    found = {}
    for name, rows in (("train", np.flatnonzero(~test)), ("test", np.flatnonzero(test))):
        found[name] = folder / f"{name}{'.tsv' if separator == chr(9) else '.csv'}"
        found[name].write_text("\n".join([*head, *(lines[k] for k in rows)]) + "\n")
    return found


def vectors(encoder: Any, sources: dict[str, Any]) -> dict[str, np.ndarray]:
    import torch

    with torch.inference_mode():
        return {
            name: torch.cat([encoder(torch.from_numpy(rows)) for rows in np.array_split(source.array, 64)]).numpy()
            for name, source in sources.items()
        }


def subset(truth: np.ndarray, budget: str, seed: int) -> np.ndarray:
    """A share of the rows of each class."""
    share = 1.0 if budget == "all" else float(budget.rstrip("%")) / 100
    rng = np.random.default_rng([seed, 1])
    parts = [rng.permutation(np.flatnonzero(truth == kind)) for kind in (0, 1)]
    return np.sort(np.concatenate([part[: max(2, round(share * len(part)))] for part in parts]))


def probe(train: np.ndarray, truth: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Scores of a logistic regression on standardised features, its strength chosen by three folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def model(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))

    some = np.random.default_rng(seed).permutation(len(truth))[:FOLDED]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a weak penalty converges slowly
        best = max(
            (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
            key=lambda c: cross_val_score(model(c), train[some], truth[some], cv=3, scoring="roc_auc").mean(),
        )
        return model(best).fit(train, truth).predict_proba(test)[:, 1]


def trees(train: np.ndarray, truth: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed).fit(train, truth).predict_proba(test)[:, 1]


def neighbours(train: np.ndarray, truth: np.ndarray, test: np.ndarray, expected: np.ndarray) -> float:
    import torch

    from selfsame.downstream.knn import knn_accuracy

    parts = (torch.from_numpy(np.ascontiguousarray(part)) for part in (train, truth, test, expected))
    return float(knn_accuracy(*parts))


def judged(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    return {"accuracy": float(((scores > 0.5) == truth).mean()), "auc": float(roc_auc_score(truth, scores))}


def means(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each feature, protocol and budget mean and standard deviation over the seeds, in per cent."""
    keys = list(dict.fromkeys((row["labels"], row["protocol"], row["features"]) for run in runs for row in run["rows"]))
    found = []
    for labels, protocol, features in sorted(keys):
        same = [
            row for run in runs for row in run["rows"]
            if (row["labels"], row["protocol"], row["features"]) == (labels, protocol, features)
        ]  # fmt: skip
        entry: dict[str, Any] = {"labels": labels, "protocol": protocol, "features": features}
        for measure in ("accuracy", "auc"):
            values = [100 * row[measure] for row in same if measure in row]
            if values:
                entry[measure] = round(statistics.fmean(values), 2)
                entry[f"{measure}_std"] = round(statistics.stdev(values), 2) if len(values) > 1 else 0.0
        found.append(entry)
    return found


def shown(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        numbers = [f"{key} {row[key]:.2f} ± {row[f'{key}_std']:.2f}" for key in ("accuracy", "auc") if key in row]
        lines.append(f"{row['labels']:>4} {row['protocol']:<7} {row['features']:<8} {'  '.join(numbers)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
