"""The strangest items first: those whose nearest neighbours are far."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from selfsame.errors import UserError
from selfsame.jobs.checked import checked
from selfsame.jobs.vectors import OfVectors, values_of

if TYPE_CHECKING:
    from torch import nn


class Outliers(OfVectors):
    """List items by how far their nearest neighbours are, the strangest first."""

    FOLDER: ClassVar[str] = "outliers"

    neighbour: Annotated[int, Field(ge=1)] = 10
    """k, the neighbour whose distance counts: a group of up to k strange items that are alike stands out too"""
    anomalies: str | None = None
    """labels of items known to be strange, separated by commas: measures how well they are found"""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.labels is not None and self.anomalies is None:
            raise UserError("--labels goes with --anomalies: say which labels are those of strange items.")
        return self

    def run(self, encoder: "nn.Module | None" = None) -> dict[str, Any]:
        """Also kept as outliers.json, beside outliers.csv and report.html."""
        from selfsame.jobs.outlying import run

        return run(self, encoder)


def outliers(
    run: Any, data: str | Path | None = None, encoder: "nn.Module | None" = None, **settings: Any
) -> dict[str, Any]:
    """List the items of `data` by how strange they are; an index may stand for `run`, `data` or both.

    Settings are the fields of `Outliers`.
    """
    return checked(Outliers, values_of(run, data, settings)).run(encoder)
