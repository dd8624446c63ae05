"""Triton kernels that pass over activations as few times as can be. `twins` says in torch what each computes.

Activations are rows [m c], channels last; the rows are those of `parts` views, one after the other, each with batch
statistics of its own. Each program of a sum goes through every P-th block of rows of a part, so that the result does
not depend on which program is done first.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROUNDS = 8  # programs of a sum for each multiprocessor: enough to hide the wait for memory
WARPS = 4


@triton.jit
def _channels(block, C, BC: tl.constexpr):
    c = block * BC + tl.arange(0, BC)
    return c, c < C


@triton.jit(do_not_specialize=["P"])
def _add_up(x, shift, sums, rows, C, P, BM: tl.constexpr, BC: tl.constexpr):
    c, inside = _channels(tl.program_id(0), C, BC)
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
    c, inside = _channels(tl.program_id(0), C, BC)
    level = tl.load(shift + c, mask=inside, other=0.0)
    gamma = tl.load(weight + c, mask=inside, other=0.0)
    beta = tl.load(bias + c, mask=inside, other=0.0)
    if TRACK:
        known_mean = tl.load(running_mean + c, mask=inside, other=0.0)
        known_var = tl.load(running_var + c, mask=inside, other=0.0)
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


@triton.jit
def _normed(x, at, there, stat, c, inside, C):
    """(the value, the value normalised) at these places."""
    slope = tl.load(stat + 2 * C + c, mask=inside, other=0.0)
    level = tl.load(stat + 3 * C + c, mask=inside, other=0.0)
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    return value, value * slope[None, :] + level[None, :]


@triton.jit
def _place(rows, C, BM: tl.constexpr, BC: tl.constexpr):
    """(places, which of them there are, channels, which of them there are, part) of a program of its own tile."""
    blocks = tl.cdiv(C, BC)
    c, inside = _channels(tl.program_id(0) % blocks, C, BC)
    row = tl.program_id(0) // blocks * BM + tl.arange(0, BM)
    part = tl.program_id(1)
    there = (row < rows)[:, None] & inside[None, :]
    return (part.to(tl.int64) * rows + row)[:, None] * C + c[None, :], there, c, inside, part


@triton.jit
def _activate(x, stat, y, rows, C, BM: tl.constexpr, BC: tl.constexpr):
    at, there, c, inside, part = _place(rows, C, BM, BC)
    _, z = _normed(x, at, there, stat + part * 4 * C, c, inside, C)
    tl.store(y + at, tl.maximum(z, 0.0).to(y.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["P"])
def _activate_and_add_up(x, stat, y, sums, rows, C, P, BM: tl.constexpr, BC: tl.constexpr):
    c, inside = _channels(tl.program_id(0), C, BC)
    part, p = tl.program_id(1) // P, tl.program_id(1) % P
    first = part.to(tl.int64) * rows
    one = tl.zeros((BM, BC), tl.float32)
    for start in range(p * BM, rows, P * BM):
        row = start + tl.arange(0, BM)
        there = (row < rows)[:, None] & inside[None, :]
        at = (first + row)[:, None] * C + c[None, :]
        _, z = _normed(x, at, there, stat + part * 4 * C, c, inside, C)
        made = tl.maximum(z, 0.0).to(y.dtype.element_ty)
        tl.store(y + at, made, mask=there)
        one += tl.where(there, made.to(tl.float32), 0.0)
    tl.store(sums + tl.program_id(1) * C + c, tl.sum(one, 0), mask=inside)


@triton.jit
def _join(x, stat, skip, skip_stat, y, rows, C, NORMED: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    at, there, c, inside, part = _place(rows, C, BM, BC)
    _, z = _normed(x, at, there, stat + part * 4 * C, c, inside, C)
    if NORMED:
        _, more = _normed(skip, at, there, skip_stat + part * 4 * C, c, inside, C)
    else:
        more = tl.load(skip + at, mask=there, other=0.0).to(tl.float32)
    tl.store(y + at, tl.maximum(z + more, 0.0).to(y.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["P"])
def _multiply_and_join(
    x, w, stat, skip, skip_stat, y, rows, N, P,
    NORMED: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    part, p = tl.program_id(1) // P, tl.program_id(1) % P
    k = tl.arange(0, K)
    right = tl.load(w + part * N * K + n[None, :] * K + k[:, None])
    level = tl.load(stat + part * 4 * N + 3 * N + n)
    if NORMED:
        slope = tl.load(skip_stat + part * 4 * N + 2 * N + n)
        level += tl.load(skip_stat + part * 4 * N + 3 * N + n)
    first = part.to(tl.int64) * rows
    for start in tl.range(p * BM, rows, P * BM, num_stages=STAGES):
        row = start + tl.arange(0, BM)
        there = (row < rows)[:, None]
        left = tl.load(x + (first + row)[:, None] * K + k[None, :], mask=there, other=0.0)
        at = (first + row)[:, None] * N + n[None, :]
        more = tl.load(skip + at, mask=there, other=0.0).to(tl.float32)
        if NORMED:
            more = more * slope[None, :]
        z = tl.dot(left, right) + level[None, :] + more
        tl.store(y + at, tl.maximum(z, 0.0).to(y.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["P"])
def _multiply_and_mask(
    d, w, more, seen, g, sums, rows, N, P,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    part, p = tl.program_id(1) // P, tl.program_id(1) % P
    k = tl.arange(0, K)
    right = tl.load(w + k[:, None] * N + n[None, :])
    first = part.to(tl.int64) * rows
    one = tl.zeros((BM, BN), tl.float32)
    for start in tl.range(p * BM, rows, P * BM, num_stages=STAGES):
        row = start + tl.arange(0, BM)
        there = (row < rows)[:, None]
        left = tl.load(d + (first + row)[:, None] * K + k[None, :], mask=there, other=0.0)
        at = (first + row)[:, None] * N + n[None, :]
        value = tl.dot(left, right) + tl.load(more + at, mask=there, other=0.0).to(tl.float32)
        shown = tl.load(seen + at, mask=there, other=0.0) > 0
        made = tl.where(shown, value, 0.0).to(g.dtype.element_ty)
        tl.store(g + at, made, mask=there)
        one += made.to(tl.float32)
    tl.store(sums + tl.program_id(1) * N + n, tl.sum(one, 0))


@triton.jit(do_not_specialize=["P"])
def _multiply_both(
    g, gains, x, square, y, rows, P, N: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, STAGES: tl.constexpr
):
    part, p = tl.program_id(0) // P, tl.program_id(0) % P
    n, k = tl.arange(0, N), tl.arange(0, K)
    one = tl.load(gains + part * K * N + k[:, None] * N + n[None, :])
    two = tl.load(square + part * N * N + n[:, None] * N + n[None, :])
    first = part.to(tl.int64) * rows
    for start in tl.range(p * BM, rows, P * BM, num_stages=STAGES):
        row = start + tl.arange(0, BM)
        there = (row < rows)[:, None]
        at = (first + row)[:, None] * N + n[None, :]
        made = tl.dot(tl.load(g + (first + row)[:, None] * K + k[None, :], mask=there, other=0.0), one)
        made = tl.dot(tl.load(x + at, mask=there, other=0.0), two, made)
        tl.store(y + at, made.to(y.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["P"])
def _sum_rows(x, sums, rows, C, P, BM: tl.constexpr, BC: tl.constexpr):
    c, inside = _channels(tl.program_id(0), C, BC)
    part, p = tl.program_id(1) // P, tl.program_id(1) % P
    first = part.to(tl.int64) * rows
    one = tl.zeros((BM, BC), tl.float32)
    for start in range(p * BM, rows, P * BM):
        row = start + tl.arange(0, BM)
        there = (row < rows)[:, None] & inside[None, :]
        one += tl.load(x + (first + row)[:, None] * C + c[None, :], mask=there, other=0.0).to(tl.float32)
    tl.store(sums + tl.program_id(1) * C + c, tl.sum(one, 0), mask=inside)


@triton.jit
def _thin(x, y, rows, H, W, OH, OW, C, DOWN, RIGHT, BM: tl.constexpr, BC: tl.constexpr):
    at, there, c, _, _ = _place(rows, C, BM, BC)
    n, i, j = _window(tl.program_id(0) // tl.cdiv(C, BC) * BM + tl.arange(0, BM), OH, OW)
    from_ = ((n * H + i * DOWN) * W + j * RIGHT).to(tl.int64)[:, None] * C + c[None, :]
    tl.store(y + at, tl.load(x + from_, mask=there, other=0.0), mask=there)


@triton.jit
def _thicken(d, x, level, rows, H, W, OH, OW, C, DOWN, RIGHT, OFFSET: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    at, there, c, inside, part = _place(rows, C, BM, BC)
    row = part * rows + tl.program_id(0) // tl.cdiv(C, BC) * BM + tl.arange(0, BM)
    n, i, j = _window(row, OH, OW)
    to = ((n * H + i * DOWN) * W + j * RIGHT).to(tl.int64)[:, None] * C + c[None, :]
    made = tl.load(d + to, mask=there, other=0.0).to(tl.float32) + tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    if OFFSET:
        made += tl.load(level + part * C + c, mask=inside, other=0.0)[None, :]
    tl.store(d + to, made.to(d.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["P"])
def _mask_and_add_up(d, more, seen, g, sums, rows, C, P, MORE: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    c, inside = _channels(tl.program_id(0), C, BC)
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


@triton.jit(do_not_specialize=["P"])
def _add_up_back(
    d, offset, x, stat, sums, rows, C, P, RELU: tl.constexpr, OFFSET: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr
):
    c, inside = _channels(tl.program_id(0), C, BC)
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
        value, z = _normed(x, at, there, stat + part * 4 * C, c, inside, C)
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
    c, inside = _channels(tl.program_id(0), C, BC)
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
    at, there, c, inside, part = _place(rows, C, BM, BC)
    value, z = _normed(x, at, there, stat + part * 4 * C, c, inside, C)
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


# Pooling -------------------------------------------------------------------------------------------------------------


@triton.jit
def _window(row, OH, OW):
    """(image, row, column) of a place of the pooled map."""
    return row // (OH * OW), row // OW % OH, row % OW


@triton.jit
def _pool(x, stat, y, best, rows, H, W, OH, OW, C, BM: tl.constexpr, BC: tl.constexpr):
    at, there, c, inside, part = _place(rows, C, BM, BC)
    row = part * rows + tl.program_id(0) // tl.cdiv(C, BC) * BM + tl.arange(0, BM)
    n, i, j = _window(row, OH, OW)
    most = tl.full((BM, BC), float("-inf"), tl.float32)
    which = tl.zeros((BM, BC), tl.int32)
    for tap in tl.static_range(9):
        h, w = 2 * i - 1 + tap // 3, 2 * j - 1 + tap % 3
        here = ((h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None] & there
        _, z = _normed(
            x, ((n * H + h) * W + w).to(tl.int64)[:, None] * C + c[None, :], here, stat + part * 4 * C, c, inside, C
        )
        more = here & (z > most)
        most = tl.where(more, z, most)
        which = tl.where(more, tap, which)
    tl.store(y + at, tl.maximum(most, 0.0).to(y.dtype.element_ty), mask=there)
    tl.store(best + at, tl.where(most > 0, which, 9).to(tl.uint8), mask=there)


@triton.jit(do_not_specialize=["P"])
def _pool_add_up_back(d, x, stat, best, sums, rows, H, W, OH, OW, C, P, BM: tl.constexpr, BC: tl.constexpr):
    c, inside = _channels(tl.program_id(0), C, BC)
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
    at, there, c, inside, part = _place(rows, C, BM, BC)
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


# The first convolution -----------------------------------------------------------------------------------------------


@triton.jit
def _scale(x, slope, level, y, count, C: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there, c = at < count, at % C
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    value = value * tl.load(slope + c, mask=there, other=0.0) + tl.load(level + c, mask=there, other=0.0)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=there)


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
        there = (row < rows)[:, None]
        image, i, j = _window(part * rows + row, OH, OW)
        at = x + (((image * (OH + 3) + i) * (OW + 3) + j) * ROOM).to(tl.int64)[:, None] + k[None, :]
        z = tl.dot(tl.load(at, mask=there, other=0.0), w0)
        z = tl.dot(tl.load(at + below, mask=there, other=0.0), w1, z)
        z = tl.dot(tl.load(at + 2 * below, mask=there, other=0.0), w2, z)
        z = tl.dot(tl.load(at + 3 * below, mask=there, other=0.0), w3, z)
        made = z.to(y.dtype.element_ty)
        tl.store(y + (part * rows + row).to(tl.int64)[:, None] * N + n[None, :], made, mask=there)
        off = tl.where(there, made.to(tl.float32) - level[None, :], 0.0)
        one += off
        two += off * off
    at = sums + tl.program_id(0) * 2 * N + n
    tl.store(at, tl.sum(one, 0))
    tl.store(at + N, tl.sum(two, 0))


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
        there = (row < rows)[:, None]
        image, i, j = _window(row, OH, OW)
        g = tl.load(d + row.to(tl.int64)[:, None] * N + n[None, :], mask=there, other=0.0)
        at = x + (((image * (OH + 3) + i) * (OW + 3) + j) * ROOM).to(tl.int64)[:, None] + k[None, :]
        w0 = tl.dot(tl.trans(tl.load(at, mask=there, other=0.0)), g, w0)
        w1 = tl.dot(tl.trans(tl.load(at + below, mask=there, other=0.0)), g, w1)
        w2 = tl.dot(tl.trans(tl.load(at + 2 * below, mask=there, other=0.0)), g, w2)
        w3 = tl.dot(tl.trans(tl.load(at + 3 * below, mask=there, other=0.0)), g, w3)
    at = sums + tl.program_id(0) * 16 * ROOM * N + k[:, None] * N + n[None, :]
    tl.store(at, w0)
    tl.store(at + 4 * ROOM * N, w1)
    tl.store(at + 8 * ROOM * N, w2)
    tl.store(at + 12 * ROOM * N, w3)


# A product and the norm of what it gives -----------------------------------------------------------------------------


@triton.jit
def _fold(
    product, total, w, weight, bias, running_mean, running_var, folded, stat, rows, K, N, momentum, eps,
    PARTS: tl.constexpr, TRACK: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    n, inside = _channels(tl.program_id(0), N, BN)
    k = tl.arange(0, BK)
    gamma = tl.load(weight + n, mask=inside, other=0.0)
    beta = tl.load(bias + n, mask=inside, other=0.0)
    if TRACK:
        known_mean = tl.load(running_mean + n, mask=inside, other=0.0)
        known_var = tl.load(running_var + n, mask=inside, other=0.0)
    for part in range(PARTS):
        mean = tl.zeros((BN,), tl.float32)
        variance = tl.zeros((BN,), tl.float32)
        for left in range(0, K, BK):
            c = left + k
            there = inside[:, None] & (c < K)[None, :]
            at = n[:, None] * K + c[None, :]
            mine = tl.load(w + at, mask=there, other=0.0).to(tl.float32)
            mean += tl.sum(mine * (tl.load(total + part * K + c, mask=c < K, other=0.0) / rows)[None, :], 1)
            variance += tl.sum(mine * tl.load(product + part * N * K + at, mask=there, other=0.0), 1)
        variance = tl.maximum(variance, 0.0)
        scale = 1 / tl.sqrt(variance + eps)
        level = beta
        for left in range(0, K, BK):
            c = left + k
            there = inside[:, None] & (c < K)[None, :]
            at = n[:, None] * K + c[None, :]
            mine = tl.load(w + at, mask=there, other=0.0).to(tl.float32)
            made = (mine * (scale * gamma)[:, None]).to(folded.dtype.element_ty)
            tl.store(folded + part * N * K + at, made, mask=there)
            of_c = tl.load(total + part * K + c, mask=c < K, other=0.0) / rows
            level -= tl.sum(made.to(tl.float32) * of_c[None, :], 1)
        at = stat + part * 4 * N + n
        tl.store(at, mean, mask=inside)
        tl.store(at + N, scale, mask=inside)
        tl.store(at + 2 * N, tl.full((BN,), 1.0, tl.float32), mask=inside)
        tl.store(at + 3 * N, level, mask=inside)
        if TRACK:
            known_mean += momentum * (mean - known_mean)
            known_var += momentum * (variance * (rows / (rows - 1.0)) - known_var)
    if TRACK:
        tl.store(running_mean + n, known_mean, mask=inside)
        tl.store(running_var + n, known_var, mask=inside)


@triton.jit
def _unfold(
    h, sums, total, w, weight, product, stat, of_w, of_weight, gains, slopes, level, rows, K, N,
    PARTS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    n, inside = _channels(tl.program_id(0), N, BN)
    k = tl.arange(0, BK)
    gamma = tl.load(weight + n, mask=inside, other=0.0)
    slope_of_weight = tl.zeros((BN,), tl.float32)
    for part in range(PARTS):
        t = total + part * K
        of_rows = tl.load(sums + part * N + n, mask=inside, other=0.0)
        scale = tl.load(stat + part * 4 * N + N + n, mask=inside, other=0.0)
        along = tl.zeros((BN,), tl.float32)
        for left in range(0, K, BK):
            c = left + k
            there = inside[:, None] & (c < K)[None, :]
            at = part * N * K + n[:, None] * K + c[None, :]
            of_c = tl.load(t + c, mask=c < K, other=0.0) / rows
            mine = tl.load(w + n[:, None] * K + c[None, :], mask=there, other=0.0).to(tl.float32)
            along += tl.sum(mine * (tl.load(h + at, mask=there, other=0.0) - of_rows[:, None] * of_c[None, :]), 1)
        along *= scale
        slope_of_weight += along
        gain = scale * gamma
        slope = -gain * scale * along / rows
        mean = tl.load(stat + part * 4 * N + n, mask=inside, other=0.0)
        tl.store(level + part * N + n, -gain * of_rows / rows - slope * mean, mask=inside)
        for left in range(0, K, BK):
            c = left + k
            there = inside[:, None] & (c < K)[None, :]
            at = n[:, None] * K + c[None, :]
            of_c = tl.load(t + c, mask=c < K, other=0.0) / rows
            mine = tl.load(w + at, mask=there, other=0.0).to(tl.float32)
            found = gain[:, None] * (
                tl.load(h + part * N * K + at, mask=there, other=0.0) - of_rows[:, None] * of_c[None, :]
            ) + (rows * slope)[:, None] * tl.load(product + part * N * K + at, mask=there, other=0.0)
            if part > 0:
                found += tl.load(of_w + at, mask=there, other=0.0)
            tl.store(of_w + at, found, mask=there)
            tl.store(gains + part * N * K + at, (mine * gain[:, None]).to(gains.dtype.element_ty), mask=there)
            tl.store(slopes + part * N * K + at, (mine * slope[:, None]).to(slopes.dtype.element_ty), mask=there)
    tl.store(of_weight + n, slope_of_weight, mask=inside)


# What calls them -----------------------------------------------------------------------------------------------------


def blocks(channels: int) -> tuple[int, int]:
    """(rows, channels) of a tile: reads of 128 to 256 bytes that lie together."""
    wide = min(128, triton.next_power_of_2(channels))
    return max(16, 2048 // wide), wide


def strips(channels: int) -> tuple[int, int]:
    """(rows, channels) of a tile of a sum."""
    return 32, min(64, triton.next_power_of_2(channels))


def programs(rows: int, channels: int, parts: int, x: Tensor) -> int:
    """How many of them share the rows of a part."""
    tall, wide = strips(channels)
    wanted = triton.cdiv(_processors(x.device) * ROUNDS, parts * triton.cdiv(channels, wide))
    return max(1, min(wanted, triton.cdiv(rows, tall)))


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _new(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, device=x.device, dtype=torch.float32)


def moments(x: Tensor, weight: Tensor, bias: Tensor, running: Any, momentum: float, eps: float, parts: int) -> Tensor:
    rows, channels = len(x) // parts, x.shape[1]
    tall, wide = strips(channels)
    count = programs(rows, channels, parts, x)
    sums, stat = _new(x, parts, count, 2, channels), _new(x, parts, 4, channels)
    # Sums of squares are taken about the running mean, so that they are no difference of large numbers.
    mean, variance = running or (torch.zeros_like(weight), weight)
    grid = (triton.cdiv(channels, wide), parts * count)
    _add_up[grid](x, mean, sums, rows, channels, count, BM=tall, BC=wide, num_warps=WARPS)
    _settle[(triton.cdiv(channels, 16),)](
        sums, mean, weight, bias, mean, variance, stat, rows, channels, count, momentum, eps,
        PARTS=parts, TRACK=running is not None, BP=32, BC=16, num_warps=WARPS,
    )  # fmt: skip
    return stat


def activated(x: Tensor, stat: Tensor) -> Tensor:
    parts, channels = len(stat), x.shape[1]
    tall, wide = blocks(channels)
    y, rows = torch.empty_like(x), len(x) // parts
    grid = (triton.cdiv(rows, tall) * triton.cdiv(channels, wide), parts)
    _activate[grid](x, stat, y, rows, channels, BM=tall, BC=wide, num_warps=WARPS)
    return y


def activated_and_summed(x: Tensor, stat: Tensor) -> tuple[Tensor, Tensor]:
    parts, channels = len(stat), x.shape[1]
    tall, wide = strips(channels)
    y, rows = torch.empty_like(x), len(x) // parts
    count = programs(rows, channels, parts, x)
    sums = _new(x, parts, count, channels)
    grid = (triton.cdiv(channels, wide), parts * count)
    _activate_and_add_up[grid](x, stat, y, sums, rows, channels, count, BM=tall, BC=wide, num_warps=WARPS)
    return y, sums.sum(dim=1)


def summed(x: Tensor, parts: int) -> Tensor:
    channels, rows = x.shape[1], len(x) // parts
    tall, wide = strips(channels)
    count = programs(rows, channels, parts, x)
    sums = _new(x, parts, count, channels)
    _sum_rows[(triton.cdiv(channels, wide), parts * count)](
        x, sums, rows, channels, count, BM=tall, BC=wide, num_warps=WARPS
    )
    return sums.sum(dim=1)


def joined(x: Tensor, stat: Tensor, skip: Tensor, skip_stat: Tensor | None) -> Tensor:
    parts, channels = len(stat), x.shape[1]
    tall, wide = blocks(channels)
    y, rows = torch.empty_like(x), len(x) // parts
    grid = (triton.cdiv(rows, tall) * triton.cdiv(channels, wide), parts)
    given = stat if skip_stat is None else skip_stat
    _join[grid](
        x, stat, skip, given, y, rows, channels, NORMED=skip_stat is not None, BM=tall, BC=wide, num_warps=WARPS
    )
    return y


def fits(x: Tensor, needed: int) -> bool:
    """Whether a multiprocessor has room for so many bytes that its programs share."""
    return x.device.type != "cuda" or needed < torch.cuda.get_device_properties(x.device).shared_memory_per_block_optin


def multiplied_and_joined(x: Tensor, w: Tensor, stat: Tensor, skip: Tensor, skip_stat: Tensor | None) -> Tensor:
    parts, outs, ins = w.shape
    tall, stages = 64 if ins == 256 else 128, 3
    room = x.element_size() * (128 * ins + stages * tall * (ins + 128))
    if ins not in (64, 128, 256) or outs % 128 or not fits(x, room):
        return joined(torch.bmm(x.view(parts, -1, ins), w.mT).flatten(0, 1), stat, skip, skip_stat)
    y, rows, columns = x.new_empty(len(x), outs), len(x) // parts, outs // 128
    count = shared_rows(x, rows, tall, parts * columns, 4 if ins == 256 else 2)
    given = stat if skip_stat is None else skip_stat
    _multiply_and_join[(columns, parts * count)](
        x, w, stat, skip, given, y, rows, outs, count,
        NORMED=skip_stat is not None, K=ins, BM=tall, BN=128, STAGES=stages, num_warps=8,
    )  # fmt: skip
    return y


def multiplied_masked_and_summed(d: Tensor, w: Tensor, more: Tensor, seen: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    ins, outs = w.shape
    wide, stages = 64 if ins == 256 else 128, 3
    room = d.element_size() * (wide * ins + stages * 64 * (ins + 2 * wide))
    if ins not in (64, 128, 256) or outs % 128 or not fits(d, room):
        return masked_and_summed(d @ w, more, seen, parts)
    rows, columns = len(d) // parts, outs // wide
    count = shared_rows(d, rows, 64, parts * columns, 8 if ins == 256 else 2)
    g, sums = torch.empty_like(more), _new(d, parts, count, outs)
    _multiply_and_mask[(columns, parts * count)](
        d, w, more, seen, g, sums, rows, outs, count,
        K=ins, BM=64, BN=wide, STAGES=stages, num_warps=4 if ins == 256 else 8,
    )  # fmt: skip
    return g, sums.sum(dim=1)


def multiplied_both(g: Tensor, gains: Tensor, x: Tensor, square: Tensor) -> Tensor:
    parts, outs, ins = gains.shape
    room = g.element_size() * (outs * ins + ins * ins + 3 * 64 * (outs + ins))
    if (outs, ins) != (256, 64) or not fits(g, room):
        y = torch.bmm(x.view(parts, -1, ins), square)
        return y.baddbmm_(g.view(parts, -1, outs), gains).flatten(0, 1)
    y, rows = torch.empty_like(x), len(x) // parts
    count = shared_rows(x, rows, 64, parts, 2)
    _multiply_both[(parts * count,)](g, gains, x, square, y, rows, count, N=ins, K=outs, BM=64, STAGES=3, num_warps=4)
    return y


def shared_rows(x: Tensor, rows: int, tall: int, beside: int, rounds: int) -> int:
    """How many programs share the rows of a part, where `beside` others work on the same."""
    return max(1, min(triton.cdiv(_processors(x.device) * rounds, beside), triton.cdiv(rows, tall)))


def squared(x: Tensor, dtype: torch.dtype, room: int) -> Tensor:
    b, channels, height, width = x.shape
    y = torch.empty(b, height // 2 + 3, width // 2 + 3, room, device=x.device, dtype=dtype)
    x, rows = x.permute(0, 2, 3, 1).contiguous(), y[..., 0].numel()
    _square[(triton.cdiv(rows, 128),)](
        x, y, rows, height, width, *y.shape[1:3], C=channels, ROOM=room, BM=128, num_warps=WARPS
    )
    return y


def opened(
    x: Tensor, w: Tensor, weight: Tensor, bias: Tensor, running: Any, momentum: float, eps: float, parts: int
) -> tuple[Tensor, Tensor]:
    room, outs = x.shape[3], w.shape[2]
    low, narrow = x.shape[1] - 3, x.shape[2] - 3
    rows = len(x) * low * narrow // parts
    count = shared_rows(x, rows, 128, parts, 2)
    y, sums, stat = x.new_empty(rows * parts, outs), _new(x, parts, count, 2, outs), _new(x, parts, 4, outs)
    mean, variance = running or (torch.zeros_like(weight), weight)
    _open[(parts * count,)](
        x, w, mean, y, sums, rows, low, narrow, count, ROOM=room, N=outs, BM=128, STAGES=2, num_warps=8
    )
    _settle[(triton.cdiv(outs, 16),)](
        sums, mean, weight, bias, mean, variance, stat, rows, outs, count, momentum, eps,
        PARTS=parts, TRACK=running is not None, BP=32, BC=16, num_warps=WARPS,
    )  # fmt: skip
    return y, stat


def opened_back(d: Tensor, x: Tensor) -> Tensor:
    room, outs = x.shape[3], d.shape[1]
    count = shared_rows(x, len(d), 64, 1, 1)
    sums = _new(x, count, 4, 4 * room, outs)
    _open_back[(count,)](
        d, x, sums, len(d), x.shape[1] - 3, x.shape[2] - 3, count, ROOM=room, N=outs, BM=64, STAGES=3, num_warps=8
    )
    return sums.sum(dim=0)


def scaled(x: Tensor, slope: Tensor, level: Tensor, dtype: torch.dtype) -> Tensor:
    channels = x.shape[1]
    rows = x.permute(0, 2, 3, 1).contiguous()
    y = torch.empty(rows.shape, device=x.device, dtype=dtype)
    _scale[(triton.cdiv(rows.numel(), 2048),)](
        rows, slope, level, y, rows.numel(), C=channels, BLOCK=2048, num_warps=WARPS
    )
    return y.permute(0, 3, 1, 2)


def thinned(x: Tensor, down: int, right: int) -> Tensor:
    b, channels, height, width = x.shape
    low, narrow = -(-height // down), -(-width // right)
    tall, wide = blocks(channels)
    y = x.new_empty(b * low * narrow, channels)
    grid = (triton.cdiv(len(y), tall) * triton.cdiv(channels, wide), 1)
    _thin[grid](x, y, len(y), height, width, low, narrow, channels, down, right, BM=tall, BC=wide, num_warps=WARPS)
    return y


def thickened(d: Tensor, x: Tensor, level: Tensor | None, parts: int, down: int, right: int) -> None:
    _, channels, height, width = d.shape
    low, narrow = -(-height // down), -(-width // right)
    tall, wide = blocks(channels)
    rows = len(x) // parts
    grid = (triton.cdiv(rows, tall) * triton.cdiv(channels, wide), parts)
    _thicken[grid](
        d, x, x if level is None else level, rows, height, width, low, narrow, channels, down, right,
        OFFSET=level is not None, BM=tall, BC=wide, num_warps=WARPS,
    )  # fmt: skip


def masked_and_summed(d: Tensor, more: Tensor | None, seen: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    channels, rows = d.shape[1], len(d) // parts
    tall, wide = strips(channels)
    count = programs(rows, channels, parts, d)
    g, sums = torch.empty_like(d), _new(d, parts, count, channels)
    grid = (triton.cdiv(channels, wide), parts * count)
    _mask_and_add_up[grid](
        d, d if more is None else more, seen, g, sums, rows, channels, count,
        MORE=more is not None, BM=tall, BC=wide, num_warps=WARPS,
    )  # fmt: skip
    return g, sums.sum(dim=1)


def back(
    d: Tensor, offset: Tensor | None, x: Tensor, stat: Tensor, weight: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    parts, channels = len(stat), x.shape[1]
    rows = len(x) // parts
    tall, wide = strips(channels)
    count = programs(rows, channels, parts, x)
    sums, y = _new(x, parts, count, 2, channels), torch.empty_like(x)
    given, there = stat if offset is None else offset, offset is not None
    grid = (triton.cdiv(channels, wide), parts * count)
    _add_up_back[grid](
        d, given, x, stat, sums, rows, channels, count, RELU=relu, OFFSET=there, BM=tall, BC=wide, num_warps=WARPS
    )
    slopes, of_weight, of_bias = _settled_back(sums, stat, weight, rows, channels, count)
    tall, wide = blocks(channels)
    grid = (triton.cdiv(rows, tall) * triton.cdiv(channels, wide), parts)
    _back[grid](
        d, given, x, stat, slopes, y, rows, channels, RELU=relu, OFFSET=there, BM=tall, BC=wide, num_warps=WARPS
    )
    return y, of_weight, of_bias


def _settled_back(sums: Tensor, stat: Tensor, weight: Tensor, rows: int, channels: int, count: int) -> Any:
    parts = len(stat)
    slopes, of_weight, of_bias = _new(stat, parts, 3, channels), _new(stat, channels), _new(stat, channels)
    _settle_back[(triton.cdiv(channels, 16),)](
        sums, stat, weight, slopes, of_weight, of_bias, rows, channels, count,
        PARTS=parts, BP=32, BC=16, num_warps=WARPS,
    )  # fmt: skip
    return slopes, of_weight, of_bias


def pooled(x: Tensor, stat: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    parts, channels = len(stat), x.shape[1]
    tall, wide = blocks(channels)
    low, narrow = (height + 1) // 2, (width + 1) // 2
    images = len(x) // (height * width)
    y = x.new_empty(images * low * narrow, channels)
    best, rows = torch.empty_like(y, dtype=torch.uint8), len(y) // parts
    grid = (triton.cdiv(rows, tall) * triton.cdiv(channels, wide), parts)
    _pool[grid](x, stat, y, best, rows, height, width, low, narrow, channels, BM=tall, BC=wide, num_warps=WARPS)
    return y, best


def pooled_back(
    d: Tensor, x: Tensor, stat: Tensor, weight: Tensor, best: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    parts, channels = len(stat), x.shape[1]
    tall, wide = strips(channels)
    low, narrow = (height + 1) // 2, (width + 1) // 2
    rows = len(best) // parts
    count = programs(rows, channels, parts, x)
    sums, made = _new(x, parts, count, 2, channels), torch.empty_like(x)
    grid = (triton.cdiv(channels, wide), parts * count)
    _pool_add_up_back[grid](
        d, x, stat, best, sums, rows, height, width, low, narrow, channels, count,
        BM=tall, BC=wide, num_warps=WARPS,
    )  # fmt: skip
    slopes, of_weight, of_bias = _settled_back(sums, stat, weight, len(x) // parts, channels, count)
    rows = len(x) // parts
    tall, wide = blocks(channels)
    grid = (triton.cdiv(rows, tall) * triton.cdiv(channels, wide), parts)
    _pool_back[grid](
        d, x, slopes, best, made, rows, height, width, low, narrow, channels, BM=tall, BC=wide, num_warps=WARPS
    )
    return made, of_weight, of_bias


def product_in_full(a: Tensor, b: Tensor) -> Tensor:
    """Batches of products [o m] @ [m i] with sums in float32, given in float32.

    m is long and o and i are not, so it is cut: else a product would keep few multiprocessors busy.
    """
    parts, outs, rows = a.shape
    tiles = parts * triton.cdiv(outs, 128) * triton.cdiv(b.shape[2], 128)
    cuts = triton.cdiv(2 * _processors(a.device), tiles)
    while rows % cuts:
        cuts -= 1
    a = a.mT.reshape(parts * cuts, rows // cuts, outs).mT
    b = b.reshape(parts * cuts, rows // cuts, -1)
    if a.device.type == "cuda" and a.dtype != torch.float32:
        made = torch.bmm(a, b, out_dtype=torch.float32)
    else:
        made = torch.bmm(a.float(), b.float())
    return made.view(parts, cuts, outs, -1).sum(dim=1) if cuts > 1 else made


def fold(
    x: Tensor, total: Tensor, w: Tensor, weight: Tensor, bias: Tensor, running: Any, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    parts, outs, ins = len(total), *w.shape
    rows = len(x) // parts
    each = x.view(parts, rows, ins)
    gram = product_in_full(each.mT, each)
    covariance = torch.baddbmm(gram, total[:, :, None], total[:, None], beta=1 / rows, alpha=-1 / rows**2)
    product = torch.matmul(w, covariance)
    folded, stat = x.new_empty(parts, outs, ins), _new(x, parts, 4, outs)
    mean, variance = running or (weight, weight)
    _fold[(triton.cdiv(outs, 16),)](
        product, total, w, weight, bias, mean, variance, folded, stat, rows, ins, outs, momentum, eps,
        PARTS=parts, TRACK=running is not None, BN=16, BK=64, num_warps=WARPS,
    )  # fmt: skip
    return folded, stat, product


def unfold(
    g: Tensor, sums: Tensor, x: Tensor, total: Tensor, w: Tensor, weight: Tensor, product: Tensor, stat: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    parts, outs, ins = len(total), *w.shape
    rows = len(x) // parts
    h = product_in_full(g.view(parts, rows, outs).transpose(1, 2), x.view(parts, rows, ins))
    of_w, of_weight, level = _new(x, outs, ins), _new(x, outs), _new(x, parts, outs)
    gains, slopes = x.new_empty(parts, outs, ins), x.new_empty(parts, outs, ins)
    _unfold[(triton.cdiv(outs, 16),)](
        h, sums, total, w, weight, product, stat, of_w, of_weight, gains, slopes, level, rows, ins, outs,
        PARTS=parts, BN=16, BK=64, num_warps=WARPS,
    )  # fmt: skip
    return of_w, of_weight, gains, slopes, level
