"""Distances of series by dynamic time warping in a band, many pairs at once: the classical baseline of bench/series.py.

Source: Sakoe & Chiba 1978, doi 10.1109/TASSP.1978.1163055; 1-NN with it is the archive's usual baseline (Dau et al.
2019, arXiv 1810.07758). Channels are warped together (the "dependent" form): a step's cost is the squared distance of
vectors.
"""

import numpy as np


def dtw(one: np.ndarray, others: np.ndarray, band: float = 0.1) -> np.ndarray:
    """Distance [m] of a series [c t] to each of others [m c t]: the root of the cheapest path's summed squared costs.

    Args:
        band: how far from the diagonal the path may go, as a share of t; 0 is the Euclidean distance.

    All cells of one antidiagonal depend on the two before it only, so each is one operation over all pairs.
    """
    m, _, t = others.shape
    reach = int(np.ceil(band * t))
    infinite = np.float64(np.inf)
    before, last = np.full((m, t + 1), infinite), np.full((m, t + 1), infinite)  # cells by row i + 1; row 0 is outside
    last[:, 0] = 0.0  # the corner before the first cell, on diagonal -2
    for diagonal in range(2 * t - 1):
        low = max(0, diagonal - t + 1, (diagonal - reach + 1) // 2)
        high = min(t - 1, diagonal, (diagonal + reach) // 2)
        i = np.arange(low, high + 1)
        cost = ((one[:, i][None] - others[:, :, diagonal - i]) ** 2).sum(axis=1)
        # Before the first diagonal `last` holds the corner; later (i - 1, j - 1) lies two diagonals back.
        best = np.minimum(np.minimum(last[:, i + 1], last[:, i]), before[:, i]) if diagonal else last[:, :1]
        now = np.full((m, t + 1), infinite)
        now[:, i + 1] = cost + best
        before, last = last, now
        if diagonal == 0:
            before = np.full((m, t + 1), infinite)
    return np.sqrt(last[:, t])


def nearest(train: np.ndarray, test: np.ndarray, band: float | None = None) -> np.ndarray:
    """For each of test [m c t] the number of the nearest of train [n c t]: by DTW in a band, Euclidean without one."""
    if band is None:
        flat, asked = train.reshape(len(train), -1), test.reshape(len(test), -1)
        square = (asked**2).sum(1)[:, None] + (flat**2).sum(1) - 2 * asked @ flat.T
        return square.argmin(axis=1)
    return np.array([dtw(one, train, band).argmin() for one in test])
