"""Assignment of vectors to prototypes, each prototype equally often.

Source: Cuturi 2013, arXiv 1306.0895; as SwAV, Caron et al. 2020, arXiv 2006.09882, section 3.1, has it.
"""

import torch
import torch.distributed as td
from jaxtyping import Bool, Float
from torch import Tensor

from selfsame.nn.sync import summed


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "b k"],
    epsilon: float | Tensor = 0.05,
    iterations: int = 3,
    counted: Bool[Tensor, "b"] | None = None,
) -> Float[Tensor, "b k"]:
    """Soft assignments in float32: rows sum to 1, columns to about n / k over the n rows of all processes.

    The smaller `epsilon`, the harder. Computed in logarithms, so that scores of any size are safe. Rows that are not
    `counted` are assigned, but the columns' balance is that of the others alone.
    """
    with torch.autocast(scores.device.type, enabled=False):
        q = (scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores.detach()) / epsilon
        for _ in range(iterations):
            q = q - log_sum_of_rows(q if counted is None else q.masked_fill(~counted[:, None], float("-inf")))
            q = q - q.logsumexp(dim=1, keepdim=True)
        return q.exp()


def log_sum_of_rows(x: Float[Tensor, "b k"]) -> Float[Tensor, "k"]:
    """Logarithm of the sum of exponentials over the rows of all processes."""
    greatest = x.amax(dim=0)
    if td.is_initialized():
        td.all_reduce(greatest, td.ReduceOp.MAX)
    return greatest + summed((x - greatest).exp().sum(dim=0)).log()
