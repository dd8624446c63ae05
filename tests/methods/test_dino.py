"""What is true of DINO alone. Golden values: fact sheet C2."""

import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.dino import DINO
from selfsame.methods.dinov2 import DINOv2
from selfsame.nn.centre import Centre
from selfsame.nn.prototypes import across_views
from selfsame.nn.sinkhorn import sinkhorn
from selfsame.records import Budget
from tests.methods.room import views_for

TEACHER = [tensor([[2.0, 0, 1], [0, 1, 3]]), tensor([[1.0, 1, 0], [2, 0, 2]])]
STUDENT = [tensor([[1.0, 0, 0], [0, 0, 1]]), tensor([[0.5, 0.5, 0], [0, 1, 0]])]
SMALL = {"hidden": 16, "narrow": 8, "out": 10, "part_views": 0}


def built(encoder, **settings):
    torch.manual_seed(0)
    return DINO(**{**SMALL, **settings}).build(encoder)


def test_loss_and_centre_are_golden():
    centre = Centre(3)
    centre.value.fill_(0.5)
    targets = [centre(scores, 0.04) for scores in TEACHER]
    assert_close(across_views(targets, STUDENT, 0.1), tensor(5.174196))
    centre.follow(torch.cat(TEACHER))
    assert_close(centre.value, tensor([0.575, 0.5, 0.6]))


def test_a_batch_is_centred_by_those_before_it_and_moves_the_centre_after_the_loss(tiny):
    learner = built(tiny, part_views=2, temperature_warmup=0.5)
    views = views_for(learner.method.plan)
    learner.centre.value.copy_(torch.linspace(-0.5, 0.5, 10))
    before = learner.centre.value.clone()
    with torch.no_grad():
        scores = learner.target(torch.cat(views[:2]))
        targets = ((scores - before) / 0.04).softmax(1).chunk(2)
        student = [*learner.student(torch.cat(views[:2])).chunk(2), *learner.student(torch.cat(views[2:])).chunk(2)]
        assert_close(learner(views).loss, across_views(targets, student, 0.1))
    assert_close(learner.centre.value, 0.9 * before + 0.1 * scores.mean(0))


def test_sinkhorn_takes_the_place_of_the_centre(tiny, views):
    learner = built(tiny, targets="sinkhorn", target_temperature=0.02, head_norm="batch", output_norm="whiten")
    learner.centre.value.copy_(torch.linspace(-0.5, 0.5, 10))
    before = learner.centre.value.clone()
    with torch.no_grad():
        targets = sinkhorn(learner.target(torch.cat(views)), 0.02).chunk(2)
        student = learner.student(torch.cat(views)).chunk(2)
        assert_close(learner(views).loss, across_views(targets, student, 0.1))
    assert torch.equal(learner.centre.value, before)


def test_the_target_never_sees_part_views(tiny):
    learner = built(tiny, part_views=3)
    seen = []
    learner.target.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    learner(views_for(learner.method.plan))
    assert seen == [(24, 3, 16, 16)]


def test_a_student_without_an_opinion_gives_the_logarithm_of_the_outputs(tiny, views):
    learner = built(tiny)
    with torch.no_grad():
        learner.head[-1].weight.zero_()
        assert_close(learner(views).loss, tensor(math.log(10)))


def test_the_last_layer_stands_still_at_first(tiny, views):
    learner = built(tiny, freeze=0.1)
    learner(views).loss.backward()
    learner.before_update(0.1)
    assert learner.head[-1].weight.grad is not None
    learner.before_update(0.0)
    assert learner.head[-1].weight.grad is None and learner.head[0].weight.grad is not None


def test_the_targets_temperature_rises_and_is_part_of_the_state(tiny):
    learner = built(tiny, temperature_warmup=0.5)
    found = [float(learner.target_temperature)]
    for progress in (0.0, 0.25, 0.5, 1.0):
        learner.after_step(progress)
        found.append(float(learner.target_temperature))
    assert found == pytest.approx([0.04, 0.04, 0.055, 0.07, 0.07])
    learner.after_step(0.25)
    other = built(tiny, temperature_warmup=0.5)
    other.load_state_dict(learner.state_dict())
    assert float(other.target_temperature) == pytest.approx(0.055)
    assert float(built(tiny, temperature_warmup=0.0).target_temperature) == pytest.approx(0.07)


