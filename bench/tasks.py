"""Tasks learned from a pretrained encoder, beside random weights, training from scratch, and not looking.

    python bench/tasks.py clothing digits --seeds 3
    python bench/tasks.py membrane blood_cells depth_room

For each set of ../shared/data an encoder is trained on its items without labels, then `selfsame evaluate --task`
learns the task from it and from its baselines, at label budgets and with several seeds: the same items, the same number
of samples for each head, the same steps. The test part is learned from by nobody. Stored set by set in
bench/results/tasks.json with command and machine.
"""

import argparse
import csv
import json
import os
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

import numpy as np

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
HEAD = {"head_samples": 4000, "head_batch": 32}


def clothing(place: Path) -> dict[str, Any]:
    """Photos of ten kinds of clothes, 600 to learn from, 372 to test."""
    data = DATA / "clothing"
    how = {"method": "simclr", "encoder": "resnet10t@0.5", "size": 64, "epochs": 40}
    return {"learn": str(data / "train"), "how": how, "labelled": str(data), "budgets": "10/class,all"}


def digits(place: Path) -> dict[str, Any]:
    """Spoken digits of six people; two of them are the test part and are not heard in training."""
    for part in ("train", "test"):
        for file in sorted((DATA / "spoken_digits").glob("?/*.wav")):
            mine = file.stem.split("_")[1] in ("theo", "yweweler")
            if mine == (part == "test"):
                to = place / part / file.parent.name / file.name
                to.parent.mkdir(parents=True, exist_ok=True)
                to.symlink_to(file)
    how = {"method": "simclr", "views": "speech", "encoder": "resnet10t@0.25", "epochs": 15}
    return {"learn": str(place / "train"), "how": how, "labelled": str(place), "budgets": "10/class,all"}


def ecg(place: Path) -> dict[str, Any]:
    """Heart beats of five kinds, most of one or two of them; a fifth is the test part."""
    found = np.load(DATA / "ecg" / "ecg5000_train.npz")
    order = np.random.default_rng(0).permutation(len(found["x"]))
    keep = np.isin(found["y"], [k for k in np.unique(found["y"]) if (found["y"] == k).sum() >= 10])
    order = order[keep[order]]
    cut = len(order) // 5
    for part, items in (("test", order[:cut]), ("train", order[cut:])):
        np.savez(place / f"{part}.npz", x=found["x"][items], y=found["y"][items])
    how = {"method": "ts2vec", "modality": "signal", "epochs": 20, "batch_size": 16}
    given = {"test": str(place / "test.npz")}
    return {
        "learn": str(place / "train.npz"),
        "how": how,
        "labelled": str(place / "train.npz"),
        "budgets": "10%,all",
    } | given


def trec(place: Path) -> dict[str, Any]:
    """Questions of six kinds, 5,452 to learn from, 500 to test."""
    folder = DATA / "trec_questions"
    for part in ("train", "test"):
        file = folder / {"train": "train_5500.label", "test": "TREC_10.label"}[part]
        rows = [line.split(" ", 1) for line in file.read_text(encoding="latin-1").splitlines() if line.strip()]
        with (place / f"{part}.csv").open("w", newline="", encoding="utf-8") as out:
            table = csv.writer(out)
            table.writerow(["text", "kind"])
            table.writerows([text, kind.split(":")[0]] for kind, text in rows)
    how = {"method": "maskedwords", "modality": "text", "reading": {"column": "text"}, "epochs": 8}
    given = {"labels": "kind", "test": str(place / "test.csv"), "test_labels": "kind"}
    return {
        "learn": str(place / "train.csv"),
        "how": how,
        "labelled": str(place / "train.csv"),
        "budgets": "1%,10%",
    } | given


def adult(place: Path) -> dict[str, Any]:
    """Census rows: whether somebody earns more than 50,000 a year; a fifth is the test part."""
    with (DATA / "adult_income" / "adult.data").open(newline="", encoding="utf-8") as file:
        head, *rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    order = np.random.default_rng(0).permutation(len(rows))
    cut = len(rows) // 5
    for part, items in (("test", order[:cut]), ("train", order[cut:])):
        with (place / f"{part}.csv").open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([head, *(rows[i] for i in items)])
    how = {"method": "byol", "modality": "table", "reading": {"leave_out": "Salary"}, "epochs": 4}
    given = {"labels": "Salary", "test": str(place / "test.csv"), "test_labels": "Salary"}
    return {
        "learn": str(place / "train.csv"),
        "how": how,
        "labelled": str(place / "train.csv"),
        "budgets": "1%,10%",
    } | given


