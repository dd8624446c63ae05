"""An index of items: their vectors and names, to be searched."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from selfsame.jobs.checked import checked
from selfsame.records import Record

if TYPE_CHECKING:
    from torch import nn

    from selfsame.index.contract import Index


class IndexItems(Record):
    """Make an index of items, or add to one; `selfsame search` looks in it, `selfsame remove` takes out."""

    run_folder: Path
    """folder of a run"""
    data: str
    """folder, glob, list, array, zip, table, shards or address of items"""
    out: Annotated[str, Field(min_length=1)]
    """folder of the index, or postgresql://USER@HOST/DATABASE?table=NAME"""
    add: bool = False
    """to an index that is there: the items of the data that it does not hold yet"""
    labels: str | None = None
    """CSV path,label, file.npz::y_train or a column [class folders, the list's own column, y_ of the same name]"""
    fps: Annotated[float | None, Field(gt=0, le=1000)] = None
    """of videos, frames a second [as the encoder learned; else every frame]"""
    approximate_above: Annotated[int | None, Field(ge=2)] = None
    """items from which on search is approximate; its recall is measured and printed [never: search is exact]"""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """items encoded at once"""
    workers: Annotated[int | None, Field(ge=0)] = None
    """reading processes [cores - 1]"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    """largest share of unreadable items to go on with"""

    def run(self) -> dict[str, Any]:
        from selfsame.jobs.indexing import built, told

        index, skipped = built(self)
        return told(self, index, skipped)


def index(run: Any, data: str | Path, out: str | Path, encoder: "nn.Module | None" = None, **settings: Any) -> "Index":
    """Make an index of items with a run, a run folder or an encoder (such as ss.load gives), or add to one.

    `encoder` is a module of the architecture that was trained, where the run was given one in Python; settings are the
    fields of `IndexItems`. Returns the index. Raises UserError.
    """
    from selfsame.jobs.indexing import built
    from selfsame.types import Encoder

    folder = "" if isinstance(run, Encoder) else getattr(run, "folder", run)
    job = checked(IndexItems, {"run_folder": folder, "data": str(data), "out": str(out), **settings})
    return built(job, run if isinstance(run, Encoder) else None, encoder)[0]
