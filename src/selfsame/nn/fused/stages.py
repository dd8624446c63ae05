"""Residual networks of timm and torchvision, forward and backward, with the fewest passes over their activations.

On a GPU a residual network in bfloat16 waits for memory, not for arithmetic: batch norms, ReLUs and additions read and
write each activation several times. Here each is done in as few passes as can be (`kernels`), and the norm behind
the last, widest convolution of a bottleneck in none: a norm of a product is another product, since the statistics
come from the Gram matrix of what goes in, a quarter as wide (`twins.fold`); its gradient needs what comes out in sums
only (`twins.unfold`). The result is that of the network as it was, to the rounding of bfloat16.
Batch norm: Ioffe & Szegedy 2015, arXiv 1502.03167; residual networks: He et al. 2015, arXiv 1512.03385.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import timm.models.resnet as of_timm
import torch
import torch.distributed as td
import torch.nn.functional as F
import torchvision.models.resnet as of_torchvision
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from selfsame.nn.fused import twins
from selfsame.nn.joint import parts_now

STAGES = ("layer1", "layer2", "layer3", "layer4")
BLOCKS = (of_timm.BasicBlock, of_timm.Bottleneck, of_torchvision.BasicBlock, of_torchvision.Bottleneck)
BARE = ("se", "aa", "drop_block", "drop_path")  # what blocks of timm may have besides
GRAIN = 16  # channels that products on a GPU go by


def passes(x: Tensor) -> Any:
    """What computes on the device of x: the kernels on a GPU, elsewhere their twins."""
    if x.device.type != "cuda":
        return twins
    from selfsame.nn.fused import kernels

    return kernels


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

    def activated_back(self, layer: Layer, d: Tensor, offset: Tensor | None = None, open_: bool = False) -> "Given":
        """The gradient of x; `open_`: as a product that is yet to be made."""
        x, w, made, stat = self.kept.take(4)
        of_made, of_weight, of_bias = self.ops.back(d, offset, flat(made), stat, layer.norm.weight, True)
        of_x, of_w = layer.convolved_back(unflat(of_made, made), x, w, not open_)
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
    found = tape.activated_back(inner[0], d, offset, open_=beside is None and rowwise(inner[0]))
    if beside is None or block.past is None:
        return found._replace(past=g)
    tape.ops.thickened(found.whole, *beside, tape.parts, *block.past.conv.stride)
    return found


def rowwise(layer: Layer) -> bool:
    """Whether a convolution is a product, row by row."""
    it = layer.conv
    return it.kernel_size == (1, 1) and it.stride == (1, 1) and it.groups == 1


def closed(given: Given, like: Tensor) -> Tensor:
    """The gradient as one tensor [b c h w]; `like` has its shape."""
    whole = given.whole if given.whole is not None else unflat(given.rows @ given.columns, like)
    return whole if given.past is None else whole + unflat(given.past, like)


# A stage, and what stands before the first ---------------------------------------------------------------------------


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
        for block in reversed(ctx.blocks):
            given = block_backward(tape, block, given)
        of_x = given.whole if given.past is None else closed(given, ctx.like)
        return of_x, None, None, None, *(tape.gradients[name] for name in ctx.names)


class _Entry(Function):
    """relu(norm(x)) of the first convolution, and the largest of windows where there is a pool."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, parts: int, pool: bool, weight: Tensor, bias: Tensor) -> Tensor:
        ops, size = passes(x), (x.shape[2], x.shape[3])
        x = x.contiguous(memory_format=torch.channels_last)
        stat = ops.moments(flat(x), weight, bias, *layer.following, parts)
        ctx.parts, ctx.pool = parts, pool
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


class _OfTimm(of_timm.ResNet):
    def forward_features(self, x: Tensor) -> Tensor:
        if not quick(self, x) or hooked(self.conv1, self.bn1, self.act1, self.maxpool):
            return super().forward_features(x)
        return staged(self, entered(self, x))


class _OfTorchvision(of_torchvision.ResNet):
    def _forward_impl(self, x: Tensor) -> Tensor:
        if not quick(self, x) or hooked(self.conv1, self.bn1, self.relu, self.maxpool):
            return super()._forward_impl(x)
        return self.fc(torch.flatten(self.avgpool(staged(self, entered(self, x))), 1))


