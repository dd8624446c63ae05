import json
import re
from html.parser import HTMLParser

import pytest

import selfsame as ss
from selfsame import cli, methods
from selfsame.errors import UserError
from selfsame.jobs.compare import Compare
from selfsame.jobs.comparing import ranked
from selfsame.jobs.pretraining import Pretraining
from selfsame.report.comparison import agreement_of_ranks, conclusion, dots

SMALL = {"encoder": "tests.nets:tiny", "size": 16, "batch_size": 16, "workers": 0, "precision": "fp32"}


@pytest.fixture(scope="module")
def comparison(pictures, tmp_path_factory):
    """(folder, result) of two methods, two seeds, with labels."""
    out = tmp_path_factory.mktemp("compare") / "all"
    return out, ss.compare(pictures, methods="byol,byol2", budget="64", labels="folders", out=out, **SMALL)


@pytest.fixture(scope="module", autouse=True)
def second_method():
    """BYOL once more by another name, so that there are two whatever else is there."""
    load = methods.load

    class Byol2(methods.BYOL):
        """Another."""

    def loaded(name):
        if name != "byol2":
            return load(name)
        Byol2.name = "byol2"
        return Byol2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "load", loaded)
        patch.setattr(methods, "names", lambda: ["byol", "byol2"])
        yield


def test_every_method_is_trained_measured_and_ranked(comparison):
    out, result = comparison
    assert result == json.loads((out / "comparison.json").read_text())
    assert sorted((run["method"], run["seed"]) for run in result["runs"]) == [
        ("byol", 0), ("byol", 1), ("byol2", 0), ("byol2", 1),
    ]  # fmt: skip
    assert {run["samples"] for run in result["runs"]} == {64}
    assert [row["place"] for row in result["rows"]] == [1, 1]  # the same method by two names
    first, second = result["rows"]
    assert first["figures"]["linear"][0] >= second["figures"]["linear"][0]
    assert all(
        len(row["figures"][key]) == 2 for row in result["rows"] for key in ("knn", "linear", "rank", "agreement")
    )


def test_random_weights_and_raw_input_stand_beside(comparison):
    found = [(one["features"], one["seed"]) for one in comparison[1]["baselines"]]
    assert found == [("random", 0), ("random", 1), ("raw", 0)]
    assert all(0 <= one["knn"] <= 1 and 0 <= one["linear"] <= 1 for one in comparison[1]["baselines"])


def test_the_page_is_whole_and_names_all(comparison):
    class Words(HTMLParser):
        text = ""

        def handle_data(self, data):
            self.text += data

    page = Words()
    page.feed((comparison[0] / "report.html").read_text(encoding="utf-8"))
    assert 'href="byol2-0/report.html"' in (comparison[0] / "report.html").read_text(encoding="utf-8")
    for word in ("Best: byol", "byol2", "random weights", "raw input", "linear %", "RankMe", "64", "viewsauto"):
        assert word in page.text


def test_the_same_command_goes_on_and_more_seeds_are_added(comparison, pictures, monkeypatch):
    out, before = comparison
    trained = []
    run = Pretraining.run
    monkeypatch.setattr(Pretraining, "run", lambda work: trained.append(work.job.seed) or run(work))
    settings = {"methods": "byol,byol2", "budget": "64", "labels": "folders", "out": out, **SMALL}
    assert ss.compare(pictures, **settings)["runs"] == before["runs"] and trained == []
    more = ss.compare(pictures, seeds=3, **settings)
    assert len(more["runs"]) == 6 and set(trained) == {2}
    with pytest.raises(UserError, match='budget was "64", now "128"'):
        ss.compare(pictures, **{**settings, "budget": "128"})


