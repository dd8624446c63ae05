"""Products of rows, with what comes before or after in the same pass; a product and its norm as another product.

Where a whole row of a weight fits into shared memory, a program keeps it there and goes through rows, of which the next
are on their way: at the speed of memory. Tiles, warps and numbers of programs are those that were fastest on an H200.
Where there is no room for that, torch multiplies, and the rest is a pass of its own.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from selfsame.nn.fused.kernels.norms import joined, masked_and_summed
from selfsame.nn.fused.kernels.tiles import WARPS, channels, full, launched, processors, programs
from selfsame.nn.fused.twins import Running, enough

CUTS = 2  # pieces of long products for each multiprocessor
ACROSS = 128  # channels of a tile


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


def multiplied_and_joined(x: Tensor, w: Tensor, stat: Tensor, skip: Tensor, skip_stat: Tensor | None) -> Tensor:
    parts, outs, ins = w.shape
    if ins in (64, 128, 256) and outs % ACROSS == 0:
        tall, rounds = (64, 4) if ins == 256 else (128, 2)
        y, rows, columns = x.new_empty(len(x), outs), len(x) // parts, outs // ACROSS
        count = programs(x, rows, tall, parts * columns, rounds)
        given = stat if skip_stat is None else skip_stat
        if launched(
            _multiply_and_join, (columns, parts * count), x, w, stat, skip, given, y, rows, outs, count,
            NORMED=skip_stat is not None, K=ins, BM=tall, BN=ACROSS, STAGES=3, num_warps=8,
        ):  # fmt: skip
            return y
    return joined(torch.bmm(x.view(parts, -1, ins), w.mT).flatten(0, 1), stat, skip, skip_stat)


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


def multiplied_masked_and_summed(d: Tensor, w: Tensor, more: Tensor, seen: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    ins, outs = w.shape
    if ins in (64, 128, 256) and outs % ACROSS == 0:
        wide, rounds, warps = (64, 8, 4) if ins == 256 else (ACROSS, 2, 8)
        rows, columns = len(d) // parts, outs // wide
        count = programs(d, rows, 64, parts * columns, rounds)
        g, sums = torch.empty_like(more), full(d, parts, count, outs)
        if launched(
            _multiply_and_mask, (columns, parts * count), d, w, more, seen, g, sums, rows, outs, count,
            K=ins, BM=64, BN=wide, STAGES=3, num_warps=warps,
        ):  # fmt: skip
            return g, sums.sum(dim=1)
    return masked_and_summed(d @ w, more, seen, parts)


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


def multiplied_both(g: Tensor, gains: Tensor, x: Tensor, square: Tensor) -> Tensor:
    parts, outs, ins = gains.shape
    if (outs, ins) == (256, 64):
        y, rows = torch.empty_like(x), len(x) // parts
        count = programs(x, rows, 64, parts, rounds=2)
        if launched(
            _multiply_both, (parts * count,), g, gains, x, square, y, rows, count,
            N=ins, K=outs, BM=64, STAGES=3, num_warps=4,
        ):  # fmt: skip
            return y
    y = torch.bmm(x.view(parts, -1, ins), square)
    return y.baddbmm_(g.view(parts, -1, outs), gains).flatten(0, 1)


def product_in_full(a: Tensor, b: Tensor) -> Tensor:
    """Batches of products [o m] @ [m i] with sums in float32, given in float32.

    m is long and o and i are not, so it is cut: else a product would keep few multiprocessors busy.
    """
    parts, outs, rows = a.shape
    among = parts * triton.cdiv(outs, 128) * triton.cdiv(b.shape[2], 128)
    cuts = triton.cdiv(CUTS * processors(a.device), among)
    while rows % cuts:
        cuts -= 1
    a = a.mT.reshape(parts * cuts, rows // cuts, outs).mT
    b = b.reshape(parts * cuts, rows // cuts, -1)
    if a.device.type == "cuda" and a.dtype != torch.float32 and torch.version.hip is None:
        made = torch.bmm(a, b, out_dtype=torch.float32)
    else:
        made = torch.bmm(a.float(), b.float())
    return made.view(parts, cuts, outs, -1).sum(dim=1) if cuts > 1 else made


@triton.jit
def _fold(
    product, total, w, weight, bias, running_mean, running_var, folded, stat, rows, K, N, momentum, eps,
    PARTS: tl.constexpr, TRACK: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    n, inside = channels(tl.program_id(0), N, BN)
    k = tl.arange(0, BK)
    gamma = tl.load(weight + n, mask=inside, other=0.0)
    beta = tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)
    if TRACK:
        known_mean = tl.load(running_mean + n, mask=inside, other=0.0).to(tl.float32)
        known_var = tl.load(running_var + n, mask=inside, other=0.0).to(tl.float32)
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


def fold(
    x: Tensor, total: Tensor, w: Tensor, weight: Tensor, bias: Tensor, running: Running, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    parts, outs, ins = len(total), *w.shape
    rows = len(x) // parts
    enough(rows)
    each = x.view(parts, rows, ins)
    gram = product_in_full(each.mT, each)
    covariance = torch.baddbmm(gram, total[:, :, None], total[:, None], beta=1 / rows, alpha=-1 / rows**2)
    product = torch.matmul(w, covariance)
    folded, stat = x.new_empty(parts, outs, ins), full(x, parts, 4, outs)
    mean, variance = running or (weight, weight)
    _fold[(triton.cdiv(outs, 16),)](
        product, total, w, weight, bias, mean, variance, folded, stat, rows, ins, outs, momentum, eps,
        PARTS=parts, TRACK=running is not None, BN=16, BK=64, num_warps=WARPS,
    )  # fmt: skip
    return folded, stat, product


@triton.jit
def _unfold(
    h, sums, total, w, weight, product, stat, of_w, of_weight, gains, slopes, level, rows, K, N,
    PARTS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    n, inside = channels(tl.program_id(0), N, BN)
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


def unfold(
    g: Tensor, sums: Tensor, x: Tensor, total: Tensor, w: Tensor, weight: Tensor, product: Tensor, stat: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    parts, outs, ins = len(total), *w.shape
    rows = len(x) // parts
    h = product_in_full(g.view(parts, rows, outs).mT, x.view(parts, rows, ins))
    of_w, of_weight, level = full(x, outs, ins), full(x, outs), full(x, parts, outs)
    gains, slopes = x.new_empty(parts, outs, ins), x.new_empty(parts, outs, ins)
    _unfold[(triton.cdiv(outs, 16),)](
        h, sums, total, w, weight, product, stat, of_w, of_weight, gains, slopes, level, rows, ins, outs,
        PARTS=parts, BN=16, BK=64, num_warps=WARPS,
    )  # fmt: skip
    return of_w, of_weight, gains, slopes, level
