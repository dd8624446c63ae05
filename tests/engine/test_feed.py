import os
import pickle
import signal
import time
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsame.engine.feed import Batch, BlockOrder, Order, Patient, Steps, Survey, feed, order_of
from selfsame.errors import UnreadableItem, UserError
from selfsame.types import Draws, mixed


class Numbers:
    """Items that are their own numbers; some are broken."""

    labels = blocks = None

    def __init__(self, n, broken=()):
        self.n, self.broken = n, set(broken)

    def __len__(self):
        return self.n

    def name(self, i):
        return f"item {i}"

    def read(self, i):
        if i in self.broken:
            raise UnreadableItem("cut short")
        return i

    def fit(self, stats):
        pass


def sample(source, items, draws):
    values = [source.attempt(i, source.read) for i in items]
    return [torch.tensor(values).float()[:, None] + draws.uniform(1)]


@given(st.integers(1, 5000), st.integers(0, 2**31), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_pass_sees_every_item_once(n, seed, number):
    places = np.arange(n * number, n * (number + 1))
    assert sorted(Order(n, seed).at(places)) == list(range(n))


def test_passes_and_seeds_give_different_orders_and_places_can_be_asked_in_any_way():
    order = Order(1000, 0)
    first, second = order.at(np.arange(1000)), order.at(np.arange(1000, 2000))
    assert (first != second).mean() > 0.9
    assert (first != Order(1000, 1).at(np.arange(1000))).mean() > 0.9
    assert order.at(np.array([7, 1999, 3])).tolist() == [first[7], second[999], first[3]]


def test_the_order_looks_like_chance():
    """Mean distance of neighbours in a random permutation of n is n / 3."""
    spots = Order(10_000, 3).at(np.arange(10_000))
    assert np.abs(np.diff(spots)).mean() == pytest.approx(10_000 / 3, rel=0.05)
    assert abs(np.corrcoef(np.arange(10_000), spots)[0, 1]) < 0.05


def test_a_billion_items_need_no_memory():
    assert 0 <= int(Order(10**9, 0).at(np.array([123_456_789_012]))[0]) < 10**9


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 8), st.integers(0, 2**31), st.integers(0, 3)
)
@settings(max_examples=60, deadline=None)
def test_items_in_blocks_come_once_a_pass_from_few_blocks_at_a_time(lengths, window, seed, number):
    n = sum(lengths)
    starts = np.cumsum([0, *lengths[:-1]])
    order = BlockOrder(starts, n, window, seed)
    items = order.at(np.arange(n * number, n * (number + 1)))
    assert sorted(items) == list(range(n))
    blocks = np.searchsorted(starts, items, side="right") - 1
    assert np.array_equal(order.at(np.array([n * number + n - 1])), items[-1:])  # asked alone it is the same
    for block in range(len(lengths)):  # read once: between its first and its last item come no more than the window's
        where = np.flatnonzero(blocks == block)
        assert len(set(blocks[where[0] : where[-1] + 1])) <= window


