"""The page of a comparison: the ranking, a plot of it, and how far measures without labels agree with labels."""

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from selfsame.report.curves import Axis, ticks
from selfsame.report.page import flat, written

__all__ = ["agreement_of_ranks", "conclusion", "told", "write_comparison"]

NAMES = {
    "linear": "linear %",
    "knn": "k-NN %",
    "agreement": "agreement %",
    "rank": "RankMe",
    "uniformity": "uniformity",
}
SHARES = ("linear", "knn", "agreement")
COLOUR = {"linear": "c0", "knn": "c1", "agreement": "c0", "rank": "c1"}
LEFT, RIGHT, LINE = 120, 20, 22  # of the plot, in units of the SVG
APART = 8  # between the measures of a method


def write_comparison(folder: Path, result: Mapping[str, Any], about: Mapping[str, str]) -> Path:
    """report.html of what comparison.json holds; `about` says of each method what it does, in one line."""
    rows, job = result["rows"], result["job"]
    measured = [key for key in NAMES if any(key in row["figures"] for row in rows)]
    stopped = [run for run in result["runs"] if run["verdict"] == "stopped"]
    settings = [(key.removesuffix(".name"), value) for key, value in flat(job) if value is not None]
    budget = job["budget"] if job["budget"][-1].isalpha() else f"{int(job['budget']):,} samples"
    by = "linear accuracy" if "linear" in measured else "measures without labels: mean place by agreement and RankMe"
    most = max(row["runs"] for row in rows)
    runs = f"{most} seed{'s' if most > 1 else ''} each"
    header = (
        f"<h1>Methods compared on {escape(str(job['data']))}</h1><p class='lead'>Ranked by {by}. "
        f"{budget} a run, "
        f"{runs}; encoder, views, batch and precision are the same for all, the methods' settings those derived from "
        f"this data. <b>{escape(conclusion(rows, result['baselines']))}</b></p>"
    )
    sections = [
        ("ranking", "Ranking", ranking(rows, measured, result["baselines"], result["runs"])),
        ("plot", "Accuracy" if "linear" in measured else "Without labels", plots(rows, measured, result["baselines"])),
        ("trust", "Do the measures without labels rank alike?", trust(rows, measured)),
        ("methods", "What they do", pairs([(row["method"], about.get(row["method"], "")) for row in rows])),
        ("stopped", "Stopped", pairs([(f"{run['method']}, seed {run['seed']}", run["why"]) for run in stopped])),
        ("left", "Left out", pairs(list(result["left_out"].items()))),
        ("job", "Settings", pairs([*settings, ("machine", result["machine"])])),
    ]
    return written(folder, f"Methods compared on {job['data']}", header, sections)


def conclusion(rows: Sequence[Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]]) -> str:
    """Which method is best, who is as good as it, and whether it is better than doing nothing; in words."""
    best = rows[0]
    if not best["figures"]:
        return "No method came to its end."
    first = listed([row["method"] for row in rows if row["place"] == best["place"]])
    found = f"Best: {first}{', which are alike' if ' and ' in first else ''}."
    if "linear" not in best["figures"]:
        if not any("healthy" in row["verdicts"] for row in rows):
            found += " No run is healthy yet: raise --budget before you choose."
        return f"{found} Labels for some items (--labels) would tell whether that is so for what you need."
    here = best["figures"]["linear"]
    after = [row for row in rows if row["place"] > best["place"] and "linear" in row["figures"]]
    alike = [row["method"] for row in after if near(here, row["figures"]["linear"])]
    if alike:
        found += f" Not clearly better than {listed(alike)}, within the spread."
    elif here[1] is None and len(rows) > 1:
        found += " One seed each tells nothing of the spread: raise --seeds before you rely on small differences."
    low = [
        f"{name} ({told('linear', figures['linear'])})"
        for name, figures in of_baselines(baselines).items()
        if here[0] <= figures["linear"][0] or near(here, figures["linear"])
    ]
    return found + (f" It is not clearly better than {listed(low)} either: raise --budget." if low else "")


