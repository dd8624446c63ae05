"""Lists of classes that lie beside masks: one name a line, JSON, and the forms of CamVid and CVAT.

Raises UserError for a list that cannot be read.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsame.errors import UserError

MOST = 254  # classes
LISTS = (
    "classes.txt",
    "labels.txt",
    "class_names.txt",
    "labelmap.txt",
    "classes.json",
    "labels.json",
    "class_dict.csv",
)


@dataclass(frozen=True)
class Entry:
    """One class of a list."""

    name: str
    value: int
    colour: tuple[int, int, int] | None = None


def list_of_classes(folders: Sequence[Path]) -> tuple[list[Entry], Path | None]:
    """The classes of the first list found in the folders, in the order of their numbers. Raises UserError."""
    for folder in folders:
        for name in LISTS:
            path = folder / name
            if not path.is_file():
                continue
            try:
                text = path.read_text(encoding="utf-8-sig")
                entries = (of_json if name.endswith(".json") else of_lines)(text, name)
            except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
                raise UserError(
                    f"{path}: this list of classes cannot be read ({error}). Write one name a line in a classes.txt, "
                    'or a classes.json as ["road", "tree"] or [{"id": 0, "name": "road", "color": [128, 64, 0]}, ...].'
                ) from None
            numbers = [entry.value for entry in entries]
            if len(entries) < 2 or len(set(numbers)) < len(numbers) or min(numbers) < 0 or len(numbers) > MOST:
                raise UserError(
                    f"{path}: lists {len(entries)} classes. Accepted are 2 to {MOST}, each with a number of its own."
                )
            return sorted(entries, key=lambda entry: entry.value), path
    return [], None


def of_lines(text: str, name: str) -> list[Entry]:
    """One name a line; of a labelmap.txt (CVAT) `name:r,g,b::`, of a class_dict.csv (CamVid) `name,r,g,b`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if name == "labelmap.txt":
        parts = [line.split(":") for line in lines if not line.startswith("#")]
        return [Entry(part[0], k, colour_of(part[1].split(","))) for k, part in enumerate(parts)]
    if name == "class_dict.csv":
        return [Entry(row[0], k, colour_of(row[1:4])) for k, row in enumerate(list(csv.reader(lines))[1:])]
    return [Entry(line, k) for k, line in enumerate(lines)]


def of_json(text: str, name: str) -> list[Entry]:
    """A list of names or of {"id", "name", "color"}, or {number: name}, {name: number}, {name: [r, g, b]}."""
    found: Any = json.loads(text)
    if isinstance(found, dict) and isinstance(found.get("classes", found.get("categories")), list):
        found = found.get("classes", found.get("categories"))
    if isinstance(found, list):
        return [
            Entry(one, k)
            if isinstance(one, str)
            else Entry(str(one["name"]), int(one.get("id", k)), colour_of(one.get("color", one.get("colour"))))
            for k, one in enumerate(found)
        ]
    entries = []
    for k, (key, value) in enumerate(found.items()):
        if isinstance(value, str):
            entries.append(Entry(value, int(key)))
        elif isinstance(value, list):
            entries.append(Entry(key, k, colour_of(value)))
        else:
            entries.append(Entry(key, int(value)))
    return entries


def colour_of(parts: Any) -> tuple[int, int, int] | None:
    if parts is None:
        return None
    red, green, blue = (int(part) for part in parts)
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"colours are 0 to 255, not {[red, green, blue]}")
    return red, green, blue
