"""Which labelled items are used: class numbers, label budgets and stratified parts, all functions of a seed.

Budgets follow the 1 % and 10 % of Chen et al. 2020 (SimCLR, arXiv 2002.05709), drawn class by class.
Raises: UserError on a budget that cannot be read or met.
"""

import re
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from selfsame.errors import UserError
from selfsame.types import mixed


def numbered(train: Sequence[str], test: Sequence[str]) -> tuple[list[str], Int[Tensor, "n"], Int[Tensor, "m"]]:
    """Class names and the class number of every train and test item, one numbering for both.

    Train's classes come first, sorted; those only test has follow, so that a number >= the number of train's
    classes means "cannot be right".
    """
    seen = sorted(set(train))
    names = seen + sorted(set(test) - set(seen))
    number = {name: i for i, name in enumerate(names)}
    return (
        names,
        torch.tensor([number[name] for name in train], dtype=torch.long),
        torch.tensor([number[name] for name in test], dtype=torch.long),
    )


def budget(labels: Int[Tensor, "n"], wanted: str, seed: int) -> Int[Tensor, "m"]:
    """The items whose labels may be used, ascending: "all", a share such as "1%" or a number such as "10/class".

    Stratified: a share takes that share of every class, rounded, and at least one item. The same seed gives the
    same items whatever the features, and a smaller budget is part of a larger one.
    Raises UserError on text of another form, a share outside ]0, 100], or a class with too few items.
    """
    share, each = read_budget(wanted)
    if share is not None:
        return _first(labels, seed, lambda count: max(1, int(share / 100 * count + 0.5)))
    if each is not None:
        fewest = int(labels.unique(return_counts=True)[1].min())
        if fewest < each:
            raise UserError(
                f"labels {wanted!r}: the rarest class has {fewest} items. Ask for at most {fewest}/class, or a share."
            )
        return _first(labels, seed, lambda count: each)
    return torch.arange(len(labels))


def read_budget(wanted: str) -> tuple[float | None, int | None]:
    """The share in per cent or the number of each class that is meant; (None, None) for all. Raises UserError."""
    if wanted == "all":
        return None, None
    share = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", wanted)
    each = re.fullmatch(r"(\d+)\s*/\s*class", wanted)
    if share and 0 < float(share[1]) <= 100:
        return float(share[1]), None
    if each and int(each[1]) > 0:
        return None, int(each[1])
    raise UserError(f"labels {wanted!r} cannot be read. Accepted: all, a share such as 1% or 10%, or 10/class.")


def stratified_split(
    labels: Int[Tensor, "n"], test_share: float, seed: int
) -> tuple[Int[Tensor, "a"], Int[Tensor, "b"]]:
    """Indices (kept, held out), ascending, disjoint and complete; `test_share` of every class is held out.

    Of a class of two or more, at least one item falls on either side; a lone item is kept.
    Raises UserError unless 0 < test_share < 1.
    """
    if not 0 < test_share < 1:
        raise UserError(f"the share to hold out is {test_share}; it must lie between 0 and 1.")
    held = _first(
        labels, seed, lambda count: 0 if count == 1 else min(max(1, int(test_share * count + 0.5)), count - 1)
    )
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held] = False
    return kept.nonzero().flatten(), held


def grouped_split(
    labels: Int[Tensor, "n"], groups: Int[Tensor, "n"], test_share: float, seed: int
) -> tuple[Int[Tensor, "a"], Int[Tensor, "b"]]:
    """Indices (kept, held out), ascending, disjoint and complete; no group has items on both sides.

    Groups are held out in an order drawn by the seed, each if that brings the classes nearer to `test_share` of each:
    nearer in the sum over classes of the squared share too few or too many, in items. At least one group is held out,
    and one kept. Raises UserError unless 0 < test_share < 1 and there are two groups.
    """
    if not 0 < test_share < 1:
        raise UserError(f"the share to hold out is {test_share}; it must lie between 0 and 1.")
    classes, groups = labels.cpu().unique(return_inverse=True)[1], groups.cpu().unique(return_inverse=True)[1]
    number = int(groups.max()) + 1 if len(groups) else 0
    if number < 2:
        raise UserError(f"the {len(labels)} items are of one group: none can be held out.")
    counts = torch.zeros(number, int(classes.max()) + 1, dtype=torch.float64)
    counts.index_put_((groups, classes), torch.ones(len(groups), dtype=torch.float64), accumulate=True)
    total = counts.sum(dim=0)

    def off(held: Tensor) -> float:
        return float(((held - test_share * total) ** 2 / total).sum())

    chosen: list[int] = []
    held = torch.zeros_like(total)
    for group in torch.randperm(number, generator=Generator().manual_seed(mixed(seed, 31))).tolist():
        if len(chosen) < number - 1 and off(held + counts[group]) < off(held):
            chosen.append(group)
            held += counts[group]
    if not chosen:  # all are large: the one that comes nearest
        chosen = [min(range(number), key=lambda group: off(counts[group]))]
    mask = torch.isin(groups, torch.tensor(chosen))
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def _first(labels: Tensor, seed: int, number: Callable[[int], int]) -> Tensor:
    """The first number(size) items of every class, in an order drawn for that class alone; ascending."""
    labels = labels.cpu()
    taken = []
    for label in labels.unique().tolist():
        items = (labels == label).nonzero().flatten()
        order = torch.randperm(len(items), generator=Generator().manual_seed(mixed(seed, label)))
        taken.append(items[order[: number(len(items))]])
    return torch.cat(taken).sort().values
