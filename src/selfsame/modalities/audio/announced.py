"""What the header of a WAV announces, beside what is there: libsndfile reads a file that was cut off without a word.

Source: the RIFF container, Microsoft and IBM 1991, and its 64-bit form, EBU Tech 3306: chunks of a name, a length and
so many bytes, of which `fmt ` says the rate and `data` holds the samples.
"""

import io
import struct
from typing import IO, NamedTuple

__all__ = ["Announced", "announced"]

CHUNKS = 64  # that are looked through at most for the samples
STREAMED = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # lengths that say nothing: the writer could not go back, or it is RF64


class Announced(NamedTuple):
    """Of a WAV."""

    rate: int
    """samples a second"""
    lost: float
    """share of the samples that the header announces and the file does not hold, in [0, 1]"""


def announced(file: IO[bytes]) -> Announced | None:
    """What a file says of itself, from its first chunks alone; None where it is no WAV, or says nothing of this."""
    head = file.read(12)
    order = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">"}.get(head[:4])
    if order is None or head[8:] != b"WAVE":
        return None
    rate: int | None = None
    for _ in range(CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            return None if rate is None else Announced(rate, 0.0)
        (length,) = struct.unpack(f"{order}I", chunk[4:])
        begin = file.tell()
        if chunk[:4] == b"fmt ":
            form = file.read(8)
            rate = struct.unpack(f"{order}I", form[4:])[0] if len(form) == 8 else None
        elif chunk[:4] == b"data":
            there = file.seek(0, io.SEEK_END) - begin
            lost = 0.0 if length in STREAMED else max(0, length - there) / length
            return None if rate is None else Announced(rate, lost)
        file.seek(begin + length + length % 2)
    return None
