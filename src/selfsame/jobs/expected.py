"""Is a run with a preset where such runs were when they were measured?

The curves lie beside the methods, in methods/curves.json; `bench/curves.py` makes them from stored measurements.
"""

import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from selfsame.records import Record

MEASURES = ("agreement", "rank")  # needed for no labels; see engine/health.py
TOLERANCE = {
    "agreement": 0.05,
    "rank": 0.15,
}  # added to two standard deviations: a share of items, a share of the value


class Point(Record):
    """A look at runs of a preset: mean and standard deviation over their seeds."""

    samples: int
    agreement: tuple[float, float]
    rank: tuple[float, float]


class Curve(Record):
    """What was measured of a preset."""

    method: str
    preset: str
    data: str
    """on what, in words"""
    command: str
    machine: str
    seeds: int
    points: tuple[Point, ...] = ()
    """looks, ascending in samples; none where only the end was kept"""
    final: str
    """what was reached in the end, with labels, in words"""


@cache
def curves() -> tuple[Curve, ...]:
    text = files("selfsame.methods").joinpath("curves.json").read_text(encoding="utf-8")
    return tuple(Curve.model_validate(one) for one in json.loads(text))


def curve_of(method: str, preset: str | None) -> Curve | None:
    """The measured curve of a preset; None where it was not measured."""
    return next((one for one in curves() if (one.method, one.preset) == (method, preset)), None)


def expected(curve: Curve, samples: int) -> dict[str, tuple[float, float]] | None:
    """(mean, tolerance) of each measure after so many samples, between the looks by a straight line; None beyond."""
    before = [point for point in curve.points if point.samples <= samples]
    after = [point for point in curve.points if point.samples >= samples]
    if not before or not after:
        return None
    low, high = before[-1], after[0]
    share = (samples - low.samples) / max(1, high.samples - low.samples)
    found = {}
    for key in MEASURES:
        (one, spread_one), (two, spread_two) = getattr(low, key), getattr(high, key)
        mean, spread = one + share * (two - one), max(spread_one, spread_two)
        room = TOLERANCE[key] * (1.0 if key == "agreement" else mean)
        found[key] = (mean, 2 * spread + room)
    return found


def standing(curve: Curve, looks: Sequence[tuple[int, dict[str, float]]]) -> dict[str, Any] | None:
    """Where a run stands at its last look that the curve reaches: {"verdict", "sentence", "samples", ...}.

    `looks`: (samples seen, measures) in their order. Below is what is below in agreement or in rank; a rank far above
    the curve says nothing bad.
    """
    for samples, signs in reversed(looks):
        wanted = expected(curve, samples)
        if wanted is None or samples == 0:
            continue
        low = [key for key in MEASURES if not signs[key] >= wanted[key][0] - wanted[key][1]]  # not a number is below
        verdict = "below" if low else "on"
        parts = [
            f"{key} {told(key, signs[key])} where {told(key, wanted[key][0])} ± {told(key, wanted[key][1])} is expected"
            for key in MEASURES
        ]
        where = "BELOW" if low else "on"
        sentence = (
            f"{where} the expected curve of preset {curve.preset} after {samples:,} samples: {', '.join(parts)} "
            f"(measured on {curve.data}; other data may differ). There it ended with {curve.final}."
        )
        return {"verdict": verdict, "samples": samples, "sentence": sentence, "expected": wanted}
    return None


def measured(method: str, preset: str) -> str:
    """What was measured here of a preset, in words; empty where nothing was."""
    curve = curve_of(method, preset)
    if curve is None:
        return ""
    seeds = f"{curve.seeds} seed{'s' if curve.seeds > 1 else ''}"
    return f"{curve.data}: {curve.final} ({seeds}, {curve.machine.split(',')[0]})"


def beside(
    method: str, preset: str, published: str, odd: Sequence[str], looks: Sequence[tuple[int, dict[str, float]]]
) -> dict[str, Any]:
    """Where a run stands beside what is known of its preset: {"verdict", "sentence", ...}, see `standing`.

    The verdict is "on", "below", or "unknown" where there is nothing to stand beside, and the sentence says why.
    `odd`: settings that are not the preset's.
    """
    curve = curve_of(method, preset)
    if odd:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in odd)
        why = f"not compared with other runs of preset {preset}: {flags} differ{'s' if len(odd) == 1 else ''} from it."
    elif curve is None or not curve.points:
        why = f"there is no measured curve of preset {preset} to compare this run with."
    elif (place := standing(curve, looks)) is not None:
        return place
    else:
        why = f"the measured curve of preset {preset} says nothing of a run that was looked at so seldom or so late."
    ended = measured(method, preset)
    known = [f"Measured: {ended}." if ended else "", f"Published: {published}." if published else ""]
    return {"verdict": "unknown", "sentence": " ".join(part for part in (why, *known) if part)}


def told(key: str, value: float) -> str:
    if not math.isfinite(value):
        return "not a number"
    return f"{value:.0%}" if key == "agreement" else f"{value:.0f}"
