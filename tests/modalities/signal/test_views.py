"""Views of series: what each step keeps and changes, and that numbers depend on the step alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from selfsame.engine.feed import Patient
from selfsame.errors import UserError
from selfsame.modalities import signal
from selfsame.modalities.signal import steps
from selfsame.modalities.signal.recipes import RECIPES, View, Views, recipes
from selfsame.modalities.signal.views import gains, neighbourhood, stretched, transformed
from selfsame.records import ViewPlan
from selfsame.types import Draws
from tests.modalities.signal.room import batch, source_of, stats_of

TWO = ViewPlan(full=2, part=2, plain=1)


def drawn(total: int = 6, rows: slice | None = None, step: int = 3, stream: int = 0) -> Draws:
    return Draws(0, step, total, rows, stream)


def rising(rows: int, length: int, channels: int = 1) -> np.ndarray:
    """Values that tell row, channel and step: 1000 row + 100 channel + step."""
    row, channel, step = np.meshgrid(np.arange(rows), np.arange(channels), np.arange(length), indexing="ij")
    return (1000 * row + 100 * channel + step).astype(np.float32)


# Worker half ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipes())
@pytest.mark.parametrize("length", [3, 20, 90])
def test_every_recipe_makes_views_of_their_size(name: str, length: int, tmp_path: Path) -> None:
    source = source_of(np.random.default_rng(0).normal(size=(6, 2, length)), tmp_path)
    stats, _ = signal.measure(source)
    views = signal.recipe(name, 48, stats)
    samples = signal.sample(source, range(6), TWO, views, drawn())
    made = signal.make_views(samples, TWO, views, stats, drawn(stream=1))
    sizes = [48, 48, views.part_size, views.part_size, 48]
    assert [tuple(view.shape) for view in made] == [(6, 2, size) for size in sizes]
    for view in made:
        assert view.dtype == torch.float32 and not view.isinf().any()
        assert (~view.isnan()).any(dim=1).any(dim=1).all(), "a view lost all its values"


@pytest.mark.parametrize("name", recipes())
def test_rows_do_not_depend_on_how_a_batch_is_divided(name: str, tmp_path: Path) -> None:
    source = source_of(np.random.default_rng(0).normal(size=(6, 3, 60)), tmp_path)
    stats, _ = signal.measure(source)
    views = signal.recipe(name, 48, stats)

    def made(rows: slice) -> list[torch.Tensor]:
        samples = signal.sample(source, list(range(6))[rows], TWO, views, drawn(rows=rows))
        return signal.make_views(samples, TWO, views, stats, drawn(rows=rows, stream=1))

    for whole, first, rest in zip(made(slice(0, 6)), made(slice(0, 2)), made(slice(2, 6)), strict=True):
        assert torch.allclose(whole, torch.cat([first, rest]), equal_nan=True, atol=1e-5)
    other = signal.sample(source, range(6), TWO, views, drawn(step=4))
    if name not in ("jitter", "tstcc"):  # which keep the series whole
        assert not torch.allclose(other[0], signal.sample(source, range(6), TWO, views, drawn())[0], equal_nan=True)


def test_a_crop_is_a_run_of_the_item_at_its_pace(tmp_path: Path) -> None:
    source = source_of(rising(6, 60, 2), tmp_path)
    views = signal.recipe("crop", 48, stats_of())
    view = signal.sample(source, range(6), ViewPlan(full=1), views, drawn())[0]
    for row in range(6):
        first, last = steps.spans_of(view[row : row + 1])[0].tolist()
        assert 24 <= last - first <= 48, "half of what a view holds, to all of it"
        start = view[row, 0, first]
        assert torch.equal(view[row, 0, first:last], start + torch.arange(last - first)) and start // 1000 == row
        assert torch.equal(view[row, 1, first:last], view[row, 0, first:last] + 100)
        assert not view[row, :, first:last].isnan().any()
    moved = signal.sample(source, range(6), ViewPlan(full=1), views.changed(stay=False), drawn())[0]
    assert not moved[:, :, 0].isnan().any(), "a crop that does not stay begins its view"
    assert torch.equal((~moved.isnan()).sum(dim=2), (~view.isnan()).sum(dim=2))


def test_a_plain_view_is_the_item_or_its_middle(tmp_path: Path) -> None:
    views = signal.recipe("weak", 48, stats_of())
    plain = ViewPlan(full=0, plain=1)
    short = signal.sample(source_of(rising(2, 30), tmp_path), [0, 1], plain, views, drawn(2))[0]
    assert torch.equal(short[0, 0, :30], torch.arange(30.0)) and short[:, :, 30:].isnan().all()
    long = signal.sample(source_of(rising(2, 60), tmp_path), [0, 1], plain, views, drawn(2))[0]
    assert torch.equal(long[1, 0], 1000 + 6 + torch.arange(48.0))
    # Beside crops that are taken from one frame it stays the middle.
    views = signal.recipe("ts2vec", 48, stats_of())
    both = signal.sample(source_of(rising(2, 60), tmp_path), [0, 1], ViewPlan(full=2, plain=1), views, drawn(2))
    assert torch.equal(both[2], long)


def test_two_crops_of_ts2vec_overlap_and_stay_at_their_time(tmp_path: Path) -> None:
    source = source_of(rising(64, 100), tmp_path)
    views = signal.recipe("ts2vec", 80, stats_of())
    one, two = signal.sample(source, range(64), ViewPlan(full=2), views, drawn(64))
    shifts = []
    for a, b in zip(one[:, 0], two[:, 0], strict=True):
        first, last = steps.spans_of(a[None, None])[0].tolist(), steps.spans_of(b[None, None])[0].tolist()
        assert first[0] <= last[0] < first[1] <= last[1], "the second begins within the first and ends after it"
        assert first[1] - last[0] >= 4, "a twentieth of the view is shared at least"
        shared = slice(last[0], first[1])
        assert torch.equal(a[shared], b[shared]), "one place is one time in both"
        shifts.append(first[0] - (a[first[0]] % 1000))
    assert len(set(shifts)) > 5, "views of longer items are of one place only"


def test_near_crops_come_from_the_same_record_and_may_leave_the_item(tmp_path: Path) -> None:
    source = source_of(np.arange(20_000.0), tmp_path, window=100)
    views = signal.recipe("tnc", 100, stats_of(1)).changed(reach=1.0)
    items = list(range(200))[50:114]
    one, two = signal.sample(source, items, ViewPlan(full=2), views, drawn(64))
    lengths = (~one.isnan()).sum(dim=2)
    assert torch.equal(lengths, (~two.isnan()).sum(dim=2)), "both are as long"
    away = ((two[:, 0, 0] - one[:, 0, 0]) / lengths[:, 0]).numpy()
    assert 0.7 < away.std() < 1.3 and abs(away.mean()) < 0.4, "a Gaussian of one length"
    outside = (two[:, 0, 0] // 100 != torch.tensor(items)).float().mean()
    assert outside > 0.2
    # At the ends of the record they stay inside.
    ends = signal.sample(source, [0, 199] * 32, ViewPlan(full=2), views, drawn(64))[1]
    assert float(ends.nan_to_num().min()) >= 0 and float(ends.nan_to_num().max()) <= 19_999


def test_what_is_near_but_unreadable_is_replaced_by_the_item(tmp_path: Path) -> None:
    x = np.arange(3000.0)
    x[:1000], x[1100:] = np.inf, np.nan
    source = source_of(x, tmp_path, window=100)
    views = signal.recipe("tnc", 100, stats_of(1)).changed(reach=20.0)
    view = signal.sample(source, [10] * 32, ViewPlan(full=2), views, drawn(32))[1]
    assert (~view.isnan()).any(dim=2).all() and float(view.nan_to_num(1000).min()) >= 1000


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="keep their pace"):
        Views(size=48, one=View(stretch=0.5), pairs="overlap")
    with pytest.raises(ValidationError, match="cannot stay"):
        Views(size=48, pairs="near", stay=True)
    with pytest.raises(ValidationError, match="give the smaller number first"):
        View(crop=(0.5, 0.2))
    with pytest.raises(UserError, match=r"unknown recipe of views 'ts2vek'. Did you mean 'ts2vec'"):
        signal.recipe("ts2vek", 48, stats_of())


def test_parts_longer_than_full_views_are_refused(tmp_path: Path) -> None:
    views = signal.recipe("auto", 48, stats_of()).changed(part_size=64)
    with pytest.raises(UserError, match="part views of 64 steps are longer than the full views of 48"):
        signal.sample(source_of(rising(2, 60), tmp_path), [0, 1], TWO, views, drawn(2))


def test_what_cannot_be_done_to_one_channel_is_not_shown() -> None:
    assert signal.recipe("sensors", 48, stats_of(2)).one.drop > 0 == signal.recipe("sensors", 48, stats_of(1)).one.drop
    assert set(recipes()) == {"auto", *RECIPES} and all(made.__doc__ for made in RECIPES.values())


# Steps ---------------------------------------------------------------------------------------------------------------


def gapped() -> torch.Tensor:
    """[6 2 48] about 0: whole, with a gap, begun late, ended early, a channel missing, one value."""
    x = (batch() - torch.tensor([[20.0], [21.0]])) / torch.tensor([[5.0], [2.5]])
    nan = float("nan")
    x[1, :, 20:25], x[2, :, :9], x[3, :, 30:], x[4, 1] = nan, nan, nan, nan
    x[5] = nan
    x[5, 0, 17] = 1.0
    return x


def test_spans_are_what_is_there() -> None:
    assert steps.spans_of(gapped()).tolist() == [[0, 48], [0, 48], [9, 48], [0, 30], [0, 48], [17, 18]]
    assert steps.spans_of(torch.full((1, 2, 5), float("nan"))).tolist() == [[0, 5]]


def test_a_permutation_keeps_all_values_and_the_order_within_segments() -> None:
    x = gapped()
    generator = torch.Generator().manual_seed(0)
    count = torch.tensor([4, 1, 4, 4, 4, 4])
    made = steps.permuted(
        x, steps.spans_of(x), count, torch.rand(6, 4, generator=generator), torch.rand(6, 5, generator=generator)
    )
    sort = torch.sort(x.nan_to_num(99), dim=2)[0]
    assert torch.equal(torch.sort(made.nan_to_num(99), dim=2)[0], sort), "values were lost or doubled"
    assert torch.equal(made[1], x[1].nan_to_num(99)) or torch.allclose(made[1], x[1], equal_nan=True), "one segment"
    assert torch.equal(made[2, :, :9].isnan(), x[2, :, :9].isnan()) and made[3, :, 30:].isnan().all()
    number = torch.arange(48.0).expand(6, 2, 48)
    order = steps.permuted(number, steps.spans_of(number), count, torch.rand(6, 4), torch.rand(6, 5))
    breaks = ((order[:, 0].diff() - 1).abs() > 0.5).sum(dim=1)
    assert (breaks <= count - 1).all() and int(breaks.max()) >= 1


def test_time_warp_keeps_ends_and_order_and_is_nothing_at_an_even_pace() -> None:
    x = gapped()
    spans = steps.spans_of(x)
    assert torch.allclose(steps.warped(x, spans, torch.ones(6, 6)), x, equal_nan=True, atol=1e-4)
    number = torch.arange(48.0).expand(6, 1, 48).clone()
    number[3, :, 30:] = float("nan")
    pace = 1 + 0.4 * torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    made = steps.warped(number, steps.spans_of(number), pace)
    assert (made.diff(dim=2).nan_to_num(1) > 0).all(), "time went back"
    assert torch.allclose(made[0, 0, [0, -1]], torch.tensor([0.0, 47.0]), atol=1e-4)
    assert torch.allclose(made[3, 0, [0, 29]], torch.tensor([0.0, 29.0]), atol=1e-4) and made[3, 0, 30:].isnan().all()
    assert (made[0] - number[0]).abs().max() > 1


def test_smooth_curves_pass_through_their_knots_as_natural_splines() -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    knots = np.random.default_rng(0).normal(size=6)
    expected = interpolate.CubicSpline(np.linspace(0, 1, 6), knots, bc_type="natural")(np.linspace(0, 1, 51))
    assert np.allclose(steps.smooth(51) @ torch.from_numpy(knots).float(), expected, atol=1e-5)


def test_the_filter_multiplies_each_frequency_and_keeps_means_and_gaps() -> None:
    t = 64
    wave = torch.cos(2 * torch.pi * 5 * torch.arange(t) / t)[None, None] + 3
    gain = torch.ones(1, 33)
    gain[0, 5] = 0.25
    assert torch.allclose(steps.recoloured(wave, gain), 0.25 * (wave - 3) + 3, atol=1e-4)
    x = gapped()
    assert torch.allclose(steps.recoloured(x, torch.ones(6, 25)), x, equal_nan=True, atol=1e-4)
    flat = gains(torch.zeros(2, 6), torch.tensor([0.25, 0.0]), torch.tensor([0.5, 0.5]), 62)
    assert flat[1].eq(1).all() and flat[0].eq(0).sum() == 8 and flat[0].eq(0).nonzero().min() == 12
    assert torch.allclose(gains(torch.full((1, 6), 20.0), torch.zeros(1), torch.zeros(1), 30), torch.tensor(10.0))


def test_gaps_and_hidden_steps_and_channels_leave_something() -> None:
    x = gapped()
    spans = steps.spans_of(x)
    made = steps.without_run(x, spans, torch.full((6,), 0.25), torch.full((6,), 0.5))
    assert int(made[0, 0].isnan().sum()) == 12 and torch.equal(made[5].isnan(), x[5].isnan())
    assert (~steps.without_run(x, spans, torch.ones(6), torch.rand(6)).isnan()).any(dim=1).any(dim=1).all()
    hidden = steps.without_steps(x, torch.rand(6, 48, generator=torch.Generator().manual_seed(0)), 0.999)
    assert (~hidden.isnan()).any(dim=1).any(dim=1).all()
    half = steps.without_steps(torch.zeros(50, 2, 48), torch.rand(50, 48), 0.5).isnan()
    assert torch.equal(half[:, 0], half[:, 1]) and 0.45 < half.float().mean() < 0.55
    channels = steps.without_channels(x, torch.zeros(6, 2), 0.5)
    assert (~channels.isnan()).any(dim=1).any(dim=1).all(), "the only channel with values was dropped"


def test_strengths_are_in_units_of_the_channels() -> None:
    x, draws = batch(200), Draws(0, 0, 200)
    stats = stats_of()
    views = Views(size=48, one=View(jitter=0.5), two=View(scale=0.3))
    one, two = signal.make_views([x, x], ViewPlan(full=2), views, stats, draws)
    noise = (one - x).std(dim=(0, 2))
    assert torch.allclose(noise, 0.5 * torch.tensor(stats.std), rtol=0.05)
    factor = (two - torch.tensor(stats.mean)[:, None]) / (x - torch.tensor(stats.mean)[:, None])
    assert torch.allclose(factor[:, :, 0], factor[:, :, 40], rtol=1e-2, atol=1e-2), "one factor a channel"
    assert 0.25 < factor[:, :, 0].std() < 0.35 and not torch.allclose(factor[:, 0, 0], factor[:, 1, 0], atol=0.1)


def test_flip_turns_the_sign_about_the_mean_of_the_data() -> None:
    x, stats = batch(), stats_of()
    made = signal.make_views([x], ViewPlan(full=1), Views(size=48, one=View(flip=1.0)), stats, drawn())[0]
    assert torch.allclose((made + x) / 2, torch.tensor(stats.mean)[:, None].expand_as(x), atol=1e-4)


def test_a_step_with_a_probability_is_done_to_as_many_rows() -> None:
    x = torch.randn(400, 1, 48)
    for strength in ({"flip": 0.3}, {"gap": 0.3}, {"time_warp": 0.3}, {"band": 0.3}):
        made = transformed(x, View(**strength), Draws(0, 0, 400))
        changed = (made.nan_to_num(9) - x).abs().amax(dim=(1, 2)) > 1e-3
        assert 0.22 < changed.float().mean() < 0.38, strength


def test_missing_values_stay_missing_through_every_step() -> None:
    x = gapped()[:5]
    everything = View(
        scale=0.2, magnitude_warp=0.2, filter=3.0, band=1.0, flip=0.5, jitter=0.2
    )  # all steps that move no values
    made = transformed(x, everything, Draws(0, 0, 5))
    assert torch.equal(made.isnan(), x.isnan()) and (made - x).nan_to_num().abs().max() > 0.1


def test_stretching_keeps_ends_and_gaps() -> None:
    piece = np.array([[0, 1, 2, np.nan, 4, 5]], np.float32)
    made = stretched(piece, 11)
    assert made[0, 0] == 0 and made[0, -1] == 5 and np.allclose(made[0, :5], [0, 0.5, 1, 1.5, 2])
    assert (
        np.isnan(made[0, 6])
        and np.isnan(made).sum() <= 3
        and np.array_equal(stretched(piece, 6), piece, equal_nan=True)
    )


def test_near_crops_keep_to_the_windows_that_are_learned_from(tmp_path: Path) -> None:
    source = source_of(np.arange(4000.0), tmp_path, window=100)
    among = np.array([k for k in range(40) if k % 7])  # 0, 7, 14, ... are held out
    views = signal.recipe("tnc", 100, stats_of(1)).changed(reach=8.0)
    items = np.random.default_rng(0).choice(among, 256).tolist()
    two = signal.sample(Patient(source, among), items, ViewPlan(full=2), views, drawn(256))[1][:, 0]
    windows = np.unique(two[~two.isnan()].numpy().astype(int) // 100)
    assert set(windows) <= set(among.tolist())
    first = np.floor(two[:, 0].numpy() / 100).astype(int)
    assert (first != np.array(items)).mean() > 0.3, "they still leave their own window"
    assert ((np.array(items) // 7) == first // 7).all(), "no held-out window lies between"


@pytest.mark.parametrize(
    ("stride", "held", "item", "span"),
    [
        (100, [], 5, (0, 1000)),
        (100, [0, 9], 5, (100, 900)),
        (100, [4, 6], 5, (500, 600)),
        (50, [3], 5, (250, 1000)),  # overlapping: window 3 ends at step 250
        (50, [4], 5, (250, 1000)),  # half of window 5 is also window 4's
        (150, [1], 2, (250, 1000)),  # with a gap before it, which no window has
    ],
)
def test_how_far_a_neighbour_may_lie(tmp_path: Path, stride: int, held: list[int], item: int, span: tuple) -> None:
    source = source_of(np.arange(1000.0), tmp_path, window=100, stride=stride)
    among = np.array([k for k in range(len(source)) if k not in held])
    assert neighbourhood(Patient(source, among), item) == span and neighbourhood(source, item) == (0, 1000)
