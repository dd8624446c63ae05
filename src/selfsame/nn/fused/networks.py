"""Residual networks of timm and torchvision that take the quick way.

On a GPU a residual network in half precision waits for memory, not for arithmetic: batch norms, ReLUs and additions
read and write each activation several times. Here each is done in as few passes as can be.
"""

from typing import Any

import timm.models.resnet as of_timm
import torch
import torchvision.models.resnet as of_torchvision
from torch import Tensor, nn

from selfsame.nn.fused.opening import GRAIN, entered
from selfsame.nn.fused.stages import Layer, Stage, block_of
from selfsame.nn.fused.when import hooked, quick

STAGES = ("layer1", "layer2", "layer3", "layer4")
BLOCKS = (of_timm.BasicBlock, of_timm.Bottleneck, of_torchvision.BasicBlock, of_torchvision.Bottleneck)
BARE = ("se", "aa", "drop_block", "drop_path")  # what blocks of timm may have besides


def fuse(module: Any) -> bool:
    """Let residual networks in it take their quick way where there is one; whether there are any.

    Only classes change: names of weights, and results to rounding, stay as they are. The quick way is taken on a GPU in
    half precision (autocast), in training mode, in one process; everywhere else the network is what it was. Networks
    with other parts in their blocks (squeeze and excitation, other activations, group norm) are left as they are.
    """
    for part in list(module.modules()):
        front = FRONTS.get(type(part))
        if front is not None and plain(part):
            part.__class__ = front
            for name in STAGES:
                part.get_submodule(name).__class__ = Stage
    found = bool(fused_in(module))
    if found:
        module.fused = True  # views of one size in one pass: `joint.each`
    return found


def unfuse(module: Any) -> None:
    """Let all be as it was before `fuse`."""
    for part in fused_in(module):
        part.__class__ = type(part).__mro__[1]
        for name in STAGES:
            part.get_submodule(name).__class__ = nn.Sequential
    module.fused = False


def fused_in(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, tuple(FRONTS.values()))]


def try_out(module: nn.Module) -> None:
    """One pass of each fused network there and back, on a few zeros; weights and statistics stay as they are.

    Raises whatever a compiler, Triton or the driver may raise on this device.
    """
    for trunk in fused_in(module):
        kept = [(buffer, buffer.clone()) for buffer in trunk.buffers()]
        modes = [(part, part.training) for part in trunk.modules()]
        like = trunk.conv1.weight
        zeros = torch.zeros(2, trunk.conv1.in_channels, 64, 64, device=like.device, dtype=like.dtype)
        learning = [p for p in trunk.parameters() if p.requires_grad]
        half = torch.autocast(like.device.type, torch.bfloat16, enabled=like.dtype == torch.float32)
        try:
            with torch.set_grad_enabled(bool(learning)), half:
                made = trunk.train()(zeros)
            if learning:
                torch.autograd.grad(made.sum(), learning, allow_unused=True)
        finally:
            for part, mode in modes:
                part.training = mode
            for buffer, value in kept:
                buffer.copy_(value)


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
    """Whether a block has nothing beside its layers, plain ReLUs, and at most a 1x1 convolution past them."""
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
    """Whether a convolution and a batch norm are the ones that the kernels are for."""
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


class _OfTimm(of_timm.ResNet):
    def forward_features(self, x: Tensor) -> Tensor:
        seen = hooked(self.conv1, self.bn1, self.act1, self.maxpool)
        if seen or self.grad_checkpointing or not quick(self, x):
            return super().forward_features(x)
        return staged(self, entered(self, x))


class _OfTorchvision(of_torchvision.ResNet):
    def _forward_impl(self, x: Tensor) -> Tensor:
        if not quick(self, x) or hooked(self.conv1, self.bn1, self.relu, self.maxpool):
            return super()._forward_impl(x)
        return self.fc(torch.flatten(self.avgpool(staged(self, entered(self, x))), 1))


def staged(trunk: nn.Module, x: Tensor) -> Tensor:
    """What the four stages make of it; each is called as a module, so that hooks on it run."""
    for name in STAGES:
        x = trunk.get_submodule(name)(x)
    return x


FRONTS = {of_timm.ResNet: _OfTimm, of_torchvision.ResNet: _OfTorchvision}
