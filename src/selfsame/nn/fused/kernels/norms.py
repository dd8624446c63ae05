"""Batch norm, ReLU and what is added to them: forward, backward, and the sums they need."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from selfsame.nn.fused.kernels.tiles import WARPS, channels, full, normed, place, strips, tile, tiles
from selfsame.nn.fused.twins import Running, enough


@triton.jit(do_not_specialize=["P"])
def _add_up(x, shift, sums, rows, C, P, BM: tl.constexpr, BC: tl.constexpr):
    c, inside = channels(tl.program_id(0), C, BC)
    part, p = tl.program_id(1) // P, tl.program_id(1) % P
    level = tl.load(shift + c, mask=inside, other=0.0)
    first = part.to(tl.int64) * rows
    one = tl.zeros((BM, BC), tl.float32)
    two = tl.zeros((BM, BC), tl.float32)
    for start in range(p * BM, rows, P * BM):
        row = start + tl.arange(0, BM)
        there = (row < rows)[:, None] & inside[None, :]
        value = tl.load(x + (first + row)[:, None] * C + c[None, :], mask=there, other=0.0).to(tl.float32)
        value = tl.where(there, value - level[None, :], 0.0)
        one += value
        two += value * value
    at = sums + tl.program_id(1) * 2 * C + c
    tl.store(at, tl.sum(one, 0), mask=inside)
    tl.store(at + C, tl.sum(two, 0), mask=inside)


@triton.jit
def _total(sums, part, P, c, inside, C, BP: tl.constexpr, BC: tl.constexpr):
    """Both sums of a part, over its programs."""
    one = tl.zeros((BP, BC), tl.float32)
    two = tl.zeros((BP, BC), tl.float32)
    for start in range(0, P, BP):
        p = start + tl.arange(0, BP)
        there = (p < P)[:, None] & inside[None, :]
        at = sums + ((part * P + p) * 2 * C)[:, None] + c[None, :]
        one += tl.load(at, mask=there, other=0.0)
        two += tl.load(at + C, mask=there, other=0.0)
    return tl.sum(one, 0), tl.sum(two, 0)


@triton.jit(do_not_specialize=["P"])
def _settle(
    sums, shift, weight, bias, running_mean, running_var, stat, rows, C, P, momentum, eps,
    PARTS: tl.constexpr, TRACK: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    c, inside = channels(tl.program_id(0), C, BC)
    level = tl.load(shift + c, mask=inside, other=0.0)
    gamma = tl.load(weight + c, mask=inside, other=0.0)
    beta = tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    if TRACK:
        known_mean = tl.load(running_mean + c, mask=inside, other=0.0).to(tl.float32)
        known_var = tl.load(running_var + c, mask=inside, other=0.0).to(tl.float32)
    for part in range(PARTS):
        one, two = _total(sums, part, P, c, inside, C, BP, BC)
        off = one / rows
        variance = tl.maximum(two / rows - off * off, 0.0)
        mean = off + level
        scale = 1 / tl.sqrt(variance + eps)
        at = stat + part * 4 * C + c
        tl.store(at, mean, mask=inside)
        tl.store(at + C, scale, mask=inside)
        tl.store(at + 2 * C, scale * gamma, mask=inside)
        tl.store(at + 3 * C, beta - mean * scale * gamma, mask=inside)
        if TRACK:
            known_mean += momentum * (mean - known_mean)
            known_var += momentum * (variance * (rows / (rows - 1.0)) - known_var)
    if TRACK:
        tl.store(running_mean + c, known_mean, mask=inside)
        tl.store(running_var + c, known_var, mask=inside)


def moments(
    x: Tensor, weight: Tensor, bias: Tensor, running: Running, momentum: float, eps: float, parts: int
) -> Tensor:
    rows, width = len(x) // parts, x.shape[1]
    enough(rows)
    it = strips(x, rows, width, parts)
    sums, stat = full(x, parts, it.programs, 2, width), full(x, parts, 4, width)
    _add_up[it.grid](x, shift_of(running, weight), sums, rows, width, it.programs, **it.options)
    settle(sums, stat, weight, bias, running, momentum, eps, rows)
    return stat


def shift_of(running: Running, weight: Tensor) -> Tensor:
    """About what sums of squares are taken: the running mean, so that they are no difference of large numbers."""
    return running[0] if running is not None else torch.zeros_like(weight)


def settle(
    sums: Tensor, stat: Tensor, weight: Tensor, bias: Tensor, running: Running, momentum: float, eps: float, rows: int
) -> None:
    """The statistics that come of sums [parts programs 2 c] about `shift_of`; the running ones follow."""
    parts, count, _, width = sums.shape
    mean, variance = running or (shift_of(None, weight), weight)
    _settle[(triton.cdiv(width, 16),)](
        sums, mean, weight, bias, mean, variance, stat, rows, width, count, momentum, eps,
        PARTS=parts, TRACK=running is not None, BP=32, BC=16, num_warps=WARPS,
    )  # fmt: skip


@triton.jit
def _activate(x, stat, y, rows, C, BM: tl.constexpr, BC: tl.constexpr):
    at, there, c, inside, part = place(rows, C, BM, BC)
    _, z = normed(x, at, there, stat + part * 4 * C, c, inside, C)
    tl.store(y + at, tl.maximum(z, 0.0).to(y.dtype.element_ty), mask=there)


def activated(x: Tensor, stat: Tensor) -> Tensor:
    parts, width = len(stat), x.shape[1]
    tall, wide = tile(width)
    y, rows = torch.empty_like(x), len(x) // parts
    _activate[tiles(rows, width, tall, wide, parts)](x, stat, y, rows, width, BM=tall, BC=wide, num_warps=WARPS)
    return y


@triton.jit(do_not_specialize=["P"])
def _activate_and_add_up(x, stat, y, sums, rows, C, P, BM: tl.constexpr, BC: tl.constexpr):
    c, inside = channels(tl.program_id(0), C, BC)
    part, p = tl.program_id(1) // P, tl.program_id(1) % P
    first = part.to(tl.int64) * rows
    one = tl.zeros((BM, BC), tl.float32)
    for start in range(p * BM, rows, P * BM):
        row = start + tl.arange(0, BM)
        there = (row < rows)[:, None] & inside[None, :]
        at = (first + row)[:, None] * C + c[None, :]
        _, z = normed(x, at, there, stat + part * 4 * C, c, inside, C)
        made = tl.maximum(z, 0.0).to(y.dtype.element_ty)
        tl.store(y + at, made, mask=there)
        one += tl.where(there, made.to(tl.float32), 0.0)
    tl.store(sums + tl.program_id(1) * C + c, tl.sum(one, 0), mask=inside)


def activated_and_summed(x: Tensor, stat: Tensor) -> tuple[Tensor, Tensor]:
    parts, width = len(stat), x.shape[1]
    y, rows = torch.empty_like(x), len(x) // parts
    it = strips(x, rows, width, parts)
    sums = full(x, parts, it.programs, width)
    _activate_and_add_up[it.grid](x, stat, y, sums, rows, width, it.programs, **it.options)
    return y, sums.sum(dim=1)


@triton.jit(do_not_specialize=["P"])
def _sum_rows(x, sums, rows, C, P, BM: tl.constexpr, BC: tl.constexpr):
    c, inside = channels(tl.program_id(0), C, BC)
    part, p = tl.program_id(1) // P, tl.program_id(1) % P
    first = part.to(tl.int64) * rows
    one = tl.zeros((BM, BC), tl.float32)
    for start in range(p * BM, rows, P * BM):
        row = start + tl.arange(0, BM)
        there = (row < rows)[:, None] & inside[None, :]
        one += tl.load(x + (first + row)[:, None] * C + c[None, :], mask=there, other=0.0).to(tl.float32)
    tl.store(sums + tl.program_id(1) * C + c, tl.sum(one, 0), mask=inside)


def summed(x: Tensor, parts: int) -> Tensor:
    rows, width = len(x) // parts, x.shape[1]
    it = strips(x, rows, width, parts)
    sums = full(x, parts, it.programs, width)
    _sum_rows[it.grid](x, sums, rows, width, it.programs, **it.options)
    return sums.sum(dim=1)


@triton.jit
def _join(x, stat, skip, skip_stat, y, rows, C, NORMED: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    at, there, c, inside, part = place(rows, C, BM, BC)
    _, z = normed(x, at, there, stat + part * 4 * C, c, inside, C)
    if NORMED:
        _, more = normed(skip, at, there, skip_stat + part * 4 * C, c, inside, C)
    else:
        more = tl.load(skip + at, mask=there, other=0.0).to(tl.float32)
    tl.store(y + at, tl.maximum(z + more, 0.0).to(y.dtype.element_ty), mask=there)


def joined(x: Tensor, stat: Tensor, skip: Tensor, skip_stat: Tensor | None) -> Tensor:
    parts, width = len(stat), x.shape[1]
    tall, wide = tile(width)
    y, rows = torch.empty_like(x), len(x) // parts
    _join[tiles(rows, width, tall, wide, parts)](
        x, stat, skip, stat if skip_stat is None else skip_stat, y, rows, width,
        NORMED=skip_stat is not None, BM=tall, BC=wide, num_warps=WARPS,
    )  # fmt: skip
    return y


@triton.jit(do_not_specialize=["P"])
def _mask_and_add_up(d, more, seen, g, sums, rows, C, P, MORE: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    c, inside = channels(tl.program_id(0), C, BC)
    part, p = tl.program_id(1) // P, tl.program_id(1) % P
    first = part.to(tl.int64) * rows
    one = tl.zeros((BM, BC), tl.float32)
    for start in range(p * BM, rows, P * BM):
        row = start + tl.arange(0, BM)
        there = (row < rows)[:, None] & inside[None, :]
        at = (first + row)[:, None] * C + c[None, :]
        value = tl.load(d + at, mask=there, other=0.0).to(tl.float32)
        if MORE:
            value += tl.load(more + at, mask=there, other=0.0).to(tl.float32)
        shown = tl.load(seen + at, mask=there, other=0.0).to(tl.float32) > 0
        made = tl.where(shown, value, 0.0).to(g.dtype.element_ty)
        tl.store(g + at, made, mask=there)
        one += made.to(tl.float32)
    tl.store(sums + tl.program_id(1) * C + c, tl.sum(one, 0), mask=inside)


def masked_and_summed(d: Tensor, more: Tensor | None, seen: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    rows, width = len(d) // parts, d.shape[1]
    it = strips(d, rows, width, parts)
    g, sums = torch.empty_like(d), full(d, parts, it.programs, width)
    _mask_and_add_up[it.grid](
        d, d if more is None else more, seen, g, sums, rows, width, it.programs,
        MORE=more is not None, **it.options,
    )  # fmt: skip
    return g, sums.sum(dim=1)


@triton.jit(do_not_specialize=["P"])
def _add_up_back(
    d, offset, x, stat, sums, rows, C, P, RELU: tl.constexpr, OFFSET: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr
):
    c, inside = channels(tl.program_id(0), C, BC)
    part, p = tl.program_id(1) // P, tl.program_id(1) % P
    first = part.to(tl.int64) * rows
    mean = tl.load(stat + part * 4 * C + c, mask=inside, other=0.0)
    scale = tl.load(stat + part * 4 * C + C + c, mask=inside, other=0.0)
    if OFFSET:
        level = tl.load(offset + part * C + c, mask=inside, other=0.0)
    one = tl.zeros((BM, BC), tl.float32)
    two = tl.zeros((BM, BC), tl.float32)
    for start in range(p * BM, rows, P * BM):
        row = start + tl.arange(0, BM)
        there = (row < rows)[:, None] & inside[None, :]
        at = (first + row)[:, None] * C + c[None, :]
        value, z = normed(x, at, there, stat + part * 4 * C, c, inside, C)
        g = tl.load(d + at, mask=there, other=0.0).to(tl.float32)
        if OFFSET:
            g += level[None, :]
        if RELU:
            g = tl.where(z > 0, g, 0.0)
        g = tl.where(there, g, 0.0)
        one += g
        two += g * (value - mean[None, :])
    at = sums + tl.program_id(1) * 2 * C + c
    tl.store(at, tl.sum(one, 0), mask=inside)
    tl.store(at + C, tl.sum(two, 0) * scale, mask=inside)


@triton.jit(do_not_specialize=["P"])
def _settle_back(
    sums, stat, weight, slopes, of_weight, of_bias, rows, C, P, PARTS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr
):
    c, inside = channels(tl.program_id(0), C, BC)
    gamma = tl.load(weight + c, mask=inside, other=0.0)
    slope_of_weight = tl.zeros((BC,), tl.float32)
    slope_of_bias = tl.zeros((BC,), tl.float32)
    for part in range(PARTS):
        one, two = _total(sums, part, P, c, inside, C, BP, BC)
        slope_of_weight += two
        slope_of_bias += one
        mean = tl.load(stat + part * 4 * C + c, mask=inside, other=0.0)
        scale = tl.load(stat + part * 4 * C + C + c, mask=inside, other=0.0)
        gain = scale * gamma
        slope = -gain * scale * two / rows
        at = slopes + part * 3 * C + c
        tl.store(at, gain, mask=inside)
        tl.store(at + C, slope, mask=inside)
        tl.store(at + 2 * C, -gain * one / rows - slope * mean, mask=inside)
    tl.store(of_weight + c, slope_of_weight, mask=inside)
    tl.store(of_bias + c, slope_of_bias, mask=inside)


@triton.jit
def _back(
    d, offset, x, stat, slopes, y, rows, C, RELU: tl.constexpr, OFFSET: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr
):
    at, there, c, inside, part = place(rows, C, BM, BC)
    value, z = normed(x, at, there, stat + part * 4 * C, c, inside, C)
    g = tl.load(d + at, mask=there, other=0.0).to(tl.float32)
    if OFFSET:
        g += tl.load(offset + part * C + c, mask=inside, other=0.0)[None, :]
    if RELU:
        g = tl.where(z > 0, g, 0.0)
    k = slopes + part * 3 * C + c
    gain = tl.load(k, mask=inside, other=0.0)
    slope = tl.load(k + C, mask=inside, other=0.0)
    level = tl.load(k + 2 * C, mask=inside, other=0.0)
    made = g * gain[None, :] + value * slope[None, :] + level[None, :]
    tl.store(y + at, made.to(y.dtype.element_ty), mask=there)


def back(
    d: Tensor, offset: Tensor | None, x: Tensor, stat: Tensor, weight: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    parts, width = len(stat), x.shape[1]
    rows, y = len(x) // parts, torch.empty_like(x)
    it = strips(x, rows, width, parts)
    sums = full(x, parts, it.programs, 2, width)
    given, kind = stat if offset is None else offset, {"RELU": relu, "OFFSET": offset is not None}
    _add_up_back[it.grid](d, given, x, stat, sums, rows, width, it.programs, **kind, **it.options)
    slopes, of_weight, of_bias = settled_back(sums, stat, weight, rows)
    tall, wide = tile(width)
    _back[tiles(rows, width, tall, wide, parts)](
        d, given, x, stat, slopes, y, rows, width, **kind, BM=tall, BC=wide, num_warps=WARPS
    )
    return y, of_weight, of_bias


def settled_back(sums: Tensor, stat: Tensor, weight: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """What comes of sums [parts programs 2 c] of a gradient, and of it times the normalised values.

    (gain, slope and level [parts 3 c], by which that of x is gain * g + slope * x + level; that of weight; of bias)
    """
    parts, count, _, width = sums.shape
    slopes, of_weight, of_bias = full(stat, parts, 3, width), full(stat, width), full(stat, width)
    _settle_back[(triton.cdiv(width, 16),)](
        sums, stat, weight, slopes, of_weight, of_bias, rows, width, count, PARTS=parts, BP=32, BC=16, num_warps=WARPS
    )
    return slopes, of_weight, of_bias
