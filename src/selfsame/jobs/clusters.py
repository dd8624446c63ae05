"""Groups of items that are alike."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from selfsame.jobs.checked import checked
from selfsame.jobs.vectors import OfVectors, values_of

if TYPE_CHECKING:
    from torch import nn


class Clusters(OfVectors):
    """Group items by k-means; with labels, measure how far the groups agree with them."""

    FOLDER: ClassVar[str] = "clusters"

    count: Annotated[int | None, Field(ge=1)] = None
    """of clusters [that with the largest mean silhouette, of 2 to 50]"""

    def run(self, encoder: "nn.Module | None" = None) -> dict[str, Any]:
        """Also kept as clusters.json, beside clusters.csv and report.html."""
        from selfsame.jobs.clustering import run

        return run(self, encoder)


def clusters(
    run: Any, data: str | Path | None = None, encoder: "nn.Module | None" = None, **settings: Any
) -> dict[str, Any]:
    """Group the items of `data`; an index may stand for `run`, `data` or both.

    Settings are the fields of `Clusters`.
    """
    return checked(Clusters, values_of(run, data, settings)).run(encoder)
