"""A training run is killed at random moments, and must end with the weights of one that was never disturbed.

    python bench/kills.py --kills 50

Two thirds of the kills (SIGKILL, to the whole process group) come at a random moment of the run, the others while a
state is being written or while the pixel cache is being filled. After each the same command is given again. Made
photos, CPU, one reading process. Stored in bench/results/kills.json.
"""

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from selfsame.engine.dist import machine

HERE = Path(__file__).parent
PHOTOS, STEPS, BATCH = 400, 120, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        photos(place / "photos")
        started(place, "calm").wait()
        killed = []
        while len(killed) < args.kills:
            kind = chance.choice(["moment", "moment", "moment", "moment", "state", "cache"])
            if kind == "cache":
                for file in (place / "cache-disturbed").glob("*/ready"):
                    file.write_bytes(bytes(PHOTOS))  # so that there is something to fill again
            moment = disturbed(place, kind, chance)
            if moment is None:
                print(f"it ended before the kill {len(killed) + 1}; begun anew", flush=True)
                compare(place)
                subprocess.run(["rm", "-rf", str(place / "disturbed")], check=True)
                continue
            killed.append(moment)
            print(json.dumps(moment), flush=True)
        started(place, "disturbed").wait()
        compare(place)
    kinds = {kind: sum(one["while"] == kind for one in killed) for kind in ("moment", "state", "cache")}
    result = {
        "command": shlex.join(["python", "bench/kills.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "kills": len(killed),
        "while": kinds,
        "equal": True,
        "killed": killed,
    }
    (HERE / "results" / "kills.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(killed)} kills {kinds}: the weights are equal to the bit")


def photos(folder: Path) -> None:
    folder.mkdir()
    for i in range(PHOTOS):
        small = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((240, 180), Image.Resampling.BICUBIC).save(folder / f"{i:03}.jpg", quality=90)


def started(place: Path, name: str) -> subprocess.Popen:
    epochs = STEPS * BATCH / (PHOTOS * 0.95)
    command = [
        *(sys.executable, "-m", "selfsame", "pretrain", str(place / "photos"), "--out", str(place / name)),
        *("--encoder", "resnet10t@0.25", "--size", "96", "--batch-size", str(BATCH), "--epochs", f"{epochs}"),
        *("--save-every", "4", "--workers", "1", "--method.hidden", "1024"),
    ]
    settings = {**os.environ, "SELFSAME_CACHE": str(place / f"cache-{name}"), "OMP_NUM_THREADS": "1"}
    with (place / f"{name}.log").open("a") as log:
        return subprocess.Popen(command, env=settings, stdout=log, stderr=log, start_new_session=True)


def disturbed(place: Path, kind: str, chance: random.Random) -> dict | None:
    """Go on, and be killed: what was found then. None where the run ended first."""
    left = set((place / "disturbed" / "state").glob(".step-*.tmp"))  # half-written by one that was killed before
    run = started(place, "disturbed")
    began = time.monotonic()
    delay = chance.uniform(0.5, 25)

    def now() -> bool:
        if kind == "state":
            return bool(set((place / "disturbed" / "state").glob(".step-*.tmp")) - left)
        if kind == "cache":
            ready = [sum(file.read_bytes()) for file in (place / "cache-disturbed").glob("*/ready")]
            return any(0 < count < PHOTOS * 0.9 for count in ready)
        return time.monotonic() - began > delay

    while not now():
        if run.poll() is not None:
            if run.returncode:
                sys.exit((place / "disturbed.log").read_text()[-3000:])
            return None
        time.sleep(0.0005)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    drafts = len(list((place / "disturbed" / "state").glob(".step-*.tmp")))
    states = sorted(file.name for file in (place / "disturbed" / "state").glob("step-*.pt"))
    return {"while": kind, "after_s": round(time.monotonic() - began, 1), "states": states, "half_written": drafts}


def compare(place: Path) -> None:
    """Stops where the weights differ."""
    calm, disturbed = ((place / name / "encoder.safetensors").read_bytes() for name in ("calm", "disturbed"))
    logs = [steps_of(place / name / "log.jsonl") for name in ("calm", "disturbed")]
    if calm != disturbed or logs[0] != logs[1]:
        sys.exit("the disturbed run ended with other weights or another log")


def steps_of(log: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


if __name__ == "__main__":
    main()
