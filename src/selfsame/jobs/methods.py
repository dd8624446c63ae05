"""What there is to learn with."""

import inspect
from typing import Any, ClassVar

from selfsame.records import Record


class Methods(Record):
    """List the methods, or the settings of one."""

    BY_PLACE: ClassVar = ("name",)

    name: str = ""
    """a method, to see its settings"""

    def run(self) -> dict[str, Any]:
        from rich.console import Console
        from rich.table import Table

        from selfsame import methods

        shown = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        if self.name:
            method = methods.load(self.name)
            settings = {
                key: {"default": field.default, "help": field.description} for key, field in method.model_fields.items()
            }
            for key, setting in settings.items():
                shown.add_row(f"--method.{key.replace('_', '-')}", str(setting["default"]), setting["help"])
            result: dict[str, Any] = {"name": self.name, "about": about(method), "settings": settings}
        else:
            result = {name: about(methods.load(name)) for name in methods.names()}
            for name, text in result.items():
                shown.add_row(name, text)
        Console(stderr=True, highlight=False).print(shown)
        return result


def about(method: type) -> str:
    module = inspect.getmodule(method)
    return ((module.__doc__ if module else None) or method.__doc__ or "").split("\n")[0]
