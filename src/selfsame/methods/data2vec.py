"""data2vec: predict a slow copy's hidden tokens, averaged over its last layers, from a view with tokens hidden.

Source: Baevski et al. 2022, arXiv 2202.03555, sections 3 and 4, from memory; no code was at hand. The student sees a
learnt vector in the place of hidden tokens; the slow copy sees the whole view. Defaults are the vision run's.

Deviations and choices: the layers' outputs are taken after the residual sum, where the paper's text has those of the
feed-forward part; each is normalised token by token before the average (speech: over time), the average is not
normalised again. Blocks are laid as `nn.masks.blockwise` has it. Teacher and student see the same transformed view.
The rise of the momentum is given as a share of the run; for vision the paper's text has it nearly constant. The
encoder's vector becomes the mean of its tokens. Fitted to short runs (ours): both momenta. Of an encoder with fewer
layers than `top`, where that is not given, all are averaged.

Short runs: hardly better than random weights. CIFAR-10, 624 steps of 64 images, a vision transformer of 6 blocks, 128
wide, one seed, k-NN / probe: 28.4 / 33.8, random weights 28.6 / 31.4, and the health check says "slow". The cause is
not known; I-JEPA, which learns from hidden tokens too, stands alike.
"""

from typing import Annotated, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.errors import TooFewBlocks
from selfsame.nn.diagnose import spread
from selfsame.nn.ema import Target, able_to_follow, linear
from selfsame.nn.masks import blockwise, scattered
from selfsame.nn.tokens import picked, standardised, wide
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan


class Data2Vec(types.Method):
    """Learn by predicting what a slow copy makes of hidden tokens."""

    needs: ClassVar = ("tokens",)
    good_for: ClassVar = "transformers, the same way for images, sound and text; targets that know the whole item"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2202.03555, section 4.1 (ViT-B/16), from memory",
            method={"top": 6, "share": 0.6, "beta": 2.0, "momentum": 0.9998, "end": 0.9998},
            training={
                "optimizer": "adamw", "lr": 2e-3, "batch_size": 2048, "epochs": 800, "warmup_epochs": 40,
                "weight_decay": 0.05, "encoder": "vit_base_patch16_224", "size": 224, "views": "weak",
            },
            published="ImageNet, ViT-B/16, 800 epochs, fine-tuned: 84.2 % top-1",
        ),
        "cifar": Preset(
            source="no recipe is published: section 4.1 of arXiv 2202.03555 on 8 x 8 patches of 4 px, not tuned",
            method={"top": 6, "share": 0.6, "beta": 2.0},
            training={
                "optimizer": "adamw", "lr": 1e-3, "batch_size": 256, "epochs": 300, "warmup_epochs": 15,
                "weight_decay": 0.05, "encoder": "vit_tiny_patch4_32", "size": 32, "views": "weak",
            },
        ),
    }  # fmt: skip

    top: Annotated[int, Field(ge=1)] = 6
    """last layers whose outputs are averaged (3.3): vision 6, speech 8, text 10; all of fewer unless given"""
    masking: Literal["blocks", "single"] = "blocks"
    """hide blocks (vision, speech) or single tokens (text), drawn anew at each step"""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """of the tokens that are hidden (vision 0.6, text 0.15)"""
    block: Annotated[float, Field(gt=0, le=1)] = 0.08
    """smallest share of the grid that a block takes (16 of 196 patches)"""
    aspect: Annotated[float, Field(gt=0, le=1)] = 0.3
    """smallest ratio of a block's sides; the largest is its inverse"""
    beta: Annotated[float, Field(ge=0)] = 2.0
    """where the loss turns from squares to lengths (3.4): vision 2, text 4; 0: squares everywhere, as for speech"""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.999
    """of the slow copy at the start (3.3); lower in short runs unless given"""
    end: Annotated[float, Field(ge=0, le=1)] = 0.9999
    """momentum once it has risen, in a straight line (3.3); lower in short runs unless given"""
    rise: Annotated[float, Field(gt=0, le=1)] = 0.1
    """share of the run in which it rises"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=1)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def momentum_at(self, progress: float) -> float:
        return linear(self.momentum, self.end, min(1.0, progress / self.rise) if progress <= 1 else progress)

    def fitted(self, budget: Budget) -> Self:
        """Momenta that can follow in a short run; at the end the memory is ten times that of the start, as in text."""
        start = self.momentum if "momentum" in self.model_fields_set else able_to_follow(0.999, budget.steps)
        derived = {"momentum": start, "end": round(1 - (1 - start) / 10, 6)}
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def cautions(self) -> list[str]:
        if self.momentum == 1:
            return ["a target that never moves is that of random weights: little is learnt from it"]
        if self.momentum < 0.5:
            return ["a target that equals the online network falls to a constant (arXiv 2202.03555, section 3.3)"]
        return []


class Learner(types.Learner):
    """data2vec at work. Views: a full one."""

    def __init__(self, method: Data2Vec, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.top = method.top
        encoder.average_tokens()
        self.encoder = encoder
        self.stand_in = nn.Parameter(0.02 * torch.randn(encoder.dim))
        self.head = nn.Linear(encoder.dim, encoder.dim)
        self.target = Target(encoder)

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "data2vec")
        (view,) = views
        m = self.method
        goals, grid = self.goals(view), self.encoder.grid(view)
        if m.masking == "blocks":
            hidden = blockwise(len(view), grid, m.share, min(m.block, m.share), m.aspect, view.device)
        else:
            hidden = scattered(len(view), grid, m.share, view.device)
        where = torch.zeros(goals.shape[:2], dtype=torch.bool, device=view.device).scatter(1, hidden, True)
        tokens = self.encoder.tokens(view, hide=types.Hidden(where, self.stand_in))
        loss = distance(self.head(picked(tokens, hidden)), picked(goals, hidden), m.beta)
        return types.Step(loss, {"spread": spread(goals.mean(dim=1))})

    @torch.no_grad()
    def goals(self, view: Tensor) -> Float[Tensor, "b n d"]:
        """The mean over the slow copy's last layers of their tokens, each normalised."""
        return torch.stack([standardised(tokens) for tokens in self.last_layers(view)]).mean(dim=0)

    def last_layers(self, view: Tensor) -> list[Float[Tensor, "b n d"]]:
        target = cast(types.Encoder, self.target.net)
        try:
            return target.last_layers(view, self.top)
        except TooFewBlocks as error:
            if "top" in self.method.model_fields_set:
                raise
            self.top = error.found
        return target.last_layers(view, self.top)

    def after_step(self, progress: float) -> None:
        self.target.follow(self.encoder, self.method.momentum_at(progress))


def distance(guess: Float[Tensor, "b m d"], goal: Float[Tensor, "b m d"], beta: float) -> Float[Tensor, ""]:
    """Mean of r² / (2 beta) where |r| < beta and of |r| - beta / 2 beyond (equation 3); of r² where beta is 0."""
    guess, goal = wide(guess), wide(goal)
    return F.smooth_l1_loss(guess, goal, beta=beta) if beta else F.mse_loss(guess, goal)
