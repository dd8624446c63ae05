"""What is kept of each item: vectors of a batch, by item, for a bank that is equal on all processes.

Source: the memory bank, Wu et al. 2018, arXiv 1805.01978, section 3.1.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfsame.nn.sync import gathered


@torch.no_grad()
def by_item(vectors: Float[Tensor, "b d"], items: Int[Tensor, "b"]) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n"]]:
    """The vectors of all processes and their items, an item's rows alike: the mean of them, at least in float32.

    A batch that crosses the end of a pass can hold an item twice. Written to a bank as they are, the last would win,
    and on a GPU which is the last may differ from process to process.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        v = vectors.detach()
        v, items = gathered(v.float() if v.dtype in (torch.bfloat16, torch.float16) else v), gathered(items)
        same = (items[:, None] == items).to(v.dtype)
        return same @ v / same.sum(dim=1, keepdim=True), items