def test_the_target_follows_after_the_step_with_a_momentum_that_rises_to_one(tiny, views):
    learner = built(tiny, momentum=0.5)
    moved = []
    for progress in (0.0, 0.5, 1.0):
        with torch.no_grad():
            for p in learner.target.parameters():
                p.zero_()
        learner.after_step(progress)
        target, online = (net[-1][-1].weight for net in (learner.target.net, learner.student))
        moved.append(float((target / online).mean().detach()))
    assert moved == pytest.approx([0.5, 0.25, 0.0])
    before = learner.target.net[-1][-1].weight.clone()
    learner(views)
    assert torch.equal(learner.target.net[-1][-1].weight, before)


def test_the_loss_does_not_change_when_the_full_views_are_swapped(tiny):
    learner = built(tiny, part_views=1, centre_momentum=1.0)
    views = views_for(learner.method.plan)
    with torch.no_grad():
        assert_close(learner(views).loss, learner([views[1], views[0], views[2]]).loss)


def test_the_entropy_of_the_targets_is_logged(tiny, views):
    learner = built(tiny, momentum=0.5)
    with torch.no_grad():
        sharp = learner(views).logs["entropy"]
        learner.target.net[-1][-1].weight.zero_()
        learner.centre.value.zero_()
        assert_close(learner(views).logs["entropy"], tensor(math.log(10)))
    assert 0 <= sharp < math.log(10)


def test_wrong_views_are_refused(tiny, views):
    for wrong in (views[:1], [*views, views[0]], [views[0], views[1][:3]]):
        with pytest.raises(UserError, match="2 full views"):
            built(tiny)(wrong)


def test_the_papers_settings_and_what_small_data_makes_of_them():
    m = DINO()
    assert (m.out, m.narrow, m.hidden, m.temperature, m.momentum, m.part_views) == (65_536, 256, 2048, 0.1, 0.996, 8)
    assert m.cautions() == []
    small = m.fitted(Budget(items=10_000, batch=64, steps=600, dim=256))
    assert (small.out, small.part_views, small.hidden) == (833, 0, 1024)
    assert (small.targets, small.head_norm, small.output_norm, small.narrow) == ("sinkhorn", "batch", "whiten", 128)
    assert (small.target_temperature, small.target_temperature_end) == (0.02, 0.02)
    assert 1 / (1 - small.momentum) <= 0.016 * 600 + 1e-3
    large = m.fitted(Budget(items=1_281_167, batch=1024, steps=1_000_000, dim=384))
    assert (large.out, large.part_views, large.momentum) == (65_536, 8, 0.996)
    assert (large.targets, large.head_norm, large.output_norm, large.narrow) == ("centre", "none", "none", 256)
    assert (large.target_temperature, large.target_temperature_end) == (0.04, 0.07)
    assert DINO(out=77, part_views=1, momentum=0.3).fitted(Budget(items=500, batch=8, steps=60, dim=8)).out == 77


def test_short_runs_keep_what_is_given():
    budget = Budget(items=500, batch=8, steps=60, dim=8)
    given = {"targets": "centre", "head_norm": "none", "output_norm": "none", "target_temperature": 0.03}
    kept = DINO(**given).fitted(budget)
    assert {name: getattr(kept, name) for name in given} == given and kept.target_temperature_end == 0.03
    assert DINO(target_temperature_end=0.05).fitted(budget).target_temperature_end == 0.05
    assert DINO(out=501).fitted(budget).targets == "centre"  # too many to be used alike
    assert DINO().fitted(Budget(items=40, batch=8, steps=60, dim=8)).out == 40
    wrong = DINO(out=501, targets="sinkhorn").fitted(budget).misfits(budget)
    assert len(wrong) == 1 and "--method.out" in wrong[0]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"target_temperature_end": 0.1}, "uniform"),
        ({"target_temperature": 0.2}, "uniform"),
        ({"centre_momentum": 1.0}, "one output"),
        ({"momentum": 0.0}, "equals the student"),
        ({"momentum": 1.0}, "never moves"),
    ],
)
def test_settings_that_end_badly_are_warned_about(settings, word):
    assert any(word in text for text in DINO(**settings).cautions())


@pytest.mark.parametrize("kind", [DINO, DINOv2])
def test_more_outputs_than_items_are_told_of_and_refused_where_all_are_to_be_used(kind):
    budget = Budget(items=500, batch=8, steps=30_000, dim=8)
    assert kind(out=500).fitted(budget).doubts(budget) == [] == kind().fitted(budget).doubts(budget)
    many = kind(out=501).fitted(budget)
    (text,) = many.doubts(budget)
    assert (
        many.misfits(budget) == []
        and "501 outputs are more than the 500 items" in text
        and "--method.out to 50" in text
    )
    (text,) = kind(out=501, targets="sinkhorn").misfits(budget)
    assert "give --method.targets centre" in text
    few = Budget(items=40, batch=8, steps=30_000, dim=8)
    assert kind().fitted(few).out == 40
