"""How processes find each other. What they compute together, and how they go on without one: tests/processes.py."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as td

from selfsame.engine import dist, shard
from selfsame.errors import UserError
from selfsame.methods.deepcluster import DeepCluster
from tests.conftest import Tiny


def meet(store, count=3):
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda number: dist.meeting_place(store, number, count), range(count)))


def test_all_processes_learn_the_same_new_word_whatever_was_left_in_the_store():
    store = td.HashStore()
    store.set("asks 1", "a word of the dead")
    store.set("asks 2", "another")
    words = [meet(store) for _ in range(3)]
    assert all(len(set(group)) == 1 for group in words)
    assert len({group[0] for group in words}) == 3


def test_processes_that_do_not_come_are_told(monkeypatch):
    monkeypatch.setattr(dist, "PATIENCE", dist.timedelta(seconds=0.2))
    with pytest.raises(UserError, match="of 3 processes, 2 did not come"):
        dist.meeting_place(td.HashStore(), 0, 3)


def test_a_learner_that_looks_at_all_items_is_not_divided():
    with pytest.raises(UserError, match="--shard does not work with methods that look at all items between passes"):
        shard.sharded(DeepCluster(clusters=2).build(Tiny(), 4), dist.device("cpu"))
