"""SimSiam: predict one view from the other; no negatives, no slow copy.

Source: Chen & He 2020, arXiv 2011.10566: algorithm 1, section 3 (heads, optimiser), section 4 (what collapses);
defaults are its ImageNet run. The predictor keeps its learning rate, as in the reference runs (`fix-pred-lr`).
Left out, as it changes nothing: the bias before the projector's last norm, which the reference code freezes and the
norm subtracts. Deviations: in linear evaluation the reference has LARS, here all methods are probed alike; weight decay
spares biases and norms; the learning rate falls by the step, not the epoch.
"""

from typing import Annotated, ClassVar, Literal, Self

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.diagnose import spread
from selfsame.nn.heads import tower
from selfsame.nn.joint import each
from selfsame.nn.views import as_planned
from selfsame.nn.whiten import Whiten
from selfsame.records import Budget, Preset


class SimSiam(types.Method):
    """Learn by predicting one view of an item from another, with one network."""

    good_for: ClassVar = "the simplest of all: one network, small batches, little memory"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2011.10566, section 3, and its reference code",
            method={"hidden": 2048, "out": 2048, "bottleneck": 512, "output_norm": "plain"},
            training={
                "optimizer": "sgd", "lr": 0.1, "batch_size": 512, "epochs": 100, "warmup_epochs": 0,
                "weight_decay": 1e-4, "encoder": "resnet50", "size": 224, "views": "moco2",
            },
            published="ImageNet, ResNet-50, 100 epochs, linear: 68.1 % top-1; 800 epochs: 71.3 %",
        ),
        "cifar": Preset(
            source="arXiv 2011.10566, experiments on CIFAR-10",
            method={"layers": 2, "hidden": 2048, "out": 2048, "bottleneck": 512, "output_norm": "plain"},
            training={
                "optimizer": "sgd", "lr": 0.06, "batch_size": 512, "epochs": 800, "warmup_epochs": 0,
                "weight_decay": 5e-4, "encoder": "resnet18", "size": 32,
                "views": {"name": "moco2", "one": {"blur": 0.0}, "two": {"blur": 0.0}},
            },
            published="CIFAR-10, ResNet-18, 800 epochs, linear: 91.8 %",
        ),
    }  # fmt: skip

    layers: Annotated[int, Field(ge=1, le=4)] = 3
    """of the projector (section 3: 3; on CIFAR-10: 2)"""
    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the projector's hidden layers (section 3); fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=2)] = 2048
    """width of the projection (section 3); fitted to the encoder unless given"""
    bottleneck: Annotated[int, Field(ge=1)] = 512
    """width of the predictor's hidden layer (section 3: a quarter of the projection); fitted to it unless given"""
    output_norm: Literal["plain", "whiten"] = "plain"
    """end of the projector: a norm without scale and shift (section 3), or one that removes correlations too"""
    stop_gradient: bool = True
    """what is predicted gets no gradient; without that it collapses (section 4.1)"""
    predictor: bool = True
    """without it, it collapses (section 4.2)"""

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        found = []
        if not self.stop_gradient:
            found.append("without stop-gradient both views agree on one constant: full collapse (section 4.1)")
        if not self.predictor:
            found.append("without a predictor the loss is that of alignment alone: full collapse (section 4.2)")
        return found

    def fitted(self, budget: Budget) -> Self:
        """Heads no wider than a small encoder can use, the predictor a quarter as wide inside, as in the paper.

        Deviation: projections are whitened in short runs. With a plain norm they soon lie along few directions there.
        """
        width = min(2048, max(512, 4 * budget.dim))
        derived = {"hidden": width, "out": width, "output_norm": "whiten" if budget.short else "plain"}
        out = self.out if "out" in self.model_fields_set else width
        derived["bottleneck"] = max(2, out // 4)
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})


class Learner(types.Learner):
    """SimSiam at work. Views: two full ones."""

    steady = ("predictor",)

    def __init__(self, method: SimSiam, encoder: types.Encoder) -> None:
        super().__init__()
        self.method, self.plan = method, method.plan
        self.encoder = encoder
        widths = (encoder.dim, *[method.hidden] * (method.layers - 1), method.out)
        whitened = method.output_norm == "whiten"
        self.projector = tower(*widths, last="none" if whitened else "plain")
        if whitened:
            self.projector.append(Whiten(method.out))
        self.predictor = (
            tower(method.out, method.bottleneck, method.out, last_bias=True) if method.predictor else nn.Identity()
        )

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.plan, "SimSiam")
        z_one, z_two = each(nn.Sequential(self.encoder, self.projector), views)
        p_one, p_two = self.predictor(z_one), self.predictor(z_two)
        if self.method.stop_gradient:
            z_one, z_two = z_one.detach(), z_two.detach()
        loss = (distance(p_one, z_two) + distance(p_two, z_one)) / 2
        return types.Step(loss, {"spread": spread(z_one.detach())})


def distance(p: Float[Tensor, "b d"], z: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Mean over the batch of the negative cosine, in [-1, 1] (equation 1), computed in fp32."""
    return -F.cosine_similarity(p.float(), z.float(), dim=1).mean()
