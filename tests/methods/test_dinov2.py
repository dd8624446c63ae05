"""What is true of DINOv2 alone. Golden values: fact sheet C3."""

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.dinov2 import DINOv2, hidden_places, koleo, of_hidden
from selfsame.nn.whiten import Whiten
from selfsame.records import Budget
from selfsame.types import Hidden
from tests.conftest import TinyTokens
from tests.methods.room import views_for

SMALL = {"hidden": 16, "narrow": 8, "out": 10, "part_views": 0}


def built(**settings):
    torch.manual_seed(0)
    return DINOv2(**{**SMALL, **settings}).build(TinyTokens())


def test_koleo_is_golden():
    assert_close(koleo(tensor([[1.0, 0], [0, 1], [0.6, 0.8]])), tensor(0.342621))
    assert_close(koleo(tensor([[7.0, 0], [0, 0.1], [0.6, 0.8]])), tensor(0.342621))  # lengths do not count


def test_koleo_of_the_same_vectors_is_finite_and_pushes():
    same = torch.ones(3, 2, requires_grad=True)
    found = koleo(same)
    assert_close(found, tensor(17.54), rtol=1e-3, atol=0)
    found.backward()
    assert same.grad.isfinite().all()
    assert koleo(torch.ones(3, 2).half() * 100).isfinite()


def test_koleo_moves_the_nearest_apart():
    x = F.normalize(tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]]), dim=1).requires_grad_()
    koleo(x).backward()
    moved = F.normalize(x.detach() - 0.01 * x.grad, dim=1)
    assert (moved[0] - moved[1]).norm() > (x[0] - x[1]).norm()


TARGETS = torch.diag(tensor([1.0, 2, 1])).softmax(1)
SCORES = tensor([[0.2, 0, 0], [0, 0.1, 0], [0, 0, 0.3]]) / 0.1


def test_the_loss_on_hidden_patches_is_golden():
    rows = [of_hidden(TARGETS[i : i + 1], SCORES[i : i + 1], tensor([[True]])) for i in range(3)]
    assert_close(torch.stack(rows), tensor([1.087311, 0.764459, 1.366572]))
    assert_close(of_hidden(TARGETS, SCORES, tensor([[True, False, True]])), tensor(1.226942))


def test_each_item_weighs_the_same_however_many_of_its_patches_are_hidden():
    counted = tensor([[True, True, True], [True, False, False]])
    found = of_hidden(TARGETS.repeat(2, 1), SCORES.repeat(2, 1), counted)
    assert_close(found, (tensor([1.087311, 0.764459, 1.366572]).mean() + tensor(1.087311)) / 2)


def test_hidden_places_come_first_and_are_counted():
    hidden = tensor([[False, True, False, True], [False, False, True, False]])
    here, counted = hidden_places(hidden, 2)
    assert here.tolist() == [[1, 3], [2, 0]] and counted.tolist() == [[True, True], [True, False]]


def test_one_of_the_two_views_of_each_item_has_hidden_patches(monkeypatch):
    learner = built()
    shown = []
    both = learner.encoder.both
    monkeypatch.setattr(
        learner.encoder, "both", lambda x, keep=None, hide=None: shown.append(hide) or both(x, keep, hide)
    )
    learner(views_for(learner.method.plan))
    one, two = shown[0].where.sum(1).split(12)
    assert ((one > 0) != (two > 0)).all() and 0 < (one > 0).sum() < 12
    assert (one + two).max() <= 8  # half of 16


def test_the_target_sees_all_patches_and_the_student_a_learnt_vector_in_their_place():
    learner = built(koleo_weight=0.0)
    views = views_for(learner.method.plan)
    found = []
    for value in (0.0, 3.0):
        torch.manual_seed(1)
        with torch.no_grad():
            learner.stand_in.fill_(value)
            learner.centre.value.zero_()
            learner.patch_centre.value.zero_()
            step = learner(views)
        found.append((step.loss, step.logs["entropy"], learner.patch_centre.value.clone()))
    assert not torch.isclose(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1]) and torch.equal(found[0][2], found[1][2])
    torch.manual_seed(1)
    learner(views).loss.backward()
    assert learner.stand_in.grad.abs().sum() > 0


def test_the_whole_is_the_sum_of_its_three_parts():
    views = views_for(built().method.plan)
    steps = []
    for weights in ((1.0, 0.1), (2.0, 0.0)):
        learner = built(patch_weight=weights[0], koleo_weight=weights[1])
        torch.manual_seed(1)
        step = learner(views)
        parts = [step.logs[name] for name in ("whole", "patches", "koleo")]
        assert_close(step.loss.detach(), parts[0] + weights[0] * parts[1] + weights[1] * parts[2])
        steps.append(parts)
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


def test_patches_and_views_are_compared_as_the_paper_has_it():
    """Computed again from the parts: what is hidden where, targets by the other view, patches by the same one."""
    learner = built(koleo_weight=0.0)
    views = views_for(learner.method.plan)
    m, full = learner.method, torch.cat(views)
    torch.manual_seed(1)
    with torch.no_grad():
        hidden, in_first = learner.draw(12, (4, 4))
        where = torch.cat([hidden & in_first[:, None], hidden & ~in_first[:, None]])
        vectors, tokens = learner.encoder.both(full, hide=Hidden(where, learner.stand_in))
        encoder, head = learner.target.net
        target_vectors, target_tokens = encoder.both(full)
        s, t = (learner.heads[0](x) for x in (vectors, tokens.flatten(0, 1)))
        goal, patch_goal = ((head(x) / 0.04).softmax(1) for x in (target_vectors, target_tokens.flatten(0, 1)))
        whole = -(goal.roll(12, 0) * (s / 0.1).log_softmax(1)).sum(1).mean()
        each = -(patch_goal * (t / 0.1).log_softmax(1)).sum(1).view(24, 16)
        patches = ((each * where).sum(1) / where.sum(1).clamp(min=1)).sum() / 24
        torch.manual_seed(1)
        step = learner(views)
    assert m.temperature_at(0.0) == 0.04
    assert_close(step.logs["whole"], whole)
    assert_close(step.logs["patches"], patches)
    assert_close(learner.centre.value, 0.1 * head(target_vectors).mean(0))
    assert_close(learner.patch_centre.value, 0.1 * head(target_tokens[where]).mean(0))


