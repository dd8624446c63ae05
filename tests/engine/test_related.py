import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsame.engine.feed import Steps, feed
from selfsame.engine.related import Related, Relations, alternated
from tests.engine.test_feed import Numbers

GROUPS = np.repeat(np.arange(6), 20)  # 120 items, 20 in each group
TIMES = np.tile(np.arange(20.0), 6)


def related(items=None, window=None, groups=GROUPS, times=TIMES):
    items = np.arange(len(groups)) if items is None else items
    return Related(Relations(groups, times, window, ""), items)


def sample(source, items, draws):
    """Two full views and a part: the item's number, with a random number behind the point."""
    values = torch.tensor([source.attempt(i, source.read) for i in items]).double()
    return [values[:, None] + draws.uniform(1) / 2 for _ in range(3)]


def steps(rows=None, by_item=False, broken=(), items=None, window=3.0, batch=12):
    items = np.arange(120) if items is None else items
    relatives = related(items, window)
    return Steps(Numbers(120, broken), items, sample, batch, rows or slice(0, batch), 5, by_item, relatives)


@given(
    st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 9)), min_size=1, max_size=60),
    st.one_of(st.none(), st.integers(1, 4)),
    st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_partners_are_exactly_the_relatives_among_the_items(pairs, window, seed):
    groups, times = (np.array(column) for column in zip(*pairs, strict=True))
    rng = np.random.default_rng(seed)
    items = np.sort(rng.permutation(len(groups))[: max(1, len(groups) * 3 // 4)])
    chooser = related(items, window, groups, times.astype(float))
    met = [set() for _ in items]
    for chance in np.linspace(0, 1, 200, endpoint=False):
        places = rng.permutation(len(items))
        for place, partner in zip(places, chooser.partners(places, np.full(len(items), chance)), strict=True):
            met[place].add(int(partner))
    alone = 0
    for place, item in enumerate(items):
        wanted = {
            k
            for k, other in enumerate(items)
            if k != place
            and groups[other] == groups[item] >= 0
            and (window is None or 0 < abs(times[other] - times[item]) <= window)
        }
        alone += not wanted
        assert met[place] == (wanted or {place})
    assert chooser.alone() == alone


def test_each_relative_is_as_likely():
    places = np.full(30_000, 45)
    partners = related(window=2).partners(places, np.random.default_rng(0).random(30_000))
    found, counts = np.unique(partners, return_counts=True)
    assert found.tolist() == [43, 44, 46, 47] and (np.abs(counts / 30_000 - 0.25) < 0.01).all()


def test_items_at_the_ends_of_a_group_stay_in_it():
    for place, wanted in ((0, {1, 2}), (19, {17, 18}), (20, {21, 22})):
        partners = related(window=2).partners(np.full(200, place), np.linspace(0, 0.999, 200))
        assert set(partners.tolist()) == wanted


def test_every_second_full_view_is_of_a_relative_and_the_others_of_the_item():
    made = steps()
    for step in range(20):
        first, second, part = (view[:, 0].floor().long() for view in made[step].samples)
        items = torch.from_numpy(made.items_at(step))
        assert torch.equal(first, items) and torch.equal(part, items)
        apart = (second - items).abs()
        assert torch.equal(second // 20, items // 20) and apart.min() >= 1 and apart.max() <= 3


def test_a_relative_is_cut_with_the_numbers_the_item_would_have_had():
    made, plain = steps()[3].samples, steps()
    plain.related = None
    for view, alone in zip(made, plain[3].samples, strict=True):
        torch.testing.assert_close(view % 1, alone % 1, atol=1e-9, rtol=0)


def test_a_held_out_item_is_never_a_relative():
    items = np.setdiff1d(np.arange(120), np.arange(0, 120, 3))
    made = steps(items=items)
    seen = torch.cat([view[:, 0].floor().long() for step in range(30) for view in made[step].samples])
    assert set(seen.tolist()) <= set(items.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_are_the_same_for_any_number_of_workers_and_processes(workers):
    batches = list(feed(steps(), 0, 6, workers))
    for batch in batches:
        halves = [steps(slice(k, 12, 2))[batch.step].samples for k in (0, 1)]
        for view, even, odd in zip(batch.samples, *halves, strict=True):
            assert torch.equal(view[::2], even) and torch.equal(view[1::2], odd)
    late = list(feed(steps(), 4, 6, workers))
    assert all(torch.equal(a.samples[1], b.samples[1]) for a, b in zip(late, batches[4:], strict=True))


def test_pairs_change_from_pass_to_pass():
    made = steps(batch=120)
    first, second = (
        dict(zip(made.items_at(k).tolist(), made[k].samples[1][:, 0].floor(), strict=True)) for k in (0, 1)
    )
    assert sum(first[i] != second[i] for i in first) > 60


def test_where_an_item_cannot_be_read_its_stand_in_pairs_with_itself():
    made = steps(broken=range(0, 120, 2), batch=60)
    first, second, _ = (view[:, 0].floor().long() for view in made[0].samples)
    items, partners = made.items_at(0), made.items[made.partners_at(0, made.places_at(0))]
    lost = torch.from_numpy((items % 2 == 0) | (partners % 2 == 0))
    assert 5 < lost.sum() < 60
    assert torch.equal(first[lost], second[lost]) and (first[~lost] != second[~lost]).all()
    assert (first % 2 == 1).all() and (second % 2 == 1).all()


def test_a_learner_that_asks_is_told_the_items_not_their_relatives():
    made = steps(by_item=True)
    assert torch.equal(made[2].items, made[2].samples[0][:, 0].floor().long())


def test_views_alternate_among_the_full_ones_only():
    own, others = [torch.full((2, 1), k) for k in range(5)], [torch.full((2, 1), 10 + k) for k in range(5)]
    assert [int(view[0]) for view in alternated(own, others, 4, [False, False])] == [0, 11, 2, 13, 4]
    assert [view.flatten().tolist() for view in alternated(own, others, 2, [True, False])][1] == [1, 11]
