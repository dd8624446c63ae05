import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from selfsame.errors import UserError
from selfsame.nn.sync import synchronised
from tests.processes import CONTRASTS, KINDS, SHARES, contrasted, in_bf16, normalised, outcomes

WHOLE = slice(0, 8)
OF_ROWS = ("y", "x", "frozen", "eval")  # the rest is of parameters and buffers


@pytest.fixture(scope="module")
def told():
    return outcomes()[1]


def compare(parts, whole, **tolerance):
    assert all(part.keys() == whole.keys() for part in parts)
    for key, expected in whole.items():
        if key in OF_ROWS:
            torch.testing.assert_close(torch.cat([part[key] for part in parts]), expected, **tolerance)
        elif key.endswith(".grad"):  # each process has its own rows' part of it
            torch.testing.assert_close(sum(part[key] for part in parts), expected, **tolerance)
        else:
            assert torch.equal(parts[0][key], parts[1][key])
            torch.testing.assert_close(parts[0][key], expected, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_with_unequal_shares_normalise_like_one_with_the_whole_batch(told, kind):
    assert SHARES[0].stop - SHARES[0].start != SHARES[1].stop - SHARES[1].start
    whole = normalised(kind, WHOLE, spread=False)
    compare([one["norm"][kind] for one in told], whole, atol=1e-10, rtol=1e-10)


def test_the_shares_alone_would_give_other_numbers():
    whole, part = normalised("maps", WHOLE, spread=False), normalised("maps", SHARES[0], spread=False)
    assert not torch.allclose(whole["y"][SHARES[0]], part["y"], atol=1e-2)


def test_channels_last_gives_the_same(told):
    whole = normalised("maps", WHOLE, channels_last=True, spread=False)
    compare([one["channels last"] for one in told], whole, atol=1e-10, rtol=1e-10)


def test_statistics_are_fp32_under_autocast(told):
    parts, whole = [one["bf16"] for one in told], in_bf16(WHOLE, spread=False)
    assert parts[0]["y"].dtype == whole["y"].dtype
    for key in ("running_mean", "running_var"):
        assert parts[0][key].dtype == torch.float32
        torch.testing.assert_close(parts[0][key], whole[key], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([part["y"] for part in parts]), whole["y"], rtol=1e-2, atol=1e-2)


def test_keys_settings_and_values_stay_and_alone_nothing_changes():
    torch.manual_seed(0)
    net = nn.Sequential(timm.create_model("efficientnet_b0", num_classes=0), nn.Linear(1280, 4), nn.BatchNorm1d(4))
    other = synchronised(copy.deepcopy(net))
    assert list(other.state_dict()) == list(net.state_dict())
    net.load_state_dict(other.state_dict())
    x = torch.rand(4, 3, 32, 32)
    for mode in (True, False):
        torch.manual_seed(1)
        one = net.train(mode)(x)
        torch.manual_seed(1)
        assert torch.equal(other.train(mode)(x), one)
    assert any(isinstance(part, BatchNormAct2d) for part in other.modules())


def test_a_copy_and_a_second_call_change_nothing_more():
    net = synchronised(nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4)))
    kinds = [type(part) for part in net]
    assert kinds[0] is kinds[1] and kinds[0] is not nn.BatchNorm1d
    assert [type(part) for part in synchronised(copy.deepcopy(net))] == kinds


def test_a_batch_norm_with_a_forward_of_its_own_is_refused():
    class Odd(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    with pytest.raises(UserError, match=r"0\.1 is a Odd.*--method.norm group"):
        synchronised(nn.Sequential(nn.Sequential(nn.ReLU(), Odd(3))))


@pytest.mark.parametrize("kind", CONTRASTS)
def test_rows_gathered_from_two_processes_teach_what_one_process_learns(told, kind):
    parts, whole = [one["contrasted"][kind] for one in told], contrasted(WHOLE, kind)
    assert all(torch.equal(part["order"], torch.arange(8)) for part in parts)
    for name, expected in whole.items():  # DDP takes the mean of gradients, and the log that of losses
        if name != "order":
            torch.testing.assert_close(sum(part[name] for part in parts) / 2, expected, atol=1e-12, rtol=1e-12)
