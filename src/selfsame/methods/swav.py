"""SwAV: assign one view to prototypes, each used equally often, and predict that from the other views.

Source: Caron et al. 2020, arXiv 2006.09882: sections 3.1 to 3.3, and appendix A for the ImageNet run; its reference
code for the queue. Needs no slow copy and no pairs of items: the equal use of prototypes is what forbids collapse.
Deviations: all vectors go to the queue from the first step on, and it is used from the setting `queue_from` on (the
code fills it from then on only); prototypes are put on the unit sphere after each step, which is before each next one.
LARS leaves out biases and norms here, and apex's did not; the rate rises from 0 and falls to 0, not from 0.3 to 4.8 and
to a thousandth. The scores are computed in float32, and Sinkhorn's first round in logarithms, where the code is warned
of overflow. In short runs assignments are sharper (`epsilon` 0.02) and projections whitened, which is ours: with 0.05
the loss stayed at log(prototypes) in trial. They have no queue: the vectors of a fresh network change within a few
steps. In trial (CIFAR-10, 312 steps of 64 images, one seed, k-NN / probe) 487 prototypes without a queue gave 37.1 /
40.1, 190 with one 36.2 / 38.0, 64 without 33.2 / 35.7; 64 and vectors of 32 numbers stayed at log(prototypes). To
freeze the prototypes did not help.
"""

from typing import Annotated, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.diagnose import spread
from selfsame.nn.heads import OutputNorm, ending, tower
from selfsame.nn.joint import by_size
from selfsame.nn.prototypes import across_views
from selfsame.nn.queue import Queue
from selfsame.nn.sinkhorn import sinkhorn
from selfsame.nn.sync import own
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan, more_than_items


