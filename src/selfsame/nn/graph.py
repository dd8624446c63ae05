"""Graphs of nearest neighbours: who is near, who can be reached in a circle, how far two are apart.

All processes hold the same vectors and get the same answers; each works on its share, block by block.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from selfsame.nn.kmeans import BLOCK, share
from selfsame.nn.sync import summed

UNREACHED = 255  # distance of nodes that no path joins


@torch.no_grad()
def neighbours(x: Float[Tensor, "n d"], k: int) -> Int[Tensor, "n k"]:
    """The k rows of greatest cosine with each row, nearest first, without itself."""
    x = F.normalize(x, dim=1)
    links = torch.zeros(len(x), k, dtype=torch.long, device=x.device)
    for rows in blocks(len(x), len(x), x.device):
        scores = x[rows] @ x.T
        links[rows] = scores.scatter_(1, rows[:, None], float("-inf")).topk(k, dim=1).indices
    return summed(links)


@torch.no_grad()
def circles(links: Int[Tensor, "n k"], hops: int, priority: Float[Tensor, "n"], keep: int) -> Int[Tensor, "n keep"]:
    """For each node others from which and to which a path of at most `hops` leads, and that are no direct neighbours.

    At most `keep`, in an order by chance, which the numbers in [0, 1) of `priority` decide; -1 where there are fewer.
    Nodes that several paths reach may stand there several times.
    """
    n, k = links.shape
    wide = sum(k**hop for hop in range(1, hops + 1))
    found = torch.zeros(n, keep, dtype=torch.long, device=links.device)
    for rows in blocks(n, wide * wide, links.device):
        there = within(rows, links, hops)
        back = within(there.flatten(), links, hops).unflatten(0, there.shape)
        own = rows[:, None]
        direct = (there[..., None] == links[rows][:, None]).any(2) | (links[there] == own[..., None]).any(2)
        good = (back == own[..., None]).any(2) & (there != own) & ~direct
        order = torch.where(good, (priority[there] + priority[own]) % 1, -1.0)
        best, which = order.topk(min(keep, wide), dim=1)
        chosen = torch.where(best >= 0, there.gather(1, which), -1)
        found[rows] = F.pad(chosen, (0, keep - chosen.shape[1]), value=-1)
    return summed(found)


def within(nodes: Int[Tensor, "b"], links: Int[Tensor, "n k"], hops: int) -> Int[Tensor, "b m"]:
    """The ends of all paths of 1 to `hops` links from each node."""
    reached = [links[nodes]]
    for _ in range(hops - 1):
        reached.append(links[reached[-1]].flatten(1))
    return torch.cat(reached, dim=1)


@torch.no_grad()
def distances(links: Int[Tensor, "n k"], sources: Int[Tensor, "s"]) -> UInt8[Tensor, "s n"]:
    """Links on the shortest path from each source to each node, in either direction; UNREACHED where there is none."""
    found = torch.zeros(len(sources), len(links), dtype=torch.uint8, device=links.device)
    mine = share(len(sources))
    here = torch.full_like(found[mine], UNREACHED).scatter_(1, sources[mine, None], 0)
    while True:
        next_to, nearer = here.clamp(max=UNREACHED - 1) + 1, here.clone()
        for column in links.T:
            nearer = torch.minimum(nearer, next_to[:, column])
            nearer.scatter_reduce_(1, column.expand_as(here), next_to, "amin")
        if torch.equal(nearer, here):
            break
        here = nearer
    found[mine] = here
    return summed(found)


def blocks(n: int, wide: int, device: torch.device) -> tuple[Tensor, ...]:
    """The rows of this process's share, cut so that of `wide` numbers for each not too many are held at once."""
    mine = torch.arange(n, device=device)[share(n)]
    return mine.split(max(1, BLOCK // wide)) if len(mine) else ()
