"""What is true of Metric alone. Golden values: computed in float64 from the formulas of the sources."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.metric import Metric, compared, contrastive, mined, npair, root, triplet
from selfsame.records import Budget

YES = tensor([[True]])


def learner_of(tiny, **settings):
    torch.manual_seed(0)
    return Metric(**{"hidden": 16, "out": 8, **settings}).build(tiny)


@pytest.mark.parametrize(
    ("positive", "negative", "margin", "expected"),
    [(0.5, 9.0, 1.0, 0.125), (0.0, 1.5, 1.0, 0.0), (0.0, 0.8, 1.0, 0.02), (0.5, 0.8, 1.0, 0.145)],
)
def test_pairs_with_a_margin(positive, negative, margin, expected):
    loss = contrastive(tensor([positive]), tensor([[negative]]), YES, margin)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("near", "far", "expected"), [(0.5, 0.6, 0.1), (0.5, 0.8, 0.0), (0.1, 2.0, 0.0)])
def test_triplets_with_a_margin(near, far, expected):
    near, far = tensor([near], requires_grad=True), tensor([[far]], requires_grad=True)
    loss = triplet(near, far, YES, 0.2)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert bool(near.grad) == bool(far.grad) == (expected > 0)  # an easy negative teaches nothing


def test_n_pairs_of_dot_products():
    assert float(npair(torch.eye(2), 2 * torch.eye(2), 0.0)) == pytest.approx(0.126928, abs=1e-6)
    assert float(npair(torch.eye(2), 2 * torch.eye(2), 0.1)) == pytest.approx(0.126928 + 0.1 * 5, abs=1e-5)
    assert float(npair(torch.zeros(6, 3), torch.zeros(6, 3), 0.0)) == pytest.approx(math.log(6), abs=1e-6)


def test_which_triplets_count():
    positive, negative = tensor([0.5]), tensor([[0.3, 0.5, 0.6, 0.69, 0.7, 0.9, 0.1]])
    other = tensor([[True, True, True, True, True, True, False]])  # the last is of the same item
    counted = {
        how: mined(positive, negative, other, 0.2, how)[0].nonzero()[:, 0].tolist()
        for how in ("all", "hard", "semi-hard")
    }
    assert counted == {"all": [0, 1, 2, 3], "hard": [0], "semi-hard": [2, 3]}


def test_the_mean_is_taken_over_the_triplets_that_count():
    positive, negative = tensor([0.5, 0.2]), tensor([[0.6, 0.4, 3.0], [0.3, 3.0, 3.0]])
    counted = mined(positive, negative, torch.ones(2, 3, dtype=torch.bool), 0.2, "all")
    assert_close(triplet(positive, negative, counted, 0.2), tensor((0.1 + 0.3 + 0.1) / 3))


def test_no_triplet_that_counts_costs_nothing_and_has_a_gradient_of_zero():
    near, far = tensor([0.1], requires_grad=True), tensor([[2.0]])
    triplet(near, far, torch.zeros(1, 1, dtype=torch.bool), 0.2).backward()
    assert float(near.grad) == 0


def test_distances_are_to_both_views_of_all_and_negatives_are_other_items():
    one, two = (F.normalize(z, dim=1) for z in torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)))
    positive, squares, other = compared(one, two)
    every = torch.cat([one, two])
    assert_close(squares, torch.cdist(every, every).square(), rtol=0, atol=1e-5)
    assert_close(positive, (one - two).square().sum(1).repeat(2))
    assert torch.equal(~other, torch.eye(4, dtype=torch.bool).repeat(2, 2))


def test_a_distance_of_zero_has_a_finite_gradient():
    squares = torch.zeros(3, requires_grad=True)
    root(squares).sum().backward()
    assert squares.grad.isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [{"loss": "contrastive"}, {"loss": "npair"}, *({"mining": how} for how in ("all", "hard", "semi-hard"))],
    ids=str,
)
def test_every_loss_learns_and_does_not_care_for_the_order(tiny, views, settings):
    learner = learner_of(tiny, **settings)
    turn = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = learner(views).loss
        assert_close(learner(views[::-1]).loss, loss)
        assert_close(learner([view[turn] for view in views]).loss, loss)
    optimizer = torch.optim.AdamW(learner.parameters(), 0.01)
    for _ in range(15):
        optimizer.zero_grad()
        step = learner(views)
        step.loss.backward()
        optimizer.step()
    assert step.loss < loss and step.logs["spread"] > 0.1


def test_the_margin_is_that_of_the_loss_unless_given(tiny, views):
    losses = {}
    for loss, margin in (("contrastive", 1.0), ("triplet", 0.2)):
        for given in (None, margin, 0.5):
            with torch.no_grad():
                losses[loss, given] = float(learner_of(tiny, loss=loss, mining="all", margin=given)(views).loss)
        assert losses[loss, None] == losses[loss, margin] != losses[loss, 0.5]


def test_hard_mining_alone_is_warned_of():
    assert any("collapse" in text for text in Metric(mining="hard").cautions())
    assert Metric().cautions() == Metric(mining="all").cautions() == []
    assert Metric().fitted(Budget(items=900, batch=64, steps=60, dim=512)).hidden == 1024


def test_wrong_views_are_refused(tiny, views):
    for wrong in (views[:1], [views[0], views[1][:3]]):
        with pytest.raises(UserError, match="2 full views"):
            learner_of(tiny)(wrong)
