"""Is it learning? Measures on held-out items, without labels, and a verdict in words.

Sources: RankMe, arXiv 2210.02885; alignment and uniformity, arXiv 2005.10242. The thresholds are ours: each verdict
is provoked by a test.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selfsame.nn import diagnose
from selfsame.types import Encoder

Verdict = str  # one of the keys of ADVICE

ADVICE = {
    "healthy": "The embedding is spread out, uses many directions, and tells items apart better than at the start.",
    "slow": "It does not yet tell items apart better than random weights do. Likely cause: too few steps, a learning "
    "rate that is too low, or views so strong that nothing is left in common. Cure: more --epochs, a higher --lr, or "
    "weaker views (selfsame views PATH shows them).",
    "dimensional collapse": "The embedding uses only a few directions. Likely cause: a learning rate that is too high "
    "for the batch, views that share too little, or a target that moves too fast. Cure: halve --lr, raise "
    "--method.momentum, or use a larger --batch-size.",
    "full collapse": "All items get the same embedding. Likely cause: no predictor, a target that equals the online "
    "network, or a learning rate far too high. Cure: keep the predictor, raise --method.momentum, lower --lr.",
    "diverging": "The loss is no longer a number, or vectors grow without bound. Likely cause: a learning rate that "
    "is too high, or a loss without a lower bound. Cure: lower --lr to a third, use --precision fp32, or choose a "
    "normalised loss.",
}
ENDS_BADLY = ("full collapse", "diverging")


@dataclass(frozen=True)
class Signs:
    """What one look at the held-out items shows."""

    spread: float  # std of unit vectors times sqrt(d): about 1 when healthy, 0 when collapsed
    rank: float  # RankMe of the vectors: 1 .. min(n, d)
    alignment: float  # mean squared distance of two views of an item, unit vectors
    uniformity: float  # log mean exp(-2 distance^2), unit vectors; 0 collapsed, about -4 ideal
    agreement: float  # share of items whose nearest neighbour among the other views is their own other view
    length: float  # mean norm of the vectors


@torch.no_grad()
def look(encoder: Encoder, views: list[Tensor]) -> tuple[Signs, Float[Tensor, "n d"]]:
    """Measure an encoder on two views of held-out items, in eval mode; it is left as it was found."""
    was_training = encoder.training
    encoder.eval()
    try:
        one, two = (torch.cat([encoder(part).float() for part in view.split(64)]) for view in views[:2])
    finally:
        encoder.train(was_training)
    if not (one.isfinite().all() and two.isfinite().all()):
        nan = float("nan")
        return Signs(nan, nan, nan, nan, nan, nan), one
    signs = Signs(
        spread=float(diagnose.spread(one)),
        rank=float(diagnose.rankme(one)),
        alignment=float(diagnose.alignment(one, two)),
        uniformity=float(diagnose.uniformity(one)),
        agreement=float(diagnose.neighbour_agreement(one, two)),
        length=float(one.norm(dim=1).mean()),
    )
    return signs, one


def judge(now: Signs, start: Signs, progress: float) -> Verdict:
    """The verdict on a look, beside the look before the first step; `progress` is the share of the run done."""
    if not all(value == value for value in vars(now).values()) or now.length > 1e4 * max(start.length, 1e-6):
        return "diverging"
    # Random weights after a ReLU already give similar vectors, so the start sets the scale.
    if now.spread < 0.1 * min(1.0, start.spread) or now.length < 1e-4 * start.length:
        return "full collapse"
    if now.rank < 3 and now.rank < 0.5 * start.rank:
        return "dimensional collapse"
    if now.rank < 0.25 * start.rank and now.agreement <= start.agreement:
        return "dimensional collapse"
    if progress >= 0.25 and now.agreement <= start.agreement and now.rank <= start.rank:
        return "slow"
    return "healthy"


class Health:
    """Looks at fixed views of held-out items from time to time and keeps the story.

    `views` makes two views [n ...] of each held-out item, the same at every call.
    """

    PATIENCE = 2  # bad looks in a row that stop a run

    def __init__(self, encoder: Encoder, views: Callable[[], list[Tensor]]) -> None:
        self.encoder = encoder
        self.views = views
        self.start: Signs | None = None
        self.verdict: Verdict = "healthy"
        self.bad = 0

    def look(self, progress: float) -> Signs:
        signs, _ = look(self.encoder, self.views())
        if self.start is None:
            self.start = signs
        self.verdict = judge(signs, self.start, progress)
        self.bad = self.bad + 1 if self.verdict in ENDS_BADLY else 0
        return signs

    @property
    def hopeless(self) -> bool:
        return self.bad >= self.PATIENCE

    def state(self) -> dict[str, object]:
        return {"start": vars(self.start) if self.start else None, "verdict": self.verdict, "bad": self.bad}

    def restore(self, state: dict[str, object]) -> None:
        start = state.get("start")
        self.start = Signs(**start) if isinstance(start, dict) else None
        self.verdict = str(state.get("verdict", "healthy"))
        bad = state.get("bad", 0)
        self.bad = bad if isinstance(bad, int) else 0
