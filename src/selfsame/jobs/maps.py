"""The feature maps of items, for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from selfsame.jobs.checked import checked
from selfsame.records import Record

if TYPE_CHECKING:
    from torch import nn


class Maps(Record):
    """Write the feature maps of each item: a file an item, and maps.json that says what they are."""

    run_folder: Path
    """folder of a run, or of a task run"""
    data: str
    """folder, glob, list, array, zip, table, shards or address of items"""
    out: Path
    """folder of the files, each called as its item, and of maps.json"""
    to: Literal["npz", "safetensors"] = "npz"
    """kind of the files; arrays are called map0, map1, ... from fine to coarse"""
    levels: tuple[int, ...] = ()
    """numbers of the maps to write, 0 the finest [all]"""
    half: bool = False
    """write 16-bit floats"""
    sheet: Annotated[int, Field(ge=0, le=200)] = 0
    """so many items as a picture, sheet.png: their map by its three main directions as red, green and blue"""
    fps: Annotated[float | None, Field(gt=0, le=1000)] = None
    """of videos, frames a second [as the encoder learned; else every frame]"""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """items encoded at once"""
    workers: Annotated[int | None, Field(ge=0)] = None
    """reading processes [cores - 1]"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    """largest share of unreadable items to go on with"""

    def run(self, encoder: "nn.Module | None" = None) -> dict[str, Any]:
        """{"out", "items", "maps": [{"name", "channels", "places", "stride"}], "skipped"}. Raises UserError."""
        from selfsame.jobs.mapping import run

        return run(self, encoder)


def maps(
    run: Any, data: str | Path, out: str | Path, encoder: "nn.Module | None" = None, **settings: Any
) -> dict[str, Any]:
    """Write the feature maps of the items of `data` into a folder; settings are the fields of `Maps`."""
    given = {"run_folder": getattr(run, "folder", run), "data": str(data), "out": out, **settings}
    return checked(Maps, given).run(encoder)
