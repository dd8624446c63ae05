"""Similarity of pairs: do vectors lie as near as people found the items alike? Nothing is trained.

Source: the protocol of STS-B, Cer et al. 2017, arXiv 1708.00055, with Spearman's correlation of the cosine, as in
Reimers & Gurevych 2019, 1908.10084, section 4.1.
Raises: UserError on pairs that cannot be compared.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from selfsame.errors import UserError

LEAST = 3  # pairs: with fewer a correlation says nothing


def similarity(one: Float[Tensor, "n d"], two: Float[Tensor, "n d"], scores: Float[Tensor, "n"]) -> float:
    """Spearman's correlation, -1 to 1, of the cosine of each pair with its score. A vector of 0 is like nothing."""
    if one.shape != two.shape or len(one) != len(scores):
        raise UserError(
            f"pairs of {len(one)} and {len(two)} vectors with {len(scores)} scores; give as many of one as of "
            "the other."
        )
    return spearman(F.cosine_similarity(one.double(), two.double()), scores.to(one.device))


def spearman(one: Float[Tensor, "n"], two: Float[Tensor, "n"]) -> float:
    """The correlation of the ranks, equal values having their mean rank; 0 where all values of a side are equal."""
    if len(one) < LEAST or len(one) != len(two):
        raise UserError(
            f"{len(one)} and {len(two)} values; a correlation needs as many on both sides, {LEAST} or more."
        )
    if not (one.isfinite().all() and two.isfinite().all()):
        raise UserError("some values are no finite numbers, so they have no rank.")
    a, b = (ranks(side) - (len(side) - 1) / 2 for side in (one, two))
    lengths = a.norm() * b.norm()
    # Rounding can take the quotient of equal ranks a little over 1.
    return float(((a @ b) / lengths).clamp(-1, 1)) if lengths > 0 else 0.0


def ranks(values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The place of each value in their order, from 0; of equal ones the mean of their places."""
    _, group, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count.double() + 1) / 2)[group]
