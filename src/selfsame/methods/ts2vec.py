"""TS2Vec: tell each step of a series, as another crop sees it, from other series and from other steps, at every scale.

Source: Yue et al. 2022, arXiv 2106.10466, sections 3.2 and 3.3, and its reference code. Two crops of a series overlap;
on the steps that both see, the features of a step in one view are told from those of that step in other series
<<<<<<< HEAD
(instance contrast) and from those of other steps (temporal contrast), by dot products without normalisation or
temperature. The features are then halved along time by their maximum, and the same is asked again, until one step is
left.
=======
(instance contrast) and of other steps (temporal contrast), by dot products without normalisation or temperature. The
features are then halved along time by their maximum, and the same is asked again, until one step is left.
>>>>>>> main
Deviations: the two crops lie at their time in views of one length, and each series has its own (in the paper all of a
batch are cut alike), so a step is compared at the same time of the frame, not of the overlap; very long views are
compared from a coarser scale on (`most`); the last weights are kept, not the average over all steps. The steps that are
hidden, and the crops, are the views': the recipe of the same name. Each process computes the loss of all.
Raises: UserError where no two views of an item overlap.
"""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from selfsame import types
from selfsame.errors import UserError
from selfsame.nn.diagnose import spread
from selfsame.nn.sync import gathered
from selfsame.nn.tokens import wide
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset

FAR = -1e9  # the score of a candidate that is none


class TS2Vec(types.Method):
    """Learn by telling steps apart, as two overlapping crops see them."""

    needs: ClassVar = ("steps",)
    good_for: ClassVar = "series from sensors, few and short ones too; features at every step, not of the whole alone"
    presets: ClassVar = {
        "ucr": Preset(
            source="arXiv 2106.10466, appendix and reference code: 200 steps up to 100,000 values, else 600; batch 8",
            training={
                "optimizer": "adamw", "lr": 1e-3, "batch_size": 8, "weight_decay": 0.01, "encoder": "dilated",
                "views": "ts2vec",
            },
            published="mean accuracy over 125 UCR sets: 83.0 %, over 29 UEA sets: 71.2 % (SVM on the vectors)",
        ),
    }  # fmt: skip

    instance: Annotated[float, Field(ge=0, le=1)] = 0.5
    """weight of the contrast among series; that among steps has the rest (3.3)"""
    most: Annotated[int, Field(ge=2)] = 512
    """steps compared at the finest scale: of longer views the features are halved before"""

    @classmethod
    def known_presets(cls) -> dict[str, Preset]:
        """Its own alone: `quick` is for images."""
        return cls.presets

    def misfits(self, budget: Budget) -> list[str]:
        if budget.rows < 2 and self.instance == 1:
            return ["one series a batch has no others to be told from: raise --batch-size, or lower --method.instance."]
        return []

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)


class Learner(types.Learner):
    """TS2Vec at work. Views: two full ones, on one time axis."""

    def __init__(self, method: TS2Vec, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.encoder = encoder

    def forward(self, views: list[Tensor]) -> types.Step:
        one, two = as_planned(views, self.method.plan, "TS2Vec")
        (z, within), (other, within_other) = self.encoder.steps(one), self.encoder.steps(two)
        both = within & within_other
        with torch.autocast(z.device.type, enabled=False):
            z, other = wide(z), wide(other)
            while z.shape[1] > self.method.most:
                z, other, both = halved(z, both), halved(other, both), halved_mask(both)
            every = gathered(z), gathered(other), gathered(both.float()) > 0.5
            loss = hierarchical(*every, self.method.instance)
        vectors = (z * both[..., None]).sum(dim=1) / both.sum(dim=1, keepdim=True).clamp(min=1)
        return types.Step(loss, {"spread": spread(vectors.detach())})


def hierarchical(
    one: Float[Tensor, "b t d"], two: Float[Tensor, "b t d"], both: Bool[Tensor, "b t"], instance: float = 0.5
) -> Float[Tensor, ""]:
    """The mean over scales of the two contrasts; `both`: the steps that both views see. Algorithm 1 of the paper."""
    if not torch.compiler.is_compiling() and not bool(both.any()):
        raise UserError("no two views of an item overlap. Give --views ts2vec, whose crops stay at their time.")
    total, scales = one.new_zeros(()), 0
    while True:
        total = total + instance * among_rows(one, two, both)
        scales += 1
        if one.shape[1] == 1:
            return total / scales
        total = total + (1 - instance) * among_steps(one, two, both)
        one, two, both = halved(one, both), halved(two, both), halved_mask(both)


def among_rows(
    one: Float[Tensor, "b t d"], two: Float[Tensor, "b t d"], both: Bool[Tensor, "b t"]
) -> Float[Tensor, ""]:
    """Instance contrast (equation 2): at each step, the other view of the series among all others in both views."""
    return told_apart(torch.cat([one, two]).transpose(0, 1), torch.cat([both, both]).T)


def among_steps(
    one: Float[Tensor, "b t d"], two: Float[Tensor, "b t d"], both: Bool[Tensor, "b t"]
) -> Float[Tensor, ""]:
    """Temporal contrast (equation 1): in each series, the other view of the step among all others in both views."""
    return told_apart(torch.cat([one, two], dim=1), torch.cat([both, both], dim=1))


def told_apart(z: Float[Tensor, "g m d"], known: Bool[Tensor, "g m"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of k and k + m / 2 among the m of a group, without itself; what is not known is left out."""
    m = z.shape[1]
    left_out = ~known[:, None, :] | torch.eye(m, dtype=torch.bool, device=z.device)
    scores = (z @ z.transpose(1, 2)).masked_fill(left_out, FAR)
    partner = (torch.arange(m, device=z.device) + m // 2) % m
    losses = F.cross_entropy(scores.flatten(0, 1), partner.repeat(len(z)), reduction="none").view(len(z), m)
    return (losses * known).sum() / known.sum().clamp(min=1)


def halved(z: Float[Tensor, "b t d"], both: Bool[Tensor, "b t"]) -> Float[Tensor, "b t1 d"]:
    """The largest of two steps each, of those that are seen; an odd last one is left out. Nowhere seen is 0."""
    seen = z.masked_fill(~both[..., None], FAR)
    most = F.max_pool1d(seen.transpose(1, 2), 2).transpose(1, 2)
    return torch.where(halved_mask(both)[..., None], most, 0.0)


def halved_mask(both: Bool[Tensor, "b t"]) -> Bool[Tensor, "b t1"]:
    return F.max_pool1d(both[:, None].float(), 2)[:, 0] > 0
