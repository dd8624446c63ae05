import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from selfsame.downstream.retrieval import (
    average_precision,
    hit_at,
    ideal_gain,
    mean_average_precision,
    micro_average_precision,
    precision_at,
    r_precision,
    recall_at,
    recall_at_precision,
    trapezoid_precision,
)
from selfsame.errors import UserError

RANKING = torch.tensor([1, 0, 1, 0, 0, 1]).bool()  # the example of the fact sheet: all 3 relevant items are found
SCORES, TRUE = torch.tensor([0.95, 0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([1, 0, 1, 1, 0, 0]).bool()


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        (average_precision(RANKING), 0.7222222),
        (average_precision(RANKING, k=3), 0.5555556),
        (trapezoid_precision(RANKING), 0.6777778),
        (hit_at(RANKING, 1), 1.0),
        (recall_at(RANKING, 3), 0.6666667),
        (precision_at(RANKING, 3), 0.6666667),
        (ideal_gain(RANKING, 6), 0.8710785),
        (r_precision(RANKING), 0.6666667),
    ],
)
def test_of_one_ranking(measure, value):
    assert measure == pytest.approx(value, abs=1e-7)


def test_what_was_not_predicted_counts_against_micro_ap():
    assert micro_average_precision(SCORES, TRUE, total=4) == pytest.approx(0.6041667, abs=1e-7)
    found_only = average_precision_score(TRUE.numpy(), SCORES.numpy())
    assert found_only == pytest.approx(0.8055556, abs=1e-7)
    assert micro_average_precision(SCORES, TRUE) == pytest.approx(found_only)


def test_of_equal_scores_the_wrong_ones_come_first():
    scores = torch.ones(4)
    assert micro_average_precision(scores, torch.tensor([1, 1, 0, 0]).bool()) == pytest.approx((1 / 3 + 2 / 4) / 2)
    value, hit = mean_average_precision(scores[None], torch.tensor([[True, False, False, False]]))
    assert (value, hit) == (0.25, 0.0)
    assert recall_at_precision(scores, torch.tensor([1, 1, 1, 0]).bool(), 0.8) == (0.0, math.inf)


def test_perfect_scores_give_one_whatever_the_order_of_the_pairs():
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    perfect = TRUE.float() + 0.01 * torch.arange(6)
    for measure in (micro_average_precision, lambda s, t: recall_at_precision(s, t, 1.0)[0]):
        assert measure(perfect[order], TRUE[order]) == pytest.approx(1.0)
    assert micro_average_precision(SCORES[order], TRUE[order]) == pytest.approx(micro_average_precision(SCORES, TRUE))
    assert micro_average_precision(SCORES.half(), TRUE) == pytest.approx(
        micro_average_precision(SCORES, TRUE), abs=1e-3
    )


def test_recall_at_precision_is_the_best_threshold_s():
    # Taken from above: 1/1, 1/2, 2/3, 3/4: at three quarters all three are found.
    assert recall_at_precision(SCORES, TRUE, 0.75) == (1.0, pytest.approx(0.7))
    assert recall_at_precision(SCORES, TRUE, 0.8) == (pytest.approx(1 / 3), pytest.approx(0.95))
    assert recall_at_precision(SCORES, TRUE, 0.75, total=6)[0] == 0.5


def test_the_query_itself_is_left_out_and_queries_without_an_answer_do_not_count():
    scores = torch.tensor([[1.0, 0.5, 0.9], [0.2, 1.0, 0.1], [0.3, 0.2, 1.0]])
    labels = torch.tensor([0, 0, 1])
    relevant = labels[:, None] == labels
    value, hit = mean_average_precision(scores, relevant, torch.arange(3))
    assert (value, hit) == (pytest.approx((1 / 2 + 1) / 2), 0.5)


def test_many_queries_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, relevant = rng.permuted(np.tile(np.arange(40.0), (25, 1)), axis=1), rng.random((25, 40)) < 0.2
    expected = np.mean([average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)])
    found, _ = mean_average_precision(torch.from_numpy(scores), torch.from_numpy(relevant))
    assert found == pytest.approx(expected)


def test_nothing_to_find_is_an_error():
    none = torch.zeros(3).bool()
    with pytest.raises(UserError, match="0 relevant items"):
        average_precision(none)
    with pytest.raises(UserError, match="3 relevant items in a ranking, 2 in all"):
        recall_at(torch.ones(3).bool(), 1, total=2)
    with pytest.raises(UserError, match="to none of the queries"):
        mean_average_precision(torch.rand(2, 3), torch.zeros(2, 3).bool())
    with pytest.raises(UserError, match="give one for each"):
        mean_average_precision(torch.rand(2, 3), torch.zeros(3, 2).bool())
