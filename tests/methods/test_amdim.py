"""What is true of AMDIM alone. Golden values: computed in float64 from the reference code's formulas."""

import math

import pytest
import torch
from torch import nn, tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.amdim import AMDIM, clipped, scored, told_apart
from selfsame.records import Budget
from selfsame.types import Encoder
from tests.conftest import Tiny, TinyTokens


@pytest.fixture
def learner(tiny):
    return AMDIM(out=8).build(tiny)


def test_clipped_scores_have_their_golden_values():
    found = clipped(tensor([0.0, 10, 40, -100], dtype=torch.float64), 20.0)
    assert_close(found, tensor([0, 9.242343, 19.280552, -19.998184], dtype=torch.float64), rtol=0, atol=1e-6)


def test_scores_are_dot_products_over_the_root_of_the_width():
    torch.manual_seed(0)
    source, goals = torch.randn(2, 3, 16), torch.randn(4, 5, 16)
    assert_close(scored(source, goals), torch.einsum("bsd,npd->bsnp", source, goals) / 4)


def test_each_place_stands_against_all_places_of_the_other_items_alone():
    torch.manual_seed(0)
    scores = torch.randn(3, 2, 3, 4, dtype=torch.float64)
    losses = []
    for i in range(3):
        rivals = [float(s) for n in range(3) if n != i for s in scores[i, 0, n]]
        rivals_two = [float(s) for n in range(3) if n != i for s in scores[i, 1, n]]
        for source, others in ((0, rivals), (1, rivals_two)):
            for place in range(4):
                here = float(scores[i, source, i, place])
                losses.append(math.log(math.exp(here) + sum(map(math.exp, others))) - here)
    assert float(told_apart(scores)) == pytest.approx(sum(losses) / len(losses))


def test_equal_scores_cost_the_logarithm_of_the_number_of_rivals_and_one():
    assert float(told_apart(torch.zeros(4, 1, 4, 9))) == pytest.approx(math.log(3 * 9 + 1))


def test_the_loss_is_the_sum_of_three_pairs_both_ways_and_the_penalty(tiny, views):
    learner = AMDIM(out=8, samples=3).build(tiny)
    torch.manual_seed(5)
    step = learner(views)
    one, two = (learner.features(view) for view in views)
    assert [tuple(part.shape[1:]) for part in one] == [(1, 8), (25, 8), (9, 8)]
    torch.manual_seed(5)
    total, squares = 0.0, 0.0
    for (vector, _, coarse), (_, fine_goal, coarse_goal) in ((one, two), (two, one)):
        asking = learner.sampled(coarse)
        for source, goal in ((vector, coarse_goal), (vector, fine_goal), (asking, coarse_goal)):
            s = scored(source, goal)
            total += told_apart(20 * torch.tanh(s / 20)) / 2
            squares += s.square().mean() / 2
    assert_close(step.loss, total + 0.05 * squares)
    assert_close(step.logs["penalty"], 0.05 * squares)


def test_the_loss_does_not_change_when_the_views_are_swapped(learner, views):
    learner.sampled = lambda coarse: coarse[:, :1]
    assert_close(learner(views).loss, learner(views[::-1]).loss)


def test_the_order_of_the_items_does_not_count(learner, views):
    learner.sampled = lambda coarse: coarse[:, :1]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert_close(learner(views).loss, learner([view[order] for view in views]).loss)


def test_sampled_places_are_places_of_the_own_item_and_all_are_met(learner):
    coarse = torch.arange(6.0).view(6, 1, 1) * 100 + torch.arange(9.0).view(1, 9, 1)
    torch.manual_seed(0)
    met = torch.cat([learner.sampled(coarse) for _ in range(60)], dim=1)
    assert torch.equal(met // 100, torch.arange(6.0).view(6, 1, 1).expand_as(met))
    assert set((met % 100).flatten().tolist()) == set(range(9))


def test_an_encoder_with_one_map_gives_it_for_both(views):
    torch.manual_seed(0)
    vector, fine, coarse = AMDIM(out=8).build(TinyTokens()).features(views[0])
    assert (vector.shape, fine.shape, coarse.shape) == ((12, 1, 8), (12, 9, 8), (12, 9, 8))


def test_maps_of_a_sequence_are_flattened_as_those_of_a_picture():
    class Series(Encoder):
        dim, has_maps, map_widths = 6, True, (4, 6)

        def __init__(self):
            super().__init__()
            self.fine, self.coarse = nn.Conv1d(1, 4, 3, stride=2), nn.Conv1d(4, 6, 3, stride=2)

        def forward(self, view):
            return self.maps(view)[-1].mean(2)

        def maps(self, view):
            fine = self.fine(view)
            return [fine, self.coarse(fine)]

    torch.manual_seed(0)
    learner = AMDIM(out=8).build(Series())
    step = learner([torch.randn(5, 1, 21), torch.randn(5, 1, 21)])
    step.loss.backward()
    assert step.loss.isfinite() and all(p.grad is not None for p in learner.parameters())


def test_scores_a_hundred_times_as_large_stay_finite_in_half_precision(learner, views):
    with torch.no_grad():
        for head in (learner.of_vector, learner.of_fine, learner.of_coarse):
            head.straight.weight.mul_(100)
    with torch.autocast("cpu", torch.bfloat16):
        loss = learner(views).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in learner.parameters())


def test_the_width_is_fitted_to_the_encoder_unless_given():
    assert [AMDIM().fitted(Budget(items=99, batch=9, steps=9, dim=dim)).out for dim in (64, 512, 2048)] == [
        256, 512, 1536,
    ]  # fmt: skip
    assert AMDIM(out=77).fitted(Budget(items=99, batch=9, steps=9, dim=64)).out == 77


def test_views_and_batches_that_cannot_work_are_refused(learner, views):
    for wrong in (views[:1], [views[0], views[1][:3]]):
        with pytest.raises(UserError, match="2 full views"):
            learner(wrong)
    assert "rivals" in AMDIM().misfits(Budget(items=9, batch=1, steps=9, dim=8))[0]
    assert isinstance(learner.encoder, Tiny)
