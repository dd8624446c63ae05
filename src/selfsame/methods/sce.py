"""SCE: pick the partner, but softly: others that are like it may be picked a little too.

Source: Denize et al. 2023, arXiv 2111.14585 (section 3), and its reference code; for video, 2212.11187.
The wanted distribution is `partner` (lambda) on the partner; the rest goes to the other candidates by how alike the
target finds them to it. Candidates are a queue of earlier target vectors, or the rest of the batch (`queue` 0).
Views: symmetric, both ask and both answer, as for ImageNet; otherwise the first, strong view asks and the second, weak
one answers (`--views weak_strong`). Part views only ask.
Choices: the partner itself is masked in the target's similarities, as the paper's formula has it; the reference code
puts a logit of 0 there, which `own zero` does (it matters for short queues only). Batch norms see the whole batch on
both sides, where the reference CIFAR run shuffles keys among eight simulated devices; small crops of one size pass
together.
"""

from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.contrast import dots, logits_against
from selfsame.nn.diagnose import spread
from selfsame.nn.ema import Target, cosine, momentum_for
from selfsame.nn.heads import tower
from selfsame.nn.joint import by_size, each
from selfsame.nn.queue import Queue
from selfsame.nn.sync import gathered, places
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan


class SCE(types.Method):
    """Learn to tell items apart, but not from those that are like them."""

    good_for: ClassVar = "contrast where many items are alike; small batches, for a queue holds the others"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2111.14585, section 4.1, and its reference code (resnet50_imagenet.yaml; 0.6 for 100 epochs)",
            training={
                "optimizer": "lars", "lr": 4.8, "batch_size": 4096, "epochs": 200, "warmup_epochs": 10,
                "weight_decay": 1e-6, "encoder": "resnet50", "size": 224, "views": "photo",
            },
            published="ImageNet, ResNet-50, linear: 72.7 % top-1; 74.1 after 1000 epochs",
        ),
        "cifar": Preset(
            source="reference code of arXiv 2111.14585 (resnet18_cifar10.yaml), without its shuffled batch norms",
            method={
                "symmetric": False, "predictor": False, "layers": 2, "hidden": 512, "out": 128, "output_norm": "none",
                "queue": 4096, "target_temperature": 0.05, "momentum": 0.99, "schedule": "constant",
            },
            training={
                "optimizer": "sgd", "lr": 0.06, "batch_size": 256, "epochs": 200, "warmup_epochs": 5,
                "weight_decay": 5e-4, "encoder": "resnet18", "size": 32, "views": "weak_strong",
            },
        ),
    }  # fmt: skip

    partner: Annotated[float, Field(ge=0, le=1)] = 0.5
    """share of the target that is the partner itself (lambda); 1 is InfoNCE, 0 similarities alone"""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """of the online similarities"""
    target_temperature: Annotated[float, Field(gt=0)] = 0.07
    """of the target's similarities; sharper than the online one"""
    queue: Annotated[int, Field(ge=0)] = 65_536
    """earlier target vectors to compare with, fitted to the number of items unless given; 0: the batch"""
    own: Literal["masked", "zero"] = "masked"
    """the partner in the target's similarities: left out (paper), or with a logit of 0 (reference code)"""
    symmetric: bool = True
    """both full views ask and answer; otherwise the first asks and the second answers"""
    part_views: Annotated[int, Field(ge=0)] = 0
    """small crops, which only ask; 4 of decreasing size in the paper's multi-crop run"""
    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the projector's hidden layers, half of the predictor's; fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=1)] = 256
    """width of the projection"""
    layers: Annotated[int, Field(ge=1, le=8)] = 3
    """linear layers of the projector"""
    output_norm: Literal["none", "plain"] = "plain"
    """end of the projector: none, or a norm without scale and shift"""
    predictor: bool = True
    """a second head on the online side"""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.99
    """of the target at the start; fitted to batch and length unless given"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """momentum rises to 1 over the run, or stays"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=2, part=self.part_views)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        blunt = self.partner < 1 and self.target_temperature >= self.temperature
        return [
            text
            for true, text in (
                (blunt, "similarities of the target no sharper than the online ones drift to the uniform distribution"),
                (self.partner == 0 and self.momentum == 0, "without a partner and a slow target, a constant fits"),
            )
            if true
        ]

    def fitted(self, budget: Budget) -> Self:
        """Momentum by `momentum_for`, a queue of an eighth of the items, no wider heads than an encoder can use.

        The paper's queue is a twentieth of ImageNet, its code's a twelfth of CIFAR-10: so few meet themselves.
        """
        most = max(2 * budget.batch, budget.items // 8 // budget.batch * budget.batch)
        derived = {
            "momentum": momentum_for(budget.batch, budget.steps),
            "queue": min(65_536, most),
            "hidden": min(2048, max(512, 2 * budget.dim)),
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def misfits(self, budget: Budget) -> list[str]:
        if self.queue <= 2 * budget.items:
            return []
        return [
            f"a queue of {self.queue:,} holds each of {budget.items:,} items more than twice, in place of others: "
            f"give a --method.queue of {2 * budget.items} at most, or 0 for the batch alone."
        ]


class Learner(types.Learner):
    """SCE at work. Views: two full ones, then the parts."""

    def __init__(self, method: SCE, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = m = method
        self.encoder = encoder
        widths = (encoder.dim, *[m.hidden] * (m.layers - 1), m.out)
        self.projector = tower(*widths, last=m.output_norm, last_bias=m.output_norm == "none")
        self.predictor = tower(m.out, 2 * m.hidden, m.out) if m.predictor else nn.Identity()
        self.target = Target(self.online)
        self.queue = Queue(m.queue, m.out) if m.queue else None

    @property
    def online(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.projector)

    def forward(self, views: list[Tensor]) -> types.Step:
        m = self.method
        views = as_planned(views, self.method.plan, "SCE")
        answering = [0, 1] if m.symmetric else [1]
        asking = [i for i in range(len(views)) if m.symmetric or i != 1]
        online = nn.Sequential(*self.online, self.predictor)
        made = each(online, [views[i] for i in asking if i < 2]) + by_size(online, views[2:])
        q = dict(zip(asking, made, strict=True))
        k = {
            i: F.normalize(z.float(), dim=1)
            for i, z in zip(answering, self.target([views[i] for i in answering]), strict=True)
        }
        queue = self.queue() if self.queue is not None else None
        losses = [soft_contrast(q[i], k[j], queue, m) for i in asking for j in answering if i != j]
        if self.queue is not None and self.training:
            for keys in k.values():
                self.queue.push(keys)
        return types.Step(torch.stack(losses).mean(), {"spread": spread(k[1])})

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        m = self.method
        self.target.follow(self.online, cosine(m.momentum, 1.0, progress) if m.schedule == "cosine" else m.momentum)


def soft_contrast(
    q: Float[Tensor, "b d"], k: Float[Tensor, "b d"], queue: Float[Tensor, "n d"] | None, method: SCE
) -> Float[Tensor, ""]:
    """Cross-entropy of what the online vectors find alike against `wanted`, in float32."""
    q, k = F.normalize(q.float(), dim=1), F.normalize(k.float(), dim=1)
    if queue is None:
        every, partner = gathered(k), places(len(k), k.device)
        scores, alike = dots(q, every), dots(k, every)
    else:
        partner = torch.zeros(len(k), dtype=torch.long, device=k.device)
        scores, alike = logits_against(q, k, queue), logits_against(k, k, queue)
    return F.cross_entropy(scores / method.temperature, wanted(alike, partner, method))


@torch.no_grad()
def wanted(alike: Float[Tensor, "b n"], partner: Tensor, method: SCE) -> Float[Tensor, "b n"]:
    """The target distribution over the candidates of the target's similarities; rows sum to 1."""
    here = partner[:, None]
    logits = alike / method.target_temperature
    others = logits.scatter(1, here, float("-inf") if method.own == "masked" else 0.0).softmax(dim=1)
    return torch.full_like(alike, 0).scatter(1, here, method.partner) + (1 - method.partner) * others
