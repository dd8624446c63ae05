"""Groups of items that are alike."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from selfsame.jobs.checked import checked
from selfsame.jobs.vectors import OfVectors

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


def clusters(run: Any, data: str | Path, encoder: "nn.Module | None" = None, **settings: Any) -> dict[str, Any]:
    """Group the items of `data`; settings are the fields of `Clusters`."""
    values = {"run_folder": getattr(run, "folder", run), "data": str(data), **settings}
    return checked(Clusters, values).run(encoder)
