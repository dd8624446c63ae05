"""Pictures of four kinds, a folder each."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import paint


def labelled(folder: Path, count: int = 16) -> tuple[str, str | None]:
    """(path, labels) of so many pictures."""
    for k in range(count):
        place = folder / f"kind{k % 4}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(paint(k % 4, k, 32)).save(place / f"{k:02d}.png")
    return str(folder), None


def wrong(folder: Path) -> tuple[str, str | None, str]:
    """Labels of classes that `labelled` does not have, and a word of the error."""
    Image.fromarray(paint(0, 0, 32)).save(make(folder / "another") / "0.png")
    Image.fromarray(paint(1, 1, 32)).save(make(folder / "kind0") / "1.png")
    return str(folder), None, "another"


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def agrees(found: dict[str, np.ndarray], prediction: np.ndarray, close: float) -> None:
    """What a file gives of a picture is what is predicted here, up to `close` (in shares)."""
    np.testing.assert_allclose(found["probabilities"], prediction, atol=close)
