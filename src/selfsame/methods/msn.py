"""MSN: a view with most patches gone is matched to the prototypes of another view, and all prototypes are used.

Source: Assran et al. 2022, arXiv 2204.07141, section 3, appendix, and its reference code (ViT-S/16).
Deviations: the patches that go are drawn for each item, where the code draws them for the whole batch; all anchors
pass the head together; the gradient is clipped as a whole.
Short runs (ours, `fitted` and `pace`): a batch of 64 cannot use some hundred prototypes alike, so raising the entropy
of its mean prediction would pull every prediction to the uniform one; Sinkhorn alone keeps prototypes in use there.
The head has batch norm, and what it is given and what it gives is whitened: vectors of a fresh transformer lie along
few directions, and whitening doubled how often two views found each other before the first step. Small encoders learn
at four times the usual rate. CIFAR-10, 624 steps of 64 images, a vision transformer of 6 blocks, 128 wide, one seed,
k-NN / probe: 30.3 / 38.1, at the usual rate 29.9 / 34.4; random weights 28.6 / 31.4. So it is the probe that gains; by
k-NN one seed is not told from random weights. In trials of 160 steps the whitening before the head was chosen by k-NN
on the training images, the rate by the loss, once the result at the usual rate was known. The rest was not tried one
by one.
"""

import math
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.diagnose import spread
from selfsame.nn.ema import Target, able_to_follow
from selfsame.nn.heads import Norm, OutputNorm, ending, tower
from selfsame.nn.joint import by_size
from selfsame.nn.prototypes import Prototypes
from selfsame.nn.sinkhorn import sinkhorn
from selfsame.nn.sync import mean_of_rows, own, shared, world
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan, more_than_items

LONGER = 1.25  # the momentum rises as if the run were so much longer, and does not reach 1 (reference code)
SMALL = 192  # width of encoders that short runs train at four times the usual rate


