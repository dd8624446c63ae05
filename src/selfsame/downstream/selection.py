"""Selection: a diverse subset of items, by k-centre or by facility location. Nothing is trained.

Source: k-centre greedy, Gonzalez 1985: its radius is at most twice the least there is; for images in Sener & Savarese
        2018, arXiv 1708.00489. Facility location greedy, Nemhauser, Wolsey & Fisher 1978: at least 1 - 1/e of the best;
        lazily, Minoux 1978.
Raises: UserError on counts that cannot be met.

Distances are Euclidean between unit vectors, 0 to 2: a metric, as the bound of k-centre needs (1 - cosine is none).
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from selfsame.downstream.vectors import check_alone
from selfsame.errors import UserError
from selfsame.types import mixed

__all__ = ["MOST", "RULES", "coverage", "facility_location", "k_centre", "randomly", "to_nearest"]

BLOCK = 2**24  # similarities held at once: 64 MB
TOGETHER = 32  # candidates whose gain is computed at once
MOST = 50_000  # items that facility location looks at: it compares all with all at the start
RULES = ("k-centre", "facility", "random")


def k_centre(vectors: Float[Tensor, "n d"], count: int) -> tuple[Int[np.ndarray, "count"], Float[np.ndarray, "count"]]:
    """Items so that the furthest item from the chosen ones is near, in order; and how far each was when chosen.

    The first is nearest to the mean; each further one is the furthest from those chosen, of equals the lowest. Takes
    count × n × d operations and n numbers beside the vectors. Raises UserError unless 1 <= count <= n.
    """
    unit = checked(vectors, count)
    first = int((unit @ unit.mean(dim=0)).argmax())
    chosen, far = [first], [0.0]
    near = squared(unit, unit[first])
    for _ in range(count - 1):
        near[chosen[-1]] = -1  # of equal vectors each is chosen once
        furthest = int(near.argmax())
        far.append(float(near[furthest].clamp(min=0).sqrt()))
        chosen.append(furthest)
        near = torch.where(near < 0, near, torch.minimum(near, squared(unit, unit[furthest])))
    return np.array(chosen), np.array(far)


def facility_location(
    vectors: Float[Tensor, "n d"], count: int, seed: int = 0, most: int = MOST
) -> tuple[Int[np.ndarray, "count"], Float[np.ndarray, "count"]]:
    """Items so that every item is like one of those chosen, in order; and what each added.

    They make large the sum over items of their likeness (1 + cosine) / 2, in [0, 1], to the likest chosen one. Each
    next one adds most, of equals the lowest. Of more than `most` items a sample, drawn by the seed, is looked at, and
    chosen from. Nothing of size n² is held. Raises UserError unless 1 <= count <= the items looked at.
    """
    unit = checked(vectors, count)
    looked = np.arange(len(unit))
    if len(unit) > most:
        looked = np.sort(np.random.default_rng(mixed(seed, 51)).permutation(len(unit))[:most])
        unit = unit[torch.from_numpy(looked).to(unit.device)]
    if count > len(unit):
        raise UserError(f"--count {count}: facility location chooses among {len(unit):,} items. Give as many or fewer.")
    best = unit.new_zeros(len(unit))

    def gains(candidates: Int[Tensor, "c"]) -> Float[np.ndarray, "c"]:
        likeness = (unit[candidates] @ unit.T).add_(1).div_(2)
        return (likeness - best).clamp_(min=0).sum(dim=1, dtype=torch.float64).cpu().numpy()

    rows = max(1, BLOCK // len(unit))
    # A gain never grows as others are chosen, so that an old one is a bound from above.
    bound = np.concatenate([gains(part) for part in torch.arange(len(unit), device=unit.device).split(rows)])
    fresh = np.ones(len(unit), dtype=bool)
    chosen: list[int] = []
    added: list[float] = []
    while len(chosen) < count:
        top = int(bound.argmax())
        if fresh[top]:
            added.append(float(bound[top]))
            chosen.append(top)
            bound[top] = -np.inf
            best = torch.maximum(best, (unit @ unit[top]).add_(1).div_(2))
            fresh[:] = False
            continue
        stale = np.flatnonzero(~fresh & np.isfinite(bound))
        some = stale if len(stale) <= TOGETHER else stale[np.argpartition(-bound[stale], TOGETHER)[:TOGETHER]]
        some = np.union1d(some, [top])  # where many are equal it need not be among those
        bound[some] = gains(torch.from_numpy(some).to(unit.device))
        fresh[some] = True
    return looked[chosen], np.array(added)


def randomly(items: int, count: int, seed: int) -> Int[np.ndarray, "count"]:
    """Items drawn by the seed."""
    return np.random.default_rng(mixed(seed, 52)).permutation(items)[:count]


def to_nearest(vectors: Float[Tensor, "n d"], chosen: Int[np.ndarray, "k"]) -> Float[np.ndarray, "n"]:
    """The distance of each item to the nearest chosen one, by blocks."""
    unit = F.normalize(vectors.float(), dim=1)
    kept = unit[torch.from_numpy(chosen).to(unit.device)]
    rows = max(1, BLOCK // len(kept))
    found = []
    for part in unit.split(rows):
        near = (part @ kept.T).argmax(dim=1)
        found.append((part - kept[near]).norm(dim=1).cpu().numpy())
    return np.concatenate(found)


def coverage(vectors: Float[Tensor, "n d"], chosen: Int[np.ndarray, "k"]) -> dict[str, float]:
    """How well chosen items stand for all: `radius` is the largest distance to the nearest chosen one, `mean` the mean.

    The lower the better. k-centre makes the radius small, facility location the mean.
    """
    near = to_nearest(vectors, chosen)
    return {"radius": float(near.max()), "mean": float(near.mean())}


def squared(unit: Float[Tensor, "n d"], one: Float[Tensor, "d"]) -> Float[Tensor, "n"]:
    return (2 - 2 * (unit @ one)).clamp_(min=0)


def checked(vectors: Float[Tensor, "n d"], count: int) -> Float[Tensor, "n d"]:
    """The unit vectors. Raises UserError where they cannot be compared, or are too few."""
    check_alone(vectors)
    if not 1 <= count <= len(vectors):
        raise UserError(f"--count {count}: give 1 to {len(vectors):,}, as many as there are items.")
    return F.normalize(vectors.float(), dim=1)
