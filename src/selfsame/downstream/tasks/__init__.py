"""One file per task. Adding a task is adding a file: this module finds it by its file name."""

import importlib
import pkgutil

from selfsame.downstream.task import Task
from selfsame.errors import UserError, unknown


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> type[Task]:
    """The `Task` of tasks/<name>.py, or of a dotted path to a module of the user's own."""
    if name not in names() and "." not in name:
        raise unknown("task", name, names(), "A task of your own is given as its dotted module path.")
    path = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and path.startswith(error.name):
            raise UserError(f"no module {path!r} to take a task from. Known tasks: {', '.join(names())}.") from None
        raise
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == path
    ]
    if len(found) != 1:
        raise UserError(
            f"{path} holds {len(found)} subclasses of selfsame.downstream.task.Task; exactly one is needed."
        )
    found[0].name = name
    return found[0]
