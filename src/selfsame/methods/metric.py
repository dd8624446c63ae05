"""Metric: the classical losses on distances; views of one item near each other, those of others far.

Sources: contrastive, Hadsell et al. 2006 (pairs); triplet, Schroff et al. 2015 (FaceNet), arXiv 1503.03832 (equations 1
to 4, mining in section 3.2), averaged over the triplets that count as Hermans et al. 2017, 1703.07737, do; npair, Sohn
2016 (NIPS). An item's two views are its positive pair; the views of the other items of the whole batch, on all
processes, are its negatives.
Choices: contrastive and triplet work on the unit sphere, the triplet with squared distances; contrastive takes the mean
over positive and over negative pairs apart, for there are 2 n - 2 of these to one of those. npair is not normalised and
pays for the length of vectors; both directions are averaged. The head is SimCLR's, which the sources lack, and both
views pass the network together. With micro-batches the negatives are those of a micro-batch.
"""

from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.contrast import dots
from selfsame.nn.diagnose import neighbour_agreement, spread
from selfsame.nn.heads import tower
from selfsame.nn.joint import by_size
from selfsame.nn.sync import gathered, places, summed, world
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset

MARGIN = {"contrastive": 1.0, "triplet": 0.2, "npair": 0.0}  # of distances; of squared distances, FaceNet's; none
Mining = Literal["all", "hard", "semi-hard"]


class Metric(types.Method):
    """Learn a distance from pairs, triplets or tuples of views."""

    good_for: ClassVar = "the losses that contrast came from: pairs, triplets, N-pairs; embeddings to be compared"
    presets: ClassVar = {
        "cifar": Preset(
            source="no published run: the margin is FaceNet's, the rest SimCLR's for CIFAR-10 with SGD",
            training={
                "optimizer": "sgd", "lr": 0.12, "batch_size": 256, "epochs": 200, "warmup_epochs": 10,
                "weight_decay": 5e-4, "encoder": "resnet18", "size": 32, "views": "simclr_small",
            },
        ),
    }  # fmt: skip

    loss: Literal["contrastive", "triplet", "npair"] = "triplet"
    """pairs with a margin (Hadsell), triplets with a margin (FaceNet), or a softmax over dot products (N-pair)"""
    mining: Mining = "semi-hard"
    """triplets that count: all that violate the margin, the hardest of each anchor, or those in the margin (FaceNet)"""
    margin: Annotated[float | None, Field(gt=0)] = None
    """how much farther negatives must be; unless given 1 for contrastive, 0.2 for triplet (of squared distances)"""
    shrink: Annotated[float, Field(ge=0)] = 0.002
    """weight of the squared length of vectors in npair"""
    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the head's hidden layer; fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=1)] = 128
    """width of the embedding (FaceNet)"""

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        if self.loss == "triplet" and self.mining == "hard":
            return ["the hardest negatives alone can make all vectors collapse early (arXiv 1503.03832, section 3.2)"]
        return []

    def fitted(self, budget: Budget) -> Self:
        """Head no wider than a small encoder can use."""
        derived = {"hidden": min(2048, max(512, 2 * budget.dim))}
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})


class Learner(types.Learner):
    """Metric at work. Views: two full ones."""

    def __init__(self, method: Metric, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.encoder = encoder
        self.projector = tower(encoder.dim, method.hidden, method.out, last_bias=True)

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "Metric")
        one, two = (z.float() for z in by_size(nn.Sequential(self.encoder, self.projector), views))
        logs = {"spread": spread(one.detach()), "accuracy": neighbour_agreement(one.detach(), two.detach())}
        m = self.method
        if m.loss == "npair":
            return types.Step((npair(one, two, m.shrink) + npair(two, one, m.shrink)) / 2, logs)
        margin = m.margin or MARGIN[m.loss]
        positive, negative, other = compared(F.normalize(one, dim=1), F.normalize(two, dim=1))
        if m.loss == "contrastive":
            return types.Step(contrastive(root(positive), root(negative), other, margin), logs)
        counted = mined(positive, negative, other, margin, m.mining)
        logs["counted"] = counted.float().sum(dim=1).mean()
        return types.Step(triplet(positive, negative, counted, margin), logs)


def compared(
    one: Float[Tensor, "b d"], two: Float[Tensor, "b d"]
) -> tuple[Float[Tensor, "a"], Float[Tensor, "a n"], Bool[Tensor, "a n"]]:
    """Squared distances of this process's views from their partners and from all views; which are of other items.

    a = 2 b anchors, n = the views of all processes.
    """
    every = torch.cat([gathered(one), gathered(two)])
    here = places(len(one), one.device)
    squares = (2 - 2 * dots(torch.cat([one, two]), every)).clamp(min=0)
    half = len(every) // 2
    other = here.repeat(2)[:, None] != torch.arange(half, device=one.device).repeat(2)
    return (one - two).square().sum(dim=1).repeat(2), squares, other


def root(squares: Tensor) -> Tensor:
    """Distances of squared ones, with a gradient at zero."""
    return squares.clamp(min=1e-12).sqrt()


def contrastive(
    positive: Float[Tensor, "a"], negative: Float[Tensor, "a n"], other: Bool[Tensor, "a n"], margin: float
) -> Float[Tensor, ""]:
    """Half the mean squared distance within pairs, and half that by which negatives come closer than the margin."""
    close = (margin - negative).clamp(min=0).square() * other
    pairs = len(other) * max(1, other.shape[1] - 2)  # all but an item's own two views
    return (positive.square().mean() + close.sum() / pairs) / 2


def mined(
    positive: Float[Tensor, "a"], negative: Float[Tensor, "a n"], other: Bool[Tensor, "a n"], margin: float, how: Mining
) -> Bool[Tensor, "a n"]:
    """The triplets that count, from squared distances."""
    positive, negative = positive.detach()[:, None], negative.detach()
    if how == "hard":
        nearest = negative.masked_fill(~other, float("inf")).argmin(dim=1, keepdim=True)
        return torch.zeros_like(other).scatter(1, nearest, True)
    violating = other & (negative < positive + margin)
    return violating if how == "all" else violating & (negative > positive)


def triplet(
    positive: Float[Tensor, "a"], negative: Float[Tensor, "a n"], counted: Bool[Tensor, "a n"], margin: float
) -> Float[Tensor, ""]:
    """How much nearer than the margin allows the negatives are, the mean over the triplets of all processes that count.

    From squared distances; 0, with zero gradient, where none counts.
    """
    excess = (positive[:, None] - negative + margin).clamp(min=0)
    total = summed(counted.sum().to(excess.dtype)).clamp(min=1)
    return (excess * counted).sum() * world() / total


def npair(one: Float[Tensor, "b d"], two: Float[Tensor, "b d"], shrink: float) -> Float[Tensor, ""]:
    """Cross-entropy of each row's partner among the second views of the whole batch, by dot products."""
    loss = F.cross_entropy(dots(one, gathered(two)), places(len(one), one.device))
    return loss + shrink * (one.square().sum(dim=1) + two.square().sum(dim=1)).mean()
