"""Scenes and a box around each of their shapes."""

import json
from pathlib import Path

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
