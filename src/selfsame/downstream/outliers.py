"""Outliers: which items have no near neighbours? Nothing is trained.

Source: the distance to the k-th nearest neighbour, Ramaswamy et al. 2000 (SIGMOD), section 2; of unit vectors as in
        Sun et al. 2022, arXiv 2204.06507, section 3.
Raises: UserError on vectors that cannot be compared.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from selfsame.downstream.vectors import check_alone
from selfsame.errors import UserError
from selfsame.types import mixed

__all__ = ["MOST", "found_by", "kth_distances", "reference"]

BLOCK = 2**24  # similarities held at once: 64 MB
MOST = 100_000  # items that neighbours are sought among: with more, the work would grow with the square of the items


def reference(items: int, seed: int, most: int = MOST) -> Int[np.ndarray, "m"]:
    """The items that neighbours are sought among, ascending: all, or of more than `most` as many drawn by the seed."""
    if items <= most:
        return np.arange(items)
    return np.sort(np.random.default_rng(mixed(seed, 31)).permutation(items)[:most])


def kth_distances(
    vectors: Float[Tensor, "n d"], k: int, among: Int[np.ndarray, "m"] | None = None
) -> Float[np.ndarray, "n"]:
    """The Euclidean distance, 0 to 2, of each unit vector to its k-th nearest other one, exact and by blocks.

    `among`: the items that neighbours are sought among, all where not given. An item is no neighbour of its own. Equal
    vectors are at distance 0; a vector of 0 is at distance 1 from all others. Raises UserError on k < 1, k larger than
    there are neighbours, and vectors that are not finite.
    """
    check_alone(vectors)
    known = np.arange(len(vectors)) if among is None else among
    if not 1 <= k < len(known):
        raise UserError(
            f"--neighbour {k}: each of {len(known):,} items has {len(known) - 1:,} others. Give one of these."
            if len(known) > 1
            else "1 item has no neighbours. Give more items."
        )
    unit = F.normalize(vectors.float(), dim=1)
    others = unit if among is None else unit[torch.from_numpy(known).to(unit.device)]
    # Where each item stands among the neighbours, -1 where it does not.
    place = np.full(len(vectors), -1)
    place[known] = np.arange(len(known))
    found = np.empty(len(vectors))
    rows = max(1, BLOCK // len(known))
    for start in range(0, len(vectors), rows):
        cosine = unit[start : start + rows] @ others.T
        own = place[start : start + len(cosine)]
        there = np.flatnonzero(own >= 0)
        cosine[torch.from_numpy(there), torch.from_numpy(own[there])] = -torch.inf
        near = cosine.topk(k, dim=1).indices[:, -1]
        # From the vectors themselves: sqrt(2 - 2 cosine) of near ones would be the rounding of the cosine.
        gap = unit[start : start + rows].double() - others[near].double()
        found[start : start + rows] = gap.norm(dim=1).cpu().numpy()
    return found


def found_by(distances: Float[np.ndarray, "n"], strange: Bool[np.ndarray, "n"]) -> dict[str, float]:
    """How well distances find items known to be strange, each in [0, 1].

    `auroc`: the chance that a strange item is further out than another; `average_precision`; `first`: the share of
    strange ones among the first s items, s being their number. Raises UserError unless there are both kinds.
    """
    if strange.all() or not strange.any():
        raise UserError(f"{np.count_nonzero(strange)} of {len(strange)} items are strange; some must be and some not.")
    count = int(np.count_nonzero(strange))
    return {
        "auroc": float(roc_auc_score(strange, distances)),
        "average_precision": float(average_precision_score(strange, distances)),
        "first": float(strange[np.argsort(-distances, kind="stable")[:count]].mean()),
    }
