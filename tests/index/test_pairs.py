import numpy as np
import pytest
import torch

from selfsame.index import pairs as room
from selfsame.index.pairs import Collected, exact_pairs, near_pairs, thinned


def planted(n=600, d=32, copies=60, noise=0.15, seed=0):
    """Random unit vectors, of which the last `copies` are near copies of the first ones."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)).astype(np.float32)
    x[-copies:] = x[:copies] + noise * rng.standard_normal((copies, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def brute(x, threshold, part=None):
    one, two = np.nonzero(np.triu(x @ x.T, 1) >= threshold)
    keep = slice(None) if part is None else part[one] != part[two]
    return np.stack([one[keep], two[keep]], axis=1)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(room, "ROWS", 50)
    monkeypatch.setattr(room, "COLUMNS", 70)


def test_by_blocks_no_pair_is_missed_and_none_found_twice(small_blocks):
    x = planted()
    found, scores = exact_pairs(torch.from_numpy(x), 0.6)
    assert found.tolist() == brute(x, 0.6).tolist() and len(found) > 60
    np.testing.assert_allclose(scores, (x[found[:, 0]] * x[found[:, 1]]).sum(1), atol=1e-6)


def test_between_parts_only_pairs_of_different_parts_are_found(small_blocks):
    x = planted()
    part = (np.arange(600) % 7 < 3).astype(int)
    found, _ = exact_pairs(torch.from_numpy(x), 0.6, part)
    assert found.tolist() == brute(x, 0.6, part).tolist() and len(found) >= 20
    cells = near_pairs(x, 0.6, part, exact=10)
    assert {tuple(pair) for pair in cells.pairs.tolist()} <= {tuple(pair) for pair in found.tolist()}
    assert len(cells.pairs) > 0.9 * len(found)


def test_cells_find_most_pairs_and_say_what_share():
    x = planted(4000, copies=400)
    true = {tuple(pair) for pair in brute(x, 0.8).tolist()}
    join = near_pairs(x, 0.8, exact=100)
    found = {tuple(pair) for pair in join.pairs.tolist()}
    assert found <= true and not join.exact and join.cells == 128
    real = len(found) / len(true)
    assert real > 0.97 and join.judged > 30
    assert abs(join.recall - real) < 0.03
    assert near_pairs(x, 0.8, exact=4000).exact


def test_fewer_cells_looked_into_would_find_less_and_the_measure_sees_it(monkeypatch):
    x = planted(4000, copies=400, noise=0.6)
    monkeypatch.setattr(room, "PROBES", (1,))
    join = near_pairs(x, 0.8, exact=100)
    true = len(brute(x, 0.8))
    real = len(join.pairs) / true
    assert join.probes == 1 and real < 0.9
    assert join.recall == pytest.approx(real, abs=0.12)


def test_without_a_true_pair_the_share_is_unknown():
    x = planted(2000, copies=1)
    join = near_pairs(x, 0.999999, exact=100)
    assert join.recall is None and join.judged == 0 and join.probes == 8 and not len(join.pairs)


def test_a_thousand_items_all_alike_keep_few_pairs_but_one_with_the_best(monkeypatch, small_blocks):
    monkeypatch.setattr(room, "LIMIT", 20_000)
    x = np.ones((1000, 4), np.float32) / 2
    found, _ = exact_pairs(torch.from_numpy(x), 0.9)
    assert len(found) < 100_000 < 1000 * 999 / 2
    assert {tuple(pair) for pair in found.tolist()} >= {(0, k) for k in range(1, 1000)}


def test_thinning_keeps_the_first_partners_of_the_worse_item_and_one_of_the_better():
    low, high = np.triu_indices(6, 1)
    one, two, _ = thinned(low, high, np.zeros(len(low)), most=2)
    kept = list(zip(one.tolist(), two.tolist(), strict=True))
    assert kept == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 2), (1, 3), (1, 4), (1, 5), (2, 3), (3, 4), (4, 5)]
    collected = Collected(6)
    collected.add(np.array([3, 1]), np.array([1, 3]), np.array([0.5, 0.5]))
    assert collected.found()[0].tolist() == [[1, 3]]
