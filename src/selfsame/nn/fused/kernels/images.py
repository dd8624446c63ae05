"""What happens to images, or where rows have places in them: the first convolution, pools, strides."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from selfsame.nn.fused.kernels.norms import settle, settled_back, shift_of
from selfsame.nn.fused.kernels.tiles import WARPS, channels, full, normed, place, programs, strips, tile, tiles
from selfsame.nn.fused.twins import Running


@triton.jit
def _window(row, OH, OW):
    """(image, row, column) of a place of the pooled map."""
    return row // (OH * OW), row // OW % OH, row % OW


@triton.jit
def _scale(x, slope, level, y, count, C: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there, c = at < count, at % C
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    value = value * tl.load(slope + c, mask=there, other=0.0) + tl.load(level + c, mask=there, other=0.0)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=there)


def scaled(x: Tensor, slope: Tensor, level: Tensor, dtype: torch.dtype) -> Tensor:
    rows = x.permute(0, 2, 3, 1).contiguous()
    y = torch.empty(rows.shape, device=x.device, dtype=dtype)
    _scale[(triton.cdiv(rows.numel(), 2048),)](
        rows, slope, level, y, rows.numel(), C=x.shape[1], BLOCK=2048, num_warps=WARPS
    )
    return y.permute(0, 3, 1, 2)


@triton.jit
def _square(x, y, rows, H, W, HEIGHT, WIDTH, C: tl.constexpr, ROOM: tl.constexpr, BM: tl.constexpr):
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    n, i, j = _window(row, HEIGHT, WIDTH)
    k = tl.arange(0, ROOM)
    h = 2 * (i - 2)[:, None] + (k // (2 * C))[None, :]
    w = 2 * (j - 2)[:, None] + (k // C % 2)[None, :]
    inside = (h >= 0) & (h < H) & (w >= 0) & (w < W) & (k < 4 * C)[None, :] & (row < rows)[:, None]
    from_ = ((n * H)[:, None] + h).to(tl.int64) * W + w
    value = tl.load(x + from_ * C + (k % C)[None, :], mask=inside, other=0.0)
    tl.store(
        y + row.to(tl.int64)[:, None] * ROOM + k[None, :], value.to(y.dtype.element_ty), mask=(row < rows)[:, None]
    )


def squared(x: Tensor, dtype: torch.dtype, room: int) -> Tensor:
    b, width, high, broad = x.shape
    y = torch.empty(b, high // 2 + 3, broad // 2 + 3, room, device=x.device, dtype=dtype)
    x, rows = x.permute(0, 2, 3, 1).contiguous(), y[..., 0].numel()
    _square[(triton.cdiv(rows, 128),)](
        x, y, rows, high, broad, *y.shape[1:3], C=width, ROOM=room, BM=128, num_warps=WARPS
    )
    return y


@triton.jit(do_not_specialize=["P"])
def _open(
    x, w, shift, y, sums, rows, OH, OW, P,
    ROOM: tl.constexpr, N: tl.constexpr, BM: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    part, p = tl.program_id(0) // P, tl.program_id(0) % P
    k = tl.arange(0, 4 * ROOM)  # four squares side by side lie together
    n = tl.arange(0, N)
    from_ = w + k[:, None] * N + n[None, :]
    w0, w1 = tl.load(from_), tl.load(from_ + 4 * ROOM * N)
    w2, w3 = tl.load(from_ + 8 * ROOM * N), tl.load(from_ + 12 * ROOM * N)
    level = tl.load(shift + n)
    one = tl.zeros((BM, N), tl.float32)
    two = tl.zeros((BM, N), tl.float32)
    below = (OW + 3) * ROOM
    for start in tl.range(p * BM, rows, P * BM, num_stages=STAGES):
        row = start + tl.arange(0, BM)
        image, i, j = _window(part * rows + row, (OH + 1) // 2, OW)
        i *= 2
        there = (row < rows)[:, None]
        lower = there & (i + 1 < OH)[:, None]
        at = x + ((image * (OH + 3) + i) * (OW + 3) + j).to(tl.int64)[:, None] * ROOM + k[None, :]
        a0 = tl.load(at, mask=there, other=0.0)
        a1 = tl.load(at + below, mask=there, other=0.0)
        a2 = tl.load(at + 2 * below, mask=there, other=0.0)
        a3 = tl.load(at + 3 * below, mask=there, other=0.0)
        a4 = tl.load(at + 4 * below, mask=lower, other=0.0)
        top = tl.dot(a3, w3, tl.dot(a2, w2, tl.dot(a1, w1, tl.dot(a0, w0)))).to(y.dtype.element_ty)
        low = tl.dot(a4, w3, tl.dot(a3, w2, tl.dot(a2, w1, tl.dot(a1, w0)))).to(y.dtype.element_ty)
        to = y + ((image * OH + i) * OW + j).to(tl.int64)[:, None] * N + n[None, :]
        tl.store(to, top, mask=there)
        tl.store(to + OW * N, low, mask=lower)
        off = tl.where(there, top.to(tl.float32) - level[None, :], 0.0)
        one += off
        two += off * off
        off = tl.where(lower, low.to(tl.float32) - level[None, :], 0.0)
        one += off
        two += off * off
    at = sums + tl.program_id(0) * 2 * N + n
    tl.store(at, tl.sum(one, 0))
    tl.store(at + N, tl.sum(two, 0))


def opened(
    x: Tensor, w: Tensor, weight: Tensor, bias: Tensor, running: Running, momentum: float, eps: float, parts: int
) -> tuple[Tensor, Tensor]:
    room, outs = x.shape[3], w.shape[2]
    low, narrow = x.shape[1] - 3, x.shape[2] - 3
    rows, pairs = len(x) // parts * low * narrow, len(x) // parts * ((low + 1) // 2) * narrow
    count = programs(x, pairs, 32, parts, rounds=4)
    y, sums, stat = x.new_empty(rows * parts, outs), full(x, parts, count, 2, outs), full(x, parts, 4, outs)
    _open[(parts * count,)](
        x, w, shift_of(running, weight), y, sums, pairs, low, narrow, count,
        ROOM=room, N=outs, BM=32, STAGES=2, num_warps=4,
    )  # fmt: skip
    settle(sums, stat, weight, bias, running, momentum, eps, rows)
    return y, stat


@triton.jit(do_not_specialize=["P"])
def _open_back(
    d, x, sums, rows, OH, OW, P, ROOM: tl.constexpr, N: tl.constexpr, BM: tl.constexpr, STAGES: tl.constexpr
):
    k = tl.arange(0, 4 * ROOM)
    n = tl.arange(0, N)
    w0 = tl.zeros((4 * ROOM, N), tl.float32)
    w1 = tl.zeros((4 * ROOM, N), tl.float32)
    w2 = tl.zeros((4 * ROOM, N), tl.float32)
    w3 = tl.zeros((4 * ROOM, N), tl.float32)
    below = (OW + 3) * ROOM
    for start in tl.range(tl.program_id(0) * BM, rows, P * BM, num_stages=STAGES):
        row = start + tl.arange(0, BM)
        image, i, j = _window(row, (OH + 1) // 2, OW)
        i *= 2
        there = (row < rows)[:, None]
        lower = there & (i + 1 < OH)[:, None]
        of = d + ((image * OH + i) * OW + j).to(tl.int64)[:, None] * N + n[None, :]
        top, low = tl.load(of, mask=there, other=0.0), tl.load(of + OW * N, mask=lower, other=0.0)
        at = x + ((image * (OH + 3) + i) * (OW + 3) + j).to(tl.int64)[:, None] * ROOM + k[None, :]
        a0 = tl.trans(tl.load(at, mask=there, other=0.0))
        a1 = tl.trans(tl.load(at + below, mask=there, other=0.0))
        a2 = tl.trans(tl.load(at + 2 * below, mask=there, other=0.0))
        a3 = tl.trans(tl.load(at + 3 * below, mask=there, other=0.0))
        a4 = tl.trans(tl.load(at + 4 * below, mask=lower, other=0.0))
        w0 = tl.dot(a1, low, tl.dot(a0, top, w0))
        w1 = tl.dot(a2, low, tl.dot(a1, top, w1))
        w2 = tl.dot(a3, low, tl.dot(a2, top, w2))
        w3 = tl.dot(a4, low, tl.dot(a3, top, w3))
    at = sums + tl.program_id(0) * 16 * ROOM * N + k[:, None] * N + n[None, :]
    tl.store(at, w0)
    tl.store(at + 4 * ROOM * N, w1)
    tl.store(at + 8 * ROOM * N, w2)
    tl.store(at + 12 * ROOM * N, w3)


def opened_back(d: Tensor, x: Tensor) -> Tensor:
    room, outs = x.shape[3], d.shape[1]
    low, narrow = x.shape[1] - 3, x.shape[2] - 3
    pairs = len(x) * ((low + 1) // 2) * narrow
    count = programs(x, pairs, 32, 1, rounds=1)
    sums = full(x, count, 4, 4 * room, outs)
    _open_back[(count,)](d, x, sums, pairs, low, narrow, count, ROOM=room, N=outs, BM=32, STAGES=3, num_warps=4)
    return sums.sum(dim=0)


@triton.jit
def _pool(x, stat, y, best, rows, H, W, OH, OW, C, BM: tl.constexpr, BC: tl.constexpr):
    at, there, c, inside, part = place(rows, C, BM, BC)
    row = part * rows + tl.program_id(0) // tl.cdiv(C, BC) * BM + tl.arange(0, BM)
    n, i, j = _window(row, OH, OW)
    most = tl.full((BM, BC), float("-inf"), tl.float32)
    which = tl.zeros((BM, BC), tl.int32)
    for tap in tl.static_range(9):
        h, w = 2 * i - 1 + tap // 3, 2 * j - 1 + tap % 3
        here = ((h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None] & there
        _, z = normed(
            x, ((n * H + h) * W + w).to(tl.int64)[:, None] * C + c[None, :], here, stat + part * 4 * C, c, inside, C
        )
        more = here & (z > most)
        most = tl.where(more, z, most)
        which = tl.where(more, tap, which)
    tl.store(y + at, tl.maximum(most, 0.0).to(y.dtype.element_ty), mask=there)
    tl.store(best + at, tl.where(most > 0, which, 9).to(tl.uint8), mask=there)


def pooled(x: Tensor, stat: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    parts, wide = len(stat), x.shape[1]
    low, narrow = (height + 1) // 2, (width + 1) // 2
    y = x.new_empty(len(x) // (height * width) * low * narrow, wide)
    best, rows = torch.empty_like(y, dtype=torch.uint8), len(y) // parts
    across = min(64, triton.next_power_of_2(wide))
    _pool[tiles(rows, wide, 16, across, parts)](
        x, stat, y, best, rows, height, width, low, narrow, wide, BM=16, BC=across, num_warps=WARPS
    )
    return y, best


@triton.jit(do_not_specialize=["P"])
def _pool_add_up_back(d, x, stat, best, sums, rows, H, W, OH, OW, C, P, BM: tl.constexpr, BC: tl.constexpr):
    c, inside = channels(tl.program_id(0), C, BC)
    part, p = tl.program_id(1) // P, tl.program_id(1) % P
    first = part * rows
    mean = tl.load(stat + part * 4 * C + c, mask=inside, other=0.0)
    scale = tl.load(stat + part * 4 * C + C + c, mask=inside, other=0.0)
    one = tl.zeros((BM, BC), tl.float32)
    two = tl.zeros((BM, BC), tl.float32)
    for start in range(p * BM, rows, P * BM):
        row = start + tl.arange(0, BM)
        there = (row < rows)[:, None] & inside[None, :]
        at = (first + row).to(tl.int64)[:, None] * C + c[None, :]
        n, i, j = _window(first + row, OH, OW)
        tap = tl.load(best + at, mask=there, other=9).to(tl.int32)
        there = there & (tap < 9)
        from_ = (n * H + 2 * i - 1)[:, None] * W + tap // 3 * W + (2 * j - 1)[:, None] + tap % 3
        g = tl.load(d + at, mask=there, other=0.0).to(tl.float32)
        value = tl.load(x + from_.to(tl.int64) * C + c[None, :], mask=there, other=0.0).to(tl.float32)
        one += g
        two += g * (value - mean[None, :])
    at = sums + tl.program_id(1) * 2 * C + c
    tl.store(at, tl.sum(one, 0), mask=inside)
    tl.store(at + C, tl.sum(two, 0) * scale, mask=inside)


@triton.jit
def _pool_back(d, x, slopes, best, made, rows, H, W, OH, OW, C, BM: tl.constexpr, BC: tl.constexpr):
    at, there, c, inside, part = place(rows, C, BM, BC)
    row = part * rows + tl.program_id(0) // tl.cdiv(C, BC) * BM + tl.arange(0, BM)
    n, h, w = _window(row, H, W)
    g = tl.zeros((BM, BC), tl.float32)
    for k in tl.static_range(4):
        i, j = (h + k // 2) // 2, (w + k % 2) // 2  # an odd row lies in two windows, an even one in one
        tap = (h - 2 * i + 1) * 3 + w - 2 * j + 1
        new = (i < OH) & (j < OW) & ((h % 2 == 1) | (k // 2 == 0)) & ((w % 2 == 1) | (k % 2 == 0))
        here = new[:, None] & there
        from_ = ((n * OH + i) * OW + j).to(tl.int64)[:, None] * C + c[None, :]
        which = tl.load(best + from_, mask=here, other=9).to(tl.int32)
        value = tl.load(d + from_, mask=here, other=0.0).to(tl.float32)
        g += tl.where(which == tap[:, None], value, 0.0)
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    k = slopes + part * 3 * C + c
    gain = tl.load(k, mask=inside, other=0.0)
    slope = tl.load(k + C, mask=inside, other=0.0)
    level = tl.load(k + 2 * C, mask=inside, other=0.0)
    y = g * gain[None, :] + value * slope[None, :] + level[None, :]
    tl.store(made + at, y.to(made.dtype.element_ty), mask=there)


def pooled_back(
    d: Tensor, x: Tensor, stat: Tensor, weight: Tensor, best: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    parts, deep = len(stat), x.shape[1]
    low, narrow = (height + 1) // 2, (width + 1) // 2
    rows, made = len(best) // parts, torch.empty_like(x)
    it = strips(x, rows, deep, parts)
    sums = full(x, parts, it.programs, 2, deep)
    _pool_add_up_back[it.grid](
        d, x, stat, best, sums, rows, height, width, low, narrow, deep, it.programs, **it.options
    )
    rows = len(x) // parts
    slopes, of_weight, of_bias = settled_back(sums, stat, weight, rows)
    tall, wide = tile(deep)
    _pool_back[tiles(rows, deep, tall, wide, parts)](
        d, x, slopes, best, made, rows, height, width, low, narrow, deep, BM=tall, BC=wide, num_warps=WARPS
    )
    return made, of_weight, of_bias


@triton.jit
def _thin(x, y, rows, H, W, OH, OW, C, DOWN, RIGHT, BM: tl.constexpr, BC: tl.constexpr):
    at, there, c, _, _ = place(rows, C, BM, BC)
    n, i, j = _window(tl.program_id(0) // tl.cdiv(C, BC) * BM + tl.arange(0, BM), OH, OW)
    from_ = ((n * H + i * DOWN) * W + j * RIGHT).to(tl.int64)[:, None] * C + c[None, :]
    tl.store(y + at, tl.load(x + from_, mask=there, other=0.0), mask=there)


def thinned(x: Tensor, down: int, right: int) -> Tensor:
    b, deep, height, width = x.shape
    low, narrow = -(-height // down), -(-width // right)
    tall, wide = tile(deep)
    y = x.new_empty(b * low * narrow, deep)
    _thin[tiles(len(y), deep, tall, wide, 1)](
        x, y, len(y), height, width, low, narrow, deep, down, right, BM=tall, BC=wide, num_warps=WARPS
    )
    return y


@triton.jit
def _thicken(d, x, level, rows, H, W, OH, OW, C, DOWN, RIGHT, OFFSET: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    at, there, c, inside, part = place(rows, C, BM, BC)
    row = part * rows + tl.program_id(0) // tl.cdiv(C, BC) * BM + tl.arange(0, BM)
    n, i, j = _window(row, OH, OW)
    to = ((n * H + i * DOWN) * W + j * RIGHT).to(tl.int64)[:, None] * C + c[None, :]
    made = tl.load(d + to, mask=there, other=0.0).to(tl.float32) + tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    if OFFSET:
        made += tl.load(level + part * C + c, mask=inside, other=0.0)[None, :]
    tl.store(d + to, made.to(d.dtype.element_ty), mask=there)


def thickened(d: Tensor, x: Tensor, level: Tensor | None, parts: int, down: int, right: int) -> None:
    _, deep, height, width = d.shape
    low, narrow = -(-height // down), -(-width // right)
    tall, wide = tile(deep)
    rows = len(x) // parts
    _thicken[tiles(rows, deep, tall, wide, parts)](
        d, x, x if level is None else level, rows, height, width, low, narrow, deep, down, right,
        OFFSET=level is not None, BM=tall, BC=wide, num_warps=WARPS,
    )  # fmt: skip
