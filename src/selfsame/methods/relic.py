"""ReLIC: pick the other view of an item, and do so alike whichever of the two views asks (v1 and v2).

Sources: Mitrovic et al. 2021, arXiv 2010.07922 (ReLIC); Tomasev et al. 2022, 2201.05119 (ReLICv2 and its pseudo-code).
No training code is public: alpha, beta, temperature, negatives and rates are as reported, and unsure.
The views of an item ask among its own partner and `negatives` other items, drawn anew each step and the same for both
orders: online view l among the target's views k, and online view k among the target's views l. The contrast is the
cross-entropy of the partner; the invariance is the divergence of the second distribution from the first, whose entropy
passes no gradient.
Choices: where view k is a small crop, which the target never sees, the networks change places: the target's view l asks
among the online views k. Pairs of a crop with itself, which v2's pseudo-code also adds up, are compared only with
`itself`; their divergence counts as 0. Small crops of one size pass together, as SwAV's and DINO's do. The random
negatives of row i are rows i + r, with the same random r for all rows. The heads are BYOL's, and, as in the
pseudo-code, without a predictor unless asked.
v2 also hides the background of a tenth of the large crops. That is a matter of the views (a strength `background` of
the views one and two, where the modality has it), not of this file.
"""

from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.contrast import dots
from selfsame.nn.diagnose import spread
from selfsame.nn.ema import Target, cosine, momentum_for
from selfsame.nn.heads import mlp
from selfsame.nn.joint import by_size, each
from selfsame.nn.sync import gathered, places, shared, world
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan

PAPER = {
    "optimizer": "lars", "lr": 4.8, "batch_size": 4096, "epochs": 1000, "warmup_epochs": 10,
    "weight_decay": 1e-6, "encoder": "resnet50", "size": 224, "views": "photo",
}  # fmt: skip


class ReLIC(types.Method):
    """Learn to tell items apart, by the same similarities from every view."""

    good_for: ClassVar = "contrast with a slow copy and few negatives; robust to the style of views; many crops as v2"
    presets: ClassVar = {
        "imagenet": Preset(source="arXiv 2010.07922, section 4; rates as in arXiv 2201.05119", training=PAPER),
        "v2": Preset(
            source="arXiv 2201.05119, sections 2 and 3; without its masked backgrounds",
            method={"full_views": 4, "part_views": 2, "itself": True},
            training=PAPER,
            published="ImageNet, ResNet-50, linear: 77.1 % top-1, with masked backgrounds",
        ),
    }

    full_views: Annotated[int, Field(ge=2)] = 2
    """large crops; 4 in v2"""
    part_views: Annotated[int, Field(ge=0)] = 0
    """small crops, which only the online network sees; 2 in v2"""
    hidden: Annotated[int, Field(ge=1)] = 4096
    """width of the heads' hidden layer; fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=1)] = 256
    """width of the projection"""
    predictor: bool = False
    """a second head on the online side, as in BYOL"""
    temperature: Annotated[float, Field(gt=0)] = 0.2
    """of the softmax over the candidates"""
    negatives: Annotated[int, Field(ge=0)] = 10
    """random other items among which an item is to be found; 0, or more than there are: all of the batch"""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """weight of the contrast"""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """weight of the invariance; 0 leaves InfoNCE"""
    itself: bool = False
    """also compare each large crop with what the target makes of the same crop, as the pseudo-code of v2"""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
    """of the target at the start, rising to 1; fitted to batch and length unless given"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=self.full_views, part=self.part_views)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        if self.alpha:
            return []
        return ["without the contrast all similarities can be alike: full collapse. Give alpha more than 0"]

    def fitted(self, budget: Budget) -> Self:
        """Momentum by `momentum_for`, heads no wider than a small encoder can use."""
        derived = {
            "momentum": momentum_for(budget.batch, budget.steps),
            "hidden": min(4096, max(1024, 2 * budget.dim)),
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})


class Learner(types.Learner):
    """ReLIC at work. Views: the full ones, then the parts."""

    def __init__(self, method: ReLIC, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.encoder = encoder
        self.projector = mlp(encoder.dim, method.hidden, method.out)
        self.predictor = mlp(method.out, method.hidden, method.out) if method.predictor else nn.Identity()
        self.target = Target(self.online)

    @property
    def online(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.projector)

    def forward(self, views: list[Tensor]) -> types.Step:
        m = self.method
        views = as_planned(views, self.method.plan, "ReLIC")
        large, small = views[: m.full_views], views[m.full_views :]
        asking = nn.Sequential(*self.online, self.predictor)
        online = [F.normalize(o.float(), dim=1) for o in each(asking, large) + by_size(asking, small)]
        target = [F.normalize(t.float(), dim=1) for t in self.target(large)]
        found = [gathered(t) for t in target] + [gathered(o) for o in online[m.full_views :]]
        among = candidates(len(views[0]), m.negatives, views[0].device)

        def asked(view: int, of: int) -> Float[Tensor, "b n+1"]:
            """Similarities of one view of each item with the candidates among another view."""
            vectors = online if of < m.full_views else target
            return dots(vectors[view], found[of]).gather(1, among) / m.temperature

        pairs = [(i, j) for i in range(len(views)) for j in range(m.full_views) if m.itself or i != j]
        scores = {(i, j): asked(i, j) for one in pairs for i, j in (one, one[::-1])}
        contrast = torch.stack([contrastive(scores[pair]) for pair in pairs]).mean()
        unlike = [divergence(scores[i, j], scores[j, i]) for i, j in pairs if i != j]
        invariance = torch.stack(unlike).sum() / len(pairs)
        logs = {"spread": spread(target[0]), "contrast": contrast.detach(), "invariance": invariance.detach()}
        return types.Step(m.alpha * contrast + m.beta * invariance, logs)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.target.follow(self.online, cosine(self.method.momentum, 1.0, progress))


def candidates(rows: int, negatives: int, device: torch.device) -> Tensor:
    """Places in the whole batch of the partner and of random others of each of this process's rows: long [b n+1]."""
    here = places(rows, device)
    total = rows * world()
    count = min(negatives or total, total - 1)
    shift = shared(torch.randperm(total - 1, device=device)[:count] + 1)
    return torch.cat([here[:, None], (here[:, None] + shift) % total], dim=1)


def contrastive(scores: Float[Tensor, "b n+1"]) -> Float[Tensor, ""]:
    """Cross-entropy of the partner, column 0."""
    return -scores.log_softmax(dim=1)[:, 0].mean()


def divergence(a: Float[Tensor, "b n"], b: Float[Tensor, "b n"]) -> Float[Tensor, ""]:
    """KL(softmax a || softmax b), the mean over rows; no gradient passes through the entropy of the first."""
    p, log_q = a.softmax(dim=1), b.log_softmax(dim=1)
    entropy = -(p.detach() * a.detach().log_softmax(dim=1)).sum(dim=1)
    return (-(p * log_q).sum(dim=1) - entropy).mean()
