"""LeJEPA: bring all views of an item together, and make the vectors of each view normally distributed (SIGReg).

Source: Balestriero & LeCun 2025, arXiv 2511.08544, algorithms 1 and 2, and its reference code (MINIMAL.md). No slow
copy, no stopped gradient, one weight. Views are pulled to the mean of the full ones as in algorithm 2; the minimal
code, whose views are all of one kind, pulls them to the mean of all (`centre`). Directions are drawn anew each step,
the same for all processes; characteristic functions are those of the batch of all processes, with gradient. As in the
reference code, the statistic grows with the number of items in the batch.
Uncertain: the width of the projection, which differs between the sources (16 to 512); 128 is the minimal code's. The
weight too: 0.05 is lightly's, which is said to match the reference; the minimal code has 0.02. Deviation: the rate
falls to 0, not 0.001 of its peak.
"""

from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from selfsame import types
from selfsame.nn.diagnose import spread
from selfsame.nn.heads import tower
from selfsame.nn.joint import by_size
from selfsame.nn.moments import wide
from selfsame.nn.sync import mean_of_rows, shared, world
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan

KNOTS, FARTHEST = 17, 3.0  # of the characteristic function: points and the end of their range (MINIMAL.md)


class LeJEPA(types.Method):
    """Learn vectors that agree between views and follow the normal distribution."""

    good_for: ClassVar = "any network without tuning: one weight, no slow copy; many cheap part views"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2511.08544, and README.md of its reference code",
            method={"part_views": 6, "hidden": 2048, "directions": 1024, "weight": 0.05},
            training={
                "optimizer": "adamw", "lr": 5e-4, "batch_size": 256, "epochs": 100, "warmup_epochs": 10,
                "weight_decay": 5e-2, "encoder": "vit_large_patch14_224", "size": 224,
                "views": {
                    "name": "dino", "one": {"area": [0.3, 1.0]}, "two": {"area": [0.3, 1.0]},
                    "part": {"area": [0.05, 0.3]}, "part_size": 98,
                },
            },
            published="ImageNet, a larger ViT-H/14, linear: 79 % top-1",
        ),
        "cifar": Preset(
            source="MINIMAL.md of the reference code (Imagenette at 128 pixels), its rate and weight, on small images",
            method={"part_views": 2, "hidden": 2048, "out": 16, "directions": 256, "weight": 0.02, "centre": "all"},
            training={
                "optimizer": "adamw", "lr": 2e-3, "batch_size": 256, "epochs": 800, "warmup_epochs": 1,
                "weight_decay": 5e-4, "encoder": "resnet18", "size": 32, "views": "small",
            },
            published="Imagenette, ViT-S/8, 800 epochs, linear: 90.7 % (none for CIFAR-10)",
        ),
    }  # fmt: skip

    part_views: Annotated[int, Field(ge=0)] = 6
    """small crops beside the two full views"""
    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the projector's two hidden layers; fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=1)] = 128
    """width of the projection (MINIMAL.md)"""
    weight: Annotated[float, Field(ge=0, le=1)] = 0.05
    """share of SIGReg in the loss, lambda; the rest pulls views together"""
    directions: Annotated[int, Field(ge=1)] = 1024
    """on which the distribution is looked at, new ones each step; fitted to the batch unless given"""
    centre: Literal["full", "all"] = "full"
    """views are pulled to the mean of the full views (algorithm 2) or of all (MINIMAL.md)"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=2, part=self.part_views)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        found = []
        if self.weight == 0:
            found.append("without SIGReg all vectors become one: full collapse; give a weight of 0.01 to 0.1")
        if self.weight == 1:
            found.append(
                "with SIGReg alone nothing is learnt of what views have in common: give a weight of 0.01 to 0.1"
            )
        return found

    def fitted(self, budget: Budget) -> Self:
        """A projector no wider than a small encoder can use; for small batches the directions of the minimal code."""
        derived = {
            "hidden": min(2048, max(1024, 2 * budget.dim)),
            "directions": 256 if budget.batch <= 256 else 1024,
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})


class Learner(types.Learner):
    """LeJEPA at work. Views: two full ones, then the part views."""

    def __init__(self, method: LeJEPA, encoder: types.Encoder) -> None:
        super().__init__()
        self.method, self.plan = method, method.plan
        self.encoder = encoder
        self.projector = tower(encoder.dim, method.hidden, method.hidden, method.out, bias=True, last_bias=True)

    def forward(self, views: list[Tensor]) -> types.Step:
        m = self.method
        views = as_planned(views, self.plan, "LeJEPA")
        projected = self.projector(torch.cat(by_size(self.encoder, views)))
        z = wide(projected).unflatten(0, (len(views), -1)).transpose(0, 1)  # [b v d]
        directions = F.normalize(shared(torch.randn(m.out, m.directions, device=z.device)), dim=0).to(z.dtype)
        centre = z[:, : self.plan.full if m.centre == "full" else None].mean(dim=1, keepdim=True)
        invariance = (centre - z).square().mean()
        normality = sigreg(z, directions)
        logs = {"spread": spread(z[:, 0].detach()), "invariance": invariance, "sigreg": normality}
        return types.Step((1 - m.weight) * invariance + m.weight * normality, logs)


def sigreg(z: Float[Tensor, "b *v d"], directions: Float[Tensor, "d m"]) -> Float[Tensor, ""]:
    """How far the rows of all processes, seen along unit vectors, are from normal: mean over directions and views."""
    with torch.autocast(z.device.type, enabled=False):
        return epps_pulley(z @ directions).mean()


def epps_pulley(s: Float[Tensor, "b *rest"]) -> Float[Tensor, "*rest"]:
    """Distance of the rows' characteristic function from that of the standard normal distribution.

    n times the integral over t of |mean exp(i t s) - exp(-t²/2)|² exp(-t²/2), by the trapezoidal rule on [0, 3],
    doubled as it is symmetric; n rows of all processes (Epps & Pulley 1983).
    """
    t = torch.linspace(0, FARTHEST, KNOTS, dtype=s.dtype, device=s.device)
    normal = (-t.square() / 2).exp()
    weights = torch.full_like(t, 2 * FARTHEST / (KNOTS - 1))
    weights[0] = weights[-1] = FARTHEST / (KNOTS - 1)
    angles = s[..., None] * t
    distance = (mean_of_rows(angles.cos()) - normal).square() + mean_of_rows(angles.sin()).square()
    return len(s) * world() * (distance @ (weights * normal))
