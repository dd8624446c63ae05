"""The mask of a first frame, carried through the frames that follow."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from selfsame.jobs.checked import checked
from selfsame.records import Record

if TYPE_CHECKING:
    from torch import nn


class Propagate(Record):
    """Carry the mask of the first frame through a film by the likeness of features; scored where the truth is known."""

    run_folder: Path
    """folder of a run, or of a task run"""
    data: str
    """a video, or a folder of frames, which follow each other by name, numbers in it counted as such"""
    mask: Path
    """mask of the first frame: palette or grey PNG, 0 is no object, each other value is one"""
    out: Path
    """folder of the masks, a palette PNG of the frame's name each, with overview.png and propagation.json"""
    fps: Annotated[float | None, Field(gt=0, le=1000)] = None
    """of a video, frames a second [every frame]"""
    overlay: bool = False
    """write overlay.mp4 too: the frames as a video, their objects in colours"""
    truth: Path | None = None
    """folder of masks of the frames' names, to score against; 255 is not counted"""
    size: Annotated[int | None, Field(ge=16)] = None
    """shorter side of the frames as the encoder sees them [480, or the frames' own where it is less]"""
    stride: Annotated[int | None, Field(ge=1)] = None
    """pixels for a place of the map that is compared, the nearest there is [8; less where a side has under 24]"""
    context: Annotated[int, Field(ge=0)] = 7
    """last frames that are asked, beside the first"""
    radius: Annotated[int, Field(ge=0)] = 12
    """places that an object may have moved between frames that are compared; 0: anywhere"""
    top: Annotated[int, Field(ge=1)] = 5
    """most similar places that are asked"""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """how little less similar places count less"""
    seeds: Annotated[int, Field(ge=1, le=20)] = 1
    """random weights to compare with, where --truth is given"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""

    def run(self, encoder: "nn.Module | None" = None) -> dict[str, Any]:
        """{"out", "frames", "objects", "rows": [{"features", "seeds", "figures"}]}. Raises UserError."""
        from selfsame.jobs.propagating import run

        return run(self, encoder)


def propagate(
    run: Any, data: str | Path, mask: str | Path, out: str | Path, encoder: "nn.Module | None" = None, **settings: Any
) -> dict[str, Any]:
    """Carry a mask through the frames of a video or a folder; settings are the fields of `Propagate`."""
    given = {"run_folder": getattr(run, "folder", run), "data": str(data), "mask": mask, "out": out, **settings}
    return checked(Propagate, given).run(encoder)
