"""Stages of residual networks, forward and backward, with the fewest passes over their activations.

The result is that of the blocks as they were, to the rounding of the dtype that is worked in. The norm behind the last,
widest convolution of a bottleneck takes no pass at all: a norm of a product is another product, since the statistics
come from the Gram matrix of what goes in, a quarter as wide (`twins.fold`); its gradient needs what comes out in sums
only (`twins.unfold`).
Batch norm: Ioffe & Szegedy 2015, arXiv 1502.03167; residual networks: He et al. 2015, arXiv 1512.03385.
"""

from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from selfsame.nn.fused.when import as_given, hooked, passes, quick
from selfsame.nn.joint import parts_now

# One layer -----------------------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """A convolution without bias and the batch norm behind it."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d

    @property
    def parameters(self) -> list[Tensor]:
        return [self.conv.weight, self.norm.weight, self.norm.bias]

    @property
    def running(self) -> tuple[Tensor, Tensor] | None:
        norm = self.norm
        if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
            return None
        return norm.running_mean, norm.running_var

    @property
    def following(self) -> tuple[Any, float, float]:
        """(running statistics, how far they move, eps)"""
        return self.running, self.norm.momentum or 0.0, self.norm.eps

    def convolved(self, x: Tensor, w: Tensor) -> Tensor:
        it = self.conv
        return F.conv2d(x, w, None, it.stride, it.padding, it.dilation, it.groups)

    def convolved_back(self, d: Tensor, x: Tensor, w: Tensor, both: bool = True) -> tuple[Any, Tensor]:
        """Gradients of x, or None, and of w."""
        it = self.conv
        wanted = [both, True, False]
        of_x, of_w, _ = torch.ops.aten.convolution_backward(
            d, x, w, None, it.stride, it.padding, it.dilation, False, [0, 0], it.groups, wanted
        )
        return of_x, of_w


