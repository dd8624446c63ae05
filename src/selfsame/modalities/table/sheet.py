"""Rows for a person to see: a card, a small table in HTML, and plain text of rows beside their views."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from selfsame.modalities.table.encode import word_of
from selfsame.modalities.table.stats import Stats
from selfsame.storage.captions import font_for

__all__ = ["contact_sheet", "fragment", "picture"]

SHOWN = 8  # columns of a row in a report
EVENTS = 5  # of a user
CELL = 24  # signs of a cell in plain text
PAPER, INK, FAINT, LINE = "#ffffff", "#1f2328", "#6b7280", "#d8dce2"


def rows_shown(source: Any, i: int) -> list[dict[str, str]]:
    """The row, or the last events of a user, with the features first. Raises UnreadableItem."""
    held = source.read(i)
    rows = held[-EVENTS:] if isinstance(held, list) else [held]
    known = [column.name for column in source.stats.columns] if source.stats is not None else list(rows[0])
    order = [*(name for name in known if name in rows[0]), *(name for name in rows[0] if name not in known)]
    return [{name: row[name] for name in order} for row in rows]


def picture(source: Any, i: int, side: int = 256) -> Image.Image:
    """A card with the row, column by column; of a user a line for each of the last events."""
    rows = rows_shown(source, i)
    if len(rows) > 1 or isinstance(source.read(i), list):
        lines = [("", "  ".join(list(row.values())[:4])) for row in rows]
    else:
        lines = list(rows[0].items())
    card = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(card)
    step = max(8, min(18, (side - 12) // max(1, min(len(lines), 14))))
    font = font_for("".join(f"{name}{value}" for name, value in lines), max(6, step - 5))
    room = max(1, (side - 12) // step)
    left = side * 9 // 20 if any(name for name, _ in lines) else 8
    for k, (name, value) in enumerate(lines[:room]):
        top = 6 + k * step
        if k + 1 == room and len(lines) > room:
            draw.text((8, top), f"and {len(lines) - k} more", fill=FAINT, font=font)
            break
        draw.text((8, top), cut(name, left - 12, font), fill=FAINT, font=font)
        # Pillow's own font has no dash longer than this.
        draw.text((left, top), cut(value or "-", side - left - 8, font), fill=INK if value else FAINT, font=font)
    draw.rectangle((0, 0, side - 1, side - 1), outline=LINE)
    return card


def cut(text: str, width: int, font: Any) -> str:
    """The text, or as much of its start as fits, and an ellipsis."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def fragment(source: Any, i: int) -> str:
    """A small HTML table: of a row its first columns with their values, of a user its last events, a line each."""
    rows = rows_shown(source, i)
    names = list(rows[0])[:SHOWN]

    def cell(text: str, tag: str = "td") -> str:
        return f"<{tag}>{html.escape(shortened(text or '–'))}</{tag}>"

    if len(rows) == 1 and not isinstance(source.read(i), list):
        lines = [f"<tr>{cell(name, 'th')}{cell(rows[0][name])}</tr>" for name in names]
        if len(rows[0]) > len(names):
            lines.append(f'<tr><td colspan="2">and {len(rows[0]) - len(names)} more</td></tr>')
    else:
        lines = [f"<tr>{''.join(cell(name, 'th') for name in names)}</tr>"]
        lines += [f"<tr>{''.join(cell(row[name]) for name in names)}</tr>" for row in rows]
    return f'<table class="row">{"".join(lines)}</table>'


def shortened(text: str, most: int = CELL) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def contact_sheet(
    source: Any, items: Sequence[int], views: Sequence[Sequence[Float[Tensor, "*e w"]]], names: Sequence[str]
) -> str:
    """Plain text: what the columns are, then each item as it lies in the file, beside its views.

    A line a column; of a user a line an event, with the first columns. What a view leaves as it is stands as `.`.
    """
    stats: Stats = source.stats
    told = [f"{stats.summary}", ""]
    for item, made, name in zip(items, views, names, strict=True):
        told += [f"{name}", *(of_events if stats.by else of_row)(source, item, made), ""]
    return "\n".join(told)


def of_row(source: Any, item: int, views: Sequence[Tensor]) -> list[str]:
    stats = source.stats
    own = source.rows([item])[0]
    cells = source.read(item)
    table = [["", "item", *(f"view {k}" for k in range(1, len(views) + 1))]]
    for column, start in zip(stats.columns, stats.starts, strict=True):
        these = slice(start, start + column.width)
        shown = [changed(column, own[these], view[these].cpu().numpy()) for view in views]
        table.append([f"{column.name} ({column.kind})", cells[column.name] or "(missing)", *shown])
    return aligned(table)


def of_events(source: Any, item: int, views: Sequence[Tensor]) -> list[str]:
    stats = source.stats
    columns = list(zip(stats.columns, stats.starts, strict=True))[:3]

    def lines(rows: np.ndarray) -> list[str]:
        there = [row for row in rows if not np.isneginf(row[0])][:SHOWN]
        return [" ".join(shortened(word_of(c, row[s : s + c.width]), 16) for c, s in columns) for row in there]

    own = source.rows(source.events(item))
    each = [lines(own), *(lines(view.cpu().numpy()) for view in views)]
    longest = max(map(len, each))
    head = ["", f"item, {len(own)} events"] + [f"view {k}" for k in range(1, len(views) + 1)]
    rows = [[str(k), *(column[k] if k < len(column) else "" for column in each)] for k in range(longest)]
    return aligned([head, *rows], 3 * CELL)


def changed(column: Any, own: np.ndarray, view: np.ndarray) -> str:
    """The cell of a view; a dot where it is that of the row, or rounding alone is between."""
    return "." if np.allclose(own, view, rtol=1e-5, atol=1e-6, equal_nan=True) else word_of(column, view)


def aligned(table: list[list[str]], most: int = CELL) -> list[str]:
    """Rows of cells as lines of text, in columns."""
    table = [[shortened(cell, most) for cell in row] for row in table]
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    ]