def near(one: Sequence[Any], two: Sequence[Any]) -> bool:
    """Whether two means (mean, std) differ by less than one standard deviation of their difference."""
    return abs(one[0] - two[0]) < math.hypot(one[1] or 0.0, two[1] or 0.0)


def listed(names: Sequence[str]) -> str:
    """As in: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def ranking(
    rows: Sequence[Mapping[str, Any]],
    measured: Sequence[str],
    baselines: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
) -> str:
    folders = {run["method"]: run["folder"] for run in reversed(runs) if run["verdict"] != "stopped"}
    head = "".join(f"<th>{escape(NAMES[key])}</th>" for key in measured)
    body = []
    for row in rows:
        cells = "".join(f'<td class="value">{told(key, row["figures"].get(key))}</td>' for key in measured)
        verdicts = escape(", ".join(dict.fromkeys(row["verdicts"])))
        name = f"<b>{escape(row['method'])}</b>"
        if row["method"] in folders:  # the report of its first run
            name = f'<a href="{escape(folders[row["method"]])}/report.html">{name}</a>'
        body.append(
            f'<tr><td class="value">{row["place"]}</td><td>{name}</td>{cells}'
            f'<td class="value">{row["seconds"]:,.0f}</td><td>{verdicts}</td></tr>'
        )
    for kind, figures in of_baselines(baselines).items():
        cells = "".join(f'<td class="value">{told(key, figures.get(key))}</td>' for key in measured)
        body.append(f'<tr class="baseline"><td></td><td>{escape(kind)}</td>{cells}<td></td><td>baseline</td></tr>')
    return (
        f'<div class="wide"><table class="scores"><thead><tr><th></th><th>method</th>{head}<th>seconds</th>'
        f"<th>verdict</th></tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        '<p class="note">Mean ± standard deviation over the seeds. Agreement: share of items whose other view is the '
        "nearest of all. RankMe: directions in use. Higher is better for both, but neither knows what you need.</p>"
    )


def of_baselines(baselines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float | None]]]:
    found: dict[str, dict[str, tuple[float, float | None]]] = {}
    names = {"random": "random weights", "raw": "raw input"}
    for kind in dict.fromkeys(one["features"] for one in baselines):
        members = [one for one in baselines if one["features"] == kind]
        found[names.get(kind, kind)] = {
            key: (
                statistics.fmean(one[key] for one in members),
                statistics.stdev(one[key] for one in members) if len(members) > 1 else None,
            )
            for key in ("linear", "knn")
        }
    return found


def plots(rows: Sequence[Mapping[str, Any]], measured: Sequence[str], baselines: Sequence[Mapping[str, Any]]) -> str:
    if "linear" in measured:
        return dots(rows, ["linear", "knn"], of_baselines(baselines), "accuracy, %")
    pairs = (("agreement", "agreement, %"), ("rank", "RankMe"))
    drawn = "".join(dots(rows, [key], {}, label) for key, label in pairs if key in measured)
    return f'<div class="curves">{drawn}</div>'


def dots(
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    lines: Mapping[str, Mapping[str, tuple[float, float | None]]],
    label: str,
) -> str:
    """A line a method: a dot for each measure, a bar of one standard deviation; baselines are dashed lines."""
    shown = [row for row in rows if any(key in row["figures"] for key in keys)]
    figures_shown = [(key, row["figures"][key]) for row in shown for key in keys if key in row["figures"]]
    values = [scaled(key, mean + side * (std or 0.0)) for key, (mean, std) in figures_shown for side in (-1, 1)]
    values += [scaled(key, figures[key][0]) for figures in lines.values() for key in keys]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 1.0
    width, height = 720 if len(keys) > 1 else 360, LINE * len(shown) + 50
    across = Axis(low - room, high + room, LEFT, width - RIGHT)
    floor = height - 28
    parts = []
    for value in ticks(across.low, across.high):
        at = f"{across(value):.1f}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="10" y2="{floor}"/>')
        parts.append(f'<text x="{at}" y="{floor + 13}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{width - RIGHT}" y="{floor + 26}" text-anchor="end">{escape(label)}</text>')
    for name, figures in lines.items():
        for key in keys:
            at = f"{across(scaled(key, figures[key][0])):.1f}"
            title = f"<title>{escape(name)}, {escape(NAMES[key])}: {told(key, figures[key])}</title>"
            parts.append(
                f'<line class="line {COLOUR[key]}" style="stroke-dasharray:{"1 4" if "raw" in name else "7 4"}" '
                f'x1="{at}" x2="{at}" y1="10" y2="{floor}">{title}</line>'
            )
    for number, row in enumerate(shown):
        y = 10 + LINE * (number + 0.5)
        parts.append(f'<text x="{LEFT - 8}" y="{y:g}" dy=".32em" text-anchor="end">{escape(row["method"])}</text>')
        for place, key in enumerate(keys):
            if key not in row["figures"]:
                continue
            mean, std = row["figures"][key]
            y = 10 + LINE * (number + 0.5) + APART * (place - (len(keys) - 1) / 2)
            x = across(scaled(key, mean))
            if std is not None:
                ends = (across(scaled(key, mean - std)), across(scaled(key, mean + std)))
                parts.append(
                    f'<line class="line {COLOUR[key]}" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y:g}" y2="{y:g}"/>'
                )
            title = f"<title>{escape(row['method'])}, {escape(NAMES[key])}: {told(key, (mean, std))}</title>"
            parts.append(f'<circle class="dot {COLOUR[key]}" cx="{x:.1f}" cy="{y:g}" r="4">{title}</circle>')
    legend = "".join(f'<li><i class="swatch {COLOUR[key]}"></i>{escape(NAMES[key])}</li>' for key in keys)
    legend += "<li>dashed: random weights</li><li>dotted: raw input</li>" if lines else ""
    aria = escape(", ".join(f"{row['method']} {told(keys[0], row['figures'].get(keys[0]))}" for row in shown))
    return (
        f'<figure class="curve"><svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{aria}">'
        f'{"".join(parts)}</svg><ul class="legend">{legend}</ul></figure>'
    )


def trust(rows: Sequence[Mapping[str, Any]], measured: Sequence[str]) -> str:
    """How the order by each measure without labels agrees with the order by linear accuracy."""
    shown = [row for row in rows if "linear" in row["figures"]]
    if "linear" not in measured or len(shown) < 4:
        return ""
    cells = []
    for key in ("agreement", "rank", "uniformity"):
        sign = -1 if key == "uniformity" else 1  # lower is better
        found = agreement_of_ranks(
            [sign * row["figures"][key][0] for row in shown], [row["figures"]["linear"][0] for row in shown]
        )
        cells.append(f"<tr><td>{escape(NAMES[key])}</td><td class='value'>{found:+.2f}</td></tr>")
    return (
        '<p class="lead">Rank correlation (Spearman) with linear accuracy over the methods: 1 would rank them alike, 0 '
        "tells nothing, below 0 misleads.</p>"
        f'<div class="wide"><table class="scores"><tbody>{"".join(cells)}</tbody></table></div>'
    )


def agreement_of_ranks(one: Sequence[float], two: Sequence[float]) -> float:
    """Spearman's rank correlation, -1 to 1; 0 where one side is constant."""
    ranks = [[statistics.fmean(np.flatnonzero(np.sort(side) == value)) for value in side] for side in (one, two)]
    x, y = (np.array(side) - np.mean(side) for side in ranks)
    scale = math.sqrt(float((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def pairs(found: Sequence[tuple[str, Any]]) -> str:
    """A table of names and what is to be said of them; empty where there are none."""
    if not found:
        return ""
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(str(text))}</td></tr>" for name, text in found)
    return f'<div class="wide"><table class="scores"><tbody>{body}</tbody></table></div>'


def scaled(key: str, value: float) -> float:
    return 100 * value if key in SHARES else value


def told(key: str, figure: tuple[float, float | None] | Sequence[Any] | None) -> str:
    if figure is None:
        return "–"
    mean, std = figure
    digits = 1 if key in SHARES or key == "rank" else 2
    text = f"{scaled(key, mean):.{digits}f}"
    return text + (f" ± {scaled(key, std):.{digits}f}" if std is not None else "")
