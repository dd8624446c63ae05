import numpy as np
import pytest
import torch

from selfsame.downstream import clusters
from selfsame.errors import UserError


def bundles(count=5, sizes=(60, 50, 40, 30, 20), spread=0.15, d=16, seed=0):
    """Vectors of any length around `count` directions, and which each belongs to."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(d, d)))[0][:count]
    of = np.repeat(np.arange(count), sizes[:count])
    x = directions[of] + spread * rng.normal(size=(len(of), d)) / d**0.5
    order = rng.permutation(len(of))
    return torch.from_numpy(x[order] * rng.uniform(0.1, 9, (len(of), 1))).float(), of[order]


def test_bundles_are_found_and_numbered_by_size():
    x, truth = bundles()
    found = clusters.cluster(x, 5, 0)
    assert np.array_equal(found.of, truth) and found.sizes.tolist() == [60, 50, 40, 30, 20]
    unit = torch.nn.functional.normalize(x, dim=1).numpy()
    for k in range(5):
        assert np.allclose(found.centres[k], unit[truth == k].mean(axis=0), atol=1e-5)
    assert np.allclose(found.distance, np.linalg.norm(unit - found.centres[found.of], axis=1), atol=1e-5)
    members = found.members(2)
    assert set(members) == set(np.flatnonzero(truth == 2)) and (np.diff(found.distance[members]) >= 0).all()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_count_is_found_where_there_are_bundles(count):
    x, _ = bundles(count)
    chosen, scores = clusters.chosen_count(x, 0, (2, 3, 4, 5, 6, 9))
    assert chosen == count and scores[count] == max(scores.values()) > 0.8


def test_counts_that_cannot_be_are_not_tried():
    x, _ = bundles(3, (4, 4, 4))
    assert set(clusters.chosen_count(x, 0)[1]) == {2, 3, 4, 5, 6}
    assert set(clusters.chosen_count(torch.eye(3).repeat(20, 1), 0)[1]) == {2}
    with pytest.raises(UserError, match=r"5 items with 1 different vectors are too few to choose a count from"):
        clusters.chosen_count(torch.ones(5, 3), 0)


def test_centres_of_a_sample_serve_all(monkeypatch):
    x, truth = bundles()
    monkeypatch.setattr(clusters, "FITTED", 80)
    monkeypatch.setattr(clusters, "TRIED", 80)
    monkeypatch.setattr(clusters, "SCORED", 40)
    monkeypatch.setattr(clusters, "BLOCK", 33)
    assert np.array_equal(clusters.cluster(x, 5, 0).of, truth) and clusters.chosen_count(x, 0, (4, 5, 6))[0] == 5


def test_the_same_seed_gives_the_same_clusters():
    x, _ = bundles(spread=3.0)
    one, two = clusters.cluster(x, 7, 3), clusters.cluster(x, 7, 3)
    assert np.array_equal(one.of, two.of) and np.array_equal(one.centres, two.centres)


def test_agreement_has_the_values_worked_by_hand():
    """Clusters {a a b} {b b b}: purity 5/6; mutual information from the table [[2, 1], [0, 3]]."""
    of, labels = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1])
    found = clusters.agreement(of, labels)
    assert found["purity"] == pytest.approx(5 / 6)
    p, q = np.array([[2, 1], [0, 3]]) / 6, np.outer([0.5, 0.5], [1 / 3, 2 / 3])
    information = sum(a * np.log(a / b) for a, b in zip(p.ravel(), q.ravel(), strict=True) if a)
    entropies = np.log(2), -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3)
    assert found["nmi"] == pytest.approx(information / np.mean(entropies))
    # Pairs: 4 together in both of 6 and 7, 15 in all: (4 - 2.8) / (6.5 - 2.8).
    assert found["ari"] == pytest.approx((4 - 6 * 7 / 15) / (6.5 - 6 * 7 / 15))
    perfect = clusters.agreement(1 - of, of)
    assert perfect == {"nmi": 1, "ari": 1, "purity": 1}


def test_agreement_with_chance_is_next_to_none():
    rng = np.random.default_rng(0)
    found = clusters.agreement(rng.integers(4, size=4000), rng.integers(4, size=4000))
    assert abs(found["ari"]) < 0.01 and found["nmi"] < 0.01 and 0.25 < found["purity"] < 0.3


def test_counts_that_cannot_be_met_are_refused():
    with pytest.raises(UserError, match=r"--count 4: 60 items have 3 different vectors. Give 1 to 3 clusters"):
        clusters.cluster(torch.eye(3).repeat(20, 1), 4, 0)
    with pytest.raises(UserError, match=r"hold NaN"):
        clusters.cluster(torch.full((5, 2), torch.nan), 2, 0)
