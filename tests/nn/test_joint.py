"""Views in one pass are views in a pass each."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from selfsame.nn import joint
from selfsame.nn.blocks import recomputed
from selfsame.nn.joint import by_size, each

NETS = {
    "timm": lambda: timm.create_model("resnet10t", num_classes=0),
    "torchvision": lambda: torchvision.models.resnet18(num_classes=8),
    "silu": lambda: timm.create_model("efficientnet_b0", num_classes=0, drop_path_rate=0.0, drop_rate=0.0),
    "transformer": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=0),
    "plain norms": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten()),
}


class Unknown(nn.Module):
    """A part of somebody's own, in which rows may meet."""

    def forward(self, x):
        return x - x.mean(0)


def run(kind, split, autocast=False, views=2):
    torch.manual_seed(0)
    net = NETS[kind]()
    net = net.float() if autocast else net.double()
    views = [torch.rand(6, 3, 32, 32, dtype=torch.float32 if autocast else torch.float64) for _ in range(views)]
    views = [view.contiguous(memory_format=torch.channels_last).requires_grad_() for view in views]
    net = net.to(memory_format=torch.channels_last).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        head = nn.Identity()
        made = [net(view) for view in views] if split else each(nn.Sequential(net, head), views)
        loss = sum((made_one.double() * k).square().mean() for k, made_one in enumerate(made, 1))
    loss.backward()
    state = {name: value for name, value in net.state_dict().items() if "tracked" not in name}
    gradients = {name: p.grad for name, p in net.named_parameters()}
    return [*made, *(view.grad for view in views)], state, gradients


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("views", [2, 3])
def test_results_gradients_and_statistics_are_those_of_a_pass_each(kind, views, monkeypatch):
    taken = []
    apart = joint.Apart
    monkeypatch.setattr(joint, "Apart", lambda parts: taken.append(parts) or apart(parts))
    one, two = run(kind, split=False, views=views), run(kind, split=True, views=views)
    assert taken == [views]
    for a, b in zip(one[0], two[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    for a, b in zip(one[1:], two[1:], strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            torch.testing.assert_close(value, b[name], rtol=1e-8, atol=1e-10, msg=name)


def test_the_statistics_of_a_view_are_its_own():
    """In one pass with torch's own norms they would be those of all views."""
    torch.manual_seed(0)
    net, views = NETS["torchvision"]().double().train(), [torch.rand(6, 3, 32, 32).double() * k for k in (0.2, 1)]
    apart = torch.cat(each(nn.Sequential(copy.deepcopy(net)), views))
    assert (net(torch.cat(views)) - apart).abs().max() > 0.05 * apart.abs().max()


def test_it_is_the_same_in_bf16():
    one, two = run("torchvision", split=False, autocast=True), run("torchvision", split=True, autocast=True)
    assert one[0][0].dtype == two[0][0].dtype
    for a, b in zip(one[0], two[0], strict=True):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.03)
    for name, value in two[1].items():
        torch.testing.assert_close(one[1][name], value, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("why", ["unknown part", "recomputed", "eval", "sizes", "many rows"])
def test_where_it_would_not_be_the_same_views_pass_one_by_one(why, monkeypatch):
    monkeypatch.setattr(joint, "Apart", lambda parts: pytest.fail("passed together"))
    net = NETS["timm"]()
    if why == "unknown part":
        net = nn.Sequential(net, Unknown())
    if why == "recomputed":
        recomputed(net)
    net.train(why != "eval")
    rows = 40 if why == "many rows" else 4
    views = [torch.rand(rows, 3, 32, 32), torch.rand(rows, 3, 32, 48 if why == "sizes" else 32)]
    assert [len(made) for made in each(nn.Sequential(net), views)] == [rows, rows]


class Noting(nn.Module):
    """Its rows and side of each pass; a batch norm whose rows meet."""

    def __init__(self):
        super().__init__()
        self.norm, self.passes = nn.BatchNorm2d(3, affine=False), []

    def forward(self, x):
        self.passes.append((len(x), x.shape[-1]))
        return self.norm(x).mean((2, 3))


def test_views_of_one_size_pass_together_and_come_back_in_their_order():
    views = [torch.rand(4, 3, side, side) * k for k, side in enumerate((8, 8, 4, 4, 4), 1)]
    net = Noting()
    made = by_size(net, views)
    assert net.passes == [(8, 8), (12, 4)] and [len(one) for one in made] == [4] * 5
    expected = torch.cat([Noting()(torch.cat(views[:2])), Noting()(torch.cat(views[2:]))])
    assert torch.equal(torch.cat(made), expected)
    assert by_size(net, []) == []
