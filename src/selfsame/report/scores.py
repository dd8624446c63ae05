"""Evaluation rows beside their baselines, as HTML for the page and as Markdown for the card.

A row: features, protocol, labels, mean, std, seeds. Scores are taken as better when higher. Rows whose features
start with "random" or "raw" are the baselines.
"""

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["cell", "groups", "is_baseline", "markdown_table", "score", "scores_html", "scores_markdown"]

Row = Mapping[str, Any]


def groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each (protocol, labels), in the order they came."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((str(row.get("protocol", "")), str(row.get("labels", ""))), []).append(row)
    return found


def is_baseline(row: Row) -> bool:
    return str(row.get("features", "")).lower().startswith(("random", "raw"))


def score(row: Row) -> str:
    """Mean and standard deviation over seeds as text; a dash where there is none."""
    mean, std = _number(row.get("mean")), _number(row.get("std"))
    if mean is None:
        return "–"
    return f"{mean:.3f}" + (f" ± {std:.3f}" if std is not None else "")


def scores_html(rows: Sequence[Row]) -> str:
    """A table with a bar for each row, and how far the encoder is ahead of the better baseline."""
    means = [_number(row.get("mean")) or 0.0 for row in rows]
    full = max(1.0, *means)
    body = []
    for (protocol, labels), members in groups(rows).items():
        heading = " · ".join(escape(part) for part in (protocol, f"{labels} labels" if labels else "") if part)
        body.append(f'<tr class="group"><th colspan="4">{heading} {_lead(members)}</th></tr>')
        for row in members:
            share = max(0.0, _number(row.get("mean")) or 0.0) / full * 100
            kind = "baseline" if is_baseline(row) else "encoder"
            body.append(
                f'<tr class="{kind}"><td>{escape(str(row.get("features", "")))}</td>'
                f'<td class="bar"><i style="width:{share:.1f}%"></i></td><td class="value">{score(row)}</td>'
                f"<td>{_seeds(row)}</td></tr>"
            )
    head = "<thead><tr><th>features</th><th>score</th><th>mean ± std</th><th>seeds</th></tr></thead>"
    return f'<div class="wide"><table class="scores">{head}<tbody>{"".join(body)}</tbody></table></div>'


def scores_markdown(rows: Sequence[Row]) -> str:
    """The same rows as a GitHub table."""
    body = [[str(row.get(key, "")) for key in ("protocol", "labels", "features")] for row in rows]
    ends = [[score(row), _seeds(row)] for row in rows]
    head = ["protocol", "labels", "features", "mean ± std", "seeds"]
    return markdown_table(head, [a + b for a, b in zip(body, ends, strict=True)])


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: object) -> str:
    """Text that stands as itself in a Markdown table: no markup, no HTML, one line."""
    text = " ".join(str(value).split())
    text = re.sub(r"([\\`*\[\]|~#])", r"\\\1", text)
    # Within a word an underscore is plain; at its edge it would start emphasis.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _lead(rows: Sequence[Row]) -> str:
    known = [(row, mean) for row in rows if (mean := _number(row.get("mean"))) is not None]
    ours = [mean for row, mean in known if not is_baseline(row)]
    theirs = [mean for row, mean in known if is_baseline(row)]
    if not ours or not theirs:
        return ""
    lead = max(ours) - max(theirs)
    kind = "ahead" if lead > 0 else "behind"
    text = "level with" if abs(lead) < 0.0005 else f"{abs(lead):.3f} {'above' if lead > 0 else 'below'}"
    return f'<small class="{kind}">{text} the better baseline</small>'


def _seeds(row: Row) -> str:
    seeds = row.get("seeds", "")
    return escape(str(len(seeds) if isinstance(seeds, list | tuple) else seeds))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
