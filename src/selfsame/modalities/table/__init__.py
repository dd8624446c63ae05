"""Tables: rows of CSV and Parquet files, or the events of a user. The package is the object that `types.Modality` names.

Names are loaded when they are first used, so that `reads` costs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfsame.modalities.table.stats import Stats

name = "table"
raw_name = "one-hot and scaled numbers"

_PLACES = {
    "Reading": "reading",
    "Stats": "stats",
    "View": "recipes",
    "Views": "recipes",
    "build_encoder": "encoder",
    "contact_sheet": "sheet",
    "export": "exports",
    "fragment": "sheet",
    "load_encoder": "encoder",
    "make_encoder": "encoder",
    "make_views": "views",
    "measure": "measuring",
    "open_source": "source",
    "own_encoder": "encoder",
    "picture": "sheet",
    "raw_vectors": "flat",
    "reads": "source",
    "recipe": "recipes",
    "sample": "views",
    "save_encoder": "encoder",
}

__all__ = [*_PLACES, "default_encoder", "default_size", "name", "raw_name", "size_told"]

LONGEST = {False: 64, True: 256}  # events of a view at most, on a CPU and on a GPU; a choice


def __getattr__(asked: str) -> Any:
    if asked in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[asked]}"), asked)
    raise AttributeError(f"module {__name__!r} has no attribute {asked!r}. It has: {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted(__all__)


def default_size(stats: "Stats", large: bool) -> int:
    """The columns of a row; of a sequence as many events as nine of ten users have, at most 64, on a GPU 256."""
    return max(4, min(LONGEST[large], stats.events)) if stats.by else len(stats.columns)


def size_told(size: int, stats: "Stats") -> str:
    """As in: 14 columns, or: 64 events of 5 columns."""
    columns = f"{len(stats.columns)} column{'s' if len(stats.columns) != 1 else ''}"
    return f"{size} events of {columns}" if stats.by else columns


def default_encoder(size: int, large: bool) -> str:
    """A residual MLP, which trains fastest; on a GPU twice as wide."""
    return "mlp@2" if large else "mlp"