def test_sinkhorn_takes_the_place_of_centres():
    learner = built(targets="sinkhorn")
    step = learner(views_for(learner.method.plan))
    assert step.loss.isfinite()
    assert not learner.centre.value.any() and not learner.patch_centre.value.any()


def test_koleo_is_of_each_view_alone():
    """Two views of an item are no neighbours: were they, equal views would give about 17."""
    learner = built(hide=(0.01, 0.02))
    view = views_for(learner.method.plan)[0]
    with torch.no_grad():
        learner.stand_in.zero_()
        assert learner([view, view]).logs["koleo"] < 2 * 12


def test_two_heads_where_they_are_wanted():
    one, two = built(), built(shared_head=False)
    assert (len(one.heads), len(two.heads)) == (1, 2)
    two(views_for(two.method.plan)).loss.backward()
    assert all(p.grad is not None for p in two.heads.parameters())
    two.before_update(0.0)
    assert [head[-1].weight.grad for head in two.heads] == [None, None]
    two(views_for(two.method.plan)).loss.backward()
    two.before_update(0.5)
    assert all(head[-1].weight.grad is not None for head in two.heads)


def test_the_targets_temperature_rises_with_the_run():
    learner = built(temperature_warmup=0.5)
    learner.after_step(0.25)
    assert float(learner.target_temperature) == pytest.approx(0.055)


def test_wrong_views_are_refused():
    views = views_for(built().method.plan)
    for wrong in (views[:1], [*views, views[0]], [views[0], views[1][:3]]):
        with pytest.raises(UserError, match="2 full views"):
            built()(wrong)


def test_the_codes_settings_and_what_small_data_makes_of_them():
    m = DINOv2()
    assert (m.out, m.momentum, m.koleo_weight, m.hide, m.part_views) == (65_536, 0.992, 0.1, (0.1, 0.5), 8)
    assert m.cautions() == []
    small = m.fitted(Budget(items=10_000, batch=64, steps=600, dim=192))
    assert (small.out, small.part_views) == (833, 0) and small.momentum < 0.9
    assert DINOv2(targets="sinkhorn").fitted(Budget(items=40, batch=8, steps=60, dim=8)).out == 40


def test_short_runs_get_the_cure_of_dino_and_long_ones_are_the_papers():
    short = Budget(items=10_000, batch=64, steps=600, dim=192)
    m = DINOv2().fitted(short)
    assert (m.narrow, m.head_norm, m.output_norm, m.targets) == (128, "batch", "whiten", "sinkhorn")
    assert m.target_temperature == m.target_temperature_end == 0.02
    assert DINOv2(target_temperature=0.03).fitted(short).target_temperature_end == 0.03
    assert DINOv2(out=20_000).fitted(short).targets == "centre"  # more outputs than items cannot be used alike
    long = DINOv2().fitted(Budget(items=10**6, batch=1024, steps=10**6, dim=1024))
    same = set(DINOv2.model_fields) - {"momentum", "freeze"}
    assert all(getattr(long, name) == getattr(DINOv2(), name) for name in same)


def test_small_encoders_learn_faster_in_short_runs_alone():
    short, wide, long = (
        Budget(items=10**4, batch=64, steps=n, dim=d) for n, d in ((600, 128), (600, 384), (10**6, 128))
    )
    assert [DINOv2().pace(budget) for budget in (short, wide, long)] == [4, 1, 1]


def test_norms_of_the_heads_come_from_the_settings():
    sizes = {"hidden": 16, "narrow": 8, "out": 12}
    plain, normed = (
        DINOv2(**sizes, shared_head=False, **norms).build(TinyTokens()).heads
        for norms in ({}, {"head_norm": "batch", "output_norm": "whiten"})
    )
    assert [len(heads) for heads in (plain, normed)] == [2, 2]
    for heads, norms, whiteners in ((plain, 0, 0), (normed, 2, 1)):
        for head in heads:
            assert sum(isinstance(part, torch.nn.BatchNorm1d) for part in head) == norms
            assert sum(isinstance(part, Whiten) for part in head) == whiteners


def test_what_does_not_fit_is_refused_with_the_cure():
    budget = Budget(items=100, batch=10, steps=100, dim=8)
    wrong = DINOv2(out=200, targets="sinkhorn").fitted(budget).misfits(budget)
    assert len(wrong) == 1 and "--method.out" in wrong[0]
    with pytest.raises(ValueError, match="smaller share first"):
        DINOv2(hide=(0.5, 0.1))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"target_temperature_end": 0.1}, "uniform"),
        ({"centre_momentum": 1.0}, "one output"),
        ({"momentum": 0.0}, "equals the student"),
        ({"momentum": 1.0}, "never moves"),
    ],
)
def test_settings_that_end_badly_are_warned_about(settings, word):
    assert any(word in text for text in DINOv2(**settings).cautions())