class SwAV(types.Method):
    """Swap the assignments to prototypes between views."""

    good_for: ClassVar = "data with groups in it: clusters while it learns, and gains from many small crops"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2006.09882, appendix A, and its reference code, scripts/swav_800ep_pretrain.sh",
            method={"freeze": 313 / 250_400},
            training={
                "optimizer": "lars", "lr": 4.8, "batch_size": 4096, "epochs": 800, "warmup_epochs": 10,
                "weight_decay": 1e-6, "encoder": "resnet50", "size": 224, "views": "swav",
            },
            published="ImageNet, ResNet-50, linear: 75.3 % top-1",
        ),
        "small_batch": Preset(
            source="its reference code, scripts/swav_200ep_bs256_pretrain.sh",
            method={"freeze": 1 / 200, "queue": 3840, "queue_from": 15 / 200},
            training={
                "optimizer": "lars", "lr": 0.6, "batch_size": 256, "epochs": 200, "warmup_epochs": 0,
                "weight_decay": 1e-6, "encoder": "resnet50", "size": 224, "views": "swav",
            },
            published="ImageNet, ResNet-50, 200 epochs, batch 256, linear: 72.7 % top-1",
        ),
        "cifar": Preset(
            source="solo-learn, scripts/pretrain/cifar/swav.yaml; its LARS (eta 0.02, clipped) is replaced by SGD at "
            "lightly's rate for BYOL",
            method={"part_views": 0, "queue": 3840, "queue_from": 0.05, "freeze": 0.002},
            training={
                "optimizer": "sgd", "lr": 0.12, "batch_size": 256, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 5e-4, "encoder": "resnet18", "size": 32, "views": "simclr_small",
            },
            published="CIFAR-10, ResNet-18, 1000 epochs, linear: 89.2 % (solo-learn, with LARS)",
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the projector's hidden layer (appendix A); fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=2)] = 128
    """width of the projection (appendix A)"""
    output_norm: OutputNorm = "none"
    """end of the projector: no norm as in the paper, plain or whiten; whiten in short runs unless given"""
    prototypes: Annotated[int, Field(ge=2)] = 3000
    """directions that vectors are assigned to (4.1); fitted to the number of items unless given"""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """of the prediction's softmax (appendix A)"""
    epsilon: Annotated[float, Field(gt=0)] = 0.05
    """softness of the assignments (3.1)"""
    iterations: Annotated[int, Field(ge=1)] = 3
    """of Sinkhorn's algorithm (3.1)"""
    part_views: Annotated[int, Field(ge=0, le=16)] = 6
    """small crops beside the two large ones (3.2); none in short runs unless given"""
    queue: Annotated[int, Field(ge=0)] = 0
    """earlier vectors that are assigned along with a small batch (3.1); fitted to batch and length unless given"""
    queue_from: Annotated[float, Field(ge=0, le=1)] = 0.075
    """share of the run after which the queue is used, once it is full (reference code: epoch 15 of 200)"""
    freeze: Annotated[float, Field(ge=0, le=1)] = 0.00125
    """share of the run at its start during which the prototypes stand still (reference code: 1 epoch of 800)"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=2, part=self.part_views)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        return [
            text
            for true, text in (
                (
                    self.epsilon >= self.temperature,
                    "assignments no sharper than the predictions drift to the uniform one, and the loss stays at "
                    "log(prototypes)",
                ),
                (self.freeze >= 1, "prototypes that never move are random directions: the vectors group by chance"),
            )
            if true
        ]

    def misfits(self, budget: Budget) -> list[str]:
        wrong = more_than_items(budget, self.prototypes, "prototypes", "prototypes")
        if self.queue > budget.items:
            wrong.append(
                f"a queue of {self.queue} is longer than the {budget.items} items are many, so that items would stand "
                f"in it twice: lower --method.queue to {budget.items // 2} or less."
            )
        return wrong

    def fitted(self, budget: Budget) -> Self:
        """Prototypes by items; a queue where the batch is smaller than they are many; no queue and parts in short runs.

        The papers' 3000 prototypes are for 1.3 million items of 1000 classes.
        """
        prototypes = min(3000, max(30, budget.items // 20), budget.items)
        if "prototypes" in self.model_fields_set:
            prototypes = self.prototypes
        derived = {
            "hidden": min(2048, max(512, 2 * budget.dim)),
            "prototypes": prototypes,
            "part_views": 0 if budget.short else 6,
            "output_norm": "whiten" if budget.short else "none",
            "epsilon": 0.02 if budget.short else 0.05,
            "queue": 0 if budget.short or budget.batch >= prototypes else min(3840, prototypes, budget.items // 2),
            "freeze": round(min(0.05, 1 / budget.passes), 6),
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})


class Learner(types.Learner):
    """SwAV at work. Views: two full ones, which are assigned and predicted, then part views, which are predicted."""

    in_use: Tensor  # whether the run has come to where the queue is used

    def __init__(self, method: SwAV, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.encoder = encoder
        self.projector = tower(encoder.dim, method.hidden, method.out, bias=True, last_bias=True)
        self.projector.extend(ending(method.output_norm, method.out))
        self.prototypes = nn.Parameter(F.normalize(torch.randn(method.prototypes, method.out), dim=1))
        self.queues: Any = nn.ModuleList([Queue(method.queue, method.out) for _ in range(2 if method.queue else 0)])
        self.register_buffer("in_use", torch.tensor(method.queue_from == 0))

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "SwAV")
        vectors = self.projector(torch.cat(by_size(self.encoder, views)))
        z = F.normalize(vectors.float() if vectors.itemsize < 4 else vectors, dim=1)
        scores = self.scores(z).split(len(views[0]))
        targets = [self.assigned(scores[i].detach(), i) for i in range(2)]
        if self.training:
            for queue, fresh in zip(self.queues, z.split(len(views[0])), strict=False):
                queue.push(fresh)
        mean = torch.cat(targets).mean(dim=0)
        logs = {"spread": spread(z[: len(views[0])]), "prototypes_in_use": torch.special.entr(mean).sum().exp()}
        return types.Step(across_views(targets, scores, self.method.temperature), logs)

    def scores(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        with torch.autocast(z.device.type, enabled=False):
            return z @ self.prototypes.T

    @torch.no_grad()
    def assigned(self, scores: Float[Tensor, "b k"], view: int) -> Float[Tensor, "b k"]:
        """Assignments of the batch, of all processes, together with the queue's vectors of this view."""
        m = self.method
        if not self.queues:
            return sinkhorn(scores, m.epsilon, m.iterations)
        queue: Queue = self.queues[view]
        earlier = self.scores(own(queue.rows))
        used = (queue.full & self.in_use).expand(len(earlier))
        counted = torch.cat([used.new_ones(len(scores)), used])
        return sinkhorn(torch.cat([scores, earlier]), m.epsilon, m.iterations, counted, wanted=len(scores))

    def before_update(self, progress: float) -> None:
        if progress < self.method.freeze:
            self.prototypes.grad = None

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        self.in_use.fill_(progress >= self.method.queue_from)
