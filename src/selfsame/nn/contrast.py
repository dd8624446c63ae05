"""Cross-entropy of picking the partner among others, in float32, over the rows of all processes.

Source: InfoNCE, van den Oord et al. 2018, arXiv 1807.03748, equation 4; NT-Xent, Chen et al. 2020 (SimCLR), 2002.05709,
equation 1. Temperatures divide the logits. Vectors are put on the unit sphere here, unless it is said otherwise.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from selfsame.nn.sync import gathered, places


def against(
    q: Float[Tensor, "b d"], positive: Float[Tensor, "b d"], negatives: Float[Tensor, "n d"], temperature: float
) -> Float[Tensor, ""]:
    """Each row's own positive among negatives that all rows share, as a queue's; log(1 + n) where all are alike."""
    return F.cross_entropy(
        logits_against(q, positive, negatives) / temperature, torch.zeros(len(q), dtype=torch.long, device=q.device)
    )


def logits_against(
    q: Float[Tensor, "b d"], positive: Float[Tensor, "b d"], negatives: Float[Tensor, "n d"]
) -> Float[Tensor, "b n+1"]:
    """Cosines with the positive (column 0) and with the negatives."""
    q, positive, negatives = (F.normalize(x.float(), dim=1) for x in (q, positive, negatives))
    return torch.cat([(q * positive).sum(dim=1, keepdim=True), dots(q, negatives)], dim=1)


def in_batch(q: Float[Tensor, "b d"], k: Float[Tensor, "b d"], temperature: float) -> Float[Tensor, ""]:
    """Each row's partner among those of the whole batch, of all processes; log n where all are alike.

    Gradients reach whatever of q and k carries them, on other processes too.
    """
    scores = dots(F.normalize(q.float(), dim=1), F.normalize(gathered(k.float()), dim=1))
    return F.cross_entropy(scores / temperature, places(len(q), q.device))


def nt_xent(one: Float[Tensor, "b d"], two: Float[Tensor, "b d"], temperature: float) -> Float[Tensor, ""]:
    """Each view's partner among the 2n - 1 other views of the whole batch, the mean over all views.

    Half of what SimCLR's reference code adds up; the paper's equation takes the mean too.
    """
    own = [F.normalize(x.float(), dim=1) for x in (one, two)]
    every = torch.cat([gathered(x) for x in own])
    here = places(len(one), one.device)
    half = len(every) // 2
    mine, partner = torch.cat([here, here + half]), torch.cat([here + half, here])
    scores = dots(torch.cat(own), every) / temperature
    return F.cross_entropy(scores.scatter(1, mine[:, None], float("-inf")), partner)


def dots(one: Float[Tensor, "b d"], two: Float[Tensor, "n d"]) -> Float[Tensor, "b n"]:
    """All dot products in float32, where autocast would take them in half precision: temperatures enlarge errors."""
    with torch.autocast(one.device.type, enabled=False):
        return one.float() @ two.float().T
