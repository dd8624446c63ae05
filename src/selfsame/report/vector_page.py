"""Pages of what the vectors of items say: pairs, outliers, clusters, a selection.

Raises: UserError where the file cannot be written.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

from selfsame.report.page import Pairs, pairs_html, skipped_html, written

__all__ = ["Form", "beside_html", "figure_told", "tiles_html", "write_vector_page"]

Form = Literal["plain", "percent", "count"]
Row = Mapping[str, Any]  # {"features": str, "seeds": int, "figures": {name: {"mean": float, "std": float}}}


def write_vector_page(
    folder: Path,
    title: str,
    lead: str,
    figures: Sequence[tuple[str, str, str]],
    sections: Sequence[tuple[str, str, str]],
    settings: Pairs,
    skipped: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write `folder`/report.html, whole or not at all, and return its path.

    `figures` are (name, value, remark) that stand at the top; `sections` (key, heading, HTML), empty ones left out.
    """
    header = f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{tiles_html(figures)}'
    ends = [("settings", "Settings", pairs_html(settings)), ("skipped", "Skipped items", skipped_html(skipped))]
    return written(folder, title, header, [*sections, *ends])


def tiles_html(figures: Sequence[tuple[str, str, str]]) -> str:
    return '<div class="tiles">{}</div>'.format(
        "".join(
            f'<div class="figure"><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(below)}</small></div>'
            for name, value, below in figures
        )
    )


def beside_html(
    rows: Sequence[Row],
    names: Mapping[str, str],
    note: str,
    first: str = "features",
    forms: Mapping[str, Form] | None = None,
) -> str:
    """A table of figures: the first row is the encoder's or the choice's, the others its baselines.

    `forms` says which figures are no plain shares: see `figure_told`.
    """
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in (first, *names.values(), "seeds"))
    forms = forms or {}
    body = []
    for row in rows:
        cells = "".join(
            f'<td class="value">{figure_told(row["figures"][name], row["seeds"], forms.get(name, "plain"))}</td>'
            for name in names
        )
        kind = "encoder" if row is rows[0] else "baseline"
        body.append(f'<tr class="{kind}"><td>{escape(row["features"])}</td>{cells}<td>{row["seeds"]}</td></tr>')
    return (
        f'<div class="wide"><table class="scores"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
        f'</div><p class="note">{escape(note)}</p>'
    )


def figure_told(figure: Mapping[str, float], seeds: int, form: Form = "plain") -> str:
    """A figure as text, with its deviation where there are several seeds.

    "plain" has three places, "percent" is a share times 100, "count" is whole of one seed and has a place of several.
    """
    mean, std = figure["mean"], figure["std"]
    if form == "percent":
        return f"{mean:.2%}" if seeds < 2 else f"{100 * mean:.2f} ± {std:.2%}"
    if form == "count":
        return f"{mean:,.0f}" if seeds < 2 else f"{mean:,.1f} ± {std:.1f}"
    return f"{mean:.3f}" + (f" ± {std:.3f}" if seeds > 1 else "")