def membrane(place: Path) -> dict[str, Any]:
    """Electron micrographs of cells, 30 with masks of their membranes; a fifth of these is the test part."""
    data = DATA / "membrane"
    how = {"method": "simclr", "encoder": "resnet10t@0.5", "size": 96, "epochs": 130}
    task = {"task": {"name": "segmentation", "tile": 128, "vertical_flip": 0.5}, "head_samples": 1600, "head_batch": 16}
    return {"learn": f"{data}/*/image/*.png", "how": how, "labelled": str(data / "train"), "budgets": "10%,all"} | task


def depth_room(place: Path) -> dict[str, Any]:
    """Frames of one walk through a room with their depth, 25; every fifth is the test part."""
    files = sorted((DATA / "depth_room").glob("*.color.png"))
    for k, file in enumerate(files):
        part = place / ("test" if k % 5 == 2 else "train")
        part.mkdir(exist_ok=True)
        for name in (file.name, file.name.replace("color", "depth")):
            (part / name).symlink_to(file.parent / name)
    how = {"method": "simclr", "encoder": "resnet10t@0.5", "size": 128, "epochs": 150}
    task = {"task": "depth", "head_samples": 1200, "head_batch": 8}
    return {"learn": f"{place}/train/*.color.png", "how": how, "labelled": str(place), "budgets": "20%,all"} | task


def blood_cells(place: Path) -> dict[str, Any]:
    """Blood under a microscope: boxes around red cells, white cells and platelets."""
    data, lists = DATA / "blood_cells", DATA / "blood_cells" / "ImageSets" / "Main"
    for name in (lists / "trainval.txt").read_text().split():
        (place / f"{name}.jpg").symlink_to(data / "JPEGImages" / f"{name}.jpg")
    how = {"method": "simclr", "encoder": "resnet10t@0.5", "size": 96, "epochs": 30}
    task = {"task": {"name": "detection", "vertical_flip": 0.5}, "size": 192, "head_samples": 1200, "head_batch": 8}
    parts = {"labelled": str(lists / "train.txt"), "test": str(lists / "test.txt")}
    return {"learn": str(place), "how": how, "budgets": "10%,all"} | task | parts


SETS = {one.__name__: one for one in (clothing, digits, ecg, trec, adult, membrane, depth_room, blood_cells)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=", ".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    path = HERE / "results" / "tasks.json"
    for name in args.sets or SETS:
        found = measured(name, args.seeds)
        stored = json.loads(path.read_text()) if path.exists() else {}
        stored[name] = found
        path.write_text(json.dumps(stored, indent=1).replace(str(HERE.parents[1]), "..") + "\n")


def measured(name: str, seeds: int) -> dict[str, Any]:
    """Learn without labels, then the task from each start."""
    import selfsame as ss

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "data").mkdir()
        plan = SETS[name](place / "data")
        began = time.monotonic()
        run = ss.pretrain(plan.pop("learn"), out=place / "run", workers=0, seed=0, **plan.pop("how"))
        spent = time.monotonic() - began
        settings = {"task": "classification", **HEAD, **plan}
        ss.evaluate(run, seeds=seeds, workers=0, **settings)
        result = json.loads((place / "run" / "tasks" / task_name(settings) / "evaluation.json").read_text())
        return {
            "about": SETS[name].__doc__,
            "command": shlex.join(["python", "bench/tasks.py", name, "--seeds", str(seeds)]),
            "pretraining": {
                "verdict": run.verdict,
                "seconds": round(spent),
                "job": json.loads(json.dumps(run.job).replace(folder, ".")),
            },
            "settings": {key: str(value).replace(folder, "") for key, value in settings.items()},
            **{key: result[key] for key in ("task", "score", "lower", "train", "test", "machine", "rows", "verdicts")},
        }


def task_name(settings: dict[str, Any]) -> str:
    task = settings["task"]
    return str(task if isinstance(task, str) else task["name"])


if __name__ == "__main__":
    main()
