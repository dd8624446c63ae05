"""What views do to a row, and what they leave as it is."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from selfsame.engine.feed import Patient
from selfsame.errors import UserError
from selfsame.modalities.table.encoder import make_encoder
from selfsame.modalities.table.measuring import measure
from selfsame.modalities.table.raw import raw_vectors
from selfsame.modalities.table.reading import Reading
from selfsame.modalities.table.recipes import View, Views, recipe, recipes
from selfsame.modalities.table.scaling import Scaler, marginals
from selfsame.modalities.table.source import open_source
from selfsame.modalities.table.views import make_views, sample
from selfsame.records import ViewPlan
from selfsame.types import Draws
from tests.modalities.table.made import make, rows, written

ONE = ViewPlan(full=1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    source = open_source(make(tmp_path_factory.mktemp("t"), 400))
    stats, _ = measure(source)
    source.fit(stats)
    return source


def seen(source, items=range(200), plan=ONE, seed=0, **strengths):
    """Plain rows and a view of them."""
    items = list(items)
    views = Views(size=6, one=View(**strengths), two=View(**strengths))
    drawn = sample(source, items, plan, views, Draws(seed, 0, len(items)))
    made = make_views(drawn, plan, views, source.stats, Draws(seed, 0, len(items), stream=1))
    return torch.from_numpy(source.rows(items)), made[0]


def differ(one, two):
    return (one != two) & ~(one.isnan() & two.isnan())


def test_a_view_without_strength_is_the_row(source):
    plain, view = seen(source)
    assert not differ(plain, view).any()


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_scarf_draws_as_many_columns_anew_as_it_says(source, share):
    """The places are counted through a marker, as a drawn value may be the one that was there."""
    stats = source.stats
    views = Views(size=6, one=View(replace=share))
    marked = torch.full((500, stats.width), 123456.0)
    (view,) = make_views([marked], ONE, views, stats, Draws(0, 0, 500))
    replaced = (view != 123456.0).sum(dim=1)
    assert (replaced == max(1, int(share * 6))).all()
    by_column = (view != 123456.0).float().mean(dim=0)
    assert (by_column - int(share * 6) / 6).abs().max() < 0.1  # places are random, each as often


def test_what_is_drawn_has_the_marginal_of_the_column(source):
    drawn = marginals(source.stats, CPU).drawn(torch.rand(20_000, 6, generator=torch.Generator().manual_seed(0)))
    real = torch.from_numpy(source.array)
    for k, column in enumerate(source.stats.columns):
        assert abs(float(drawn[:, k].isnan().float().mean()) - column.missing) < 0.01
        one, two = (x[:, k][~x[:, k].isnan()] for x in (drawn, real))
        if column.kind == "category":
            for code in two.unique():
                assert abs(float((one == code).float().mean() - (two == code).float().mean())) < 0.02
            assert set(one.tolist()) <= set(two.tolist())
        else:
            levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
            spread = float(two.std())
            assert (one.quantile(levels) - two.quantile(levels)).abs().max() < 0.12 * spread
            assert not column.whole or bool((one == one.round()).all())


def test_hidden_columns_are_inf_and_as_many_as_asked_for(source):
    plain, view = seen(source, mask=0.3)
    hidden = view.isposinf()
    assert abs(float(hidden.float().mean()) - 0.3) < 0.03 and not hidden.all(dim=1).any()
    assert not differ(plain, view)[~hidden].any()
    assert not seen(source, mask=1.0)[1].isposinf().all(dim=1).any()  # one column stays


def test_noise_moves_numbers_within_their_scale_and_leaves_the_rest(source):
    plain, view = seen(source, noise=0.1)
    of = marginals(source.stats, CPU)
    moved = differ(plain, view)
    assert not moved[:, of.codes].any() and not moved[plain.isnan()].any()
    before, after = (of.scaler(x[:, of.numbers]) for x in (plain, view))
    there = before.isfinite()
    assert 0.04 < float((after - before)[there].std()) < 0.13


def test_cut_mix_takes_columns_of_one_other_row(source):
    plain, view = seen(source, cutmix=0.5)
    moved = differ(plain, view)
    assert 0.25 < float(moved.float().mean()) < 0.5
    everything = torch.from_numpy(source.array)
    for row in range(20):
        taken = view[row, moved[row]]
        same = (everything[:, moved[row]] == taken) | (everything[:, moved[row]].isnan() & taken.isnan())
        assert same.all(dim=1).any()


def test_mix_up_averages_scaled_numbers_with_another_row(source):
    items = list(range(100))
    views = Views(size=6, one=View(mixup=0.25))
    (pair,) = sample(source, items, ONE, views, Draws(0, 0, 100))
    (view,) = make_views([pair], ONE, views, source.stats, Draws(0, 0, 100, stream=1))
    assert pair.shape == (100, 2, 6)
    of = marginals(source.stats, CPU)
    own, other = pair.unbind(1)
    both = own.isfinite() & other.isfinite()
    one, two, mixed = (of.scaler(x[:, of.numbers]) for x in (own, other, view))
    here = both[:, of.numbers]
    torch.testing.assert_close(mixed[here], (0.75 * one + 0.25 * two)[here], atol=0.02, rtol=0.02)
    assert not differ(own, view)[~both].any()
    codes = of.codes
    assert ((view[:, codes] == own[:, codes]) | (view[:, codes] == other[:, codes]))[both[:, codes]].all()


def test_thinned_counts_are_fewer_and_clicks_stay_below_impressions(tmp_path):
    rng = np.random.default_rng(0)
    shown = (rng.exponential(200, 300) ** 1.2).astype(int) + 1
    clicked = rng.binomial(shown, 0.1)
    lines = "".join(f"{c},{n},{k % 3}\n" for k, (c, n) in enumerate(zip(clicked, shown, strict=True)))
    (tmp_path / "t.csv").write_text(f"clicks,impressions,site\n{lines}")
    source = open_source(str(tmp_path / "t.csv"), None, Reading(types="clicks=count,impressions=count"))
    source.fit(measure(source)[0])
    views = Views(size=3, one=View(thin=0.5))
    rows = torch.from_numpy(source.array)
    (view,) = make_views([rows], ONE, views, source.stats, Draws(0, 0, 300))
    assert (view[:, 0] <= view[:, 1]).all() and (view[:, :2] <= rows[:, :2]).all() and (view[:, :2] >= 0).all()
    assert bool((view[:, :2] == view[:, :2].round()).all())
    kept = float((view[:, 1] / rows[:, 1]).mean())
    assert 0.7 < kept < 0.8 and torch.equal(view[:, 2], rows[:, 2])  # uniform in [0.5, 1]: 0.75 on average


def test_words_of_a_text_are_dropped(tmp_path):
    words = ["red", "blue", "large", "small", "old", "new", "fast", "slow"]
    rng = np.random.default_rng(0)
    lines = "".join(f"{k % 5},{' '.join(rng.choice(words, 5))} {k}\n" for k in range(300))
    (tmp_path / "t.csv").write_text(f"n,note\n{lines}")
    source = open_source(str(tmp_path / "t.csv"))
    stats = measure(source)[0]
    source.fit(stats)
    assert [c.kind for c in stats.columns] == ["number", "text"] and stats.width == 65
    rows = torch.from_numpy(source.array)
    (view,) = make_views([rows], ONE, Views(size=2, one=View(drop_words=0.5)), stats, Draws(0, 0, 300))
    kept, were = (x[:, 1:] != 0 for x in (view, rows))
    assert 0.4 < float(kept.sum() / were.sum()) < 0.6 and not (kept & ~were).any()
    drawn = make_views([rows], ONE, Views(size=2, one=View(replace=1.0)), stats, Draws(0, 0, 300))[0]
    texts = {tuple(row.tolist()) for row in rows[:, 1:]}
    assert {tuple(row.tolist()) for row in drawn[:, 1:]} <= texts  # a text is replaced as one
    hidden = make_views([rows], ONE, Views(size=2, one=View(mask=0.5)), stats, Draws(0, 0, 300))[0][:, 1:].isinf()
    assert torch.equal(hidden.any(dim=1), hidden.all(dim=1))


def test_part_views_show_fewer_columns(source):
    plan = ViewPlan(full=1, part=1)
    for name in recipes():
        views = recipe(name, 6, source.stats)
        full, part = make_views(
            sample(source, range(200), plan, views, Draws(0, 0, 200)), plan, views, source.stats, Draws(0, 0, 200)
        )
        assert full.shape == part.shape == (200, 6)
        assert float(part.isposinf().float().mean()) > float(full.isposinf().float().mean()) + 0.15, name


def test_a_recipe_of_another_name():
    with pytest.raises(UserError, match=r"unknown recipe of views 'scraf'. Did you mean 'scarf'"):
        recipe("scraf", 6, None)  # type: ignore[arg-type]


def test_another_row_is_one_of_those_that_are_learned_from(source):
    among = np.arange(100, 120)
    views = Views(size=6, one=View(cutmix=0.5))
    (pair,) = sample(Patient(source, among), among.tolist(), ONE, views, Draws(0, 0, 20))
    allowed = torch.from_numpy(source.rows(among)).nan_to_num(-1)
    assert all((row == allowed).all(dim=1).any() for row in pair[:, 1].nan_to_num(-1))


def test_a_broken_row_has_another_in_its_place(tmp_path):
    path = make(tmp_path, 30)
    lines = Path(path).read_text().splitlines()
    lines[6] = "1,2"
    Path(path).write_text("\n".join(lines))
    source = open_source(path)
    stats, skipped = measure(source)
    source.fit(stats)
    assert list(skipped) == [5]
    patient = Patient(source, np.arange(30))
    views = recipe("saint", 6, stats)
    drawn = sample(patient, [4, 5, 6], ViewPlan(full=1, plain=1), views, Draws(0, 0, 3))
    assert list(patient.skipped) == [5] and drawn[1].shape == (3, 6)
    assert torch.equal(drawn[1][0].nan_to_num(), torch.from_numpy(source.rows([4]))[0].nan_to_num())


@pytest.mark.parametrize("scaling", ["quantile", "standard"])
def test_scaling_goes_there_and_back(source, tmp_path, scaling):
    stats = source.stats.changed(scaling=scaling)
    scaler = Scaler(stats)
    of = marginals(stats, CPU)
    x = torch.from_numpy(source.array)[:, of.numbers]
    scores = scaler(x)
    there = scores.isfinite()
    inside = there & (scores.abs() < 2)
    torch.testing.assert_close(scaler.back(scores)[inside], x[inside], atol=1e-2, rtol=1e-3)
    for k, column in enumerate(c for c in stats.columns if c.kind in ("number", "count", "ratio", "date")):
        values = scores[:, k][there[:, k]]
        assert abs(float(values.mean())) < 0.15 and 0.8 < float(values.std()) < 1.15
        if column.kind == "ratio":  # on a line: equal differences stay equal
            torch.testing.assert_close(values, (x[:, k][there[:, k]] - column.mean) / column.std)
        order = x[:, k][there[:, k]].argsort()
        assert (values[order].diff() >= -1e-4).all()


def test_a_number_that_is_mostly_one_value_keeps_its_place(tmp_path):
    cells = [0] * 270 + list(range(1, 31))
    (tmp_path / "t.csv").write_text("v,w\n" + "".join(f"{c},{k % 3}\n" for k, c in enumerate(cells)))
    source = open_source(str(tmp_path / "t.csv"), None, Reading(types="v=number"))
    stats = measure(source)[0]
    scores = Scaler(stats)(torch.tensor([[0.0, 0.0], [1.0, 0.0], [30.0, 0.0]]))[:, 0]
    assert abs(float(scores[0])) < 0.2 and 0.2 < float(scores[1]) < float(scores[2]) < 3
    assert math.isfinite(float(scores.sum()))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("score", "number"), ("clicks", "count"), ("share", "ratio"), ("city", "category"), ("name", "hash"),
     ("seen", "date"), ("note", "text")],
)  # fmt: skip
def test_a_table_of_one_kind_of_column_alone(tmp_path, name, kind):
    """No kind is needed for another: every recipe, both encoders and the trivial feature."""
    held = [
        {**row, "name": f"n{k % 50}", "note": f"{row['city']} number {k} of many"} for k, row in enumerate(rows(80))
    ]
    source = open_source(
        written(tmp_path / "t.csv", held, (name,)), reading=Reading(header="yes", types=(f"{name}={kind}",))
    )
    stats, _ = measure(source)
    source.fit(stats)
    assert [column.kind for column in stats.columns] == [kind]
    plan, draws = ViewPlan(full=2, part=1), Draws(0, 0, 16)
    encoders = [make_encoder(each, 1, stats).eval() for each in ("mlp-tiny", "ft-tiny")]
    strong = View(replace=0.5, mask=0.5, noise=0.5, cutmix=0.5, mixup=0.5, thin=0.5, drop_words=0.5)
    for views in (*(recipe(each, 1, stats) for each in recipes()), Views(size=1, one=strong, two=strong)):
        made = make_views(sample(source, range(16), plan, views, draws), plan, views, stats, draws)
        for encoder in encoders:
            assert all(encoder(view).isfinite().all() for view in made)
    (raw,) = raw_vectors([(source, range(80))], stats)
    assert len(raw) == 80 and raw.isfinite().all()
