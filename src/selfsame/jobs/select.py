"""A diverse subset of items, as for labelling first."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from selfsame.errors import unknown
from selfsame.jobs.checked import checked
from selfsame.jobs.vectors import OfVectors

if TYPE_CHECKING:
    from torch import nn

RULES = ("k-centre", "facility", "random")


class Select(OfVectors):
    """Choose a diverse subset of items, and measure how well it covers all."""

    FOLDER: ClassVar[str] = "selection"

    count: Annotated[int, Field(ge=1)]
    """of items to choose"""
    by: str = "k-centre"
    """k-centre: rare kinds too, none is far from a chosen one; facility: typical ones of each kind; random"""

    @field_validator("by")
    @classmethod
    def _rule(cls, given: str) -> str:
        if given not in RULES:
            raise unknown("rule", given, RULES)
        return given

    def run(self, encoder: "nn.Module | None" = None) -> dict[str, Any]:
        """Also kept as selection.json, beside selection.csv and report.html."""
        from selfsame.jobs.selecting import run

        return run(self, encoder)


def select(
    run: Any, data: str | Path, count: int, encoder: "nn.Module | None" = None, **settings: Any
) -> dict[str, Any]:
    """Choose `count` items of `data`; settings are the fields of `Select`."""
    values = {"run_folder": getattr(run, "folder", run), "data": str(data), "count": count, **settings}
    return checked(Select, values).run(encoder)
