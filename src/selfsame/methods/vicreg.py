"""VICReg: bring two views together; keep each feature varied, and features uncorrelated.

Source: Bardes et al. 2021, arXiv 2105.04906, section 4 (equations 1 to 6); defaults are its ImageNet run (section 4.2).
As in the reference code, and other than in equations 5 and 6, the variance term is the mean of both views while the
covariance term is their sum, and the squared distance is a mean over features too.
Variance and covariance are those of the batch of all processes, with gradient; micro-batches have each their own.
"""

from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.diagnose import spread
from selfsame.nn.heads import tower
from selfsame.nn.joint import each
from selfsame.nn.moments import off_diagonal, wide
from selfsame.nn.sync import gathered
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset

FEWEST = 4  # rows of a covariance: of two all features are fully correlated


class VICReg(types.Method):
    """Learn vectors that agree between views, without negatives, asymmetry or norms at the end."""

    good_for: ClassVar = "no slow copy, no asymmetry, and nothing is normalised; each of its three terms can be watched"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2105.04906, section 4.2, and its reference code",
            method={"hidden": 8192, "out": 8192},
            training={
                "optimizer": "lars", "lr": 1.6, "batch_size": 2048, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 1e-6, "encoder": "resnet50", "size": 224, "views": "photo",
            },
            published="ImageNet, ResNet-50, 1000 epochs, linear: 73.2 % top-1",
        ),
        "cifar": Preset(
            source="solo-learn, scripts/pretrain/cifar/vicreg.yaml; its LARS (eta 0.02, clipped) is replaced by AdamW "
            "at our rate",
            method={"hidden": 2048, "out": 2048},
            training={
                "optimizer": "adamw", "lr": 2e-3, "batch_size": 256, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 0.05, "encoder": "resnet18", "size": 32, "views": "vicreg_small",
            },
            published="CIFAR-10, ResNet-18, 1000 epochs, linear: 92.1 % (solo-learn, with its LARS)",
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1)] = 8192
    """width of the projector's two hidden layers (4.2); fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=2)] = 8192
    """width of the projection (4.2); fitted to the encoder unless given"""
    invariance: Annotated[float, Field(ge=0)] = 25.0
    """weight of the distance of the two views, lambda (4.2)"""
    variance: Annotated[float, Field(ge=0)] = 25.0
    """weight of keeping each feature's standard deviation above 1, mu (4.2)"""
    covariance: Annotated[float, Field(ge=0)] = 1.0
    """weight of keeping features uncorrelated, nu (4.2)"""

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        found = []
        if self.variance == 0:
            found.append("without the variance term all vectors become one: full collapse")
        if self.invariance == 0:
            found.append("without the invariance term nothing is learnt of what two views have in common")
        return found

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
            f"covariances of {rows} rows say nothing, {FEWEST} are needed: raise --batch-size or lower --accumulate"
        ]


class Learner(types.Learner):
    """VICReg at work. Views: two full ones."""

    def __init__(self, method: VICReg, encoder: types.Encoder) -> None:
        super().__init__()
        self.method, self.plan = method, method.plan
        self.encoder = encoder
        self.projector = tower(encoder.dim, method.hidden, method.hidden, method.out, bias=True)

    def forward(self, views: list[Tensor]) -> types.Step:
        m = self.method
        views = as_planned(views, self.plan, "VICReg")
        one, two = (wide(z) for z in each(nn.Sequential(self.encoder, self.projector), views))
        with torch.autocast(one.device.type, enabled=False):
            invariance = F.mse_loss(one, two)
            one, two = gathered(one), gathered(two)
            v = (variance(one) + variance(two)) / 2
            c = covariance(one) + covariance(two)
        logs = {"spread": spread(one.detach()), "invariance": invariance, "variance": v, "covariance": c}
        return types.Step(m.invariance * invariance + m.variance * v + m.covariance * c, logs)


def variance(z: Float[Tensor, "n d"], epsilon: float = 1e-4) -> Float[Tensor, ""]:
    """How far standard deviations are below 1, the mean over features (equations 1 and 2)."""
    return F.relu(1 - (z.var(dim=0) + epsilon).sqrt()).mean()


def covariance(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Sum of the squared covariances of different features, over d (equations 3 and 4)."""
    z = z - z.mean(dim=0)
    return off_diagonal(z.T @ z / (len(z) - 1)).square().sum() / z.shape[1]
