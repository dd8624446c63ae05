"""DINOv2: DINO on the whole view, the same on hidden patches, and vectors pushed apart from their nearest.

Source: Oquab et al. 2023, arXiv 2304.07193, section 4 and its reference code; the loss on hidden patches is iBOT's,
Zhou et al. 2021, 2111.07832, section 3.2; KoLeo: Sablayrolles et al. 2018, 1806.03198.
Deviations: of each item one of the two views has hidden patches, where the code hides in half of all views, chosen at
random: so each process has as many, and no device is waited for to count them. As in the code their shares lie one in
each of equal parts of the range. The nearest vector is sought among the rows of all processes, where the code looks at
its own. No stochastic depth, no layer decay of the learning rate, one learning rate for the patch embedding too; the
gradient is clipped as a whole; the last layer's lengths stay 1. The temperature warms up by steps.
Short runs (ours, `fitted` and `pace`): what helped DINO there, for the reasons that its module gives: batch norm in
the heads' hidden layers, a narrower and whitened vector, a target's temperature of 0.02, Sinkhorn's algorithm in place
of the centres; and small encoders learn at four times the usual rate. CIFAR-10, 624 steps of 64 images, a vision
transformer of 6 blocks, 128 wide, one seed, k-NN / probe: 38.4 / 40.8; random weights 28.6 / 31.4. Nothing else was
tried, and the changes not one by one.
"""

from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.blockmasks import block_masks, most_hidden
from selfsame.nn.centre import Centre
from selfsame.nn.diagnose import spread
from selfsame.nn.ema import Target, able_to_follow, cosine
from selfsame.nn.heads import Norm, OutputNorm
from selfsame.nn.joint import by_size
from selfsame.nn.prototypes import across_views, prototype_head, warming
from selfsame.nn.sinkhorn import sinkhorn
from selfsame.nn.sync import gathered, own, places, shared, world
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan, more_than_items

EPS = 1e-8  # of the distance to the nearest, and of its logarithm


CROPS = {
    "name": "dino", "one": {"area": [0.32, 1.0]}, "two": {"area": [0.32, 1.0]}, "part": {"area": [0.05, 0.32]},
}  # fmt: skip

SMALL = 192  # width of encoders that short runs train at four times the usual rate


