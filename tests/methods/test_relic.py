"""What is true of ReLIC alone. Golden values: computed in float64 from its formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.relic import ReLIC, candidates, contrastive, divergence
from selfsame.nn.contrast import in_batch
from selfsame.records import Budget
from tests.methods.room import views_for

A, B = tensor([[2.0, 1, 0]]), tensor([[1.0, 1, 0]])


def learner_of(tiny, **settings):
    torch.manual_seed(0)
    return ReLIC(**{"hidden": 16, "out": 8, **settings}).build(tiny)


def test_the_divergence_of_two_distributions():
    assert float(divergence(A, B)) == pytest.approx(0.119630, abs=1e-6)
    assert float(divergence(B, A)) == pytest.approx(0.123292, abs=1e-6)
    assert float(divergence(A, A + 3)) == pytest.approx(0, abs=1e-6)


def test_the_contrast_is_the_cross_entropy_of_the_first_candidate():
    assert float(contrastive(tensor([[2.0, 0], [3, 1]]))) == pytest.approx(0.126928, abs=1e-6)
    assert float(contrastive(torch.zeros(3, 11))) == pytest.approx(math.log(11), abs=1e-6)


def test_no_gradient_passes_through_the_entropy_of_the_first():
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    divergence(a, b).backward()
    x, y = A.clone().requires_grad_(), B.clone().requires_grad_()
    F.cross_entropy(y, x.softmax(1)).backward()
    assert_close(a.grad, x.grad)
    assert_close(b.grad, y.grad)


def test_candidates_are_the_partner_and_distinct_others():
    torch.manual_seed(0)
    among = candidates(12, 5, torch.device("cpu"))
    assert among.shape == (12, 6) and torch.equal(among[:, 0], torch.arange(12))
    assert all(len(set(row)) == 6 and min(row) >= 0 and max(row) < 12 for row in among.tolist())
    assert not torch.equal(among, candidates(12, 5, torch.device("cpu")))  # anew each time
    for everyone in (0, 11, 400):
        assert candidates(12, everyone, torch.device("cpu")).sort(1)[0].tolist() == [list(range(12))] * 12


def test_each_negative_is_as_likely_as_any_other():
    torch.manual_seed(0)
    counts = torch.zeros(6)
    for _ in range(600):
        counts[candidates(6, 2, torch.device("cpu"))[0, 1:]] += 1
    assert counts[0] == 0 and (counts[1:] - 240).abs().max() < 60


def test_without_invariance_it_is_info_nce_against_the_slow_copy(tiny, views):
    learner = learner_of(tiny, beta=0.0, negatives=0)
    with torch.no_grad():
        o, t = ([net(view) for view in views] for net in (learner.online, learner.target))
        expected = (in_batch(o[0], t[1], 0.2) + in_batch(o[1], t[0], 0.2)) / 2
        assert_close(learner(views).loss, expected)


def test_the_invariance_compares_both_orders_over_the_same_candidates(tiny, views):
    learner = learner_of(tiny, negatives=4, beta=2.0, alpha=0.5)
    torch.manual_seed(5)
    with torch.no_grad():
        o, t = ([F.normalize(net(view), dim=1) for view in views] for net in (learner.online, learner.target))
        among = candidates(12, 4, torch.device("cpu"))
        forth, back = ((o[i] @ t[1 - i].T).gather(1, among) / 0.2 for i in (0, 1))
        divergences = divergence(forth, back) + divergence(back, forth)
        expected = 0.5 * (contrastive(forth) + contrastive(back)) / 2 + 2.0 * divergences / 2
        torch.manual_seed(5)
        step = learner(views)
    assert_close(step.loss, expected)
    assert step.logs["invariance"] > 0


def test_swapping_the_views_changes_nothing(tiny, views):
    learner = learner_of(tiny, negatives=0)
    with torch.no_grad():
        assert_close(learner(views).loss, learner(views[::-1]).loss)


def test_small_crops_go_through_the_online_network_only(tiny):
    method = ReLIC(hidden=16, out=8, full_views=3, part_views=2)
    assert (method.plan.full, method.plan.part) == (3, 2)
    learner, seen = method.build(tiny), []
    learner.target.net[0].register_forward_hook(lambda net, given, out: seen.append(given[0].shape[-1]))
    views = views_for(method.plan)
    learner(views).loss.backward()
    assert seen == [16] * 3 and {view.shape[-1] for view in views[3:]} == {8}


def test_a_small_crop_is_compared_with_the_targets_large_ones_in_both_orders(tiny):
    learner = learner_of(tiny, part_views=1, negatives=0)
    views = views_for(learner.method.plan)
    with torch.no_grad():
        o = [F.normalize(learner.online(view), dim=1) for view in views]
        t = [F.normalize(learner.target(view), dim=1) for view in views[:2]]
        among = candidates(12, 0, torch.device("cpu"))
        torch.manual_seed(1)

        def asked(one, two):
            return (one @ two.T).gather(1, among) / 0.2

        large = [(asked(o[0], t[1]), asked(o[1], t[0])), (asked(o[1], t[0]), asked(o[0], t[1]))]
        small = [(asked(o[2], t[j]), asked(t[j], o[2])) for j in (0, 1)]
        losses = [contrastive(forth) + divergence(forth, back) for forth, back in large + small]
        assert_close(learner(views).loss, torch.stack(losses).mean())


def test_with_itself_each_crop_also_meets_its_own_copy_and_the_sum_is_over_all_pairs(tiny, views):
    with torch.no_grad():
        own = learner_of(tiny, itself=True, negatives=0)
        o, t = ([net(view) for view in views] for net in (own.online, own.target))
        other = learner_of(tiny, negatives=0)(views)
        contrast = sum(in_batch(o[i], t[i], 0.2) for i in (0, 1)) + 2 * other.logs["contrast"]
        assert_close(own(views).loss, (contrast + 2 * other.logs["invariance"]) / 4)


def test_the_target_moves_by_a_rising_momentum_and_after_the_step(tiny, views):
    learner = learner_of(tiny, momentum=0.5)
    with torch.no_grad():
        for p in learner.online.parameters():
            p.add_(1)
    before = [p.clone() for p in learner.target.parameters()]
    learner(views)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.target.parameters(), strict=True))
    for progress, kept in ((1.0, 1.0), (0.5, 0.75), (0.0, 0.5)):
        before = [p.clone() for p in learner.target.parameters()]
        learner.after_step(progress)
        for was, now, online in zip(before, learner.target.parameters(), learner.online.parameters(), strict=True):
            assert_close(now, kept * was + (1 - kept) * online)


def test_a_predictor_is_on_the_online_side_only(tiny, views):
    learner = learner_of(tiny, predictor=True)
    learner(views).loss.backward()
    assert all(p.grad is not None for p in learner.predictor.parameters())
    assert len(list(learner.target.parameters())) == len(list(learner.online.parameters()))


def test_settings_of_the_papers_and_what_is_fitted(tiny):
    assert (ReLIC().negatives, ReLIC().temperature, ReLIC().momentum, ReLIC().part_views) == (10, 0.2, 0.996, 0)
    v2 = ReLIC(**ReLIC.presets["v2"].method)
    assert (v2.plan.full, v2.plan.part) == (4, 2)
    fitted = ReLIC(negatives=3).fitted(Budget(items=9000, batch=64, steps=600, dim=128))
    assert (fitted.hidden, fitted.negatives) == (1024, 3) and fitted.momentum < 0.95
    assert any("collapse" in text for text in ReLIC(alpha=0).cautions()) and ReLIC().cautions() == []


def test_wrong_views_are_refused(tiny, views):
    for wrong in (views[:1], [views[0], views[1][:3]], [*views, views[0]]):
        with pytest.raises(UserError, match="2 full views"):
            learner_of(tiny)(wrong)
