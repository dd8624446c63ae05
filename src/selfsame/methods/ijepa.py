"""I-JEPA: predict a slow copy's tokens of hidden blocks from what is left. One view, no negatives.

Source: Assran et al. 2023, arXiv 2301.08243, sections 3 and 4, and its reference code. The target sees the whole view;
its tokens are normalised, each by its own mean and variance, before they are compared.

Deviations: blocks may touch the last row and column, which the reference code never lets them; a context longer than
the shortest of the batch is cut at random, not from its end; where draws leave too little context the targets of that
item are laid on each other, while the code lets context and targets overlap; on small grids `min_keep` is a quarter of
the tokens; blocks have the proportions of the grid, which differ from the paper's where it is not square, and on a grid
of one axis no aspect. A class token stays in use, but the encoder's vector becomes the mean of its tokens, as the paper
evaluates it. The rate rises from 0 and falls to 0, not from 2e-4 and to 1e-6. Fitted to short runs and small encoders
(ours): momentum, width and depth of the predictor.

Short runs: nothing was found that beats random weights. CIFAR-10, 624 steps of 64 images, a vision transformer of 6
blocks, 128 wide, one seed, k-NN / probe: 27.9 / 32.1, random weights 28.6 / 31.4. Trials of 160 steps of 64, at a rate
of 1e-3, by training images that were held out of k-NN and probe: 24.4 / 28.2; with goals less each place's mean and
whitened over the batch 24.5 / 27.5, and that with a momentum of 0.99 23.5 / 27.9; the mean token of random weights
26.2 / 29.6. Whitened goals kept more directions (RankMe 10 for 7) and let views find each other more often (in 6 cases
of 100 for 2, from 5), but no more was learnt of what the images show, so they are not kept. Weaker views were not
tried to the end.
"""

from typing import Annotated, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.diagnose import spread
from selfsame.nn.ema import Target, able_to_follow, linear
from selfsame.nn.masks import multi_block
from selfsame.nn.positions import sincos
from selfsame.nn.tokens import picked, standardised, transformer, wide
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan

Share = Annotated[float, Field(gt=0, le=1)]


class IJEPA(types.Method):
    """Learn by predicting hidden blocks in the space of tokens."""

    needs: ClassVar = ("tokens",)
    good_for: ClassVar = "transformers on data for which good random transformations are not known; cheap a step"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2301.08243, appendix A, and its reference code (ViT-H/14)",
            method={"hidden": 384, "depth": 12, "momentum": 0.996},
            training={
                "optimizer": "adamw", "lr": 1e-3, "batch_size": 2048, "epochs": 300, "warmup_epochs": 40,
                "weight_decay": 0.04, "weight_decay_end": 0.4, "precision": "bf16",
                "encoder": "vit_huge_patch14_224", "size": 224, "views": "crop",
            },
            published="ImageNet, ViT-H/14, 300 epochs, linear: 79.3 % top-1",
        ),
        "cifar": Preset(
            source="no recipe is published: the masks of arXiv 2301.08243 on 8 x 8 patches of 4 px, not tuned",
            method={"hidden": 192, "depth": 3, "momentum": 0.996},
            training={
                "optimizer": "adamw", "lr": 1e-3, "batch_size": 256, "epochs": 300, "warmup_epochs": 15,
                "weight_decay": 0.04, "weight_decay_end": 0.4,
                "encoder": "vit_tiny_patch4_32", "size": 32, "views": "crop",
            },
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=2)] = 384
    """width of the predictor (appendix A); fitted to the encoder unless given"""
    depth: Annotated[int, Field(ge=1)] = 12
    """blocks of the predictor (appendix A: 12, and 6 for ViT-B); fitted to the encoder unless given"""
    targets: Annotated[int, Field(ge=1)] = 4
    """target blocks of an item (section 3)"""
    target_scale: tuple[Share, Share] = (0.15, 0.2)
    """smallest and largest share of the grid that a target takes (section 3)"""
    target_aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 1.5)
    """smallest and largest ratio of a target's sides (section 3)"""
    context_scale: tuple[Share, Share] = (0.85, 1.0)
    """smallest and largest share of the grid that the context takes, before the targets are cut out (section 3)"""
    min_keep: Annotated[int, Field(ge=1)] = 10
    """least tokens of context, at most a quarter of the grid (reference code)"""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
    """of the target at the start, rising to 1 in a straight line (section 4); lower in short runs unless given"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=1)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def fitted(self, budget: Budget) -> Self:
        derived = {
            "hidden": min(384, max(32, budget.dim)),
            "depth": 12 if budget.dim >= 1024 else 6 if budget.dim >= 512 else 3,
            "momentum": able_to_follow(0.996, budget.steps),
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def cautions(self) -> list[str]:
        if self.momentum == 1:
            return ["a target that never moves is that of random weights: little is learnt from it"]
        return ["a target that equals the online network can fall to a constant"] if self.momentum < 0.5 else []


class Learner(types.Learner):
    """I-JEPA at work. Views: a full one."""

    def __init__(self, method: IJEPA, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        encoder.average_tokens()
        self.encoder = encoder
        self.predictor = Predictor(encoder.dim, method.hidden, method.depth)
        self.target = Target(encoder)

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "I-JEPA")
        (view,) = views
        m = self.method
        grid = self.encoder.grid(view)
        seen, asked = multi_block(
            len(view), grid, view.device, m.targets, m.target_scale, m.target_aspect, m.context_scale, m.min_keep
        )
        guesses = self.predictor(self.encoder.tokens(view, keep=seen), seen, asked, grid)
        goals = self.goals(view)
        wanted = torch.stack([picked(goals, where) for where in asked])
        return types.Step(F.smooth_l1_loss(wide(guesses), wanted), {"spread": spread(goals.mean(dim=1))})

    @torch.no_grad()
    def goals(self, view: Tensor) -> Float[Tensor, "b n d"]:
        """What the slow copy makes of the whole view, each token normalised."""
        return standardised(cast(types.Encoder, self.target.net).tokens(view))

    def after_step(self, progress: float) -> None:
        self.target.follow(self.encoder, linear(self.method.momentum, 1.0, progress))


class Predictor(nn.Module):
    """A narrow transformer over the context's tokens and stand-ins for a target's, which know their places alone."""

    def __init__(self, dim: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.into = nn.Linear(dim, hidden)
        self.stand_in = nn.Parameter(0.02 * torch.randn(hidden))
        self.blocks = transformer(hidden, depth)
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, dim)

    def forward(
        self,
        context: Float[Tensor, "b m d"],
        seen: Int[Tensor, "b m"],
        asked: Int[Tensor, "k b t"],
        grid: tuple[int, ...],
    ) -> Float[Tensor, "k b t d"]:
        """Guesses of each target block by itself, as in the paper: one block's stand-ins do not see another's."""
        places = sincos(grid, self.stand_in.shape[0], context.device)
        known = self.into(context) + places[seen]
        unknown = self.stand_in + places[asked]
        both = torch.cat([known.expand(len(asked), *known.shape), unknown.to(known.dtype)], dim=2)
        made = self.norm(self.blocks(both.flatten(0, 1)))[:, known.shape[1] :]
        return self.out(made).unflatten(0, asked.shape[:2])
