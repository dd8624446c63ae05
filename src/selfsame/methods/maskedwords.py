"""Masked words: say which words stood where some were taken out, from those on both sides.

Source: BERT, Devlin et al. 2018, arXiv 1810.04805, section 3.1 and its reference code; masks are drawn anew at each
step, as in RoBERTa, Liu et al. 2019, 1907.11692, section 4.1. Padding and marks are never taken out.
Deviations: what stands in place of a word is a vector of the learner, not a word [MASK] of the vocabulary, so that the
encoder keeps nothing that only training uses; words are tokens, not whole words; there is no prediction of the next
sentence (RoBERTa, section 4.2, does without too). Each text has its share taken out, at least one word, rounded to
whole words. Random words are drawn among all of the vocabulary but padding. The vector becomes the mean of the tokens:
a class token would learn nothing. By default twice the paper's 15 % are taken
out: ours, for short runs of small networks, and not tuned.
"""

from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.diagnose import spread
from selfsame.nn.sync import own, shared, world
from selfsame.nn.tokens import picked
from selfsame.nn.views import as_planned
from selfsame.nn.vocabulary import WordHead, counted_mean
from selfsame.records import Preset, ViewPlan

Share = Annotated[float, Field(ge=0, le=1)]


class MaskedWords(types.Method):
    """Learn by filling in words that were taken out."""

    needs: ClassVar = ("words",)
    good_for: ClassVar = "text of any kind; the start for fine-tuning, where a few labels follow"
    presets: ClassVar = {
        "bert": Preset(
            source="arXiv 1810.04805, appendix A.2 (256 texts of 512 tokens, 10^6 steps); without next sentences",
            method={"share": 0.15},
            training={
                "optimizer": "adamw", "lr": 1e-4, "batch_size": 256, "weight_decay": 0.01, "epochs": 40,
                "encoder": "bert-base", "size": 512, "views": "simcse",
            },
            published="GLUE, BERT-base, fine-tuned: 79.6 on average (test)",
        ),
    }  # fmt: skip

    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """of the words of a text that are asked for (BERT: 0.15)"""
    stand_in: Share = 0.8
    """share of these in whose place a stand-in is seen (appendix A.1)"""
    random: Share = 0.1
    """share of these in whose place a random word is seen (appendix A.1); the rest is seen as it is"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=1)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        if self.stand_in + self.random > 1:
            return ["--method.stand-in and --method.random are more than 1 together: fewer random words are seen"]
        if self.stand_in + self.random == 0:
            return ["all words are seen as they are, so that there is nothing to learn from their neighbours"]
        return []


class Learner(types.Learner):
    """Masked words at work. Views: a full one."""

    def __init__(self, method: MaskedWords, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        encoder.average_tokens()
        self.encoder = encoder
        self.stand_in = nn.Parameter(0.02 * torch.randn(encoder.dim))
        self.head = WordHead(encoder.dim, encoder.vocabulary)

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "masked words")
        (view,) = views
        m, encoder = self.method, self.encoder
        most = max(1, round(m.share * view.shape[1]))
        drawn = torch.rand(len(view) * world(), 2 * view.shape[1] + most)
        drawn = own(shared(drawn.to(view.device, non_blocking=True)))
        noise, kind, other = drawn.split([view.shape[1], view.shape[1], most], dim=1)
        asked, counted = asked_for(encoder.word_places(view), noise, m.share)
        kind = kind.gather(1, asked)
        words = 1 + (other * (encoder.vocabulary - 1)).long().clamp(max=encoder.vocabulary - 2)
        goal = view.gather(1, asked)
        swapped = counted & (kind >= m.stand_in) & (kind < m.stand_in + m.random)
        seen = view.scatter(1, asked, torch.where(swapped, words.to(view.dtype), goal))
        hidden = torch.zeros_like(view, dtype=torch.bool).scatter(1, asked, counted & (kind < m.stand_in))
        tokens = encoder.word_tokens(seen, hide=types.Hidden(hidden, self.stand_in))
        losses, right = self.head.losses(picked(tokens, asked), encoder.word_vectors, goal.long())
        real = encoder.word_places(view)
        vectors = (tokens * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
        logs = {"accuracy": counted_mean(right.float(), counted), "spread": spread(vectors.detach())}
        return types.Step(counted_mean(losses, counted), logs)


def asked_for(
    places: Bool[Tensor, "b n"], noise: Tensor, share: float
) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """Where words are asked for, and which of these places count: of each row that share of its words, at least one.

    `noise` [b n] in [0, 1) draws them. Rows have as many places, the share of the whole width; those that do not count
    are there to fill up. A row without words has none that count.
    """
    words = places.sum(dim=1)
    wanted = (share * words).round().clamp(min=1).minimum(words)
    most = max(1, round(share * places.shape[1]))
    order = (noise + ~places).argsort(dim=1)[:, :most]
    return order, torch.arange(most, device=places.device) < wanted[:, None]
