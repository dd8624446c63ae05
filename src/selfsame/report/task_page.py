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
    worded,
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
FEW = 3  # rows, up to which the scores stand below each other


def write_task_page(
    folder: Path,
    *,
    title: str,
    summary: str,
    log: Sequence[Row],
    score: str,
    best: float | None = None,
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

    `log` are the rows of log.jsonl, `score` the score by which weights were chosen, `best` the step they are of;
    `pictures` is HTML taken as it is.
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
        ("curves", "Curves", curves_html(columns, headed, "Parts of the loss", best)),
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
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in verdicts)
    return (
        (f'<p class="lead">{escape(measured_on)}</p>' if measured_on else "")
        + (_downwards(rows, score) if len(rows) <= FEW else _across(rows, score))
        + (f"<ul>{told}</ul>" if told else "")
        + against_labels(rows, score)
    )


def named(row: Row) -> str:
    """The start of a row, as tables have it; a trivial one by what it says."""
    return str(row.get("called") or NAMES.get(row["features"], ""))


def _value(row: Row, name: str, score: str) -> str:
    if name == score:
        return f"{row['mean']:.3f}" + (f" ± {row['std']:.3f}" if row["seeds"] > 1 else "")
    return short(row["all"][name]) if name in row["all"] else "–"


def _ways(rows: Sequence[Row]) -> list[dict[str, str]]:
    """What each row is, without what is the same in all or in none."""
    learns = {"frozen": "frozen", "finetune": "fine-tuned", "-": "–"}
    cells = [
        {
            "start": named(row),
            "encoder": learns[row["protocol"]],
            "labels": str(row["labels"]),
            "items": f"{row['items']:,}",
            "seeds": str(row["seeds"]),
        }
        for row in rows
    ]
    kept = [name for name in cells[0] if name == "start" or len({cell[name] for cell in cells}) > 1]
    return [{name: cell[name] for name in kept} for cell in cells]


def _alike(rows: Sequence[Row], ways: Sequence[Mapping[str, str]]) -> str:
    """What all rows have in common, in words."""
    items, seeds = rows[0]["items"], rows[0]["seeds"]
    said = []
    if "items" not in ways[0] and items:
        said.append(f"learned from {items:,} labelled items")
    if "seeds" not in ways[0] and any(row["protocol"] != "-" for row in rows):
        said.append("one seed" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds")
    text = "; ".join(said)
    return f'<p class="note">{text[:1].upper()}{text[1:]}.</p>' if text else ""


def _downwards(rows: Sequence[Row], score: str) -> str:
    """A line a score, a column a start: for few starts and many scores."""
    ways = _ways(rows)
    names = [score, *(name for name in rows[0]["all"] if name != score)]
    head = "".join(f"<th>{escape(', '.join(way.values()))}</th>" for way in ways)
    body = "".join(
        f'<tr class="{"encoder" if name == score else "baseline"}"><td>{escape(worded(name))}</td>'
        + "".join(f'<td class="value">{_value(row, name, score)}</td>' for row in rows)
        + "</tr>"
        for name in names
    )
    return (
        f'<div class="wide"><table class="scores"><thead><tr><th>score</th>{head}</tr></thead><tbody>{body}</tbody>'
        f"</table></div>{_alike(rows, ways)}"
    )


def _across(rows: Sequence[Row], score: str) -> str:
    """A line a start; scores that are the same in all lines are told below."""
    ways = _ways(rows)
    others = [name for name in rows[0]["all"] if name != score]
    same = [name for name in others if len({_value(row, name, score) for row in rows}) == 1]
    names = [score, *(name for name in others if name not in same)]
    head = "".join(f"<th>{escape(name)}</th>" for name in (*ways[0], *map(worded, names)))
    body = "".join(
        f'<tr class="{"encoder" if row["features"] == "encoder" else "baseline"}">'
        + "".join(f"<td>{escape(cell)}</td>" for cell in way.values())
        + "".join(f'<td class="value">{_value(row, name, score)}</td>' for name in names)
        + "</tr>"
        for row, way in zip(rows, ways, strict=True)
    )
    equal = ", ".join(f"{worded(name)} {_value(rows[0], name, score)}" for name in same)
    return (
        f'<div class="wide"><table class="scores long"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        + "</div>"
        + _alike(rows, ways)
        + (f'<p class="note">In every line: {escape(equal)}.</p>' if equal else "")
    )


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
