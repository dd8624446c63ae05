import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from selfsame.errors import UserError
from selfsame.jobs.pretrain import Pretrain, Training
from selfsame.methods.byol import BYOL
from selfsame.nn.blocks import blocks, recomputed
from selfsame.types import Encoder
from tests.conftest import Tiny

NETS = {  # name -> (class of its blocks, how many)
    "resnet18": ("BasicBlock", 8),
    "resnet50": ("Bottleneck", 16),
    "vit_tiny_patch16_224": ("Block", 12),
    "convnext_atto": ("ConvNeXtBlock", 12),
    "efficientnet_b0": ("InvertedResidual", 15),
    "swin_tiny_patch4_window7_224": ("SwinTransformerBlock", 12),
}


@pytest.mark.parametrize("name", NETS)
def test_the_blocks_of_known_networks_are_found(name):
    kind, count = NETS[name]
    with torch.device("meta"):
        found = blocks(timm.create_model(name, num_classes=0))
    assert [type(block).__name__ for block in found].count(kind) == count
    inside = [part for block in found for part in block.modules()]
    assert len(set(map(id, inside))) == len(inside)  # none twice, none in another


def test_the_blocks_of_torchvision_s_networks_are_found():
    with torch.device("meta"):
        vit, mobile = torchvision.models.vit_b_16(), torchvision.models.mobilenet_v3_small()
    assert [type(block).__name__ for block in blocks(vit)] == ["EncoderBlock"] * 12
    assert [type(block).__name__ for block in blocks(mobile)] == ["InvertedResidual"] * 11


class Noisy(nn.Module):
    """A block with a batch norm and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=None), nn.ReLU(inplace=True), nn.Dropout(0.5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Deep(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ModuleList([Noisy(), Noisy()]))

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        x = self.body[:2](view)
        for block in self.body[2]:
            x = block(x)
        return x.mean((2, 3))


class Residual(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.dim, self.spec = 512, {}
        self.trunk = timm.create_model("resnet18", num_classes=0)

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        return self.trunk(view)


def trained(make, again: bool, **settings) -> dict[str, torch.Tensor]:
    """Losses, gradients and the state of two steps of BYOL, each with two passes through the encoder."""
    torch.manual_seed(0)
    learner = BYOL(**{"hidden": 16, "out": 8, **settings}).build(make()).double().train()
    passes: list[int] = []
    for block in blocks(learner.encoder):
        next(part for part in block.modules() if isinstance(part, nn.BatchNorm2d)).register_forward_hook(
            lambda *_: passes.append(1)
        )
    if again:
        recomputed(learner.encoder)
    views = torch.rand(2, 4, 3, 24, 24, dtype=torch.float64)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    found = {}
    for step in range(2):
        torch.manual_seed(step)  # for the dropout
        optimizer.zero_grad()
        loss = learner(list(views)).loss
        found[f"loss {step}"] = loss.detach()
        loss.backward()
        optimizer.step()
        learner.after_step(step / 2)
    found["passes"] = torch.tensor(len(passes))
    found |= {f"{name}.grad": p.grad for name, p in learner.named_parameters() if p.grad is not None}
    return {**found, **learner.state_dict()}


@pytest.mark.parametrize("make", [Deep, Residual])
def test_recomputed_blocks_change_no_loss_gradient_weight_or_statistic(make):
    plain, again = trained(make, False), trained(make, True)
    assert int(again.pop("passes")) == 2 * int(plain.pop("passes")) > 0  # it does run them again
    assert again.keys() == plain.keys()
    assert int(again["steps"]) == 2
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_the_adversary_s_passes_may_be_recomputed_too():
    plain, again = (trained(Deep, on, adversary=2) for on in (False, True))
    assert int(again.pop("passes")) > int(plain.pop("passes"))
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_recomputed_blocks_keep_less_for_the_backward_pass():
    kept = {}
    for again in (False, True):
        torch.manual_seed(0)
        net = Residual().train()
        assert not again or recomputed(net) == 8
        sizes = {}

        def note(x, sizes=sizes):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            net(torch.rand(4, 3, 96, 96)).sum()
        parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}
        kept[again] = sum(size for place, size in sizes.items() if place not in parameters)
    assert kept[True] < 0.6 * kept[False]


def test_keys_stay_and_in_eval_mode_and_in_a_copy_nothing_changes():
    torch.manual_seed(0)
    net = Deep()
    other = copy.deepcopy(net)
    recomputed(other)
    again = copy.deepcopy(other)
    assert list(other.state_dict()) == list(net.state_dict())
    x = torch.rand(2, 3, 12, 12)
    for one in (other.eval(), again.eval()):
        assert torch.equal(one(x), net.eval()(x))
    again.train()(x).sum().backward()
    assert all(p.grad is None for p in other.parameters()) and all(p.grad is not None for p in again.parameters())


def test_a_network_without_blocks_is_refused():
    with pytest.raises(UserError, match="this encoder has none"):
        recomputed(Tiny())


@pytest.mark.parametrize("name", ["shard", "checkpoint_activations"])
def test_what_does_not_work_with_compile_is_refused(name):
    kind = Pretrain if name == "shard" else Training
    with pytest.raises(ValueError, match=f"--compile and --{name.replace('_', '-')} do not work together"):
        kind(data="photos", compile=True, **{name: True})
