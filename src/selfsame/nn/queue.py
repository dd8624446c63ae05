"""A queue of vectors from earlier batches, the same on all processes.

Source: MoCo, He et al. 2020, arXiv 1911.05722, section 3.2; used so by SwAV, SCE and bag-of-words vocabularies too.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from selfsame.nn.sync import gathered


class Queue(nn.Module):
    """The last `length` vectors pushed. It starts with random unit vectors, as MoCo's reference code has it.

    All of it is in buffers: saved, resumed, and equal on all processes, for each pushes the rows of all.
    """

    rows: Tensor  # [n d]
    place: Tensor  # where the next vector goes
    pushed: Tensor  # how many there were, ever

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(length, width), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return len(self.rows)

    def forward(self) -> Float[Tensor, "n d"]:
        """What it holds now: a copy, so that a loss may keep it while the queue moves on."""
        return self.rows.clone()

    @property
    def full(self) -> Tensor:
        """Whether all of it has been pushed, as a truth value on its device."""
        return self.pushed >= len(self.rows)

    @torch.no_grad()
    def push(self, vectors: Float[Tensor, "b d"]) -> None:
        """Put this batch's vectors, of all processes, in the place of the oldest. At most as many as it is long."""
        fresh = gathered(vectors.detach()).to(self.rows.dtype)[-len(self.rows) :]
        spots = (self.place + torch.arange(len(fresh), device=fresh.device)) % len(self.rows)
        self.rows.index_copy_(0, spots, fresh)
        self.place.copy_((self.place + len(fresh)) % len(self.rows))
        self.pushed += len(fresh)
