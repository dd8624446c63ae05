import torch
from torch.testing import assert_close

from selfsame.nn.adversary import ascend


def test_the_golden_walk_ends_at_the_edge_of_the_ball():
    start = torch.tensor([0.2, 0.5, 0.9])
    gradient = torch.tensor([0.3, -0.1, 0.0])
    found = ascend(start, lambda x: (x * gradient).sum(), 8 / 255, 2 / 255, 5, random_start=False)
    assert_close(found, torch.tensor([0.231373, 0.468627, 0.9]), rtol=0, atol=1e-6)


def test_it_stays_in_the_ball_and_in_the_range_and_raises_a_smooth_loss():
    torch.manual_seed(0)
    start, goal = torch.rand(4, 3, 5, 5), torch.rand(4, 3, 5, 5)

    def loss(x):
        return (x - goal).square().mean()

    found = ascend(start, loss, 0.1, 0.03, 8)
    assert (found - start).abs().max() <= 0.1 + 1e-6
    assert found.min() >= 0 and found.max() <= 1
    assert loss(found) > loss(start)
    assert not found.requires_grad


def test_without_limits_values_may_be_any():
    view = torch.tensor([[5.0, -3.0]])
    found = ascend(view, lambda x: x.sum(), 0.5, 0.5, 2, random_start=False, limits=None)
    assert torch.allclose(found, view + 0.5)
    kept = ascend(view / 10, lambda x: x.sum(), 0.5, 0.5, 2, random_start=False, limits=(-1.0, 0.6))
    assert torch.allclose(kept, torch.tensor([[0.6, 0.2]]))
