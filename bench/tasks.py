"""Tasks learned from a pretrained encoder, beside random weights, training from scratch, and not looking.

    python bench/tasks.py clothing digits --seeds 3
    python bench/tasks.py blood_cells --device cuda --data shared/data --out blood.json
    python bench/tasks.py --join blood.json depth.json points.json

For each set of ../shared/data an encoder is trained on its items without labels, then `selfsame evaluate --task`
learns the task from it and from its baselines, at label budgets and with several seeds: the same items, the same number
of samples for each head, the same steps. The test part is learned from by nobody. Stored set by set, and of a set
after each budget, in bench/results/tasks.json with command and machine. Sets can be measured at the same time, each
into an --out of its own; --join puts these together. --quick goes through everything in seconds, to see that it runs.
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
from PIL import Image, ImageOps
from PIL.Image import Resampling, Transform

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
CORNERS = ("top_left", "top_right", "bottom_right", "bottom_left")


def clothing(place: Path) -> dict[str, Any]:
    """Photos of ten kinds of clothes, 600 to learn from, 372 to test."""
    data = DATA / "clothing"
    how = {"method": "simclr", "encoder": "resnet10t@0.5", "size": 64, "epochs": 40}
    few = {"head_samples": 4000, "head_batch": 32}
    return {"learn": str(data / "train"), "how": how, "labelled": str(data), "budgets": "10/class,all"} | few


def digits(place: Path) -> dict[str, Any]:
    """Spoken digits of six people; two of them are the test part and are not heard in training."""
    for part in ("train", "test"):
        for file in sorted((DATA / "spoken_digits").glob("?/*.wav")):
            mine = file.stem.split("_")[1] in ("theo", "yweweler")
            if mine == (part == "test"):
                to = place / part / file.parent.name / file.name
                to.parent.mkdir(parents=True, exist_ok=True)
                to.symlink_to(file)
    how = {"method": {"name": "simclr", "temperature": 0.2}, "views": "words", "encoder": "resnet10t@0.5"}
    how |= {"reading": {"frame_ms": 32, "mels": 40, "loudness": "same"}, "batch_size": 64, "epochs": 40}
    task = {"task": {"name": "classification", "views": "words"}}
    return {"learn": str(place / "train"), "how": how, "labelled": str(place), "budgets": "10/class,all"} | task


def ecg(place: Path) -> dict[str, Any]:
    """Heart beats of four kinds (two beats of another are left out), most of one or two; a fifth is the test part."""
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
    how = {"method": "simclr", "preset": "text", "modality": "text", "reading": {"column": "text"}, "epochs": 10}
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
    """Frames of one walk through a room with their depth, 25, at half their size; every fifth is the test part."""
    files = sorted((DATA / "depth_room").glob("*.color.png"))
    for k, file in enumerate(files):
        part = place / ("test" if k % 5 == 2 else "train")
        part.mkdir(exist_ok=True)
        for name in (file.name, file.name.replace("color", "depth")):
            with Image.open(file.parent / name) as whole:
                half = whole.resize(
                    (whole.width // 2, whole.height // 2), Resampling.NEAREST if "depth" in name else None
                )
            half.save(part / name, compress_level=0)
    how = {"method": "simclr", "encoder": "resnet10t@0.5", "size": 128, "epochs": 150}
    task = {"task": "depth", "head_samples": 1600, "head_batch": 16}
    return {"learn": f"{place}/train/*.color.png", "how": how, "labelled": str(place), "budgets": "20%,all"} | task


def keypoints(place: Path) -> dict[str, Any]:
    """Photos of clothes laid on other ones, turned, shrunk and seen aslant: where are their corners? 600 and 372."""
    for part in ("train", "test"):
        warped(sorted((DATA / "clothing" / part).glob("*/*")), place / part)
    how = {"method": "simclr", "encoder": "resnet10t@0.5", "size": 96, "epochs": 40}
    parts = {"labelled": str(place / "train"), "test": str(place / "test")}
    task = {"task": "keypoints", "head_samples": 4000, "head_batch": 32}
    return {"learn": str(place / "train"), "how": how, "budgets": "10%,all"} | task | parts


def warped(files: list[Path], place: Path, side: int = 128) -> None:
    """Each photo under a known warp on the next but six, and points.csv: its corners, named as it stands upright."""
    place.mkdir()
    random = np.random.default_rng(len(files))
    edges = np.array([[0, 0], [side, 0], [side, side], [0, side]], dtype=float)
    rows = [["path", *(f"{name}_{axis}" for name in CORNERS for axis in "xy")]]
    for k, file in enumerate(files):
        ground, photo = (squared(one, side) for one in (files[(k + 7) % len(files)], file))
        while True:
            angle, share = random.uniform(-1, 1) * np.pi / 3, random.uniform(0.4, 0.7)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            aslant = edges + random.uniform(-0.12, 0.12, (4, 2)) * side
            corners = (aslant - side / 2) @ turn.T * share + random.uniform(0.25, 0.75, 2) * side
            if (corners > 2).all() and (corners < side - 2).all():
                break
        coefficients = homography(corners, edges)
        laid = photo.transform((side, side), Transform.PERSPECTIVE, coefficients, Resampling.BILINEAR)
        where = Image.new("L", (side, side), 255).transform(
            (side, side), Transform.PERSPECTIVE, coefficients, Resampling.BILINEAR
        )
        ground.paste(laid, mask=where)
        ground.save(place / f"{k:03}.png", compress_level=0)
        rows.append([f"{k:03}.png", *(f"{value:.3f}" for value in corners.ravel())])
    with (place / "points.csv").open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows(rows)


def squared(file: Path, side: int) -> Image.Image:
    with Image.open(file) as photo:
        photo.draft("RGB", (2 * side, 2 * side))
        return ImageOps.fit(photo.convert("RGB"), (side, side))


def homography(points: np.ndarray, others: np.ndarray) -> list[float]:
    """a .. h of PIL's perspective transform that takes four points (x, y) to four others."""
    rows, values = [], []
    for (x, y), (u, v) in zip(points, others, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows), np.array(values)).tolist()


