"""The vectorised distance of bench/dtw.py against the textbook's double loop."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

PLACE = Path(__file__).parents[3] / "bench" / "dtw.py"
spec = importlib.util.spec_from_file_location("bench_dtw", PLACE)
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


def slow(a: np.ndarray, b: np.ndarray, band: float) -> float:
    """Cell by cell: cost + the cheapest of left, above and both, within the band."""
    t = a.shape[1]
    reach = int(np.ceil(band * t))
    table = np.full((t + 1, t + 1), np.inf)
    table[0, 0] = 0
    for i in range(t):
        for j in range(t):
            if abs(i - j) <= reach:
                cheapest = min(table[i, j], table[i, j + 1], table[i + 1, j])
                table[i + 1, j + 1] = ((a[:, i] - b[:, j]) ** 2).sum() + cheapest
    return float(np.sqrt(table[t, t]))


@pytest.mark.parametrize("band", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize(("channels", "steps"), [(1, 1), (1, 2), (1, 17), (3, 24)])
def test_it_equals_the_double_loop(channels: int, steps: int, band: float) -> None:
    rng = np.random.default_rng(0)
    one, others = rng.normal(size=(channels, steps)), rng.normal(size=(7, channels, steps))
    assert np.allclose(bench.dtw(one, others, band), [slow(one, other, band) for other in others])


def test_without_a_band_it_is_euclidean_and_a_shift_costs_little_with_one() -> None:
    rng = np.random.default_rng(0)
    one, others = rng.normal(size=(2, 30)), rng.normal(size=(5, 2, 30))
    assert np.allclose(bench.dtw(one, others, 0), np.sqrt(((one - others) ** 2).sum((1, 2))))
    wave = np.sin(np.linspace(0, 9, 60))[None]
    shifted = np.roll(wave, 3)[None]
    assert bench.dtw(wave, shifted, 0.1) < 0.4 * bench.dtw(wave, shifted, 0)
    train = np.concatenate([others, one[None]])
    assert bench.nearest(train, one[None], 0.1).tolist() == bench.nearest(train, one[None]).tolist() == [5]
