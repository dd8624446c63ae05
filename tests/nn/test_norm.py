import copy

import pytest
import timm
import torch
from torch import nn

from selfsame.errors import UserError
from selfsame.nn.norm import calibrated, frozen_statistics, standardised, use_group_norm


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8)
    )


def test_standardised_weights_match_the_golden_values():
    row = torch.tensor([1.0, 2, 3, 4])
    golden = torch.tensor([-1.341641, -0.447214, 0.447214, 1.341641]) / 2  # fan_in 4
    torch.testing.assert_close(standardised(row.view(1, 4)), golden.view(1, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(standardised(7 * row.view(1, 1, 2, 2) - 3).flatten(), golden, atol=1e-6, rtol=0)


def test_a_constant_filter_becomes_zero_and_not_nan():
    assert standardised(torch.full((2, 3, 3, 3), 5.0)).abs().max() == 0


def test_group_norm_replaces_every_batch_norm_and_keeps_its_affine_weights():
    net = small()
    nn.init.uniform_(net[1].weight)
    weight = net[1].weight.detach().clone()
    use_group_norm(net)
    assert [net[1].num_groups, net[4].num_groups] == [12, 8]  # largest divisors of 24 and 8 up to 16
    assert torch.equal(net[1].weight, weight)
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in net.modules())


def test_with_group_norm_no_item_sees_the_others():
    torch.manual_seed(0)
    net, x = small(), torch.rand(4, 3, 8, 8)
    assert not torch.allclose(net(x)[:1], net(x[:1]), atol=1e-3)
    use_group_norm(net)
    torch.testing.assert_close(net(x)[:1], net(x[:1]))


def test_the_output_is_the_convolution_by_standardised_weights():
    torch.manual_seed(0)
    net, x = small(), torch.rand(2, 3, 8, 8)
    raw = net[0].weight.detach().clone()
    use_group_norm(net)
    slow = nn.functional.conv2d(x, standardised(raw), net[0].bias, padding=1)
    torch.testing.assert_close(net[0](x), slow)


def test_the_scale_of_the_raw_weights_does_not_matter():
    torch.manual_seed(0)
    net, x = small(), torch.rand(2, 3, 8, 8)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[0].weight.mul_(3).add_(0.7)
    torch.testing.assert_close(use_group_norm(other)(x), use_group_norm(net)(x), atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_raw_weights():
    net = use_group_norm(small())
    net(torch.rand(2, 3, 8, 8)).square().sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())
    assert net[0].parametrizations.weight.original.grad.abs().max() > 0


def test_timm_fused_layers_keep_their_activation():
    net = timm.create_model("mobilenetv3_small_050", num_classes=0)
    before = [part.act for part in net.modules() if isinstance(part, timm.layers.BatchNormAct2d)]
    use_group_norm(net)
    after = [part.act for part in net.modules() if isinstance(part, timm.layers.GroupNormAct)]
    assert len(before) > 10 and all(one is two for one, two in zip(before, after, strict=True))
    assert net(torch.rand(1, 3, 64, 64)).isfinite().all()


def test_batch_norm_of_vectors_becomes_layer_norm():
    net = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32))
    use_group_norm(net)
    x = torch.rand(3, 32)
    torch.testing.assert_close(net[1](x), nn.functional.layer_norm(x, (32,)))


def test_a_layer_used_twice_stays_one_layer():
    norm = nn.BatchNorm2d(8)
    net = nn.Sequential(norm, nn.ReLU(), norm)
    use_group_norm(net)
    assert net[0] is net[2] and isinstance(net[0], nn.GroupNorm)


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(UserError, match="no batch norm"):
        use_group_norm(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))


def test_frozen_statistics_uses_the_batch_but_moves_nothing():
    torch.manual_seed(0)
    net, x = small(), torch.rand(4, 3, 8, 8)
    net(x)
    state = copy.deepcopy(net.state_dict())
    with frozen_statistics(net):
        inside = net(5 * x)
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    torch.testing.assert_close(inside, net(5 * x))  # the same output as with plain training mode
    assert not torch.equal(state["1.running_mean"], net[1].running_mean)  # which moves again outside


def test_frozen_statistics_leaves_eval_mode_alone_and_ends_on_an_error():
    torch.manual_seed(0)
    net, x = small().eval(), torch.rand(4, 3, 8, 8)
    plain = net(x)
    with frozen_statistics(net):
        torch.testing.assert_close(net(x), plain)
    with pytest.raises(ZeroDivisionError), frozen_statistics(net):
        raise ZeroDivisionError
    assert net[1].track_running_stats


def test_calibration_gives_batch_norms_the_statistics_of_the_data_and_nothing_else():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    weights = {name: p.clone() for name, p in net.named_parameters()}
    batches = [5 + 2 * torch.randn(16, 3, 4, 4) for _ in range(3)]
    out = calibrated(net, iter(batches))(torch.cat(batches))
    assert not net.training and net[1].momentum == 0.1
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(4), atol=0.05, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(4), atol=0.05, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_channels_that_come_last_are_normed_as_torch_does_and_still_come_last(dtype):
    torch.manual_seed(0)
    norm = use_group_norm(nn.Sequential(nn.BatchNorm2d(8)))[0]
    nn.init.uniform_(norm.weight)
    x = torch.randn(2, 8, 4, 4).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    made = norm(x)
    golden = nn.functional.group_norm(x.float(), 8, norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(made.float(), golden, atol=0.02, rtol=0.02)
    assert made.is_contiguous(memory_format=torch.channels_last)
    slope = torch.randn(2, 8, 4, 4)
    mine = torch.autograd.grad((made.float() * slope).sum(), x)[0]
    wanted = torch.autograd.grad((golden * slope).sum(), x)[0]
    assert nn.functional.cosine_similarity(mine.float().flatten(), wanted.float().flatten(), dim=0) > 0.999


def test_the_activation_of_a_fused_layer_follows_its_group_norm():
    net = use_group_norm(nn.Sequential(timm.layers.BatchNormAct2d(4)))
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(net(x), nn.functional.group_norm(x, 4).relu())
