"""Spoken digits: an encoder trained without labels beside random weights and log-mel statistics.

Data: ../shared/data/spoken_digits (3,000 recordings, 8 kHz, 6 speakers). Three questions, each with all labels and
with 10 a class, by linear probe and k-NN of `selfsame evaluate`:

- digit, official split: test is index 0 to 4 of each digit and speaker; all speakers are heard in training
- digit, held-out speakers: two of the six speakers are test; nothing of them is heard in training, with or without
  labels. Seed k holds out the k-th pair, so that three seeds hear out all six once. The strength of a probe is chosen
  by training speakers that it has not heard.
- speaker, official split

    python bench/audio.py --epochs 40 --seeds 0 1 2

`selfsame` runs with its own defaults but for what is given. Where two speakers are held out, settings are to be chosen
by the four others alone: "voices" is the mean accuracy of linear probes that learn the digits of three of them and are
asked for the fourth. `--validate` measures nothing else, for all three features, and stores nothing. Stored in
RESULTS/NAME.json with command, machine, versions and seeds.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

import torch
from torch import Tensor

import selfsame as ss
from selfsame.downstream.knn import knn_accuracy
from selfsame.downstream.linear import linear_accuracy
from selfsame.downstream.split import budget
from selfsame.engine.dist import machine
from selfsame.modalities import audio
from selfsame.nn.norm import calibrated
from selfsame.records import ViewPlan
from selfsame.types import Draws

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data" / "spoken_digits"
PLAIN = ViewPlan(full=0, plain=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--splits", nargs="+", choices=("official", "speakers"), default=["official", "speakers"])
    parser.add_argument("--views", default="auto")
    parser.add_argument("--view", type=json.loads, default={}, help='strengths of both views: {"speed": [0.8, 1.25]}')
    parser.add_argument("--encoder", default="auto")
    parser.add_argument("--method", default="byol")
    parser.add_argument("--settings", type=json.loads, default={}, help='of the method: {"temperature": 0.2}')
    parser.add_argument("--training", type=json.loads, default={}, help='more of pretrain: {"batch_size": 256}')
    parser.add_argument("--reading", type=json.loads, default={}, help='{"frame_ms": 32}')
    parser.add_argument("--validate", action="store_true", help="measure voices alone: no test speaker is asked for")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--name", default="audio")
    args = parser.parse_args()
    if args.validate and "official" in args.splits:
        parser.error("--validate is for held-out speakers: give --splits speakers")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    rows: list[dict] = []
    path = args.results / f"{args.name}.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for split in args.splits:
                rows += measured(args, split, seed, Path(folder))
                print(json.dumps(rows[-3:]), flush=True)
                if args.validate:
                    continue
                result = {
                    "command": shlex.join(["python", "bench/audio.py", *sys.argv[1:]]),
                    "machine": machine(torch.device(args.device)),
                    "rows": rows,
                    "mean": averaged(rows),
                }
                path.write_text(json.dumps(result, indent=1) + "\n")
    if not args.validate:
        print(json.dumps(averaged(rows), indent=1))


def measured(args: argparse.Namespace, split: str, seed: int, folder: Path) -> list[dict]:
    """Rows of the encoder, of random weights and of log-mel statistics."""
    reading = audio.Reading(**args.reading)
    source = audio.open_source(str(args.data), reading=reading)
    names = [source.name(i) for i in range(len(source))]
    digit, speaker, index = (torch.tensor(column) for column in labels_of(names))
    if split == "official":
        test = index < 5
    else:
        test = torch.isin(speaker, torch.tensor([2 * (seed % 3), 2 * (seed % 3) + 1]))
    heard = [names[i] for i in (~test).nonzero()[:, 0].tolist()]
    listing, out = folder / f"{split}-{seed}.txt", folder / f"{split}-{seed}"
    listing.write_text("".join(f"{args.data.resolve() / name}\n" for name in heard))
    began, cpu = time.monotonic(), time.process_time()
    run = trained(args, listing, out, seed)
    spent = {"wall_s": round(time.monotonic() - began), "cpu_s": round(time.process_time() - cpu)}
    encoder = ss.load(run).to(args.device)
    source.fit(encoder.stats)
    views = audio.recipe("weak", encoder.spec["size"], encoder.stats)
    items = range(len(source))
    waves = torch.cat([audio.sample(source, items[k : k + 256], PLAIN, views, Draws(0, 0, len(items[k : k + 256])))[0]
                       for k in range(0, len(items), 256)])  # fmt: skip
    torch.manual_seed(seed)
    with torch.no_grad():
        untrained = calibrated(audio.build_encoder(encoder.spec), [waves[~test][:: len(waves) // 512]]).to(args.device)
    features = {
        "selfsame": vectors(encoder, waves),
        "random weights": vectors(untrained, waves),
        audio.raw_name: audio.raw_vectors([(source, items)], encoder.stats)[0],
    }
    asked = {"digit": digit, "speaker": speaker} if split == "official" else {} if args.validate else {"digit": digit}
    rows = []
    for kind, found in features.items():
        row = {"features": kind, "split": split, "seed": seed}
        for what, truth in asked.items():
            for labels in ("all", "10/class"):
                use = (~test).nonzero()[:, 0][budget(truth[~test], labels, seed)]
                known = (found[use], truth[use], found[test], truth[test])
                voices = speaker[use] if split == "speakers" else None
                row[f"{what}, {labels}, linear"] = round(100 * linear_accuracy(*known, seed, voices), 2)
                row[f"{what}, {labels}, k-NN"] = round(100 * knn_accuracy(*known), 2)
        if split == "speakers" and (args.validate or kind == "selfsame"):
            row["voices"] = round(100 * by_voices(found[~test], digit[~test], speaker[~test], seed), 2)
        rows.append({**row, **(spent if kind == "selfsame" else {})})
    rows[0]["plan"] = {"loop": run.plan["loop"], "encoder": encoder.spec["name"], "size": encoder.spec["size"]}
    return rows


def trained(args: argparse.Namespace, listing: Path, out: Path, seed: int) -> ss.Run:
    """By the settings that were given."""
    views = {"name": args.views, "one": args.view, "two": args.view, "part": args.view} if args.view else args.views
    settings = {
        "seed": seed,
        "views": views,
        "encoder": args.encoder,
        "method": {"name": args.method, **args.settings},
        "reading": args.reading or None,
        "device": args.device,
        **args.training,
    }
    return ss.pretrain(str(listing), out=out, epochs=args.epochs, **settings)


def by_voices(found: Tensor, digit: Tensor, speaker: Tensor, seed: int) -> float:
    """Accuracy on each speaker of a probe that learned from the others, averaged."""
    return statistics.fmean(
        linear_accuracy(found[rest], digit[rest], found[~rest], digit[~rest], seed, speaker[rest])
        for rest in (speaker != one for one in speaker.unique())
    )


def labels_of(names: list[str]) -> tuple[list[int], list[int], list[int]]:
    """Digit, number of the speaker and index of each, from digit_speaker_index.wav."""
    parts = [Path(name).stem.split("_") for name in names]
    speakers = sorted({part[1] for part in parts})
    return (
        [int(part[0]) for part in parts],
        [speakers.index(part[1]) for part in parts],
        [int(part[2]) for part in parts],
    )


@torch.inference_mode()
def vectors(encoder: torch.nn.Module, waves: Tensor) -> Tensor:
    encoder.eval()
    device = next(encoder.parameters()).device
    return torch.cat([encoder(chunk.to(device)).float().cpu() for chunk in waves.split(250)])


def averaged(rows: list[dict]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Mean and standard deviation over the seeds: {split: {features: {question: [mean, std]}}}."""
    found: dict = {}
    for row in rows:
        for question, value in row.items():
            if question.endswith(("linear", "k-NN")):
                place = found.setdefault(row["split"], {}).setdefault(row["features"], {})
                place.setdefault(question, []).append(value)
    return {
        split: {
            kind: {
                question: [
                    round(statistics.fmean(values), 2),
                    round(statistics.stdev(values), 2) if values[1:] else 0.0,
                ]
                for question, values in asked.items()
            }
            for kind, asked in kinds.items()
        }
        for split, kinds in found.items()
    }


if __name__ == "__main__":
    main()
