"""Labelled items: opened, divided into those to learn from and those to choose by, and which could not be read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from selfsame.downstream.split import budget, grouped_split, stratified_split
from selfsame.downstream.task import Examples, Task
from selfsame.engine.state import write_text
from selfsame.errors import UserError
from selfsame.jobs.adapt import Adapt
from selfsame.jobs.data import labels_for, parts_of
from selfsame.jobs.grouping import groups_of, parts_together
from selfsame.jobs.runs import SKIPPED
from selfsame.types import Encoder


@dataclass
class Labels:
    """Labelled items in two parts: to learn from, and to choose the best weights by."""

    examples: Examples
    learn: list[int]
    val: Examples
    check: list[int]
    groups: Tensor | None = None
    """of each item a number; items of one are all learned from, or all chosen by"""

    @property
    def both(self) -> list[Examples]:
        """What items are read from: one, or that of --val too."""
        return [self.examples] if self.val is self.examples else [self.examples, self.val]

    @property
    def fingerprint(self) -> str:
        """Changes with the names, the parts and the facts."""
        digest = hashlib.sha256(self.examples.facts.model_dump_json().encode())
        for examples, items in ((self.examples, self.learn), (self.val, self.check)):
            names = "".join(f"{examples.name(i)}\n" for i in items)
            digest.update(names.encode("utf-8", "surrogateescape"))
        return f"{len(self.learn)} + {len(self.check)} items, {digest.hexdigest()[:16]}"


def opened(task: Task, encoder: Encoder, job: Adapt) -> Labels:
    """The labelled items, and which of them choose the weights. Raises UserError."""
    path, _ = parts_of(job.labelled)
    labels = labels_for(job.labels, path, job.labelled)
    examples = task.open(path, labels, encoder)
    examples.most_skipped = job.max_skipped
    use = budget(examples.strata, job.budget, job.seed).tolist()
    if job.val is not None:
        val = task.open(job.val, job.val_labels, encoder, examples.facts)
        val.most_skipped = job.max_skipped
        return Labels(examples, use, val, list(range(len(val))))
    groups = grouped(job.groups, path, labels, encoder, examples)
    learn, check = divided(examples, use, job.val_share, job.seed, groups)
    return Labels(examples, learn, examples, check, groups)


def grouped(given: str | None, path: str, labels: str | None, encoder: Encoder, examples: Examples) -> Tensor | None:
    """A number for the group of each item: as given, or by recording or picture; None where each is by itself."""
    if given is None:
        return parts_together(examples)
    source = getattr(examples, "source", None) or getattr(getattr(examples, "opened", None), "source", None)
    numbers = range(len(examples))
    names, wholes = [examples.name(i) for i in numbers], [examples.part_of(i) for i in numbers]
    return groups_of(given, path, labels, encoder.spec, source, names, wholes)


def divided(
    examples: Examples, use: Sequence[int], share: float, seed: int, groups: Tensor | None = None
) -> tuple[list[int], list[int]]:
    """(items to learn from, items to choose by), class by class; all are both where there are fewer than five.

    Items of one of the `groups` stay together; where those in use are of one, all are both.
    """
    if len(use) < 5 or (groups is not None and len(groups[list(use)].unique()) < 2):
        return list(use), list(use)
    strata = examples.strata[list(use)]
    if groups is None:
        learn, check = stratified_split(strata, share, seed)
    else:
        learn, check = grouped_split(strata, groups[list(use)], share, seed)
    if not len(check):
        return list(use), list(use)
    return [use[k] for k in learn.tolist()], [use[k] for k in check.tolist()]


def write_skipped(labels: Labels, folder: Path) -> None:
    """skipped.csv of the items that could not be read."""
    import csv
    import io

    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["name", "reason"])
    for examples in labels.both:
        rows.writerows([examples.name(i), why] for i, why in sorted(examples.skipped.items()))
    write_text(folder / SKIPPED, text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8"))


def check_share(labels: Labels, folder: Path) -> None:
    """Raise UserError where too many items of either part cannot be read."""
    try:
        for examples in labels.both:
            examples.check_skipped()
    except UserError as error:
        raise UserError(f"{error} All are in {folder / SKIPPED}.") from None
