from itertools import combinations
from math import e

import numpy as np
import pytest
import torch

from selfsame.downstream import selection
from selfsame.errors import UserError


def points(seed, n=10, d=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def unit(x):
    return torch.nn.functional.normalize(x.double(), dim=1).numpy()


def radius(x, chosen):
    return np.linalg.norm(unit(x)[:, None] - unit(x)[list(chosen)][None], axis=2).min(axis=1).max()


def likeness(x, chosen):
    return ((1 + unit(x) @ unit(x)[list(chosen)].T) / 2).max(axis=1).sum()


# Against all subsets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [1, 2, 4])
def test_k_centre_is_within_twice_the_best_radius(seed, count):
    x = points(seed)
    best = min(radius(x, some) for some in combinations(range(10), count))
    chosen, far = selection.k_centre(x, count)
    assert len(set(chosen.tolist())) == count and best - 1e-6 <= radius(x, chosen) <= 2 * best + 1e-6
    for k in range(1, count):  # each is the furthest from those before it
        gaps = np.linalg.norm(unit(x)[:, None] - unit(x)[chosen[:k]][None], axis=2).min(axis=1)
        assert gaps[chosen[k]] == pytest.approx(gaps.max(), abs=1e-5) and far[k] == pytest.approx(gaps.max(), abs=1e-3)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [1, 2, 4])
def test_facility_location_is_within_its_bound_of_the_best_and_greedy(seed, count):
    x = points(seed)
    best = max(likeness(x, some) for some in combinations(range(10), count))
    chosen, added = selection.facility_location(x, count)
    assert (1 - 1 / e) * best <= likeness(x, chosen) <= best + 1e-6
    assert added.sum() == pytest.approx(likeness(x, chosen), rel=1e-5) and (np.diff(added) <= 1e-6).all()
    greedily(x, chosen)


def greedily(x, chosen):
    """Each adds as much as any would have: two may add the same to the digit."""
    like, best = (1 + unit(x) @ unit(x).T) / 2, np.zeros(len(x))
    for one in chosen.tolist():
        gains = np.maximum(like - best, 0).sum(axis=1)
        assert gains[one] == pytest.approx(gains.max(), abs=1e-4)
        best = np.maximum(best, like[one])


def test_lazily_it_chooses_as_greedily_of_many(monkeypatch):
    x = points(5, 400, 8)
    monkeypatch.setattr(selection, "TOGETHER", 3)
    monkeypatch.setattr(selection, "BLOCK", 900)
    greedily(x, selection.facility_location(x, 25)[0])


# Known truth ---------------------------------------------------------------------------------------------------------


def uneven():
    """Directions 0 to 4 with 200, 50, 10, 3 and 1 vectors."""
    of = np.repeat(np.arange(5), [200, 50, 10, 3, 1])
    x = torch.eye(8)[torch.from_numpy(of)] + 0.02 * points(0, len(of), 8)
    return x, of


def test_k_centre_takes_one_of_each_bundle_however_rare():
    x, of = uneven()
    assert set(of[selection.k_centre(x, 5)[0]]) == set(range(5))
    assert len(set(of[selection.randomly(len(of), 5, 0)])) < 5


def test_facility_location_takes_the_frequent_ones_first():
    x, of = uneven()
    assert of[selection.facility_location(x, 4)[0]].tolist() == [0, 1, 2, 3]


def test_coverage_is_what_it_says_whatever_the_blocks(monkeypatch):
    x, _ = uneven()
    chosen = np.array([0, 210])
    gaps = np.linalg.norm(unit(x)[:, None] - unit(x)[chosen][None], axis=2).min(axis=1)
    for block in (2**24, 10):
        monkeypatch.setattr(selection, "BLOCK", block)
        assert selection.coverage(x, chosen) == pytest.approx({"radius": gaps.max(), "mean": gaps.mean()}, abs=1e-6)
    assert selection.coverage(x, np.arange(len(x)))["radius"] < 1e-6


def test_each_rule_is_better_by_its_own_measure_than_chance():
    x = points(1, 500, 6)
    chance = [selection.coverage(x, selection.randomly(500, 20, seed)) for seed in range(5)]
    assert selection.coverage(x, selection.k_centre(x, 20)[0])["radius"] < min(one["radius"] for one in chance)
    assert selection.coverage(x, selection.facility_location(x, 20)[0])["mean"] < min(one["mean"] for one in chance)


def test_equal_vectors_are_chosen_once_each():
    x = torch.ones(40, 3)
    for rule in (selection.k_centre, selection.facility_location):
        assert sorted(rule(x, 40)[0].tolist()) == list(range(40))


def test_of_more_than_it_can_compare_facility_location_takes_a_sample():
    x = points(2, 300, 5)
    chosen, _ = selection.facility_location(x, 10, seed=4, most=50)
    assert len(set(chosen.tolist())) == 10 and chosen.max() >= 50
    assert np.array_equal(chosen, selection.facility_location(x, 10, seed=4, most=50)[0])
    with pytest.raises(UserError, match=r"--count 60: facility location chooses among 50 items"):
        selection.facility_location(x, 60, seed=4, most=50)


def test_counts_that_cannot_be_met_are_refused():
    for rule in (selection.k_centre, selection.facility_location):
        for count in (0, 11):
            with pytest.raises(UserError, match=rf"--count {count}: give 1 to 10"):
                rule(points(0), count)
