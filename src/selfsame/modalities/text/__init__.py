"""Texts: lines, files, tables with a column of text. The package is the object that `types.Modality` names.

Names are loaded when they are first used: asking whether a path holds texts loads no torch.
"""

import importlib
from typing import Any

_PLACES = {
    "Reading": "reading",
    "Stats": "stats",
    "Views": "recipes",
    "build_encoder": "encoder",
    "contact_sheet": "sheet",
    "default_encoder": "defaults",
    "default_size": "defaults",
    "export": "exporting",
    "fragment": "sheet",
    "load_encoder": "encoder",
    "make_encoder": "encoder",
    "make_views": "views",
    "measure": "stats",
    "open_source": "opening",
    "own_encoder": "encoder",
    "picture": "sheet",
    "raw_vectors": "raw",
    "reads": "opening",
    "recipe": "recipes",
    "sample": "views",
    "save_encoder": "encoder",
    "size_told": "defaults",
}

__all__ = [*_PLACES, "name", "raw_name"]

name = "text"
raw_name = "TF-IDF"


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
