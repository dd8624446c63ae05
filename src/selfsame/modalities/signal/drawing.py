"""Series drawn with Pillow for a person to see: a line a channel, gaps where values are missing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageDraw
from torch import Tensor

from selfsame.storage.captions import font_for, shortened

__all__ = ["contact_sheet", "picture", "plotted"]

COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0a7ea4", "#6e4b2a")
PAPER, INK, FAINT, FRAME = "#ffffff", "#1f2328", "#6b7280", "#d8dce2"
CELL, GAP, MARGIN, LINE = (224, 112), 10, 20, 18  # pixels; LINE is the height of a caption
FINE = 2  # drawn so many times larger and then reduced, so that lines are smooth
PAD = 0.06  # of the height, above and below


def picture(source: Any, i: int, side: int = 256) -> Image.Image:
    """An item as a plot `side` wide and half as high; each channel from its smallest to its largest value."""
    return plotted(source.read(i), side, max(8, side // 2))


def plotted(
    values: Float32[np.ndarray, "c t"],
    width: int,
    height: int,
    range_of: Float32[np.ndarray, "c 2"] | None = None,
    steps: int | None = None,
) -> Image.Image:
    """A plot; the channels lie over each other, each on its own scale.

    Args:
        range_of: smallest and largest value of each channel; those of `values` unless given.
        steps: steps of the axis, at least those of `values`.
    """
    page = Image.new("RGB", (width * FINE, height * FINE), PAPER)
    draw = ImageDraw.Draw(page)
    c, t = values.shape
    axis = max(steps or t, t, 2)
    ends = ranges(values) if range_of is None else range_of
    for k in reversed(range(c)):
        low, high = (float(end) for end in ends[k])
        flat = not high > low
        level = np.full(t, 0.5) if flat else (values[k].astype(np.float64) - low) / (high - low)
        x, y = columns(level, axis, page.width)
        x, y = x * (page.width - 1), (1 - PAD - (1 - 2 * PAD) * y.clip(-0.2, 1.2)) * (page.height - 1)
        y = np.where(np.isnan(columns(values[k].astype(np.float64), axis, page.width)[1]), np.nan, y)
        there = np.flatnonzero(~np.isnan(y))
        for run in np.split(there, np.flatnonzero(np.diff(there) > 1) + 1):
            points = [(float(x[j]), float(y[j])) for j in run]
            colour = COLOURS[k % len(COLOURS)]
            if len(points) > 1:
                draw.line(points, fill=colour, width=FINE + 1, joint="curve")
            elif points:
                draw.ellipse((points[0][0] - 2, points[0][1] - 2, points[0][0] + 2, points[0][1] + 2), fill=colour)
    return page.resize((width, height), Image.Resampling.LANCZOS)


def columns(level: np.ndarray, axis: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in [0, 1] along the axis, and values; of many steps a pixel its smallest and its largest."""
    t = len(level)
    if t <= 2 * width:
        return np.arange(t) / (axis - 1), level
    count = max(1, width * t // axis)
    edges = np.linspace(0, t, count + 1).astype(int)
    known = np.where(np.isnan(level), np.inf, level), np.where(np.isnan(level), -np.inf, level)
    low, high = np.minimum.reduceat(known[0], edges[:-1]), np.maximum.reduceat(known[1], edges[:-1])
    both = np.stack([low, high], axis=1).ravel()
    return np.repeat((edges[:-1] + edges[1:] - 1) / 2, 2) / (axis - 1), np.where(np.isinf(both), np.nan, both)


def ranges(values: Float32[np.ndarray, "c t"]) -> Float32[np.ndarray, "c 2"]:
    """Smallest and largest value of each channel; 0 and 0 of one without values."""
    low = np.where(np.isnan(values), np.inf, values).min(axis=1, initial=np.inf)
    high = np.where(np.isnan(values), -np.inf, values).max(axis=1, initial=-np.inf)
    return np.where(low[:, None] > high[:, None], 0, np.stack([low, high], axis=1))


def contact_sheet(
    source: Any, items: Sequence[int], views: Sequence[Sequence[Tensor]], names: Sequence[str]
) -> Image.Image:
    """One row an item: its plot and name, then its views on the same scale, with their steps.

    Args:
        views: of each item, [c t] as `make_views` gives them.
        names: captions of the items; the ends of long ones are kept.
    """
    across = 1 + max((len(row) for row in views), default=0)
    wide, high = CELL[0] + GAP, CELL[1] + LINE + GAP
    page = Image.new("RGB", (2 * MARGIN + across * wide, 2 * MARGIN + LINE + len(items) * high), PAPER)
    draw = ImageDraw.Draw(page)
    font = font_for("".join(names), 12)
    for k in range(across):
        draw.text((MARGIN + k * wide + GAP * (k > 0), MARGIN - 4), f"view {k}" if k else "item", fill=FAINT, font=font)
    for row, (item, made, name) in enumerate(zip(items, views, names, strict=True)):
        top = MARGIN + LINE + row * high
        values = source.read(item)
        shown = [view.detach().float().cpu().numpy() for view in made]
        # One scale for a row: a view is seen to be higher or lower than its item.
        everything = np.concatenate([values, *shown], axis=1)
        for k, one in enumerate([values, *shown]):
            left = MARGIN + k * wide + GAP * (k > 0)
            page.paste(plotted(one, *CELL, range_of=ranges(everything)), (left, top))
            draw.rectangle((left - 1, top - 1, left + CELL[0], top + CELL[1]), outline=FRAME)
            caption = f"{one.shape[1]} steps" if k else shortened(name, CELL[0], font)
            draw.text((left, top + CELL[1] + 3), caption, fill=FAINT if k else INK, font=font)
    return page
