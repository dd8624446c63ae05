"""What is true of SCE alone. Golden values: computed in float64 from its formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.sce import SCE, soft_contrast, wanted
from selfsame.nn.contrast import against, in_batch, logits_against
from selfsame.records import Budget
from tests.methods.room import views_for

Q, K = tensor([[1.0, 0.0]]), tensor([[0.6, 0.8]])
QUEUE = tensor([[0.0, 1.0], [-1.0, 0.0], [0.8, 0.6]])


def learner_of(tiny, **settings):
    torch.manual_seed(0)
    return SCE(**{"hidden": 16, "out": 8, "queue": 0, **settings}).build(tiny)


def want(**settings):
    return wanted(logits_against(K, K, QUEUE), torch.zeros(1, dtype=torch.long), SCE(**settings))[0]


@pytest.mark.parametrize(("partner", "golden"), [(1.0, 2.127223), (0.5, 1.496476), (0.0, 0.865728)])
def test_the_loss_against_a_queue(partner, golden):
    assert float(soft_contrast(Q, K, QUEUE, SCE(partner=partner))) == pytest.approx(golden, abs=1e-5)


def test_what_is_wanted_of_a_queue():
    assert want(partner=1.0).tolist() == [1, 0, 0, 0]
    assert_close(want(), tensor([0.5, 0.046157, 0, 0.453843]), rtol=0, atol=1e-6)
    assert float(want(own="zero")[0] - 0.5) == pytest.approx(5e-7, abs=2e-7)  # the reference code's logit of 0


def test_the_zero_of_the_reference_code_is_a_candidate_like_any_other():
    far = -K  # unlike the key: a logit of 0 outweighs it
    own = torch.zeros(1, dtype=torch.long)
    found = {how: wanted(logits_against(K, K, far), own, SCE(own=how))[0, 0] for how in ("masked", "zero")}
    assert float(found["masked"]) == 0.5 and float(found["zero"]) > 0.99


@pytest.mark.parametrize("own", ["masked", "zero"])
@pytest.mark.parametrize("partner", [0.0, 0.3, 1.0])
def test_what_is_wanted_sums_to_one(own, partner):
    keys = F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    w = wanted(keys @ keys.T, torch.arange(6), SCE(own=own, partner=partner))
    assert_close(w.sum(1), torch.ones(6))
    if own == "masked":
        assert_close(w.diagonal(), torch.full((6,), partner))


def test_the_partner_alone_is_info_nce():
    q, k = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    queue = F.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    assert_close(soft_contrast(q, k, queue, SCE(partner=1)), against(q, k, queue, 0.1))
    assert_close(soft_contrast(q, k, None, SCE(partner=1)), in_batch(q, k, 0.1))


def test_in_the_batch_the_others_are_its_other_rows():
    q, k = (F.normalize(z, dim=1) for z in torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)))
    alike = (k @ k.T / 0.07).fill_diagonal_(float("-inf")).softmax(1)
    w = 0.5 * torch.eye(5) + 0.5 * alike
    expected = -(w * (q @ k.T / 0.1).log_softmax(1)).sum(1).mean()
    assert_close(soft_contrast(q, k, None, SCE()), expected)


def test_no_gradient_passes_through_what_is_wanted():
    q, k = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()
    k.requires_grad_()
    assert not wanted(k @ k.T, torch.arange(5), SCE()).requires_grad
    assert soft_contrast(100 * q.half(), 100 * k.half(), None, SCE()).isfinite()


def test_symmetric_is_the_mean_of_both_directions(tiny, views):
    learner = learner_of(tiny)
    with torch.no_grad():
        q = [learner.predictor(learner.online(view)) for view in views]
        k = [learner.target(view) for view in views]
        expected = sum(soft_contrast(q[i], k[1 - i], None, learner.method) for i in (0, 1)) / 2
        assert_close(learner(views).loss, expected)
        assert_close(learner(views[::-1]).loss, expected)


def test_otherwise_the_first_view_asks_and_the_second_answers(tiny, views):
    learner = learner_of(tiny, symmetric=False, predictor=False)
    with torch.no_grad():
        expected = soft_contrast(learner.online(views[0]), learner.target(views[1]), None, learner.method)
        assert_close(learner(views).loss, expected)


def test_part_views_only_ask(tiny):
    learner = learner_of(tiny, part_views=2)
    views = views_for(learner.method.plan)
    with torch.no_grad():
        q = [learner.predictor(learner.online(view)) for view in views[:2]]
        q += learner.predictor(learner.online(torch.cat(views[2:]))).chunk(2)
        k = [learner.target(view) for view in views[:2]]
        pairs = [(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
        expected = sum(soft_contrast(q[i], k[j], None, learner.method) for i, j in pairs) / 6
        assert_close(learner(views).loss, expected)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_queue_is_asked_as_it_was_and_then_takes_the_keys(tiny, views, symmetric):
    learner = learner_of(tiny, queue=30, symmetric=symmetric)
    before = learner.queue()
    assert_close(before.norm(dim=1), torch.ones(30))
    with torch.no_grad():
        q = [learner.predictor(learner.online(view)) for view in views]
        k = [F.normalize(learner.target(view), dim=1) for view in views]
        directions = [(0, 1), (1, 0)] if symmetric else [(0, 1)]
        expected = sum(soft_contrast(q[i], k[j], before, learner.method) for i, j in directions)
        assert_close(learner(views).loss, expected / len(directions))
    fresh = torch.cat(k) if symmetric else k[1]
    assert_close(learner.queue()[: len(fresh)], fresh)
    assert torch.equal(learner.queue()[len(fresh) :], before[len(fresh) :])
    learner(views)  # wraps around
    assert int(learner.queue.place) == 2 * len(fresh) % 30


def test_the_target_moves_after_the_step_by_its_schedule(tiny, views):
    for schedule, kept in (("constant", 0.5), ("cosine", 0.75)):
        learner = learner_of(tiny, momentum=0.5, schedule=schedule)
        learner(views).loss.backward()
        with torch.no_grad():
            for p in learner.online.parameters():
                p.add_(1)
        before = [p.clone() for p in learner.target.parameters()]
        learner.after_step(0.5)
        for was, now, online in zip(before, learner.target.parameters(), learner.online.parameters(), strict=True):
            assert_close(now, kept * was + (1 - kept) * online)
            assert now.grad is None


def test_the_queue_is_fitted_to_the_items_and_one_too_long_is_refused():
    def budget(items, batch):
        return Budget(items=items, batch=batch, steps=600, dim=128)

    sizes = [(1_300_000, 4096), (50_000, 256), (9000, 64), (100, 64)]
    assert [SCE().fitted(budget(*size)).queue for size in sizes] == [65_536, 6144, 1088, 128]
    assert SCE(queue=77).fitted(budget(9000, 64)).queue == 77
    assert SCE(queue=200).misfits(budget(100, 64)) == []
    (text,) = SCE(queue=201).misfits(budget(100, 64))
    assert "--method.queue of 200 at most" in text


def test_the_papers_settings_and_those_that_end_badly():
    m = SCE()
    assert (m.partner, m.temperature, m.target_temperature, m.queue, m.momentum) == (0.5, 0.1, 0.07, 65_536, 0.99)
    assert m.cautions() == [] == SCE(**SCE.presets["cifar"].method).cautions()
    assert any("uniform" in text for text in SCE(target_temperature=0.1).cautions())
    assert SCE(target_temperature=0.1, partner=1).cautions() == []
    assert any("constant" in text for text in SCE(partner=0, momentum=0).cautions())


def test_all_vectors_alike_cost_the_log_of_the_candidates():
    same = torch.ones(4, 3)
    assert float(soft_contrast(same, same, None, SCE())) == pytest.approx(math.log(4), abs=1e-5)
    assert float(soft_contrast(same, same, same, SCE())) == pytest.approx(math.log(5), abs=1e-5)


def test_wrong_views_are_refused(tiny, views):
    for wrong in (views[:1], [views[0], views[1][:3]], [*views, views[0]]):
        with pytest.raises(UserError, match="2 full views"):
            learner_of(tiny)(wrong)
