import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from selfsame.report.curves import curve, short, thinned, ticks

NAN = float("nan")


class Plot(HTMLParser):
    """Collects what a chart holds."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.data: dict = {}
        self.paths: list[str] = []
        self.dots: list[dict] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "data-plot" in given:
            self.data = json.loads(given["data-plot"])
        if tag == "path":
            self.paths.append(given["d"])
        if tag == "circle":
            self.dots.append(given)

    def handle_data(self, data):
        self.words.append(data)


def test_the_line_maps_the_data_to_the_drawing():
    plot = Plot(curve("loss", {"loss": ([0, 50, 100], [3.0, 2.0, 1.0])}, width=360, height=200))
    places = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", plot.paths[0])]
    left, top, right, bottom = plot.data["box"]
    assert [x for x, _ in places] == [left, (left + right) / 2, right]
    heights = [y for _, y in places]
    assert heights[1] == pytest.approx((top + bottom) / 2, abs=0.1)
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert top <= heights[0] < heights[2] <= bottom


def test_a_value_that_is_not_finite_leaves_a_gap_and_is_counted():
    html = curve("loss", {"loss": (range(6), [1.0, 2.0, None, 3.0, math.inf, 4.0])})
    plot = Plot(html)
    assert plot.paths[0].count("M") == 3 and plot.paths[0].count("L") == 1
    assert len(plot.dots) == 2  # 3.0 and 4.0 have no neighbour to be joined with
    assert "2 values are not finite" in html
    assert plot.data["series"][0]["y"] == [1.0, 2.0, None, 3.0, None, 4.0]


def test_a_series_of_nan_says_so_and_draws_no_line():
    plot = Plot(curve("loss", {"loss": (range(3), [NAN] * 3)}))
    assert not plot.paths and "none of 3 values is finite" in plot.words


def test_an_empty_series_says_so():
    assert "nothing measured" in Plot(curve("loss", {"loss": ([], [])})).words
    assert "nothing measured" in Plot(curve("loss", {})).words


@pytest.mark.parametrize("value", [0.0, 2.5, -7e12, 1e-12, 1e299])
def test_a_single_point_is_a_dot_inside_the_plot(value):
    plot = Plot(curve("loss", {"loss": ([512], [value])}))
    left, top, right, bottom = plot.data["box"]
    assert len(plot.dots) == 1
    assert left < float(plot.dots[0]["cx"]) < right and top < float(plot.dots[0]["cy"]) < bottom


def test_several_series_get_a_legend_and_a_colour_each():
    html = curve("losses", {"one <1>": ([0, 1], [1, 2]), "two": ([0, 1], [2, 3])})
    assert 'class="line c0"' in html and 'class="line c1"' in html
    assert "one &lt;1&gt; <b>2</b>" in html and "<1>" not in html


def test_hostile_titles_are_escaped():
    html = curve('<script>"', {"</svg><script>": ([0, 1], [0, 1])}, x_label="<b>", y_label="<i>", note="<script>")
    assert "<script" not in html and "<i>" not in html and html.count("</svg>") == 1


def test_long_series_are_thinned_and_keep_peaks_ends_and_gaps():
    x = np.arange(100_000.0)
    y = np.sin(x / 5000)
    y[31_415], y[62_831], y[50_000] = 9.0, -9.0, np.nan
    few_x, few_y = thinned(x, y)
    assert len(few_x) <= 602 and (np.diff(few_x) > 0).all()
    assert few_x[0] == 0 and few_x[-1] == 99_999
    assert np.nanmax(few_y) == 9 and np.nanmin(few_y) == -9 and np.isnan(few_y).sum() == 1
    assert all(y[int(i)] == v or np.isnan(v) for i, v in zip(few_x, few_y, strict=True))


def test_short_series_are_kept_whole():
    x = np.arange(600.0)
    assert len(thinned(x, x)[0]) == 600


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1]), (0, 20_000, [0, 5000, 10_000, 15_000, 20_000]), (-0.3, 0.2, [-0.2, 0, 0.2])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(("low", "high"), [(1e-9, 3e-9), (-5e8, 2e9), (0.9961, 1.0), (99_999, 100_001)])
def test_ticks_lie_in_the_range_and_are_few(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 8 and all(low <= tick <= high for tick in found)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.82137, "0.8214"), (12345.6, "12,346"), (2.5e-5, "2.5e-5"), (3e8, "3e8"), (0, "0"), (NAN, "–"), (math.inf, "–")],
)
def test_numbers_are_written_short(value, text):
    assert short(value) == text


def test_x_and_y_of_unlike_length_are_refused():
    with pytest.raises(ValueError, match="'loss' has 2 x and 1 y"):
        curve("loss", {"loss": ([0, 1], [1.0])})


def test_the_point_that_was_kept_is_marked_and_told_even_where_a_long_series_is_thinned() -> None:
    x = list(range(5000))
    html = curve("score", {"score": (x, [0.5] * 5000)}, kept=1234)
    assert "<output>0.5 kept, step 1,234</output>" in html and "dot kept" in html
    assert 1234.0 in Plot(html).data["series"][0]["x"]


def test_lines_whose_ends_tell_nothing_are_told_in_words() -> None:
    html = curve("ROC", {"TAR": ([0, 1], [0.0, 1.0])}, said="AUC 0.9")
    assert "<output>AUC 0.9</output>" in html and 'aria-label="ROC: AUC 0.9"' in html


def test_zeros_lie_at_the_foot_of_the_chart() -> None:
    assert Plot(curve("zero", {"zero": ([0, 1], [0.0, 0.0])})).data["y"] == pytest.approx([-0.06, 1.0])
