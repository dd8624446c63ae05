"""The cost model beside published rates, and its answers for large jobs.

    OMP_NUM_THREADS=1 python bench/scale.py

The same code as `selfsame plan` counts the steps and prices them. Nothing is trained and no GPU is used. Reading rates
are those of bench/results/views.json. Stored in bench/results/scale.json.
"""

import json
import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import selfsame as ss
from selfsame.engine import cost
from selfsame.engine.cards import CARDS
from selfsame.engine.cost import Counted, Job, priced, roofline
from selfsame.engine.dist import machine
from selfsame.engine.rehearse import rehearsed
from selfsame.modalities import image
from selfsame.records import Budget, ViewPlan
from selfsame.types import Draws, Learner, Step

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TIMM = "timm, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv (torch 1.12)"
PUBLISHED = [  # network, batch, card, images/s in mixed precision, where from; the share is fitted to the first alone
    ("resnet50", 256, "a100", 2470.0, "NVIDIA DeepLearningExamples, ResNet50v1.5 of PyTorch, DGX A100 80GB"),
    ("resnet18", 512, "rtx3090", 3481.78, TIMM),
    ("resnet50", 512, "rtx3090", 1218.01, TIMM),
    ("resnet101", 256, "rtx3090", 747.89, TIMM),
    ("vit_tiny_patch16_224", 512, "rtx3090", 2299.56, TIMM),
    ("vit_small_patch16_224", 384, "rtx3090", 1057.92, TIMM),
    ("vit_base_patch32_224", 512, "rtx3090", 1708.63, TIMM),
    ("convnext_tiny", 256, "rtx3090", 819.24, TIMM),
]
SIDE = 224
IMAGENET, PHOTO = 1_281_167, 110e3  # images, bytes of one
KEPT = 336 * 448 * 3  # bytes of a cached photo of 4 to 3 sides, its short one 1.5 views
NETS = {"resnet50": {}, "resnet50, group norm": {"norm": "group"}, "vit_small_patch16_224": {}}
EACH = 128  # images a card and step, in the table of scaling
STATS = image.Stats(
    items=IMAGENET, channels=3, bits=8, white=255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    height=375, width=500, uniform=False,
)  # fmt: skip


class Supervised(Learner):
    """Classification, as the published rates are of: one forward and one backward pass an image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, views: list[Tensor]) -> Step:
        wanted = torch.zeros(len(views[0]), dtype=torch.long)
        return Step(F.cross_entropy(self.net(views[0]).float(), wanted))


def comparison() -> list[dict[str, Any]]:
    """What the roofline alone says of published rates: their share of it."""
    rows = []
    for name, batch, card, rate, source in PUBLISHED:
        learner = Supervised(timm.create_model(name)).to(memory_format=torch.channels_last)
        counted = rehearsed(learner, [torch.rand(2, 3, SIDE, SIDE)], batch, True, "sgd", False)
        at_best = batch / roofline(counted.operations, CARDS[card])
        rows.append(
            {
                "net": name,
                "card": CARDS[card].name,
                "batch": batch,
                "gflop": round(flops(counted) / 1e9, 2),
                "published": rate,
                "roofline": round(at_best),
                "share": round(rate / at_best, 3),
                "model": round(at_best * cost.SHARE),
                "source": source,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def own() -> list[dict[str, Any]]:
    """BYOL's step as bench/card.py measured it on a card, beside what the model says of it."""
    rows = []
    for machine_of, found in json.loads((RESULTS / "card.json").read_text()).items():
        card = next(card for key, card in CARDS.items() if key in machine_of.lower())
        for net, case in (("resnet50", "resnet50"), ("vit_small_patch16_224", "vit")):
            row = found["steps"][case]
            counted = count(net, row["batch"], "adamw", 10**6, row["batch"], False)
            job = Job(items=IMAGENET, batch=row["batch"], steps=10**6, at_rest=PHOTO, read_files=1e-3)
            rates = {way.removeprefix("selfsame").strip() or "eager": n for way, n in row["samples_per_second"].items()}
            model = round(priced(counted, job, card, 1).total.items_a_second)
            rows.append({"net": net, "card": card.name, "batch": row["batch"], "model": model, **rates})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def flops(counted: Counted) -> float:
    return sum(operation.flops for operation in counted.operations) / counted.rows


