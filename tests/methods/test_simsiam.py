"""What is true of SimSiam alone. Golden values of fact sheet A2."""

import copy

import pytest
import torch
from torch import nn, tensor
from torch.testing import assert_close

from selfsame.engine.optim import make_optimizer, set_rates
from selfsame.errors import UserError
from selfsame.methods.simsiam import SimSiam, distance
from selfsame.records import Budget
from tests.methods.room import loss_alone

SMALL = {"hidden": 16, "out": 8, "bottleneck": 4}


def test_the_distance_is_the_negative_cosine():
    assert float(distance(tensor([[1.0, 2, 2]]), tensor([[2.0, 1, 2]]))) == pytest.approx(-0.888889, abs=1e-6)


def test_only_directions_count_also_in_half_precision():
    p, z = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    assert_close(distance(3 * p, 0.2 * z), distance(p, z))
    assert_close(distance((100 * p).half(), (100 * z).half()), distance(p, z), rtol=1e-3, atol=1e-4)


def test_the_loss_is_half_of_each_direction_and_the_same_when_views_are_swapped():
    learner = loss_alone(SimSiam(bottleneck=3), 3).eval()
    one, two = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        halves = (distance(learner.predictor(one), two) + distance(learner.predictor(two), one)) / 2
        assert_close(learner([one, two]).loss, halves)
        assert_close(learner([two, one]).loss, halves)


@pytest.mark.parametrize("stop", [True, False])
def test_what_is_predicted_gets_a_gradient_only_without_the_stop(tiny, views, stop):
    class Deaf(nn.Module):
        def forward(self, z):
            return torch.ones_like(z).requires_grad_()

    learner = SimSiam(**SMALL, stop_gradient=stop).build(tiny)
    learner.predictor = Deaf()  # what predicts hands no gradient down
    learner(views).loss.backward()
    assert all((p.grad is None) == stop for p in learner.encoder.parameters())


def distance_after(views, tiny, **settings):
    """The loss where every step has other partners, that have nothing in common."""
    torch.manual_seed(0)
    learner = SimSiam(hidden=16, out=16, bottleneck=8, **settings).build(tiny).train()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        step = learner([views[0], views[1][torch.randperm(12)]])
        step.loss.backward()
        optimizer.step()
    return float(step.loss.detach())


def test_without_the_stop_the_loss_says_all_is_well_where_there_is_nothing_to_find(tiny, views):
    assert distance_after(views, copy.deepcopy(tiny), stop_gradient=False) < -0.6
    assert distance_after(views, tiny) > -0.3


def test_the_predictor_alone_keeps_its_learning_rate(tiny):
    learner = SimSiam(**SMALL).build(tiny)
    optimizer = make_optimizer("sgd", learner, 0.1, 1e-4)
    set_rates(optimizer, 0.01, 0.1, 1e-4)
    at_peak = {id(p) for group in optimizer.param_groups if group["lr"] == 0.1 for p in group["params"]}
    assert at_peak == {id(p) for p in learner.predictor.parameters()}


def test_heads_are_those_of_the_paper(tiny):
    learner = SimSiam().build(tiny)
    shapes = [tuple(part.weight.shape) for part in learner.projector if isinstance(part, nn.Linear)]
    assert shapes == [(2048, 8), (2048, 2048), (2048, 2048)]
    assert all(part.bias is None for part in learner.projector if isinstance(part, nn.Linear))
    assert isinstance(learner.projector[-1], nn.BatchNorm1d) and not learner.projector[-1].affine
    first, norm, _, last = learner.predictor
    assert (first.weight.shape, last.weight.shape) == ((512, 2048), (2048, 512))
    assert first.bias is None and norm.affine and last.bias is not None
    two = SimSiam(layers=2, **SMALL).build(tiny)
    assert [tuple(part.weight.shape) for part in two.projector if isinstance(part, nn.Linear)] == [(16, 8), (8, 16)]


def test_a_whitened_projection_has_no_correlated_columns(tiny, views):
    learner = SimSiam(**SMALL, output_norm="whiten").build(tiny).train()
    z = learner.projector(torch.randn(500, 8, generator=torch.Generator().manual_seed(0)))
    assert_close(z.T @ z / 500, torch.eye(8), rtol=0, atol=0.1)


def test_the_head_of_a_small_encoder_is_narrower_unless_given():
    small, large = (Budget(items=500, batch=32, steps=100_000, dim=dim) for dim in (64, 2048))
    assert [SimSiam().fitted(small).bottleneck, SimSiam().fitted(large).bottleneck] == [128, 512]
    assert SimSiam().fitted(large) == SimSiam(hidden=2048, out=2048, bottleneck=512, output_norm="plain")
    assert SimSiam(out=100).fitted(small).bottleneck == 25
    assert SimSiam(out=100, bottleneck=7).fitted(small).bottleneck == 7


def test_projections_are_whitened_in_short_runs_unless_given():
    budget = Budget(items=500, batch=64, steps=600, dim=64)
    assert SimSiam().fitted(budget).output_norm == "whiten"
    assert SimSiam(output_norm="plain").fitted(budget).output_norm == "plain"


@pytest.mark.parametrize("name", ["stop_gradient", "predictor"])
def test_what_collapses_is_warned_about(name):
    (text,) = SimSiam(**{name: False}).cautions()
    assert name.split("_")[0] in text and "collapse" in text


def test_a_single_view_is_refused(tiny, views):
    with pytest.raises(UserError, match="SimSiam needs a list of 2 full views"):
        SimSiam(**SMALL).build(tiny)(views[:1])
