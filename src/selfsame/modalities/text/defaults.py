"""What is taken where the user names nothing: the length of views and the network."""

from typing import Any

from selfsame.modalities.text.stats import Stats

__all__ = ["default_encoder", "default_size", "network_names", "size_told"]


def default_size(stats: Stats | Any, large: bool) -> int:
    """Tokens that hold 95 % of the texts whole, a multiple of 8: at least 8, at most 256 on a GPU and 128 on a CPU."""
    return max(8, min(256 if large else 128, -(-stats.lengths[3] // 8) * 8))


def size_told(size: int, stats: Stats | Any) -> str:
    return f"{size} tokens"


def default_encoder(size: int, large: bool) -> str:
    """On a GPU bert-small, on a CPU bert-tiny."""
    return "bert-small" if large else "bert-tiny"


def network_names() -> list[str]:
    from selfsame.modalities.text.networks import known

    return known()
