"""Residual networks of timm and torchvision, forward and backward, with the fewest passes over their activations.

On a GPU a residual network in bfloat16 waits for memory, not for arithmetic: batch norms, ReLUs and additions read and
write each activation several times. Here each is done in as few passes as can be (`kernels`), and the norm behind
the last, widest convolution of a bottleneck in none: a norm of a product is another product, since the statistics
come from the Gram matrix of what goes in, a quarter as wide (`twins.fold`); its gradient needs what comes out in sums
only (`twins.unfold`). The result is that of the network as it was, to the rounding of bfloat16.
Batch norm: Ioffe & Szegedy 2015, arXiv 1502.03167; residual networks: He et al. 2015, arXiv 1512.03385.
"""

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

    def convolved_back(self, d: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x and w."""
        it = self.conv
        wanted = [True, True, False]
        of_x, of_w, _ = torch.ops.aten.convolution_backward(
            d, x, w, None, it.stride, it.padding, it.dilation, False, [0, 0], it.groups, wanted
        )
        return of_x, of_w


def flat(x: Tensor) -> Tensor:
    """[b c h w], channels last in memory, as [m c]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def unflat(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(len(like), *like.shape[2:], rows.shape[1]).permute(0, 3, 1, 2)


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

    def weight(self, layer: Layer) -> Tensor:
        return layer.conv.weight.detach().to(self.dtype)

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

    def activated_back(self, layer: Layer, d: Tensor, offset: Tensor | None = None) -> Tensor:
        x, w, made, stat = self.kept.take(4)
        of_made, of_weight, of_bias = self.ops.back(flat(d), offset, flat(made), stat, layer.norm.weight, True)
        of_x, of_w = layer.convolved_back(unflat(of_made, made), x, w)
        self.learn(layer, of_w, of_weight, of_bias)
        return of_x

    # A product of rows and its norm: folded into one, where what comes out is much wider than what goes in.

    def folds(self, layer: Layer) -> bool:
        return 4 * layer.conv.in_channels <= layer.conv.out_channels

    def folded(self, layer: Layer, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """(weights of each part, the norm that what they give still needs)"""
        w, norm = layer.conv.weight.detach().flatten(1), layer.norm
        inner, stat, product = self.ops.fold(x, total, w, norm.weight, norm.bias, *layer.following)
        self.kept.put(x, total, product, stat)
        return inner, stat

    def folded_back(self, layer: Layer, g: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of x, yet to be raised by an offset of its part."""
        x, total, product, stat = self.kept.take(4)
        w, norm = layer.conv.weight.detach().flatten(1), layer.norm
        of_w, of_weight, gains, slopes, level = self.ops.unfold(g, sums, x, total, w, norm.weight, product, stat)
        self.learn(layer, of_w, of_weight, sums.sum(dim=0))
        rows = len(x) // self.parts
        square = torch.matmul(w.to(x.dtype).T, slopes)
        offset = level @ w.to(level.dtype) - (total[:, None] @ square.to(total.dtype))[:, 0] / rows
        d = torch.bmm(x.view(self.parts, rows, -1), square)
        d.baddbmm_(g.view(self.parts, rows, -1), gains)
        return d.flatten(0, 1), offset

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


def block_backward(tape: Tape, block: Block, d: Tensor, more: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Two gradients of what went in, of which the sum is meant: through the layers [b c h w] and past them [m c]."""
    *inner, last = block.layers
    (out,) = tape.kept.take(1)
    g, sums = tape.ops.masked_and_summed(flat(d), more, out, tape.parts)
    offset = None
    if block.product:
        rows, offset = tape.product_back(last, g, sums)
        d = unflat(rows, d)
    else:
        x, w, made, stat = tape.kept.take(4)
        of_made, of_weight, of_bias = tape.ops.back(g, None, flat(made), stat, last.norm.weight, False)
        d, of_w = last.convolved_back(unflat(of_made, made), x, w)
        tape.learn(last, of_w, of_weight, of_bias)
    beside = tape.product_back(block.past, g, sums) if block.past is not None else None
    for layer in reversed(inner):
        d = tape.activated_back(layer, d, offset)
        offset = None
    if beside is None or block.past is None:
        return d, g
    tape.ops.thickened(d, *beside, tape.parts, *block.past.conv.stride)
    return d, None


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
        more: Tensor | None = None
        for block in reversed(ctx.blocks):
            d, more = block_backward(tape, block, d, more)
        if more is not None:
            d = d + unflat(more, d)
        return d, None, None, None, *(tape.gradients[name] for name in ctx.names)


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


def entered(trunk: Any, x: Tensor) -> Tensor:
    """What the first stage sees."""
    layer = Layer(trunk.conv1, trunk.bn1)
    made = opened(x, layer)
    counted([layer], parts_now())
    pool = not isinstance(trunk.maxpool, nn.Identity)
    return _Entry.apply(made, layer, parts_now(), pool, layer.norm.weight, layer.norm.bias)


def opened(x: Tensor, layer: Layer) -> Tensor:
    """The first convolution. One of 7x7 with stride 2 is one of 4x4 over squares of 2x2 pixels, laid out as channels.

    So 12 channels go in, and 4 of zeros, in place of 3, for which a GPU has no quick way: on an H200 it takes a third
    of the time.
    """
    it = layer.conv
    large = it.kernel_size == (7, 7) and it.stride == (2, 2) and it.padding == (3, 3) and it.groups == 1
    if not large or x.shape[2] % 2 or x.shape[3] % 2 or x.requires_grad or it.in_channels > 4:
        return it(x)
    dtype = it.weight.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    b, channels, height, width = x.shape
    room = GRAIN - 4 * channels
    # Window k sees pixels 2k - 3 .. 2k + 3: of squares, k - 2 .. k + 1, of which the first pixel is not seen.
    squares = x.new_zeros(b, height // 2 + 3, width // 2 + 3, GRAIN, dtype=dtype)
    pixels = x.permute(0, 2, 3, 1).reshape(b, height // 2, 2, width // 2, 2, channels)
    inner = squares[:, 2:-1, 2:-1, : 4 * channels].unflatten(3, (2, 2, channels))
    inner.copy_(pixels.permute(0, 1, 3, 2, 4, 5))
    w = F.pad(it.weight, (1, 0, 1, 0)).unflatten(3, (4, 2)).unflatten(2, (4, 2))  # [o c 4 2 4 2]
    w = F.pad(w.permute(0, 2, 4, 3, 5, 1).flatten(3), (0, room)).permute(0, 3, 1, 2)
    return F.conv2d(squares.permute(0, 3, 1, 2), w.to(dtype))


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


class as_given:
    """Under it nothing is cast; gives the dtype that the work is to be done in."""

    def __init__(self, x: Tensor) -> None:
        kind = x.device.type
        self.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        self.off = torch.autocast(kind, enabled=False)

    def __enter__(self) -> torch.dtype:
        self.off.__enter__()
        return self.dtype

    def __exit__(self, *error: Any) -> None:
        self.off.__exit__(*error)


def counted(layers: list[Layer], parts: int) -> None:
    """Note that each part was a batch."""
    counts = [
        layer.norm.num_batches_tracked
        for layer in layers
        if layer.norm.track_running_stats and layer.norm.num_batches_tracked is not None
    ]
    if counts:
        torch._foreach_add_(counts, parts)
