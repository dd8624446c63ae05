"""What is true of MoCo v3 alone. Golden values: JOINT B3, computed in float64."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn, tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.mocov3 import MoCoV3, contrast
from selfsame.modalities.image.encoder import ImageEncoder
from selfsame.records import Budget
from tests.conftest import Tiny, TinyTokens

SMALL = {"hidden": 16, "out": 8}
Q, K = tensor([[1.0, 0], [0, 1]]), tensor([[0.8, 0.6], [0.6, 0.8]])


def test_the_loss_has_its_golden_value():
    assert_close(contrast(Q, K, 0.2), tensor(0.125305), rtol=0, atol=1e-6)
    assert_close(contrast(Q, K, 0.2) / 0.4, tensor(0.313262), rtol=0, atol=1e-6)
    assert_close(contrast(5 * Q, 0.1 * K, 0.2), tensor(0.125305), rtol=0, atol=1e-6)


def test_the_gradient_keeps_its_size_for_any_temperature_above():
    """Twice the temperature before the loss takes away what it does to logits: near 0 they are in proportion."""
    sizes = []
    for temperature in (2.0, 4.0, 8.0):
        q = Q.clone().requires_grad_()
        contrast(q, K, temperature).backward()
        sizes.append(float(q.grad.norm()))
    assert max(sizes) < 1.05 * min(sizes)


def test_the_order_of_the_items_does_not_matter():
    q, k = torch.randn(2, 6, 4)
    order = torch.randperm(6)
    assert_close(contrast(q[order], k[order], 0.2), contrast(q, k, 0.2))


def test_heads_are_those_of_the_two_kinds_of_network():
    net = MoCoV3().build(Tiny())
    assert [type(layer) for layer in net.projector] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
    assert [type(layer) for layer in net.predictor] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert net.projector[0].bias is None and net.projector[-1].affine is False
    assert net.projector[0].weight.shape == (4096, 8) and net.projector[3].weight.shape == (256, 4096)
    vit = MoCoV3(**{**MoCoV3.presets["vit"].method, **SMALL}).build(Tiny())
    assert sum(isinstance(layer, nn.Linear) for layer in vit.projector) == 3
    assert vit.predictor[-1].affine is False and sum(isinstance(layer, nn.Linear) for layer in vit.predictor) == 2


def test_steps_are_those_of_the_reference_order(tiny, views):
    """Queries, then the slow copy moves, then keys; here it moves at the end of the step before."""
    learner = MoCoV3(**SMALL, momentum=0.9).build(tiny)
    online, slow, predictor = (copy.deepcopy(net) for net in (learner.online, learner.online, learner.predictor))
    optimizers = [
        torch.optim.SGD(parameters, lr=0.1)
        for parameters in (learner.parameters(), [*online.parameters(), *predictor.parameters()])
    ]
    for step in range(3):
        optimizers[0].zero_grad()
        loss = learner(views).loss
        loss.backward()
        optimizers[0].step()
        learner.after_step(0.0)  # the schedule is looked at elsewhere
        queries = [F.normalize(predictor(online(view)), dim=1) for view in views]
        with torch.no_grad():
            for mine, theirs in zip(slow.parameters(), online.parameters(), strict=True):
                mine.mul_(0.9).add_(theirs, alpha=0.1)
            keys = [F.normalize(slow(view), dim=1) for view in views]
        expected = sum(2 * F.cross_entropy(q @ k.T, torch.arange(12)) for q, k in zip(queries, keys[::-1], strict=True))
        optimizers[1].zero_grad()
        expected.backward()
        optimizers[1].step()
        assert_close(loss, expected, rtol=1e-4, atol=1e-5, msg=f"step {step}")


def test_momentum_rises_from_its_start_to_one(tiny):
    learner = MoCoV3(**SMALL, momentum=0.5).build(tiny)
    moved = []
    for progress in (0.0, 0.5, 1.0):
        with torch.no_grad():
            for p in learner.target.parameters():
                p.zero_()
        learner.after_step(progress)
        target, online = (next(net.parameters()) for net in (learner.target, learner.online))
        moved.append(float((target / online).mean().detach()))
    assert moved == pytest.approx([0.5, 0.25, 0.0])


def test_the_loss_does_not_change_when_the_views_are_swapped(tiny, views):
    learner = MoCoV3(**SMALL).build(tiny)
    with torch.no_grad():
        assert_close(learner(views).loss, learner(views[::-1]).loss)


def test_no_gradient_reaches_the_keys(tiny, views):
    learner = MoCoV3(**SMALL).build(tiny)
    learner(views).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in learner.target.parameters())


@pytest.mark.parametrize("freeze", [True, False])
def test_the_patch_embedding_stays_at_its_random_start(freeze):
    torch.manual_seed(0)
    learner = MoCoV3(**SMALL, freeze=freeze).build(TinyTokens())
    before = {name: p.clone() for name, p in learner.encoder.named_parameters()}
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=0.1)
    learner([torch.rand(6, 3, 16, 16) for _ in range(2)]).loss.backward()
    optimizer.step()
    learner.after_step(0.0)
    moved = {name for name, p in learner.encoder.named_parameters() if not torch.equal(p, before[name])}
    still = {"body.0.weight", "body.0.bias"}
    assert before.keys() - moved == (still if freeze else set())
    copied = dict(learner.target.net[0].named_parameters())
    assert torch.equal(copied["body.0.weight"], before["body.0.weight"]) == freeze


def test_encoders_name_their_patch_embedding():
    stats = {"white": 255, "mean": [0.5] * 3, "std": [0.2] * 3}
    spec = {"dim": 192, "stats": stats}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)
    assert ImageEncoder(vit, spec).embedding is vit.patch_embed
    other = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 16)
    assert ImageEncoder(other, spec).embedding is other.conv_proj
    assert ImageEncoder(nn.Sequential(nn.Conv2d(3, 4, 3)), spec).embedding is None
    assert Tiny().embedding is None


def test_a_wrong_number_of_views_is_refused(tiny, views):
    learner = MoCoV3(**SMALL).build(tiny)
    for given in (views[:1], [views[0], views[1][:3]]):
        with pytest.raises(UserError, match="MoCo v3 needs a list of 2 full views"):
            learner(given)


def test_a_copy_that_never_moves_has_a_caution():
    (text,) = MoCoV3(momentum=1).cautions()
    assert "never moves" in text


def test_short_runs_get_a_copy_that_can_follow():
    short, long = (MoCoV3().fitted(Budget(items=10_000, batch=64, steps=s, dim=256)) for s in (600, 100_000))
    assert short.momentum < 0.9 < 0.99 < long.momentum and short.hidden == 1024


def test_small_batches_get_the_low_temperature():
    small, large = (MoCoV3().fitted(Budget(items=10_000, batch=b, steps=600, dim=256)) for b in (256, 4096))
    assert (small.temperature, large.temperature) == (0.2, 1.0)
