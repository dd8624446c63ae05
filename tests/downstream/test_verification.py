import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from selfsame.downstream import verification as v
from selfsame.errors import UserError

SAME = np.array([0.9, 0.8, 0.7, 0.6, 0.35])
DIFFERENT = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.15, 0.25, 0.05, 0.65, 0.45])
SCORES, TRUTH = np.concatenate([SAME, DIFFERENT]), np.arange(15) < 5


def drawn(seed, n=400, gap=1.0):
    rng = np.random.default_rng(seed)
    same = rng.random(n) < 0.3
    return rng.normal(size=n) + gap * same, same


# The example worked by hand ------------------------------------------------------------------------------------------


def test_the_example_has_its_area_and_its_equal_error_rate():
    assert v.auc(SCORES, TRUTH) == pytest.approx(0.90)
    assert v.equal_error_rate(v.roc(SCORES, TRUTH)) == (pytest.approx(0.20), 0.5)


@pytest.mark.parametrize(
    ("far", "threshold", "tar", "achieved"), [(0, 0.7, 0.6, 0), (0.1, 0.6, 0.8, 0.1), (0.2, 0.5, 0.8, 0.2)]
)
def test_the_example_has_its_thresholds(far, threshold, tar, achieved):
    assert v.threshold_at(SCORES, TRUTH, far) == threshold
    rates = v.rates_at(SCORES, TRUTH, threshold)
    assert (rates.tar, rates.far) == (pytest.approx(tar), pytest.approx(achieved))
    assert (rates.same, rates.different) == (5, 10)


def test_the_example_has_its_least_cost():
    """By hand: at a prior of 1 % false accepts cost 99 times as much, so the threshold is 0.7: 0.01 × 0.4 / 0.01."""
    curve = v.roc(SCORES, TRUTH)
    assert v.min_dcf(curve, 0.01) == pytest.approx(0.4)
    assert v.min_dcf(curve, 0.05) == pytest.approx(0.4)
    assert v.min_dcf(curve, 0.5) == pytest.approx(0.3)  # at 0.6: (0.5 × 0.2 + 0.5 × 0.1) / 0.5
    assert v.min_dcf(curve, 0.05, miss=10) == pytest.approx(min(0.5 * 0.2 + 0.95 * 0.1, 0.5 * 0.4) / 0.5)


def test_between_two_points_the_equal_error_rate_lies_on_the_line():
    """2 same, 2 different: (FAR, FRR) goes (0, .5) to (.5, .5) to (.5, 0): they meet at .5."""
    assert v.equal_error_rate(v.roc(np.array([4.0, 2, 3, 1]), np.array([True, True, False, False])))[0] == 0.5
    # One different pair with the same score as one of two same ones: (0, 1) to (1/3, 1/2) to (1/3, 0).
    rate, threshold = v.equal_error_rate(
        v.roc(np.array([3.0, 2, 3, 1, 0]), np.array([True, True, False, False, False]))
    )
    assert rate == pytest.approx(1 / 3) and 2 < threshold < 3


def test_perfect_and_useless_scores_are_told_apart():
    perfect = v.roc(np.array([2.0, 3, 0, 1]), np.array([True, True, False, False]))
    assert v.equal_error_rate(perfect)[0] == 0 and v.min_dcf(perfect, 0.01) == 0
    useless = v.roc(np.ones(6), np.arange(6) < 3)
    assert v.equal_error_rate(useless)[0] == pytest.approx(0.5) and v.min_dcf(useless, 0.01) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_they_agree_with_what_can_be_counted(seed):
    scores, same = drawn(seed)
    pairs = scores[same][:, None] - scores[~same][None]
    assert v.auc(scores, same) == pytest.approx((pairs > 0).mean()) == roc_auc_score(same, scores)
    curve = v.roc(scores, same)
    rate, threshold = v.equal_error_rate(curve)
    assert abs((scores[~same] >= threshold).mean() - rate) < 0.02 > abs((scores[same] < threshold).mean() - rate)
    costs = [0.05 * (scores[same] < t).mean() + 0.95 * (scores[~same] >= t).mean() for t in [*scores, math.inf]]
    assert v.min_dcf(curve, 0.05) == pytest.approx(min(costs) / 0.05)


# The threshold -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [0, 0.001, 0.01, 0.29, 0.5])
@pytest.mark.parametrize("ties", [False, True])
def test_it_is_the_smallest_score_that_keeps_to_the_rate(far, ties):
    scores, same = drawn(3)
    scores = scores.round(1) if ties else scores
    threshold = v.threshold_at(scores, same, far)
    assert (scores[~same] >= threshold).mean() <= far
    below = scores[scores < threshold].max()
    assert (scores[~same] >= below).mean() > far


def test_29_of_100_are_29_per_cent():
    same = np.arange(101) == 100
    assert v.threshold_at(np.append(np.arange(100.0), 200), same, 0.29) == 71


def test_where_a_different_pair_is_the_likest_nothing_is_accepted():
    scores, same = np.array([1.0, 0.5]), np.array([False, True])
    threshold = v.threshold_at(scores, same, 0.0)
    assert threshold > 1 and v.rates_at(scores, same, threshold).tar == 0


