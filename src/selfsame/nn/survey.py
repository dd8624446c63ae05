"""What a learner keeps of a look at all items."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from selfsame.errors import UserError
from selfsame.nn.sync import gathered
from selfsame.types import Look


@torch.no_grad()
def vectors_of(look: Look, make: Callable[[Tensor], Tensor], items: int) -> Float[Tensor, "items *d"]:
    """What `make` gives for the plain view of each item, by item, at least in float32, the same on all processes."""
    found: Tensor | None = None
    for (view,), which in look:
        made = make(view)
        made = gathered(made.float() if made.dtype in (torch.bfloat16, torch.float16) else made)
        if found is None:
            found = made.new_zeros(items, *made.shape[1:])
        found.index_copy_(0, gathered(which), made)
    if found is None:
        raise UserError("the survey showed no items. `survey` takes batches of ([view], items).")
    return found
