"""Memory bank: tell each item from all others by a stored vector of each, which follows what is made of it.

Source: instance discrimination, Wu et al. 2018, arXiv 1805.01978, and its reference code (lemniscate). One view an
item; the momentum is on the stored vectors, not on weights. Sections below are the paper's.
Choices and deviations: noise is drawn once for all rows of a batch, which makes one matrix product of their scores; an
item that stands twice in a batch, as where a pass ends, counts with its mean. The paper's proximal term (3.3), which
its code leaves out, is left out here. Where the items are few the full softmax is chosen, as in the paper's 4.1.

Ours in short runs are `output_norm` and `start`. A run of four passes meets each item four times: with the paper's
random bank the first pass, a quarter of the run, learns to hit random vectors, and 600 steps left vectors worse than
random weights (CIFAR-10, a small network). So the bank then starts with what the network makes of all items, and the
vectors are spread, which alone was not enough (k-NN 31.2 %, linear 35.8 % after two passes from a random bank).
"""

from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.errors import UserError
from selfsame.nn.bank import by_item
from selfsame.nn.contrast import dots
from selfsame.nn.diagnose import spread
from selfsame.nn.heads import OutputNorm, ending
from selfsame.nn.norm import frozen_statistics
from selfsame.nn.survey import vectors_of
from selfsame.nn.sync import mean_of_rows, shared
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan

FEW = 65_536  # items up to which the full softmax costs less than an encoder does