def test_a_threshold_keeps_its_rate_on_other_pairs_of_the_kind():
    (a, one), (b, two) = drawn(1, 20_000), drawn(2, 20_000)
    rates = v.rates_at(b, two, v.threshold_at(a, one, 0.05))
    assert rates.far_interval[0] < 0.05 < rates.far_interval[1] and rates.tar > 0.2


def test_wilson_has_its_values_and_a_width_at_the_ends():
    assert v.wilson(1, 10) == pytest.approx((0.017876, 0.404150), abs=1e-5)  # R: binom.confint(1, 10, method="wilson")
    assert v.wilson(0, 100) == pytest.approx((0, 0.036993), abs=1e-5) and v.wilson(100, 100)[1] == 1
    assert v.resolved_by(1e-4) == 30_000


# Pairs ---------------------------------------------------------------------------------------------------------------


def test_cosines_are_those_of_the_rows_however_many():
    vectors = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    vectors[3] = 0
    pairs = np.random.default_rng(0).integers(50, size=(70_000, 2))
    found = v.cosines(vectors, pairs)
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    assert np.allclose(found, (unit @ unit.T)[pairs[:, 0], pairs[:, 1]], atol=1e-6)
    assert (found[(pairs == 3).any(axis=1)] == 0).all()


@pytest.mark.parametrize("width", [1, 4096, v.HELD + 1])
def test_of_wide_vectors_few_are_held_at_once(width, monkeypatch):
    held = []
    double = torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda self: held.append(self.numel()) or double(self))
    vectors = torch.ones(2, width)
    assert np.allclose(v.cosines(vectors, np.array([[0, 1]] * 100)), 1)
    assert max(held) <= max(v.HELD, width)


def test_of_few_items_all_pairs_are_taken_once():
    labels = np.array([0, 0, 0, 1, 1, 2])
    pairs, same = v.pairs_of(labels, 1000, 0)
    assert len(pairs) == 15 and len(np.unique(pairs, axis=0)) == 15 and same.sum() == 4
    assert (same == (labels[pairs[:, 0]] == labels[pairs[:, 1]])).all()


@pytest.mark.parametrize("items", [300, 5000])
def test_of_many_pairs_as_many_as_wanted_are_drawn_by_the_seed(items):
    labels = np.random.default_rng(0).integers(6, size=items)
    pairs, same = v.pairs_of(labels, 900, 0)
    assert same.sum() == (~same).sum() == 900 and (pairs[:, 0] < pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert (same == (labels[pairs[:, 0]] == labels[pairs[:, 1]])).all()
    assert np.array_equal(pairs, v.pairs_of(labels, 900, 0)[0]) and not np.array_equal(
        pairs, v.pairs_of(labels, 900, 1)[0]
    )


def test_of_many_items_with_few_same_pairs_all_of_these_are_taken():
    labels = np.arange(4000)
    labels[1], labels[3999] = 0, 7
    pairs, same = v.pairs_of(labels, 500, 0)
    assert {tuple(pair) for pair in pairs[same].tolist()} == {(0, 1), (7, 3999)} and (~same).sum() == 500


def test_identities_are_what_same_pairs_join():
    pairs = np.array([[0, 1], [1, 2], [3, 4], [2, 3], [0, 5]])
    same = np.array([True, True, True, False, False])
    found = v.identities_of(pairs, same, 6)
    assert found[0] == found[1] == found[2] and found[3] == found[4] and len(set(found.tolist())) == 3
    with pytest.raises(UserError, match=r"1 of 6 pairs are said to differ, though .*the first is pair 6. Correct"):
        v.identities_of(np.vstack([pairs, [0, 2]]), np.append(same, False), 6)


@pytest.mark.parametrize("seed", range(4))
def test_an_identity_is_in_one_part_only(seed):
    identities = np.random.default_rng(seed).integers(20, size=400)
    side = v.sides_of(identities, 0.5, seed)
    assert not set(identities[side]) & set(identities[~side]) and 0.4 < side.mean() < 0.6
    few = v.sides_of(np.array([0] * 50 + [1, 2, 3]), 0.5, seed)  # whatever their sizes
    assert len(set(np.array([0] * 50 + [1, 2, 3])[few])) == 2


# Wrong input ---------------------------------------------------------------------------------------------------------


def test_scores_that_cannot_be_judged_are_refused():
    with pytest.raises(UserError, match=r"all 3 pairs are the same"):
        v.roc(np.ones(3), np.ones(3, bool))
    with pytest.raises(UserError, match=r"no finite numbers"):
        v.auc(np.array([np.nan, 1]), np.array([True, False]))
    with pytest.raises(UserError, match=r"2 scores for 1 pairs"):
        v.rates_at(np.ones(2), np.ones(1, bool), 0.5)
    with pytest.raises(UserError, match=r"false-accept rate is 1"):
        v.threshold_at(SCORES, TRUTH, 1)
    with pytest.raises(UserError, match=r"3 identities: at least four"):
        v.sides_of(np.array([0, 1, 2]), 0.5, 0)
