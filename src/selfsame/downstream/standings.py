"""How well a task is done from each start, and whether the pretrained encoder is better for it.

Beside it stand what labels alone can do (the same network from random weights), random weights that stay as they are,
and what the task says without an encoder: the most frequent class, a guess by colour.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from rich.table import Table

from selfsame.records import Record

Start = Literal["encoder", "random", "supervised", "trivial"]
Way = Literal["frozen", "finetune", "-"]


class Standing(Record):
    """One line: this start, learned this way from so many labels, scored on the test part."""

    features: Start
    """encoder: the one measured; random: its network untrained and frozen; supervised: trained from random weights
    with the labels alone; trivial: said without an encoder"""
    protocol: Way
    """whether the encoder was frozen or fine-tuned"""
    labels: str
    """train labels used: all, 10%, 10/class"""
    items: int
    """how many labelled items that is, those to choose by among them"""
    score: str
    """the name of the score that `mean` is of"""
    mean: float
    std: float
    """over the seeds (n - 1); 0 for one"""
    seeds: int
    all: dict[str, float]
    """every score of the task, mean over the seeds"""
    called: str = ""
    """of a trivial row what it says: most frequent class, guess by colour"""

    @classmethod
    def of(
        cls,
        features: Start,
        protocol: Way,
        labels: str,
        items: int,
        score: str,
        runs: Sequence[Mapping[str, float]],
        called: str = "",
    ) -> Self:
        values = [run[score] for run in runs]
        return cls(
            features=features,
            protocol=protocol,
            labels=labels,
            items=items,
            score=score,
            mean=statistics.fmean(values),
            std=statistics.stdev(values) if len(values) > 1 else 0.0,
            seeds=len(values),
            all={name: statistics.fmean(run[name] for run in runs) for name in runs[0]},
            called=called,
        )

    @property
    def start(self) -> str:
        """What stands in tables."""
        return self.called or self.features


AGAINST: dict[Way, tuple[Start, ...]] = {
    "frozen": ("random", "trivial"),
    "finetune": ("supervised", "trivial"),
    "-": (),
}


def sentences(rows: Sequence[Standing], lower: bool) -> list[str]:
    """The encoder beside each baseline of the same way and labels, in words.

    The margin is two standard errors of the difference of the means over seeds; of one seed there is none, and the
    difference alone is told.
    """
    told = []
    for row in (r for r in rows if r.features == "encoder"):
        for other in rows:
            same = other.labels == row.labels and other.protocol in (row.protocol, "-")
            if not same or other.features not in AGAINST[row.protocol]:
                continue
            gain = (other.mean - row.mean) if lower else (row.mean - other.mean)
            margin = 2 * math.sqrt(row.std**2 / row.seeds + other.std**2 / other.seeds)
            if row.seeds < 2:
                says = f"{'better' if gain > 0 else 'worse' if gain < 0 else 'equal'}, one seed: no margin is known"
            elif abs(gain) <= margin:
                says = f"not to be told apart (margin {margin:.3f})"
            else:
                says = f"{'better' if gain > 0 else 'WORSE'} by {abs(gain):.3f} (margin {margin:.3f})"
            told.append(
                f"{row.protocol}, labels {row.labels}: {row.score} {row.mean:.3f} of the encoder, {other.mean:.3f} of "
                f"{'the ' if other.called else ''}{other.start}: {says}"
            )
    return told


def table(rows: Sequence[Standing]) -> Table:
    """The rows for the screen, a block for each way and budget; columns that say nothing are left out."""
    others = [name for name in rows[0].all if name != rows[0].score][:3]
    learns = {"frozen": "no", "finetune": "yes", "-": "-"}
    cells = [
        {
            "start": row.start,
            "encoder learns": learns[row.protocol],
            "labels": row.labels,
            row.score: f"{row.mean:.3f}",
            "± std": f"{row.std:.3f}" if row.seeds > 1 else "-",
            "seeds": str(row.seeds),
            **{name: f"{row.all[name]:.3f}" if name in row.all else "-" for name in others},
        }
        for row in rows
    ]
    silent = ("encoder learns", "labels", "± std", "seeds")
    names = [name for name in cells[0] if name not in silent or len({one[name] for one in cells}) > 1]
    shown = Table(*names)
    for name in names:
        if name not in ("start", "encoder learns", "labels"):
            shown.columns[names.index(name)].justify = "right"
    before = None
    for row, of_row in zip(rows, cells, strict=True):
        if before not in (None, (row.protocol, row.labels)):
            shown.add_section()
        before = (row.protocol, row.labels)
        shown.add_row(*(of_row[name] for name in names), style="bold" if row.features == "encoder" else None)
    return shown
