"""What is true of MSN alone. Golden values: fact sheet C6."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.msn import MSN, sharpened, short_of_uniform
from selfsame.nn.sinkhorn import sinkhorn
from selfsame.nn.whiten import Whiten
from selfsame.records import Budget
from tests.conftest import TinyTokens
from tests.methods.room import views_for

SMALL = {"hidden": 16, "out": 8, "prototypes": 6, "part_views": 0}


def built(**settings):
    torch.manual_seed(0)
    return MSN(**{**SMALL, **settings}).build(TinyTokens())


def test_sharpening_is_golden():
    found = sharpened(tensor([[0.5, 0.3, 0.2]]).log(), 0.25).exp()
    assert_close(found, tensor([[0.865651, 0.112188, 0.022161]]), rtol=0, atol=1e-6)


def test_the_penalty_of_uneven_use_is_golden():
    assert_close(short_of_uniform(tensor([[0.75, 0.25, 0.0], [0.25, 0.25, 0.5]])), tensor(0.058892))
    assert_close(short_of_uniform(torch.eye(5)), tensor(0.0), rtol=0, atol=1e-6)
    assert_close(short_of_uniform(tensor([[1.0, 0, 0, 0]])), tensor(math.log(4)))


def test_anchors_without_an_opinion_cost_the_logarithm_of_the_prototypes():
    learner = built()
    with torch.no_grad():
        learner.prototypes.weight.copy_(learner.prototypes.weight[:1].expand(6, -1))
        step = learner(views_for(learner.method.plan))
    assert_close(step.logs["matched"], tensor(math.log(6)))
    assert_close(step.logs["unused"], tensor(0.0), rtol=0, atol=1e-6)


def test_the_gradient_of_the_penalty_moves_towards_what_is_unused():
    logits = tensor([[2.0, 0, 0], [1.0, 0, -1]], requires_grad=True)
    before = short_of_uniform(logits.softmax(1))
    before.backward()
    assert short_of_uniform((logits - 0.1 * logits.grad).softmax(1)) < before
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 2] < 0).all()


def test_targets_are_sharp_and_use_all_prototypes_alike():
    torch.manual_seed(0)
    logits = torch.randn(60, 6) + tensor([1.0, 0, 0, 0, 0, 0])
    plain, balanced = (built(balanced=b).target_of(logits) for b in (False, True))
    assert_close(plain, (logits.softmax(1) ** 4) / (logits.softmax(1) ** 4).sum(1, keepdim=True))
    powers = plain.double()
    for _ in range(3):
        powers = powers / powers.sum(0)
        powers = powers / powers.sum(1, keepdim=True)
    assert_close(balanced, powers.float(), rtol=1e-3, atol=1e-5)
    assert plain.sum(0).std() > 2 * balanced.sum(0).std()


def test_the_loss_is_that_of_the_paper():
    learner = built(drop=0.0, part_views=2)
    views = views_for(learner.method.plan)
    with torch.no_grad():
        prototypes = F.normalize(learner.prototypes.weight, dim=1)
        power = (F.normalize(learner.target(views[0]), dim=1) @ prototypes.T / 0.1).softmax(1) ** 4
        target = sinkhorn((power / power.sum(1, keepdim=True)).log(), 1.0)
        vectors = learner.encoder(views[1]), *learner.encoder(torch.cat(views[2:])).chunk(2)
        p = (F.normalize(learner.head(torch.cat(vectors)), dim=1) @ prototypes.T / 0.1).softmax(1)
        matched = -(target.repeat(3, 1) * p.log()).sum(1).mean()
        unused = math.log(6) + (p.mean(0) * p.mean(0).log()).sum()
        step = learner(views)
    assert_close(step.loss, matched + unused, rtol=1e-4, atol=1e-5)
    assert_close(step.logs["matched"] + step.logs["unused"], step.loss)


def test_the_weight_of_the_entropy_counts():
    views = views_for(built().method.plan)
    with torch.no_grad():
        step = built(drop=0.0, entropy_weight=3.0)(views)
    assert_close(step.loss, step.logs["matched"] + 3 * step.logs["unused"])


@pytest.mark.parametrize(("drop", "shown"), [(0.0, 16), (0.15, 14), (0.7, 5), (0.99, 1)])
def test_the_anchor_is_shown_the_rest_of_its_patches(drop, shown):
    kept = built(drop=drop).kept(12, (4, 4))
    assert kept.shape == (12, shown)
    assert all(len(set(row)) == shown and set(row) <= set(range(16)) for row in kept.tolist())
    if 1 < shown < 16:
        assert len({tuple(sorted(row)) for row in kept.tolist()}) > 6  # each item its own


def test_target_and_anchor_see_the_views_that_are_theirs(monkeypatch):
    learner = built(part_views=2, drop=0.5)
    views = views_for(learner.method.plan)
    seen = []
    learner.target.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    both = learner.encoder.both
    calls = []
    monkeypatch.setattr(
        learner.encoder, "both", lambda x, keep=None, hide=None: calls.append((x, keep)) or both(x, keep, hide)
    )
    learner(views)
    assert len(seen) == 1 and torch.equal(seen[0], views[0])
    assert torch.equal(calls[0][0], views[1]) and calls[0][1].shape == (12, 8)
    assert [(len(x), keep) for x, keep in calls[1:]] == [(24, None)]  # parts whole, in one pass


def test_no_gradient_comes_through_the_targets():
    """Prototypes learn from the anchors' side alone."""
    learner = built(drop=0.0)
    views = views_for(learner.method.plan)
    learner(views).loss.backward()
    found = learner.prototypes.weight.grad.clone()
    with torch.no_grad():
        target = learner.target_of(learner.prototypes(learner.target(views[0])) / 0.1)
    learner.zero_grad()
    scores = learner.prototypes(learner.head(learner.encoder(views[1]))) / 0.1
    (F.cross_entropy(scores, target) + short_of_uniform(scores.softmax(1))).backward()
    assert_close(found, learner.prototypes.weight.grad, rtol=1e-3, atol=1e-5)


