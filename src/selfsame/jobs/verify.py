"""Same or different: a threshold for the likeness of two items, chosen on some identities and measured on others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from selfsame.errors import UserError
from selfsame.jobs.checked import checked
from selfsame.jobs.vectors import OfVectors, values_of

if TYPE_CHECKING:
    from torch import nn


class Verify(OfVectors):
    """Choose a threshold for same or different, and measure it; with two items, say which they are."""

    FOLDER: ClassVar[str] = "verification"
    BY_PLACE: ClassVar[tuple[str, ...]] = ("data", "other")

    data: str | None = None
    """labelled items, or an index, to choose the threshold on and to measure it with; or a file with one item"""
    other: str | None = None
    """a second file with one item: says whether both are the same, by the threshold that was chosen before"""
    out: Path | None = None
    """folder of the result, where the threshold is kept and found again [verification in the run folder]"""
    labels: str | None = None
    """who each item is, where --pairs is not given: CSV path,label, an array or a column [class folders]"""
    pairs: Path | None = None
    """CSV a,b,same: two items and whether they are the same (1 or 0) [of labels: an equal label is the same]"""
    far: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """false-accept rate that the threshold may have: share of different pairs that pass for the same"""
    most: Annotated[int, Field(ge=100)] = 200_000
    """pairs of either kind that are made of labels, for each part; of more, as many are drawn"""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.pairs is not None and self.labels is not None:
            raise UserError("--pairs says what is the same, and so does --labels: give one of them.")
        if self.other is not None and (self.pairs is not None or self.labels is not None):
            raise UserError("two items are compared with a threshold that is known: leave --pairs and --labels out.")
        return self

    def run(self, encoder: "nn.Module | None" = None) -> dict[str, Any]:
        """Also kept as verification.json; of two items {"same": ..., "cosine": ..., "threshold": ...}, not kept."""
        from selfsame.jobs.verifying import run

        return run(self, encoder)


def verify(
    run: Any,
    data: str | Path | None = None,
    other: str | Path | None = None,
    encoder: "nn.Module | None" = None,
    **settings: Any,
) -> dict[str, Any]:
    """Choose and measure a threshold on labelled `data`; with `other`, whether two files hold the same.

    An index may stand for `run`, `data` or both. Settings are the fields of `Verify`. `encoder` is a module of the
    architecture that was trained, where the run was given one in Python.
    """
    two = {"other": None if other is None else str(other)}
    return checked(Verify, values_of(run, data, {**two, **settings})).run(encoder)
