"""Pieces of MPEG recordings (MP3), whose frames borrow bits from those before, and whose length may be a guess.

A decoder that jumps into such a file lacks these bits: up to three frames after the place are wrong, and libmpg123
says so on stderr. soundfile jumps after every reading, too. So a piece is read from some frames before it on, at once.
Files without a frame that tells how many follow (Xing, Info, VBRI) are taken to be as long as their size suggests.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

__all__ = ["is_guessed", "piece"]

BEFORE = 10 * 1152  # samples: a frame has 1152, and borrows at most 511 bytes, which lie in up to nine of the smallest

_LOCK = threading.Lock()
_inside = 0  # threads that want libmpg123 to be silent
_kept = -1  # the stderr that the last of them gives back


def piece(sound: Any, start: int, count: int) -> Float32[np.ndarray, "t c"]:
    """`count` samples from `start` on; fewer where the recording ends."""
    begin = max(0, start - BEFORE)
    with silent():
        sound.seek(begin)
        return sound.read(start - begin + count, dtype="float32", always_2d=True)[start - begin :]


def is_guessed(sound: Any) -> bool:
    """Whether the number of samples is none that the file tells: its first frame holds no mark of those that do."""
    with contextlib.ExitStack() as stack:
        file = sound.name  # a path, or what was opened
        if isinstance(file, str | os.PathLike):
            file = stack.enter_context(Path(file).open("rb"))
        else:
            stack.callback(file.seek, file.tell())
        file.seek(0)
        head = file.read(10)
        if head[:3] == b"ID3":  # four times seven bits say how long the tag is before the first frame
            file.seek(10 + sum((byte & 127) << (7 * place) for place, byte in enumerate(reversed(head[6:10]))))
        else:
            file.seek(0)
        first = file.read(1441)  # the largest frame
    return not any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Lead away what a C library writes on stderr; of several threads the first begins and the last ends it."""
    global _inside, _kept
    with _LOCK:
        _inside += 1
        if _inside == 1:
            with contextlib.suppress(OSError):  # there may be no stderr
                _kept = os.dup(2)
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 2)
                os.close(nowhere)
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if not _inside and _kept >= 0:
                os.dup2(_kept, 2)
                os.close(_kept)
                _kept = -1
