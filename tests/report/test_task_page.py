from pathlib import Path

from selfsame.report.page import worded
from selfsame.report.task_page import standings_html, write_task_page


def row(features="encoder", protocol="-", labels="as adapted", mean=0.5, seeds=1, **scores):
    return {
        "features": features, "protocol": protocol, "labels": labels, "items": 40, "score": "mIoU", "mean": mean,
        "std": 0.01 * (seeds > 1), "seeds": seeds, "all": {"mIoU": mean, "ece": 0.25, **scores},
    }  # fmt: skip


def heads(html: str) -> list[str]:
    return [part.partition("</th>")[0] for part in html.split("<th>")[1:]]


def test_of_a_task_run_the_scores_stand_below_each_other() -> None:
    html = standings_html([row(), row("trivial", mean=0.3)])
    assert heads(html) == ["score", "pretrained encoder", "trivial guess"]
    assert "0.500" in html and "± " not in html and "as adapted" not in html
    assert "Calibration error (ECE)" in html and "Learned from 40 labelled items." in html


def test_of_many_starts_columns_that_say_the_same_in_every_line_are_told_below() -> None:
    rows = [
        row(start, way, labels, mean=0.1 * k, seeds=2, kind=k)
        for labels in ("10%", "all")
        for k, (start, way) in enumerate([("encoder", "frozen"), ("random", "frozen"), ("trivial", "-")], 1)
    ]
    html = standings_html(rows)
    assert heads(html) == ["start", "encoder", "labels", "mIoU", "Kind"]
    assert "0.100 ± 0.010" in html and "mean ± standard deviation over 2 seeds" in html.lower()
    assert "In every line: Calibration error (ECE) 0.25." in html


def test_scores_are_told_as_of_the_weights_that_were_kept(tmp_path: Path) -> None:
    log = [{"step": s, "val/mIoU": value, "val/ece": 0.0} for s, value in ((0, 0.1), (10, 0.8), (20, 0.4))]
    html = write_task_page(tmp_path, title="t", summary="", log=log, score="mIoU", best=10).read_text("utf-8")
    assert "<b>mIoU</b><output>0.8 kept, step 10</output>" in html
    assert html.count('class="dot kept c0"') == 2


def test_names_of_scores_keep_their_letters() -> None:
    assert [worded(name) for name in ("val/mIoU", "val/nll", "val/PCK left_cuff", "dice loss", "bbox_ctrness")] == [
        "mIoU", "Negative log-likelihood", "PCK left_cuff", "Dice loss", "Centre-ness of boxes",
    ]  # fmt: skip
