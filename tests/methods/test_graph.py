"""What is true of graph constraints alone."""

import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.graph import Graph, beyond, picked
from selfsame.records import Budget
from tests.conftest import Tiny
from tests.methods.room import views_for

N = 24
EVERY = torch.arange(N)
BUDGET = Budget(items=N, batch=N, steps=100, dim=8)


def made(**settings):
    torch.manual_seed(0)
    small = {"hidden": 16, "out": 4, "neighbours": 4, "landmarks": N}
    return Graph(**{**small, **settings}).build(Tiny(), N)


def families():
    """Red and blue pictures, twelve of each."""
    pictures = torch.zeros(N, 3, 16, 16)
    pictures[:12, 0] = pictures[12:, 2] = 1
    return pictures + 0.2 * torch.rand(pictures.shape, generator=torch.Generator().manual_seed(0))


def test_pairs_of_two_families_are_never_positive_and_alone_negative():
    learner = made()
    learner.survey([([families()[k::2]], EVERY[k::2]) for k in range(2)])
    family = EVERY // 12
    for item in range(N):
        found = learner.partners[item][learner.partners[item] >= 0]
        assert (family[found] == family[item]).all()
        assert torch.equal(family[learner.landmarks] != family[item], learner.far[item])
    assert (learner.partners >= 0).any(dim=1).sum() > N / 2
    assert_close(learner.bank.norm(dim=1), torch.ones(N))


def test_equal_vectors_give_the_logarithm_of_their_number():
    z = torch.ones(3, 4) / 2
    far = tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    loss = [float(picked(z, z, z[:1].expand(5, 4), far, torch.arange(3) == k, 0.1)) for k in range(3)]
    assert loss == pytest.approx([math.log(6), math.log(3), 0], abs=1e-6)
    assert float(picked(z, z, z[:1].expand(5, 4), far, torch.ones(3).bool(), 0.1)) == pytest.approx(math.log(18) / 3)
    assert float(picked(z, z, z[:1].expand(5, 4), far, torch.zeros(3).bool(), 0.1)) == 0


def test_the_greatest_distances_are_far_whatever_the_percentile():
    distance = tensor([[0, 1, 2, 3, 4, 4, 5, 255]], dtype=torch.uint8)
    assert beyond(distance, 0.5, 2).tolist() == [[False] * 4 + [True] * 4]
    assert beyond(distance, 0.8, 2).tolist() == [[False] * 7 + [True]]
    assert beyond(distance, 0.99, 2).tolist() == [[False] * 7 + [True]]
    assert beyond(distance, 0.0, 2).tolist() == [[False] * 3 + [True] * 5]  # partners lie two links away
    near = tensor([[0, 1, 1, 2]], dtype=torch.uint8)
    assert beyond(near, 0.5, 2).tolist() == [[False, False, False, True]]
    assert not beyond(torch.zeros(1, 4, dtype=torch.uint8), 0.5, 2).any()


def test_a_partner_is_one_of_the_items_own_and_chance_decides_which():
    learner = made()
    learner.survey([([families()], EVERY)])
    met = [set() for _ in range(N)]
    for seed in range(60):
        torch.manual_seed(seed)
        partner, found = learner.partner_of(EVERY)
        for item in EVERY[found].tolist():
            met[item].add(int(partner[item]))
    for item in range(N):
        assert met[item] == set(learner.partners[item].tolist()) - {-1}


def test_the_bank_follows_the_items_of_a_batch_alone():
    learner = made()
    before = learner.bank.clone()
    some = tensor([5, 1, 20])
    learner([view[some] for view in views_for(learner.method.plan, N)], some)
    moved = (learner.bank != before).any(dim=1)
    assert sorted(moved.nonzero().flatten().tolist()) == [1, 5, 20]
    assert_close(learner.bank.norm(dim=1), torch.ones(N))


def test_a_partner_is_no_negative_of_its_own_row():
    learner = made(own_view=False, percentile=0.0)
    learner.partners.fill_(-1)
    learner.partners[:, 0] = (EVERY + 1) % N
    views = views_for(learner.method.plan, N)
    torch.manual_seed(0)
    all_far = learner(views, EVERY).loss
    learner = made(own_view=False, percentile=0.0)
    learner.partners.fill_(-1)
    learner.partners[:, 0] = (EVERY + 1) % N
    learner.far[EVERY, learner.landmarks.argsort()[(EVERY + 1) % N]] = False
    torch.manual_seed(0)
    assert_close(learner(views, EVERY).loss, all_far)


def test_own_views_teach_before_any_graph_is_there():
    step = made()(views_for(Graph().plan, N), EVERY)
    assert float(step.logs["joined"]) == 0 and float(step.loss.detach()) > 0
    assert float(made(own_view=False)(views_for(Graph().plan, N), EVERY).loss.detach()) == 0


def test_the_loss_does_not_change_when_the_views_are_swapped():
    views = views_for(Graph().plan, N)
    losses = []
    for pair in (views, views[::-1]):
        learner = made()
        learner.survey([([families()], EVERY)])
        torch.manual_seed(0)
        losses.append(learner(pair, EVERY).loss.detach())
    assert_close(losses[0], losses[1])


def test_each_graph_has_other_landmarks_and_the_same_seed_the_same():
    learner, again = made(landmarks=6), made(landmarks=6)
    found = []
    for _ in range(2):
        learner.survey([([families()], EVERY)])
        found.append(learner.landmarks.clone())
    again.survey([([families()], EVERY)])
    assert sorted(found[0]) != sorted(found[1]) and torch.equal(again.landmarks, found[0])
    assert [number for number in range(5) if made(every=2).surveys(number)] == [0, 2, 4]


def test_settings_that_do_not_go_with_the_run_are_refused_with_the_cure():
    assert Graph().fitted(BUDGET).misfits(BUDGET) == []
    assert Graph(neighbours=N).misfits(Budget(items=N, batch=4, steps=1, dim=8)) == [
        "24 items have fewer than 24 others: lower --method.neighbours.",
        "of 24 items 1024 cannot be chosen: lower --method.landmarks.",
    ]
    assert "colours" in Graph(own_view=False).cautions()[0]
    with pytest.raises(UserError, match="among more items than 0"):
        Graph().build(Tiny())
    with pytest.raises(UserError, match="2 full views"):
        made()([torch.rand(4, 3, 16, 16)], EVERY[:4])