class MemoryBank(types.Method):
    """Tell each item from all others by the vectors that were stored of them."""

    good_for: ClassVar = "one view an item and no slow copy: little memory for the network, a vector for each item"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 1805.01978, section 4, and its reference code",
            method={"loss": "nce", "temperature": 0.07},
            training={
                "optimizer": "sgd", "lr": 0.03, "batch_size": 256, "epochs": 200, "warmup_epochs": 0,
                "schedule": "step", "weight_decay": 1e-4, "encoder": "resnet50", "image_size": 224, "views": "moco",
            },
            published="ImageNet, ResNet-50: nearest neighbours 46.8 %, linear 58.5 % top-1 (later model of the code)",
        ),
        "cifar": Preset(
            source="arXiv 1805.01978, section 4.1, and its reference code; its rate falls from epoch 80 each 40",
            method={"loss": "softmax", "temperature": 0.1},
            training={
                "optimizer": "sgd", "lr": 0.03, "batch_size": 128, "epochs": 200, "warmup_epochs": 0,
                "schedule": "step", "weight_decay": 5e-4, "encoder": "resnet18", "image_size": 32,
                "views": "simclr_small",
            },
        ),
    }  # fmt: skip

    loss: Literal["nce", "softmax"] = "nce"
    """noise-contrastive estimation (3.2), or the softmax over all items; the latter where they are few unless given"""
    noise: Annotated[int, Field(ge=1)] = 4096
    """items drawn as noise in nce (3.2)"""
    out: Annotated[int, Field(ge=1)] = 128
    """width of the vectors (4.2)"""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """of the softmax (3.1)"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """of the stored vectors (reference code)"""
    output_norm: OutputNorm = "none"
    """end of the head: no norm as in the paper, plain or whiten; whiten in short runs unless given"""
    start: Literal["random", "items"] = "random"
    """what is stored at first: random vectors (reference code), or those of the items, in short runs unless given"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=1)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder, items)

    def fitted(self, budget: Budget) -> Self:
        """The full softmax where items are few; in short runs vectors that are spread, and a bank that is of the items.

        Noise contrast wants many items and a long run: in trial (CIFAR-10, 9,500 items, 600 steps of 64, a small
        network) its vectors drew together at 0.07 and at 0.1, while the softmax learned.
        """
        derived = {
            "loss": "softmax" if budget.items <= FEW else "nce",
            "output_norm": "whiten" if budget.short else "none",
            "start": "items" if budget.short else "random",
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def misfits(self, budget: Budget) -> list[str]:
        if self.loss == "softmax" or self.noise < budget.items:
            return []
        return [
            f"{self.noise} items of noise cannot stand for {budget.items}. Give --method.loss softmax, or less "
            "--method.noise."
        ]


class Learner(types.Learner):
    """Instance discrimination at work. Views: a full one, and which item each row is."""

    by_item = True
    bank: Tensor  # [n d]
    scale: Tensor  # Z of equation 4, fixed by the first batch; 0 before it

    def __init__(self, method: MemoryBank, encoder: types.Encoder, items: int) -> None:
        super().__init__()
        if items < 1:
            raise UserError("MemoryBank keeps a vector of each item: say how many there are, as build(encoder, 1000).")
        self.method = method
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(encoder.dim, method.out), *ending(method.output_norm, method.out))
        bound = (3 / method.out) ** 0.5  # so that lengths are about 1
        self.register_buffer("bank", torch.empty(items, method.out).uniform_(-bound, bound))
        self.register_buffer("scale", torch.zeros(()))

    def forward(self, views: list[Tensor], items: Int[Tensor, "b"]) -> types.Step:  # type: ignore[override]
        views = as_planned(views, self.method.plan, "the memory bank", items)
        v = F.normalize(self.head(self.encoder(views[0])).to(self.bank.dtype), dim=1)
        if self.method.loss == "softmax":
            logits = dots(v, self.bank.clone()) / self.method.temperature  # kept, for the bank moves on
            loss = F.cross_entropy(logits, items)
        else:
            loss = self.noise_contrast(v, items)
        if self.training:
            self.store(v.detach(), items)
        return types.Step(loss, {"spread": spread(v)})

    def surveys(self, number: int) -> bool:
        return self.method.start == "items" and number == 0

    @torch.no_grad()
    def survey(self, look: types.Look) -> None:
        """Store the vector of each item, by the statistics of its batch, as those of the run are not yet known."""
        with frozen_statistics(self):
            found = vectors_of(look, lambda view: self.head(self.encoder(view)), len(self.bank))
        self.bank.copy_(F.normalize(found, dim=1))

    def noise_contrast(self, v: Float[Tensor, "b d"], items: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """The own item against noise, drawn from all items alike, the own one too."""
        m, n = self.method, len(self.bank)
        noise = shared(torch.randint(n, (m.noise,), device=v.device))
        own = (v * self.bank[items]).sum(dim=1, keepdim=True)
        scores = torch.cat([own, dots(v, self.bank[noise])], dim=1) / m.temperature
        if self.training:
            self.fix(scores)
        return nce(scores, self.scale.clone(), n)

    @torch.no_grad()
    def fix(self, scores: Float[Tensor, "b k"]) -> None:
        """Z from the first batch, for good."""
        first = len(self.bank) * mean_of_rows(scores.exp()).mean()
        self.scale.copy_(torch.where(self.scale > 0, self.scale, first))

    @torch.no_grad()
    def store(self, v: Float[Tensor, "b d"], items: Int[Tensor, "b"]) -> None:
        """bank <- unit vector of momentum * bank + (1 - momentum) * v, for the items of all processes."""
        mean, items = by_item(v, items)
        self.bank.index_copy_(0, items, F.normalize(torch.lerp(mean, self.bank[items], self.method.momentum), dim=1))


def nce(scores: Float[Tensor, "b k+1"], scale: Float[Tensor, ""], items: int) -> Float[Tensor, ""]:
    """Equations 6 and 7: own item in column 0, noise in the others, probabilities exp(score) / `scale`.

    Summed over the noise, as in the reference code, but for its 1e-7 in the denominators, which are never 0; `scale` is
    the number that stands for Z.
    """
    noise = (scores.shape[1] - 1) / items  # K of them, each as likely as any item
    p = scores.exp() / scale
    own, others = p[:, :1], p[:, 1:]
    return -((own / (own + noise)).log() + (noise / (others + noise)).log().sum(dim=1, keepdim=True)).mean()
