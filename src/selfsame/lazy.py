"""Names of a package that are loaded when they are first used, so that importing it costs nothing."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package whose names stand in these modules, {name: module}.

    No module may be called as one of the names: once it is loaded, the package shows the module by it.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}. It has: {', '.join(places)}.")
        return getattr(importlib.import_module(places[name]), name)

    return get, lambda: sorted(places)
