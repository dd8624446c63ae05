"""One folder per modality. Adding a modality is adding a folder: this module finds it by its name."""

import importlib
import pkgutil
from typing import cast

from selfsame.errors import UserError, unknown
from selfsame.types import Modality


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def load(name: str) -> Modality:
    if name not in names():
        raise unknown("modality", name, names())
    return cast(Modality, importlib.import_module(f"{__name__}.{name}"))


def of(path: str) -> Modality:
    """The modality that reads `path`."""
    able = [name for name in names() if load(name).reads(path)]
    if len(able) == 1:
        return load(able[0])
    if not able:
        raise UserError(f"{path}: nothing here that selfsame reads. It reads: {', '.join(names())}.")
    raise UserError(f"{path} holds {' and '.join(able)}. Say which with --modality.")
