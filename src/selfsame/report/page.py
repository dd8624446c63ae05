"""The report of a run: one HTML file that needs nothing else, neither a network nor a second file.

Every text is escaped, and the page forbids itself all requests (Content-Security-Policy).
Raises: UserError where the file cannot be written.
"""

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from selfsame.engine.health import ADVICE, ENDS_BADLY, Verdict
from selfsame.engine.state import write_text
from selfsame.report.curves import curve, short
from selfsame.report.gallery import sheet_uri
from selfsame.report.scores import Row, scores_html

__all__ = [
    "columns_of",
    "curves_html",
    "flat",
    "level",
    "pairs_html",
    "settings_html",
    "skipped_html",
    "worded",
    "write_page",
    "written",
]

Pairs = Mapping[str, Any] | Sequence[tuple[str, Any]]

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
MARKS = {"healthy": "✓", "warning": "!", "bad": "✕"}
MOST_SKIPPED = 200

# The log's columns by what they tell, each with the sentence under its chart; all others are the method's own.
CHARTS = {
    "Learning": {
        "loss": "What the method makes small. Its level depends on the method: compare runs of one method only.",
        "health/agreement": "Share of held-out items whose other view is the nearest of all. Higher is better.",
        "knn": "Accuracy of the nearest neighbours on labelled items; training never sees the labels.",
    },
    "Health of the vectors": {
        "health/spread": "Standard deviation of the unit vectors × √d: about 1 is healthy, 0 is a collapse.",
        "health/rank": "Directions in use (RankMe). A fall towards 1 is a collapse.",
        "health/alignment": "Squared distance of two views of an item. Low is good only while uniformity is low too.",
        "health/uniformity": "How evenly the vectors fill the sphere: 0 is a collapse, about −4 is even.",
        "health/length": "Mean length of the vectors. Growth without bound is a divergence.",
    },
    "Schedule and speed": {
        "lr": "Of the step, warm-up and decay included.",
        "items_per_second": "Over all processes.",
    },
}
TITLES = {
    "lr": "Learning rate",
    "spread": "Spread of projections",
    "knn": "k-NN accuracy",
    "health/length": "Vector length",
    "nll": "Negative log-likelihood",
    "ece": "Calibration error (ECE)",
    "bbox_regression": "Places of boxes",
    "bbox_ctrness": "Centre-ness of boxes",
    "loss_objectness": "Object or not",
    "loss_rpn_box_reg": "Places of proposals",
    "loss_classifier": "Classes of boxes",
    "loss_box_reg": "Places of boxes",
    "APs": "AP of small boxes",
    "APm": "AP of middling boxes",
    "APl": "AP of large boxes",
    "AR1": "AR, 1 box a picture",
    "AR10": "AR, 10 boxes a picture",
    "AR100": "AR, 100 boxes a picture",
}
FIGURES = ("loss", "knn", "health/agreement", "health/spread", "health/rank")
SPEED = "items_per_second"
COUNTERS = ("step", "epoch", "time")


def write_page(
    folder: Path,
    *,
    title: str,
    verdict: Verdict,
    plan: Pairs,
    job: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    numbers: Sequence[Row] | None = None,
    measured_on: str = "",
    sheet: Image.Image | str | None = None,
    neighbours_html: str = "",
    map_html: str = "",
    skipped: Sequence[tuple[str, str]] = (),
    versions: Pairs = (),
    beside: str = "",
) -> Path:
    """Write `folder`/report.html, whole or not at all, and return its path.

    `verdict` is a key of `health.ADVICE`, `beside` a sentence on where other runs of the preset were. `log` holds the
    rows of log.jsonl; any numeric column becomes a curve.
    `measured_on` says of what items the numbers are. `plan` and `versions` are (name, value) pairs, `skipped` (file,
    reason) pairs. `neighbours_html` and `map_html` are taken as they are: they come from `gallery`.
    """
    columns = columns_of(log)
    sections = [
        ("figures", "Key figures", _figures(columns, log)),
        ("curves", "Curves", curves_html(columns)),
        ("views", "What it learns from", _sheet(sheet)),
        ("neighbours", "Nearest neighbours", _neighbours(neighbours_html)),
        ("map", "Map of the items", map_html),
        ("numbers", "Numbers beside baselines", _numbers(numbers, measured_on, folder)),
        ("settings", "Plan and job", settings_html(plan, job)),
        ("skipped", "Skipped files", skipped_html(skipped)),
        ("versions", "Versions", pairs_html(versions) if versions else ""),
    ]
    return written(folder, title, f"<h1>{escape(title)}</h1>{_verdict(verdict, beside)}", sections)


