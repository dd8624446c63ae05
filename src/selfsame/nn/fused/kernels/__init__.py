"""Triton kernels that pass over activations as few times as can be. `twins` says in torch what each computes."""

from selfsame.nn.fused.kernels.images import (
    opened,
    opened_back,
    pooled,
    pooled_back,
    scaled,
    squared,
    thickened,
    thinned,
)
from selfsame.nn.fused.kernels.norms import (
    activated,
    activated_and_summed,
    back,
    joined,
    masked_and_summed,
    moments,
    summed,
)
from selfsame.nn.fused.kernels.products import (
    fold,
    multiplied_and_joined,
    multiplied_both,
    multiplied_masked_and_summed,
    unfold,
)

__all__ = [
    "activated", "activated_and_summed", "back", "fold", "joined", "masked_and_summed", "moments",
    "multiplied_and_joined", "multiplied_both", "multiplied_masked_and_summed", "opened", "opened_back", "pooled",
    "pooled_back", "scaled", "squared", "summed", "thickened", "thinned", "unfold",
]  # fmt: skip
