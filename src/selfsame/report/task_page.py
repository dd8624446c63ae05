"""The report of a task run: scores, curves, and pictures of predictions beside what is known.

Raises: UserError where the file cannot be written.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from selfsame.report.curves import curve, short
from selfsame.report.page import (
    Pairs,
    columns_of,
    curves_html,
    pairs_html,
    settings_html,
    skipped_html,
    written,
)

__all__ = ["standings_html", "write_task_page"]

Row = Mapping[str, Any]
NAMES = {
    "encoder": "pretrained encoder",
    "random": "random weights",
    "supervised": "labels alone, from scratch",
    "trivial": "trivial guess",
}


def write_task_page(
    folder: Path,
    *,
    title: str,
    summary: str,
    log: Sequence[Row],
    score: str,
    pictures: str = "",
    standings: Sequence[Row] = (),
    verdicts: Sequence[str] = (),
    measured_on: str = "",
    plan: Pairs = (),
    job: Mapping[str, Any] | None = None,
    skipped: Sequence[tuple[str, str]] = (),
    versions: Pairs = (),
) -> Path:
    """Write `folder`/report.html, whole or not at all, and return its path.

    `log` are the rows of log.jsonl, `score` the score by which weights were chosen; `pictures` is HTML taken as it is.
    `standings` are rows of `downstream.standings`, `measured_on` says of what items.
    """
    columns = columns_of(log)
    first = {f"val/{score}": "By it the weights were chosen."}
    rest = {name: "" for name in columns if name.startswith("val/") and name not in first}
    headed = {
        "Scores of the items to choose by": {**first, **rest},
        "Learning": {"loss": "What the head makes small."},
        "Schedule and speed": {"lr": "Of the head, warm-up and decay included.", "items_per_second": ""},
    }
    sections = [
        ("scores", "Scores", standings_html(standings, verdicts, measured_on)),
        ("pictures", "Predictions", pictures),
        ("curves", "Curves", curves_html(columns, headed, "Parts of the loss")),
        ("settings", "Plan and job", settings_html(plan, job or {})),
        ("skipped", "Skipped files", skipped_html(skipped)),
        ("versions", "Versions", pairs_html(versions) if versions else ""),
    ]
    return written(folder, title, f'<h1>{escape(title)}</h1><p class="lead">{escape(summary)}</p>', sections)


def standings_html(rows: Sequence[Row], verdicts: Sequence[str] = (), measured_on: str = "") -> str:
    """A table of every score by start and labels, and the chosen score drawn over the number of labels."""
    if not rows:
        return (
            '<p class="lead">Not measured on other items yet. With labelled items that were not learned from: '
            "<code>selfsame evaluate</code> with this folder and their path.</p>"
        )
    score = str(rows[0]["score"])
    others = [name for name in rows[0]["all"] if name != score]
    head = "".join(
        f"<th>{escape(name)}</th>" for name in ("start", "encoder", "labels", "items", score, "± std", "seeds", *others)
    )
    learns = {"frozen": "frozen", "finetune": "fine-tuned", "-": "–"}
    body = "".join(
        f'<tr class="{"encoder" if row["features"] == "encoder" else "baseline"}">'
        f"<td>{escape(named(row))}</td><td>{learns[row['protocol']]}</td>"
        f"<td>{escape(row['labels'])}</td><td>{row['items']:,}</td><td class='value'>{row['mean']:.3f}</td>"
        f"<td>{row['std']:.3f}</td><td>{row['seeds']}</td>"
        + "".join(f"<td>{short(row['all'][name])}</td>" if name in row["all"] else "<td>–</td>" for name in others)
        + "</tr>"
        for row in rows
    )
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in verdicts)
    return (
        (f'<p class="lead">{escape(measured_on)}</p>' if measured_on else "")
        + f'<div class="wide"><table class="scores"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        + (f"<ul>{told}</ul>" if told else "")
        + against_labels(rows, score)
    )


def named(row: Row) -> str:
    """The start of a row, as tables have it; a trivial one by what it says."""
    return str(row.get("called") or NAMES.get(row["features"], ""))


def against_labels(rows: Sequence[Row], score: str) -> str:
    """The score over the number of labels, a line for each start; "" where there is one number of labels alone."""
    if len({row["items"] for row in rows}) < 2:
        return ""
    series: dict[str, tuple[list[float], list[float | None]]] = {}
    for row in sorted(rows, key=lambda row: row["items"]):
        way = {"frozen": ", frozen", "finetune": ", fine-tuned"}.get(row["protocol"], "")
        name = named(row) + ("" if row["features"] == "supervised" else way)
        x, y = series.setdefault(name, ([], []))
        x.append(math.log10(max(1, row["items"])))
        y.append(row["mean"])
    return curve(
        f"{score} by labels", series, x_label="log10 of labelled items", width=720, height=300,
        note="Mean over seeds, on the test part.",
    )  # fmt: skip
