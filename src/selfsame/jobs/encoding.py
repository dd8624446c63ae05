"""Vectors of items by their encoder, by random weights and as the trivial feature; figures of all three."""

import csv
import io
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from rich.table import Table
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from selfsame.engine.state import write_text
from selfsame.engine.watch import console, say
from selfsame.errors import UnreadableItem, UserError, printable
from selfsame.jobs.evaluating import CALIBRATED, redrawn
from selfsame.jobs.given import Given
from selfsame.nn.norm import calibrated
from selfsame.report.vector_page import Form, figure_told
from selfsame.types import Encoder, mixed

Kind = Literal["encoder", "random", "raw"]
Figures = dict[str, float]
Row = dict[str, Any]  # {"features": Kind, "seeds": int, "figures": {name: {"mean": float, "std": float}}}


class Encoded:
    """Some of the given items and their vectors, by the encoder and whatever stands in its place.

    `items` are their numbers among those given; vectors, names and labels are in their order.
    """

    def __init__(self, given: Given, items: Sequence[int]) -> None:
        """Encode `items`; those that cannot be read are left out. Raises UserError where these are too many."""
        self.given, self.on = given, given.on
        self.items, found = given.vectors(items)
        self.vectors: Float[Tensor, "n d"] = torch.from_numpy(found)
        check_finite(self.vectors)
        check_spread(self.vectors)

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def names(self) -> list[str]:
        return [printable(self.given.name(i)) for i in self.items]

    def by(self, other: Encoder) -> Float[Tensor, "n d"]:
        """Vectors of the same items by another encoder."""
        return torch.from_numpy(self.given.by(other, self.items))

    def untrained(self, seed: int) -> list[Float[Tensor, "n d"]]:
        """Vectors of random weights: with batch-norm statistics as they are made, and with those of some items.

        Either can be far better. One, where there is no batch norm.
        """
        given = self.given

        def fresh() -> Encoder:
            return redrawn(given.encoder, given.modality, seed, self.on)

        found = [self.by(fresh())]
        if any(isinstance(part, _BatchNorm) for part in given.encoder.modules()):
            chosen = np.random.default_rng(mixed(seed, 4)).permutation(self.items)[:CALIBRATED].tolist()
            found.append(self.by(calibrated(fresh(), (view.to(self.on) for view in given.met(chosen)))))
        return found

    def raw(self) -> Float[Tensor, "n d"]:
        """The trivial feature of the kind."""
        return self.given.raw(self.items)

    def picture(self, k: int) -> Image.Image:
        data, number = self.given.at(self.items[k])
        return data.modality.picture(data.source, number)

    def fragment(self, k: int) -> str:
        data, number = self.given.at(self.items[k])
        return data.modality.fragment(data.source, number)

    def paths(self) -> list[str] | None:
        """The file of each item; None where some are no files of their own."""
        found = []
        for i in self.items:
            try:
                data, number = self.given.at(i)
            except UnreadableItem:
                return None
            root = getattr(data.source, "place", None)
            if not isinstance(root, str) or not (path := Path(root, data.source.name(number))).is_file():
                return None
            found.append(printable(str(path.absolute())))
        return found

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, why) of the items that are left out."""
        return [(printable(self.given.name(i)), why) for i, why in sorted(self.given.skipped.items())]


def numbers_of(labels: Sequence[str]) -> tuple[list[str], Int[np.ndarray, "n"]]:
    """The labels there are, sorted, and the number of each item's."""
    names, numbers = np.unique(np.array(labels, dtype=object).astype(str), return_inverse=True)
    return names.tolist(), numbers


def check_finite(vectors: Float[Tensor, "n d"]) -> None:
    """Raise UserError where vectors are not finite."""
    bad = int((~torch.isfinite(vectors).all(dim=1)).sum())
    if bad:
        raise UserError(
            f"the vectors of {bad:,} of {len(vectors):,} items hold NaN or infinity. The encoder diverged, or was fed "
            "broken items: see its report.html."
        )


def check_spread(vectors: Float[Tensor, "n d"]) -> None:
    """Raise UserError where all vectors are one."""
    if len(vectors) > 1 and (vectors == vectors[0]).all():
        raise UserError(
            f"the encoder gives all {len(vectors):,} items the same vector, so none can be told apart: it has "
            "collapsed, or the items are copies of one. See its report.html."
        )


def beside(
    items: Encoded, measure: Callable[[Tensor, int], tuple[float, Figures]], seeds: Sequence[int], steady: bool
) -> list[Row]:
    """Figures of the encoder, of random weights and of the trivial feature, each measured in the same way.

    `measure` gives, of vectors and a seed, what the better of two kinds of random weights is chosen by (the larger),
    and the figures. `steady`: the seed matters to random weights alone, so that others are measured once.
    """
    few = seeds[:1] if steady else seeds
    own = [measure(items.vectors, seed)[1] for seed in few]
    if not items.given.whole:
        say(
            f"not all items of {items.given.path} are where they came from, so nothing stands beside the encoder: "
            "random weights and the raw input would have to read them",
            "yellow",
        )
        return [row_of("encoder", own)]
    raw = items.raw()
    found: dict[Kind, list[Figures]] = {
        "encoder": own,
        "random": [
            max((measure(vectors, seed) for vectors in items.untrained(seed)), key=lambda one: one[0])[1]
            for seed in seeds
        ],
        "raw": [measure(raw, seed)[1] for seed in few],
    }
    return [row_of(kind, figures) for kind, figures in found.items()]


def row_of(kind: str, figures: Sequence[Figures]) -> Row:
    """Mean and standard deviation (n - 1; 0 of one) of each figure."""

    def summed(values: list[float]) -> dict[str, float]:
        return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}

    named = {name: summed([one[name] for one in figures]) for name in figures[0]}
    return {"features": kind, "seeds": len(figures), "figures": named}


def show(
    rows: Sequence[Row], names: Mapping[str, str], first: str = "features", forms: Mapping[str, Form] | None = None
) -> None:
    """The rows on the screen. `names` says which figures and how they are called, `forms` how they are written."""
    table = Table(first, box=None, padding=(0, 2, 0, 0))
    for name in names.values():
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [figure_told(row["figures"][name], row["seeds"], (forms or {}).get(name, "plain")) for name in names]
        table.add_row(row["features"], *cells, style="bold" if row is rows[0] else None)
    console.print(table)


def warn_if_behind(rows: Sequence[Row], name: str, called: str) -> None:
    """A line where a baseline is as good as the encoder or better."""
    own, *others = rows
    ahead = [row for row in others if row["figures"][name]["mean"] >= own["figures"][name]["mean"]]
    for row in ahead:
        say(
            f"by {called} the encoder ({figure_told(own['figures'][name], 1)}) is not above {row['features']} "
            f"({figure_told(row['figures'][name], 1)}): its training does not help here.",
            "yellow",
        )


def keep(place: Path, name: str, result: Mapping[str, Any]) -> None:
    write_text(place / f"{name}.json", json.dumps(result, indent=1) + "\n")


def keep_table(place: Path, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """A CSV of columns of equal length."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows(zip(*columns.values(), strict=True))
    write_text(place / f"{name}.csv", text.getvalue())