def test_without_labels_it_ranks_by_what_needs_none(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(Pretraining, "trial", lambda *_: (0.1, 0.0))  # seconds of a step, however busy the machine
    result = ss.compare(pictures, methods="byol", budget="1s", seeds=1, sample=40, out=tmp_path / "c", **SMALL)
    assert result["baselines"] == [] and "linear" not in result["rows"][0]["figures"]
    assert result["rows"][0]["figures"]["rank"][1] is None  # one run has no spread
    plan = ss.Run(tmp_path / "c" / "byol-0").plan
    assert any(line["name"] == "sample" and line["value"].startswith("40 items") for line in plan["lines"])
    assert plan["loop"]["steps"] == 10  # what fits into a second


def test_stopped_runs_are_last_and_ties_are_decided_by_both_measures():
    run = {
        "seed": 0,
        "seconds": 1.0,
        "verdict": "healthy",
        "uniformity": 0.0,
        "alignment": 0.0,
        "spread": 1.0,
        "length": 1,
    }
    runs = [
        {"method": "collapsed", "seed": 0, "seconds": 1.0, "verdict": "stopped", "why": "full collapse"},
        {**run, "method": "wide", "rank": 90.0, "agreement": 0.2},
        {**run, "method": "best", "rank": 80.0, "agreement": 0.9},
        {**run, "method": "narrow", "rank": 9.0, "agreement": 0.1},
    ]
    assert [row["method"] for row in ranked(runs)] in (
        ["wide", "best", "narrow", "collapsed"],
        ["best", "wide", "narrow", "collapsed"],
    )
    runs[1]["agreement"] = 0.05
    assert [row["method"] for row in ranked(runs)] == ["best", "wide", "narrow", "collapsed"]
    for number, one in enumerate(runs[1:]):
        one["linear"] = one["knn"] = number / 10
    assert [row["method"] for row in ranked(runs)] == ["narrow", "best", "wide", "collapsed"]


def row_of(name, mean, std, place=None):
    return {
        "method": name,
        "place": place or ord(name) - 96,
        "figures": {"linear": (mean, std), "knn": (mean, std)} if mean is not None else {},
    }


def baselines_of(random, raw):
    return [
        *({"features": "random", "seed": seed, "linear": one, "knn": one} for seed, one in enumerate(random)),
        {"features": "raw", "seed": 0, "linear": raw, "knn": raw},
    ]


@pytest.mark.parametrize(
    ("rows", "baselines", "told"),
    [
        (
            [row_of("a", 0.5, 0.01), row_of("b", 0.4, 0.01)], baselines_of([0.2, 0.21], 0.3), "Best: a."
        ),
        (
            [row_of("a", 0.5, 0.01), row_of("b", 0.495, 0.01), row_of("c", 0.49, 0.02), row_of("d", 0.2, 0.01)], [],
            "Best: a. Not clearly better than b and c, within the spread.",
        ),
        (
            [row_of("a", 0.25, 0.01), row_of("b", 0.2, 0.01)], baselines_of([0.20, 0.30], 0.277),
            "Best: a. It is not clearly better than random weights (25.0 ± 7.1) and raw input (27.7) either: raise "
            "--budget.",
        ),
        (
            [row_of("a", 0.5, None), row_of("b", 0.4, None)], [],
            "Best: a. One seed each tells nothing of the spread: raise --seeds before you rely on small differences.",
        ),
        ([row_of("a", None, None)], [], "No method came to its end."),
        (
            [{"method": name, "place": 1, "figures": {"rank": (3.0, None)}, "verdicts": ["slow"]} for name in "ab"], [],
            "Best: a and b, which are alike. No run is healthy yet: raise --budget before you choose. Labels for "
            "some items (--labels) would tell whether that is so for what you need.",
        ),
    ],
)  # fmt: skip
def test_what_the_ranking_says_in_words(rows, baselines, told):
    assert conclusion(rows, baselines) == told


def test_bars_of_the_plot_stay_within_it():
    drawn = dots([row_of("a", 0.2, 0.1), row_of("b", 0.21, 0.0)], ["linear", "knn"], {}, "accuracy, %")
    ends = [float(x) for pair in re.findall(r'class="line[^>]*x1="([\d.-]+)" x2="([\d.-]+)"', drawn) for x in pair]
    assert len(ends) == 8 and min(ends) >= 120 and max(ends) <= 700  # names stand left of 120


def test_rank_correlation():
    assert agreement_of_ranks([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert agreement_of_ranks([4, 3, 2, 1], [10, 20, 30, 40]) == pytest.approx(-1)
    assert agreement_of_ranks([1, 1, 1], [1, 2, 3]) == 0
    assert agreement_of_ranks([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9486833)  # scipy.stats.spearmanr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": "10 apples"}, "a time .* or a number of samples"),
        ({"budget": "0m"}, "a time"),
        ({"budget": "10.5"}, "a time"),
        ({"methods": "byol,byool"}, "unknown method 'byool'. Did you mean 'byol'"),
        ({"methods": "byol,byol"}, "stands there twice"),
        ({"methods": ","}, "there is no method"),
        ({"test": "x"}, "give --labels too"),
        ({"sample": 1000}, "--sample 1,000 is more than the"),
        ({"views": "phto"}, "recipe"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_trained(pictures, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        ss.compare(pictures, **{"methods": "byol", "out": tmp_path / "c", "budget": "32", **SMALL, **settings})
    assert not list(tmp_path.rglob("log.jsonl"))


def test_a_folder_of_something_else_is_left_alone(pictures, finished):
    with pytest.raises(UserError, match="is no comparison and not empty"):
        ss.compare(pictures, out=finished, **SMALL)


@pytest.mark.parametrize(
    ("text", "minutes", "samples"), [("90s", 1.5, None), ("10m", 10, None), ("2h", 120, None), ("40_000", None, 40000)]
)
def test_budgets(text, minutes, samples):
    job = Compare(data="x", budget=text)
    assert (job.minutes, job.samples) == (minutes, samples)


def test_methods_that_do_not_fit_are_named_with_the_reason(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(methods.load("byol2"), "needs", ("tokens",))
    result = ss.compare(pictures, methods="all", budget="16", seeds=1, out=tmp_path / "c", **SMALL)
    assert "needs an encoder with tokens" in result["left_out"]["byol2"]
    assert [row["method"] for row in result["rows"]] == ["byol"]
    assert "needs an encoder with tokens" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="--method byol2 needs an encoder with tokens"):
        ss.compare(pictures, methods="byol,byol2", budget="16", out=tmp_path / "d", **SMALL)


def test_wrong_labels_are_refused_before_a_run_and_the_folder_is_free_for_right_ones(pictures, tmp_path):
    settings = {"methods": "byol", "budget": "16", "seeds": 1, "out": tmp_path / "c", **SMALL}
    with pytest.raises(UserError, match="typo"):
        ss.compare(pictures, labels="typo.csv", **settings)
    assert not (tmp_path / "c").exists()


def test_a_comparison_that_is_stopped_in_its_first_run_goes_on(pictures, tmp_path, monkeypatch):
    settings = {"methods": "byol", "budget": "1s", "seeds": 1, "out": tmp_path / "c", **SMALL}

    def stopped(work):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "run", stopped)
        with pytest.raises(KeyboardInterrupt):
            ss.compare(pictures, **settings)
    begun = json.loads((tmp_path / "c" / "comparison.json").read_text())["epochs"]
    assert ss.compare(pictures, **settings)["epochs"] == begun


def test_a_method_that_fails_is_last_with_its_reason_and_ends_nothing(pictures, tmp_path, monkeypatch):
    def failing(self, encoder, items=0):
        raise UserError("the grid is too small")

    monkeypatch.setattr(methods.load("byol2"), "build", failing)
    result = ss.compare(pictures, methods="byol2,byol", budget="16", seeds=1, out=tmp_path / "c", **SMALL)
    assert [row["method"] for row in result["rows"]] == ["byol", "byol2"]
    assert "the grid is too small" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")


def test_the_command_line_knows_it(pictures, tmp_path, capsys):
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    words = [
        "compare",
        str(pictures),
        "--methods",
        "byol",
        "--budget",
        "32",
        "--seeds",
        "1",
        f"--out={tmp_path / 'c'}",
        "--json",
    ]
    assert cli.main([*words, *flags]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["rows"][0]["method"] == "byol"
    assert " ".join(told.err.split()).count(" as image ") == 1  # however often the data are opened
    assert cli.main(["compare", str(pictures), "--budget", "soon", f"--out={tmp_path / 'd'}"]) == 2
    assert "--budget 'soon'" in capsys.readouterr().err
