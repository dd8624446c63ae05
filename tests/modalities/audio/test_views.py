"""Views: places, recipes, mixing, and that a row is the same however its batch is divided."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from selfsame.engine.feed import Patient
from selfsame.errors import UserError
from selfsame.modalities.audio import front
from selfsame.modalities.audio.defaults import default_size, size_told
from selfsame.modalities.audio.measuring import measure
from selfsame.modalities.audio.opening import open_source
from selfsame.modalities.audio.recipes import RECIPES, View, Views, recipe
from selfsame.modalities.audio.source import AudioSource
from selfsame.modalities.audio.views import make_views, sample, starts_of
from selfsame.records import ViewPlan
from selfsame.types import Draws
from tests.modalities.audio.made import make
from tests.modalities.audio.room import SIZE, stats_of

PLAN = ViewPlan(full=2, part=1, plain=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> AudioSource:
    source = open_source(make(tmp_path_factory.mktemp("made"), 12))
    source.fit(measure(source)[0])
    return source


def both_halves(source: Any, items: list[int], views: Views, rows: slice, total: int = 12, step: int = 3) -> list:
    samples = sample(source, items, PLAN, views, Draws(0, step, total, rows, stream=0))
    return make_views(samples, PLAN, views, source.stats, Draws(0, step, total, rows, stream=1))


@pytest.mark.parametrize("name", ["auto", *RECIPES])
def test_every_recipe_makes_views_that_no_division_of_the_batch_changes(source: AudioSource, name: str) -> None:
    stats = source.stats
    views = recipe(name, SIZE, stats)
    items = list(range(12))
    whole = both_halves(source, items, views, slice(0, 12))
    parts = [both_halves(source, items[rows], views, rows) for rows in (slice(0, 5), slice(5, 12))]
    again = both_halves(source, items, views, slice(0, 12))
    frames = {views.size: 32, views.part_size: 16}
    for k, view in enumerate(whole):
        assert view.dtype == torch.float32 and torch.isfinite(view).all()
        size = (views.size, views.size, views.part_size, views.plain_size)[k]
        shape = (12, size) if views.domain == "wave" else (12, 64, frames.get(size, 1 + size // 80))
        assert view.shape == shape
        assert torch.equal(view, again[k])
        assert torch.allclose(view, torch.cat([part[k] for part in parts]), atol=2e-4)
    changed = float((whole[0] - whole[1]).abs().mean())
    assert changed > 1e-3  # two views differ, be it in their place alone
    other = both_halves(source, items, views, slice(0, 12), step=4)
    assert not torch.equal(other[0], whole[0])


def test_unknown_recipes_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'speech'"):
        recipe("speach", SIZE, stats_of())
    with pytest.raises(ValidationError, match="cannot be resized"):
        recipe("wave", SIZE, stats_of()).changed(one=View(resize=0.5))
    with pytest.raises(ValidationError, match="smaller number first"):
        View(gain_db=(3, -3))


def test_sizes_come_from_the_data() -> None:
    short = stats_of(seconds=(0.1, 0.4, 0.6, 2.0))
    assert default_size(short, large=False) == front.samples_for(64, 80)
    speech = stats_of(16000, seconds=(1, 4, 9, 30))
    assert default_size(speech, large=False) == 15200  # BYOL-A's 0.95 s
    assert default_size(speech, large=True) == front.samples_for(192, 160)
    assert default_size(stats_of(seconds=(0.01, 0.01, 0.01, 0.01)), large=False) == front.samples_for(32, 80)
    assert size_told(15200, speech) == "0.95 s at 16 kHz (96 frames)"
    views = recipe("auto", 15200, speech)
    assert views.part_size == front.samples_for(48, 160)
    assert views.plain_size == 8 * 15200  # nine in ten items have 9 s, and 7.6 s are looked at


def test_places() -> None:
    assert starts_of(1000, [0.0, 0.999], [400, 400], reach=10) == [0, 600]
    assert starts_of(1000, [0.5], [400, 400], reach=0) == [300, 300]  # the second is a plain view: the middle
    assert starts_of(100, [0.0, 0.999], [400, 400], reach=0) == [-300, 0]  # short items lie anywhere in each view
    assert starts_of(100, [], [400], reach=0) == [-150] and starts_of(101, [], [400], reach=0) == [-150]
    for drawn in np.random.default_rng(0).random((200, 3)):
        first, second, part = starts_of(5000, drawn.tolist(), [400, 400, 100], reach=0.5)
        assert abs(second - first) <= 200 and first - 200 <= part <= first + 500
        assert min(first, second, part) >= 0 and max(first, second) <= 4600 and part <= 4900
    assert starts_of(5000, [0.3, 0.9], [400, 400], reach=0)[0] == starts_of(5000, [0.3, 0.1], [400, 400], reach=0)[1]


@pytest.mark.parametrize(("total", "whole"), [(100, True), (300, True), (350, False)])
def test_a_short_item_lies_where_every_speed_shows_it(total: int, whole: bool) -> None:
    seen = set(range(50, 350))  # of a cut of 400 samples
    for drawn in (0.0, 0.3, 0.9999):
        (start,) = starts_of(total, [drawn], [400], 0, [50])
        item = set(range(-start, total - start))
        assert item <= seen if whole else seen <= item
    assert starts_of(1000, [0.0, 0.9999], [400, 400], 10, [50, 50]) == [0, 600]  # a long one is cut anywhere


def test_words_are_not_cut(source: AudioSource) -> None:
    views = recipe("words", 5040, source.stats)
    item = source.read(0)
    assert len(item) < 0.8 * 5040
    for step in range(20):
        (given,) = sample(source, [0], ViewPlan(full=1), views, Draws(0, step, 1))
        there = given[0].nonzero()[:, 0]
        low, high = (given.shape[1] - 0.8 * 5040) / 2, (given.shape[1] + 0.8 * 5040) / 2
        assert low - 1 <= int(there[0]) and int(there[-1]) <= high and len(there) > 0.9 * len(item)


def test_plain_views_are_the_item_in_the_middle_of_silence(source: AudioSource) -> None:
    views = recipe("weak", SIZE, source.stats).changed(plain_size=4000)
    (plain,) = sample(source, [3], ViewPlan(full=0, plain=1), views, Draws(0, 0, 1))
    item = source.read(3)
    start = (4000 - len(item)) // 2
    assert plain.dtype == torch.int16 and (plain[0, start : start + len(item)].numpy() == item).all()
    assert not plain[0, :start].any() and not plain[0, start + len(item) :].any()


def test_a_share_of_the_item_is_kept(source: AudioSource) -> None:
    kind = View(keep=(0.5, 0.5), gain=0.0)
    views = recipe("weak", 4000, source.stats).changed(one=kind)
    (view,) = sample(source, [3, 4], ViewPlan(full=1), views, Draws(0, 0, 2))
    for row, item in zip(view.numpy(), (3, 4), strict=True):
        heard = np.flatnonzero(row)
        assert heard[-1] - heard[0] + 1 == pytest.approx(len(source.read(item)) / 2, abs=20)


def test_partners_are_drawn_from_what_is_learned_from(source: AudioSource) -> None:
    views = recipe("byol_a", SIZE, source.stats)
    plan = ViewPlan(full=1)
    loud = {i: set(np.abs(source.read(i)).tolist()) for i in range(12)}
    patient = Patient(source, np.array([1, 2, 5]))
    seen: set[int] = set()
    for step in range(12):
        (view,) = sample(patient, [1, 2], plan, views, Draws(0, step, 2))
        assert view.shape == (2, 2, SIZE)
        for row in view[:, 1]:
            there = set(row.abs().tolist())
            seen |= {max(loud, key=lambda i: len(loud[i] & there))}
    assert seen == {1, 2, 5}


def test_mixing_adds_powers(source: AudioSource) -> None:
    given = torch.stack([torch.randn(200, SIZE), torch.randn(200, SIZE)], dim=1) * 0.1
    for domain in ("wave", "spectrogram"):
        views = recipe("weak", SIZE, source.stats).changed(domain=domain, one=View(mix=0.5, gain=0.0))
        stored = (given * 32768).round().to(torch.int16)
        (mixed,) = make_views([stored], ViewPlan(full=1), views, source.stats, Draws(0, 0, 200))
        alone = front.scaled(stored[:, 0])
        if domain == "wave":
            assert float(mixed.square().mean() / alone.square().mean()) == pytest.approx(1, abs=0.01)
            share = (mixed * alone).mean(dim=1) / alone.square().mean(dim=1)
            assert float(share.min()) > 0.65 and float(share.max()) < 1.05  # square roots of 0.5 to 1
        else:
            power = mixed.exp().mean() / front.log_mel(alone, source.stats).exp().mean()
            assert float(power) == pytest.approx(1, abs=0.02)


def test_gain_and_filters_are_the_same_on_waves_and_spectrograms(source: AudioSource) -> None:
    kind = View(gain_db=(-6, 6), equalize=1.0, equalize_db=4)
    plan, items = ViewPlan(full=1), [0, 1, 2, 3]
    made = {}
    for domain in ("wave", "spectrogram"):
        views = recipe("weak", SIZE, source.stats).changed(domain=domain, one=kind)
        samples = [part // 2 for part in sample(source, items, plan, views, Draws(0, 0, 4))]  # nothing is clipped
        (made[domain],) = make_views(samples, plan, views, source.stats, Draws(0, 0, 4))
    on_wave = front.log_mel(made["wave"], source.stats)
    loud = on_wave > -6
    assert float((on_wave - made["spectrogram"])[loud].abs().mean()) < 0.1


def test_steps_switched_off_change_nothing(source: AudioSource) -> None:
    off = View(gain=0.0)
    for domain in ("wave", "spectrogram"):
        views = recipe("weak", SIZE, source.stats).changed(domain=domain, one=off)
        samples = sample(source, [0, 1], ViewPlan(full=1), views, Draws(0, 0, 2))
        (made,) = make_views(samples, ViewPlan(full=1), views, source.stats, Draws(0, 0, 2))
        wave = front.scaled(samples[0])
        assert torch.equal(made, wave if domain == "wave" else front.log_mel(wave, source.stats))


def test_polarity_turns_some_rows(source: AudioSource) -> None:
    views = recipe("weak", SIZE, source.stats).changed(domain="wave", one=View(gain=0.0, polarity=0.5))
    stored = torch.full((64, SIZE), 100, dtype=torch.int16)
    (made,) = make_views([stored], ViewPlan(full=1), views, source.stats, Draws(0, 0, 64))
    assert 16 < int((made[:, 0] < 0).sum()) < 48 and torch.equal(made.abs(), torch.full_like(made, 100 / 32768))


def test_silent_and_one_sample_items_make_finite_views(source: AudioSource, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(3000), 8000)
    soundfile.write(tmp_path / "b.wav", np.array([0.3]), 8000)
    odd = open_source(str(tmp_path))
    odd.fit(source.stats)  # type: ignore[arg-type]
    for name in RECIPES:
        views = recipe(name, SIZE, source.stats)
        samples = sample(odd, [0, 1], PLAN, views, Draws(0, 0, 2))
        for view in make_views(samples, PLAN, views, source.stats, Draws(0, 0, 2)):  # type: ignore[arg-type]
            assert torch.isfinite(view).all()


def test_parts_are_no_longer_than_the_whole(source: AudioSource) -> None:
    views = recipe("weak", SIZE, source.stats).changed(part_size=SIZE + 1)
    with pytest.raises(UserError, match="longer than the full views"):
        sample(source, [0], PLAN, views, Draws(0, 0, 1))
