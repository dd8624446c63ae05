"""Recordings drawn and played, and the trivial feature."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from selfsame.errors import UnreadableItem
from selfsame.modalities.audio import front
from selfsame.modalities.audio.measuring import measure
from selfsame.modalities.audio.opening import open_source
from selfsame.modalities.audio.raw import raw_name, raw_vectors
from selfsame.modalities.audio.recipes import recipe
from selfsame.modalities.audio.sheet import COLOURS, coloured, contact_sheet, fragment, picture
from selfsame.modalities.audio.source import AudioSource
from selfsame.modalities.audio.views import make_views, sample
from selfsame.records import ViewPlan
from selfsame.types import Draws
from tests.modalities.audio.made import make
from tests.modalities.audio.room import SIZE


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> AudioSource:
    source = open_source(make(tmp_path_factory.mktemp("made"), 8))
    source.fit(measure(source)[0])
    return source


def lightness(rgb: np.ndarray) -> np.ndarray:
    """L* of CIELAB."""
    linear = np.where(rgb <= 10.3, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_colours_rise_evenly_in_lightness() -> None:
    steps = np.diff(lightness(COLOURS))
    assert (steps > 6).all() and (steps < 18).all()
    assert coloured(np.array([[-1.0, 0, 1, 2]])).tolist() == [[[0, 0, 4], [0, 0, 4], [252, 255, 164], [252, 255, 164]]]


def test_a_picture_shows_time_to_the_right_and_pitch_upwards(source: AudioSource) -> None:
    rises = picture(source, 4, 128)
    assert rises.size == (128, 80) and source.name(4).startswith("rises")
    falls = picture(source, 0, 128)

    def height(shown: object, columns: slice) -> float:
        light = lightness(np.asarray(shown, dtype=float))[:, columns].mean(axis=1) ** 4
        return float((light * np.arange(80)[::-1]).sum() / light.sum())

    assert height(rises, slice(90, 115)) > height(rises, slice(12, 40)) + 5
    assert height(falls, slice(90, 115)) < height(falls, slice(12, 40)) - 5


def test_a_player_holds_a_short_sound(source: AudioSource, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", 0.3 * np.sin(np.arange(48_000 * 20) / 20), 48_000)
    long = open_source(str(tmp_path))
    long.fit(measure(long)[0])
    for one, seconds in ((source, 0.35), (long, 2.7)):
        html = fragment(one, 0)
        assert html.startswith("<img ") and "<audio controls" in html and len(html) < 66_000
        (data,) = re.findall(r"data:audio/wav;base64,([^\"]+)\"", html)
        assert len(data) <= 60_000
        played, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        assert rate == 8000 and len(played) == pytest.approx(8000 * seconds, abs=2)
    assert np.abs(played).max() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("name", ["speech", "wave"])
def test_a_contact_sheet_shows_items_beside_their_views(source: AudioSource, name: str) -> None:
    plan, views = ViewPlan(full=2, part=1), recipe(name, SIZE, source.stats)
    samples = sample(source, [0, 5], plan, views, Draws(0, 0, 2))
    made = make_views(samples, plan, views, source.stats, Draws(0, 0, 2))
    of_item = [[view[k] for view in made] for k in range(2)]
    sheet = contact_sheet(source, [0, 5], of_item, ["a", "a very long name indeed, of a recording.wav"])
    assert sheet.size == (2 * 20 + 4 * 184, 40 + 18 + 2 * 122 - 8)
    cells = [np.asarray(sheet.crop((28 + k * 184, 38, 28 + k * 184 + 176, 134)), float) for k in (1, 2, 3)]
    assert all(cell.std() > 5 for cell in cells) and np.abs(cells[0] - cells[1]).mean() > 3


def test_broken_items_have_no_picture(tmp_path: Path, source: AudioSource) -> None:
    (tmp_path / "a.wav").write_text("x")
    broken = open_source(str(tmp_path))
    broken.fit(source.stats)  # type: ignore[arg-type]
    for call in (picture, fragment):
        with pytest.raises(UnreadableItem):
            call(broken, 0)


def test_the_trivial_feature_is_mean_and_std_of_each_band(source: AudioSource) -> None:
    train, test = raw_vectors([(source, [0, 1, 2]), (source, [5])], source.stats)  # type: ignore[arg-type]
    assert train.shape == (3, 128) and test.shape == (1, 128) and raw_name == "log-mel mean and std"
    x = front.log_mel(front.scaled(torch.from_numpy(source.read(5)))[None], source.stats)[0]  # type: ignore[arg-type]
    assert torch.allclose(test[0], torch.cat([x.mean(1), x.var(1, correction=0).sqrt()]), atol=1e-5)
