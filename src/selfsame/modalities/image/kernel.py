"""The compiled steps of views: loads kernel.c where it was built, and says where it can be used.

Without a compiler at installation, on a device other than the CPU, or with SELFSAME_KERNEL=0, torch does the same.
The two agree to rounding.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

__all__ = ["cut", "cuts", "finish", "finishes"]

WIDEST = 63  # taps on either side that the kernel has room for
VERSION = 2  # of the functions' signatures, as kernel.c has it
LEAST = 8  # images that a thread is worth


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The library for this processor, or None."""
    if os.environ.get("SELFSAME_KERNEL", "1") == "0":
        return None
    wide = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    for name in (["libkernel-v3.so"] if wide else []) + ["libkernel.so"]:
        try:
            library = ctypes.CDLL(str(Path(__file__).with_name(name)))
            cut, finish = library.cut, library.finish
            current = library.version() == VERSION
        except (OSError, AttributeError):  # not built, or for another kind of machine
            continue
        if not current:  # built from an older kernel.c: install again
            continue
        pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
        cut.argtypes, cut.restype = [pointer, long, pointer, whole, whole, pointer], whole
        finish.argtypes = [pointer, pointer, long, *[whole] * 4, *[pointer] * 3, whole, pointer]
        finish.restype = None
        return library
    return None


# Cut -----------------------------------------------------------------------------------------------------------------


def cuts(images: np.ndarray) -> bool:
    """Whether `cut` is there for images [n h w c]: 8 bits, 1 or 3 channels, pixels side by side."""
    channels = images.shape[3]
    side_by_side = images.strides[2:] == (channels, 1) and images.strides[1] > 0
    return images.dtype == np.uint8 and channels in (1, 3) and side_by_side and compiled() is not None


def cut(
    images: UInt8[np.ndarray, "n h w c"],
    boxes: Int64[np.ndarray, "m 5"],
    size: int,
    into: Sequence[UInt8[np.ndarray, "size size c"]] | None = None,
) -> Sequence[UInt8[np.ndarray, "size size c"]]:
    """Boxes (image, top, left, height, width), inside their images, resized: antialiased bicubic (a = -0.5).

    Into arrays that are given, one a box, rows side by side; else into a new one [m size size c].
    """
    library = compiled()
    assert library is not None
    channels, (apart, stride, step, _) = images.shape[3], images.strides
    numbers = np.empty((len(boxes), 4), np.int64)
    numbers[:, 0] = boxes[:, 0] * apart + boxes[:, 1] * stride + boxes[:, 2] * step
    numbers[:, 1:3], numbers[:, 3] = boxes[:, 3:], stride
    made: Any
    if into is None:
        whole = np.empty((len(boxes), size, size, channels), np.uint8)
        made, places = whole, whole.ctypes.data + np.arange(len(boxes)) * whole.strides[0]
    else:
        made = into
        assert all(out.shape == (size, size, channels) and out.flags.c_contiguous for out in into)
        places = np.array([out.ctypes.data for out in into])

    def some(rows: slice) -> None:
        given = numbers[rows], places[rows]
        if library.cut(images.ctypes.data, len(given[0]), given[0].ctypes.data, channels, size, given[1].ctypes.data):
            raise MemoryError(f"no memory to resize images of up to {boxes[:, 3:].max()} pixels")

    divided(some, len(boxes))
    return made


# Finish --------------------------------------------------------------------------------------------------------------


def finishes(pixels: Tensor, white: int) -> bool:
    """Whether `finish` is there for these: 8 bits, 1 or 3 channels, on the CPU."""
    plain = pixels.dtype == torch.uint8 and white == 255 and pixels.shape[1] in (1, 3)
    return plain and pixels.device.type == "cpu" and compiled() is not None


def finish(
    pixels: UInt8[Tensor, "b c h w"],
    on_pixel: Float[Tensor, "b c c"],
    on_mean: Float[Tensor, "b c c"],
    does: Bool[Tensor, "b 3"],
    taps: Float[Tensor, "b k"],
) -> Float[Tensor, "b c h w"]:
    """Flips, the colour map of `steps.recolour`, blur with symmetric taps, solarisation, in this order.

    Args:
        does: mirror, turn upside down, solarise.
        taps: k odd, at most 127, no more than 2 min(h, w) - 1; a row with all weight in the middle is not blurred.

    Returns values in [0, 1], channels last in memory.
    """
    library = compiled()
    assert library is not None
    count, channels, height, width = pixels.shape
    radius = taps.shape[1] // 2
    assert radius <= min(WIDEST, height - 1, width - 1)
    last = pixels.permute(0, 2, 3, 1).contiguous()
    out = torch.empty(count, height, width, channels)
    numbers = torch.cat([on_pixel, on_mean], dim=1).reshape(count, -1).float().contiguous()
    steps, weights = does.to(torch.uint8).contiguous(), taps.float().contiguous()

    def some(rows: slice) -> None:
        spare = torch.empty(height * width * (channels + 1) + width + 2 * radius)
        given = [part[rows].data_ptr() for part in (last, out, numbers, steps, weights)]
        sizes = (len(last[rows]), height, width, channels, 1)
        library.finish(given[0], given[1], *sizes, *given[2:], radius, spare.data_ptr())

    divided(some, count)
    return out.permute(0, 3, 1, 2)


def divided(job: Callable[[slice], None], count: int) -> None:
    """The job on all rows, in as many parts as torch has threads; ctypes lets go of the interpreter meanwhile."""
    threads = max(1, min(torch.get_num_threads(), count // LEAST))
    parts = [slice(*ends) for ends in pairwise(count * k // threads for k in range(threads + 1))]
    if threads == 1:
        job(parts[0])
    else:
        list(pool(threads).map(job, parts))


@functools.cache
def pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="views")
