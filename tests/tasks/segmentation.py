"""Scenes and the class of each of their pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.scenes import scenes, write_masks


def labelled(folder: Path, count: int = 16) -> tuple[str, str | None]:
    """(path, labels) of so many pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    return str(write_masks(folder, scenes(count, 32))), None


def wrong(folder: Path) -> tuple[str, str | None, str]:
    """Masks with a class that `labelled` does not have, and a word of the error."""
    path, labels = labelled(folder, 8)
    Image.fromarray(np.full((32, 32), 9, np.uint8)).save(folder / "label" / "00.png")
    return path, labels, "9"


def agrees(found: dict[str, np.ndarray], prediction: np.ndarray, close: float) -> None:
    """What a file gives of a picture is what is predicted here, up to `close` (in shares)."""
    assert found["mask"].shape == prediction.shape and found["mask"].dtype == np.uint8
    assert (found["mask"] != prediction).mean() <= close
