"""Vectors at rest: stored, searched, compared.

As `ss.index` the package is also the job of that name: `ss.index(run, data, out)` calls `jobs.index.index`.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    """A module that is a function too, because the room and the job are called the same."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        # By name: no room imports from one above it, and this is only how users spell it.
        return importlib.import_module("selfsame.jobs.index").index(*args, **settings)


sys.modules[__name__].__class__ = _Called
