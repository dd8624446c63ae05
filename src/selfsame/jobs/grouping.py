"""Labelled items that belong together, as those of one patient: they are learned from, or chosen by, never both."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from selfsame import modalities
from selfsame.downstream.task import Examples
from selfsame.errors import UserError
from selfsame.storage.relations import groups_of_folders
from selfsame.storage.tables import Finder, paths_and_columns, some, table

FEWEST = 5  # recordings, or pictures, from which on their parts are kept together unasked


def parts_together(examples: Examples) -> Int[Tensor, "n"] | None:
    """A number for the recording or picture of each item; None where no two are of one, or there are few."""
    wholes = [examples.part_of(i) for i in range(len(examples))]
    groups = numbered(wholes)
    return groups if FEWEST <= int(groups.max()) + 1 < len(wholes) else None


def groups_of(given: str, path: str, labels: str | None, spec: dict[str, Any], source: Any, names: Sequence[str],
              wholes: Sequence[str]) -> Int[Tensor, "n"]:  # fmt: skip
    """A number for the group of each item.

    Args:
        given: `folders`; a pattern with one part in parentheses, looked for in names; a CSV path,group (or
            file.csv::column); or a column of the labels, or of the data.
        path, labels: where items and labels are. spec: of the encoder, by which they are read. source: of the items.
        names: of the items. wholes: of the files or records that they are or are parts of.

    Raises UserError where an item has no group, or all have one.
    """
    file, _, column = given.partition("::")
    if "(" in given:
        found = by_pattern(given, names)
    elif given == "folders":
        found = [str(k) for k in groups_of_folders(names, path, "--groups").tolist()]
    elif file.lower().endswith(".csv"):
        found = in_list(Path(file).expanduser(), column or "group", source, path, wholes)
    elif (listed := next((one for one in (labels, path) if is_list(one, given)), None)) is not None:
        found = in_list(Path(listed).expanduser(), given, source, path, wholes)
    else:
        found = by_column(given, path, spec, names)
    if bare := [name for name, group in zip(names, found, strict=True) if not group]:
        raise UserError(f"--groups {given}: {some(bare, len(names), 'items')} have no group. Name one for each.")
    groups = numbered(found)
    if int(groups.max()) == 0:
        raise UserError(
            f"--groups {given}: all {len(names)} items are of one group ({found[0]!r}), so that none can be set aside. "
            "Give other groups, or items of other groups by themselves (adapt --val, evaluate --test)."
        )
    return groups


def numbered(names: Sequence[str]) -> Int[Tensor, "n"]:
    order = {name: k for k, name in enumerate(sorted(set(names)))}
    return torch.tensor([order[name] for name in names], dtype=torch.long)


def by_pattern(given: str, names: Sequence[str]) -> list[str]:
    """What stands in the parentheses, of each name."""
    try:
        pattern = re.compile(given)
    except re.error as error:
        raise UserError(f"--groups {given}: no pattern that can be read ({error}). As in '(patient[0-9]+)_'.") from None
    if pattern.groups != 1:
        raise UserError(f"--groups {given}: one part in parentheses names the group, here are {pattern.groups}.")
    found = [pattern.search(name) for name in names]
    if bare := [name for name, one in zip(names, found, strict=True) if one is None]:
        raise UserError(f"--groups {given}: {some(bare, len(names), 'names')} do not have it.")
    return [(one[1] or "") if one else "" for one in found]


def is_list(path: str | None, column: str) -> bool:
    """Whether a path is a .csv with paths of items and this column."""
    if path is None or not path.lower().endswith(".csv") or not Path(path).expanduser().is_file():
        return False
    head = [cell.strip().lower() for cell in next(iter(table(Path(path).expanduser())), [])]
    return "path" in head and column.lower() in head


def in_list(file: Path, column: str, source: Any, where: str, wholes: Sequence[str]) -> list[str]:
    """The cell of a column for each item, by the path of its file."""
    if not file.is_file():
        raise UserError(f"--groups {file}: no such file. Give a CSV with the columns path and group.")
    known = list(dict.fromkeys(wholes))
    find = Finder(file, known, getattr(source, "place", None), where)
    cells, columns = paths_and_columns(file, find.names_item, (column.lower(),))
    groups = columns[column.lower()]
    if groups is None:
        raise UserError(f"--groups: {file} has no column {column!r}. Name it as in {file.name}::patient.")
    found: dict[str, str] = {}
    for cell, item, group in zip(cells, find.all_of(cells), groups, strict=True):
        if item is not None and found.setdefault(known[item], group) != group:
            raise UserError(f"{file}: {cell} has two groups, {found[known[item]]} and {group}.")
    return [found.get(whole, "") for whole in wholes]


def by_column(given: str, path: str, spec: dict[str, Any], names: Sequence[str]) -> list[str]:
    """The cell of a column of the data themselves, read as labels are."""
    try:
        source = modalities.open_like(path, spec, given).source
        labels = source.labels or []
    except UserError as error:
        raise UserError(
            f"--groups {given}: give `folders`, a pattern as '(patient[0-9]+)_', a CSV path,group, or a column of the "
            f"labels or the data ({error})"
        ) from None
    found = {source.name(i): label for i, label in enumerate(labels)}
    return [found.get(name, "") for name in names]
