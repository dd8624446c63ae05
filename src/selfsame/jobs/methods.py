"""What there is to learn with."""

import inspect
from typing import Any, ClassVar

from selfsame.jobs.expected import measured
from selfsame.records import Method, Preset, Record


class Methods(Record):
    """List the methods, or the settings and presets of one."""

    BY_PLACE: ClassVar = ("name",)

    name: str = ""
    """a method, to see its settings"""

    def run(self) -> dict[str, Any]:
        """{name: what it does, needs and is good for}; of one method its settings and presets too. Shown as a table."""
        from rich.console import Console, Group

        from selfsame import methods

        result = described(methods.load(self.name)) if self.name else overview()
        shown = page_of(result) if self.name else list_of(result)
        Console(stderr=True, highlight=False).print(Group(*shown))
        return result


def overview() -> dict[str, Any]:
    from selfsame import methods

    keys = ("about", "needs", "good_for", "presets")
    found = {name: described(methods.load(name)) for name in methods.names()}
    return {name: {**{key: one[key] for key in keys}, "presets": list(one["presets"])} for name, one in found.items()}


def described(method: type[Method]) -> dict[str, Any]:
    """All that a method says of itself."""
    return {
        "name": method.name,
        "about": about(method),
        "needs": needs(method),
        "good_for": method.good_for,
        "settings": {
            key: {"default": field.default, "help": field.description} for key, field in method.model_fields.items()
        },
        "presets": {
            name: {**preset.model_dump(mode="json"), "measured": here(method.name, name, preset)}
            for name, preset in method.known_presets().items()
        },
        "notes": notes(method),
    }


def here(method: str, name: str, preset: Preset) -> str:
    """What was measured of a preset, in words; of a paper's that was not, nothing, for it says what was published."""
    return measured(method, name) or ("not with this method" if preset.derived else "")


def about(method: type) -> str:
    return documentation(method).split("\n")[0]


def notes(method: type) -> str:
    """Sources, choices and deviations: its docstring without the first line."""
    return documentation(method).partition("\n")[2].strip()


def documentation(method: type) -> str:
    module = inspect.getmodule(method)
    return inspect.cleandoc((module.__doc__ if module else None) or method.__doc__ or "")


def needs(method: type[Method]) -> str:
    """What it asks for with its default settings, in words: views, and what the encoder must have."""
    plan = method().plan
    counted = [(plan.full, "random"), (plan.part, "of a small part"), (plan.plain, "plain")]
    kinds = [f"{count} {kind}" for count, kind in counted if count]
    views = "views: " + " + ".join(kinds)
    return ", ".join([views, *(ENCODER[need] for need in method.needs)])


ENCODER = {
    "tokens": "an encoder with tokens (a vision transformer)",
    "maps": "an encoder with dense features",
    "steps": "an encoder of series",
    "pieces": "an encoder that takes pieces of a view",
    "words": "text, and a transformer over it",
}


def list_of(found: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    shown = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("method", "what it does, and when to choose it", "needs"):
        shown.add_column(heading)
    for name, one in found.items():
        text = one["about"].partition(": ")[2] or one["about"]
        shown.add_row(f"[bold]{name}[/bold]", f"{text}\n[dim]{one['good_for']}[/dim]", f"[dim]{one['needs']}[/dim]")
    return [shown, "", "Settings and presets of one: selfsame methods NAME. Which for your data: selfsame compare PATH"]


def page_of(one: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    settings = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for key, setting in one["settings"].items():
        settings.add_row(f"--method.{key.replace('_', '-')}", str(setting["default"]), setting["help"])
    presets = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, preset in one["presets"].items():
        made = {**{f"method.{key}": value for key, value in preset["method"].items()}, **preset["training"]}
        text = ", ".join(f"{key} {value}" for key, value in made.items())
        published = f"\nPublished: {preset['published']}" if preset["published"] else ""
        found = f"\nMeasured here: {preset['measured']}" if preset["measured"] else ""
        presets.add_row(f"--preset {name}", f"{text}\n[dim]{preset['source']}{published}{found}[/dim]")
    parts: list[Any] = [f"[bold]{one['about']}[/bold]", f"Good for: {one['good_for']}", f"Needs: {one['needs']}", ""]
    parts += [settings, ""] + ([presets, ""] if one["presets"] else [])
    return [*parts, f"[dim]{reflowed(one['notes'])}[/dim]"]


def reflowed(text: str) -> str:
    """Paragraphs without the line breaks of the source, for a screen of any width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
