"""Sizes of views and networks where the user names none."""

from selfsame.modalities.table.stats import Stats

__all__ = ["default_encoder", "default_size", "network_names", "size_told"]

LONGEST = {False: 64, True: 256}  # events of a view at most, on a CPU and on a GPU; a choice
SHORTEST = 4


def default_size(stats: Stats, large: bool) -> int:
    """The columns of a row; of a sequence as many events as nine of ten users have at most, but no more than 64, on a
    GPU 256."""
    return max(SHORTEST, min(LONGEST[large], stats.events)) if stats.by else len(stats.columns)


def size_told(size: int, stats: Stats) -> str:
    """As in: 14 columns, or: 64 events of 5 columns."""
    columns = f"{len(stats.columns)} column{'s' if len(stats.columns) != 1 else ''}"
    return f"{size} events of {columns}" if stats.by else columns


def default_encoder(size: int, large: bool) -> str:
    """A residual MLP, which trains fastest; on a GPU twice as wide."""
    return "mlp@2" if large else "mlp"


def network_names() -> list[str]:
    from selfsame.modalities.table.encoder import MLPS, TRANSFORMERS

    return [*MLPS, *TRANSFORMERS]
