"""What is true of SwAV alone. Golden values: fact sheet C1."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.swav import SwAV
from selfsame.nn.prototypes import across_views
from selfsame.nn.queue import Queue
from selfsame.nn.sinkhorn import sinkhorn
from selfsame.records import Budget
from tests.methods.room import views_for

ONE = tensor([[0.9, 0.1, 0], [0.8, 0.3, 0.1], [0.7, 0.2, 0.4], [0.85, 0.15, 0.05]])
TWO = tensor([[0.1, 0.9, 0], [0.7, 0.2, 0.2], [0.3, 0.2, 0.6], [0.8, 0.1, 0.1]])
SMALL = {"hidden": 16, "out": 8, "prototypes": 6, "part_views": 0}


def built(encoder, **settings):
    torch.manual_seed(0)
    return SwAV(**{**SMALL, **settings}).build(encoder)


def test_the_swapped_prediction_is_golden():
    targets = [sinkhorn(ONE), sinkhorn(TWO)]
    assert_close(F.cross_entropy(TWO / 0.1, targets[0]), tensor(3.690104))
    assert_close(F.cross_entropy(ONE / 0.1, targets[1]), tensor(2.785744))
    assert_close(across_views(targets, [ONE, TWO], 0.1), tensor(3.237924))


def test_the_learner_computes_just_that(tiny, views):
    learner = built(tiny)
    z = F.normalize(learner.projector(torch.cat([learner.encoder(torch.cat(views))])), dim=1)
    scores = (z @ learner.prototypes.T).chunk(2)
    expected = across_views([sinkhorn(s.detach()) for s in scores], scores, 0.1)
    assert_close(learner(views).loss, expected)


def test_the_queue_holds_the_last_vectors():
    """Length 6, batches of 2. Their order does not matter to Sinkhorn."""
    queue = Queue(6, 1)
    queue.rows.zero_()
    golden = [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2], [1, 1, 2, 2, 3, 3], [2, 2, 3, 3, 4, 4]]
    for k, expected in enumerate(golden, 1):
        queue.push(torch.full((2, 1), float(k)))
        assert queue.rows.flatten().sort().values.tolist() == expected


def test_the_queue_counts_once_it_is_full_and_the_run_has_come_to_it(tiny, views):
    learner = built(tiny, queue=24, queue_from=0.5)
    scores = torch.rand(12, 6, generator=torch.Generator().manual_seed(2))

    def together():
        queued = torch.cat([learner.queues[0].rows @ learner.prototypes.detach().T, scores])
        return sinkhorn(queued)[-12:]

    seen = []
    for progress in (0.6, 0.4, 0.5):
        learner(views)
        learner.after_step(progress)
        found = learner.assigned(scores, 0)
        seen.append("both" if torch.allclose(found, together()) else "batch")
        if seen[-1] == "batch":
            assert_close(found, sinkhorn(scores))
    assert seen == ["batch", "batch", "both"]  # not full, full but too early, full and in time


def test_each_view_has_a_queue_of_its_own(tiny, views):
    learner = built(tiny, queue=12)
    learner(views)
    one, two = (queue.rows for queue in learner.queues)
    assert_close(one.norm(dim=1), torch.ones(12))
    assert not torch.allclose(one, two)


def test_no_gradient_goes_through_the_assignments(tiny):
    scores = torch.rand(4, 6, requires_grad=True)
    assert not built(tiny).assigned(scores, 0).requires_grad


def test_prototypes_are_unit_vectors_at_every_step(tiny, views):
    learner = built(tiny)
    optimizer = torch.optim.SGD(learner.parameters(), lr=5.0)
    for step in range(3):
        assert_close(learner.prototypes.norm(dim=1), torch.ones(6))
        optimizer.zero_grad()
        learner(views).loss.backward()
        optimizer.step()
        assert not torch.allclose(learner.prototypes.norm(dim=1), torch.ones(6))
        learner.after_step(step / 3)


def test_prototypes_stand_still_at_first(tiny, views):
    learner = built(tiny, freeze=0.1)
    learner(views).loss.backward()
    learner.before_update(0.1)
    assert learner.prototypes.grad is not None
    learner.before_update(0.05)
    assert learner.prototypes.grad is None
    assert next(learner.encoder.parameters()).grad is not None


def test_alike_prototypes_give_the_logarithm_of_their_number(tiny, views):
    learner = built(tiny)
    with torch.no_grad():
        learner.prototypes.copy_(learner.prototypes[:1].expand(6, -1))
        step = learner(views)
    assert_close(step.loss, tensor(math.log(6)))
    assert_close(step.logs["prototypes_in_use"], tensor(6.0))


def test_the_loss_does_not_change_when_the_full_views_are_swapped(tiny):
    learner = built(tiny, part_views=2)
    views = views_for(learner.method.plan)
    with torch.no_grad():
        assert_close(learner(views).loss, learner([views[1], views[0], *views[2:]]).loss)


def test_part_views_predict_and_are_never_assigned(tiny, monkeypatch):
    learner = built(tiny, part_views=2)
    assert (learner.method.plan.full, learner.method.plan.part) == (2, 2)
    assigned = []
    own = learner.assigned
    monkeypatch.setattr(learner, "assigned", lambda scores, view: assigned.append(view) or own(scores, view))
    views = views_for(learner.method.plan)
    first = learner(views).loss
    assert assigned == [0, 1]
    assert not torch.isclose(first, learner([*views[:3], 1 - views[3]]).loss)


def test_wrong_views_are_refused(tiny, views):
    for wrong in (views[:1], [*views, views[0]], [views[0], views[1][:3]]):
        with pytest.raises(UserError, match="2 full views"):
            built(tiny)(wrong)


def test_the_papers_settings_and_what_small_data_makes_of_them():
    assert SwAV().cautions() == []
    assert (SwAV().prototypes, SwAV().temperature, SwAV().epsilon, SwAV().part_views) == (3000, 0.1, 0.05, 6)
    small = SwAV().fitted(Budget(items=10_000, batch=64, steps=600, dim=256))
    assert (small.prototypes, small.part_views, small.hidden) == (500, 0, 512)
    assert (small.queue, small.epsilon, small.output_norm) == (0, 0.02, "whiten")
    longer = SwAV().fitted(Budget(items=10_000, batch=64, steps=30_000, dim=256))
    assert 64 < longer.queue <= 5000 and (longer.epsilon, longer.output_norm) == (0.05, "none")
    large = SwAV().fitted(Budget(items=1_281_167, batch=4096, steps=250_000, dim=2048))
    assert (large.prototypes, large.part_views, large.hidden, large.queue) == (3000, 6, 2048, 0)
    assert SwAV(queue=7, prototypes=40).fitted(Budget(items=500, batch=8, steps=60, dim=8)).queue == 7


@pytest.mark.parametrize("items", [4, 12, 30, 500])
def test_fitted_settings_always_fit(items):
    budget = Budget(items=items, batch=4, steps=100, dim=8)
    assert SwAV().fitted(budget).misfits(budget) == []


@pytest.mark.parametrize(
    ("settings", "word"), [({"prototypes": 200}, "--method.prototypes"), ({"queue": 200}, "--method.queue")]
)
def test_what_does_not_fit_is_refused_with_the_cure(settings, word):
    budget = Budget(items=100, batch=10, steps=100, dim=8)
    wrong = SwAV(**settings).fitted(budget).misfits(budget)
    assert len(wrong) == 1 and word in wrong[0]


@pytest.mark.parametrize(("settings", "word"), [({"epsilon": 0.2}, "sharper"), ({"freeze": 1.0}, "never move")])
def test_settings_that_end_badly_are_warned_about(settings, word):
    assert any(word in text for text in SwAV(**settings).cautions())
