"""What stands before the stages of a residual network: a convolution, its norm and ReLU, and mostly a pool."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from selfsame.nn.fused.stages import Layer, counted, flat, unflat
from selfsame.nn.fused.when import as_given, passes
from selfsame.nn.joint import parts_now

GRAIN = 16  # channels that products on a GPU go by


class _Entry(Function):
    """relu(norm(x)) of the first convolution, and the largest of windows where there is a pool."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, parts: int, pool: bool, weight: Tensor, bias: Tensor) -> Tensor:
        ops, size = passes(x), (x.shape[2], x.shape[3])
        x = x.contiguous(memory_format=torch.channels_last)
        stat = ops.moments(flat(x), weight, bias, *layer.following, parts)
        ctx.pool = pool
        if not pool:
            ctx.save_for_backward(x, stat, weight)
            return unflat(ops.activated(flat(x), stat), x)
        y, best = ops.pooled(flat(x), stat, *size)
        ctx.save_for_backward(x, stat, weight, best)
        return y.view(len(x), -(-size[0] // 2), -(-size[1] // 2), x.shape[1]).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, stat, weight, *pooled = ctx.saved_tensors
        ops, d = passes(x), flat(gradients[0].to(x.dtype))
        if ctx.pool:
            of_x, of_weight, of_bias = ops.pooled_back(d, flat(x), stat, weight, *pooled, *x.shape[2:])
        else:
            of_x, of_weight, of_bias = ops.back(d, None, flat(x), stat, weight, True)
        return unflat(of_x, x), None, None, None, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


class _Opening(Function):
    """relu(norm(convolution)) of images by a convolution of 7x7 with stride 2, and the largest of windows.

    It is one of 4x4 over squares of 2x2 pixels, laid out as channels: 12 go in, and some of zeros, in place of 3, for
    which a GPU has no quick way. The images have no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, parts: int, filters: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with as_given(x) as dtype:
            ops = passes(x)
            squares = ops.squared(x, dtype, GRAIN)
            rows, stat = ops.opened(squares, in_squares(filters).to(dtype), weight, bias, *layer.following, parts)
        size = squares.shape[1] - 3, squares.shape[2] - 3
        y, best = ops.pooled(rows, stat, *size)
        ctx.save_for_backward(squares, rows, stat, best, filters, weight)
        ctx.size = size
        return y.view(len(x), -(-size[0] // 2), -(-size[1] // 2), -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        squares, rows, stat, best, filters, weight = ctx.saved_tensors
        ops, d = passes(rows), flat(gradients[0].to(rows.dtype))
        of_rows, of_weight, of_bias = ops.pooled_back(d, rows, stat, weight, best, *ctx.size)
        of_filters = from_squares(ops.opened_back(of_rows, squares), filters)
        return None, None, None, of_filters, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


def in_squares(filters: Tensor) -> Tensor:
    """Filters [o c 7 7] as [4, 4 * 16, o]: rows of squares, then squares of a row, then their values.

    Window k sees pixels 2k - 3 .. 2k + 3: of squares, k - 2 .. k + 1, of which the first pixel is not seen.
    """
    w = F.pad(filters, (1, 0, 1, 0)).unflatten(3, (4, 2)).unflatten(2, (4, 2))  # [o c 4 2 4 2]
    w = w.permute(2, 4, 3, 5, 1, 0).flatten(2, 4)  # [4 4 4c o]
    return F.pad(w, (0, 0, 0, GRAIN - w.shape[2])).flatten(1, 2).contiguous()


def from_squares(w: Tensor, like: Tensor) -> Tensor:
    """The other way round."""
    outs, channels = like.shape[:2]
    w = w.view(4, 4, GRAIN, outs)[:, :, : 4 * channels].unflatten(2, (2, 2, channels))  # [4 4 2 2 c o]
    return w.permute(5, 4, 0, 2, 1, 3).reshape(outs, channels, 8, 8)[:, :, 1:, 1:].to(like.dtype)


def entered(trunk: Any, x: Tensor) -> Tensor:
    """What the first stage sees."""
    layer, parts = Layer(trunk.conv1, trunk.bn1), parts_now()
    counted([layer], parts)
    pool = not isinstance(trunk.maxpool, nn.Identity)
    if pool and opens(layer.conv, x):
        return _Opening.apply(x, layer, parts, layer.conv.weight, layer.norm.weight, layer.norm.bias)
    return _Entry.apply(layer.conv(x), layer, parts, pool, layer.norm.weight, layer.norm.bias)


def opens(it: nn.Conv2d, x: Tensor) -> bool:
    """Whether `_Opening` does what this convolution does."""
    seven = (it.kernel_size, it.stride, it.padding, it.dilation) == ((7, 7), (2, 2), (3, 3), (1, 1)) and it.groups == 1
    few = 4 * it.in_channels <= GRAIN and it.out_channels in (16, 32, 64)
    return seven and few and not x.requires_grad and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
