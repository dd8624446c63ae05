"""MoCo: find the key of the other view among those of earlier batches, kept in a queue by a slow copy.

Source: MoCo (v1), He et al. 2020, arXiv 1911.05722; MoCo v2, Chen et al. 2020, arXiv 2003.04297. Defaults are v2's
ImageNet run, sections are v1's. Shuffled batch norm (3.3) is `nn.split`: groups of rows have statistics of their own,
as on the GPUs of the paper, and keys change groups, also on one device.
Deviations: the slow copy moves after the optimiser's step rather than before the next keys, which is the same order;
the queue need not be a multiple of the batch. The optimisers here leave norms and biases without weight decay.
"""

from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.contrast import logits_against
from selfsame.nn.diagnose import spread
from selfsame.nn.ema import Target
from selfsame.nn.heads import tower
from selfsame.nn.queue import Queue
from selfsame.nn.split import agree, in_groups, shuffled, split
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset

GROUPS = 8  # of a batch: the paper's GPUs


class MoCo(types.Method):
    """Tell the key of an item's other view from the keys of earlier batches."""

    good_for: ClassVar = "negatives in any number without large batches: few items in a step, long runs"
    presets: ClassVar = {
        "v1": Preset(
            source="arXiv 1911.05722, section 4.1, and its reference code",
            method={"head": "linear", "temperature": 0.07},
            training={
                "optimizer": "sgd", "lr": 0.03, "batch_size": 256, "epochs": 200, "warmup_epochs": 0,
                "schedule": "step", "weight_decay": 1e-4, "encoder": "resnet50", "size": 224, "views": "moco",
            },
            published="ImageNet, ResNet-50, 200 epochs, linear: 60.6 % top-1",
        ),
        "imagenet": Preset(
            source="MoCo v2, arXiv 2003.04297, table 1, and its reference code",
            method={"head": "mlp", "temperature": 0.2, "hidden": 2048},
            training={
                "optimizer": "sgd", "lr": 0.03, "batch_size": 256, "epochs": 200, "warmup_epochs": 0,
                "weight_decay": 1e-4, "encoder": "resnet50", "size": 224, "views": "moco2",
            },
            published="ImageNet, ResNet-50, linear: 67.5 % top-1 after 200 epochs, 71.1 % after 800",
        ),
        "cifar": Preset(
            source="CIFAR-10 notebook of the reference code (branch colab-notebook), symmetric; its head is linear",
            method={
                "head": "linear", "temperature": 0.1, "queue": 4096, "momentum": 0.99, "rows": 64, "symmetric": True,
            },
            training={
                "optimizer": "sgd", "lr": 0.06, "batch_size": 512, "epochs": 200, "warmup_epochs": 0,
                "weight_decay": 5e-4, "encoder": "resnet18", "size": 32, "views": "simclr_small",
            },
            published="CIFAR-10, ResNet-18, k-NN: 85.3 % after 200 epochs, 89.7 % after 800",
        ),
    }  # fmt: skip

    head: Literal["mlp", "linear"] = "mlp"
    """two layers without norm (v2), or one (v1)"""
    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the mlp's hidden layer (v2); fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=1)] = 128
    """width of queries and keys (4.1)"""
    queue: Annotated[int, Field(ge=1)] = 65_536
    """keys of earlier batches to tell the right one from (4.1); fitted to the items and the run unless given"""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.999
    """of the slow copy that makes the keys (4.1); 0.996 in short runs unless given"""
    temperature: Annotated[float, Field(gt=0)] = 0.2
    """of the softmax (v2; v1 has 0.07)"""
    symmetric: bool = False
    """each view is query once and key once: the sum of both losses"""
    batch_norm: Literal["split", "sync", "group"] = "split"
    """split: statistics of a few rows, keys shuffled (3.3); sync: of all rows; group: group norm in its place"""
    rows: Annotated[int, Field(ge=2)] = 32
    """of a group of split batch norms, as on a GPU of the paper; fitted to the batch unless given"""

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        return [
            text
            for true, text in (
                (
                    self.batch_norm == "sync",
                    "batch norms over the same rows for queries and keys give the pairs away: the loss falls and "
                    "little is learned (arXiv 1911.05722, section 3.3)",
                ),
                (
                    self.momentum < 0.98,
                    "keys that change fast are told by their age: it does not converge, or little is learned (4.1)",
                ),
                (self.momentum == 1, "keys of a copy that never moves say nothing that was learned"),
            )
            if true
        ]

    def fitted(self, budget: Budget) -> Self:
        """A queue of an eighth of the items, groups of an eighth of the batch, a slow copy that is slow in any run.

        A copy that follows sooner, as BYOL's may in a short run, ends badly: keys then drift so fast that they can be
        told by their age, and all of one age become alike. In trial (CIFAR-10, 600 steps of 64, a small network) 0.9
        collapsed, 0.97 learned nothing, and 0.99 to 0.999 did equally well.
        """
        derived = {
            "momentum": 0.996 if budget.short else 0.999,
            "hidden": min(2048, max(512, budget.dim)),
            "queue": max(budget.batch, min(65_536, budget.items // 8)),
            "rows": rows_for(budget),
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def misfits(self, budget: Budget) -> list[str]:
        share = budget.batch // budget.cuts
        fitting = [rows for rows in range(2, share + 1) if share % rows == 0]
        return [
            text
            for true, text in (
                (
                    self.queue > budget.items,
                    f"A queue of {self.queue} keys holds each of {budget.items} items, so that every query meets its "
                    f"own item as a negative. Give --method.queue {max(budget.batch, budget.items // 8)}.",
                ),
                (
                    self.queue < budget.batch,
                    f"A queue of {self.queue} keys cannot take a batch of {budget.batch}. Give "
                    f"--method.queue {budget.batch} or more.",
                ),
                (
                    self.batch_norm == "split" and share % self.rows > 0,
                    f"Groups of {self.rows} rows do not divide the {share} that pass the network at once. Give "
                    f"--method.rows {', '.join(map(str, fitting))}, or --method.batch-norm group.",
                ),
            )
            if true
        ]


def rows_for(budget: Budget) -> int:
    """An eighth of the batch, but no more than 32 rows, or the next number that divides what passes at once."""
    share, wish = budget.batch // budget.cuts, min(32, max(2, budget.batch // GROUPS))
    fitting = [rows for rows in range(2, share + 1) if share % rows == 0] or [2]
    return max((rows for rows in fitting if rows <= wish), default=fitting[0])


class Learner(types.Learner):
    """MoCo at work. Views: two full ones, the query's and the key's."""

    def __init__(self, method: MoCo, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        if method.batch_norm == "group":
            encoder.use_group_norm()
        self.shuffles = method.batch_norm == "split" and split(encoder, method.rows)
        self.encoder = encoder
        widths = (encoder.dim, method.hidden, method.out) if method.head == "mlp" else (encoder.dim, method.out)
        self.head = tower(*widths, norm=None, last_bias=True)
        self.target = Target(self.online)
        self.queue = Queue(method.queue, method.out)

    @property
    def online(self) -> nn.Sequential:
        # Built on each use: a stored one would keep the old layers after batch norms are converted.
        return nn.Sequential(self.encoder, self.head)

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "MoCo")
        pairs = [views, views[::-1]] if self.method.symmetric else [views]
        queries, keys = [self.query(x) for x, _ in pairs], [self.key(y) for _, y in pairs]
        earlier = self.queue()
        found = [logits_against(q, k, earlier) / self.method.temperature for q, k in zip(queries, keys, strict=True)]
        first = torch.zeros(len(views[0]), dtype=torch.long, device=views[0].device)
        loss = torch.stack([F.cross_entropy(logits, first) for logits in found]).sum()
        if self.training:
            self.queue.push(torch.cat(keys))
        accuracy = torch.stack([(logits.argmax(dim=1) == 0).float().mean() for logits in found]).mean()
        return types.Step(loss, {"spread": spread(keys[0]), "accuracy": accuracy})

    def query(self, view: Tensor) -> Tensor:
        return in_groups(self.online, view, self.method.rows) if self.shuffles else self.online(view)

    @torch.no_grad()
    def key(self, view: Tensor) -> Tensor:
        """Unit vectors [b d], made among other rows than the queries."""
        made = shuffled(self.target, view, self.method.rows) if self.shuffles else self.target(view)
        return F.normalize(made.to(self.queue.rows.dtype), dim=1)

    def after_step(self, progress: float) -> None:
        self.target.follow(self.online, self.method.momentum)
        agree(self)
