import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from selfsame.downstream.metrics import balanced_accuracy, confusion, macro_f1, top_k_accuracy
from selfsame.errors import UserError

SCORES = tensor([[2.0, 1, 0], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]])
LABELS = tensor([0, 1, 2, 0, 2, 2])
PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50)


def test_the_known_scores_come_out():
    predicted = SCORES.argmax(dim=1)
    assert top_k_accuracy(SCORES, LABELS) == pytest.approx(2 / 3)
    assert top_k_accuracy(SCORES, LABELS, k=2) == 1.0 == top_k_accuracy(SCORES, LABELS, k=9)
    assert balanced_accuracy(predicted, LABELS) == pytest.approx(0.7222222)
    assert macro_f1(predicted, LABELS) == pytest.approx(0.6555556)
    assert confusion(predicted, LABELS).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


@settings(max_examples=50, deadline=None)
@given(PAIRS)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_scores_agree_with_scikit_learn(pairs):
    predicted, labels = tensor(pairs).T
    truth, guess = labels.numpy(), predicted.numpy()
    assert balanced_accuracy(predicted, labels) == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, guess))
    assert macro_f1(predicted, labels) == pytest.approx(sklearn.metrics.f1_score(truth, guess, average="macro"))


def test_an_empty_set_is_no_score():
    with pytest.raises(UserError, match="0 predictions"):
        balanced_accuracy(torch.zeros(0).long(), torch.zeros(0).long())
