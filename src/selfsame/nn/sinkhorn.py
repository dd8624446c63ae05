"""Assignment of vectors to prototypes, each prototype equally often.

Source: Cuturi 2013, arXiv 1306.0895, algorithm 1 (rows and columns are scaled by vectors); as SwAV, Caron et al. 2020,
arXiv 2006.09882, section 3.1, has it.
"""

import torch
import torch.distributed as td
from jaxtyping import Bool, Float
from torch import Tensor

from selfsame.nn.portions import portions
from selfsame.nn.sync import summed


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "b k"],
    epsilon: float | Tensor = 0.05,
    iterations: int = 3,
    counted: Bool[Tensor, "b"] | None = None,
    wanted: int | None = None,
) -> Float[Tensor, "b k"]:
    """Soft assignments in float32: rows sum to 1, columns to about n / k over the n rows of all processes.

    The smaller `epsilon`, the harder. The first round is computed in logarithms, so that scores of any size are safe;
    after it each column has an entry of 1 / (n k) at least, and scaling can neither overflow nor divide by 0. Rows that
    are not `counted` are assigned, but the columns' balance is that of the others alone. `wanted`: how many rows are
    returned, the first ones, where the others serve the balance only.
    """
    with torch.autocast(scores.device.type, enabled=False):
        q = (scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores.detach()) / epsilon
        of_all = log_sum_of_rows(q, counted)
        for part in portions(q):
            part.copy_((part - of_all).softmax(dim=1))
        of_rows, of_columns = q.new_ones(len(q)), q.new_ones(q.shape[1])  # what both are multiplied by
        for _ in range(iterations - 1):
            of_columns = summed((of_rows if counted is None else of_rows * counted) @ q).reciprocal()
            of_rows = (q @ of_columns).reciprocal()
        return (q[:wanted] * of_rows[:wanted, None]).mul_(of_columns)


def log_sum_of_rows(x: Float[Tensor, "b k"], counted: Bool[Tensor, "b"] | None = None) -> Float[Tensor, "k"]:
    """Logarithm of the sum of exponentials over the rows of all processes, or over those that are counted."""
    parts = portions(x)
    marks = (x.new_ones(len(x), dtype=torch.bool) if counted is None else counted).split(len(parts[0]))
    greatest = torch.stack(
        [part.masked_fill(~mark[:, None], float("-inf")).amax(dim=0) for part, mark in zip(parts, marks, strict=True)]
    ).amax(dim=0)
    if td.is_initialized():
        td.all_reduce(greatest, td.ReduceOp.MAX)
    # Rows that do not count may be above the greatest. To mask them before takes exp many times as long on a processor.
    sums = [mark.to(x.dtype) @ (part - greatest).clamp_(max=0).exp_() for part, mark in zip(parts, marks, strict=True)]
    return greatest + summed(torch.stack(sums).sum(dim=0)).log()
