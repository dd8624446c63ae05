"""DeepCluster v2: learn the cluster of an item from each of its crops; vectors are kept as they come by.

Source: Caron et al. 2020 (SwAV), arXiv 2006.09882, section 4 and appendix, with its code main_deepclusterv2.py; the
defaults are its ImageNet run. Between passes over the data the unit vectors of both full views, kept while the items
came by, are clustered by spherical k-means, for one head after the other from either view's in turn. The centroids are
the head's prototypes until the next time; nothing else moves them.

Deviations: the vectors before the first pass are those of the items as they are, for both views, where the reference
code takes random crops; a cluster that gets empty takes half of another, where the code leaves its centroid.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from selfsame import types
from selfsame.errors import UserError
from selfsame.nn.bank import by_item
from selfsame.nn.diagnose import spread
from selfsame.nn.heads import tower
from selfsame.nn.joint import by_size
from selfsame.nn.kmeans import kmeans
from selfsame.nn.norm import frozen_statistics
from selfsame.nn.survey import vectors_of
from selfsame.nn.sync import mean_of_rows
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan, more_than_items

NONE = -100  # label of an item that has none yet
STORED = 2  # views of which vectors are kept: the full ones


class DeepClusterV2(types.Method):
    """Predict from each crop to which cluster its item belongs."""

    good_for: ClassVar = "clusters as targets without a second look at the data; multi-crop; long runs"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2006.09882, table 6, and scripts/deepclusterv2_400ep_pretrain.sh of its code",
            training={
                "optimizer": "lars", "lr": 4.8, "batch_size": 4096, "epochs": 400, "warmup_epochs": 10,
                "weight_decay": 1e-6, "encoder": "resnet50", "size": 160, "views": "swav",
            },
            published="ImageNet, ResNet-50, 2x160 and 4x96 crops, linear: 74.3 % top-1 (75.2 after 800 epochs)",
        ),
        "cifar": Preset(
            source="solo-learn, scripts/pretrain/cifar/deepclusterv2.yaml; its LARS has eta 0.02, clipped",
            method={"part_views": 0, "hidden": 2048, "prototypes": 3000},
            training={
                "optimizer": "lars", "lr": 0.6, "batch_size": 256, "epochs": 1000, "warmup_epochs": 11,
                "weight_decay": 1e-6, "encoder": "resnet18", "size": 32, "views": "simclr_small",
            },
            published="CIFAR-10, ResNet-18, 1000 epochs, linear: 88.9 % (solo-learn)",
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the projector's hidden layer (appendix)"""
    out: Annotated[int, Field(ge=1)] = 128
    """width of the vectors that are clustered (appendix)"""
    prototypes: Annotated[int, Field(ge=2)] = 3000
    """clusters of each head (appendix); fitted to the number of items unless given"""
    heads: Annotated[int, Field(ge=1)] = 3
    """clusterings at a time (appendix)"""
    part_views: Annotated[int, Field(ge=0)] = 4
    """small crops beside the two full views (appendix); none in short runs unless given"""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """of the softmax over prototypes (3.1)"""
    iterations: Annotated[int, Field(ge=1)] = 10
    """of the k-means (reference code)"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=STORED, part=self.part_views)

    def fitted(self, budget: Budget) -> Self:
        """Prototypes for thirty items each, a head no wider than a small encoder can use."""
        derived = {
            "prototypes": max(2, min(3000, budget.items // 30)),
            "hidden": min(2048, max(512, 2 * budget.dim)),
            "part_views": 0 if budget.short else 4,
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def misfits(self, budget: Budget) -> list[str]:
        return more_than_items(budget, self.prototypes, "prototypes", "prototypes")

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder, items)


class Learner(types.Learner):
    """DeepCluster v2 at work. Views: two full ones, then the small ones."""

    by_item = True
    memory: Tensor  # [2 items d] unit vectors of the full views
    labels: Tensor  # [heads items]
    prototypes: Tensor  # [heads k d] unit vectors
    seed: Tensor
    clusterings: Tensor  # done so far

    def __init__(self, method: DeepClusterV2, encoder: types.Encoder, items: int) -> None:
        super().__init__()
        if items < method.prototypes:
            raise UserError(
                f"DeepCluster v2 finds {method.prototypes} prototypes in at least as many items, not in {items}."
            )
        self.method = method
        self.encoder = encoder
        self.projector = tower(encoder.dim, method.hidden, method.out, bias=True, last_bias=True)
        directions = F.normalize(torch.randn(method.heads, method.prototypes, method.out), dim=2)
        self.register_buffer("prototypes", directions)
        self.register_buffer("labels", torch.full((method.heads, items), NONE))
        self.register_buffer("memory", torch.zeros(STORED, items, method.out))
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("clusterings", torch.zeros((), dtype=torch.long))

    def forward(self, views: list[Tensor], items: Int[Tensor, "b"]) -> types.Step:  # type: ignore[override]
        m = self.method
        views = as_planned(views, self.method.plan, "DeepCluster v2", items)
        vectors = self.unit(torch.cat(by_size(self.encoder, views))).chunk(len(views))
        labels = self.labels[:, items]
        losses = [over_heads(z, self.prototypes, labels, m.temperature) for z in vectors]
        self.remember(vectors[:STORED], items)
        known = (labels[0] != NONE).float().mean()
        return types.Step(torch.stack(losses).mean(), {"spread": spread(vectors[0].detach()), "labelled": known})

    def unit(self, y: Tensor) -> Float[Tensor, "b d"]:
        z = self.projector(y)
        return F.normalize(z.float() if z.dtype in (torch.bfloat16, torch.float16) else z, dim=1)

    @torch.no_grad()
    def remember(self, vectors: Sequence[Tensor], items: Tensor) -> None:
        for kept, z in zip(self.memory, vectors, strict=True):
            mean, every = by_item(z, items)
            kept.index_copy_(0, every, mean.to(kept.dtype))

    def surveys(self, number: int) -> bool:
        return True

    @torch.no_grad()
    def survey(self, look: types.Look) -> None:
        """Cluster what is remembered; the items themselves are looked at before the first pass alone."""
        m = self.method
        if self.clusterings == 0:
            with frozen_statistics(self):
                self.memory.copy_(vectors_of(look, lambda view: self.unit(self.encoder(view)), self.memory.shape[1]))
        for head in range(m.heads):
            seed = types.mixed(int(self.seed), int(self.clusterings), head)
            found = kmeans(self.memory[head % STORED], m.prototypes, seed, m.iterations, spherical=True)
            self.prototypes[head], self.labels[head] = found
        self.clusterings += 1


def over_heads(
    z: Float[Tensor, "b d"], prototypes: Float[Tensor, "heads k d"], labels: Int[Tensor, "heads b"], temperature: float
) -> Float[Tensor, ""]:
    """Cross-entropy of the items' prototypes, the mean over heads and over those rows of all processes with a label."""
    with torch.autocast(z.device.type, enabled=False):
        scores = prototypes.to(z.dtype) @ z.T / temperature
    each = F.cross_entropy(scores, labels, ignore_index=NONE, reduction="none")  # 0 where there is no label
    with_label = mean_of_rows((labels[0] != NONE).to(each.dtype))
    return each.mean() / with_label.clamp(min=torch.finfo(each.dtype).tiny)
