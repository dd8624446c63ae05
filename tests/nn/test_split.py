"""Golden values: JOINT B1, the reshape that groups rows by their number modulo the groups."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.nn.joint import of_known_parts
from selfsame.nn.norm import frozen_statistics
from selfsame.nn.split import SplitBatch, in_groups, shuffled, split
from selfsame.nn.sync import WholeBatch, synchronised
from tests.processes import outcomes, rows_of, split_apart

GOLDEN = torch.tensor([-1.341641, -0.447214, 0.447214, 1.341641])


def net() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
    made.append(BatchNormAct2d(4, act_layer=nn.SiLU))
    nn.init.uniform_(made[1].weight, 0.5, 2)
    return made


def test_rows_are_grouped_by_their_number_modulo_the_groups():
    norm = nn.BatchNorm1d(1, eps=1e-12)
    assert split(norm, 4)
    x = torch.arange(8.0)[:, None]
    assert_close(in_groups(norm, x, 4)[:, 0], GOLDEN.repeat_interleave(2), atol=1e-6, rtol=0)
    # The layer itself takes rows that follow each other.
    assert_close(norm(x)[:, 0], GOLDEN.repeat(2), atol=1e-6, rtol=0)


def test_it_is_the_reshape_of_the_reference_code():
    x = torch.randn(12, 4, 3, 3)
    norm = nn.BatchNorm2d(4)
    groups = 3
    wide = nn.functional.batch_norm(x.view(12 // groups, 4 * groups, 3, 3), None, None, training=True).view(x.shape)
    split(norm, 4)
    assert_close(in_groups(norm, x, 4), wide)


@pytest.mark.parametrize("channels_last", [False, True])
def test_each_group_passes_as_if_alone_and_gradients_add_up(channels_last):
    alone, parted = net(), net()
    split(parted, 3)
    x = torch.rand(9, 3, 8, 8)
    pull = torch.randn(9, 4, 4, 4)
    given = x.to(memory_format=torch.channels_last) if channels_last else x
    y = in_groups(parted, given, 3)
    if channels_last:
        assert y[0:1].is_contiguous(memory_format=torch.channels_last)
    (y * pull).sum().backward()
    for group in range(3):
        made = alone(x[group::3])
        assert_close(y[group::3], made)
        (made * pull[group::3]).sum().backward()
    for one, two in zip(alone.parameters(), parted.parameters(), strict=True):
        assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_follow_the_mean_over_the_groups(momentum):
    norm = nn.BatchNorm1d(3, momentum=momentum)
    split(norm, 4)
    for step in range(2):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        share = momentum or 1 / (step + 1)
        mean = torch.lerp(norm.running_mean, x.view(2, 4, 3).mean(1).mean(0), share)
        variance = torch.lerp(norm.running_var, x.view(2, 4, 3).var(1).mean(0), share)
        norm(x)
        assert_close(norm.running_mean, mean)
        assert_close(norm.running_var, variance)
    assert int(norm.num_batches_tracked) == 2


def test_in_eval_mode_and_in_its_state_it_is_an_ordinary_batch_norm():
    parted = net()
    split(parted, 2)
    parted(torch.rand(4, 3, 8, 8))
    assert list(parted.state_dict()) == list(net().state_dict())
    plain = net()
    plain.load_state_dict(parted.state_dict(), strict=True)
    x = torch.rand(5, 3, 8, 8)
    assert torch.equal(parted.eval()(x), plain.eval()(x))


def test_frozen_statistics_stay():
    norm = nn.BatchNorm1d(3)
    split(norm, 2)
    with frozen_statistics(norm):
        norm(torch.randn(4, 3))
    assert norm.running_mean.eq(0).all() and norm.num_batches_tracked == 0


def test_a_batch_that_is_no_multiple_gets_groups_that_are_a_little_larger():
    norm = nn.BatchNorm1d(1)
    split(norm, 3)
    x = torch.randn(8, 1)
    y = in_groups(norm, x, 3)
    assert_close(torch.stack([y[k::2].mean() for k in range(2)]), torch.zeros(2))
    assert in_groups(norm, x[:2], 3).isfinite().all()


def test_split_batch_norms_are_not_spread_over_processes_and_stay_so_in_copies():
    parted = net()
    split(parted, 2)
    for one in (synchronised(parted), copy.deepcopy(parted)):
        assert [isinstance(one[k], SplitBatch) for k in (1, 4)] == [True, True]
        assert not any(isinstance(part, WholeBatch) for part in one)
    assert parted[4].rows == 2
    assert of_known_parts(net()) and not of_known_parts(parted)  # views must not pass it side by side


def test_networks_without_batch_norm_need_none_of_it():
    assert not split(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), 4)


def test_a_batch_norm_with_a_forward_of_its_own_is_refused():
    class Own(nn.BatchNorm1d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(UserError, match=r"batch norm 0 is a Own, whose own forward cannot be split.*batch-norm group"):
        split(nn.Sequential(Own(3)), 2)


def test_shuffled_rows_come_back_in_their_order():
    x = torch.randn(8, 3)
    assert torch.equal(shuffled(nn.Identity(), x, 2), x)


def test_shuffling_puts_rows_among_others_each_time():
    norm = nn.BatchNorm1d(3)
    split(norm, 4)
    x = torch.randn(8, 3)
    torch.manual_seed(0)
    one, two = shuffled(norm, x, 4), shuffled(norm, x, 4)
    torch.manual_seed(0)
    again = shuffled(norm, x, 4)
    assert torch.equal(one, again)
    assert not torch.allclose(one, two) and not torch.allclose(one, in_groups(norm, x, 4))
    whole = nn.functional.batch_norm(x, None, None, training=True)
    assert not torch.allclose(one, whole)


def test_two_processes_have_the_groups_of_one():
    """Groups, the order of the keys, gradients and running statistics."""
    whole = split_apart(slice(None))
    parts = [one["split"] for one in outcomes()[1]]
    assert all(part.keys() == whole.keys() for part in parts)
    for key, value in whole.items():
        if key in ("y", "keys"):
            for rank, part in enumerate(parts):
                assert_close(part[key], value[rows_of(rank, 12)])
        elif key.endswith(".grad"):
            assert_close(sum(part[key] for part in parts), value)
        else:
            assert torch.equal(parts[0][key], parts[1][key])
            assert_close(parts[0][key], value)
