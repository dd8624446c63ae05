"""Scenes of one shape each, whose points are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.scenes import scene, write_coco


def labelled(folder: Path, count: int = 16) -> tuple[str, str | None]:
    """(path, labels) of so many pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_coco(folder, [scene(k, 32, most=1) for k in range(count)])
    return str(folder / "images"), str(folder / "annotations.json")


def wrong(folder: Path) -> tuple[str, str | None, str]:
    """Another list of points than `labelled` has, and a word of the error."""
    path, labels = labelled(folder, 8)
    found = json.loads(Path(labels).read_text())
    for one in found["categories"]:
        one["keypoints"][0] = "tip"
    Path(labels).write_text(json.dumps(found))
    return path, labels, "tip"


def agrees(found: dict[str, np.ndarray], prediction: Any, close: float) -> None:
    """What a file gives of a picture is what is predicted here, up to `close` (in shares)."""
    np.testing.assert_allclose(found["points"], prediction.xy, atol=max(10 * close, 1e-3))
    np.testing.assert_allclose(found["scores"], prediction.scores, atol=close)