def written(folder: Path, title: str, header: str, sections: Sequence[tuple[str, str, str]]) -> Path:
    """report.html of (key, heading, HTML) sections, empty ones left out; `header` is HTML that stands above them."""
    kept = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in kept)
    body = "".join(f'<section id="{key}"><h2>{escape(name)}</h2>{html}</section>' for key, name, html in kept)
    text = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        '<meta name="color-scheme" content="light dark"/>'
        f"<title>{escape(title)} – selfsame report</title><style>{_part('page.css')}</style></head><body><main>"
        f'<header><p class="brand">selfsame report</p>{header}</header>'
        f"<nav>{links}</nav>{body}</main><script>{_part('page.js')}</script></body></html>\n"
    )
    path = folder / "report.html"
    # File names that are no UTF-8 reach Python with lone surrogates, which no file can hold.
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
    return path


def level(verdict: Verdict) -> str:
    """How serious a verdict is: healthy, warning or bad."""
    return "healthy" if verdict == "healthy" else "bad" if verdict in ENDS_BADLY else "warning"


def flat(record: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Nested settings as pairs with dotted names, which are the flags of the command line."""
    pairs: list[tuple[str, Any]] = []
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            pairs += flat(value, f"{before}{name}.")
        else:
            pairs.append((f"{before}{name}", value))
    return pairs


def _part(name: str) -> str:
    return files("selfsame.report").joinpath(name).read_text(encoding="utf-8")


def _verdict(verdict: Verdict, beside: str = "") -> str:
    """The verdict's own sentence, then its cause and its cure each on a line, then what others were."""
    kind = level(verdict)
    advice = escape(ADVICE.get(verdict, ""))
    for word in ("Likely cause:", "Cure:"):
        advice = advice.replace(word, f"<br/><b>{word}</b>")
    advice += f"<br/><b>Beside other runs:</b> {escape(beside)}" if beside else ""
    advice = re.sub(r"(?<!\S)--[\w.-]*\w", r"<code>\g<0></code>", advice)
    headline = escape(verdict[:1].upper() + verdict[1:])
    return (
        f'<div class="verdict {kind}" role="status"><i>{MARKS[kind]}</i><div><strong>{headline}</strong>'
        f"<p>{advice}</p></div></div>"
    )


def columns_of(log: Sequence[Mapping[str, Any]]) -> dict[str, dict[float, float | None]]:
    """{column: {step: value}} in the order of steps; null in the log is a value that was not finite."""
    columns: dict[str, dict[float, float | None]] = {}
    for number, row in enumerate(log):
        step = row.get("step", number)
        for name, value in row.items():
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            if name not in COUNTERS and (numeric or value is None):
                columns.setdefault(name, {})[step] = value
    return {name: dict(sorted(column.items())) for name, column in columns.items()}


def _finite(column: Mapping[float, float | None]) -> list[float]:
    return [value for value in column.values() if value is not None and math.isfinite(value)]


def _figures(columns: Mapping[str, Mapping[float, float | None]], log: Sequence[Mapping[str, Any]]) -> str:
    if not log:
        return '<p class="note">The log is empty: the run stopped before its first measurement.</p>'
    tiles = [("Steps", f"{max(row.get('step', number) for number, row in enumerate(log)):,}", "")]
    for name in FIGURES:
        if values := _finite(columns.get(name, {})):
            tiles.append((worded(name), short(values[-1]), f"from {short(values[0])}" if len(values) > 1 else ""))
    if values := _finite(columns.get(SPEED, {})):
        tiles.append((worded(SPEED), short(median(values)), "median"))
    return '<div class="tiles">{}</div>'.format(
        "".join(
            f'<div class="figure"><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(below)}</small></div>'
            for name, value, below in tiles
        )
    )


def worded(name: str) -> str:
    """A column of the log, or a score, as a title."""
    name = name.removeprefix("val/")
    words = name.removeprefix("health/")
    if " " not in words:  # else what follows may be a name of the user's
        words = words.replace("_", " ")
    first = words.partition(" ")[0]
    # mIoU and the like keep their letters.
    return TITLES.get(name) or (words[:1].upper() + words[1:] if first.islower() else words)


def curves_html(
    columns: Mapping[str, Mapping[float, float | None]],
    headed: Mapping[str, Mapping[str, str]] = CHARTS,
    rest: str = "Of this method",
    kept: float | None = None,
) -> str:
    """A chart for each column, under headings: {heading: {column: what is said under it}}, all others under `rest`.

    `kept` is the step whose weights were kept: scores (`val/...`) are marked there, and told as they were there.
    """
    if not columns:
        return '<p class="note">There is nothing to draw yet.</p>'
    placed = {name for charts in headed.values() for name in charts}
    own = {name: "" for name in columns if name not in placed}
    parts = []
    for heading, charts in {**headed, rest: own}.items():
        drawn = [
            curve(
                worded(name),
                {worded(name): (list(columns[name]), list(columns[name].values()))},
                note=note,
                kept=kept if name.startswith("val/") else None,
            )
            for name, note in charts.items()
            if name in columns
        ]
        if drawn:
            parts.append(f'<h3>{heading}</h3><div class="curves">{"".join(drawn)}</div>')
    return "".join(parts)


def _sheet(sheet: Image.Image | str | None) -> str:
    if not sheet:
        return ""
    drawn = (
        f'<pre class="sheet">{escape(sheet)}</pre>'
        if isinstance(sheet, str)
        else f'<img class="sheet" src="{sheet_uri(sheet)}" alt="random views of some items"/>'
    )
    return (
        '<p class="lead">Random views of some items, as the encoder saw them in training. The views of an item must '
        "still show the same thing, and differ in what should not matter.</p>" + drawn
    )


def _neighbours(html: str) -> str:
    lead = "Each row: an item, then the items whose vectors are nearest to its own, with their cosines."
    return f'<p class="lead">{lead}</p>{html}' if html else ""


def _numbers(numbers: Sequence[Row] | None, measured_on: str, folder: Path) -> str:
    command = f"selfsame evaluate {shlex.quote(str(folder))} LABELLED"
    if not numbers:
        return (
            '<p class="lead">Nothing is measured against labels yet. With a folder of labelled items this command '
            "measures the encoder beside random weights and raw input:</p>"
            f"<pre><code>{escape(command)}</code></pre>"
        )
    told = f'<p class="lead">{escape(measured_on)}</p>' if measured_on else ""
    return told + scores_html(numbers)


def settings_html(plan: Pairs, job: Mapping[str, Any]) -> str:
    return (
        f"<details open><summary>Plan</summary>{pairs_html(plan)}</details>"
        f"<details><summary>Job, all settings</summary>{pairs_html(flat(job))}</details>"
    )


def skipped_html(skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return ""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(why)}</td></tr>" for name, why in skipped[:MOST_SKIPPED])
    more = len(skipped) - MOST_SKIPPED
    rest = f'<p class="note">And {more:,} more, all in skipped.csv.</p>' if more > 0 else ""
    return (
        f"<details><summary>{len(skipped):,} {'file was' if len(skipped) == 1 else 'files were'} skipped</summary>"
        f'<div class="wide"><table><thead><tr><th>file</th><th>reason</th></tr></thead><tbody>{rows}</tbody></table>'
        f"</div>{rest}</details>"
    )


def pairs_html(pairs: Pairs) -> str:
    rows = "".join(f"<tr><th>{escape(str(n))}</th><td>{escape(_text(v))}</td></tr>" for n, v in dict(pairs).items())
    return f'<div class="wide"><table class="pairs"><tbody>{rows}</tbody></table></div>'


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return short(value)
    return json.dumps(value, ensure_ascii=False, default=str)
