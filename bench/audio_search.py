"""Spoken digits: settings that know words from unheard voices, searched by training speakers alone.

Every candidate of CANDIDATES trains on the speakers of the first split, all at once on one GPU. The one with the best
"voices" (bench/audio.py: linear probes that learn from three training speakers and are asked for the fourth) is trained
for longer on every split, and beside it the same network with labels. The test speakers have no part in the choice on
the first split; those of the second and third are training speakers of the first.

    python bench/audio_search.py --device cuda --data DIGITS --results OUT --search 40 --final 90
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LATEST = 60  # seconds beside twice those of the training, in which a process is to end
STRONG = {
    "speed": [0.8, 1.25], "gain_db": [-15, 15], "gain": 1, "equalize": 1, "equalize_db": 8, "noise": 0.7,
    "noise_snr": [0, 30], "mix": 0, "resize": 1, "resize_band": [0.8, 1], "resize_time": [0.7, 1.4], "fade": 0,
    "keep": [0.8, 1],
}  # fmt: skip
COMMON: dict[str, Any] = {
    "encoder": "resnet18@0.5",
    "views": "speech",
    "view": STRONG,
    "reading": {"frame_ms": 32},
    "training": {"batch_size": 256, "workers": 0},
}
CANDIDATES: dict[str, dict[str, Any]] = {
    "simclr-0.2": {"method": "simclr", "settings": {"temperature": 0.2}},
    "simclr-0.5": {"method": "simclr", "settings": {"temperature": 0.5}},
    "byol": {"method": "byol"},
    "vicreg": {"method": "vicreg", "settings": {"out": 1024, "hidden": 1024}},
    "swav": {"method": "swav", "settings": {"prototypes": 128, "part_views": 0}},
    "speech": {"method": "simclr", "settings": {"temperature": 0.2}, "view": {}},
    "frame-64": {"method": "simclr", "settings": {"temperature": 0.2}, "reading": {}},
    "byola": {"method": "simclr", "settings": {"temperature": 0.2}, "encoder": "byola@0.25"},
    "no-resize": {"method": "simclr", "settings": {"temperature": 0.2}, "view": {**STRONG, "resize": 0}},
    "mix": {"method": "simclr", "settings": {"temperature": 0.2}, "view": {**STRONG, "mix": 0.4}},
}


LABELS = {"labels": {"method": "labels"}}  # what the same network and views reach with labels: no candidate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--search", type=float, default=40, help="seconds of a candidate's training")
    parser.add_argument("--final", type=float, default=90, help="seconds of the chosen one's")
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES), choices=CANDIDATES)
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    waited([started(args, f"search-{name}", name, 0, args.search) for name in args.candidates], args.search)
    found = {name: voices_of(args.results / f"search-{name}.json") for name in args.candidates}
    known = {name: value for name, value in found.items() if value is not None}
    print(f"{time.monotonic() - began:.0f} s", json.dumps(known), flush=True)
    best = max(known, key=lambda name: known[name]["voices"])
    last = [started(args, f"final-{seed}", best, seed, args.final) for seed in range(3)]
    labels = [started(args, f"labels-{seed}", "labels", seed, args.final / 2) for seed in range(3)]
    waited([*last, *labels], args.final)
    finals = [args.results / f"final-{seed}.json" for seed in range(3)]
    rows = [row for file in finals if file.exists() for row in json.loads(file.read_text())["rows"]]
    result = {
        "command": " ".join(["python", "bench/audio_search.py", *sys.argv[1:]]),
        "candidates": {name: {**COMMON, **CANDIDATES[name]} for name in args.candidates},
        "search": found,
        "best": best,
        "rows": rows,
        "labels": {seed: voices_of(args.results / f"labels-{seed}.json") for seed in range(3)},
        "seconds": round(time.monotonic() - began),
    }
    (args.results / "audio-search.json").write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(json.dumps({key: value for key, value in row.items() if key != "plan"}))


def started(args: argparse.Namespace, name: str, candidate: str, seed: int, seconds: float) -> subprocess.Popen:
    """A training and its probes in a process of its own; all but the final ones without what they are compared with."""
    told = {
        **COMMON,
        **(CANDIDATES | LABELS)[candidate],
        "splits": "speakers",
        "seeds": seed,
        "seconds": seconds,
        "name": name,
    }
    told |= {"device": args.device, "data": args.data, "results": args.results}
    line = [sys.executable, str(HERE / "audio.py")]
    for key, value in told.items():
        line += [f"--{key}", json.dumps(value) if isinstance(value, dict) else str(value)]
    line += ["--alone"] if not name.startswith("final") else []
    log = (args.results / f"{name}.log").open("w")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, env=environment)


def waited(processes: list[subprocess.Popen], seconds: float) -> None:
    """Until all have ended; one that takes far longer than its training should is ended."""
    last = time.monotonic() + LATEST + 2 * seconds
    for process in processes:
        try:
            process.wait(max(1.0, last - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def voices_of(file: Path) -> dict | None:
    """What the choice is made by, and beside it what must not be looked at for it; None where the training failed."""
    if not file.exists():
        return None
    row = json.loads(file.read_text())["rows"][0]
    names = {"voices": "digit, voices, linear", "test": "digit, all, linear", "test, k-NN": "digit, all, k-NN"}
    return {**{short: row[name] for short, name in names.items()}, "steps": row["plan"]["loop"]["steps"]}


if __name__ == "__main__":
    main()
