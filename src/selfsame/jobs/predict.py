"""Use what was adapted: predictions for items, written as the field writes them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from selfsame.jobs.checked import checked
from selfsame.records import Record

if TYPE_CHECKING:
    from torch import nn


class Predict(Record):
    """Write the predictions of a task run for items."""

    run_folder: Path
    """folder of a task run, as `adapt` left it"""
    data: str
    """folder, glob, list, array, ... of items; no labels needed"""
    out: Path
    """file or folder, by task: classes .csv .json; masks, depth a folder; boxes, keypoints .json .csv"""
    fps: Annotated[float | None, Field(gt=0, le=1000)] = None
    """of videos, frames a second [as the encoder learned; else every frame]"""
    workers: Annotated[int | None, Field(ge=0)] = None
    """reading processes [cores - 1]"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    """largest share of unreadable items to go on with"""

    def run(self, encoder: "nn.Module | None" = None) -> dict[str, Any]:
        """{"files": [...], "items": n, "skipped": {name: reason}}. Raises UserError."""
        from selfsame.jobs.predicting import written

        return written(self, encoder)


def predict(
    run: Any, data: str | Path, out: str | Path | None = None, encoder: "nn.Module | None" = None, **settings: Any
) -> Any:
    """The predictions of a task run (or its folder) for items: a list of (name, prediction), or, where `out` names a
    file or folder, what was written there.

    A prediction: probabilities [k] of the classes; a mask [h w]; boxes; depth [h w]; keypoints. See the task's file.
    """
    from selfsame.jobs.predicting import in_memory

    given = {"run_folder": getattr(run, "folder", run), "data": str(data), "out": out or "x", **settings}
    job = checked(Predict, given)
    return job.run(encoder) if out is not None else in_memory(job, encoder)