def blood_cells(place: Path) -> dict[str, Any]:
    """Blood under a microscope: boxes around red cells, white cells and platelets."""
    data, lists = DATA / "blood_cells", DATA / "blood_cells" / "ImageSets" / "Main"
    for name in (lists / "trainval.txt").read_text().split():
        (place / f"{name}.jpg").symlink_to(data / "JPEGImages" / f"{name}.jpg")
    how = {"method": "simclr", "encoder": "resnet10t@0.5", "size": 96, "epochs": 30}
    task = {"task": {"name": "detection", "vertical_flip": 0.5}, "size": 192, "head_samples": 1600, "head_batch": 16}
    parts = {"labelled": str(lists / "train.txt"), "test": str(lists / "test.txt")}
    return {"learn": str(place), "how": how, "budgets": "10%,all"} | task | parts


SETS = {one.__name__: one for one in (clothing, digits, ecg, trec, adult, membrane, depth_room, keypoints, blood_cells)}


def main() -> None:
    global DATA
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=", ".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--data", type=Path, default=DATA, help="where the sets lie")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tasks.json")
    parser.add_argument("--join", nargs="+", type=Path, metavar="FILE", help="put what was stored elsewhere into --out")
    parser.add_argument("--quick", action="store_true", help="to see that it runs: one seed, hardly any steps")
    args = parser.parse_args()
    if args.quick and args.out == parser.get_default("out"):
        parser.error("--quick measures nothing: give it another --out.")
    DATA = args.data.resolve()
    for file in args.join or ():
        for name, found in json.loads(file.read_text()).items():
            store(args.out, name, found)
    if args.join:
        return
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    for name in args.sets or SETS:
        measure(name, args)


def store(path: Path, name: str, found: dict[str, Any]) -> None:
    stored = json.loads(path.read_text()) if path.exists() else {}
    stored[name] = found
    path.write_text(json.dumps(stored, indent=1).replace(str(HERE.parents[1]), "..") + "\n")


def measure(name: str, args: argparse.Namespace) -> None:
    """Learn without labels, then the task from each start, budget by budget; what is known is stored each time."""
    import selfsame as ss

    with tempfile.TemporaryDirectory() as folder:
        place, on = Path(folder), {"device": args.device, "workers": 0}
        (place / "data").mkdir()
        began = time.monotonic()
        plan = SETS[name](place / "data")
        if args.quick:
            plan["how"] |= {"epochs": 1, "encoder": "resnet10t@0.25"} if "encoder" in plan["how"] else {"epochs": 1}
            plan["head_samples"] = 2 * plan.setdefault("head_batch", 8)
        told(name, began, "the data lies ready")
        since = time.monotonic()
        run = ss.pretrain(plan.pop("learn"), out=place / "run", seed=0, **on, **plan.pop("how"))
        spent = time.monotonic() - since
        told(name, began, f"learned without labels for {spent:.0f} s")
        settings = {"task": "classification", **plan}
        rows, verdicts = [], []
        for budget in settings["budgets"].split(","):
            ss.evaluate(run, seeds=1 if args.quick else args.seeds, **on, **{**settings, "budgets": budget})
            result = json.loads((place / "run" / "tasks" / task_name(settings) / "evaluation.json").read_text())
            rows += result["rows"]
            verdicts += result["verdicts"]
            found = {
                "about": SETS[name].__doc__,
                "command": shlex.join(
                    ["python", "bench/tasks.py", name, "--seeds", str(args.seeds)]
                    + (["--device", args.device] if args.device != "auto" else [])
                ),
                "pretraining": {
                    "verdict": run.verdict,
                    "seconds": round(spent),
                    "job": json.loads(json.dumps(run.job).replace(folder, ".")),
                },
                "settings": {key: str(value).replace(folder, "") for key, value in settings.items()},
                **{key: result[key] for key in ("task", "score", "lower", "train", "test", "machine")},
                "rows": rows,
                "verdicts": verdicts,
            }
            store(args.out, name, json.loads(json.dumps(found).replace(str(DATA), "../shared/data")))
            told(name, began, f"budget {budget} is in {args.out}")


def told(name: str, began: float, what: str) -> None:
    print(f"== {name}, {time.monotonic() - began:.0f} s: {what}", flush=True)


def task_name(settings: dict[str, Any]) -> str:
    task = settings["task"]
    return str(task if isinstance(task, str) else task["name"])


if __name__ == "__main__":
    main()
