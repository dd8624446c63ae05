"""What is true of Barlow Twins alone. Golden values of fact sheet A3."""

import pytest
import torch
from torch import nn, tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.barlowtwins import BarlowTwins, correlation, distances, standardised
from selfsame.records import Budget
from tests.methods.room import loss_alone

ONE = tensor([[1.0, 2], [2, 0], [3, 1], [0, 1]], dtype=torch.float64)
TWO = tensor([[1.0, 1], [2, 1], [4, 0], [1, 2]], dtype=torch.float64)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_correlation_and_its_distances_are_golden():
    c = correlation(ONE, TWO)
    assert_close(c, tensor([[0.912864, -0.948670], [-0.288671, 0]], dtype=torch.float64), rtol=0, atol=1e-6)
    assert [float(part) for part in distances(c)] == pytest.approx([1.007593, 0.983306], abs=1e-6)


def test_the_loss_is_golden_the_same_for_swapped_views_and_in_proportion_to_its_scale():
    assert float(loss_alone(BarlowTwins(), 2)([ONE, TWO]).loss) == pytest.approx(1.012608, abs=1e-6)
    assert float(loss_alone(BarlowTwins(), 2)([TWO, ONE]).loss) == pytest.approx(1.012608, abs=1e-6)
    assert float(loss_alone(BarlowTwins(scale=0.1), 2)([ONE, TWO]).loss) == pytest.approx(0.1012608, abs=1e-7)


def test_features_correlate_fully_with_themselves():
    z = standardised(drawn(9, 4).double(), epsilon=0)
    assert_close((z.T @ z / 9).diagonal(), torch.ones(4, dtype=torch.float64))


def test_the_distance_is_nothing_where_features_agree_and_differ_from_each_other_and_nowhere_else():
    apart = tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert sum(distances(correlation(apart, apart))) == pytest.approx(0, abs=1e-8)
    alike = apart[:, [0, 0, 1]]
    assert [float(part) for part in distances(correlation(alike, alike))] == pytest.approx([0, 2], abs=1e-4)
    assert [float(part) for part in distances(correlation(apart, -apart))] == pytest.approx([12, 0], abs=1e-3)


def test_neither_the_order_of_items_nor_place_and_length_of_features_matter():
    one, two = drawn(2, 8, 5)
    turn = [3, 1, 7, 0, 2, 6, 5, 4]
    assert_close(correlation(one[turn], two[turn]), correlation(one, two))
    assert_close(correlation(7 * one + 3, two), correlation(one, two), rtol=1e-4, atol=1e-5)


def test_both_sides_get_a_gradient():
    one, two = (x.clone().requires_grad_() for x in drawn(2, 8, 5))
    sum(distances(correlation(one, two))).backward()
    assert all(x.grad.abs().min() > 0 for x in (one, two))


def test_half_precision_outside_does_not_change_the_matrix():
    one, two = 100 * drawn(2, 16, 64)
    exact = correlation(one, two)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(correlation(one, two), exact)
    c = correlation(one.half(), two.half())
    assert c.dtype == torch.float32
    assert_close(c, exact, rtol=0, atol=2e-3)
    assert torch.stack(distances(correlation(one.half(), one.half().fill_(60_000)))).isfinite().all()


def test_the_projector_is_that_of_the_paper(tiny):
    learner = BarlowTwins(hidden=16, out=12).build(tiny)
    linear = [part for part in learner.projector if isinstance(part, nn.Linear)]
    assert [tuple(part.weight.shape) for part in linear] == [(16, 8), (16, 16), (12, 16)]
    assert all(part.bias is None for part in linear) and learner.projector[-1] is linear[-1]
    assert (BarlowTwins().hidden, BarlowTwins().out, BarlowTwins().redundancy) == (8192, 8192, 0.0051)


def test_it_is_four_times_as_wide_as_the_encoder_unless_given():
    budgets = [Budget(items=500, batch=32, steps=1000, dim=dim) for dim in (16, 512, 2048, 4096)]
    assert [BarlowTwins().fitted(budget).out for budget in budgets] == [512, 2048, 8192, 8192]
    assert BarlowTwins(out=64).fitted(budgets[1]) == BarlowTwins(out=64, hidden=2048)


def test_too_few_rows_for_a_correlation_are_refused():
    budget = Budget(items=500, batch=32, steps=1000, dim=64, micro=16)
    (text,) = BarlowTwins().misfits(budget)
    assert "2 rows" in text and "--accumulate" in text
    assert BarlowTwins().misfits(budget.changed(micro=8)) == []


def test_what_collapses_is_warned_about_and_a_single_view_refused(tiny, views):
    assert "dimensional collapse" in BarlowTwins(redundancy=0).cautions()[0]
    with pytest.raises(UserError, match="Barlow Twins needs a list of 2 full views"):
        BarlowTwins(hidden=16, out=8).build(tiny)(views[:1])
