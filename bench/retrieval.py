"""Retrieval: other views of an object, and copies made by known edits, by an encoder and by what needs none.

    python bench/retrieval.py views --runs runs
    python bench/retrieval.py copies --runs runs

`views`: ../shared/data/coil_turntable_a, 8 objects on a turntable in 72 views each; each view asks for the other
views of its object. The encoder learns from the same views: a view and one at most 15 degrees away in the same film
are a pair. With --colours a second one learns alike, but its views change no colours. All are asked once more in
grey, and the mean colour of a picture, three numbers, stands beside them; random weights are drawn three times.
`copies`: ../shared/data/clothing, the 372 photos of its test part; of some of them copies are made by edits (a seeded
function, in a temporary folder), each asks for its original. The encoder learns from the 600 photos of the train
part, never from an edit, and its threshold is calibrated on the 372 photos alone. Runs are kept in --runs and gone on
with. Scores of vectors are cosines, the mean of the database taken off, and once more when they are whitened on it,
as `selfsame duplicates` has it. Needs imagehash (pip install 'selfsame[bench]').
Stored in bench/results/retrieval.json, one key a question.
"""

import argparse
import csv
import io
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost a shared machine dear

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

HERE = Path(__file__).parent
DATA = (HERE.parents[1] / "shared" / "data").resolve()
STORED = HERE / "results" / "retrieval.json"
FAR_APART = 45  # degrees: views that the harder question is about
KEPT = {"name": "auto", "one": {"jitter": 0.0, "gray": 0.0}, "two": {"jitter": 0.0, "gray": 0.0}}  # colours
DRAWN = 3  # random weights of views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=("views", "copies"))
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs, made if they are not there")
    parser.add_argument("--epochs", type=float, help="of pretraining [24 and 12]")
    parser.add_argument("--colours", action="store_true", help="of views: learn also from views that change no colours")
    parser.add_argument("--edited", type=int, default=60, help="photos of which copies are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=STORED)
    args = parser.parse_args()
    import torch

    from selfsame.engine.dist import machine

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    result = {"views": views, "copies": copies}[args.question](args)
    result = {
        "command": shlex.join(["python", "bench/retrieval.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        **result,
    }
    stored = json.loads(args.out.read_text()) if args.out.exists() else {}
    stored[args.question] = result
    args.out.write_text(json.dumps(stored, indent=1).replace(str(HERE.parents[1]), "..") + "\n")
    print(json.dumps(result["rows"], indent=1))


# Other views of an object --------------------------------------------------------------------------------------------


def views(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    import selfsame as ss
    from selfsame.downstream.retrieval import mean_average_precision
    from selfsame.jobs.data import open_like

    folder = DATA / "coil_turntable_a"
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    films = args.runs / "coil.csv"
    args.runs.mkdir(parents=True, exist_ok=True)
    with films.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "group", "time"])
        rows.writerows([name, *place_of(name)] for name in names)
    runs = {
        name: ss.pretrain(
            folder, out=args.runs / f"{place}-{args.seed}", size=64, encoder="resnet10t@0.25", related=str(films),
            related_window=15.0, epochs=args.epochs or 24, workers=0, seed=args.seed, views=how,
        )
        for name, place, how in (("encoder", "coil", "auto"), ("encoder, colours kept", "coil-colours", KEPT))
        if how == "auto" or args.colours
    }  # fmt: skip
    data = open_like(str(folder), runs["encoder"].encoder)
    places = [place_of(data.source.name(i)) for i in range(len(data.source))]
    kinds, angles = np.array([kind for kind, _ in places]), np.array([angle for _, angle in places])
    same = torch.from_numpy(kinds[:, None] == kinds)
    apart = np.abs(angles[:, None] - angles)
    apart = torch.from_numpy(np.minimum(apart, 360 - apart) >= FAR_APART)

    def measured(vectors: np.ndarray) -> dict[str, float]:
        unit = torch.from_numpy(centred(vectors, vectors))
        scores = unit @ unit.T
        precision, hit = mean_average_precision(scores, same, torch.arange(len(scores)))
        # Views of the object that are near do not count, for or against.
        near = same & ~apart
        hard, hard_hit = mean_average_precision(scores.masked_fill(near, -2), same & apart)
        return {"mAP": precision, "recall@1": hit, "far_mAP": hard, "far_recall@1": hard_hit}

    rows = []
    for name, drawn in viewed({name: run.encoder for name, run in runs.items()}, data, args.seed).items():
        found = [measured(vectors) for vectors in drawn]
        row = {"by": name, **{key: statistics.fmean(one[key] for one in found) for key in found[0]}}
        if len(found) > 1:
            row["deviations"] = {key: statistics.stdev(one[key] for one in found) for key in found[0]}
        rows.append(row)
    told_of = {name: told(run) for name, run in runs.items()}
    return {"runs": told_of, "views": len(kinds), "objects": len(set(kinds)), "rows": rows}


def viewed(encoders: dict[str, Any], data: Any, seed: int) -> dict[str, list[np.ndarray]]:
    """Vectors of all pictures, as they are and in grey, by encoders, several draws of random weights, and plainly."""
    import torch

    from selfsame.jobs.data import PLAIN
    from selfsame.jobs.evaluating import redrawn
    from selfsame.types import Draws

    encoder, every = encoders["encoder"], range(len(data.source))
    views = data.modality.recipe("weak", encoder.spec["size"], data.stats)
    samples = data.modality.sample(data.source, every, PLAIN, views, Draws(0, 0, len(every)))[0]
    thumbnails = data.modality.raw_vectors([(data.source, every)], data.stats)[0].unflatten(1, (3, -1))
    nets = {name: [net] for name, net in encoders.items()}
    nets["random weights"] = [
        redrawn(encoder, data.modality, k, torch.device("cpu")) for k in range(seed, seed + DRAWN)
    ]
    found: dict[str, list[np.ndarray]] = {}
    for how, pictures, small in (("", samples, thumbnails), (", in grey", grey(samples), grey(thumbnails))):
        with torch.inference_mode():
            for name, some in nets.items():
                found[name + how] = [torch.cat([net(part) for part in pictures.split(64)]).numpy() for net in some]
        found["raw pixels" + how] = [small.flatten(1).numpy()]
    found["mean colour"] = [thumbnails.mean(dim=2).numpy()]
    return found


def grey(pictures: Any) -> Any:
    """Three equal channels, each the luma of the three [n 3 ...] (ITU-R BT.601)."""
    import torch

    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, *[1] * (pictures.ndim - 2))
    made = (pictures.float() * luma).sum(dim=1, keepdim=True).expand(pictures.shape)
    return made.contiguous() if pictures.is_floating_point() else made.round().to(pictures.dtype).contiguous()


def place_of(name: str) -> tuple[str, int]:
    """(object, degrees) of obj002/005.png."""
    kind, _, file = name.partition("/")
    return kind, int(Path(file).stem)


# Copies by known edits -----------------------------------------------------------------------------------------------


def copies(args: argparse.Namespace) -> dict[str, Any]:
    import imagehash
    import torch

    import selfsame as ss
    from selfsame.index.calibration import calibrated, far_of
    from selfsame.index.whitening import Whitening
    from selfsame.jobs.data import open_like

    folder = DATA / "clothing"
    run = ss.pretrain(
        folder / "train", out=args.runs / f"clothing-{args.seed}", method="simclr", size=96, epochs=args.epochs or 12,
        workers=1, seed=args.seed,
    )  # fmt: skip
    encoder = run.encoder
    originals, learned = (open_like(str(folder / part), encoder) for part in ("test", "train"))
    with tempfile.TemporaryDirectory() as place:
        truth = edit(originals.source, learned.source, Path(place), args.edited, args.seed)
        edited = open_like(place, encoder)
        names = [edited.source.name(i) for i in range(len(edited.source))]
        answer = torch.tensor([truth[name] for name in names])
        kinds = [name.split("/")[0] for name in names]
        scores: dict[str, torch.Tensor] = {}
        own = {}
        began = time.perf_counter()
        base, asked = features(encoder, originals, args.seed), features(encoder, edited, args.seed)
        for name, vectors in base.items():
            scores[name] = torch.from_numpy(centred(asked[name], vectors) @ centred(vectors, vectors).T)
            white = Whitening.fitted(vectors)
            scores[f"{name}, whitened"] = torch.from_numpy(white(asked[name]) @ white(vectors).T)
            if name == "encoder":  # as `selfsame duplicates` has it
                own["encoder, whitened"] = calibrated(white(vectors), far_of(len(vectors)), args.seed)[0].value
        scores["own hash"] = by_codes(codes_of(originals.source), codes_of(edited.source))
        own["own hash"] = 1 - 4 / 64
        theirs = [
            np.array(
                [int(str(imagehash.phash(picture(data.source, i))), 16) for i in range(len(data.source))], np.uint64
            )
            for data in (originals, edited)
        ]
        scores["imagehash phash"] = by_codes(theirs[0][:, None], theirs[1][:, None])
        own["imagehash phash"] = 1 - 4 / 64
        print(f"features in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    rows = [judged(name, value, answer, kinds, own.get(name)) for name, value in scores.items()]
    # What the command finds: a pair by either.
    either = (scores["own hash"] >= own["own hash"]) | (scores["encoder, whitened"] >= own["encoder, whitened"])
    true = int(either[torch.arange(len(answer)), answer].sum())
    found = {"precision": true / int(either.sum()), "recall": true / len(answer)}
    rows.append({"by": "own hash or encoder", "own_threshold": found})
    return {**told(run), "originals": len(originals.source), "copies": len(names), "rows": rows}


def judged(name: str, scores: Any, answer: Any, kinds: list[str], threshold: float | None) -> dict[str, Any]:
    """Of one way: rankings, pooled pairs, and what its own threshold takes."""
    import torch

    from selfsame.downstream.retrieval import mean_average_precision, micro_average_precision, recall_at_precision

    relevant = torch.zeros(scores.shape, dtype=torch.bool)
    relevant[torch.arange(len(answer)), answer] = True
    precision, hit = mean_average_precision(scores, relevant)
    recall, at = recall_at_precision(scores.flatten(), relevant.flatten(), 0.99)
    row = {
        "by": name,
        "mAP": precision,
        "recall@1": hit,
        "micro_AP": micro_average_precision(scores.flatten(), relevant.flatten()),
        "recall_at_precision_0.99": recall,
        "by_edit": {
            kind: float((scores[mine] >= at)[relevant[mine]].double().mean())
            for kind in sorted(set(kinds))
            if (mine := [k for k, other in enumerate(kinds) if other == kind])
        },
    }
    if threshold is not None:
        taken = scores >= threshold
        true = float((taken & relevant).sum())
        row["own_threshold"] = {
            "value": threshold,
            "precision": true / max(1, int(taken.sum())),
            "recall": true / len(answer),
        }
    return row


def edit(source: Any, beside: Any, place: Path, count: int, seed: int) -> dict[str, int]:
    """Copies of some items, a folder an edit, in collages `beside` others; {name: the item it was made of}."""
    rng = np.random.default_rng(seed)
    truth = {}
    for item in np.sort(rng.permutation(len(source))[:count]).tolist():
        image = picture(source, item)
        other = picture(beside, int(rng.integers(len(beside))))
        for kind, make in EDITS.items():
            made, settings = make(image, rng, other)
            path = place / kind / f"{item:04d}.{'jpg' if 'quality' in settings else 'png'}"
            path.parent.mkdir(exist_ok=True)
            made.convert("RGB").save(path, **settings)
            truth[f"{kind}/{path.name}"] = item
    return truth


def picture(source: Any, item: int) -> Image.Image:
    return Image.open(io.BytesIO(source.data(item))).convert("RGB")


JPEG = {"quality": 90}
Edited = tuple[Image.Image, dict[str, Any]]


def jpeg(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> Edited:
    return image, {"quality": int(rng.integers(10, 51))}


def crop(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> Edited:
    """30 to 70 % of the area, the shape as it was."""
    side = float(np.sqrt(rng.uniform(0.3, 0.7)))
    width, height = round(image.width * side), round(image.height * side)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height)), JPEG


def text(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> Edited:
    """Two lines of large letters across the picture."""
    made = image.copy()
    draw = ImageDraw.Draw(made)
    font = ImageFont.load_default(size=max(12, image.width // 8))
    for row in range(2):
        words = "".join(rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ "), 14))
        at = (int(rng.integers(image.width // 8)), int(rng.uniform(0.1 + 0.4 * row, 0.4 + 0.4 * row) * image.height))
        draw.text(at, words, font=font, fill=tuple(rng.integers(0, 256, 3).tolist()))
    return made, JPEG


def blur(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> Edited:
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(2, 6))), JPEG


def colour(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> Edited:
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(rng.uniform(0.5, 1.5))
    return image, JPEG


def flip(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> Edited:
    return ImageOps.mirror(image), JPEG


def resize(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> Edited:
    """To 20 to 60 % of the size, the shape changed by up to a tenth."""
    scale, stretch = rng.uniform(0.2, 0.6), rng.uniform(0.9, 1.1)
    return image.resize((max(16, round(image.width * scale * stretch)), max(16, round(image.height * scale)))), {}


def collage(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> Edited:
    """Beside or above another photo, each half of the picture."""
    other = other.resize(image.size)
    pair = [image, other] if rng.random() < 0.5 else [other, image]
    beside = rng.random() < 0.5
    made = Image.new("RGB", (2 * image.width, image.height) if beside else (image.width, 2 * image.height))
    for k, part in enumerate(pair):
        made.paste(part, (k * image.width, 0) if beside else (0, k * image.height))
    return made, JPEG


EDITS = {
    "jpeg": jpeg,
    "crop": crop,
    "text": text,
    "blur": blur,
    "colour": colour,
    "flip": flip,
    "resize": resize,
    "collage": collage,
}


# Features ------------------------------------------------------------------------------------------------------------


def features(encoder: Any, data: Any, seed: int) -> dict[str, np.ndarray]:
    """Vectors of all items by the encoder, by random weights of the same network, and as pixels."""
    import torch

    from selfsame.jobs.data import PLAIN
    from selfsame.jobs.evaluating import redrawn
    from selfsame.types import Draws

    views = data.modality.recipe("weak", encoder.spec["size"], data.stats)
    every = range(len(data.source))
    samples = data.modality.sample(data.source, every, PLAIN, views, Draws(0, 0, len(every)))[0]
    random = redrawn(encoder, data.modality, seed, torch.device("cpu"))
    with torch.inference_mode():
        vectors = [torch.cat([net(some) for some in samples.split(64)]).numpy() for net in (encoder, random)]
    return {
        "encoder": vectors[0],
        "random weights": vectors[1],
        "raw pixels": data.modality.raw_vectors([(data.source, every)], data.stats)[0].numpy(),
    }


def centred(vectors: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Less the mean of the database, at unit length."""
    vectors = vectors - base.mean(axis=0)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


def codes_of(source: Any) -> np.ndarray:
    from selfsame.modalities.image.hashing import fingerprint

    return np.array([fingerprint(source, i).codes or (0, 0) for i in range(len(source))], np.uint64)


def by_codes(base: np.ndarray, asked: np.ndarray) -> Any:
    """Share of equal bits, of the image or of its mirror image where there are two codes: [asked base]."""
    import torch

    bits = np.bitwise_count(asked[:, None, :1] ^ base[None]).min(axis=2)
    return torch.from_numpy(1 - bits / 64)


def told(run: Any) -> dict[str, Any]:
    return {key: run.result.get(key) for key in ("verdict", "seconds", "steps")}


if __name__ == "__main__":
    main()
