"""AMDIM: tell, of two views, the local features of one item from those of all others, across two resolutions.

Source: Bachman et al. 2019, arXiv 1906.00910, section 3, and its reference code. The global vector of one view is
scored with every place of two maps of the other, and sampled places of the coarser map with every place of the coarser
map; a place's rivals are all places of all other items.

Deviations: works on any encoder with maps. Its last two maps take the part of the paper's 7 x 7 (finer) and 5 x 5
(coarser) maps, flattened over space whatever its axes are; an encoder with one map gives it for both. The paper's own
network keeps each place from seeing the whole picture and has no batch norm; a ResNet's places see more, which makes
the task easier. Batch norm stays. Scores use two-layer heads with a linear shortcut, without norms. Rivals are those of
all processes.
"""

import math
from typing import Annotated, ClassVar, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.diagnose import spread
from selfsame.nn.sync import gathered, places, shared, world
from selfsame.nn.tokens import picked, wide
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset

Features = tuple[Float[Tensor, "b 1 d"], Float[Tensor, "b p d"], Float[Tensor, "b q d"]]  # vector, fine, coarse


class AMDIM(types.Method):
    """Learn by telling local features of the same item from those of others."""

    needs: ClassVar = ("maps",)
    good_for: ClassVar = "dense features as well as vectors: every place of a map learns to know its item"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 1906.00910, section 4, and its reference code; its network and Adam are replaced",
            method={"out": 1536},
            training={
                "optimizer": "adamw", "lr": 2e-4, "weight_decay": 1e-5, "batch_size": 480, "epochs": 150,
                "encoder": "resnet50", "size": 128, "views": "moco",
            },
            published="ImageNet, its own network of 192 channels at 128 px, linear: 68.1 % top-1",
        ),
        "cifar": Preset(
            source="the reference code's settings for STL-10; its network and Adam are replaced, not tuned",
            method={"out": 1024},
            training={
                "optimizer": "adamw", "lr": 2e-4, "weight_decay": 1e-5, "batch_size": 200, "epochs": 300,
                "encoder": "resnet18", "size": 32, "views": "small",
            },
        ),
    }  # fmt: skip

    out: Annotated[int, Field(ge=1)] = 1536
    """width in which features are compared (reference code); fitted to the encoder unless given"""
    clip: Annotated[float, Field(gt=0)] = 20.0
    """scores s become clip tanh(s / clip) (section 3.3)"""
    penalty: Annotated[float, Field(ge=0)] = 0.05
    """weight of the mean of squared scores, before they are clipped (reference code: 5e-2)"""
    samples: Annotated[int, Field(ge=1)] = 1
    """places of the coarser map of an item that ask, drawn anew at each step (reference code: 1)"""

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def fitted(self, budget: Budget) -> Self:
        return self if "out" in self.model_fields_set else self.changed(out=min(1536, max(256, budget.dim)))

    def misfits(self, budget: Budget) -> list[str]:
        if budget.batch >= 2:
            return []
        return ["rivals are the other items of the batch, and there is none: raise --batch-size to 2 or more."]


class Learner(types.Learner):
    """AMDIM at work. Views: two full ones."""

    def __init__(self, method: AMDIM, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.encoder = encoder
        *_, fine, coarse = 2 * encoder.map_widths
        self.of_vector = Head(encoder.dim, method.out)
        self.of_fine = Head(fine, method.out)
        self.of_coarse = Head(coarse, method.out)

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "AMDIM")
        one, two = (self.features(view) for view in views)
        loss, squares, known = zip(*(self.told(*pair) for pair in ((one, two), (two, one))), strict=True)
        penalty = self.method.penalty * torch.stack(squares).mean()
        logs = {"spread": spread(one[0].flatten(0, 1)), "accuracy": torch.stack(known).mean(), "penalty": penalty}
        return types.Step(torch.stack(loss).mean() + penalty, logs)

    def features(self, view: Tensor) -> Features:
        """Of the vector, the finer and the coarser map, in the space where they are compared: [b places out] each."""
        vector, maps = self.encoder.with_maps(view)
        *_, fine, coarse = (flat.flatten(2).transpose(1, 2) for flat in 2 * maps)
        return self.of_vector(vector[:, None]), self.of_fine(fine), self.of_coarse(coarse)

    def told(self, asking: Features, goal: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, squared scores, and how many vectors know their item: one view asks the other."""
        vector, _, coarse = asking
        fine_goals, coarse_goals = (gathered(features) for features in goal[1:])
        pairs = ((vector, coarse_goals), (vector, fine_goals), (self.sampled(coarse), coarse_goals))
        scores = [scored(source, goals) for source, goals in pairs]
        loss = torch.stack([told_apart(clipped(s, self.method.clip)) for s in scores]).sum()
        best = scores[0].amax(dim=3)[:, 0].argmax(dim=1)
        known = (best == places(len(best), best.device)).float().mean()
        return loss, torch.stack([s.square().mean() for s in scores]).sum(), known

    def sampled(self, coarse: Float[Tensor, "b p out"]) -> Float[Tensor, "b s out"]:
        """Places drawn anew, each item its own."""
        drawn = torch.rand(len(coarse) * world(), self.method.samples).to(coarse.device, non_blocking=True)
        mine = shared(drawn)[places(len(coarse), coarse.device)]
        return picked(coarse, (mine * coarse.shape[1]).long())


class Head(nn.Module):
    """Two layers beside a linear shortcut, the same at each place."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.deep = nn.Sequential(nn.Linear(d_in, d_out), nn.ReLU(inplace=True), nn.Linear(d_out, d_out, bias=False))
        self.straight = nn.Linear(d_in, d_out, bias=False)

    def forward(self, x: Float[Tensor, "b p d_in"]) -> Float[Tensor, "b p d_out"]:
        return self.deep(x) + self.straight(x)


def scored(source: Float[Tensor, "b s d"], goals: Float[Tensor, "n p d"]) -> Float[Tensor, "b s n p"]:
    """Dot products over sqrt(d), in float32, of the own sources with every place of all items."""
    with torch.autocast(source.device.type, enabled=False):
        scores = wide(source).flatten(0, 1) @ wide(goals).flatten(0, 1).T / math.sqrt(source.shape[-1])
        return scores.view(*source.shape[:2], *goals.shape[:2])


def clipped(scores: Tensor, most: float) -> Tensor:
    """Scores pressed into (-most, most), so that none can decide all."""
    return most * torch.tanh(scores / most)


def told_apart(scores: Float[Tensor, "b s n p"]) -> Float[Tensor, ""]:
    """Cross-entropy of each place of the own item against all places of all other items, the mean over places."""
    own = places(len(scores), scores.device)
    here = scores.gather(2, own[:, None, None, None].expand(-1, scores.shape[1], -1, scores.shape[3]))[:, :, 0]
    others = torch.arange(scores.shape[2], device=scores.device) != own[:, None]
    rivals = scores.masked_fill(~others[:, None, :, None], float("-inf")).flatten(2).logsumexp(dim=2, keepdim=True)
    return (torch.logaddexp(here, rivals) - here).mean()
