"""Series from sensors: arrays, tables, `.ts` files. The package is the object that `types.Modality` names.

Names are loaded when they are first used: to see whether a path holds series needs no torch.
"""

import importlib
from typing import Any

name = "signal"

_PLACES = {
    "Reading": "reading",
    "Stats": "stats",
    "measure": "stats",
    "open_source": "opening",
    "reads": "opening",
    "Views": "recipes",
    "recipe": "recipes",
    "make_views": "views",
    "sample": "views",
    "default_encoder": "defaults",
    "default_size": "defaults",
    "fragment": "defaults",
    "raw_name": "defaults",
    "raw_vectors": "defaults",
    "size_told": "defaults",
    "build_encoder": "encoder",
    "load_encoder": "encoder",
    "make_encoder": "encoder",
    "own_encoder": "encoder",
    "save_encoder": "encoder",
    "export": "exports",
    "contact_sheet": "drawing",
    "picture": "drawing",
}

__all__ = [*_PLACES, "name"]


def __getattr__(asked: str) -> Any:
    if asked in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[asked]}"), asked)
    raise AttributeError(f"module {__name__!r} has no attribute {asked!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