def staged(trunk: nn.Module, x: Tensor) -> Tensor:
    for name in STAGES:
        x = trunk.get_submodule(name)(x)
    return x


FRONTS = {of_timm.ResNet: _OfTimm, of_torchvision.ResNet: _OfTorchvision}


# When ----------------------------------------------------------------------------------------------------------------


def fuse(module: Any) -> bool:
    """Let residual networks in it take their quick way where there is one; whether there are any.

    Only classes change: names of weights, and results to rounding, stay as they are. The quick way is taken on a GPU in
    half precision (autocast), in training mode, in one process; everywhere else the network is what it was. Networks
    with other parts in their blocks (squeeze and excitation, other activations, group norm) are left as they are.
    """
    found = False
    for part in list(module.modules()):
        front = FRONTS.get(type(part))
        if front is not None and plain(part):
            part.__class__ = front
            for name in STAGES:
                part.get_submodule(name).__class__ = Stage
        found = found or isinstance(part, tuple(FRONTS.values()))
    if found:
        module.fused = True  # views of one size in one pass: `joint.each`
    return found


def plain(trunk: Any) -> bool:
    """Whether a residual network has nothing but what is known here."""
    blocks = [block for name in STAGES for block in getattr(trunk, name)]
    if not all(type(block) in BLOCKS and usual(block) for block in blocks):
        return False
    layers = [layer for block in blocks for layer in block_of(block).every]
    first = Layer(trunk.conv1, trunk.bn1)
    act = getattr(trunk, "act1", None) or trunk.relu
    pool = trunk.maxpool
    windows = isinstance(pool, nn.Identity) or (
        type(pool) is nn.MaxPool2d
        and (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) == (3, 2, 1, 1, False)
    )
    return type(act) is nn.ReLU and windows and all(known(layer) for layer in [first, *layers]) and all(
        layer.conv.in_channels % GRAIN == 0 for layer in layers
    )  # fmt: skip


def usual(block: Any) -> bool:
    acts = [part for name, part in block.named_children() if name.startswith(("act", "relu"))]
    bare = all(isinstance(getattr(block, name, None), nn.Identity | None) for name in BARE)
    past = block.downsample
    thin = past is None or (
        type(past) is nn.Sequential
        and len(past) == 2
        and type(past[0]) is nn.Conv2d
        and past[0].kernel_size == (1, 1)
        and past[0].padding == (0, 0)
        and past[0].groups == 1
    )
    last = getattr(block, "conv3", None)
    product = last is None or (last.kernel_size == (1, 1) and last.stride == (1, 1) and last.groups == 1)
    return bare and thin and product and all(type(act) is nn.ReLU for act in acts)


def known(layer: Layer) -> bool:
    conv, norm = layer
    return (
        type(conv) is nn.Conv2d
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.momentum is not None
    )


def quick(module: nn.Module, x: Tensor) -> bool:
    """Whether the quick way computes what is asked for."""
    return (
        module.training
        and halved(x)
        and not td.is_initialized()
        and not torch.compiler.is_compiling()
        and len(x) % parts_now() == 0
        and all(part.training for part in module.modules() if isinstance(part, nn.BatchNorm2d))
    )


def halved(x: Tensor) -> bool:
    """Whether work on it is in half precision on a GPU."""
    kind = x.device.type
    return kind == "cuda" and (torch.is_autocast_enabled(kind) or x.dtype in (torch.bfloat16, torch.float16))


def hooked(*parts: nn.Module) -> bool:
    """Whether somebody looks at what goes through one of them, which the quick way does not show."""
    return any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in parts)


def work_dtype(x: Tensor) -> torch.dtype:
    """In which the work on x is to be done."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@contextmanager
def as_given(x: Tensor) -> Iterator[torch.dtype]:
    """Under it nothing is cast; gives `work_dtype`."""
    dtype = work_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        yield dtype


def counted(layers: list[Layer], parts: int) -> None:
    """Note that each part was a batch."""
    counts = [
        layer.norm.num_batches_tracked
        for layer in layers
        if layer.norm.track_running_stats and layer.norm.num_batches_tracked is not None
    ]
    if counts:
        torch._foreach_add_(counts, parts)
