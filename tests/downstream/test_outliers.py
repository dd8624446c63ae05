import numpy as np
import pytest
import torch

from selfsame.downstream import outliers
from selfsame.errors import UserError


def planted(seed=0, n=300, d=12):
    """A narrow bundle, and six vectors that point elsewhere."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * 0.2
    x[:, 0] += 1
    x[:6] = rng.normal(size=(6, d))
    return torch.from_numpy(x).float(), np.arange(n) < 6


def by_hand(x, k, among=None):
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    gaps = torch.cdist(unit, unit).numpy()
    np.fill_diagonal(gaps, np.inf)
    gaps = gaps if among is None else gaps[:, among]
    return np.sort(gaps, axis=1)[:, k - 1]


@pytest.mark.parametrize("k", [1, 3, 299])
def test_distances_are_those_to_the_kth_other_item_whatever_the_blocks(k, monkeypatch):
    x, _ = planted()
    assert np.allclose(outliers.kth_distances(x, k), by_hand(x, k), atol=1e-6)
    monkeypatch.setattr(outliers, "BLOCK", 7 * 300)
    assert np.allclose(outliers.kth_distances(x, k), by_hand(x, k), atol=1e-6)


def test_items_outside_the_sample_have_neighbours_in_it_and_none_is_its_own():
    x, _ = planted()
    among = outliers.reference(300, seed=1, most=100)
    assert len(among) == 100 == len(np.unique(among)) and np.array_equal(outliers.reference(50, 1, 100), np.arange(50))
    found = outliers.kth_distances(x, 2, among)
    assert np.allclose(found, by_hand(x, 2, among), atol=1e-6) and found.min() > 0


def test_equal_vectors_are_at_distance_0_and_a_vector_of_0_at_1():
    x = torch.eye(5).repeat(2, 1)
    x[4] = x[9] = 0
    found = outliers.kth_distances(x * 3, 1)
    assert found[:4].max() == 0 and found[5:9].max() == 0 and outliers.kth_distances(x, 2)[4] == pytest.approx(1)


def test_planted_strangers_are_found_and_chance_is_not():
    x, strange = planted()
    figures = outliers.found_by(outliers.kth_distances(x, 10), strange)
    assert figures["auroc"] > 0.98 and figures["first"] >= 5 / 6 and figures["average_precision"] > 0.8
    rng = np.random.default_rng(0)
    assert 0.3 < outliers.found_by(rng.random(300), strange)["auroc"] < 0.7


def test_the_figures_are_those_worked_by_hand():
    """Strange at places 1 and 3 of 4: of 4 pairs of strange and other three are in order."""
    figures = outliers.found_by(np.array([4.0, 3, 2, 1]), np.array([True, False, True, False]))
    assert figures == {"auroc": 0.75, "average_precision": pytest.approx((1 + 2 / 3) / 2), "first": 0.5}


def test_what_cannot_be_measured_is_refused():
    x, strange = planted()
    for k in (0, 300):
        with pytest.raises(UserError, match=rf"neighbour {k}: each of 300 items has 299 others"):
            outliers.kth_distances(x, k)
    with pytest.raises(UserError, match=r"1 of 300 vectors hold NaN"):
        outliers.kth_distances(torch.where(torch.arange(300)[:, None] == 4, torch.nan, x), 3)
    with pytest.raises(UserError, match=r"0 of 300 items are strange"):
        outliers.found_by(np.ones(300), ~strange & strange)
