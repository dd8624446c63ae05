"""Copies of sounds, texts and rows, made by known edits: what `selfsame duplicates` finds at its own threshold.

    python bench/copies.py audio --run runs/digits --data ../shared/data/spoken_digits [--by exact,raw]
    python bench/copies.py text --run runs/questions --data questions.txt
    python bench/copies.py table --run runs/income --data income.csv

Some items of the data are taken as they are; of some of these copies are made by edits of their kind (by a seeded
function, in a temporary folder). `selfsame duplicates --run RUN --by BY`, as a user would call it, looks at all of them
together; its threshold is calibrated on them, copies among them. A copy is found if it stands in one group with its
original. Pairs that nobody planted are counted apart, and shown: data may hold copies of their own.
Stored in bench/results/copies.json, one key a kind and way.
"""

import argparse
import csv
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

import numpy as np

HERE = Path(__file__).parent
STORED = HERE / "results" / "copies.json"
Draw = np.random.Generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("audio", "text", "table"))
    parser.add_argument("--run", type=Path, required=True, help="folder of a run that learned from such items")
    parser.add_argument("--data", type=Path, required=True, help="folder of sounds, a text a line, a CSV with a header")
    parser.add_argument("--items", type=int, default=1000, help="taken of the data")
    parser.add_argument("--edited", type=int, default=50, help="of these, those of which copies are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by", default="exact,encoder", help="as of the command")
    parser.add_argument("--report", type=Path, help="folder for the report [none is kept]")
    parser.add_argument("--out", type=Path, default=STORED)
    args = parser.parse_args()
    import torch

    import selfsame as ss
    from selfsame.engine.dist import machine
    from selfsame.jobs.data import open_like

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    with tempfile.TemporaryDirectory() as folder:
        path, edits = {"audio": sounds, "text": texts, "table": rows}[args.kind](args, Path(folder))
        out = args.report or Path(folder) / "found"
        result = ss.duplicates(path, args.run, out, by=args.by, seed=args.seed, workers=0)
        source = open_like(str(path), ss.load(args.run)).source
        place = {source.name(i): i for i in range(len(source))}
        if args.kind == "audio":  # files come by name; the others in the order in which they were written
            edits = {place[name]: (edit, place[of]) for name, (edit, of) in edits.items()}
    group = {place[member["name"]]: number for number, some in enumerate(result["groups"]) for member in some}
    found: dict[str, list[bool]] = {}
    for copy, (edit, original) in edits.items():
        found.setdefault(edit, []).append(copy in group and group[copy] == group.get(original))
    root = {copy: original for copy, (_, original) in edits.items()}
    others = []
    for some in result["groups"]:
        kept, *copies = (place[member["name"]] for member in some)
        others += [
            (kept, copy, member["kind"], member["score"])
            for copy, member in zip(copies, some[1:], strict=True)
            if root.get(copy, copy) != root.get(kept, kept)
        ]
    told = {
        "command": shlex.join(["python", "bench/copies.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "items": result["counts"]["items"],
        "copies": len(edits),
        "by": result["by"],
        "thresholds": {
            kind: {key: result[kind].get(key) for key in ("threshold", "false_pairs_expected", "views_accepted")}
            for kind in ("raw", "encoder")
            if result[kind]
        },
        "recall": round(float(np.mean([hit for hits in found.values() for hit in hits])), 3),
        "recall_by_edit": {edit: round(float(np.mean(hits)), 3) for edit, hits in found.items()},
        "not_planted": {kind: sum(one[2] == kind for one in others) for kind in result["by"]},
    }
    stored = json.loads(args.out.read_text()) if args.out.exists() else {}
    stored[f"{args.kind}, {args.by}"] = told
    args.out.write_text(json.dumps(stored, indent=1).replace(str(HERE.parents[1]), "..") + "\n")
    print(json.dumps(told, indent=1))
    for one, two, kind, score in sorted(others, key=lambda pair: -pair[3])[:20]:
        print(f"not planted: {score:.3f} {kind}  {source.name(one)}  {source.name(two)}")


# Sounds --------------------------------------------------------------------------------------------------------------


def sounds(args: argparse.Namespace, folder: Path) -> tuple[Path, dict[Any, Any]]:
    import soundfile

    rng = np.random.default_rng(args.seed)
    files = sorted(args.data.rglob("*.wav"))
    files = [files[k] for k in np.sort(rng.permutation(len(files))[: args.items])]
    root, edits = folder / "sounds", {}
    for number, file in enumerate(files):
        wave, rate = soundfile.read(file, dtype="float32")
        name = f"as-it-is/{number:05d}.wav"
        save(root / name, wave, rate)
        if number < args.edited:
            for edit, (make, suffix) in SOUNDS.items():
                save(root / edit / f"{number:05d}{suffix}", make(wave, rng), rate)
                edits[f"{edit}/{number:05d}{suffix}"] = (edit, name)
    return root, edits


def save(path: Path, wave: np.ndarray, rate: int) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave.clip(-1, 1), rate)


def louder(wave: np.ndarray, rng: Draw) -> np.ndarray:
    """By -12 to -3 dB."""
    return wave * np.float32(10 ** (-rng.uniform(3, 12) / 20))


def noisier(wave: np.ndarray, rng: Draw) -> np.ndarray:
    """White noise, 20 dB below the sound."""
    return wave + (rng.standard_normal(len(wave)) * wave.std() / 10).astype(np.float32)


def shorter(wave: np.ndarray, rng: Draw) -> np.ndarray:
    """A tenth cut off at the beginning."""
    return wave[len(wave) // 10 :]


SOUNDS: dict[str, tuple[Callable[[np.ndarray, Draw], np.ndarray], str]] = {
    "gain": (louder, ".wav"),
    "noise": (noisier, ".wav"),
    "trimmed": (shorter, ".wav"),
    "ogg": (lambda wave, rng: wave, ".ogg"),
}


# Texts ---------------------------------------------------------------------------------------------------------------


def texts(args: argparse.Namespace, folder: Path) -> tuple[Path, dict[Any, Any]]:
    rng = np.random.default_rng(args.seed)
    lines = [line for line in args.data.read_text(encoding="utf-8").splitlines() if len(line.split()) > 3]
    lines = [lines[k] for k in np.sort(rng.permutation(len(lines))[: args.items])]
    edits = {}
    for number, line in enumerate(lines[: args.edited]):
        for edit, make in TEXTS.items():
            edits[len(lines)] = (edit, number)
            lines.append(make(line, rng))
    path = folder / "texts.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path, edits


def typo(text: str, rng: Draw) -> str:
    """Two letters of a longer word swapped."""
    places = [k for k in range(1, len(text) - 2) if text[k : k + 2].isalpha() and text[k] != text[k + 1]]
    k = int(rng.choice(places))
    return f"{text[:k]}{text[k + 1]}{text[k]}{text[k + 2 :]}"


def without_a_word(text: str, rng: Draw) -> str:
    words = text.split()
    del words[int(rng.integers(len(words)))]
    return " ".join(words)


TEXTS: dict[str, Callable[[str, Draw], str]] = {
    "typo": typo,
    "a word left out": without_a_word,
    "no punctuation": lambda text, rng: " ".join("".join(c for c in text if c.isalnum() or c == " ").split()),
}


# Rows of a table -----------------------------------------------------------------------------------------------------


def rows(args: argparse.Namespace, folder: Path) -> tuple[Path, dict[Any, Any]]:
    rng = np.random.default_rng(args.seed)
    with args.data.open(encoding="utf-8", newline="") as file:
        head, *held = ([cell.strip() for cell in row] for row in csv.reader(file) if row)
    held = [held[k] for k in np.sort(rng.permutation(len(held))[: args.items])]
    columns = list(zip(*held, strict=True))
    numbers = [k for k, column in enumerate(columns) if all(cell.lstrip("-").isdigit() for cell in column)]
    edits = {}
    for number, row in enumerate(held[: args.edited]):
        for edit in ("a digit changed", "a category changed", "a cell emptied"):
            made = list(row)
            if edit == "a digit changed":
                k = int(rng.choice(numbers))
                digits = list(made[k])
                at = int(rng.integers(len(digits)))
                digits[at] = str((int(digits[at]) + int(rng.integers(1, 10))) % 10)
                made[k] = str(int("".join(digits)))
            elif edit == "a category changed":
                k = int(rng.choice([k for k in range(len(head) - 1) if k not in numbers]))
                made[k] = str(rng.choice([cell for cell in columns[k] if cell != row[k]]))
            else:
                made[int(rng.integers(len(head) - 1))] = ""
            edits[len(held)] = (edit, number)
            held.append(made)
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *held])
    return path, edits


if __name__ == "__main__":
    main()
