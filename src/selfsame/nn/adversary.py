"""A view made harder by projected gradient ascent on the loss.

Source: Madry et al. 2018, arXiv 1706.06083, section 2.1. Used by BYOL's adversarial view.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def ascend(
    view: Tensor,
    loss: Callable[[Tensor], Tensor],
    epsilon: float,
    alpha: float,
    steps: int,
    random_start: bool = True,
    limits: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """The view within `epsilon` (maximum norm) of `view`, and within the limits, that `steps` steps of `alpha` find.

    Args:
        view: [b ...] within the limits.
        limits: the least and the greatest value that a view can have; None where it can have any.
        loss: scalar of a view; the caller keeps batch-norm statistics and parameter gradients still.
        random_start: begin at a uniform random point of the ball, drawn from torch's global generator.
    """
    start = view.detach()
    low, high = limits or (-torch.inf, torch.inf)
    x = start
    if random_start:
        x = (start + torch.empty_like(start).uniform_(-epsilon, epsilon)).clamp(low, high)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(x), x)
        x = (x.detach() + alpha * gradient.sign()).clamp(start - epsilon, start + epsilon).clamp(low, high)
    return x.detach()
