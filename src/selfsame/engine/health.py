"""Is it learning? Measures on held-out items, without labels, and a verdict in words.

Sources: RankMe, arXiv 2210.02885; alignment and uniformity, arXiv 2005.10242. The thresholds are ours: each verdict
is provoked by a test.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsame.nn import diagnose
from selfsame.types import Encoder

Verdict = str  # one of the keys of ADVICE

LEAST_STEPS = 20  # before it is said that a run learns, or that it does not
LEAST_ITEMS = 8  # held out; of two, one in two finds its own other view by chance

TOO_EARLY = "too early to tell"
ADVICE = {
    "healthy": "The embedding is spread out, uses many directions, and tells items apart better than at the start.",
    TOO_EARLY: "Nothing speaks against it, but it is not shown yet that it learns. Likely cause: fewer than "
    f"{LEAST_STEPS} steps, fewer than {LEAST_ITEMS} held-out items (one item in twenty is held out), or no clear gain "
    "yet in the first quarter of the run. Cure: more --epochs, or more items.",
    "slow": "It does not yet tell items apart better than random weights do. Likely cause: too few steps, a learning "
    "rate that is too low, or views so strong that nothing is left in common. Cure: more --epochs, a higher --lr, or "
    "weaker views (selfsame views PATH shows them).",
    "dimensional collapse": "The embedding uses only a few directions. Likely cause: a learning rate that is too high "
    "for the batch, views that share too little, or a target that moves too fast. Cure: halve --lr, raise "
    "--method.momentum, or use a larger --batch-size.",
    "full collapse": "All items get the same embedding, or the loss compares vectors that are all the same. Likely "
    "cause: no predictor, a target that equals the online network, or a learning rate far too high. Cure: keep the "
    "predictor, raise --method.momentum, lower --lr.",
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


@dataclass(frozen=True)
class Output:
    """What the learner logged of a training step."""

    loss: float
    spread: float | None = None  # as in Signs, of the vectors that the loss compares, where the method logs it


@contextmanager
def own_statistics(encoder: nn.Module) -> Iterator[None]:
    """Under it, batch norms in eval mode normalise by what they are given; their buffers are put back after.

    Random weights have seen no data yet: with the statistics a batch norm is made with, they look far worse than
    they are, and whatever sees a few batches seems to learn.
    """
    norms = [part for part in encoder.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    kept = [(buffer, buffer.clone()) for part in norms for buffer in part.buffers()]

    def meet(part: nn.Module, given: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(given[0].float(), dim=[0, *range(2, given[0].ndim)], correction=0)
        part.running_mean.copy_(mean)  # type: ignore[operator]
        part.running_var.copy_(variance)  # type: ignore[operator]

    hooks = [part.register_forward_pre_hook(meet) for part in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for buffer, value in kept:
            buffer.copy_(value)


@torch.no_grad()
def look(encoder: Encoder, views: list[Tensor]) -> tuple[Signs, Float[Tensor, "n d"]]:
    """Measure an encoder on two views of held-out items, in eval mode; it is left as it was found."""
    was_training = encoder.training
    encoder.eval()
    try:
        # Measured on the CPU: a few hundred vectors, and not every device has all the functions.
        one, two = (torch.cat([encoder(part).float().cpu() for part in view.split(64)]) for view in views[:2])
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


def judge(
    now: Signs,
    start: Signs,
    progress: float,
    last: Output | None = None,
    first: Output | None = None,
    enough: bool = True,
) -> Verdict:
    """The verdict on a look, beside the look before the first step; `progress` is the share of the run done.

    `last` and `first`: what the learner logged of the latest step and of the first one. `enough`: steps were made and
    items looked at to tell whether it learns; what ends badly is said all the same.
    """
    last, first = last or Output(0.0), first or Output(0.0)
    numbers = [*vars(now).values(), last.loss]
    if not all(map(math.isfinite, numbers)) or now.length > 1e4 * max(start.length, 1e-3):
        return "diverging"
    if abs(last.loss) > 1e3 * max(1.0, abs(first.loss)):
        return "diverging"
    # Random weights after a ReLU already give similar vectors, so the start sets the scale.
    if now.spread < 0.1 * min(1.0, start.spread) or now.length < 1e-4 * start.length:
        return "full collapse"
    # Batch norm keeps an encoder's vectors apart while the head behind it maps them all to one.
    if last.spread is not None and last.spread < 0.1 * min(1.0, first.spread or 0.0):
        return "full collapse"
    if now.rank < 3 and now.rank < 0.5 * start.rank:
        return "dimensional collapse"
    if now.rank < 0.25 * start.rank and now.agreement <= start.agreement:
        return "dimensional collapse"
    if not enough:
        return TOO_EARLY
    # Agreement alone is coarse on few items, and near 1 from the start where views are weak.
    if now.agreement >= start.agreement + 0.04 or apart(now) <= 0.9 * apart(start):
        return "healthy"
    return "slow" if progress >= 0.25 else TOO_EARLY


def apart(signs: Signs) -> float:
    """Distance of two views of an item, in units of the distance of two items."""
    return signs.alignment / max(signs.spread**2, 1e-12)


class Health:
    """Looks at fixed views of held-out items from time to time and keeps the story.

    `views` makes two views [n ...] of each held-out item, the same at every call.
    """

    PATIENCE = 2  # bad looks in a row that stop a run

    def __init__(self, encoder: Encoder, views: Callable[[], list[Tensor]]) -> None:
        self.encoder = encoder
        self.views = views
        self.start: Signs | None = None
        self.first: Output | None = None
        self.last: Output | None = None
        self.verdict: Verdict = TOO_EARLY
        self.bad = 0

    def step(self, logs: Mapping[str, float]) -> None:
        """Take note of what the learner logged of a step."""
        self.last = Output(logs["loss"], logs.get("spread"))
        self.first = self.first or self.last

    def look(self, progress: float, step: int) -> Signs:
        """Measure and judge after `step` steps, which are the share `progress` of the run."""
        if self.start is None:
            with torch.no_grad(), own_statistics(self.encoder):
                self.start, vectors = look(self.encoder, self.views())
            signs = self.start
        else:
            signs, vectors = look(self.encoder, self.views())
        enough = step >= LEAST_STEPS and len(vectors) >= LEAST_ITEMS
        self.verdict = judge(signs, self.start, progress, self.last, self.first, enough)
        self.bad = self.bad + 1 if self.verdict in ENDS_BADLY else 0
        return signs

    def measured(self, progress: float, step: int) -> dict[str, float]:
        """The signs of a look, as they are logged."""
        return {f"health/{name}": value for name, value in vars(self.look(progress, step)).items()}

    @property
    def hopeless(self) -> bool:
        return self.bad >= self.PATIENCE

    def state(self) -> dict[str, object]:
        return {
            "start": vars(self.start) if self.start else None,
            "first": vars(self.first) if self.first else None,
            "verdict": self.verdict,
            "bad": self.bad,
        }

    def restore(self, state: dict[str, object]) -> None:
        start, first = state.get("start"), state.get("first")
        self.start = Signs(**start) if isinstance(start, dict) else None
        self.first = Output(**first) if isinstance(first, dict) else None
        self.verdict = str(state.get("verdict", TOO_EARLY))
        bad = state.get("bad", 0)
        self.bad = bad if isinstance(bad, int) else 0
