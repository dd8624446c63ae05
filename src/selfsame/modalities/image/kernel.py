"""The compiled half of `views.transformed`: loads kernel.c where it was built, and says where it can be used.

Without a compiler at installation, on a device other than the CPU, or with SELFSAME_KERNEL=0, plain torch does the
same. The two agree to rounding.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

__all__ = ["finish", "takes"]

WIDEST = 63  # taps on either side that the kernel has room for
LEAST = 8  # images that a thread is worth


@functools.cache
def compiled() -> Callable[..., None] | None:
    """The compiled function for this processor, or None."""
    if os.environ.get("SELFSAME_KERNEL", "1") == "0":
        return None
    wide = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    for name in (["libkernel-v3.so"] if wide else []) + ["libkernel.so"]:
        try:
            function = ctypes.CDLL(str(Path(__file__).with_name(name))).finish
        except (OSError, AttributeError):  # not built, or for another kind of machine
            continue
        pointer, whole = ctypes.c_void_p, ctypes.c_int
        function.argtypes = [pointer, pointer, ctypes.c_int64, *[whole] * 4, *[pointer] * 3, whole, pointer]
        function.restype = None
        return function
    return None


def takes(pixels: Tensor, white: int) -> bool:
    """Whether the kernel is there for these: 8 bits, 1 or 3 channels, on the CPU."""
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
    function = compiled()
    assert function is not None
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
        function(given[0], given[1], *sizes, *given[2:], radius, spare.data_ptr())

    threads = max(1, min(torch.get_num_threads(), count // LEAST))
    edges = [count * k // threads for k in range(threads + 1)]
    parts = [slice(*ends) for ends in pairwise(edges)]
    if threads == 1:
        some(parts[0])
    else:
        list(pool(threads).map(some, parts))  # ctypes lets go of the interpreter meanwhile
    return out.permute(0, 3, 1, 2)


@functools.cache
def pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="views")
