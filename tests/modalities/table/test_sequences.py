"""Events of a user as one item: their order, crops in time, encoders that do not see what is not there."""

import numpy as np
import pytest
import torch

from selfsame.errors import UserError
from selfsame.modalities import table
from selfsame.modalities.table.measuring import measure
from selfsame.modalities.table.reading import Reading
from selfsame.modalities.table.recipes import View, Views
from selfsame.modalities.table.source import open_source
from selfsame.modalities.table.views import make_views, sample
from selfsame.records import ViewPlan
from selfsame.types import Draws, Hidden

PAGES = ("home", "shop", "cart", "help")


def written(path, users=24, seed=0, ordered=False):
    """Clicks of users, mixed; each has its own number of events and its own favourite pages."""
    rng = np.random.default_rng(seed)
    lines = []
    for user in range(users):
        kind = user % 2
        for k in range(3 + user % 11):
            page = PAGES[int(rng.integers(2)) + 2 * kind]
            lines.append((f"u{user}", 1_600_000_000 + 3600 * k, page, f"{rng.exponential(5 + 50 * kind):.2f}", kind))
    if not ordered:
        lines = [lines[k] for k in rng.permutation(len(lines))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("user,ts,page,seconds,kind\n" + "".join(",".join(map(str, line)) + "\n" for line in lines))
    return str(path)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = written(tmp_path_factory.mktemp("e") / "clicks.csv")
    source = open_source(path, None, Reading(by="user", time="ts", leave_out="kind"))
    source.fit(measure(source)[0])
    return source


def test_an_item_is_a_user_in_the_order_of_time(source):
    assert len(source) == 24 and len({source.name(i) for i in range(24)}) == 24
    for i in range(24):
        events = source.read(i)
        assert len(events) == 3 + int(source.name(i)[1:]) % 11
        assert [int(e["ts"]) for e in events] == sorted(int(e["ts"]) for e in events)
        assert {e["user"] for e in events} == {source.name(i)}
    stats = source.stats
    assert [c.kind for c in stats.columns] == ["date", "category", "number"] and stats.events == 12
    assert "events by user, in the order of ts" in stats.summary and source.stored(0) > 0


def test_the_order_of_the_file_where_no_time_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("u,v\na,3\nb,1\na,1\nb,2\na,2\n,9\n")
    source = open_source(str(tmp_path / "t.csv"), None, Reading(by="u"))
    assert [[e["v"] for e in source.read(i)] for i in range(2)] == [["3", "1", "2"], ["1", "2"]]  # no user: no event
    with pytest.raises(ValueError, match=r"--reading.by"):
        Reading(time="v")


def test_plain_views_are_the_last_events_padded(source):
    views = Views(size=6)
    (plain,) = sample(source, range(24), ViewPlan(full=0, plain=1), views, Draws(0, 0, 24))
    assert plain.shape == (24, 6, 3)
    for i in range(24):
        rows = source.rows(source.events(i))[-6:]
        np.testing.assert_array_equal(plain[i, : len(rows)], rows)
        assert plain[i, len(rows) :].isneginf().all()


def test_full_views_are_crops_in_time(source):
    views = Views(size=12, one=View(crop=(0.5, 0.5)))
    (view,) = sample(source, range(24), ViewPlan(full=1), views, Draws(0, 0, 24))
    starts = set()
    for i in range(24):
        rows = source.rows(source.events(i))
        length = int((~view[i, :, 0].isneginf()).sum())
        assert length == max(1, round(0.5 * len(rows)))
        first = [k for k in range(len(rows)) if np.array_equal(rows[k : k + length], view[i, :length], equal_nan=True)]
        assert first
        starts.add(first[0])
    assert len(starts) > 3


def test_views_change_columns_and_never_what_is_not_there(source):
    views = Views(size=12, one=View(crop=(0.5, 1.0), replace=0.5, mask=0.2, cutmix=0.2, noise=0.1, mask_events=0.2))
    plan = ViewPlan(full=1)
    drawn = sample(source, range(24), plan, views, Draws(0, 0, 24))
    (made,) = make_views(drawn, plan, views, source.stats, Draws(0, 0, 24, stream=1))
    own = drawn[0][:, 0]
    assert torch.equal(own.isneginf(), made.isneginf())
    there = ~own.isneginf()
    assert 0.3 < float((own != made)[there].float().mean()) < 0.9
    hidden = made.isposinf() & there
    assert bool(hidden.all(dim=2).any())  # whole events


@pytest.mark.parametrize("name", ["mlp-tiny", "ft-tiny"])
def test_events_that_are_not_there_do_not_count(source, name):
    torch.manual_seed(0)
    encoder = table.make_encoder(name, 12, source.stats).eval()
    (plain,) = sample(source, range(24), ViewPlan(full=0, plain=1), Views(size=13), Draws(0, 0, 24))
    (longer,) = sample(source, range(24), ViewPlan(full=0, plain=1), Views(size=20), Draws(0, 0, 24))
    torch.testing.assert_close(encoder(plain), encoder(longer), atol=1e-5, rtol=1e-5)
    assert len(torch.unique(encoder(plain).detach().round(decimals=4), dim=0)) == 24
    (maps,) = encoder.maps(plain)
    assert maps.shape == (24, 32, 13) and encoder.map_widths == (32,)
    nothing = encoder(torch.full((2, 12, 3), -torch.inf))
    assert nothing.isfinite().all()
    with pytest.raises(UserError, match=r"accepted is a batch \[b, events, 3\]"):
        encoder(plain[:, 0])


def test_a_network_of_ones_own_is_averaged_over_events_that_are_there(source):
    torch.manual_seed(0)
    encoder = table.own_encoder(torch.nn.LazyLinear(5), 12, source.stats).eval()
    (plain,) = sample(source, range(24), ViewPlan(full=0, plain=1), Views(size=13), Draws(0, 0, 24))
    (longer,) = sample(source, range(24), ViewPlan(full=0, plain=1), Views(size=20), Draws(0, 0, 24))
    torch.testing.assert_close(encoder(plain), encoder(longer))


def test_the_order_of_events_matters_to_a_transformer(source):
    torch.manual_seed(0)
    encoder = table.make_encoder("ft-tiny", 12, source.stats).eval()
    (plain,) = sample(source, [10], ViewPlan(full=0, plain=1), Views(size=12), Draws(0, 0, 1))
    there = int((~plain[0, :, 0].isneginf()).sum())
    turned = plain.clone()
    turned[0, :there] = plain[0, :there].flip(0)
    assert not torch.allclose(encoder(plain), encoder(turned), atol=1e-4)
    assert encoder.grid(plain) == (12,)
    vector, tokens = encoder.both(plain, keep=torch.tensor([[0, 2]]))
    assert tokens.shape == (1, 2, 32) and vector.isfinite().all()
    where = torch.zeros(1, 12, dtype=torch.bool)
    where[:, 0] = True
    hidden = encoder.tokens(plain, hide=Hidden(where, torch.ones(32)))
    assert not torch.allclose(hidden, encoder.tokens(plain))
    encoder.average_tokens()
    _, tokens = encoder.both(plain)
    torch.testing.assert_close(encoder(plain)[0], tokens[0, :there].mean(dim=0))
    assert encoder.has_pieces and encoder.pieces(plain).shape == (1, 10, 3, 3)


def test_labels_of_users(tmp_path):
    path = written(tmp_path / "clicks.csv")
    way = Reading(by="user", time="ts", leave_out="kind")
    source = open_source(path, "kind", way)
    assert source.labels == [str(int(source.name(i)[1:]) % 2) for i in range(24)]
    mixed = open_source(path, "page", Reading(by="user", time="ts", leave_out="kind,page"))
    with pytest.raises(UserError, match=r"--labels page: user u\d+ has \w+ and \w+; a label of a user is the same"):
        _ = mixed.labels


def test_rows_and_events_are_not_mixed_up(source, tmp_path):
    path = written(tmp_path / "clicks.csv")
    rows = open_source(path, None, Reading(leave_out="kind"))
    with pytest.raises(UserError, match=r"trained on events by user. Read it so: --reading.by user"):
        rows.fit(source.stats)


def test_a_broken_row_is_no_event_and_told_of(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("u,v,w\na,3,x\nb,1,y\na,1\nb,2,x\nc,2,y\nc,4,x\n")
    source = open_source(str(path), None, Reading(by="u"))
    stats, skipped = measure(source)
    assert skipped == {} and stats.items == len(source) == 3
    assert "1 of 6 rows cannot be read and are no events (2 cells in a table of 3 columns)" in stats.summary
    assert [len(source.events(i)) for i in range(3)] == [1, 2, 2]


def test_people_see_the_last_events(source):
    assert table.fragment(source, 0).count("<tr>") <= 6 and table.picture(source, 0, side=128).size == (128, 128)
    (view,) = sample(source, [0, 1], ViewPlan(full=0, plain=1), Views(size=12), Draws(0, 0, 2))
    text = table.contact_sheet(source, [0, 1], [[view[0]], [view[1]]], ["a", "b"])
    assert f"item, {len(source.events(0))} events" in text
    assert any(page in text for page in PAGES)


def test_trivial_features_are_means_over_a_users_events(source):
    first, second = table.raw_vectors([(source, range(12)), (source, range(12, 24))], source.stats)
    assert len(first) == len(second) == 12 and first.isfinite().all()


def test_it_trains_and_measures_by_the_commands(tmp_path):
    import selfsame as ss

    path = written(tmp_path / "clicks.csv", users=60)
    run = ss.pretrain(
        path, out=tmp_path / "run", modality="table", reading={"by": "user", "time": "ts", "leave_out": "kind"},
        encoder="ft-tiny", epochs=2, batch_size=16, workers=0, method={"name": "simclr", "hidden": 16, "out": 8},
    )  # fmt: skip
    assert run.plan["size"] == 12
    found = ss.evaluate(run, path, labels="kind", seeds=1, workers=0)
    rows = {(row["features"], row["protocol"]): row["mean"] for row in found}
    assert rows["raw", "linear"] > 0.8 and rows["encoder", "linear"] > 0.6
