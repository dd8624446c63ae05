"""Barlow Twins: make each feature of two views agree, and features differ from each other.

Source: Zbontar et al. 2021, arXiv 2103.03230, equations 1 and 2; defaults are its ImageNet run (section 2.2).
Features are standardised and correlated over the batch of all processes, with gradient (the reference code sums the
matrix without, which makes gradients smaller by the number of processes); micro-batches each have a matrix of their
own. Deviations: `scale` of the loss takes the place of the reference code's learning rate for biases and norms, 0.024
of that of weights: with LARS, which looks at directions alone, it comes to the same. (The authors' research code is
said to have had 1/32, which is near; uncertain.) The rate falls to 0, not to 0.001 of its peak.
"""

from typing import Annotated, ClassVar, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.diagnose import spread
from selfsame.nn.heads import tower
from selfsame.nn.joint import each
from selfsame.nn.moments import off_diagonal, wide
from selfsame.nn.sync import mean_of_rows, summed, world
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset

FEWEST = 4  # rows of a correlation: of two it is always 1 or -1


class BarlowTwins(types.Method):
    """Learn features that are the same in both views and not the same as each other."""

    good_for: ClassVar = "no asymmetry and no slow copy; gains from wide projections, content with small batches"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2103.03230, section 2.2, and its reference code",
            method={"hidden": 8192, "out": 8192, "scale": 0.024},
            training={
                "optimizer": "lars", "lr": 1.6, "batch_size": 2048, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 1e-6, "encoder": "resnet50", "size": 224, "views": "photo",
            },
            published="ImageNet, ResNet-50, 1000 epochs, linear: 73.2 % top-1",
        ),
        "cifar": Preset(
            source="solo-learn, scripts/pretrain/cifar/barlow.yaml; its LARS (eta 0.02, clipped) is replaced by AdamW "
            "at our rate",
            method={"hidden": 2048, "out": 2048, "scale": 0.1},
            training={
                "optimizer": "adamw", "lr": 2e-3, "batch_size": 256, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 0.05, "encoder": "resnet18", "size": 32, "views": "small",
            },
            published="CIFAR-10, ResNet-18, 1000 epochs, linear: 92.1 % (solo-learn, with its LARS)",
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1)] = 8192
    """width of the projector's two hidden layers (2.2); fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=2)] = 8192
    """width of the projection (2.2); fitted to the encoder unless given"""
    redundancy: Annotated[float, Field(ge=0)] = 0.0051
    """weight of the off-diagonal elements, lambda (2.2)"""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """factor of the whole loss: of no account to AdamW; sgd needs a small one, as 0.024"""

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        if self.redundancy > 0:
            return []
        return ["without redundancy reduction all features may become the same one: dimensional collapse"]

    def fitted(self, budget: Budget) -> Self:
        """A projector four times as wide as the encoder, as in the paper, which has 2048 and 8192."""
        width = min(8192, max(512, 4 * budget.dim))
        derived = {"hidden": width, "out": width}
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def misfits(self, budget: Budget) -> list[str]:
        rows = budget.rows
        if rows >= FEWEST:
            return []
        return [
            f"correlations of {rows} rows say nothing, {FEWEST} are needed: raise --batch-size or lower --accumulate"
        ]


class Learner(types.Learner):
    """Barlow Twins at work. Views: two full ones."""

    def __init__(self, method: BarlowTwins, encoder: types.Encoder) -> None:
        super().__init__()
        self.method, self.plan = method, method.plan
        self.encoder = encoder
        self.projector = tower(encoder.dim, method.hidden, method.hidden, method.out)

    def forward(self, views: list[Tensor]) -> types.Step:
        m = self.method
        views = as_planned(views, self.plan, "Barlow Twins")
        one, two = each(nn.Sequential(self.encoder, self.projector), views)
        invariance, redundancy = distances(correlation(one, two))
        pairs = m.out * (m.out - 1)
        logs = {"spread": spread(one.detach()), "redundancy": (redundancy.detach() / pairs).sqrt()}
        return types.Step(m.scale * (invariance + m.redundancy * redundancy), logs)


def correlation(one: Float[Tensor, "b d"], two: Float[Tensor, "b d"]) -> Float[Tensor, "d d"]:
    """Of each feature of one view with each of the other, over the rows of all processes (equation 2)."""
    with torch.autocast(one.device.type, enabled=False):
        one, two = standardised(wide(one)), standardised(wide(two))
        return summed(one.T @ two) / (len(one) * world())


def standardised(z: Float[Tensor, "b d"], epsilon: float = 1e-5) -> Float[Tensor, "b d"]:
    """As a batch norm without scale and shift gives it: each column with mean 0 and (biased) variance 1."""
    z = z - mean_of_rows(z)
    return z * (mean_of_rows(z.square()) + epsilon).rsqrt()


def distances(c: Float[Tensor, "d d"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Squared distance to the identity, of the diagonal and of the rest (the two sums of equation 1)."""
    return (c.diagonal() - 1).square().sum(), off_diagonal(c).square().sum()
