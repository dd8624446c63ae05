"""One file per method. Adding a method is adding a file: this module finds it by its file name."""

import importlib
import pkgutil
from typing import Any

from selfsame.errors import UserError, unknown
from selfsame.records import Method


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> type[Method]:
    """The `Method` of methods/<name>.py, or of a dotted path to a module of the user's own."""
    if name not in names() and "." not in name:
        raise unknown("method", name, names(), "A method of your own is given as its dotted module path.")
    path = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and path.startswith(error.name):
            raise UserError(f"no module {path!r} to take a method from. Known methods: {', '.join(names())}.") from None
        raise
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == path
    ]
    if len(found) != 1:
        raise UserError(f"{path} holds {len(found)} subclasses of selfsame.records.Method; exactly one is needed.")
    found[0].name = name
    return found[0]


def __getattr__(name: str) -> Any:
    """The settings class of a method by its own name: `methods.BYOL`."""
    if name.lower() in names() and not name.islower():
        found = load(name.lower())
        if found.__name__ == name:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
