"""InfoNCE end to end: find the key of the other view among those of the batch; both encoders learn.

Source: the mechanism of figure 2a in MoCo, He et al. 2020, arXiv 1911.05722, with the loss of van den Oord et al. 2018,
1807.03748. The encoders of queries and keys are one, or two of the same form. Defaults are those of MoCo's comparison.
Choices: the second encoder starts as a copy of the first; the encoder of queries is the one that is kept; where the
loss is symmetric it is the mean of both directions, so that the scale stays that of cross-entropy. All keys are of the
same batch and of the same statistics, so batch norm gives none away and nothing is shuffled.
"""

import copy
import math
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.contrast import in_batch
from selfsame.nn.diagnose import spread
from selfsame.nn.heads import tower
from selfsame.nn.joint import each
from selfsame.nn.sync import world
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset


class InfoNCE(types.Method):
    """Find an item's other view in the batch, with a gradient on both sides."""

    good_for: ClassVar = "the plainest contrast: large batches, or as the ground that others are measured against"
    presets: ClassVar = {
        "imagenet": Preset(
            source="MoCo, arXiv 1911.05722, section 4.1, end-to-end: its largest batch, rates of its section 3.4",
            training={
                "optimizer": "sgd", "lr": 0.12, "batch_size": 1024, "epochs": 200, "warmup_epochs": 5,
                "schedule": "step", "weight_decay": 1e-4, "encoder": "resnet50", "size": 224, "views": "moco",
            },
        ),
        "cifar": Preset(
            source="SimCLR, arXiv 2002.05709, appendix B.9, with half of its candidates: keys of the other view alone; "
            "rates in proportion to the batch",
            method={"head": "mlp", "symmetric": True, "temperature": 0.5},
            training={
                "optimizer": "lars", "lr": 2.0, "batch_size": 512, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 1e-4, "encoder": "resnet18", "size": 32, "views": "simclr_small",
            },
        ),
    }  # fmt: skip

    shared: bool = True
    """one encoder for queries and keys, or two that both learn (figure 2a)"""
    symmetric: bool = False
    """each view is query once and key once: the mean of both losses"""
    head: Literal["linear", "mlp"] = "linear"
    """one layer, or two without norm"""
    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the mlp's hidden layer; fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=1)] = 128
    """width of queries and keys (4.1)"""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """of the softmax (4.1)"""

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def fitted(self, budget: Budget) -> Self:
        derived = {"hidden": min(2048, max(512, budget.dim))}
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def misfits(self, budget: Budget) -> list[str]:
        cut = budget.rows
        return [] if cut > 1 else [f"{cut} row passes the network at once and has no others to be told from."]


class Learner(types.Learner):
    """InfoNCE at work. Views: two full ones, the query's and the key's."""

    def __init__(self, method: InfoNCE, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.encoder = encoder
        widths = (encoder.dim, method.hidden, method.out) if method.head == "mlp" else (encoder.dim, method.out)
        self.head = tower(*widths, norm=None, last_bias=True)
        self.other = None if method.shared else copy.deepcopy(self.online)

    @property
    def online(self) -> nn.Sequential:
        # Built on each use: a stored one would keep the old layers after batch norms are converted.
        return nn.Sequential(self.encoder, self.head)

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "InfoNCE")
        m = self.method
        if self.other is None:
            queries = each(self.online, views)
            pairs = [queries, queries[::-1]]
        else:
            one, two = views
            pairs = [[self.online(one), self.other(two)]]
            if m.symmetric:
                pairs.append([self.online(two), self.other(one)])
        losses = [in_batch(q, k, m.temperature) for q, k in (pairs if m.symmetric else pairs[:1])]
        loss = torch.stack(losses).mean()
        told = information(loss.detach(), len(views[0]) * world())
        return types.Step(loss, {"spread": spread(pairs[0][0]), "information": told})


def information(loss: Tensor, candidates: int) -> Tensor:
    """A lower bound, in nats, of what the views tell of each other (arXiv 1807.03748, equation 5)."""
    return math.log(candidates) - loss
