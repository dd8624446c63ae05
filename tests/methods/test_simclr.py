"""What is true of SimCLR alone; NT-Xent and its golden values are in tests/nn/test_contrast.py."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.simclr import SimCLR
from selfsame.nn.contrast import nt_xent
from selfsame.records import Budget


def learner_of(tiny, **settings):
    torch.manual_seed(0)
    return SimCLR(**{"hidden": 16, "out": 8, **settings}).build(tiny)


def test_the_loss_is_nt_xent_of_both_views_passed_together(tiny, views):
    learner = learner_of(tiny, temperature=0.5)
    with torch.no_grad():
        loss = learner(views).loss
        both = learner.projector(learner.encoder(torch.cat(views)))
        assert_close(loss, nt_xent(*both.chunk(2), 0.5))
        apart = [learner.projector(learner.encoder(view)) for view in views]
        assert abs(float(loss - nt_xent(*apart, 0.5))) > 1e-6  # batch norms see other statistics


def test_swapping_the_views_or_turning_the_batch_changes_nothing(tiny, views):
    learner = learner_of(tiny)
    turn = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = learner(views).loss
        assert_close(learner(views[::-1]).loss, loss)
        assert_close(learner([view[turn] for view in views]).loss, loss)


def test_vectors_all_alike_cost_the_log_of_the_others(tiny, views):
    learner = learner_of(tiny)
    learner.projector = nn.Sequential(nn.Linear(8, 4))
    nn.init.zeros_(learner.projector[0].weight)
    step = learner(views)
    assert float(step.loss.detach()) == pytest.approx(math.log(2 * 12 - 1), abs=1e-5)
    assert float(step.logs["spread"]) < 1e-3


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_head_has_as_many_layers_as_asked_and_ends_in_a_norm(tiny, layers):
    head = learner_of(tiny, layers=layers).projector
    assert sum(isinstance(part, nn.Linear) for part in head) == layers
    assert isinstance(head[-1], nn.BatchNorm1d) and head[-1].num_features == 8
    assert sum(isinstance(part, nn.BatchNorm1d) for part in head) == layers


def test_without_a_head_the_vectors_themselves_are_compared(tiny, views):
    learner = SimCLR(layers=0, temperature=0.5).build(tiny)
    assert {name.split(".")[0] for name, _ in learner.named_parameters()} == {"encoder"}
    both = learner.encoder(torch.cat(views))
    assert_close(learner(views).loss, nt_xent(*both.chunk(2), 0.5))


def test_the_papers_settings_and_what_is_fitted_of_them():
    assert (SimCLR().hidden, SimCLR().out, SimCLR().temperature, SimCLR().layers) == (2048, 128, 0.1, 2)
    widths = {dim: SimCLR().fitted(Budget(items=9000, batch=64, steps=600, dim=dim)).hidden for dim in (64, 512, 4096)}
    assert widths == {64: 512, 512: 1024, 4096: 2048}


def test_wrong_views_are_refused(tiny, views):
    learner = learner_of(tiny)
    for wrong in (views[:1], [views[0], views[1][:3]], [*views, views[0]]):
        with pytest.raises(UserError, match="2 full views"):
            learner(wrong)
