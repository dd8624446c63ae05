import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfsame.engine.health import ADVICE
from selfsame.errors import UserError
from selfsame.report import gallery
from selfsame.report.page import flat, level, write_page

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = "</title></style></script><script>alert('x')</script><img src=http://evil.example/x.png onerror=alert(1)>"


class Page(HTMLParser):
    """Checks that tags balance and collects what the page refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def written(folder: Path, **values) -> str:
    given = {"title": "run", "verdict": "healthy", "plan": {}, "job": {}, "log": [], **values}
    path = write_page(folder, **given)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def rows(n: int = 30) -> list[dict]:
    log: list[dict] = [{"step": 0, "health/rank": 5.0, "health/spread": 0.4, "verdict": "slow"}]
    log += [
        {"step": s, "loss": 2.0 / s, "lr": 0.1, "momentum": 0.99, "items_per_second": 100.0 + s, "mine": s}
        for s in range(1, n)
    ]
    return [*log, {"step": n, "health/rank": 9.5, "health/spread": 0.9, "knn": 0.75, "verdict": "healthy"}]


def whole(folder: Path, text: str = "photos") -> str:
    """A page with every section, `text` in every place that takes text."""
    vectors = np.random.default_rng(0).normal(size=(20, 6))

    def picture(i: int) -> Image.Image:
        return Image.new("RGB", (32, 32), (i * 10, 0, 0))

    names = [f"{text}{i}" for i in range(20)]
    return written(
        folder,
        title=text,
        plan={text: text},
        job={"path": text, "method": {"name": text}},
        log=[*rows(), {"step": 99, text: 1.0}],
        numbers=[{"features": text, "protocol": text, "labels": text, "mean": 0.5, "std": 0.1, "seeds": text}],
        sheet=Image.new("RGB", (300, 200)),
        neighbours_html=gallery.neighbours(vectors, picture, names, [0, 1], 3, names),
        map_html=gallery.map_of_items(vectors, picture, names, names),
        skipped=[(text, text)],
        versions=[("selfsame", text)],
    )


def test_a_whole_page_is_balanced_and_refers_to_nothing_outside(tmp_path):
    page = Page(whole(tmp_path))
    assert all(reference.startswith(("#", "data:image/")) for reference in page.references)
    sections = ["figures", "curves", "views", "neighbours", "map", "numbers", "settings", "skipped", "versions"]
    assert [name for name in page.ids if name in sections] == sections
    assert len(page.ids) == len(set(page.ids))
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)


def test_the_page_forbids_itself_every_request(tmp_path):
    html = whole(tmp_path)
    assert "default-src 'none'; img-src data:;" in html
    assert "@import" not in html and "url(" not in html and "fetch(" not in html


def test_hostile_text_changes_no_tag(tmp_path):
    hostile = Page(whole(tmp_path, HOSTILE))
    assert hostile.tags == Page(whole(tmp_path, "photos")).tags
    assert not any("evil" in reference for reference in hostile.references)


@pytest.mark.parametrize("verdict", ADVICE)
def test_the_verdict_is_told_in_words_and_colour(tmp_path, verdict):
    html = written(tmp_path, verdict=verdict)
    assert f'class="verdict {level(verdict)}"' in html and (verdict[:1].upper() + verdict[1:]) in html
    assert ADVICE[verdict].split(".")[0] in html


def test_levels_of_verdicts():
    found = {verdict: level(verdict) for verdict in ADVICE}
    assert found == {
        "healthy": "healthy",
        "too early to tell": "warning",
        "slow": "warning",
        "dimensional collapse": "warning",
        "full collapse": "bad",
        "diverging": "bad",
    }


def test_key_figures_are_the_last_finite_values_of_the_log(tmp_path):
    html = written(tmp_path, log=[*rows(), {"step": 31, "loss": None}])
    assert "<span>Steps</span><b>31</b>" in html
    assert f"<span>Loss</span><b>{2 / 29:.4g}</b><small>from 2</small>" in html
    assert "<span>Rank</span><b>9.5</b><small>from 5</small>" in html
    assert "<span>Items per second</span><b>115</b><small>median</small>" in html


def test_every_number_of_the_log_is_a_curve_and_words_are_not(tmp_path):
    html = written(tmp_path, log=rows())
    drawn = {part.partition("</b>")[0] for part in html.split("<figcaption><b>")[1:]}
    expected = {"Loss", "k-NN accuracy", "Spread", "Rank", "Learning rate", "Momentum", "Items per second", "Mine"}
    assert drawn == expected
    assert "<h3>Of this method</h3>" in html


def test_a_step_in_several_rows_is_merged_and_put_in_order(tmp_path):
    html = written(tmp_path, log=[{"step": 2, "loss": 5.0}, {"step": 1, "loss": 7.0}, {"step": 2, "loss": 6.0}])
    assert "&quot;x&quot;: [1.0, 2.0], &quot;y&quot;: [7.0, 6.0]" in html


@pytest.mark.parametrize("log", [[], [{"step": 0}], [{"step": 1, "loss": None}], [{"loss": math.nan}]])
def test_logs_with_nothing_to_draw_still_make_a_page(tmp_path, log):
    html = written(tmp_path, log=log, verdict="diverging")
    Page(html)
    assert "empty" in html or "nothing to draw" in html or "none of 1 values is finite" in html


def test_without_numbers_the_page_gives_the_command_for_them(tmp_path):
    folder = tmp_path / "my run"
    html = written(folder)
    assert f"selfsame evaluate &#x27;{folder}&#x27; LABELLED" in html


def test_numbers_stand_beside_their_baselines(tmp_path):
    row = {"protocol": "knn", "labels": "all", "std": 0.01, "seeds": [0, 1, 2]}
    numbers = [
        {**row, "features": "encoder", "mean": 0.9},
        {**row, "features": "random weights", "mean": 0.5},
        {**row, "features": "raw pixels", "mean": 0.7},
    ]
    html = written(tmp_path, numbers=numbers)
    assert "0.200 above the better baseline" in html and "0.900 ± 0.010" in html and "<td>3</td>" in html
    assert html.count('<tr class="baseline">') == 2 and 'style="width:70.0%"' in html
    worse = written(tmp_path, numbers=[{**numbers[0], "mean": 0.6, "std": None}, *numbers[1:]])
    assert "0.100 below the better baseline" in worse and '<td class="value">0.600</td>' in worse


def test_a_long_list_of_skipped_files_is_cut_and_says_so(tmp_path):
    html = written(tmp_path, skipped=[(f"{i}.png", "truncated") for i in range(1234)])
    assert "1,234 files were skipped" in html and "And 1,034 more, all in skipped.csv." in html


def test_nested_settings_are_shown_under_the_names_of_their_flags():
    nested = {"seed": 0, "method": {"name": "byol", "head": {"width": 4}, "none": {}}}
    assert flat(nested) == [("seed", 0), ("method.name", "byol"), ("method.head.width", 4), ("method.none", {})]


def test_names_that_are_no_utf8_are_written_with_a_question_mark(tmp_path):
    assert "photo?.png" in written(tmp_path, skipped=[("photo\udcff.png", "not an image")])


def test_the_page_is_replaced_whole_and_leaves_no_draft(tmp_path):
    written(tmp_path, title="first")
    assert "second" in written(tmp_path, title="second")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match=r"cannot write .*report\.html"):
        written(tmp_path / "file")


def test_a_page_of_ten_thousand_rows_stays_small(tmp_path):
    assert len(written(tmp_path, log=rows(10_000))) < 500_000
