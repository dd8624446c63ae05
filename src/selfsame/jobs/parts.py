"""The items of one source, or of two parts between which copies are sought, numbered through."""

import csv
import io
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from selfsame.engine.state import write_text
from selfsame.engine.watch import say
from selfsame.errors import UserError, printable
from selfsame.index.store import exists, shown
from selfsame.jobs.data import SKIPPED, Data, open_data, open_like, warn_skipped, write_skipped
from selfsame.jobs.duplicates import Duplicates
from selfsame.types import Encoder


class Items:
    """The items of one source, or of two parts, numbered through."""

    def __init__(self, job: Duplicates, encoder: Encoder | None) -> None:
        paths = [job.data] if job.across is None else [part_of(job.data, name) for name in job.across]
        if len(set(paths)) < len(paths):
            raise UserError(f"--across {' '.join(job.across or ())}: both are {paths[0]}. Give two different parts.")
        self.parts = [self.opened(path, job, encoder) for path in paths]
        self.names_of_parts = job.across
        self.starts = np.cumsum([0, *(len(part.source) for part in self.parts)])

    def opened(self, path: str, job: Duplicates, encoder: Encoder | None) -> Data:
        if exists(path):
            raise UserError(f"{shown(path)} is an index: copies are sought among items. Give the data it was made of.")
        if encoder is not None:
            return open_like(path, encoder)
        return open_data(path, job.modality, job.max_skipped, job.seed, job.out, job.reading)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def part(self) -> Int64[np.ndarray, "n"]:
        """Of each item, which part it is of: 0 or 1."""
        return np.repeat(np.arange(len(self.parts)), np.diff(self.starts))

    def at(self, i: int) -> tuple[Data, int]:
        """The opened part of an item, and its number there."""
        part = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.parts[part], int(i - self.starts[part])

    def name(self, i: int) -> str:
        data, number = self.at(i)
        return printable(data.source.name(number))

    def part_name(self, i: int) -> str:
        return self.names_of_parts[int(self.part[i])] if self.names_of_parts else ""

    def shown(self, i: int) -> str:
        """The name, with its part where there are two."""
        return f"{self.part_name(i)}: {self.name(i)}" if self.names_of_parts else self.name(i)

    def picture(self, i: int) -> Any:
        data, number = self.at(i)
        return data.modality.picture(data.source, number)

    def fragment(self, i: int) -> str:
        data, number = self.at(i)
        return data.modality.fragment(data.source, number)

    def value(self, i: int) -> Any:
        data, number = self.at(i)
        return data.source.read(number)

    @property
    def skipped(self) -> dict[int, str]:
        return {
            int(start) + item: why
            for start, data in zip(self.starts, self.parts, strict=False)
            for item, why in data.skipped.items()
        }


def part_of(path: str, name: str) -> str:
    """A folder in the data by this name, or a path of its own."""
    inside = Path(path).expanduser() / name
    if inside.exists():
        return str(inside)
    if Path(name.partition("::")[0]).expanduser().exists():
        return name
    raise UserError(f"--across {name}: there is neither {inside} nor {name}. Give folders in {path}, or two paths.")


def write_all_skipped(items: Items, folder: Path) -> None:
    if len(items.parts) == 1:
        write_skipped(items.parts[0], folder)
        warn_skipped(items.parts[0], folder)
        return
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["name", "reason"])
    rows.writerows([items.shown(i), why] for i, why in sorted(items.skipped.items()))
    write_text(folder / SKIPPED, printable(text.getvalue()))
    say(f"{len(items.skipped)} unreadable items skipped; see {folder / SKIPPED}", "yellow")
