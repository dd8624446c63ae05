"""Parts for methods that work on tokens: picking some by their places, and a small transformer."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from selfsame.nn.norm import largest_divisor

HEAD = 32  # width of an attention head, at most: predictors are narrow


def picked(tokens: Float[Tensor, "b n d"], where: Int[Tensor, "b m"]) -> Float[Tensor, "b m d"]:
    """The tokens at these places of each row."""
    return tokens.gather(1, where[..., None].expand(-1, -1, tokens.shape[-1]))


def standardised(tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """Each token with mean 0 and variance 1, at least in float32."""
    return nn.functional.layer_norm(wide(tokens), tokens.shape[-1:])


def wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def transformer(width: int, depth: int) -> nn.Sequential:
    """Blocks [b n width] of attention and a four times wider layer, each after its norm, without dropout.

    Source: Dosovitskiy et al. 2020, arXiv 2010.11929. The blocks' weights are drawn apart: torch's TransformerEncoder
    would begin with copies of one.
    """
    heads = largest_divisor(width, max(1, width // HEAD))
    return nn.Sequential(
        *(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
    )
