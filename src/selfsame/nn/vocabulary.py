"""Words predicted from vectors: a small head tied to the vectors of the words themselves, and its cross-entropy.

Source: BERT, Devlin et al. 2018, arXiv 1810.04805, and its reference code (transform, norm, tied weights and a bias);
tied weights: Press & Wolf 2017, 1608.05859.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from selfsame.nn.sync import mean_of_rows

AT_ONCE = 2**26  # scores held at a time: 256 MB; more are computed in parts, and again for the gradient


class WordHead(nn.Module):
    """[... d] -> scores of all words: a layer, its norm, and how well that fits each word's own vector."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, tokens: Float[Tensor, "... d"], words: Float[Tensor, "v d"]) -> Float[Tensor, "... v"]:
        return F.linear(self.transform(tokens), words, self.bias.to(words.dtype))

    def losses(
        self, tokens: Float[Tensor, "b m d"], words: Float[Tensor, "v d"], targets: Int[Tensor, "b m"]
    ) -> tuple[Float[Tensor, "b m"], Bool[Tensor, "b m"]]:
        """The cross-entropy of each token, at least in float32, and whether the likeliest word was the right one."""
        rows = max(1, AT_ONCE // (tokens.shape[1] * len(words)))
        if rows >= len(tokens):
            return self._losses(tokens, words, targets)
        parts = [
            checkpoint(self._losses, some, words, goal, use_reentrant=False)
            for some, goal in zip(tokens.split(rows), targets.split(rows), strict=True)
        ]
        return torch.cat([loss for loss, _ in parts]), torch.cat([right for _, right in parts])

    def _losses(self, tokens: Tensor, words: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        scores = self(tokens, words)
        scores = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
        losses = F.cross_entropy(scores.flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)
        return losses, scores.detach().argmax(dim=-1) == targets


def counted_mean(values: Float[Tensor, "b m"], counted: Bool[Tensor, "b m"]) -> Float[Tensor, ""]:
    """The mean of what is counted in the rows of all processes: each place weighs the same, wherever its row is.

    What stands on one process is its share of that mean times the number of processes, whose mean is the mean.
    """
    weights = counted.to(values.dtype)
    number = mean_of_rows(weights.detach().sum(dim=1)).to(values.dtype).clamp(min=1e-6)
    return (values * weights).sum(dim=1).mean() / number
