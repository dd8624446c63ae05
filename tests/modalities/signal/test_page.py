"""The example of docs/signal.md runs; pictures show what is there."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from selfsame.modalities import signal
from selfsame.modalities.signal.drawing import COLOURS, PAPER, plotted
from selfsame.modalities.signal.recipes import RECIPES
from tests.modalities.signal.room import source_of, stats_of

PAGE = Path(__file__).parents[3] / "docs" / "signal.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code[1].replace("epochs=20", "epochs=1, workers=0"), names)
    assert names["vectors"](torch.zeros(3, 2, 96)).shape == (3, 64)
    assert {row["features"] for row in names["rows"]} == {"encoder", "random", "raw"}


def test_every_recipe_stands_on_the_page() -> None:
    rows = re.findall(r"^\| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    assert set(RECIPES) <= set(rows)


def colours_of(values: list[list[float]], **given: object) -> set[str]:
    pixels = np.asarray(plotted(np.array(values, np.float32), 80, 40, **given))  # type: ignore[arg-type]
    return {"#" + bytes(colour).hex() for colour in np.unique(pixels.reshape(-1, 3), axis=0).astype(np.uint8)}


def test_a_plot_has_a_colour_a_channel_and_gaps() -> None:
    nan = float("nan")
    found = colours_of([[0, 1, 0, 1, 0, 1], [2, 2, 3, 2, 2, 3]])
    assert {COLOURS[0], COLOURS[1], PAPER} <= found
    assert colours_of([[nan] * 6]) == {PAPER} != colours_of([[nan, nan, 5, nan, nan, nan]])
    gap = np.asarray(plotted(np.array([[0, 0, nan, nan, 0, 0]], np.float32), 80, 40))
    assert (gap[:, 36:44] == 255).all() and not (gap[:, :10] == 255).all()


def test_a_plot_of_many_steps_shows_their_extremes() -> None:
    values = np.zeros((1, 100_000), np.float32)
    values[0, 54_321] = 1
    pixels = np.asarray(plotted(values, 80, 40))
    assert (pixels[4] != 255).any() and (pixels[-4] != 255).any(), "a single peak is not seen"


def test_a_picture_and_a_sheet_fit_the_item_and_its_views(tmp_path: Path) -> None:
    source = source_of(np.random.default_rng(0).normal(size=(3, 2, 40)), tmp_path)
    assert signal.picture(source, 1, 100).size == (100, 50) and signal.fragment(source, 0) == ""
    views = [[torch.randn(2, 40), torch.full((2, 16), float("nan"))]] * 2
    sheet, wider = (signal.contact_sheet(source, [0, 2], [row[:k] for row in views], ["a", "b" * 90]) for k in (1, 2))
    assert sheet.height == wider.height and sheet.width < wider.width


def test_raw_vectors_are_the_series_at_one_length(tmp_path: Path) -> None:
    stats = stats_of(median=20)
    x = np.random.default_rng(0).normal(size=(4, 2, 20)).astype(np.float32)
    x[1, 0, 3] = np.nan
    short = np.random.default_rng(0).normal(size=(2, 2, 5)).astype(np.float32)
    (tmp_path / "short").mkdir()
    one, two = signal.raw_vectors(
        [(source_of(x, tmp_path), [0, 1]), (source_of(short, tmp_path / "short"), [1])], stats
    )
    assert one.shape == (2, 40) and two.shape == (1, 40) and one.isfinite().all()
    mean, std = np.array(stats.mean)[:, None], np.array(stats.std)[:, None]
    assert np.allclose(one[0], ((x[0] - mean) / std).ravel(), atol=1e-5) and one[1, 3] == 0
    assert two[0, 0] == pytest.approx((short[1, 0, 0] - 20) / 5, abs=1e-5)
    many = signal.raw_vectors([(source_of(x, tmp_path), [0])], stats_of(median=100_000))[0]
    assert many.shape == (1, 4096)
