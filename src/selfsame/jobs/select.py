"""A diverse subset of items, as for labelling first."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from selfsame.errors import unknown
from selfsame.jobs.checked import checked
from selfsame.jobs.vectors import OfVectors, values_of

if TYPE_CHECKING:
    from torch import nn

RULES = ("k-centre", "facility", "random")


class Select(OfVectors):
    """Choose a diverse subset of items, and measure how well it covers all."""

    FOLDER: ClassVar[str] = "selection"
    BY_FLAG: ClassVar[tuple[str, ...]] = ("count",)

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
    run: Any,
    data: str | Path | None = None,
    count: int | None = None,
    encoder: "nn.Module | None" = None,
    **settings: Any,
) -> dict[str, Any]:
    """Choose `count` items of `data`; an index may stand for `run`, `data` or both.

    Settings are the fields of `Select`.
    """
    chosen = {} if count is None else {"count": count}
    return checked(Select, values_of(run, data, {**chosen, **settings})).run(encoder)
