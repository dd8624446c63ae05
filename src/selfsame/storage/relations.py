"""Which items belong together: by the folders they lie in, or by a list path,group[,time].

Raises UserError on names without folders and on lists that do not fit.
"""

import math
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from selfsame.errors import UserError
from selfsame.storage.tables import TABLES, Finder, paths_and_columns, some

__all__ = ["groups_of_folders", "groups_of_list", "ranks"]


def groups_of_folders(names: Sequence[str], where: str, option: str = "--related") -> Int64[np.ndarray, "n"]:
    """A number for the folder each item lies in; `option` asked for it."""
    folders = [posixpath.dirname(name) for name in names]
    if not any(folders):
        raise UserError(
            f"{option} folders: the items of {where} lie in no folders below it. Give a CSV with the columns path, "
            "group and, if there is one, time."
        )
    return np.unique(folders, return_inverse=True)[1].astype(np.int64)


def groups_of_list(
    path: Path, names: Sequence[str], root: str | None, where: str
) -> tuple[Int64[np.ndarray, "n"], Float64[np.ndarray, "n"] | None]:
    """A number for the group of each item, -1 for items that the list does not name, and times where it has them."""
    if path.suffix.lower() not in TABLES:
        raise UserError(
            f"--related {path}: give `folders`, or a .csv or .parquet with the columns path, group and perhaps time."
        )
    if not path.exists():
        raise UserError(f"--related {path}: no such file. Give `folders`, or a .csv with the columns path and group.")
    find = Finder(path, names, root, where)
    cells, columns = paths_and_columns(path, find.names_item, ("group", "time"))
    if columns["group"] is None:
        raise UserError(f"{path}: which column is the group? Name the columns path, group and, if there is one, time.")
    items = find.all_of(cells)
    times = numbers(path, columns["time"])
    found: dict[int, tuple[str, float]] = {}
    for cell, item, group, time in zip(cells, items, columns["group"], times or [0.0] * len(items), strict=True):
        if item is not None and found.setdefault(item, (group, time)) != (group, time):
            raise UserError(f"{path}: {cell} is named twice, with another group or time.")
    codes = {group: code for code, group in enumerate(sorted({group for group, _ in found.values() if group}))}
    groups, moments = np.full(len(names), -1, np.int64), np.zeros(len(names))
    for item, (group, time) in found.items():
        groups[item], moments[item] = codes.get(group, -1), time
    return groups, None if times is None else moments


def numbers(path: Path, cells: list[str] | None) -> list[float] | None:
    if cells is None:
        return None
    wrong = [cell for cell in cells if not is_number(cell)]
    if wrong:
        raise UserError(f"{path}: {some(wrong, len(cells), 'times')} are no numbers. Give seconds or frame numbers.")
    return [float(cell) for cell in cells]


def is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def ranks(names: Sequence[str], groups: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Each item's place in its group by name, where 10 comes after 9."""
    order = sorted(range(len(names)), key=lambda i: (groups[i], natural(names[i])))
    sorted_groups = groups[order]
    places = np.arange(len(names)) - np.searchsorted(sorted_groups, sorted_groups)
    found = np.empty(len(names))
    found[order] = places
    return found


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key for sorting in which digits count as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), part) if k % 2 else (0, 0, part) for k, part in enumerate(parts)]