def flat(x: Tensor) -> Tensor:
    """[b c h w], channels last in memory, as [m c]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def unflat(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(len(like), *like.shape[2:], rows.shape[1]).permute(0, 3, 1, 2)


class Given(NamedTuple):
    """A gradient [b c h w], or one that is the product of rows and columns, [m k] @ [k c]; and one [m c] besides."""

    whole: Tensor | None
    rows: Any = None
    columns: Any = None
    past: Tensor | None = None


class Kept(list[Tensor | None]):
    """What a forward pass keeps for the backward pass, which takes it back last things first."""

    def put(self, *tensors: Tensor | None) -> None:
        self.extend(tensors)

    def take(self, count: int) -> list[Any]:
        taken = self[-count:]
        del self[-count:]
        return taken


class Tape:
    """One pass through a stage, forward or backward: what its layers share."""

    def __init__(self, ops: ModuleType, parts: int, dtype: torch.dtype, kept: Kept) -> None:
        self.ops, self.parts, self.dtype, self.kept = ops, parts, dtype, kept
        self.gradients: dict[Tensor, Tensor] = {}
        self.weights: dict[Tensor, Tensor] = {}

    def cast(self, layers: list[Layer]) -> None:
        """Have the weights of convolutions in the dtype of the work, all in one go."""
        given = [layer.conv.weight.detach() for layer in layers]
        made = [torch.empty_like(w, dtype=self.dtype) for w in given]
        torch._foreach_copy_(made, given)
        self.weights = {layer.conv.weight: w for layer, w in zip(layers, made, strict=True)}

    def weight(self, layer: Layer) -> Tensor:
        return self.weights[layer.conv.weight]

    def learn(self, layer: Layer, *gradients: Tensor) -> None:
        for parameter, gradient in zip(layer.parameters, gradients, strict=True):
            self.gradients[parameter] = gradient.view(parameter.shape).to(parameter.dtype)

    # A convolution, its norm and ReLU.

    def activated(self, layer: Layer, x: Tensor, summed: bool = False) -> tuple[Tensor, Tensor | None]:
        w, norm = self.weight(layer), layer.norm
        made = layer.convolved(x, w)
        stat = self.ops.moments(flat(made), norm.weight, norm.bias, *layer.following, self.parts)
        total = None
        if summed:
            y, total = self.ops.activated_and_summed(flat(made), stat)
        else:
            y = self.ops.activated(flat(made), stat)
        self.kept.put(x, w, made, stat)
        return unflat(y, made), total

    def activated_back(self, layer: Layer, d: Tensor, offset: Tensor | None = None, factors: bool = False) -> Given:
        """The gradient of x; `factors`: as a product that is yet to be made."""
        x, w, made, stat = self.kept.take(4)
        of_made, of_weight, of_bias = self.ops.back(d, offset, flat(made), stat, layer.norm.weight, True)
        of_x, of_w = layer.convolved_back(unflat(of_made, made), x, w, not factors)
        self.learn(layer, of_w, of_weight, of_bias)
        return Given(None, of_made, w.flatten(1)) if of_x is None else Given(of_x)

    # A product of rows and its norm: folded into one, where what comes out is much wider than what goes in.

    def folds(self, layer: Layer) -> bool:
        return 4 * layer.conv.in_channels <= layer.conv.out_channels

    def folded(self, layer: Layer, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """(weights of each part, the norm that what they give still needs)"""
        w, norm = layer.conv.weight.detach().flatten(1), layer.norm
        inner, stat, product = self.ops.fold(x, total, w, norm.weight, norm.bias, *layer.following)
        self.kept.put(x, total, product, stat, self.weight(layer).flatten(1))
        return inner, stat

    def folded_back(self, layer: Layer, g: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of x, yet to be raised by an offset of its part."""
        x, total, product, stat, half = self.kept.take(5)
        w, norm = layer.conv.weight.detach().flatten(1), layer.norm
        of_w, of_weight, gains, slopes, level = self.ops.unfold(g, sums, x, total, w, norm.weight, product, stat)
        self.learn(layer, of_w, of_weight, sums.sum(dim=0))
        d = self.ops.multiplied_both(g, gains, x, torch.matmul(half.T, slopes))
        return d, level @ w.to(level.dtype)

    def multiplied(self, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
        """(the product, its norm)"""
        w, norm = self.weight(layer).flatten(1), layer.norm
        made = x @ w.T
        stat = self.ops.moments(made, norm.weight, norm.bias, *layer.following, self.parts)
        self.kept.put(x, w, made, stat)
        return made, stat

    def multiplied_back(self, layer: Layer, g: Tensor) -> tuple[Tensor, None]:
        x, w, made, stat = self.kept.take(4)
        of_made, of_weight, of_bias = self.ops.back(g, None, made, stat, layer.norm.weight, False)
        self.learn(layer, of_made.T @ x, of_weight, of_bias)
        return of_made @ w, None

    def product_back(self, layer: Layer, g: Tensor, sums: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.folded_back(layer, g, sums) if self.folds(layer) else self.multiplied_back(layer, g)


# One block -----------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """The layers of a block; the last one has no ReLU of its own but is added to what is carried past it."""

    layers: list[Layer]
    past: Layer | None

    @property
    def every(self) -> list[Layer]:
        return [*self.layers, *([self.past] if self.past else [])]

    @property
    def product(self) -> bool:
        """Whether the last layer is a product, row by row: that of a bottleneck."""
        return self.layers[-1].conv.kernel_size == (1, 1)


def block_of(module: nn.Module) -> Block:
    parts: Any = module
    layers = [Layer(parts.conv1, parts.bn1), Layer(parts.conv2, parts.bn2)]
    if hasattr(parts, "conv3"):
        layers.append(Layer(parts.conv3, parts.bn3))
    return Block(layers, Layer(*parts.downsample) if parts.downsample is not None else None)


def block_forward(tape: Tape, block: Block, x: Tensor) -> Tensor:
    *inner, last = block.layers
    y, total, ops = x, None, tape.ops
    for layer in inner:
        y, total = tape.activated(layer, y, summed=block.product and layer is inner[-1])
    skip, skip_stat = flat(x), None
    if block.past is not None:
        skip, skip_stat = carried(tape, block.past, x)
    if not block.product:
        w = tape.weight(last)
        made = last.convolved(y, w)
        stat = ops.moments(flat(made), last.norm.weight, last.norm.bias, *last.following, tape.parts)
        out = ops.joined(flat(made), stat, skip, skip_stat)
        tape.kept.put(y, w, made, stat, out)
        return unflat(out, made)
    if tape.folds(last):
        assert total is not None
        out = ops.multiplied_and_joined(flat(y), *tape.folded(last, flat(y), total), skip, skip_stat)
    else:
        out = ops.joined(*tape.multiplied(last, flat(y)), skip, skip_stat)
    tape.kept.put(out)
    return unflat(out, y)


def carried(tape: Tape, past: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    """(what is carried past the layers, the norm that it still needs)"""
    rows = tape.ops.thinned(x, *past.conv.stride) if past.conv.stride != (1, 1) else flat(x)
    if not tape.folds(past):
        return tape.multiplied(past, rows)
    inner, stat = tape.folded(past, rows, tape.ops.summed(rows, tape.parts))
    return torch.bmm(rows.view(tape.parts, -1, rows.shape[1]), inner.mT).flatten(0, 1), stat


def block_backward(tape: Tape, block: Block, given: Given) -> Given:
    """The gradient of what went in, as the block before it wants it: not added up yet, nor multiplied."""
    *inner, last = block.layers
    (out,) = tape.kept.take(1)
    if given.whole is None:
        g, sums = tape.ops.multiplied_masked_and_summed(given.rows, given.columns, given.past, out, tape.parts)
    else:
        g, sums = tape.ops.masked_and_summed(flat(given.whole), given.past, out, tape.parts)
    offset = None
    if block.product:
        d, offset = tape.product_back(last, g, sums)
    else:
        x, w, made, stat = tape.kept.take(4)
        of_made, of_weight, of_bias = tape.ops.back(g, None, flat(made), stat, last.norm.weight, False)
        of_x, of_w = last.convolved_back(unflat(of_made, made), x, w)
        tape.learn(last, of_w, of_weight, of_bias)
        d = flat(of_x)
    beside = tape.product_back(block.past, g, sums) if block.past is not None else None
    for layer in reversed(inner[1:]):
        found = tape.activated_back(layer, d, offset)
        assert found.whole is not None
        d, offset = flat(found.whole), None
    found = tape.activated_back(inner[0], d, offset, factors=beside is None and rowwise(inner[0]))
    if beside is None or block.past is None:
        return found._replace(past=g)
    assert found.whole is not None
    whole = found.whole.contiguous(memory_format=torch.channels_last)
    tape.ops.thickened(whole, *beside, tape.parts, *block.past.conv.stride)
    return Given(whole)


def rowwise(layer: Layer) -> bool:
    """Whether a convolution is a product, row by row."""
    it = layer.conv
    return it.kernel_size == (1, 1) and it.stride == (1, 1) and it.groups == 1


def closed(given: Given, like: Tensor) -> Tensor:
    """The gradient as one tensor [b c h w]; `like` has its shape."""
    whole = given.whole if given.whole is not None else unflat(given.rows @ given.columns, like)
    return whole if given.past is None else whole + unflat(given.past, like)


# A stage -------------------------------------------------------------------------------------------------------------


class Stage(nn.Sequential):
    """Blocks of a residual network, one after the other; in front of the class they had."""

    def forward(self, x: Tensor) -> Tensor:
        modules: list[nn.Module] = list(self)
        if not quick(self, x) or hooked(*(part for module in modules for part in module.modules())):
            return super().forward(x)
        blocks = [block_of(module) for module in modules]
        layers = [layer for block in blocks for layer in block.every]
        counted(layers, parts_now())
        parameters = [p for layer in layers for p in layer.parameters]
        return _Stage.apply(x, blocks, parts_now(), parameters, *parameters)


class _Stage(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: list[Block], parts: int, names: list[Any], *_: Tensor) -> Tensor:
        kept = Kept()
        with as_given(x) as dtype:
            x = x.to(dtype).contiguous(memory_format=torch.channels_last)
            tape = Tape(passes(x), parts, dtype, kept)
            tape.cast([layer for block in blocks for layer in block.every])
            ctx.like = x.new_empty((len(x), 0, *x.shape[2:]))
            for block in blocks:
                x = block_forward(tape, block, x)
        ctx.save_for_backward(*kept)
        ctx.blocks, ctx.parts, ctx.names, ctx.dtype = blocks, parts, names, dtype
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        d: Tensor = gradients[0].to(ctx.dtype).contiguous(memory_format=torch.channels_last)
        tape = Tape(passes(d), ctx.parts, ctx.dtype, Kept(ctx.saved_tensors))
        given = Given(d)
        with as_given(d):
            for block in reversed(ctx.blocks):
                given = block_backward(tape, block, given)
        of_x = given.whole if given.past is None else closed(given, ctx.like)
        return of_x, None, None, None, *(tape.gradients[name] for name in ctx.names)


def counted(layers: list[Layer], parts: int) -> None:
    """Note that each part was a batch."""
    counts = [
        layer.norm.num_batches_tracked
        for layer in layers
        if layer.norm.track_running_stats and layer.norm.num_batches_tracked is not None
    ]
    if counts:
        torch._foreach_add_(counts, parts)
