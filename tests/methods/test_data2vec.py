"""What is true of data2vec alone. Golden values: the smooth distance and the momentum's rise, computed in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.data2vec import Data2Vec, distance
from selfsame.nn.masks import blockwise
from selfsame.records import Budget
from selfsame.types import Hidden
from tests.conftest import TinyTokens


@pytest.fixture
def learner():
    torch.manual_seed(0)
    return Data2Vec(momentum=0.9, end=0.99, top=2).build(TinyTokens())


@pytest.fixture
def view():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("beta", "expected"), [(1.0, 0.875), (2.0, 0.6875), (0.0, 9.25 / 3)])
def test_distances_have_their_golden_values(beta, expected):
    assert_close(distance(tensor([0.0, 0.5, 3.0]), torch.zeros(3), beta), tensor(expected))


def test_the_momentum_rises_in_a_straight_line_and_then_stays():
    method = Data2Vec(momentum=0.999, end=0.9999, rise=0.25)
    found = [method.momentum_at(progress) for progress in (0.0, 0.125, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0.999, 0.99945, 0.9999, 0.9999, 0.9999], abs=1e-12)
    with pytest.raises(UserError, match="from 0 to 1"):
        method.momentum_at(1.5)


def test_goals_are_the_mean_of_the_last_layers_each_token_normalised(learner, view):
    one, two = learner.target.net.last_layers(view, 2)
    goals = learner.goals(view)
    assert_close(goals, (F.layer_norm(one, (8,)) + F.layer_norm(two, (8,))) / 2)
    assert not goals.requires_grad
    last = Data2Vec(top=1).build(TinyTokens())
    assert_close(last.goals(view), F.layer_norm(last.target.net.tokens(view), (8,)))


def test_of_an_encoder_with_fewer_layers_all_are_averaged_unless_their_number_is_given(learner, view):
    found = Data2Vec().build(TinyTokens())
    found.load_state_dict(learner.state_dict())
    assert_close(found.goals(view), learner.goals(view))
    with pytest.raises(UserError, match="6 of the last blocks were asked for"):
        Data2Vec(top=6).build(TinyTokens())([view])


def test_the_loss_is_on_hidden_tokens_alone(learner, view):
    torch.manual_seed(5)
    found = learner([view]).loss
    torch.manual_seed(5)
    places = blockwise(6, (4, 4), 0.6, 0.08, 0.3, view.device)
    where = torch.zeros(6, 16, dtype=torch.bool).scatter(1, places, True)
    assert int(where.sum()) == 6 * 10
    made = learner.head(learner.encoder.tokens(view, hide=Hidden(where, learner.stand_in)))
    assert_close(found, F.smooth_l1_loss(made[where], learner.goals(view)[where], beta=2.0))


def test_the_student_does_not_see_hidden_pixels_and_the_slow_copy_sees_all(learner, view):
    where = torch.zeros(6, 16, dtype=torch.bool)
    where[:, :4] = True  # the upper row of patches
    other = view.clone()
    other[:, :, :4] = 0
    hide = Hidden(where, learner.stand_in)
    assert_close(learner.encoder.tokens(other, hide=hide), learner.encoder.tokens(view, hide=hide))
    assert not torch.allclose(learner.goals(other), learner.goals(view))


def test_the_slow_copy_has_no_gradient_and_moves_after_the_step(learner, view):
    learner([view]).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in learner.target.parameters())
    assert learner.stand_in.grad.abs().max() > 0
    with torch.no_grad():
        for p in learner.encoder.parameters():
            p.add_(1)
    before = [p.clone() for p in learner.target.parameters()]
    learner.after_step(0.0)
    for was, now, fast in zip(before, learner.target.parameters(), learner.encoder.parameters(), strict=True):
        assert_close(now, 0.9 * was + 0.1 * fast)


@pytest.mark.parametrize("masking", ["blocks", "single"])
def test_both_ways_of_masking_train_a_step(masking, view):
    learner = Data2Vec(masking=masking, top=1, share=0.15, block=0.9).build(TinyTokens())
    step = learner([view])
    step.loss.backward()
    assert step.loss.isfinite() and learner.head.weight.grad.abs().max() > 0


def test_momenta_are_fitted_to_the_length_unless_given():
    short, long = (Budget(items=2000, batch=64, steps=steps, dim=192) for steps in (600, 400_000))
    found = Data2Vec().fitted(short)
    assert (found.momentum, found.end) == (0.895833, 0.989583)
    assert (Data2Vec().fitted(long).momentum, Data2Vec().fitted(long).end) == (0.999, 0.9999)
    assert Data2Vec(momentum=0.5).fitted(long).end == 0.95
    assert Data2Vec(end=1.0).fitted(short).end == 1.0


@pytest.mark.parametrize(("momentum", "word"), [(1.0, "never moves"), (0.0, "constant")])
def test_momenta_that_end_badly_are_warned_about(momentum, word):
    assert any(word in text for text in Data2Vec(momentum=momentum).cautions())


def test_views_and_grids_that_cannot_work_are_refused(learner, view):
    with pytest.raises(UserError, match="1 full view "):
        learner([view, view])
    with pytest.raises(UserError, match="too small to hide"):
        learner([view[..., :4, :4]])
