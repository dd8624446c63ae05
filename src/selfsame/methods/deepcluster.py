"""DeepCluster: cluster the vectors of all items, learn to tell the clusters, and again.

Source: Caron et al. 2018, arXiv 1807.05520, section 3 and its reference code; defaults are its ImageNet run.
Before a pass over the data the vectors of all items as they are, in eval mode, are whitened to 256 principal
components, put on the unit sphere and clustered by k-means from a new seed; the last layer starts anew.

Deviations: where the paper samples items uniformly over the clusters, the loss is weighted by the inverse of the
cluster's size (3.3 calls the two equivalent), as a weighted mean over the batch. Clusters that stay empty after the
last iteration get no weight. There is no fixed Sobel layer, which only images have: take a recipe of views that changes
colours. The last layer is trained by the optimiser of the rest, whose moments of it live on when it starts anew.

In short runs, which is ours, vectors are whitened before the last layer (`output_norm`); where a pass is few steps,
more than one pass lies between two clusterings; and narrow vectors keep fewer components. With the paper's settings 600
steps left vectors no better than random weights (CIFAR-10, a small network), where the last layer started anew each 150
steps. What each of the changes gives was not measured alone.
"""

from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Generator, Tensor, nn

from selfsame import types
from selfsame.errors import UserError
from selfsame.nn.diagnose import spread
from selfsame.nn.heads import OutputNorm, ending
from selfsame.nn.kmeans import agreement, kmeans, whitened
from selfsame.nn.norm import at_rest
from selfsame.nn.survey import vectors_of
from selfsame.nn.sync import mean_of_rows
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan, more_than_items

PATIENCE = 400  # steps that a last layer gets, before it starts anew


class DeepCluster(types.Method):
    """Learn to tell clusters of your own vectors."""

    good_for: ClassVar = "data that fall into many kinds; one view an item; shows what the clusters are"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 1807.05520, section 3.4, and its reference code",
            training={
                "optimizer": "sgd", "lr": 0.05, "schedule": "constant", "batch_size": 256, "epochs": 200,
                "warmup_epochs": 0, "weight_decay": 1e-5, "encoder": "torchvision/vgg16_bn", "size": 224,
            },
            published="VOC07, fine-tuned AlexNet: classification 73.7, detection 55.4 mAP",
        ),
    }  # fmt: skip

    clusters: Annotated[int, Field(ge=2)] = 10_000
    """of the k-means (4.1), ten times the classes or so; fitted to the number of items unless given"""
    components: Annotated[int, Field(ge=1)] = 256
    """principal components that are clustered (3.4); a quarter of them all where that is less, unless given"""
    iterations: Annotated[int, Field(ge=1)] = 20
    """of the k-means (reference code)"""
    every: Annotated[int, Field(ge=1)] = 1
    """passes over the data between two clusterings (3.4); more where a pass is few steps, unless given"""
    output_norm: OutputNorm = "none"
    """between vectors and last layer: no norm as in the paper, plain or whiten; whiten in short runs unless given"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=1)

    def fitted(self, budget: Budget) -> Self:
        """A hundred items a cluster, about as many as the paper has (128 of ImageNet), and time to learn them.

        Components: the paper keeps 256 of 4096.
        """
        derived = {
            "clusters": max(2, min(10_000, budget.items // 100)),
            "components": max(1, min(256, budget.dim // 4)),
            "every": max(1, round(PATIENCE * budget.batch / budget.items)),
            "output_norm": "whiten" if budget.short else "none",
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def misfits(self, budget: Budget) -> list[str]:
        return more_than_items(budget, self.clusters, "clusters", "clusters")

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder, items)


class Learner(types.Learner):
    """DeepCluster at work. Views: one full one."""

    by_item = True
    labels: Tensor  # [items] the cluster of each item
    weights: Tensor  # [clusters] of the loss of its items
    stability: Tensor  # how far the last two clusterings agree
    seed: Tensor
    clusterings: Tensor  # done so far

    def __init__(self, method: DeepCluster, encoder: types.Encoder, items: int) -> None:
        super().__init__()
        if items < method.clusters:
            raise UserError(f"DeepCluster finds {method.clusters} clusters in at least as many items, not in {items}.")
        self.method = method
        self.encoder = encoder
        self.top = nn.Linear(encoder.dim, method.clusters)
        self.ending = nn.Sequential(*ending(method.output_norm, encoder.dim))
        self.register_buffer("labels", torch.arange(items) % method.clusters)
        self.register_buffer("weights", torch.ones(method.clusters))
        self.register_buffer("stability", torch.zeros(()))
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("clusterings", torch.zeros((), dtype=torch.long))

    def forward(self, views: list[Tensor], items: Int[Tensor, "b"]) -> types.Step:  # type: ignore[override]
        views = as_planned(views, self.method.plan, "DeepCluster", items)
        vectors = self.encoder(views[0])
        scores = self.top(self.ending(vectors))
        labels = self.labels[items]
        loss = weighted(scores, labels, self.weights[labels])
        right = (scores.argmax(dim=1) == labels).float().mean()
        return types.Step(loss, {"spread": spread(vectors), "accuracy": right, "stability": self.stability.clone()})

    def surveys(self, number: int) -> bool:
        return number % self.method.every == 0

    @torch.no_grad()
    def survey(self, look: types.Look) -> None:
        m = self.method
        seed = types.mixed(int(self.seed), int(self.clusterings))
        with at_rest(self.encoder):
            vectors = vectors_of(look, self.encoder, len(self.labels))
        labels = kmeans(whitened(vectors, m.components), m.clusters, seed, m.iterations)[1]
        self.stability.copy_(agreement(self.labels, labels))
        self.labels.copy_(labels)
        self.weights.copy_(balance(labels, m.clusters))
        self.clusterings += 1
        fresh = torch.randn(self.top.weight.shape, generator=Generator().manual_seed(seed))
        self.top.weight.copy_(0.01 * fresh)  # as the reference code starts it
        self.top.bias.zero_()


def balance(labels: Int[Tensor, "n"], clusters: int) -> Float[Tensor, "k"]:
    """Weights by which all clusters with items count alike, and all items together as many as they are."""
    sizes = torch.bincount(labels, minlength=clusters)
    return torch.where(sizes > 0, len(labels) / ((sizes > 0).sum() * sizes.clamp(min=1)), 0.0)


def weighted(scores: Float[Tensor, "b k"], labels: Int[Tensor, "b"], weights: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """Cross-entropy as the weighted mean over the rows of all processes."""
    scores = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
    each = F.cross_entropy(scores, labels, reduction="none")
    return (weights * each).mean() / mean_of_rows(weights)
