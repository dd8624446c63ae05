"""What is taken where the user names nothing: the length of views and the network."""

from collections.abc import Sequence
from typing import Any

from selfsame.modalities.text.stats import Stats

__all__ = ["default_encoder", "default_size", "encoder_for", "network_names", "size_told"]


def default_size(stats: Stats | Any, large: bool) -> int:
    """Tokens that hold 95 % of the texts whole, a multiple of 8: at least 8, at most 256 on a GPU and 128 on a CPU."""
    return max(8, min(256 if large else 128, -(-stats.lengths[3] // 8) * 8))


def size_told(size: int, stats: Stats | Any) -> str:
    return f"{size} tokens"


def default_encoder(size: int, large: bool) -> str:
    """On a GPU bert-small, on a CPU bag-small."""
    return encoder_for((), size, large)[0]


def encoder_for(needs: Sequence[str], size: int, large: bool) -> tuple[str, str]:
    """On a GPU bert-small; on a CPU bag-small, or bert-tiny for methods that need tokens or words of their places.

    A CPU learns from some 200,000 texts in a run: bert-tiny was no better than its random weights
    after that or less, where averaged word vectors were (docs/text.md).
    """
    if large:
        return "bert-small", ""
    if {"tokens", "words"} & set(needs):
        return "bert-tiny", "a small transformer, which the method needs"
    return "bag-small", "averaged word vectors, for short runs"


def network_names() -> list[str]:
    from selfsame.modalities.text.networks import known

    return known()
