"""What every method is tried with: small settings, a small encoder of the kind it needs, small views."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from selfsame import methods
from selfsame.records import Budget, Method, ViewPlan
from selfsame.types import Encoder, Learner
from tests.conftest import Tiny, TinyTokens, TinyWords

ITEMS = 12
BUDGET = Budget(items=ITEMS, batch=ITEMS, steps=100, dim=8)
SMALL = {"hidden": 16, "out": 8}  # sizes, where a method has them; the rest is fitted to BUDGET
ALSO = {  # so that what is left out of short runs is tried too
    "swav": {"part_views": 2, "queue": 12, "queue_from": 0.0},
    # A centre that comes near while it learns lifts the loss, for good reason: here it hardly moves.
    "dino": {"part_views": 2, "centre_momentum": 0.99},
    "dinov2": {"part_views": 2, "centre_momentum": 0.99},
    "msn": {"part_views": 2, "drop": 0.5},
}
SIDE, PART = 16, 8  # pixels of full and of part views


def settings_of(name: str, budget: Budget = BUDGET, **settings: object) -> Method:
    """The method at a size that takes milliseconds."""
    kind = methods.load(name)
    small = {key: value for key, value in SMALL.items() if key in kind.model_fields}
    return kind(**{**small, **ALSO.get(name, {}), **settings}).fitted(budget)


def encoder_for(method: Method) -> Encoder:
    if "words" in method.needs:
        return TinyWords()
    return TinyTokens() if "tokens" in method.needs else Tiny()


def views_of(method: Method, rows: int = ITEMS, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Views for what the method needs: words for those that need words, pictures for all others."""
    return texts_for(method.plan, rows) if "words" in method.needs else views_for(method.plan, rows, dtype)


def texts_for(plan: ViewPlan, rows: int = ITEMS) -> list[Tensor]:
    """Texts of 6 to 12 words, five of the vocabulary in a round; random views have a few others."""
    generator = torch.Generator().manual_seed(1)
    item = 1 + (torch.arange(12) + torch.randint(5, (rows, 1), generator=generator)) % 5
    item = item * (torch.arange(12) < torch.randint(6, 13, (rows, 1), generator=generator))

    def noisy() -> Tensor:
        other = torch.randint(1, TinyWords.vocabulary, item.shape, generator=generator)
        return torch.where((torch.rand(item.shape, generator=generator) < 0.1) & (item != 0), other, item)

    return [noisy() for _ in range(plan.full)] + [noisy()[:, :6] for _ in range(plan.part)] + [item] * plan.plain


def views_for(plan: ViewPlan, rows: int = ITEMS, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """As many views of the same pictures as the plan asks for: crops of two sizes, and the pictures as they are."""
    generator = torch.Generator().manual_seed(1)
    item = torch.rand(rows, 3, SIDE, SIDE, generator=generator).to(dtype)

    def noisy(x: Tensor) -> Tensor:
        return (x + 0.1 * torch.rand(x.shape, generator=generator).to(dtype)).clamp(0, 1)

    full = [noisy(item) for _ in range(plan.full)]
    part = [noisy(item[..., top : top + PART, :PART]) for top in (2 * k % (SIDE - PART) for k in range(plan.part))]
    return full + part + [item] * plan.plain


def surveyed(
    rows: int, batch: int = 6, dtype: torch.dtype = torch.float32, rank: int = 0, world: int = 1
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """All items as they are, as `Learner.survey` sees them: the share of one process."""
    (item,) = views_for(ViewPlan(full=0, plain=1), rows, dtype)
    for start in range(0, rows, batch):
        mine = slice(start + rank, min(rows, start + batch), world)
        yield [item[mine]], torch.arange(rows)[mine]


class AsItIs(Encoder):
    """Views that are vectors already: [b d] -> [b d], so that a loss can be checked on numbers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, view: Tensor) -> Tensor:
        return view


def loss_alone(method: Method, dim: int) -> Learner:
    """The method's learner without encoder and projector: what it makes of vectors."""
    learner = method.changed(hidden=1, out=dim).build(AsItIs(dim), ITEMS)
    learner.projector = nn.Identity()
    return learner
