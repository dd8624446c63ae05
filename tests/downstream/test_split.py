import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from selfsame.downstream.split import budget, numbered, stratified_split
from selfsame.errors import UserError

COUNTS = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def labels_of(counts: list[int], seed: int) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def test_train_and_test_share_one_numbering_with_unseen_classes_last():
    names, train, test = numbered(["dog", "cat", "dog"], ["ant", "dog", "cat"])
    assert names == ["cat", "dog", "ant"]
    assert train.tolist() == [1, 0, 1] and test.tolist() == [2, 1, 0]


@settings(max_examples=50, deadline=None)
@given(COUNTS, st.integers(0, 99), st.floats(0.1, 100).map(lambda share: round(share, 1)))
def test_a_share_takes_its_part_of_every_class(counts, seed, share):
    labels = labels_of(counts, seed)
    taken = labels[budget(labels, f"{share}%", seed)].bincount(minlength=len(counts)).tolist()
    assert all(abs(got - share / 100 * count) <= 0.5001 or got == 1 for got, count in zip(taken, counts, strict=True))
    assert min(taken) >= 1


@settings(max_examples=50, deadline=None)
@given(COUNTS, st.integers(0, 99))
def test_a_smaller_budget_is_part_of_a_larger_one(counts, seed):
    labels = labels_of(counts, seed)
    sets = [set(budget(labels, wanted, seed).tolist()) for wanted in ("1/class", "1%", "10%", "50%", "100%", "all")]
    assert all(small <= large for small, large in itertools.pairwise(sets))
    assert len(sets[-2]) == len(sets[-1]) == len(labels)


def test_a_number_takes_that_many_of_every_class_and_another_seed_takes_others():
    labels = labels_of([30, 12, 50], 0)
    one, again, other = (budget(labels, "10/class", seed) for seed in (0, 0, 1))
    assert labels[one].bincount().tolist() == [10, 10, 10]
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(one, one.unique())


@settings(max_examples=50, deadline=None)
@given(COUNTS, st.integers(0, 99), st.floats(0.05, 0.95))
def test_a_stratified_split_parts_every_class_and_loses_nothing(counts, seed, share):
    labels = labels_of(counts, seed)
    kept, held = stratified_split(labels, share, seed)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(len(labels)))
    for label, count in enumerate(counts):
        got = int((labels[held] == label).sum())
        assert got == 0 if count == 1 else 1 <= got <= count - 1
        assert count == 1 or abs(got - share * count) <= 1


@pytest.mark.parametrize("wanted", ["", "some", "0%", "101%", "-1%", "0/class", "10/classes", "1.5/class", "10"])
def test_a_budget_that_cannot_be_read_is_refused(wanted):
    with pytest.raises(UserError, match="cannot be read"):
        budget(tensor([0, 1]), wanted, 0)


def test_a_budget_that_cannot_be_met_names_the_most_that_can():
    with pytest.raises(UserError, match="at most 3/class"):
        budget(labels_of([3, 20], 0), "10/class", 0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_split_that_is_none_is_refused(share):
    with pytest.raises(UserError, match="between 0 and 1"):
        stratified_split(tensor([0, 1]), share, 0)
