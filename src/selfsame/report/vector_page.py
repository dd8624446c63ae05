"""Pages of what the vectors of items say: pairs, outliers, clusters, a selection.

Raises: UserError where the file cannot be written.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from selfsame.report.page import Pairs, pairs_html, skipped_html, written

__all__ = ["beside_html", "tiles_html", "write_vector_page"]

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


def beside_html(rows: Sequence[Row], names: Mapping[str, str], note: str, first: str = "features") -> str:
    """A table of figures: the first row is the encoder's or the choice's, the others its baselines."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in (first, *names.values(), "seeds"))
    body = []
    for row in rows:
        cells = "".join(f'<td class="value">{_told(row["figures"][name], row["seeds"])}</td>' for name in names)
        kind = "encoder" if row is rows[0] else "baseline"
        body.append(f'<tr class="{kind}"><td>{escape(row["features"])}</td>{cells}<td>{row["seeds"]}</td></tr>')
    return (
        f'<div class="wide"><table class="scores"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
        f'</div><p class="note">{escape(note)}</p>'
    )


def _told(figure: Mapping[str, float], seeds: int) -> str:
    return f"{figure['mean']:.3f}" + (f" ± {figure['std']:.3f}" if seeds > 1 else "")
