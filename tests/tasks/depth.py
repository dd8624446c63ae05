"""Scenes and how far each of their pixels is."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.scenes import scenes, write_depth


def labelled(folder: Path, count: int = 16) -> tuple[str, str | None]:
    """(path, labels) of so many pictures."""
    return str(write_depth(folder, scenes(count, 32))), None


def wrong(folder: Path) -> tuple[str, str | None, str]:
    """Depth of another size than its picture, and a word of the error."""
    path, labels = labelled(folder, 8)
    Image.fromarray(np.ones((20, 20), np.uint16)).save(folder / "00.depth.png")
    return path, labels, "20"


def agrees(found: dict[str, np.ndarray], prediction: np.ndarray, close: float) -> None:
    """What a file gives of a picture is what is predicted here, up to `close` (in shares)."""
    np.testing.assert_allclose(found["depth"], prediction, rtol=close)
