"""What is true of I-JEPA alone."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.data2vec import Data2Vec
from selfsame.methods.ijepa import IJEPA, Predictor
from selfsame.nn.masks import multi_block
from selfsame.records import Budget
from tests.conftest import TinyTokens

SMALL = {"hidden": 16, "depth": 1}


@pytest.fixture
def learner():
    torch.manual_seed(0)
    return IJEPA(**SMALL, momentum=0.9).build(TinyTokens())


@pytest.fixture
def view():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_loss_is_the_smooth_distance_of_guesses_to_the_targets_own_tokens(learner, view):
    torch.manual_seed(5)
    found = learner([view]).loss
    torch.manual_seed(5)
    seen, asked = multi_block(6, (4, 4), view.device)
    goals = F.layer_norm(learner.target.net.tokens(view), (8,))
    guesses = learner.predictor(learner.encoder.tokens(view, keep=seen), seen, asked, (4, 4))
    rows = torch.arange(6)[:, None]
    r = torch.cat([(guesses[k] - goals[rows, asked[k]]).flatten() for k in range(4)]).abs()
    assert_close(found, torch.where(r < 1, r.square() / 2, r - 0.5).mean())


def test_goals_have_mean_zero_and_variance_one_in_each_token_and_no_gradient(learner, view):
    goals = learner.goals(view)
    assert not goals.requires_grad
    assert_close(goals.mean(-1), torch.zeros(6, 16), rtol=0, atol=1e-5)
    assert_close(goals.var(-1, unbiased=False), torch.ones(6, 16), rtol=0, atol=1e-3)


def test_the_context_encoder_never_sees_what_is_to_be_predicted(learner, view):
    """Pixels of the target blocks change the goals and nothing else."""
    torch.manual_seed(5)
    seen, _ = multi_block(6, (4, 4), view.device)
    hidden = torch.ones(6, 16, dtype=torch.bool).scatter(1, seen, False)
    pixels = hidden.view(6, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    other = torch.where(pixels, 1 - view, view)
    assert_close(learner.encoder.tokens(other, keep=seen), learner.encoder.tokens(view, keep=seen))
    assert not torch.allclose(learner.goals(other), learner.goals(view))


def test_guesses_of_a_block_do_not_depend_on_the_other_blocks_and_know_their_places():
    torch.manual_seed(0)
    predictor = Predictor(8, 16, 2)
    context, seen = torch.randn(2, 5, 8), torch.arange(5).expand(2, -1)
    asked = torch.tensor([[[6, 7], [8, 9]], [[10, 11], [12, 13]]])
    both = predictor(context, seen, asked, (4, 4))
    assert_close(predictor(context, seen, asked[1:], (4, 4))[0], both[1])
    assert_close(predictor(context, seen, asked.flip(2), (4, 4)), both.flip(2))
    assert (both[:, :, 0] - both[:, :, 1]).abs().max() > 1e-3
    order = torch.tensor([3, 1, 4, 0, 2])
    assert_close(predictor(context[:, order], seen[:, order], asked, (4, 4)), both, rtol=1e-4, atol=1e-5)


def test_the_target_follows_the_encoder_with_a_momentum_that_rises_in_a_straight_line(learner):
    moved = []
    for progress in (0.0, 0.25, 1.0):
        with torch.no_grad():
            for p in learner.target.parameters():
                p.zero_()
        learner.after_step(progress)
        slow, fast = next(learner.target.parameters()), next(learner.encoder.parameters())
        moved.append(float((slow / fast).mean().detach()))
    assert moved == pytest.approx([0.1, 0.075, 0.0], abs=1e-6)


@pytest.mark.parametrize("method", [IJEPA(**SMALL), Data2Vec()])
def test_the_encoders_vector_becomes_the_mean_of_its_tokens(method):
    class Asked(TinyTokens):
        asked = 0

        def average_tokens(self):
            self.asked += 1

    learner = method.build(Asked())
    assert learner.encoder.asked == learner.target.net.asked == 1


def test_heads_and_momentum_are_fitted_to_encoder_and_length_unless_given():
    short = IJEPA().fitted(Budget(items=2000, batch=64, steps=300, dim=192))
    assert (short.hidden, short.depth, short.momentum) == (192, 3, 0.8)
    long = IJEPA().fitted(Budget(items=10**6, batch=2048, steps=187_500, dim=1280))
    assert (long.hidden, long.depth, long.momentum) == (384, 12, 0.996)
    assert IJEPA(momentum=0.5, depth=2).fitted(Budget(items=9, batch=3, steps=9, dim=8)).depth == 2


@pytest.mark.parametrize(("momentum", "word"), [(1.0, "never moves"), (0.0, "constant")])
def test_momenta_that_end_badly_are_warned_about(momentum, word):
    assert any(word in text for text in IJEPA(momentum=momentum).cautions())


def test_views_and_grids_that_cannot_work_are_refused(learner, view):
    with pytest.raises(UserError, match="1 full view "):
        learner([view, view])
    with pytest.raises(UserError, match=r"1 x 1 tokens is too small.*smaller patches"):
        learner([view[..., :4, :4]])
    with pytest.raises(UserError, match="from 0 to 1"):
        learner.after_step(1.5)
