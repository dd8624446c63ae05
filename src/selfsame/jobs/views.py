"""What the encoder will see: items and their random views, drawn or as text."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from selfsame.errors import UserError
from selfsame.jobs.checked import checked, spared
from selfsame.records import Record, ViewPlan


class Views(Record):
    """Draw a contact sheet of items and their random views."""

    data: str
    """folder, glob, list, array, zip, table, shards or address of items"""
    out: Path = Path("views.png")
    """picture to write; of texts and tables a .txt of the same name, which is printed too"""
    views: Any = "auto"
    """strength of the views: auto by size, photo, small, weak, moco2, simclr, swav, dino, ... (docs/views.md)"""
    size: Annotated[int | None, Field(ge=1)] = None
    """of a view: pixels of a side, tokens, steps, samples of a wave [from the data]"""
    count: Annotated[int, Field(ge=1, le=64)] = 8
    """items"""
    each: Annotated[int, Field(ge=1, le=16)] = 6
    """full views of each item"""
    parts: Annotated[int, Field(ge=0, le=16)] = 0
    """part views of each item, after the full ones"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """draws the items and their views"""
    related: str | None = None
    """every second full view from a related item, as in `pretrain`: "folders", or a CSV path,group[,time]"""
    related_window: Annotated[float | None, Field(gt=0)] = None
    """how far related items may be apart, in time or in the order of names"""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    """largest share of unreadable items to go on with"""
    modality: str | None = None
    """image, audio, signal, text, table, or a module of your own [by what is found]"""
    reading: dict[str, Any] | None = None
    """how the data are read, by kind: a column, a rate, a window; --modality KIND --help shows --reading.x"""

    @field_validator("views")
    @classmethod
    def _views(cls, given: Any) -> dict[str, Any]:
        return {"name": given} if isinstance(given, str) else {"name": "auto", **dict(given)}

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.related_window is not None and self.related is None:
            raise UserError("--related-window says how far related items may be apart: give --related too.")
        if self.related is not None and self.each < 2:
            raise UserError("--related shows pairs of views: give --each 2 or more.")
        return self

    def run(self) -> dict[str, Any]:
        from selfsame.engine import dist
        from selfsame.engine.related import Related
        from selfsame.engine.state import write_text, write_whole
        from selfsame.engine.watch import say
        from selfsame.jobs.data import open_data, relations, sheet, without_relatives
        from selfsame.jobs.deciding import strengths

        large = dist.device().type == "cuda"
        data = open_data(self.data, self.modality, self.max_skipped, self.seed, reading=self.reading)
        size = self.size or data.modality.default_size(data.stats, large)
        strength = strengths(data.modality, self.views, size, data.stats)
        related, beside = None, ""
        if self.related is not None:
            found = relations(data, self.related, self.related_window)
            related, beside = Related(found, data.readable()), f", every second of a related item ({found.summary})"
            without_relatives(related, self.related)
        drawn = sheet(data, strength, self.count, ViewPlan(full=self.each, part=self.parts), self.seed, related)
        out = self.out.with_suffix(".txt") if isinstance(drawn, str) else self.out
        spared(out, self.data, map(data.source.name, range(len(data.source))))
        if isinstance(drawn, str):
            text = drawn
            say(text)
            write_text(out, text)
        else:
            picture = drawn
            write_whole(out, lambda draft: picture.save(draft, format="PNG"))
        told = data.modality.size_told(size, data.stats)
        say(f"{min(self.count, len(data.source))} items, {self.each + self.parts} views each{beside}, {told}: {out}")
        return {"out": str(out), "size": size, "views": strength.model_dump(mode="json")}


def views(data: str | Path, out: str | Path = "views.png", **settings: Any) -> dict[str, Any]:
    """Draw a contact sheet of items and their views; settings are the fields of `Views`."""
    return checked(Views, {"data": str(data), "out": out, **settings}).run()
