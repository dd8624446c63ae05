"""How series are read: what of a file is a channel, what a series, and how long records are cut into windows."""

from typing import Annotated

from pydantic import Field

from selfsame.records import Record

__all__ = ["Reading"]


class Reading(Record):
    """How series are read. Kept with the encoder, so that what it is given later is read alike."""

    window: Annotated[int, Field(ge=0)] = 0
    """steps of an item cut from a longer record; 0: each record is one item"""
    stride: Annotated[int, Field(ge=0)] = 0
    """steps between the starts of two windows; 0: as many as a window has, so that none overlap"""
    columns: tuple[str, ...] = ()
    """columns of a table that are channels, in this order; none: all numbers but those named otherwise"""
    leave_out: tuple[str, ...] = ()
    """columns of a table that are no channels, such as labels"""
    id: str = ""
    """column of a table that says which series a row belongs to; empty: id, series, series_id, record or case"""
    time: str = ""
    """column of a table with the time of a row; empty: time, timestamp, datetime or date, where there is one"""
    rate: Annotated[float, Field(ge=0)] = 0.0
    """steps a second, told and compared, not resampled to; 0: what the file says"""

    @property
    def step(self) -> int:
        """Steps from the start of a window to that of the next."""
        return self.stride or self.window
