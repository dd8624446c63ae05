"""From a cold command to something to see: seconds of `--help`, of an import and of the first training step.

    OMP_NUM_THREADS=1 python bench/startup.py

Fresh processes of the interpreter that runs this, in turns, medians of wall time and of processor time. The first step
is that of BYOL with ResNet-18 (with the stem for small images, for both) on a folder of 64 made JPEGs, 64 px, batch 16,
no reading processes, until it is logged (lightly: done). Peers are measured where this interpreter has them. Stored in
bench/results/startup.json.
"""

import argparse
import importlib.metadata
import json
import os
import resource
import shlex
import statistics
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
PEERS = ("lightly", "lightly_train")
IMPORTS = {
    "torch": "import torch",
    "selfsame": "import selfsame",
    "selfsame, used": "import selfsame; selfsame.methods.BYOL, selfsame.encoder, selfsame.embed",
    "lightly": "import lightly, lightly.transforms, lightly.loss, lightly.models",
    "lightly_train": "import lightly_train",
}
LIGHTLY = """
import copy, sys
import torch, torchvision
from lightly.data import LightlyDataset
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform

class BYOL(torch.nn.Module):
    def __init__(self):
        super().__init__()
        net = torchvision.models.resnet18()
        net.conv1, net.maxpool = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False), torch.nn.Identity()
        self.net = torch.nn.Sequential(*list(net.children())[:-1], torch.nn.Flatten())
        self.project, self.predict = BYOLProjectionHead(512, 4096, 256), BYOLPredictionHead(256, 4096, 256)
        self.slow = copy.deepcopy(torch.nn.Sequential(self.net, self.project))
        deactivate_requires_grad(self.slow)
    def forward(self, x):
        return self.predict(self.project(self.net(x))), self.slow(x).detach()

transform = BYOLTransform(BYOLView1Transform(input_size=64), BYOLView2Transform(input_size=64))
loader = torch.utils.data.DataLoader(LightlyDataset(sys.argv[1], transform=transform), batch_size=16, shuffle=True)
learner, criterion = BYOL().train(), NegativeCosineSimilarity()
optimizer = torch.optim.AdamW(learner.parameters())
views = next(iter(loader))[0]
update_momentum(torch.nn.Sequential(learner.net, learner.project), learner.slow, 0.99)
(p0, z0), (p1, z1) = learner(views[0]), learner(views[1])
loss = (criterion(p0, z1) + criterion(p1, z0)) / 2
loss.backward()
optimizer.step()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    versions = {}
    for peer in PEERS:
        try:
            versions[peer] = importlib.metadata.version(peer.replace("_", "-"))
        except importlib.metadata.PackageNotFoundError:
            print(f"{peer} is not installed for {sys.executable}: left out", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder), versions, args.rounds)
    result = {
        "command": f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '2')} "
        + shlex.join(["python", "bench/startup.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "rounds": args.rounds,
        "peers": versions,
        "rows": rows,
    }
    (HERE / "results" / "startup.json").write_text(json.dumps(result, indent=1) + "\n")


def measured(folder: Path, peers: dict[str, str], rounds: int) -> list[dict]:
    photos(folder / "photos")
    commands = {("--help", "selfsame"): [*COMMAND, "--help"]}
    for name, code in IMPORTS.items():
        if name not in PEERS or name in peers:
            commands["import", name] = [sys.executable, "-W", "ignore", "-c", code]
    commands["first step", "selfsame"] = []
    if "lightly" in peers:
        commands["first step", "lightly"] = [sys.executable, "-W", "ignore", "-c", LIGHTLY, str(folder / "photos")]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {what: [] for what in commands}
    for turn in range(-1, rounds):  # the first, which finds cold files, is not counted
        for what, command in commands.items():
            spent = timed(command) if command else first_step(folder, turn)
            if turn >= 0:
                found[what].append(spent)
    rows = []
    for (what, contender), spent in found.items():
        wall, cpu = (round(statistics.median(column), 2) for column in zip(*spent, strict=True))
        rows.append({"what": what, "contender": contender, "seconds": wall, "cpu_s": cpu})
        print(json.dumps(rows[-1]), flush=True)
    return rows


COMMAND = [sys.executable, "-m", "selfsame"]


def photos(folder: Path) -> None:
    folder.mkdir()
    for i in range(64):
        small = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((240, 180), Image.Resampling.BICUBIC).save(folder / f"{i:03}.jpg", quality=90)


def spent_by_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(command: list[str]) -> tuple[float, float]:
    """(wall, processor) seconds of a command until it ends."""
    began, before = time.perf_counter(), spent_by_children()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[-1][:80]}: {done.stderr[-2000:]}")
    return time.perf_counter() - began, spent_by_children() - before


def first_step(folder: Path, turn: int) -> tuple[float, float]:
    """The same of `selfsame pretrain` until its log has a loss; then it is stopped."""
    out = folder / f"run{turn}"
    command = [*COMMAND, "pretrain", str(folder / "photos"), "--out", str(out), "--encoder", "resnet18"]
    command += ["--size", "64", "--batch-size", "16", "--epochs", "50", "--workers", "0", "--cache", "0"]
    began, before = time.perf_counter(), spent_by_children()
    with (folder / "log").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log)
    while not (out / "log.jsonl").is_file() or '"loss"' not in (out / "log.jsonl").read_text():
        if run.poll() is not None:
            sys.exit((folder / "log").read_text()[-2000:])
        time.sleep(0.005)
    wall = time.perf_counter() - began
    run.kill()
    run.wait()
    return wall, spent_by_children() - before


if __name__ == "__main__":
    main()
