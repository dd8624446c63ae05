"""Measure an encoder beside the baselines it has to beat, and say in words whether it does.

Source: protocols in knn.py, linear.py and finetune.py; why random weights and raw input belong in every table:
        Saxe et al. 2011, "On random weights and unsupervised feature learning".
Raises: UserError on unknown protocols or budgets, and whatever a protocol refuses.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self

from jaxtyping import Int
from pydantic import Field
from rich.table import Table
from torch import Tensor

from selfsame.downstream.knn import knn_accuracy
from selfsame.downstream.linear import linear_accuracy
from selfsame.downstream.split import budget
from selfsame.engine.watch import say
from selfsame.errors import UserError, unknown
from selfsame.records import Record

Kind = Literal["encoder", "random", "raw", "supervised"]
KINDS: tuple[Kind, ...] = ("encoder", "random", "raw", "supervised")
PROTOCOLS = ("knn", "linear", "finetune", "similarity")
Protocol = Literal["knn", "linear", "finetune", "similarity"]

Features = Callable[[int], tuple[Tensor, Tensor]]  # seed -> train vectors [n d], test vectors [m d]


class Row(Record):
    """One line of an evaluation: these features, this protocol, these labels."""

    features: Kind
    """encoder: the one measured; random: its network untrained; raw: the input itself; supervised: trained on the
    labels from scratch"""
    protocol: Protocol
    """how features became an accuracy, or of pairs a correlation"""
    labels: str
    """train labels used: all, none, a share such as 1%, or a number such as 10/class"""
    mean: float = Field(ge=-1, le=1)
    """test accuracy, or Spearman's correlation of similarity; mean over the runs"""
    std: float = Field(ge=0)
    """its standard deviation over the runs (n - 1); 0 for one run"""
    seeds: int = Field(ge=1)
    """runs that could have differed: a k-NN of fixed vectors with all labels is 1 run however often it is repeated"""

    @classmethod
    def of(cls, features: Kind, protocol: Protocol, labels: str, accuracies: Sequence[float]) -> Self:
        """The row of several runs' accuracies."""
        std = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        return cls(
            features=features,
            protocol=protocol,
            labels=labels,
            mean=statistics.fmean(accuracies),
            std=std,
            seeds=len(accuracies),
        )


class Verdict(Record):
    """Whether the encoder beats one baseline. Reads as a sentence with `str`."""

    protocol: str
    """how both were measured"""
    labels: str
    """the train labels used"""
    against: Kind
    """the baseline"""
    encoder: float
    """the encoder's accuracy"""
    baseline: float
    """the baseline's accuracy"""
    margin: float
    """two standard errors of their difference"""

    @property
    def wins(self) -> bool:
        return self.encoder - self.baseline > self.margin

    def __str__(self) -> str:
        gain = self.encoder - self.baseline
        if self.wins:
            says = "beats"
        elif gain < -self.margin:
            says = "is WORSE than"
        else:
            says = "cannot be told from"
        return (
            f"{self.protocol}, labels {self.labels}: the encoder ({self.encoder:.1%}) {says} {self.against} "
            f"({self.baseline:.1%}): {100 * gain:+.1f} points, two standard errors are {100 * self.margin:.1f}"
        )


