"""What is true of VICReg alone. Golden values of fact sheet A4."""

import pytest
import torch
from torch import nn, tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.vicreg import VICReg, covariance, variance
from selfsame.records import Budget
from tests.methods.room import loss_alone

ONE = tensor([[1.0, 2], [2, 0], [3, 1], [0, 1]], dtype=torch.float64)
TWO = tensor([[1.0, 1], [2, 1], [4, 0], [1, 2]], dtype=torch.float64)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_terms_are_golden():
    assert [float(variance(z)) for z in (ONE, TWO)] == pytest.approx([0.091721] * 2, abs=1e-6)
    assert float(variance(0.3 * ONE)) == pytest.approx(0.683710, abs=1e-6)
    assert [float(covariance(z)) for z in (ONE, TWO)] == pytest.approx([0.111111, 1.0], abs=1e-6)


@pytest.mark.parametrize("pair", [[ONE, TWO], [TWO, ONE]])
def test_the_loss_is_golden_and_the_same_for_swapped_views(pair):
    step = loss_alone(VICReg(), 2)(pair)
    assert float(step.loss) == pytest.approx(22.154138, abs=1e-6)
    assert float(step.logs["invariance"]) == pytest.approx(0.75)


def test_each_weight_belongs_to_its_term():
    terms = {"invariance": 0.75, "variance": 0.091721, "covariance": 1.111111}
    for name, value in terms.items():
        weights = {other: 2.0 * (other == name) for other in terms}
        assert float(loss_alone(VICReg(**weights), 2)([ONE, TWO]).loss) == pytest.approx(2 * value, abs=1e-5)


def test_constant_vectors_cost_a_hair_less_than_one():
    assert float(variance(torch.full((6, 3), 4.0))) == pytest.approx(0.99)
    assert float(covariance(torch.full((6, 3), 4.0))) == 0


def test_wide_features_cost_nothing_and_narrow_ones_are_pushed_apart():
    z = tensor([[-3.0, -0.1], [3, 0.1]]).requires_grad_()
    variance(z[:, :1]).backward()
    assert variance(z[:, :1]) == 0 and not z.grad.any()
    variance(z).backward()
    assert z.grad[0, 1] > 0 > z.grad[1, 1] and not z.grad[:, 0].any()


def test_neither_the_order_of_items_nor_their_place_matters_but_their_length_does():
    one, two = drawn(2, 8, 5)
    turn = [3, 1, 7, 0, 2, 6, 5, 4]
    learner = loss_alone(VICReg(), 5)
    assert_close(learner([one[turn], two[turn]]).loss, learner([one, two]).loss)
    assert_close(learner([one + 3, two + 3]).loss, learner([one, two]).loss)
    assert_close(covariance(2 * one), 16 * covariance(one))


def test_half_precision_outside_does_not_change_the_loss():
    one, two = 100 * drawn(2, 16, 64)
    learner = loss_alone(VICReg(), 64)
    exact = learner([one, two]).loss
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(learner([one, two]).loss, exact)
    assert_close(learner([one.half(), two.half()]).loss, exact, rtol=1e-2, atol=0)


def test_the_projector_ends_in_a_plain_linear_layer(tiny):
    learner = VICReg(hidden=16, out=12).build(tiny)
    linear = [part for part in learner.projector if isinstance(part, nn.Linear)]
    assert [tuple(part.weight.shape) for part in linear] == [(16, 8), (16, 16), (12, 16)]
    assert [part.bias is None for part in linear] == [False, False, True] and learner.projector[-1] is linear[-1]
    m = VICReg()
    assert (m.hidden, m.out, m.invariance, m.variance, m.covariance) == (8192, 8192, 25, 25, 1)


def test_it_is_four_times_as_wide_as_the_encoder_unless_given():
    budgets = [Budget(items=500, batch=32, steps=1000, dim=dim) for dim in (16, 512, 2048, 4096)]
    assert [VICReg().fitted(budget).out for budget in budgets] == [512, 2048, 8192, 8192]
    assert VICReg(out=64).fitted(budgets[1]) == VICReg(out=64, hidden=2048)


def test_too_few_rows_for_a_covariance_are_refused():
    budget = Budget(items=500, batch=32, steps=1000, dim=64, micro=16)
    (text,) = VICReg().misfits(budget)
    assert "2 rows" in text and "--accumulate" in text
    assert VICReg().misfits(budget.changed(micro=8)) == []


def test_what_ends_badly_is_warned_about_and_a_single_view_refused(tiny, views):
    assert "full collapse" in VICReg(variance=0).cautions()[0]
    assert "nothing is learnt" in VICReg(invariance=0).cautions()[0]
    with pytest.raises(UserError, match="VICReg needs a list of 2 full views"):
        VICReg(hidden=16, out=8).build(tiny)(views[:1])