class DINOv2(types.Method):
    """DINO and iBOT together, kept apart by KoLeo."""

    good_for: ClassVar = "vision transformers at scale: vectors and patches that serve as they are, without fine-tuning"
    needs: ClassVar = ("tokens",)
    presets: ClassVar = {
        "imagenet": Preset(
            source="its reference code, dinov2/configs/train/vitl16_short.yaml and ssl_default_config.yaml",
            training={
                "optimizer": "adamw", "lr": 4e-3, "batch_size": 1024, "epochs": 100, "warmup_epochs": 10,
                "weight_decay": 0.04, "weight_decay_end": 0.4, "clip": 3.0, "encoder": "vit_large_patch16_224",
                "size": 224, "views": CROPS,
            },
            published="ImageNet-1k, ViT-L/16, 100 epochs: k-NN 81.6 %, linear 82.9 % (its README)",
        ),
        "large": Preset(
            source="arXiv 2304.07193, tables 16 and 17; its reference code, vitl14.yaml",
            method={"targets": "sinkhorn", "shared_head": False, "narrow": 384, "out": 131_072},
            training={
                "optimizer": "adamw", "lr": 3.5e-4, "batch_size": 3072, "weight_decay": 0.04, "weight_decay_end": 0.2,
                "clip": 3.0, "encoder": "vit_large_patch14_224", "size": 224, "views": CROPS,
            },
            published="LVD-142M, ViT-L/14, 625,000 steps: ImageNet linear 86.3 %",
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the head's two hidden layers (table 17); fitted to the encoder unless given"""
    narrow: Annotated[int, Field(ge=2)] = 256
    """width of the unit vector before the last layer (reference code); 128 in short runs unless given"""
    out: Annotated[int, Field(ge=2)] = 65_536
    """outputs to sort items and patches into (reference code); fitted to the number of items unless given"""
    head_norm: Literal["none", "batch"] = "none"
    """of the heads' hidden layers: none, or batch norm (its code's use_bn); batch in short runs unless given"""
    output_norm: OutputNorm = "none"
    """end of the narrow vector: no norm as in the paper, plain or whiten; whiten in short runs unless given"""
    shared_head: bool = True
    """one head for vectors and patches, as for ImageNet; large runs have two (6.3)"""
    patch_weight: Annotated[float, Field(ge=0)] = 1.0
    """of the loss on hidden patches (reference code)"""
    hide: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=0, lt=1)]] = (0.1, 0.5)
    """least and largest share of a view's patches that is hidden, in one of the two views (reference code)"""
    koleo_weight: Annotated[float, Field(ge=0)] = 0.1
    """of the loss that keeps each vector away from the nearest one (table 17)"""
    targets: Literal["centre", "sinkhorn"] = "centre"
    """how outputs are kept in use alike: centring as for ImageNet, or Sinkhorn as in large and short runs"""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """of the student's softmax (reference code)"""
    target_temperature: Annotated[float, Field(gt=0)] = 0.04
    """of the target's softmax at the start (reference code); 0.02 in short runs unless given"""
    target_temperature_end: Annotated[float, Field(gt=0)] = 0.07
    """of the target's softmax after its warm-up (reference code); that of the start in short runs unless given"""
    temperature_warmup: Annotated[float, Field(ge=0, le=1)] = 0.3
    """share of the run in which it rises (reference code: 30 epochs of 100)"""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.992
    """of the target at the start, 1 at the end (reference code); fitted to the run's length unless given"""
    centre_momentum: Annotated[float, Field(ge=0, le=1)] = 0.9
    """of the centres of vectors and patches (reference code)"""
    part_views: Annotated[int, Field(ge=0, le=16)] = 8
    """small crops beside the two large ones (reference code); none in short runs unless given"""
    freeze: Annotated[float, Field(ge=0, le=1)] = 0.01
    """share of the run at its start during which the last layers stand still (reference code: 1 epoch of 100)"""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.hide[0] > self.hide[1]:
            raise ValueError(f"hide from {self.hide[0]:g} to {self.hide[1]:g} is empty: give the smaller share first")
        return self

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=2, part=self.part_views)

    def temperature_at(self, progress: float) -> float:
        return warming(self.target_temperature, self.target_temperature_end, progress, self.temperature_warmup)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        return [
            text
            for true, text in (
                (
                    max(self.target_temperature, self.target_temperature_end) >= self.temperature,
                    "a target no sharper than the student drifts to the uniform distribution: full collapse "
                    "(arXiv 2104.14294, section 5.3)",
                ),
                (
                    self.targets == "centre" and self.centre_momentum == 1,
                    "without centring one output wins for all items: full collapse (arXiv 2104.14294, section 5.3)",
                ),
                (self.momentum == 0, "a target that equals the student does not learn (arXiv 2104.14294, table 7)"),
                (self.momentum == 1, "a target that never moves is stable but learns little"),
            )
            if true
        ]

    def pace(self, budget: Budget) -> float:
        return 4.0 if budget.short and budget.dim <= SMALL else 1.0

    def misfits(self, budget: Budget) -> list[str]:
        if self.targets == "centre":  # which asks for no equal use
            return []
        return more_than_items(budget, self.out, "outputs", "out", ", or give --method.targets centre")

    def doubts(self, budget: Budget) -> list[str]:
        why = "; patches may fill the rest, whole items cannot (the code has 20 items of ImageNet to an output)"
        return more_than_items(budget, self.out, "outputs", "out", why)

    def fitted(self, budget: Budget) -> Self:
        """Outputs by items, a target that can follow; in short runs no part views, and what the module's text says."""
        short, given = budget.short, self.model_fields_set
        even = short and ("out" not in given or self.out <= budget.items)  # more outputs cannot be used alike
        targets = self.targets if "targets" in given or not even else "sinkhorn"
        start = self.target_temperature if "target_temperature" in given or not short else 0.02
        derived = {
            "hidden": min(2048, max(512, 4 * budget.dim)),
            "narrow": 128 if short else 256,
            "out": min(65_536, max(256, budget.items // 12), budget.items),
            "momentum": able_to_follow(0.992, budget.steps),
            "part_views": 0 if short else 8,
            "head_norm": "batch" if short else "none",
            "output_norm": "whiten" if short else "none",
            "targets": targets,
            "target_temperature": start,
            "target_temperature_end": start if short else 0.07,
            "freeze": round(min(0.05, 1 / budget.passes), 6),
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})


class Learner(types.Learner):
    """DINOv2 at work. Views: two full ones, which target and student see, then part views for the student alone."""

    target_temperature: Tensor

    def __init__(self, method: DINOv2, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.encoder = encoder
        sizes = (encoder.dim, method.hidden, method.narrow, method.out)
        norm: Norm | None = "batch" if method.head_norm == "batch" else None
        self.heads: Any = nn.ModuleList(
            [prototype_head(*sizes, method.output_norm, norm) for _ in range(1 if method.shared_head else 2)]
        )
        self.stand_in = nn.Parameter(torch.zeros(encoder.dim))
        self.target = Target(self.student)
        self.centre, self.patch_centre = (Centre(method.out, method.centre_momentum) for _ in range(2))
        self.register_buffer("target_temperature", torch.tensor(method.temperature_at(0.0)))

    @property
    def student(self) -> nn.ModuleList:
        # Built on each use: a stored one would keep the old layers after norms are converted.
        return nn.ModuleList([self.encoder, *self.heads])

    def forward(self, views: list[Tensor]) -> types.Step:
        m = self.method
        views = as_planned(views, self.method.plan, "DINOv2")
        rows, full = len(views[0]), torch.cat(views[:2])
        hidden, in_first = self.draw(rows, self.encoder.grid(full))
        where = torch.cat([hidden & in_first[:, None], hidden & ~in_first[:, None]])
        here, counted = hidden_places(hidden, most_hidden(self.encoder.grid(full), m.hide[1]))
        view = torch.arange(rows, device=full.device) + rows * ~in_first

        vectors, tokens = self.encoder.both(full, hide=types.Hidden(where, self.stand_in))
        scores = self.heads[0](torch.cat([vectors, *by_size(self.encoder, views[2:])]))
        patches = self.heads[-1](tokens[view[:, None], here].flatten(0, 1))
        targets, patch_targets, of_target = self.targets(full, view, here, counted)

        whole = across_views(targets.split(rows), scores.split(rows), m.temperature)
        patch = of_hidden(patch_targets, patches / m.temperature, counted) / 2  # half of the views have hidden patches
        apart = torch.stack([koleo(one) for one in vectors.chunk(2)]).sum()
        logs = {
            "whole": whole.detach(), "patches": patch.detach(), "koleo": apart.detach(),
            "spread": spread(of_target[:rows]), "entropy": torch.special.entr(targets).sum(1).mean(),
        }  # fmt: skip
        return types.Step(whole + m.patch_weight * patch + m.koleo_weight * apart, logs)

    def draw(self, rows: int, grid: tuple[int, ...]) -> tuple[Bool[Tensor, "b n"], Bool[Tensor, "b"]]:
        """What is hidden of each item, and whether in its first view rather than the second."""
        device = self.stand_in.device
        in_first = own(shared(torch.rand(rows * world(), device=device))) < 0.5
        return block_masks(rows, grid, *self.method.hide, device), in_first

    @torch.no_grad()
    def targets(
        self, full: Tensor, view: Int[Tensor, "b"], here: Int[Tensor, "b m"], counted: Bool[Tensor, "b m"]
    ) -> tuple[Float[Tensor, "v k"], Float[Tensor, "p k"], Float[Tensor, "v k"]]:
        """Targets of the vectors of both views and of the hidden patches, which it sees; and the vectors' scores."""
        m, counts = self.method, counted.flatten()
        encoder, *heads = cast(list[Any], list(self.target.net.children()))
        vectors, tokens = encoder.both(full)
        scores, patches = heads[0](vectors), heads[-1](tokens[view[:, None], here].flatten(0, 1))
        if m.targets == "sinkhorn":
            temperature = self.target_temperature
            return sinkhorn(scores, temperature), sinkhorn(patches, temperature, counted=counts), scores
        found = self.centre(scores, self.target_temperature), self.patch_centre(patches, self.target_temperature)
        self.centre.follow(scores)
        self.patch_centre.follow(patches, counts)
        return *found, scores

    def before_update(self, progress: float) -> None:
        if progress < self.method.freeze:
            for head in self.heads:
                head[-1].weight.grad = None

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.target.follow(self.student, cosine(self.method.momentum, 1.0, progress))
        self.target_temperature.fill_(self.method.temperature_at(progress))


def hidden_places(hidden: Bool[Tensor, "b n"], most: int) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """The places of the hidden patches of each row, filled up with others to `most`; and which are hidden."""
    here = hidden.logical_not().long().argsort(dim=1, stable=True)[:, :most]
    return here, hidden.gather(1, here)


def of_hidden(
    targets: Float[Tensor, "p k"], scores: Float[Tensor, "p k"], counted: Bool[Tensor, "b m"]
) -> Float[Tensor, ""]:
    """Mean over rows of the mean over their hidden patches of the cross-entropy: each row weighs the same."""
    losses = F.cross_entropy(scores, targets, reduction="none").view(counted.shape)
    return ((losses * counted).sum(dim=1) / counted.sum(dim=1)).mean()


def koleo(vectors: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Minus the mean log distance of unit vectors to the nearest of the whole batch, of all processes."""
    mine = F.normalize(vectors.float() if vectors.itemsize < 4 else vectors, dim=1)
    every = gathered(mine)
    with torch.no_grad(), torch.autocast(mine.device.type, enabled=False):
        nearness = (mine @ every.T).scatter(1, places(len(mine), mine.device)[:, None], -2.0)
        nearest = nearness.argmax(dim=1)
    return -(F.pairwise_distance(mine, every[nearest], eps=EPS) + EPS).log().mean()
