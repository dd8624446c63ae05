"""k-means over vectors that all processes hold, each working on its share, and what clusters are compared by.

Source: Lloyd 1982; empty clusters as faiss treats them for DeepCluster (arXiv 1807.05520, section 3.3): a large one is
split by a small push. Spherical: DeepCluster v2 in SwAV, 2006.09882, appendix; nearness is the cosine.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from selfsame.nn.sync import shared, summed, world

BLOCK = 2**24  # distances held at once: 64 MB
PUSH = 1 / 1024  # of the centroids' spread: how far the halves of a cluster are set apart


@torch.no_grad()
def kmeans(
    x: Float[Tensor, "n d"], k: int, seed: int, iterations: int = 20, spherical: bool = False
) -> tuple[Float[Tensor, "k d"], Int[Tensor, "n"]]:
    """Centroids and the nearest one of each row, the same on all processes.

    It starts from k different rows, chosen by the seed. `x` is the same on all processes.
    """
    generator = Generator().manual_seed(seed)
    centroids = x[torch.randperm(len(x), generator=generator)[:k].to(x.device)]
    centroids = F.normalize(centroids, dim=1) if spherical else centroids.clone()
    mine = share(len(x))
    for _ in range(iterations):
        labels = nearest(x[mine], centroids, spherical)
        sums = summed(torch.zeros_like(centroids).index_add_(0, labels, x[mine]))
        sizes = summed(torch.bincount(labels, minlength=k).to(x.dtype))
        centroids = refilled(torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], 0), sizes, generator)
        if spherical:
            centroids = F.normalize(centroids, dim=1)
    centroids = shared(centroids)
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    labels[mine] = nearest(x[mine], centroids, spherical)
    return centroids, summed(labels)


def nearest(x: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"], spherical: bool = False) -> Int[Tensor, "n"]:
    """The nearest centroid of each row, block by block; by the cosine of unit centroids if spherical."""
    half = 0 * centroids[:, 0] if spherical else centroids.square().sum(dim=1) / 2
    rows = max(1, BLOCK // len(centroids))
    blocks = [torch.addmm(half, part, centroids.T, alpha=-1).argmin(dim=1) for part in x.split(rows)]
    return torch.cat(blocks) if blocks else torch.zeros(0, dtype=torch.long, device=x.device)


def refilled(centroids: Float[Tensor, "k d"], sizes: Float[Tensor, "k"], generator: Generator) -> Tensor:
    """Centroids in which each empty cluster got half of another, chosen by its size."""
    empty = (sizes == 0).nonzero().flatten()
    if not len(empty):
        return centroids
    chances = (sizes.cpu().double() - 1).clamp(min=0)
    if not chances.any():
        return centroids
    donors = torch.multinomial(chances, len(empty), replacement=True, generator=generator).to(centroids.device)
    push = torch.randn(len(empty), centroids.shape[1], generator=generator).to(centroids)
    centroids[empty] = centroids[donors] + PUSH * centroids[sizes > 0].square().mean().sqrt() * push
    return centroids


def share(n: int) -> slice:
    """This process's part of n rows that all hold."""
    rank = torch.distributed.get_rank() if world() > 1 else 0
    return slice(n * rank // world(), n * (rank + 1) // world())


@torch.no_grad()
def whitened(x: Float[Tensor, "n d"], components: int) -> Float[Tensor, "n c"]:
    """Unit vectors of at most `components` principal components, each of variance 1 before.

    Components of next to no variance are left at 0: of numerical noise no direction is made. As in DeepCluster's code.
    """
    mean = x.mean(dim=0)
    mine = share(len(x))
    covariance = x.new_zeros(x.shape[1], x.shape[1])
    for part in x[mine].split(max(1, BLOCK // x.shape[1])):
        covariance += (part - mean).T @ (part - mean)
    values, axes = torch.linalg.eigh(shared(summed(covariance)) / len(x))
    values, axes = shared(values.flip(0)[:components]), shared(axes.flip(1)[:, :components])
    scale = torch.where(values > 1e-6 * values[0], values.clamp(min=torch.finfo(x.dtype).tiny).rsqrt(), 0)
    return F.normalize((x - mean) @ (axes * scale), dim=1)


@torch.no_grad()
def agreement(one: Int[Tensor, "n"], two: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """Normalised mutual information of two labellings, 0 to 1, whatever the labels are called (geometric mean)."""
    counts = [labels.unique(return_counts=True)[1] for labels in (one, two)]
    counts.append(torch.stack([one, two]).unique(dim=1, return_counts=True)[1])
    first, second, joint = (-(p * p.log()).sum() for p in (count.double() / len(one) for count in counts))
    if not first * second:  # all alike in one of them
        return (first == second).double()
    return ((first + second - joint) / (first * second).sqrt()).clamp(0, 1)
