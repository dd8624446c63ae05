"""Scenes and a box around each of their shapes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.scenes import scenes, write_coco


def labelled(folder: Path, count: int = 16) -> tuple[str, str | None]:
    """(path, labels) of so many pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_coco(folder, scenes(count, 32))
    return str(folder / "images"), str(folder / "annotations.json")


def wrong(folder: Path) -> tuple[str, str | None, str]:
    """Boxes of a class that `labelled` does not have, and a word of the error."""
    path, labels = labelled(folder, 8)
    found = json.loads(Path(labels).read_text())
    found["categories"].append({"id": 9, "name": "hexagon"})
    found["annotations"][0]["category_id"] = 9
    Path(labels).write_text(json.dumps(found))
    return path, labels, "hexagon"


def agrees(found: dict[str, np.ndarray], prediction: Any, close: float) -> None:
    """What a file gives of a picture is what is predicted here, up to `close` (in shares)."""
    there = found["scores"] > 0
    assert there.sum() == len(prediction.scores) > 20
    np.testing.assert_allclose(found["scores"][there], prediction.scores, atol=close)
    off = np.abs(found["boxes"][None, there] - prediction.xyxy[:, None]).max(axis=2)
    same = found["classes"][None, there] == prediction.classes[:, None]
    far = np.where(same, off, np.inf).min(axis=1)
    assert np.median(far) <= max(close * 44, 1e-2)  # of two boxes alike either may be kept
    assert (found["boxes"] >= 0).all() and found["boxes"][..., 2].max() <= prediction.size[1] + 1e-3
