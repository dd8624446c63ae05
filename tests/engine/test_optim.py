import pytest
import torch
from torch import nn
from torch.testing import assert_close

from selfsame.engine.optim import LARS, decay_groups, lr_at, make_optimizer


@pytest.mark.parametrize(("decay", "expected"), [(0.0, [0.004, -0.003]), (0.1, [0.004919, -0.000894])])
def test_lars_takes_its_golden_step(decay, expected):
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    weight.grad = torch.tensor([[0.8, -0.6]])
    LARS([{"params": [weight], "weight_decay": decay}], lr=1.0).step()
    assert_close(torch.tensor([[3.0, 4.0]]) - weight.detach(), torch.tensor([expected]), rtol=0, atol=2e-6)


def test_lars_keeps_the_rate_outside_the_momentum():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = LARS([{"params": [weight], "weight_decay": 0.0, "adapt": False}], lr=1.0)
    for lr in (1.0, 0.5):
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = torch.ones(1, 2)
        optimizer.step()
    assert_close(weight.detach(), torch.tensor([[3.0, 4.0]]) - 1.0 - 0.5 * 1.9)


def test_one_dimensional_parameters_take_plain_steps_without_decay():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    for p in net.parameters():
        p.data.fill_(2.0)
        p.grad = torch.ones_like(p)
    make_optimizer("lars", net, 0.1, 0.5).step()
    assert_close(net[0].bias.detach(), torch.full((3,), 1.9))
    assert_close(net[1].weight.detach(), torch.full((3,), 1.9))
    assert not torch.allclose(net[0].weight.detach(), torch.full((3, 3), 1.9))


def test_every_learning_parameter_is_in_one_group():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    net[2].weight.requires_grad_(False)
    decayed, free = decay_groups(net, 0.1)
    assert len(decayed["params"]) == 1 and len(free["params"]) == 4
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_a_weight_without_gradient_is_left_alone():
    weight = nn.Parameter(torch.ones(2, 2))
    LARS([weight], lr=1.0).step()
    assert torch.equal(weight, torch.ones(2, 2))


def test_the_schedule_has_its_golden_values():
    peak = 0.2 * 4096 / 256
    found = [lr_at(step, 312_000, 3120, peak) for step in (0, 1560, 3119, 3120, 157_560, 312_000)]
    assert found == pytest.approx([0, 1.6, 3.198974, 3.2, 1.6, 0], abs=1e-6)


def test_without_warm_up_it_starts_at_the_peak():
    assert lr_at(0, 10, 0, 0.3) == 0.3


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_every_optimizer_lowers_a_square(name):
    torch.manual_seed(0)
    net = nn.Linear(4, 4)
    optimizer = make_optimizer(name, net, 0.5 if name == "lars" else 0.05, 0.0)
    losses = []
    for _ in range(50):
        loss = net(torch.ones(2, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_a_weight_may_get_its_first_gradient_later_than_others(name):
    """As prototypes do that stand still at first; and it is then as if it had had none of the steps before."""
    late, alone = (nn.Linear(2, 2, bias=False) for _ in range(2))
    alone.load_state_dict(late.state_dict())
    both = nn.ModuleList([nn.Linear(2, 2), late])
    pull = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    optimizer = make_optimizer(name, both, 0.1, 0.0)
    for step in range(3):
        for p in both[0].parameters():
            p.grad = torch.ones_like(p)
        late.weight.grad = pull.clone() if step else None
        optimizer.step()
    optimizer = make_optimizer(name, alone, 0.1, 0.0)
    for _ in range(2):
        alone.weight.grad = pull.clone()
        optimizer.step()
    torch.testing.assert_close(late.weight, alone.weight)
