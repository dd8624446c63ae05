"""Residual networks on their quick way compute what they did, and its kernels what their twins do."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from selfsame.nn.fused import networks, when
from selfsame.nn.fused.networks import fuse
from selfsame.nn.fused.stages import Stage
from selfsame.nn.joint import Apart, each
from selfsame.nn.norm import frozen_statistics, use_group_norm

NETS = {
    "bottlenecks": lambda: timm.create_model("resnet50", num_classes=0, layers=(2, 1, 2, 1)),
    "basic blocks": lambda: timm.create_model("resnet18", num_classes=0),
    "torchvision": lambda: torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=5),
    "groups of channels": lambda: timm.create_model("resnext50_32x4d", num_classes=0, layers=(1, 2, 1, 1)),
    "dilated": lambda: timm.create_model("resnet50", num_classes=0, layers=(1, 1, 1, 2), output_stride=8),
}
OTHERS = {
    "squeeze and excitation": lambda: timm.create_model("seresnet50", num_classes=0, layers=(1, 1, 1, 1)),
    "pools in blocks": lambda: timm.create_model("resnet26d", num_classes=0),
    "another stem": lambda: timm.create_model("resnet10t", num_classes=0),
    "group norm": lambda: use_group_norm(timm.create_model("resnet18", num_classes=0)),
    "no residual network": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0),
}


@pytest.fixture
def anywhere(monkeypatch):
    """The quick way is taken on any device, with the twins of the kernels; the number of passes through stages."""
    taken = []
    forward = Stage.forward

    def counted(self, x):
        taken.append(self)
        return forward(self, x)

    monkeypatch.setattr(Stage, "forward", counted)
    monkeypatch.setattr(when, "halved", lambda x: True)
    return taken


def made(kind, size=40):
    """A network whose norms differ from each other, in double precision, and images of two views."""
    torch.manual_seed(0)
    net = NETS[kind]().double().train().to(memory_format=torch.channels_last)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)
    return net, torch.rand(6, 3, size, size).double().contiguous(memory_format=torch.channels_last)


def learned(net, passes, x):
    """Vectors, gradients and statistics of a pass."""
    vectors = passes(net, x)
    weights = torch.linspace(-1, 1, vectors.numel(), dtype=vectors.dtype).view_as(vectors)
    (vectors * weights).sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    return vectors.detach(), gradients, dict(net.named_buffers())


def one_by_one(net, x):
    return torch.cat([net(view) for view in x.chunk(2)])


def together(net, x):
    with Apart(2):
        return net(x)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("views", [1, 2])
def test_vectors_gradients_and_statistics_are_those_of_the_network_as_it_was(kind, views, anywhere):
    net, x = made(kind)
    other = copy.deepcopy(net)
    assert fuse(other)
    assert list(other.state_dict()) == list(net.state_dict())
    passes = (one_by_one, together) if views == 2 else (lambda net, x: net(x),) * 2
    wanted, found = learned(net, passes[0], x), learned(other, passes[1], x)
    assert len(anywhere) == 4
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-9, atol=1e-10)
    for one, two in zip(found[1:], wanted[1:], strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert float((value - two[name]).double().norm()) <= 1e-9 * float(two[name].double().norm()), name


def test_images_of_odd_sides_and_images_with_gradients_take_the_usual_first_convolution(anywhere):
    net, x = made("basic blocks", size=37)
    other = copy.deepcopy(net)
    fuse(other)
    x.requires_grad_()
    one, two = net(x), other(x)
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)
    found = [torch.autograd.grad(out.square().sum(), x)[0] for out in (one, two)]
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", OTHERS)
def test_networks_with_other_parts_are_left_as_they_are(kind):
    net = OTHERS[kind]()
    before = [type(part) for part in net.modules()]
    assert not fuse(net)
    assert [type(part) for part in net.modules()] == before


def test_statistics_that_do_not_follow_stay_and_half_frozen_networks_go_the_usual_way(anywhere):
    net, x = made("basic blocks")
    fuse(net)
    before = {name: value.clone() for name, value in net.named_buffers()}
    with frozen_statistics(net):
        net(x)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    net.layer2[0].bn1.eval()
    assert not when.quick(net.layer2, x) and when.quick(net.layer1, x)


def test_who_watches_a_part_sees_what_it_gives(anywhere):
    net, x = made("basic blocks")
    wanted = net.layer1[0].bn1(net.layer1[0].conv1(net.maxpool(net.act1(net.bn1(net.conv1(x))))))
    fuse(net)
    seen = []
    net.layer1[0].bn1.register_forward_hook(lambda part, given, made: seen.append(made.clone()))
    net(x)
    torch.testing.assert_close(seen[0], wanted)


def test_in_full_precision_on_a_processor_and_in_eval_mode_nothing_changes():
    net, x = made("bottlenecks")
    other = copy.deepcopy(net)
    fuse(other)
    assert torch.equal(net(x), other(x))
    assert torch.equal(net.eval()(x), other.eval()(x))
    assert isinstance(other, networks.FRONTS[timm.models.resnet.ResNet])


def test_views_of_one_size_go_through_a_fused_network_together(anywhere):
    net, x = made("basic blocks")
    other = copy.deepcopy(net)
    fuse(other)
    wanted = each(net, list(x.chunk(2)))
    anywhere.clear()
    found = each(other, list(x.chunk(2)))
    assert len(anywhere) == 4  # stages, once each
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)


def test_kernels_compute_what_their_twins_do():
    """As Triton interprets them, in a process of its own: it asks how when it is imported."""
    pytest.importorskip("triton")
    place = Path(__file__).parents[2]
    setting = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(place), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-m", "tests.nn.fused"], cwd=place, env=setting, capture_output=True, text=True
    )
    if "only 0-dimensional arrays can be converted" in run.stderr:
        pytest.skip("this Triton cannot interpret kernels with a NumPy as new as this one")
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert len(found) > 60 and max(found.values()) < 1e-5, found


CARDS = {80: 166912, 90: 232448, 100: 232448}  # compute capability: bytes of shared memory of a block


@pytest.mark.compiles
@pytest.mark.parametrize("capability", CARDS)
def test_kernels_compile_for_cards_that_are_not_there(capability, tmp_path):
    """What Triton's interpreter lets pass, its compiler may not: a number that changes its type in a loop."""
    pytest.importorskip("triton")
    place = Path(__file__).parents[2]
    setting = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(place), *sys.path])}
    command = [sys.executable, "-m", "tests.nn.compiled", str(capability), str(CARDS[capability])]
    run = subprocess.run(command, cwd=place, env=setting, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert not found["failed"] and len(found["compiled"]) > 20
    assert capability == 80 or not found["large"]


def test_a_network_that_is_no_longer_fused_is_what_it_was_and_a_trial_leaves_no_trace(anywhere):
    net, _ = made("basic blocks")
    before = [type(part) for part in net.modules()]
    wanted = {name: value.clone() for name, value in net.state_dict().items()}
    fuse(net.eval())
    net.layer1.train()
    modes = [part.training for part in net.modules()]
    networks.try_out(net)
    assert len(anywhere) == 4 and [part.training for part in net.modules()] == modes
    assert all(torch.equal(value, wanted[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    networks.unfuse(net)
    assert [type(part) for part in net.modules()] == before and not net.fused


def test_a_trial_that_fails_leaves_no_trace_either(anywhere, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no such instruction")

    net, _ = made("basic blocks")
    wanted = {name: value.clone() for name, value in net.state_dict().items()}
    fuse(net.eval())
    monkeypatch.setattr(when.twins, "back", refuse)
    with pytest.raises(RuntimeError, match="no such instruction"):
        networks.try_out(net)
    assert not any(part.training for part in net.modules())
    assert all(torch.equal(value, wanted[name]) for name, value in net.state_dict().items())


def test_statistics_of_one_value_are_refused_and_averages_without_momentum_go_the_usual_way(anywhere):
    net, x = made("basic blocks", size=20)
    fuse(net)
    with pytest.raises(ValueError, match="more than 1 value"):
        net(x[:1])
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    assert not when.quick(net, x)


def test_the_backward_pass_is_the_same_under_autocast(anywhere):
    net, x = made("bottlenecks")
    net, x = net.float(), x.float()
    fuse(net)
    found = []
    for under in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(x).float().square().sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=under):
            loss.backward()
        found.append({name: p.grad.clone() for name, p in net.named_parameters() if name.startswith("layer")})
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