def measure(
    features: Mapping[Kind, Features],
    train_labels: Int[Tensor, "n"],
    test_labels: Int[Tensor, "m"],
    protocols: Sequence[str] = ("knn", "linear"),
    budgets: Sequence[str] = ("all",),
    seeds: Sequence[int] = (0, 1, 2),
) -> list[Row]:
    """Test accuracy of every kind of features under every protocol and label budget.

    A callable of `features` gets a seed and returns (train vectors [n d], test vectors [m d]). It is called once
    for each seed where the kind is "random", whose weights are drawn, and with the first one otherwise. The seed
    also draws the label subset, the same for all features, and the linear probe's validation part; the test set
    decides nothing. Warns when test has classes that train lacks: their items count as wrong.
    Raises UserError on unknown protocols or features, budgets that cannot be met, no seeds.
    """
    for protocol in protocols:
        if protocol not in ("knn", "linear"):
            raise unknown("protocol", protocol, ("knn", "linear"), "Fine-tuning has its own function, finetune.")
    for kind in features:
        if kind not in KINDS:
            raise unknown("features", kind, KINDS)
    if not seeds:
        raise UserError("there are no seeds; give 1 or more, 3 for an error bar.")
    absent = ~test_labels.unsqueeze(1).eq(train_labels.unique().to(test_labels.device)).any(dim=1)
    if absent.any():
        say(f"{int(absent.sum())} of {len(test_labels)} test items are of a class without train items: they are wrong.")
    subsets = {(labels, seed): budget(train_labels, labels, seed) for labels in budgets for seed in seeds}
    accuracies: dict[tuple[Kind, str, str], list[float]] = {}
    for kind, vectors_of in features.items():
        for seed in seeds:
            if seed == seeds[0] or kind == "random":
                train, test = vectors_of(seed)
            for protocol in protocols:
                for labels in budgets:
                    if seed != seeds[0] and protocol == "knn" and labels == "all" and kind != "random":
                        continue  # nothing in it depends on the seed
                    use = subsets[labels, seed]
                    known = (train[use.to(train.device)], train_labels[use.to(train_labels.device)])
                    accuracy = (
                        knn_accuracy(*known, test, test_labels)
                        if protocol == "knn"
                        else linear_accuracy(*known, test, test_labels, seed)
                    )
                    accuracies.setdefault((kind, protocol, labels), []).append(accuracy)
    return [
        Row.of(kind, "knn" if protocol == "knn" else "linear", labels, runs)
        for (kind, protocol, labels), runs in accuracies.items()
    ]


def beats(rows: Sequence[Row], test_items: int) -> list[Verdict]:
    """The encoder against every baseline measured under the same protocol and budget.

    The variance of a difference is the variance of both means over seeds (std² / seeds) plus both binomial
    variances of the test set (p (1 - p) / test_items). Both are scored on the same items, so that the true error is
    mostly smaller: a verdict errs on the side of "cannot be told from".
    """
    if test_items < 1:
        raise UserError(f"test_items is {test_items}; give the number of test items, 1 or more.")
    verdicts = []
    for row in rows:
        for other in _ordered(rows):
            if row.features != "encoder" or other.features == "encoder":
                continue
            if (row.protocol, row.labels) == (other.protocol, other.labels):
                margin = 2 * math.sqrt(sum(_variance(one, test_items) for one in (row, other)))
                verdicts.append(
                    Verdict(
                        protocol=row.protocol,
                        labels=row.labels,
                        against=other.features,
                        encoder=row.mean,
                        baseline=other.mean,
                        margin=margin,
                    )
                )
    return verdicts


def table(rows: Sequence[Row]) -> Table:
    """The rows for the screen: a block for each protocol and budget, the encoder first, its baselines after."""
    told = "correlation × 100" if all(row.protocol == "similarity" for row in rows) else "accuracy %"
    shown = Table("features", "protocol", "labels", told, "± std", "seeds")
    for column in shown.columns[3:]:
        column.justify = "right"
    before = None
    for row in _ordered(rows):
        if before not in (None, (row.protocol, row.labels)):
            shown.add_section()
        before = (row.protocol, row.labels)
        std = f"{100 * row.std:.1f}" if row.seeds > 1 else "-"
        style = "bold" if row.features == "encoder" else None
        shown.add_row(row.features, row.protocol, row.labels, f"{100 * row.mean:.1f}", std, str(row.seeds), style=style)
    return shown


def _variance(row: Row, test_items: int) -> float:
    """Of the mean over seeds, and of the test items: binomial, or that of a correlation of so many pairs."""
    if row.protocol == "similarity":
        return row.std**2 / row.seeds + (1 - row.mean**2) ** 2 / max(1, test_items - 1)
    return row.std**2 / row.seeds + row.mean * (1 - row.mean) / test_items


def _ordered(rows: Sequence[Row]) -> list[Row]:
    """By protocol, then budget as first met, then encoder before baselines."""
    budgets = list(dict.fromkeys(row.labels for row in rows))
    return sorted(
        rows,
        key=lambda row: (PROTOCOLS.index(row.protocol), budgets.index(row.labels), KINDS.index(row.features)),
    )
