"""Vectors in which no direction counts more than another, so that cosines tell copies from what is merely of a kind.

Source: PCA whitening of image descriptors, Jegou & Chum 2012 (Negative evidences and co-occurrences in image retrieval,
ECCV, section 4), as used for copy detection in SSCD, Pizzi et al. 2022, arXiv 2202.10261, section 3. What most items
have in common lies in a few directions of large variance; divided by it, what sets an item apart counts as much.
Deviation: a thousandth of the largest variance is added to each, so that directions of noise are not blown up.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

__all__ = ["Whitening", "unit"]

WIDTH = 128  # directions kept, at most
EACH = 4  # items to a direction, at least: fewer say nothing of its variance
RIDGE = 1e-3  # of the largest variance
ROWS = 65_536


@dataclass(frozen=True)
class Whitening:
    """Takes vectors to unit vectors: less a mean, along principal directions of variance 1 where it was fitted."""

    mean: Float32[np.ndarray, "d"]
    axes: Float32[np.ndarray, "d c"]

    @classmethod
    def fitted(cls, vectors: Float32[np.ndarray, "n d"], width: int = WIDTH) -> "Whitening":
        """Fitted to vectors, most `width` directions; with fewer than 8 items only the mean is taken off."""
        n, d = vectors.shape
        mean = vectors.mean(axis=0, dtype=np.float64)
        width = min(width, d, n // EACH)
        if width < 2:
            return cls(mean.astype(np.float32), np.eye(d, dtype=np.float32))
        spread = np.zeros((d, d))
        for start in range(0, n, ROWS):
            some = vectors[start : start + ROWS] - mean.astype(np.float32)
            spread += some.T @ some
        values, axes = np.linalg.eigh(spread / n)
        values, axes = values[::-1][:width], axes[:, ::-1][:, :width]
        scale = 1 / np.sqrt(np.maximum(values, 0) + RIDGE * values[0]) if values[0] > 0 else np.ones(width)
        return cls(mean.astype(np.float32), (axes * scale).astype(np.float32))

    def __call__(self, vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n c"]:
        """Unit vectors; one that lies in the mean is 0, and like nothing."""
        out = np.empty((len(vectors), self.axes.shape[1]), np.float32)
        for start in range(0, len(vectors), ROWS):
            out[start : start + ROWS] = unit((vectors[start : start + ROWS] - self.mean) @ self.axes)
        return out


def unit(vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """At length 1; of a vector of 0 as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