def count(
    net: str, rows: int, optimizer: str, steps: int, batch: int, together: bool, settings: dict[str, Any] | None = None
) -> Counted:
    """BYOL on 224 px photos, fitted to the job as `pretrain` does it."""
    torch.manual_seed(0)
    encoder = image.make_encoder(net, SIDE, STATS)
    budget = Budget(items=IMAGENET, batch=batch, steps=steps, dim=encoder.dim)
    learner = ss.methods.BYOL(**settings or {}).fitted(budget).build(encoder).to(memory_format=torch.channels_last)
    recipe = image.recipe("photo", SIDE, STATS)

    def device_half(rows: int) -> Any:
        samples = [torch.empty(rows, 3, SIDE, SIDE, dtype=torch.uint8, device="meta") for _ in range(2)]
        return image.make_views(samples, ViewPlan(full=2), recipe, STATS, Draws(0, 0, rows))

    views = [torch.empty(2, 3, SIDE, SIDE)] * 2
    return rehearsed(learner, views, rows, True, optimizer, together, device_half)  # type: ignore[arg-type]


def answer(name: str, net: str, items: int, epochs: float, batch: int, gpus: int, card: str, optimizer: str) -> dict:
    reading = reading_rates()
    steps = round(items * epochs / batch)
    counted = count(net, batch // gpus, optimizer, steps, batch, gpus > 1)
    job = Job(
        items=items, batch=batch, steps=steps, at_rest=PHOTO, cached=KEPT,
        read_files=1 / reading.worker, read_cache=1 / reading.cache,
    )  # fmt: skip
    price = priced(counted, job, CARDS[card], gpus)
    row = {
        "name": name, "net": net, "gpus": gpus, "card": CARDS[card].name, "epochs": epochs, "optimizer": optimizer,
        "job": job.model_dump(), "cost": price.model_dump(),
    }  # fmt: skip
    print(f"{name}: {net}, {gpus} x {card}: {price.total.seconds / 86400:.2f} days", flush=True)
    return row


def reading_rates() -> SimpleNamespace:
    """Images a second of one core, measured by bench/views.py."""
    result = json.loads((RESULTS / "views.json").read_text())
    return SimpleNamespace(machine=result["machine"], **{row["measure"]: row["selfsame"] for row in result["rows"]})


def answers() -> list[dict]:
    rows = []
    for net, optimizer in (("resnet50", "lars"), ("vit_small_patch16_224", "adamw")):
        for epochs in (100, 1000):
            rows.append(answer("ImageNet", net, IMAGENET, epochs, 4096, 8, "h100", optimizer))
    for net, optimizer in (("resnet50", "lars"), ("vit_small_patch16_224", "adamw")):
        for epochs in (1, 10):
            rows.append(answer("a billion images", net, 10**9, epochs, 65_536, 1024, "h100", optimizer))
    return rows


def scaling() -> list[dict]:
    """The same images a card on more and more cards."""
    rows = []
    for name, settings in NETS.items():
        net = name.split(",")[0]
        alone = count(net, EACH, "adamw", 10**6, EACH, False, settings)
        shared = count(net, EACH, "adamw", 10**6, EACH * 2, True, settings)
        for gpus in (1, 2, 8, 64, 512, 1024):
            job = Job(items=10**9, batch=EACH * gpus, steps=10**6, at_rest=PHOTO, read_files=1e-3)
            price = priced(shared if gpus > 1 else alone, job, CARDS["h100"], gpus)
            talk = price.network
            rows.append(
                {
                    "net": name,
                    "gpus": gpus,
                    "items_a_second": price.total.items_a_second,
                    "computing": price.compute.seconds,
                    "gradients": talk.gradient_seconds - talk.hidden_seconds,
                    "statistics": talk.statistics_seconds,
                    "exchanges": talk.exchanges,
                }
            )
    return rows


def main() -> None:
    result = {
        "command": "OMP_NUM_THREADS=1 " + shlex.join(["python", "bench/scale.py", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "constants": {
            name.lower(): getattr(cost, name)
            for name in ("SHARE", "LAUNCH", "WIRE", "FREE", "TREE", "RING", "TREE_HOP", "RING_HOP")
        },
        "reading": vars(reading_rates()),
        "cards": {name: card.model_dump() for name, card in CARDS.items()},
        "published": comparison(),
        "own": own(),
        "answers": answers(),
        "scaling": scaling(),
    }
    (RESULTS / "scale.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
