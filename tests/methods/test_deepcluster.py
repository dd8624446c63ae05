"""What is true of DeepCluster, of both its versions. Golden values: torch's weighted cross-entropy, and by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods import deepclusterv2
from selfsame.methods.deepcluster import DeepCluster, balance, weighted
from selfsame.methods.deepclusterv2 import NONE, DeepClusterV2, over_heads
from selfsame.nn.kmeans import agreement
from selfsame.nn.whiten import Whiten
from selfsame.records import Budget
from tests.conftest import Tiny
from tests.methods.room import ITEMS, surveyed, views_for

EVERY = torch.arange(ITEMS)


def one(**settings):
    torch.manual_seed(0)
    return DeepCluster(**{"clusters": 3, **settings}).build(Tiny(), ITEMS)


def two(**settings):
    torch.manual_seed(0)
    small = {"hidden": 16, "out": 4, "prototypes": 3, "part_views": 0}
    return DeepClusterV2(**{**small, **settings}).build(Tiny(), ITEMS)


def unread():
    raise AssertionError("the items are looked at")
    yield


# The first ------------------------------------------------------------------------------------------------------------


def test_all_clusters_with_items_weigh_alike():
    """As in a batch drawn uniformly over the clusters that are not empty."""
    labels = tensor([0, 0, 0, 0, 0, 3, 1, 1])
    weights = balance(labels, 5)
    per_cluster = torch.zeros(5).index_add_(0, labels, weights[labels])
    assert_close(per_cluster, tensor([1.0, 1, 0, 1, 0]) * 8 / 3)
    assert_close(weights[labels].sum(), tensor(8.0))


def test_the_loss_is_torchs_weighted_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(6, 4, generator=generator), tensor([0, 3, 1, 1, 0, 0])
    weights = tensor([0.5, 2.0, 1.0, 3.0])
    assert_close(weighted(scores, labels, weights[labels]), F.cross_entropy(scores, labels, weights))
    assert_close(weighted(torch.zeros(6, 4), labels, weights[labels]), tensor(4.0).log())


def test_a_survey_labels_all_items_and_starts_the_last_layer_anew():
    learner = one()
    state = {name: value.clone() for name, value in learner.state_dict().items()}
    learner.survey(surveyed(ITEMS))
    after = learner.state_dict()
    assert len(learner.labels.unique()) == 3
    assert_close(learner.weights, balance(learner.labels, 3))
    assert (learner.top.bias == 0).all() and 0.003 < float(learner.top.weight.detach().std()) < 0.03
    assert all(torch.equal(after[name], state[name]) for name in state if name.startswith("encoder."))
    assert all(part.training for part in learner.modules())


def test_kinds_that_differ_get_labels_of_their_own():
    kinds = torch.arange(ITEMS) % 3
    pictures = torch.zeros(ITEMS, 3, 16, 16)
    pictures[EVERY, kinds] = 1
    pictures += 0.01 * torch.rand(pictures.shape, generator=torch.Generator().manual_seed(0))
    learner = one()
    learner.survey([([pictures[:8]], EVERY[:8]), ([pictures[8:]], EVERY[8:])])
    assert float(agreement(kinds, learner.labels)) == pytest.approx(1)
    learner.survey([([pictures], EVERY)])
    assert float(learner.stability) == pytest.approx(1)  # the same clusters, whatever they are called


def test_every_clustering_has_a_seed_of_its_own():
    learner = one(clusters=6, iterations=1)
    found = []
    for _ in range(3):
        learner.survey(surveyed(ITEMS))
        found.append((learner.labels.clone(), learner.top.weight.detach().clone()))
    assert not torch.equal(found[0][0], found[1][0]) and not torch.equal(found[0][1], found[1][1])
    again = one(clusters=6, iterations=1)
    again.survey(surveyed(ITEMS))
    assert torch.equal(again.labels, found[0][0])


def test_the_labels_of_the_rows_are_those_of_their_items():
    learner = one()
    learner.survey(surveyed(ITEMS))
    (view,) = views_for(learner.method.plan)
    some = tensor([7, 2, 2, 11])
    with torch.no_grad():
        loss = learner([view[some]], some).loss
        scores = learner.top(learner.encoder(view[some]))
    assert_close(loss, F.cross_entropy(scores, learner.labels[some], learner.weights))


def test_clusters_are_found_every_so_many_passes():
    assert [number for number in range(7) if one(every=3).surveys(number)] == [0, 3, 6]


def test_clusters_are_fitted_to_the_items_unless_given():
    budget = Budget(items=50_000, batch=256, steps=1000, dim=64)
    assert DeepCluster().fitted(budget).clusters == 500
    assert DeepCluster(clusters=7).fitted(budget).clusters == 7
    assert (DeepCluster().clusters, DeepCluster().every) == (10_000, 1)
    small = Budget(items=9, batch=4, steps=10, dim=8)
    assert DeepCluster().fitted(small).misfits(small) == []
    assert DeepCluster(clusters=10).misfits(small) == [
        "10 clusters are more than the 9 items that are sorted into them: lower --method.clusters to 2 or so."
    ]


def test_a_last_layer_has_time_to_learn_its_clusters():
    budget = Budget(items=9_500, batch=64, steps=624, dim=128)
    fitted = DeepCluster().fitted(budget)
    assert (fitted.every, fitted.components, fitted.output_norm) == (3, 32, "whiten")
    long = Budget(items=1_281_167, batch=256, steps=1_000_000, dim=4096)
    assert DeepCluster().fitted(long) == DeepCluster(clusters=10_000, every=1, components=256, output_norm="none")
    assert DeepCluster(every=1, output_norm="none").fitted(budget).every == 1


def test_the_last_layer_sees_vectors_without_correlation():
    learner = one(output_norm="whiten")
    learner.survey(surveyed(ITEMS))
    (view,) = views_for(learner.method.plan)
    loss = learner([view], EVERY).loss
    scores = learner.top(Whiten(8)(learner.encoder(view)))
    assert_close(loss, F.cross_entropy(scores, learner.labels, learner.weights))


# The second ----------------------------------------------------------------------------------------------------------


def test_the_loss_over_heads_is_golden():
    z, prototypes = tensor([[1.0, 0], [0.6, 0.8]]), tensor([[[1.0, 0], [0, 1]], [[0, 1.0], [-1, 0]]])
    labels = tensor([[0, 1], [1, 0]])
    scores = [[[1.0, 0], [0.6, 0.8]], [[0, -1.0], [0.8, -0.6]]]
    by_hand = [F.cross_entropy(tensor(s) / 0.5, label) for s, label in zip(scores, labels, strict=True)]
    assert_close(over_heads(z, prototypes, labels, 0.5), torch.stack(by_hand).mean())
    assert_close(over_heads(0 * z, prototypes, labels, 0.5), tensor(2.0).log())


def test_rows_without_a_label_count_for_nothing():
    z, prototypes = tensor([[1.0, 0], [0.6, 0.8]]), tensor([[[1.0, 0], [0, 1]]])
    half = over_heads(z, prototypes, tensor([[0, NONE]]), 0.5)
    assert_close(half, over_heads(z[:1], prototypes, tensor([[0]]), 0.5))
    assert float(over_heads(z, prototypes, tensor([[NONE, NONE]]), 0.5)) == 0


def test_vectors_of_both_full_views_are_kept_by_item():
    learner = two(part_views=1)
    views, some = views_for(learner.method.plan), tensor([7, 2, 11])
    learner([view[some] for view in views], some)
    kept = learner.memory.norm(dim=2)
    assert_close(kept[:, some], torch.ones(2, 3))
    assert kept.sum() == pytest.approx(6)
    assert not torch.equal(learner.memory[0, 7], learner.memory[1, 7])


def test_items_are_looked_at_before_the_first_pass_and_then_never_again():
    learner = two()
    learner.survey(surveyed(ITEMS))
    assert_close(learner.memory.norm(dim=2), torch.ones(2, ITEMS))
    assert all(len(labels.unique()) == 3 for labels in learner.labels)
    assert learner.surveys(1) and learner.surveys(7)
    with torch.no_grad():
        learner.memory.copy_(learner.memory.flip(1))
    before = learner.labels.clone()
    learner.survey(unread())
    assert int(learner.clusterings) == 2 and not torch.equal(before, learner.labels)


def test_heads_cluster_the_views_in_turn_from_different_seeds(monkeypatch):
    calls = []

    def noted(x, k, seed, iterations, spherical):
        calls.append((x.clone(), seed, spherical))
        return torch.zeros(k, x.shape[1]), torch.zeros(len(x), dtype=torch.long)

    monkeypatch.setattr(deepclusterv2, "kmeans", noted)
    learner = two(heads=3)
    learner.survey(surveyed(ITEMS))
    learner.memory[1] += 1
    learner.survey(unread())
    assert len({seed for _, seed, _ in calls}) == 6 and all(spherical for *_, spherical in calls)
    for call, view in zip(calls[3:], (0, 1, 0), strict=True):
        assert torch.equal(call[0], learner.memory[view])


def test_prototypes_are_the_centroids_and_stand_still_while_the_rest_learns():
    learner = two()
    learner.survey(surveyed(ITEMS))
    assert not any("prototypes" in name for name, _ in learner.named_parameters())
    assert_close(learner.prototypes.norm(dim=2), torch.ones(3, 3))
    for head, labels in enumerate(learner.labels):
        assert torch.equal((learner.memory[head % 2] @ learner.prototypes[head].T).argmax(dim=1), labels)
    before = learner.prototypes.clone()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    learner(views_for(learner.method.plan), EVERY).loss.backward()
    optimizer.step()
    assert torch.equal(before, learner.prototypes)


def test_every_crop_predicts_and_the_full_views_are_interchangeable():
    learner = two(part_views=2)
    learner.survey(surveyed(ITEMS))
    views = [view.requires_grad_() for view in views_for(learner.method.plan)]
    loss = learner(views, EVERY).loss
    loss.backward()
    assert all(float(view.grad.abs().sum()) > 0 for view in views)
    one_way, other = (learner([*pair, *views[2:]], EVERY).loss for pair in (views[:2], views[1::-1]))
    assert_close(one_way, other)


def test_items_without_a_label_teach_nothing_yet():
    learner = two()
    step = learner(views_for(learner.method.plan), EVERY)
    assert float(step.loss.detach()) == 0 and float(step.logs["labelled"]) == 0


def test_prototypes_and_crops_are_fitted_unless_given():
    short = Budget(items=9_000, batch=64, steps=600, dim=256)
    fitted = DeepClusterV2().fitted(short)
    assert (fitted.prototypes, fitted.part_views, fitted.hidden) == (300, 0, 512)
    assert DeepClusterV2(part_views=3, prototypes=9).fitted(short).plan.part == 3
    long = Budget(items=1_281_167, batch=4096, steps=125_000, dim=2048)
    assert DeepClusterV2().fitted(long) == DeepClusterV2(prototypes=3000, hidden=2048, part_views=4)
    assert DeepClusterV2(prototypes=9_001).misfits(short) == [
        "9001 prototypes are more than the 9000 items that are sorted into them: lower --method.prototypes to 900 or "
        "so."
    ]


# Both ----------------------------------------------------------------------------------------------------------------


def test_an_own_loop_is_told_of_missing_items_and_wrong_views():
    with pytest.raises(UserError, match="at least as many items, not in 0"):
        DeepCluster(clusters=3).build(Tiny())
    with pytest.raises(UserError, match="at least as many items, not in 2"):
        DeepClusterV2(prototypes=3).build(Tiny(), 2)
    views = torch.rand(2, 4, 3, 16, 16)
    with pytest.raises(UserError, match="a list of 1 full view "):
        one()(list(views), EVERY[:4])
    with pytest.raises(UserError, match="a list of 1 full view "):
        one()([views[0]], EVERY[:3])
    with pytest.raises(UserError, match="a list of 2 full view"):
        two()([views[0]], EVERY[:4])
    with pytest.raises(UserError, match="the survey showed no items"):
        one().survey([])
