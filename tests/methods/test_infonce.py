"""What is true of end-to-end InfoNCE alone. Golden values: JOINT B0 and B5."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn, tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.infonce import InfoNCE, information
from selfsame.records import Budget
from selfsame.types import Encoder
from tests.conftest import Tiny

SMALL = {"out": 8, "hidden": 16}


class Bare(Encoder):
    """Its vectors are its views."""

    dim = 2

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        return view


def bare(**settings: object) -> nn.Module:
    learner = InfoNCE(out=2, **settings).build(Bare())
    learner.head = nn.Identity()
    return learner


@pytest.mark.parametrize("n", [2, 8, 64])
def test_where_all_are_alike_the_loss_is_the_logarithm_of_the_batch_and_nothing_is_known(n):
    view = torch.ones(n, 2)
    step = bare()([view, view])
    assert float(step.loss) == pytest.approx(math.log(n), abs=1e-6)
    assert float(step.logs["information"]) == pytest.approx(0, abs=1e-6)


def test_the_bound_of_information_is_golden():
    assert float(information(tensor(1.0), 8)) == pytest.approx(1.079442, abs=1e-6)


def test_the_loss_is_cross_entropy_over_the_keys_of_the_batch():
    """MoCo v3's golden pairs: 0.313262 at 0.2."""
    q, k = tensor([[1.0, 0], [0, 1]]), tensor([[0.8, 0.6], [0.6, 0.8]])
    assert_close(bare(temperature=0.2)([q, k]).loss, tensor(0.313262), rtol=0, atol=1e-6)
    assert_close(bare(temperature=0.2)([9 * q, 0.2 * k]).loss, tensor(0.313262), rtol=0, atol=1e-6)


def test_both_directions_have_their_mean_and_swapping_changes_nothing():
    one, two = torch.randn(2, 6, 2)
    losses = [float(bare()([x, y]).loss) for x, y in ((one, two), (two, one))]
    assert losses[0] != pytest.approx(losses[1])
    both = bare(symmetric=True)
    assert float(both([one, two]).loss) == pytest.approx(sum(losses) / 2)
    assert float(both([two, one]).loss) == pytest.approx(sum(losses) / 2)


def test_the_order_of_the_items_does_not_matter():
    one, two = torch.randn(2, 6, 2)
    order = torch.randperm(6)
    assert_close(bare()([one[order], two[order]]).loss, bare()([one, two]).loss)


def test_the_gradient_passes_through_queries_and_keys(tiny, views):
    learner = InfoNCE(**SMALL).build(tiny)
    learner(views).loss.backward()
    whole = learner.head[0].weight.grad.clone()
    learner.zero_grad()
    q, k = (learner.online(view) for view in views)
    F.cross_entropy(F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / 0.07, torch.arange(12)).backward()
    assert_close(learner.head[0].weight.grad, whole, rtol=1e-4, atol=1e-6)
    learner.zero_grad()
    q, k = learner.online(views[0]), learner.online(views[1]).detach()
    F.cross_entropy(F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / 0.07, torch.arange(12)).backward()
    assert not torch.allclose(learner.head[0].weight.grad, whole, rtol=1e-2)


@pytest.mark.parametrize("symmetric", [False, True])
def test_two_encoders_start_alike_and_both_learn(tiny, views, symmetric):
    learner = InfoNCE(**SMALL, shared=False, symmetric=symmetric).build(tiny)
    assert learner.encoder is tiny and learner.other[0] is not tiny
    one = InfoNCE(**SMALL, symmetric=symmetric).build(tiny)
    one.head.load_state_dict(learner.head.state_dict())
    assert_close(learner(views).loss, one(views).loss)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    learner(views).loss.backward()
    optimizer.step()
    pairs = list(zip(learner.online.parameters(), learner.other.parameters(), strict=True))
    assert all(p.grad is not None for pair in pairs for p in pair)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_one_encoder_is_one():
    assert InfoNCE(**SMALL).build(Tiny()).other is None


def test_a_wrong_number_of_views_is_refused(tiny, views):
    learner = InfoNCE(**SMALL).build(tiny)
    for given in (views[:1], [views[0], views[1][:3]]):
        with pytest.raises(UserError, match="InfoNCE needs a list of 2 full views"):
            learner(given)


def test_a_row_alone_has_nothing_to_be_told_from():
    budget = Budget(items=10, batch=4, steps=10, dim=8, micro=4)
    (text,) = InfoNCE().misfits(budget)
    assert "no others" in text
