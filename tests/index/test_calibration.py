import math

import numpy as np
import pytest

from selfsame.errors import UserError
from selfsame.index import calibration
from selfsame.index.calibration import calibrated, far_of, threshold_at

SAME = np.array([0.9, 0.8, 0.7, 0.6, 0.35])
OTHERS = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.15, 0.25, 0.05, 0.65, 0.45])


@pytest.mark.parametrize(("far", "accepted", "false"), [(0.0, 0.6, 0), (0.1, 0.8, 1), (0.2, 0.8, 2)])
def test_the_example_of_the_fact_sheet(far, accepted, false):
    threshold = threshold_at(OTHERS, far)
    assert (threshold <= SAME).mean() == pytest.approx(accepted)
    assert (threshold <= OTHERS).sum() == false


def test_the_largest_scores_are_enough_and_equal_ones_are_refused_together():
    assert threshold_at(np.sort(OTHERS)[-3:], 0.2, total=10) == threshold_at(OTHERS, 0.2)
    threshold = threshold_at(np.array([0.5, 0.5, 0.5, 0.1]), 0.25)
    assert threshold > 0.5
    assert threshold_at(OTHERS, 1.0) == -math.inf


def unit(n, d, seed):
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("asked", [2000, 150])
def test_the_rate_holds_among_all_pairs(monkeypatch, asked):
    monkeypatch.setattr(calibration, "ASKED", asked)
    monkeypatch.setattr(calibration, "ROWS", 64)
    x = unit(500, 16, 0)
    threshold, sample = calibrated(x, 0.01)
    cosines = (x @ x.T)[np.triu_indices(500, 1)]
    assert (cosines >= threshold.value).mean() == pytest.approx(0.01, rel=0.01 if asked == 2000 else 0.1)
    assert int(0.01 * threshold.compared) - threshold.accepted in (0, 1)  # a pair counts from both sides
    assert threshold.compared == min(asked, 500) * 499
    assert abs(np.quantile(sample, 0.5) - np.median(cosines)) < 0.02 and sample.min() >= -1


def test_enough_pairs_are_compared_not_all(monkeypatch):
    monkeypatch.setattr(calibration, "ASKED", 100)
    x = unit(3000, 16, 0)
    threshold, _ = calibrated(x, 0.05)
    assert threshold.compared == 100 * 200 - 100 and not threshold.extrapolated  # 1,000 false accepts
    fresh = unit(1000, 16, 1)
    assert ((fresh @ fresh.T)[np.triu_indices(1000, 1)] >= threshold.value).mean() == pytest.approx(0.05, rel=0.2)


@pytest.mark.parametrize("n", [60, 1000])
def test_unknown_copies_do_not_lift_the_threshold(n):
    x = unit(n, 16, 0)
    copies = x[: n // 3] + 0.02 * unit(n // 3, 16, 1)
    copies /= np.linalg.norm(copies, axis=1, keepdims=True)
    clean, _ = calibrated(x, far_of(n))
    mixed, _ = calibrated(np.concatenate([x, copies]), far_of(n))
    assert mixed.extrapolated and abs(mixed.value - clean.value) < 0.1
    assert (copies * x[: n // 3]).sum(axis=1).min() > mixed.value  # all copies are found
    assert mixed.accepted >= 2 * (n // 3) > 10 * mixed.far * mixed.compared  # and that is far more than by chance


def test_a_small_rate_is_kept_among_other_items():
    threshold, _ = calibrated(unit(500, 32, 0), far_of(500))
    cosines = np.concatenate([(unit(2000, 32, k) @ unit(2000, 32, k + 100).T).ravel() for k in range(1, 4)])
    assert 0.2 * threshold.far < (cosines >= threshold.value).mean() < 3 * threshold.far


def test_too_few_items_are_refused():
    with pytest.raises(UserError, match="1 item: a threshold needs pairs"):
        calibrated(unit(1, 8, 0), 0.1)
    assert far_of(1001) == pytest.approx(2e-5)
    assert -1 <= calibrated(unit(2, 8, 0), far_of(2))[0].value <= 1
