"""selfsame: from unlabelled data to an encoder worth using.

    import selfsame as ss
    run = ss.pretrain("photos/", out="runs/photos")
    encoder = ss.load("runs/photos")
    vectors = ss.embed("runs/photos", "photos/")

Names are loaded when they are first used, so that this import costs nothing.
"""

import importlib
from typing import Any

from selfsame.lazy import lazily

__version__ = "0.1.0"

_PLACES = {
    "pretrain": "selfsame.jobs.pretrain",
    "compare": "selfsame.jobs.compare",
    "evaluate": "selfsame.jobs.evaluate",
    "adapt": "selfsame.jobs.adapt",
    "predict": "selfsame.jobs.predict",
    "maps": "selfsame.jobs.maps",
    "propagate": "selfsame.jobs.propagate",
    "embed": "selfsame.jobs.embed",
    "verify": "selfsame.jobs.verify",
    "outliers": "selfsame.jobs.outliers",
    "clusters": "selfsame.jobs.clusters",
    "select": "selfsame.jobs.select",
    "export": "selfsame.jobs.export",
    "duplicates": "selfsame.jobs.duplicates",
    "search": "selfsame.jobs.search",
    "remove": "selfsame.jobs.remove",
    "Index": "selfsame.index.contract",
    "views": "selfsame.jobs.views",
    "profile": "selfsame.jobs.profile",
    "plan": "selfsame.jobs.plan",
    "load": "selfsame.jobs.runs",
    "encoder": "selfsame.jobs.runs",
    "Run": "selfsame.jobs.runs",
    "UserError": "selfsame.errors",
}

_ROOMS = ("methods", "index")  # packages; the second is a job too

__all__ = [*_PLACES, *_ROOMS, "__version__"]

_get, _ = lazily(__name__, _PLACES)


def __getattr__(name: str) -> Any:
    return importlib.import_module(f"selfsame.{name}") if name in _ROOMS else _get(name)


def __dir__() -> list[str]:
    return sorted(__all__)
