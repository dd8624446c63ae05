import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from selfsame.downstream import knn
from selfsame.downstream.knn import knn_accuracy, knn_votes
from selfsame.errors import UserError

TRAIN, LABELS = tensor([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]]), tensor([0, 1, 1, 0])


def clouds(seed: int, n: int = 40, m: int = 15, d: int = 5, k: int = 4):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, d, generator=g),
        torch.randint(k, (n,), generator=g),
        torch.randn(m, d, generator=g),
        torch.randint(k, (m,), generator=g),
    )


def test_votes_have_the_known_values_where_the_plain_majority_would_err():
    votes = knn_votes(TRAIN, LABELS, tensor([[0.96, 0.28]]), k=3)
    assert votes[0].tolist() == pytest.approx([0.584864, 0.415136], abs=1e-5)


def test_three_similarities_vote_with_the_known_shares():
    train = tensor([[c, math.sqrt(1 - c * c)] for c in (0.9, 0.8, 0.7)])
    votes = knn_votes(train, tensor([0, 1, 2]), tensor([[1.0, 0.0]]), k=3)
    assert votes[0].tolist() == pytest.approx([0.770960, 0.184761, 0.044278], abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 60))
def test_votes_agree_with_the_slow_definition(seed, k):
    train, labels, test, _ = clouds(seed)
    votes = knn_votes(train, labels, test, k=k)
    for one, got in zip(test, votes, strict=True):
        cosine = [float(one @ other / one.norm() / other.norm()) for other in train]
        nearest = sorted(range(len(train)), key=lambda i: -cosine[i])[:k]
        weight = [0.0] * votes.shape[1]
        for i in nearest:
            weight[int(labels[i])] += math.exp(cosine[i] / 0.07)
        assert got.tolist() == pytest.approx([w / sum(weight) for w in weight], abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_only_the_direction_of_a_vector_counts(seed, scale):
    train, labels, test, _ = clouds(seed)
    longer = train * torch.rand(len(train), 1).add(0.5) * scale
    torch.testing.assert_close(knn_votes(longer, labels, test * scale), knn_votes(train, labels, test))


def test_blocks_do_not_change_the_votes(monkeypatch):
    train, labels, test, _ = clouds(0)
    whole = knn_votes(train, labels, test)
    monkeypatch.setattr(knn, "BLOCK", 3 * len(train))
    torch.testing.assert_close(knn_votes(train, labels, test), whole)


def test_every_item_is_its_own_nearest_neighbour():
    train, labels, _, _ = clouds(0)
    assert knn_accuracy(train, labels, train, labels, k=1) == 1.0


def test_a_low_temperature_does_not_overflow():
    votes = knn_votes(TRAIN.half(), LABELS, TRAIN.half(), temperature=1e-4)
    assert votes.isfinite().all()
    assert torch.equal(votes.argmax(dim=1), LABELS)


def test_a_class_without_train_items_counts_as_wrong():
    assert knn_accuracy(TRAIN, LABELS, TRAIN, tensor([0, 1, 2, 7]), k=1) == 0.5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train": TRAIN * float("nan")}, "NaN"),
        ({"test": TRAIN[:, :1]}, "width"),
        ({"train_labels": LABELS[:2]}, "4 train vectors but 2 labels"),
        ({"train_labels": LABELS - 1}, "unlabelled"),
        ({"test": TRAIN[:0], "test_labels": LABELS[:0]}, "shape"),
        ({"k": 0}, "k is 0"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, says):
    given = {"train": TRAIN, "train_labels": LABELS, "test": TRAIN, "test_labels": LABELS}
    with pytest.raises(UserError, match=says):
        knn_accuracy(**(given | change))
