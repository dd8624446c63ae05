"""Numbers that tell a healthy vector space from a collapsed one, without labels.

Source: RankMe, Garrido et al. 2023, arXiv 2210.02885, equation 1; alignment and uniformity, Wang & Isola 2020,
        2005.10242, section 4.1; spread, Chen & He 2021 (SimSiam), 2011.10566, section 4.1.
All of them compute in float32 on the vectors' device and return a scalar there; n should be in the thousands.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BLOCK = 2**24  # similarities held at once: 64 MB


def rankme(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How many directions the vectors use, 1 (collapsed) to min(n, d): exp of the entropy of the singular values.

    Vectors are not centred, so that a common offset counts as a direction.
    """
    s = torch.linalg.svdvals(z.float())
    p = s / s.sum().clamp(min=torch.finfo(s.dtype).tiny) + 1e-7
    return (-(p * p.log()).sum()).exp()


def participation_ratio(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How many directions the variance is spread over, 1 to d: (sum of eigenvalues)² / sum of their squares.

    The eigenvalues are the covariance's; 0 where there is no variance at all.
    """
    z = z.float() - z.float().mean(dim=0)
    values = torch.linalg.svdvals(z).square()
    values = values / values.max().clamp(min=torch.finfo(values.dtype).tiny)
    return values.sum().square() / values.square().sum().clamp(min=torch.finfo(values.dtype).tiny)


def alignment(one: Float[Tensor, "n d"], two: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean squared distance of the two views' unit vectors, 0 (the same) to 4 (opposite)."""
    return (F.normalize(one.float(), dim=1) - F.normalize(two.float(), dim=1)).square().sum(dim=1).mean()


def uniformity(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Log of the mean of exp(-2 squared distance) over pairs of unit vectors: 0 collapsed, about -4 evenly spread.

    Needs n² / 2 numbers of memory.
    """
    return (torch.pdist(F.normalize(z.float(), dim=1)).square() * -2).exp().mean().log()


def spread(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean over dimensions of the unit vectors' std, times sqrt(d): about 1 healthy, 0 collapsed."""
    return F.normalize(z.float(), dim=1).std(dim=0).mean() * z.shape[1] ** 0.5


def neighbour_agreement(one: Float[Tensor, "n d"], two: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Share of items whose nearest vector (cosine) among all items' second views is their own second view.

    1 tells every item apart; 1 / n is chance.
    """
    one, two = F.normalize(one.float(), dim=1), F.normalize(two.float(), dim=1)
    rows = max(1, BLOCK // len(two))
    with torch.autocast(one.device.type, enabled=False):
        nearest = torch.cat([(one[start : start + rows] @ two.T).argmax(dim=1) for start in range(0, len(one), rows)])
    return (nearest == torch.arange(len(one), device=nearest.device)).float().mean()
