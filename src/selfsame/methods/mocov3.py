"""MoCo v3: predict, among the keys of the whole batch, that of the other view; no queue, for transformers too.

Source: Chen, Xie & He 2021, arXiv 2104.02057; sections below are its own. Defaults are the ResNet-50 run of its
reference code, preset "vit" is its transformer. The patch embedding of a token network is left at its random start
(4.2), which keeps its training stable.
Deviations: the slow copy moves after the optimiser's step rather than between queries and keys, which is the same order
but for the schedule of its momentum, one step earlier; transformers keep their own positions, initialisation and heads,
where the reference has fixed sine positions; weight decay spares norms and biases, where its code decays all of a
transformer. Sync batch norm comes from the engine.
"""

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.contrast import in_batch
from selfsame.nn.diagnose import spread
from selfsame.nn.ema import Target, cosine, momentum_for
from selfsame.nn.heads import tower
from selfsame.nn.joint import each
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset

LARGE = 1024  # rows of a batch from which on the paper's temperature fits


class MoCoV3(types.Method):
    """Predict the key of the other view, among those of the batch, that a slow copy makes."""

    good_for: ClassVar = "vision transformers and large batches; contrast with a predictor and a slow copy, no queue"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2104.02057, table 1 and appendix, ResNet-50 in its reference code",
            method={"hidden": 4096, "out": 256, "momentum": 0.996, "temperature": 1.0},
            training={
                "optimizer": "lars", "lr": 4.8, "batch_size": 4096, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 1.5e-6, "encoder": "resnet50", "size": 224,
                "views": {"name": "photo", "one": {"area": [0.2, 1.0]}, "two": {"area": [0.2, 1.0]}},
            },
            published="ImageNet, ResNet-50, linear: 74.6 % top-1",
        ),
        "vit": Preset(
            source="arXiv 2104.02057, sections 4 and 5, ViT-S/16 in its reference code",
            method={"layers": 3, "last": "plain", "temperature": 0.2, "momentum": 0.99, "hidden": 4096, "out": 256},
            training={
                "optimizer": "adamw", "lr": 2.4e-3, "batch_size": 4096, "epochs": 300, "warmup_epochs": 40,
                "weight_decay": 0.1, "encoder": "vit_small_patch16_224", "size": 224, "views": "photo",
            },
            published="ImageNet, linear: ViT-S 73.2 %, ViT-B 76.7 % top-1",
        ),
        "cifar": Preset(
            source="solo-learn, scripts/pretrain/cifar/mocov3.yaml; its LARS (eta 0.02, clipped) is replaced by SGD at "
            "lightly's rate",
            method={"hidden": 4096, "out": 256, "momentum": 0.99, "temperature": 0.2},
            training={
                "optimizer": "sgd", "lr": 0.12, "batch_size": 256, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 5e-4, "encoder": "resnet18", "size": 32, "views": "small",
            },
            published="CIFAR-10, ResNet-18, 1000 epochs, linear: 93.1 % (solo-learn)",
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1)] = 4096
    """width of both heads' hidden layers (section 3); fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=1)] = 256
    """width of queries and keys (section 3)"""
    layers: Annotated[int, Field(ge=1)] = 2
    """of the projector: 2 for ResNet-50, 3 for transformers"""
    last: Literal["none", "plain"] = "none"
    """norm at the predictor's end: none for ResNet-50, without scale and shift for transformers"""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """of the softmax: 1 for ResNet-50, 0.2 for transformers; 0.2 for small batches unless given"""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.99
    """of the slow copy at the start, 1 at the end; fitted to batch and length unless given"""
    freeze: bool = True
    """leave the patch embedding of a token network as it starts (4.2); vectors of words always learn"""

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        still = "a copy that never moves is stable but teaches nothing that was learned"
        return [still] if self.momentum == 1 else []

    def fitted(self, budget: Budget) -> Self:
        """Momentum by `momentum_for`, heads no wider than a small encoder can use, a low temperature for small batches.

        The latter is solo-learn's for CIFAR at batch 256. In trial (CIFAR-10, 600 steps of 64, a small network) k-NN
        and linear accuracy were 44.6 and 47.5 % at 0.2, and 40.3 and 45.2 % at 1.
        """
        derived = {
            "temperature": 1.0 if budget.batch >= LARGE else 0.2,
            "momentum": momentum_for(budget.batch, budget.steps),
            "hidden": min(4096, max(1024, 2 * budget.dim)),
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})


class Learner(types.Learner):
    """MoCo v3 at work. Views: two full ones."""

    def __init__(self, method: MoCoV3, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        if method.freeze and encoder.embedding is not None and not encoder.has_words:
            encoder.embedding.requires_grad_(False)
        self.encoder = encoder
        self.projector = tower(encoder.dim, *[method.hidden] * (method.layers - 1), method.out, last="plain")
        self.predictor = tower(method.out, method.hidden, method.out, last=method.last)
        self.target = Target(self.online)

    @property
    def online(self) -> nn.Sequential:
        # Built on each use: a stored one would keep the old layers after batch norms are converted.
        return nn.Sequential(self.encoder, self.projector)

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "MoCo v3")
        queries = each(nn.Sequential(*self.online, self.predictor), views)
        keys = self.target(views)
        losses = [contrast(q, k, self.method.temperature) for q, k in zip(queries, keys[::-1], strict=True)]
        return types.Step(torch.stack(losses).sum(), {"spread": spread(keys[0])})

    def after_step(self, progress: float) -> None:
        self.target.follow(self.online, cosine(self.method.momentum, 1.0, progress))


def contrast(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """InfoNCE over the keys of the whole batch times 2 T, so that its gradient keeps its size (algorithm 1)."""
    return 2 * temperature * in_batch(q, k.detach(), temperature)
