"""Attention of short rows on a processor, in bfloat16, written out as two products.

Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1. torch's fused kernel for the CPU needs less memory and
wins for long rows, but its backward pass in bfloat16 takes several times as long (torch 2.14: a row of 65 with 4 heads
of 32, forward and backward, 43 ms; written out 8 ms).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

FUSED = F.scaled_dot_product_attention
LONGEST = 1024  # queries or keys of a row; from about 2,000 on the fused kernel is faster, and much smaller


@contextmanager
def written_out() -> Iterator[None]:
    """Under it, attention in bfloat16 on a processor goes by `attention` where rows are short; all else as ever.

    torch's function is exchanged by name: a torch function mode would not see it inside of `nn.MultiheadAttention`.
    """
    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = chosen
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before


def chosen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`attention` where it is faster and means the same, torch's function otherwise, whose arguments it takes."""
    plain = not (dropout_p or is_causal or enable_gqa or torch.compiler.is_compiling())
    known = attn_mask is None or attn_mask.dtype == torch.bool
    short = max(query.shape[-2], key.shape[-2]) <= LONGEST
    if plain and known and short and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return attention(query, key, value, attn_mask, scale)
    return FUSED(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


def attention(
    query: Float[Tensor, "*b n d"],
    key: Float[Tensor, "*b m d"],
    value: Float[Tensor, "*b m e"],
    seen: Bool[Tensor, "..."] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "*b n e"]:
    """softmax(query key^T * scale) value over the keys that are `seen`; scale is 1 / sqrt(d) unless given.

    `seen` is broadcast to [*b n m]. A query that sees no key gets 0, as from torch's function.
    """
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if seen is None:
        return scores.softmax(dim=-1) @ value
    # Not minus infinity: where all are, the softmax and its gradient would be no numbers.
    shares = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return shares.masked_fill(~seen.any(dim=-1, keepdim=True), 0.0) @ value
