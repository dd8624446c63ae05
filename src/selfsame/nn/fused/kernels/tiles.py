"""How kernels divide rows among programs, and what they share.

Activations are rows [m c], channels last; the rows are those of `parts` views, one after the other, each with batch
statistics of its own. A program of a sum goes through every P-th block of rows of a part, so that the result does not
depend on which program is done first. Sums are in float32.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

WARPS = 4
ROUNDS = 8  # programs of a sum for each multiprocessor: enough to hide the wait for memory
refused: set[Any] = set()  # kernels of a shape for which this device has no room


@triton.jit
def channels(block, C, BC: tl.constexpr):
    c = block * BC + tl.arange(0, BC)
    return c, c < C


@triton.jit
def place(rows, C, BM: tl.constexpr, BC: tl.constexpr):
    """(places, which of them there are, channels, which of them there are, part) of a program of its own tile."""
    blocks = tl.cdiv(C, BC)
    c, inside = channels(tl.program_id(0) % blocks, C, BC)
    row = tl.program_id(0) // blocks * BM + tl.arange(0, BM)
    part = tl.program_id(1)
    there = (row < rows)[:, None] & inside[None, :]
    return (part.to(tl.int64) * rows + row)[:, None] * C + c[None, :], there, c, inside, part


@triton.jit
def normed(x, at, there, stat, c, inside, C):
    """(the value, the value normalised) at these places."""
    slope = tl.load(stat + 2 * C + c, mask=inside, other=0.0)
    level = tl.load(stat + 3 * C + c, mask=inside, other=0.0)
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    return value, value * slope[None, :] + level[None, :]


def tile(channels: int) -> tuple[int, int]:
    """(rows, channels) of a tile that a program reads and writes: 128 to 256 bytes that lie together, in each row."""
    wide = min(128, triton.next_power_of_2(channels))
    return max(16, 2048 // wide), wide


class Strips(NamedTuple):
    """How a sum over rows is divided: so many programs for the rows of a part, each for some channels."""

    programs: int
    grid: tuple[int, int]
    options: dict[str, int]
    """of the kernel: rows and channels of a tile, warps"""


def strips(x: Tensor, rows: int, channels: int, parts: int) -> Strips:
    tall, wide = 32, min(64, triton.next_power_of_2(channels))
    across = triton.cdiv(channels, wide)
    count = programs(x, rows, tall, parts * across)
    return Strips(count, (across, parts * count), {"BM": tall, "BC": wide, "num_warps": WARPS})


def tiles(rows: int, channels: int, tall: int, wide: int, parts: int) -> tuple[int, int]:
    """The programs of a kernel that uses `place`."""
    return triton.cdiv(rows, tall) * triton.cdiv(channels, wide), parts


def programs(x: Tensor, rows: int, tall: int, beside: int, rounds: int = ROUNDS) -> int:
    """How many of them share the rows of a part, where `beside` others work on the same."""
    return max(1, min(triton.cdiv(processors(x.device) * rounds, beside), triton.cdiv(rows, tall)))


def processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def full(x: Tensor, *shape: int) -> Tensor:
    """Room for sums, on the device of x."""
    return torch.empty(shape, device=x.device, dtype=torch.float32)


def launched(kernel: Any, grid: tuple[int, ...], *given: Any, **options: Any) -> bool:
    """Launch a kernel that holds much in shared memory; False where the device has not as much, which is remembered."""
    key = (kernel, given[0].dtype, *options.items())
    if key in refused:
        return False
    try:
        kernel[grid](*given, **options)
    except OutOfResources:
        refused.add(key)
        return False
    return True