class MSN(types.Method):
    """Match masked views to the prototypes of whole ones."""

    good_for: ClassVar = "vision transformers where few labels will follow: cheap steps, as patches are left out"
    needs: ClassVar = ("tokens",)
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2204.07141, appendix, and its reference code, configs/pretrain/msn_vits16.yaml",
            training={
                "optimizer": "adamw", "lr": 1e-3, "batch_size": 1024, "epochs": 800, "warmup_epochs": 15,
                "weight_decay": 0.04, "weight_decay_end": 0.4, "clip": 3.0, "encoder": "vit_small_patch16_224",
                "size": 224, "views": "simclr",
            },
            published="ImageNet, ViT-S/16, linear: 76.9 % top-1",
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the head's two hidden layers (reference code); fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=2)] = 256
    """width of the vectors that are matched (reference code); 128 in short runs unless given"""
    head_norm: Literal["none", "batch"] = "none"
    """of the head's hidden layers: none as in the paper, or batch norm; batch in short runs unless given"""
    output_norm: OutputNorm = "none"
    """end of the head: no norm as in the paper, plain or whiten; whiten in short runs unless given"""
    whiten_input: bool = False
    """whiten the encoder's vectors before the head, which is not in the paper; in short runs unless given"""
    prototypes: Annotated[int, Field(ge=2)] = 1024
    """directions that vectors are matched to (appendix); fitted to the number of items unless given"""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """of the softmax over prototypes (3)"""
    sharpness: Annotated[float, Field(gt=0)] = 0.25
    """temperature by which targets are sharpened (3); 0.2 in short runs unless given"""
    balanced: bool = True
    """targets use the prototypes alike, by three rounds of Sinkhorn (reference code)"""
    entropy_weight: Annotated[float, Field(ge=0)] = 1.0
    """of the entropy of the mean prediction, which is raised (equation 1); 0 in short runs unless given"""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """share of patches that the anchor is not shown (reference code for ViT-S; more for larger networks)"""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
    """of the target at the start, rising (reference code); fitted to the run's length unless given"""
    part_views: Annotated[int, Field(ge=0, le=16)] = 10
    """small crops as further anchors (reference code); none in short runs unless given"""

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
                    self.sharpness >= 1,
                    "targets no sharper than the predictions can all become uniform: full collapse (arXiv 2204.07141, "
                    "section 3)",
                ),
                (
                    self.entropy_weight == 0 and not self.balanced,
                    "nothing keeps all items from the same prototype: full collapse (arXiv 2204.07141, section 3)",
                ),
                (self.momentum == 1, "a target that never moves is stable but learns little"),
            )
            if true
        ]

    def pace(self, budget: Budget) -> float:
        return 4.0 if budget.short and budget.dim <= SMALL else 1.0

    def misfits(self, budget: Budget) -> list[str]:
        return more_than_items(budget, self.prototypes, "prototypes", "prototypes")

    def fitted(self, budget: Budget) -> Self:
        """Prototypes by items, a target that can follow, no part views in short runs."""
        short = budget.short
        derived = {
            "hidden": min(2048, max(512, 4 * budget.dim)),
            "prototypes": min(1024, max(30, budget.items // 20), budget.items),
            "momentum": able_to_follow(0.996, budget.steps),
            "part_views": 0 if short else 10,
            "out": 128 if short else 256,
            "head_norm": "batch" if short else "none",
            "output_norm": "whiten" if short else "none",
            "whiten_input": short,
            "sharpness": 0.2 if short else 0.25,
            "entropy_weight": 0.0 if short and self.balanced else 1.0,
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})


class Learner(types.Learner):
    """MSN at work. Views: a full one for the target, a full one to drop patches of, then part views."""

    def __init__(self, method: MSN, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.encoder = encoder
        widths = (encoder.dim, method.hidden, method.hidden, method.out)
        norm: Norm | None = "batch" if method.head_norm == "batch" else None
        layers = tower(*widths, norm=norm, bias=True, last_bias=True, gelu=True)
        first = ending("whiten" if method.whiten_input else "none", encoder.dim)
        self.head = nn.Sequential(*first, *layers, *ending(method.output_norm, method.out))
        self.prototypes = Prototypes(method.out, method.prototypes)
        self.target = Target(self.online)

    @property
    def online(self) -> nn.Sequential:
        # Built on each use: a stored one would keep the old layers after batch norms are converted.
        return nn.Sequential(self.encoder, self.head)

    def forward(self, views: list[Tensor]) -> types.Step:
        m = self.method
        views = as_planned(views, self.method.plan, "MSN")
        whole, anchor, *parts = views
        z = self.target(whole)
        with torch.no_grad():
            target = self.target_of(self.prototypes(z) / m.temperature)
        masked, _ = self.encoder.both(anchor, keep=self.kept(len(anchor), self.encoder.grid(anchor)))
        scores = self.prototypes(self.head(torch.cat([masked, *by_size(self.encoder, parts)]))) / m.temperature
        matched = F.cross_entropy(scores, target.repeat(1 + len(parts), 1))
        unused = short_of_uniform(scores.softmax(dim=1))
        logs = {
            "matched": matched.detach(), "unused": unused.detach(), "spread": spread(z),
            "entropy": torch.special.entr(target).sum(dim=1).mean(),
        }  # fmt: skip
        return types.Step(matched + m.entropy_weight * unused, logs)

    def target_of(self, logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        sharp = sharpened(logits.log_softmax(dim=1), self.method.sharpness)
        return sinkhorn(sharp, epsilon=1.0) if self.method.balanced else sharp.exp()

    def kept(self, rows: int, grid: tuple[int, ...]) -> Int[Tensor, "b m"]:
        """The patches that the anchor is shown."""
        device = self.prototypes.weight.device
        n = torch.Size(grid).numel()
        order = own(shared(torch.rand(rows * world(), n, device=device))).argsort(dim=1)
        return order[:, : max(1, n - int(self.method.drop * n))]

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        m = self.method.momentum
        self.target.follow(self.online, m + (1 - m) * progress / LONGER)


def sharpened(log_p: Float[Tensor, "b k"], temperature: float) -> Float[Tensor, "b k"]:
    """Logarithm of p to the power 1 / temperature, normalised again."""
    return (log_p / temperature).log_softmax(dim=1)


def short_of_uniform(p: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """log k minus the entropy of the mean prediction over the rows of all processes: 0 where all are used alike."""
    mean = mean_of_rows(p)
    return math.log(p.shape[1]) - torch.special.entr(mean).sum()