def test_blocks_are_mixed_and_no_pass_is_like_another():
    order = BlockOrder(np.arange(0, 10_000, 100), 10_000, 10, 0)
    first, second = order.at(np.arange(10_000)), order.at(np.arange(10_000, 20_000))
    assert (first != second).mean() > 0.99
    assert len(set(first[:256] // 100)) == 10  # a batch sees all blocks of its window
    assert np.abs(np.diff(first[:1000] // 100)).mean() > 10  # that are not neighbours at rest


def test_only_blocks_with_items_to_learn_from_count():
    source = Numbers(50)
    source.blocks, source.window = np.array([0, 10, 20, 30, 40]), 2
    items = np.array([3, 4, 12, 31, 32, 33])
    order = order_of(source, items, 0)
    assert isinstance(order, BlockOrder) and order.starts.tolist() == [0, 2, 3]
    assert sorted(items[order.at(np.arange(6, 12))]) == items.tolist()


def test_draws_do_not_depend_on_how_the_batch_is_divided():
    whole = Draws(1, 5, 16)
    parts = [Draws(1, 5, 16, slice(k, k + 4)) for k in range(0, 16, 4)]
    for call in (lambda d: d.uniform(3), lambda d: d.normal(2), lambda d: d.order(4)):
        assert torch.equal(call(whole), torch.cat([call(part) for part in parts]))
    assert not torch.equal(Draws(1, 5, 16).uniform(3), Draws(1, 6, 16).uniform(3))
    assert not torch.equal(Draws(1, 5, 16).uniform(3), Draws(1, 5, 16, stream=1).uniform(3))
    assert len(Draws(1, 5, 16, slice(4, 8))) == 4


def test_seeds_are_well_spread():
    assert len({mixed(a, b) for a in range(50) for b in range(50)}) == 2500
    assert mixed(1, 2) != mixed(2, 1)


def made(n=20, broken=(), batch=6, rows=None):
    return Steps(Numbers(n, broken), np.arange(n), sample, batch, rows or slice(0, batch), seed=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_and_without_workers_and_from_any_step(workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches = list(feed(made(broken=[4]), 0, 8, workers))
    assert torch.equal(before, torch.get_rng_state())
    assert [batch.step for batch in batches] == list(range(8))
    alone = made(broken=[4])
    for batch in batches:
        assert torch.equal(batch.samples[0], alone[batch.step].samples[0])
    late = list(feed(made(broken=[4]), 5, 8, workers))
    assert all(torch.equal(a.samples[0], b.samples[0]) for a, b in zip(late, batches[5:], strict=True))


def test_two_processes_share_the_batch_of_one():
    whole = made()[2].samples[0]
    halves = [made(rows=slice(k, k + 3))[2].samples[0] for k in (0, 3)]
    assert torch.equal(whole, torch.cat(halves))


def test_an_unreadable_item_gives_way_to_another_and_is_reported_once():
    steps = made(n=6, broken=[2, 3], batch=6)
    first, second = steps[0], steps[1]
    assert first.skipped == {2: "cut short", 3: "cut short"}
    assert second.skipped == {}
    read = sorted(first.samples[0].floor().int().flatten().tolist())
    assert set(read) == {0, 1, 4, 5} and len(read) == 6


def test_where_many_neighbours_are_damaged_no_single_item_stands_in_for_them():
    steps = made(n=1000, broken=range(400, 600), batch=1000)
    read = steps[0].samples[0].floor().int().flatten()
    counts = torch.bincount(read, minlength=1000)
    assert not counts[400:600].any() and counts.sum() == 1000
    assert counts.max() <= 5 and (counts > 1).sum() > 150


def test_when_nothing_can_be_read_it_says_so():
    with pytest.raises(UserError, match=r"none of 3 items can be read.*cut short"):
        made(n=3, broken=[0, 1, 2])[0]


def test_a_patient_source_survives_pickling():
    source = pickle.loads(pickle.dumps(Patient(Numbers(3), np.arange(3))))
    assert len(source) == 3 and source.name(1) == "item 1"
    assert isinstance(Batch(0, []), Batch)


def test_only_items_to_learn_from_stand_in_for_an_unreadable_one():
    steps = Steps(Numbers(10, broken=[4]), np.array([0, 2, 4, 8]), sample, 4, slice(0, 4), seed=3)
    read = steps[0].samples[0].floor().int().flatten().tolist()
    assert set(read) == {0, 2, 8} and len(read) == 4


def test_a_batch_pins_its_own_samples(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    assert Batch(0, [torch.zeros(2)]).pin_memory().samples[0].tolist() == [1, 1]


# Which item each row is, and a look at all of them


def test_a_batch_says_which_of_the_items_to_learn_from_its_rows_are():
    items = np.arange(3, 60, 3)  # others are held out
    steps = Steps(Numbers(60), items, sample, 6, slice(1, 6, 2), seed=3, by_item=True)
    for step in range(8):
        batch = steps[step]
        assert batch.items.dtype == torch.long and len(batch.items) == 3
        assert items[batch.items].tolist() == batch.samples[0].floor().int().flatten().tolist()
    seen = torch.cat([Steps(Numbers(60), items, sample, 19, slice(0, 19), 3, True)[0].items])
    assert sorted(seen.tolist()) == list(range(19))
    assert Steps(Numbers(60), items, sample, 6, slice(0, 6), seed=3)[0].items is None


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_survey_shows_every_item_once_mixed_and_fills_up_the_last_batch_with_the_first(world):
    items = np.arange(1, 41, 2)  # 20 of them
    shares = []
    for rank in range(world):
        steps = Steps(Numbers(41), items, sample, 6, slice(rank, 6, world), seed=3)
        survey = Survey(steps, sample)
        shares.append(list(feed(survey, 0, len(survey), 0)))
        assert [len(batch.items) for batch in shares[-1]] == [6 // world] * 4
        for batch in shares[-1]:
            assert items[batch.items].tolist() == batch.samples[0].floor().int().flatten().tolist()
    rows = [torch.stack([share[k].items for share in shares], dim=1).flatten().tolist() for k in range(4)]
    order = [*chain(*rows)]
    assert sorted(order[:20]) == list(range(20)) and order[20:] == order[:4]
    assert np.abs(np.diff(order)).mean() > 3  # items that lie side by side do not come together
    again = Survey(Steps(Numbers(41), items, sample, 10, slice(0, 10), seed=3), sample)
    assert again[0].items.tolist() == order[:10]  # whatever the batch


def test_in_a_survey_another_item_stands_in_for_an_unreadable_one_which_is_told():
    steps = made(n=20, broken=[2, 9], batch=6)
    survey = Survey(steps, sample)
    batches = list(feed(survey, 0, len(survey), 0))
    told = [item for batch in batches for item in batch.skipped]
    assert sorted(told) == [2, 9] and {2, 9} <= set(torch.cat([batch.items for batch in batches]).tolist())
    for batch in batches:  # they are told where they were met
        assert batch.skipped.keys() <= set(batch.items.tolist()) and set(batch.skipped.values()) <= {"cut short"}
    read = torch.cat([batch.samples[0] for batch in batches]).floor().int().flatten().tolist()
    assert not {2, 9} & set(read)


# Reading processes that fail


class Accidents(Steps):
    """Steps whose reading goes wrong at step 3, the first `times` times."""

    def __init__(self, folder, accident, times=1):
        super().__init__(Numbers(20), np.arange(20), sample, 6, slice(0, 6), seed=3)
        self.folder, self.accident, self.times = folder, accident, times

    def __getitem__(self, step):
        met = len(list(self.folder.iterdir()))
        if step == 3 and met < self.times:
            (self.folder / str(met)).touch()
            self.accident()
        return super().__getitem__(step)


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def hangs():
    time.sleep(1000)


def fails():
    raise RuntimeError("a mistake in the reading itself")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("accident", [dies, hangs])
def test_a_reading_process_that_dies_or_hangs_is_replaced_and_no_batch_is_lost(
    tmp_path, accident, workers, capsys, monkeypatch
):
    monkeypatch.setattr("selfsame.engine.feed.CHECK", 0.2)
    before = signal.getsignal(signal.SIGCHLD)
    batches = list(feed(Accidents(tmp_path, accident, times=2), 0, 8, workers, patience=1.0))
    assert [batch.step for batch in batches] == list(range(8))
    alone = made()
    assert all(torch.equal(batch.samples[0], alone[batch.step].samples[0]) for batch in batches)
    assert len(list(tmp_path.iterdir())) == 2
    assert "reading goes on with new processes from step" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGCHLD) == before  # torch's would raise in the middle of a step


def test_a_batch_that_a_dead_process_has_left_half_handed_over_is_read_again(tmp_path):
    """Its tensors are fetched from the process that made them, when the batch is asked for."""
    batches = feed(Accidents(tmp_path, dies), 1, 6, 1)
    first = next(batches)
    while not list(tmp_path.iterdir()):  # step 2 is handed over by then
        time.sleep(0.01)
    time.sleep(0.5)
    steps = [first, *batches]
    assert [batch.step for batch in steps] == [1, 2, 3, 4, 5]
    assert all(torch.equal(batch.samples[0], made()[batch.step].samples[0]) for batch in steps)


def test_a_file_that_the_reading_itself_does_not_find_is_not_taken_for_a_dead_process(tmp_path):
    def lacks():
        raise FileNotFoundError("no such file")

    for workers in (0, 1):
        with pytest.raises(FileNotFoundError, match="no such file"):
            list(feed(Accidents(tmp_path, lacks, times=99), 0, 8, workers))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_batch_that_kills_every_process_ends_the_run_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr("selfsame.engine.feed.CHECK", 0.2)
    with pytest.raises(
        UserError, match=r"reading step 3 failed 5 times: .*exited unexpectedly.*give fewer --workers"
    ) as error:
        list(feed(Accidents(tmp_path, dies, times=99), 3, 8, 1))
    assert "\n" not in str(error.value)


def test_a_mistake_of_the_reading_itself_is_not_tried_again(tmp_path):
    with pytest.raises(RuntimeError, match="a mistake in the reading itself"):
        list(feed(Accidents(tmp_path, fails, times=99), 0, 8, 1))
    assert len(list(tmp_path.iterdir())) == 1


# What can be read at one place and not at another


def placed(source, items, draws):
    """Of even items the damage lies in one half: they can be read where the number drawn is above it."""
    numbers = draws.uniform(1)[:, 0].tolist()

    def read(i, drawn):
        if i % 2 == 0 and drawn < 0.5:
            raise UnreadableItem("damaged in its first half")
        return i

    values = [source.attempt(i, lambda i, k=k: read(i, numbers[k])) for k, i in enumerate(items)]
    return [torch.tensor(values).float()[:, None]]


def test_which_item_a_row_gets_does_not_hang_on_what_was_met_before():
    def fresh():
        return Steps(Numbers(20), np.arange(20), placed, 8, slice(0, 8), seed=1)

    history = fresh()
    met = [history[step] for step in range(12)]
    assert sum(len(batch.skipped) for batch in met) == len(history.source.skipped) > 3, "each is told once"
    assert any(
        item in history.source.skipped for batch in met[6:] for item in batch.samples[0].int().flatten().tolist()
    )
    for step in (5, 11):
        assert torch.equal(fresh()[step].samples[0], met[step].samples[0])
