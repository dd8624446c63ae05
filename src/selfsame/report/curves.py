"""Line charts as inline SVG: readable without JavaScript, with a read-out under the pointer where page.js runs.

Values that are not finite leave a gap in the line and are counted under the chart.
Long series are thinned so that every peak stays.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

__all__ = ["curve", "short", "thinned", "ticks"]

Series = tuple[Sequence[float | None], Sequence[float | None]]

COLOURS = 12  # page.css defines as many
MOST_POINTS = 600
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24  # margins around the plot, in units of the SVG


@dataclass(frozen=True)
class Axis:
    """Maps values in [low, high] to units of the SVG in [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def curve(
    title: str,
    series: Mapping[str, Series],
    x_label: str = "step",
    y_label: str = "",
    width: int = 360,
    height: int = 200,
    note: str = "",
    kept: float | None = None,
    said: str | None = None,
) -> str:
    """An HTML figure of one or more lines over a common axis.

    `series` maps a name to (x, y), ascending in x; None, NaN and infinity are gaps. `width` and `height` are the
    units of the drawing, which scales to its place. `note` stands under the chart. `kept` is the x of a point that is
    marked and told in place of the last. `said` stands beside the title in place of any value, for lines whose ends
    tell nothing. Raises ValueError where x and y differ in length.
    """
    points = {name: _points(name, *pair, kept) for name, pair in series.items()}
    gaps = sum(int(np.isnan(y).sum()) for _, y in points.values())
    shown = [(name, x, y) for name, (x, y) in points.items() if np.isfinite(y).any()]
    legend = "".join(
        f'<li><i class="swatch c{i % COLOURS}"></i>{escape(name)}'
        + (f" <b>{short(_told_of(x, y, kept)[1])}</b></li>" if said is None else "</li>")
        for i, (name, x, y) in enumerate(shown)
    )
    if gaps and shown:
        note = f"{note} {gaps} {'value is' if gaps == 1 else 'values are'} not finite: a gap in the line.".strip()
    latest = said or ""
    if said is None and len(shown) == 1:
        at, value = _told_of(*shown[0][1:], kept)
        latest = short(value) + ("" if kept is None else f" kept, {x_label} {short(at)}")
    return (
        f'<figure class="curve"><figcaption><b>{escape(title)}</b><output>{escape(latest)}</output></figcaption>'
        + _drawing(title, shown, gaps, x_label, y_label, width, height, kept, said)
        + (f'<ul class="legend">{legend}</ul>' if len(shown) > 1 else "")
        + (f'<p class="note">{escape(note)}</p>' if note else "")
        + "</figure>"
    )


def thinned(
    x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS, also: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` + 3 points, in order: the lowest, the highest and one gap of each stretch, both ends, `also`."""
    if len(x) <= most:
        return x, y
    kept = {0, len(x) - 1, *(int(i) for i in np.flatnonzero(x == also))}
    for stretch in np.array_split(np.arange(len(x)), most // 3):
        finite = stretch[np.isfinite(y[stretch])]
        if len(finite):
            kept |= {int(finite[y[finite].argmin()]), int(finite[y[finite].argmax()])}
        kept |= {int(i) for i in stretch[np.isnan(y[stretch])][:1]}
    order = sorted(kept)
    return x[order], y[order]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) in [low, high], about `count` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number in few characters: 0.8214, 12,345, 2.5e-5; a dash where it is not finite."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1e7:
        mantissa, _, power = f"{value:.3e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    mantissa, _, power = f"{value:.4g}".partition("e")
    return f"{mantissa}e{int(power)}" if power else mantissa


def _points(
    name: str, x: Sequence[float | None], y: Sequence[float | None], kept: float | None
) -> tuple[np.ndarray, np.ndarray]:
    if len(x) != len(y):
        raise ValueError(f"series {name!r} has {len(x)} x and {len(y)} y")
    xs, ys = np.array(x, dtype=float), np.array(y, dtype=float)
    # Beyond 1e300 the width of the axis itself would overflow.
    ys = np.where(np.abs(ys) < 1e300, ys, np.nan)
    known = np.isfinite(xs)
    return thinned(xs[known], ys[known], also=kept)


def _told_of(x: np.ndarray, y: np.ndarray, kept: float | None) -> tuple[float, float]:
    """The point whose value is told: that at `kept` where there is one, else the last."""
    finite = np.isfinite(y)
    at = np.flatnonzero(finite & (x == kept)) if kept is not None else np.flatnonzero(finite)
    k = int(at[-1]) if at.size else int(np.flatnonzero(finite)[-1])
    return float(x[k]), float(y[k])


def _drawing(
    title: str,
    shown: list[tuple[str, np.ndarray, np.ndarray]],
    gaps: int,
    x_label: str,
    y_label: str,
    width: int,
    height: int,
    kept: float | None,
    said: str | None,
) -> str:
    start = f'<svg class="plot" viewBox="0 0 {width} {height}" role="img"'
    if not shown:
        reason = f"none of {gaps} values is finite" if gaps else "nothing measured"
        return (
            f'{start} aria-label="{escape(title)}: {reason}"><text class="none" x="{width / 2:g}" y="{height / 2:g}" '
            f'text-anchor="middle">{reason}</text></svg>'
        )
    low, high = _range(np.concatenate([y for _, _, y in shown]))
    down = Axis(low, high, height - BOTTOM, TOP)
    across = Axis(*_range(np.concatenate([x for _, x, _ in shown]), 0.0), LEFT, width - RIGHT)
    parts = []
    for value, word in _told(ticks(low, high)):
        y = f"{down(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy=".32em" text-anchor="end">{word}</text>')
    floor = height - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{width - RIGHT}" y1="{floor}" y2="{floor}"/>')
    label_from = width - RIGHT - 6 * len(x_label)  # a tick's number beyond would be written over the label
    ends = min(x[0] for _, x, _ in shown), max(x[-1] for _, x, _ in shown)
    for value, word in _told([v for v in ticks(across.low, across.high) if ends[0] <= v <= ends[1]] or [ends[0]]):
        x = across(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 3}"/>')
        if x + 3 * len(word) < label_from:
            parts.append(f'<text x="{x:.1f}" y="{floor + 15}" text-anchor="middle">{word}</text>')
    parts.append(f'<text x="{width - RIGHT}" y="{floor + 15}" text-anchor="end">{escape(x_label)}</text>')
    if y_label:
        parts.append(f'<text class="name" x="{LEFT + 4}" y="{TOP + 4}">{escape(y_label)}</text>')
    parts += [_line(x, y, across, down, i % COLOURS) for i, (_, x, y) in enumerate(shown)]
    told = [(name, *_told_of(x, y, kept)) for name, x, y in shown]
    if kept is not None:
        parts += [
            f'<circle class="dot kept c{i % COLOURS}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="4.5"/>'
            for i, (_, x, y) in enumerate(told)
        ]
    if said is None:
        when = "at the end" if kept is None else f"at {x_label} {short(kept)}"
        summary = f"{title}, {when}: " + ", ".join(f"{name} {short(y)}" for name, _, y in told)
    else:
        summary = f"{title}: " + (said or ", ".join(name for name, _, _ in told))
    data = {
        "box": [LEFT, TOP, width - RIGHT, floor],
        "x": [across.low, across.high],
        "y": [low, high],
        "label": x_label,
        "series": [{"name": name, "x": _plain(x), "y": _plain(y)} for name, x, y in shown],
    }
    return f'{start} aria-label="{escape(summary)}" data-plot="{escape(json.dumps(data))}">' + "".join(parts) + "</svg>"


def _range(values: np.ndarray, margin: float = 0.06) -> tuple[float, float]:
    """The ends of an axis; a constant gets room on both sides, so that its line is seen. Zeros lie at the foot."""
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if low == high == 0:
        return -margin, 1.0
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    room = (high - low) * margin
    return low - room, high + room


def _line(x: np.ndarray, y: np.ndarray, across: Axis, down: Axis, colour: int) -> str:
    path, dots = [], []
    finite = np.isfinite(y)
    for i in np.flatnonzero(finite):
        before, after = i > 0 and finite[i - 1], i + 1 < len(y) and finite[i + 1]
        place = f"{across(x[i]):.1f} {down(y[i]):.1f}"
        path.append(("L" if before else "M") + place)
        if not before and not after:
            cx, cy = place.split()
            dots.append(f'<circle class="dot c{colour}" cx="{cx}" cy="{cy}" r="3"/>')
    return f'<path class="line c{colour}" d="{"".join(path)}"/>' + "".join(dots)


def _told(values: Sequence[float]) -> list[tuple[float, str]]:
    """Ticks with their texts, all in the same unit: 0, 5k, 10k."""
    most = max(map(abs, values), default=0.0)
    size, sign = next(((s, m) for s, m in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if 10 * s <= most < 1e13), (1.0, ""))
    return [(v, f"{v / size:g}{sign if v else ''}" if size > 1 else short(v).replace(",", "")) for v in values]


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]