def test_the_momentum_rises_in_a_straight_line_that_ends_later():
    learner = built(momentum=0.5)
    moved = []
    for progress in (0.0, 0.5, 1.0):
        with torch.no_grad():
            for p in learner.target.parameters():
                p.zero_()
        learner.after_step(progress)
        target, online = (net[-1][0].weight for net in (learner.target.net, learner.online))
        moved.append(float((target / online).mean().detach()))
    assert moved == pytest.approx([0.5, 0.3, 0.1], rel=1e-4)


def test_wrong_views_are_refused():
    views = views_for(built().method.plan)
    for wrong in (views[:1], [*views, views[0]], [views[0], views[1][:3]]):
        with pytest.raises(UserError, match="2 full views"):
            built()(wrong)


def test_the_papers_settings_and_what_small_data_makes_of_them():
    m = MSN()
    assert (m.prototypes, m.temperature, m.sharpness, m.drop, m.part_views) == (1024, 0.1, 0.25, 0.15, 10)
    assert m.cautions() == []
    small = m.fitted(Budget(items=10_000, batch=64, steps=600, dim=192))
    assert (small.prototypes, small.part_views) == (500, 0) and small.momentum < 0.9
    assert m.fitted(Budget(items=4, batch=4, steps=60, dim=8)).prototypes == 4


def test_short_runs_get_whitened_vectors_and_sharper_targets_and_long_ones_are_the_papers():
    short = Budget(items=10_000, batch=64, steps=600, dim=192)
    m = MSN().fitted(short)
    assert (m.out, m.head_norm, m.output_norm, m.whiten_input) == (128, "batch", "whiten", True)
    assert (m.sharpness, m.entropy_weight) == (0.2, 0.0)
    assert MSN(balanced=False).fitted(short).entropy_weight == 1.0  # or nothing keeps the items apart
    long = MSN().fitted(Budget(items=10**6, batch=1024, steps=10**6, dim=384))
    assert all(getattr(long, name) == getattr(MSN(), name) for name in MSN.model_fields if name != "hidden")
    given = MSN(out=64, head_norm="none", output_norm="plain", whiten_input=False, sharpness=0.25, entropy_weight=1.0)
    assert all(getattr(given.fitted(short), name) == getattr(given, name) for name in given.model_fields_set)


def test_the_head_ends_with_whitened_vectors_and_begins_with_them_where_that_is_asked_for():
    z = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, 0.5, 8)
    head = MSN(hidden=16, out=8, prototypes=4, output_norm="whiten", whiten_input=True).build(TinyTokens()).head
    assert_close(head[0](z).T.cov(correction=0), torch.eye(8), rtol=0, atol=0.2)
    assert isinstance(head[-1], Whiten)
    assert len(head) == 2 + len(MSN(hidden=16, out=8, prototypes=4).build(TinyTokens()).head)


def test_small_encoders_learn_faster_in_short_runs_alone():
    assert MSN().pace(Budget(items=10_000, batch=64, steps=600, dim=128)) == 4
    assert MSN().pace(Budget(items=10_000, batch=64, steps=600, dim=384)) == 1
    assert MSN().pace(Budget(items=10**6, batch=64, steps=10**6, dim=128)) == 1


def test_what_does_not_fit_is_refused_with_the_cure():
    budget = Budget(items=100, batch=10, steps=100, dim=8)
    wrong = MSN(prototypes=200).fitted(budget).misfits(budget)
    assert len(wrong) == 1 and "--method.prototypes" in wrong[0]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"sharpness": 1.0}, "uniform"),
        ({"entropy_weight": 0.0, "balanced": False}, "same prototype"),
        ({"momentum": 1.0}, "never moves"),
    ],
)
def test_settings_that_end_badly_are_warned_about(settings, word):
    assert any(word in text for text in MSN(**settings).cautions())
