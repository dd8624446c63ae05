"""Second moments of vectors: what methods that shun redundancy are made of."""

import torch
from jaxtyping import Float
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """The same in float32, or in float64 where it is that: sums over a batch and over d² products need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def off_diagonal(m: Float[Tensor, "d d"]) -> Float[Tensor, "e d"]:
    """All of a square matrix but its diagonal, without a copy of what contiguous rows hold; e = d - 1.

    Behind the first diagonal element d more follow up to the next: so in rows of d + 1 the diagonal is the last column.
    """
    d = len(m)
    return m.flatten()[1:].view(d - 1, d + 1)[:, :-1]
