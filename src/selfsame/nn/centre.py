"""A running mean of scores, taken off a teacher's scores so that no output wins for all items.

Source: DINO, Caron et al. 2021, arXiv 2104.14294, equation 4; for patches too in iBOT, Zhou et al. 2021, 2111.07832.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from selfsame.nn.sync import summed


class Centre(nn.Module):
    """The mean of the scores of each of `width` outputs over earlier batches, of all processes. Starts at 0."""

    value: Tensor  # [k]

    def __init__(self, width: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(width))

    def forward(self, scores: Float[Tensor, "b k"], temperature: float | Tensor) -> Float[Tensor, "b k"]:
        """The distribution over outputs, centred and sharpened, in float32 at least."""
        return ((scores.float() - self.value if scores.itemsize < 4 else scores - self.value) / temperature).softmax(1)

    @torch.no_grad()
    def follow(self, scores: Float[Tensor, "b k"], counted: Bool[Tensor, "b"] | None = None) -> None:
        """Move towards the mean of these rows of all processes, or of those that are counted.

        To be called when the loss has used the old one: a batch's own mean must not centre itself. In eval mode
        nothing moves.
        """
        if not self.training:
            return
        rows = scores.to(self.value.dtype)
        ones = rows.new_ones(len(rows), 1) if counted is None else counted[:, None].to(rows.dtype)
        total = summed(torch.cat([rows * ones, ones], dim=1).sum(dim=0))
        self.value.lerp_(total[:-1] / total[-1], 1 - self.momentum)
