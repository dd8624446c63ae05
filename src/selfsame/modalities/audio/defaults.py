"""What is chosen where the user says nothing."""

from selfsame.modalities.audio.reading import Stats
from selfsame.modalities.audio.recipes import BLOCK, whole_blocks

__all__ = ["default_encoder", "default_size", "network_names", "size_told"]

SHORTEST, LONGEST, LARGE = 32, 96, 192  # frames of a view: BYOL-A's is 96, at 10 ms 0.95 s; twice that on a GPU


def default_size(stats: Stats, large: bool) -> int:
    """As long as nine in ten items, but 0.3 to 0.95 s at 10 ms a frame, on a GPU up to 1.9 s; in samples."""
    most = (LARGE if large else LONGEST) // BLOCK
    size = whole_blocks(stats.seconds[2] * stats.rate, stats, SHORTEST // BLOCK)
    return min(size, (BLOCK * most - 1) * stats.hop)


def size_told(size: int, stats: Stats) -> str:
    """As in: 0.95 s at 16 kHz (96 frames)."""
    return f"{size / stats.rate:.2f} s at {stats.rate / 1000:g} kHz ({1 + size // stats.hop} frames)"


def default_encoder(size: int, large: bool) -> str:
    """A residual net on log-mel spectrograms; on a CPU one of half the depth and width, several times as fast."""
    return "resnet18" if large else "resnet10t@0.5"


def network_names() -> list[str]:
    """Those of timm, on spectrograms, and our own."""
    import timm

    from selfsame.modalities.audio.networks import OWN, WAVES

    return [*timm.list_models(), *OWN, *(f"wave/{one}" for one in WAVES)]
