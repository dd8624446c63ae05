"""How strong views of a row are: the strengths, and the named recipes. What the steps do stands in `views`.

Raises UserError on an unknown recipe.
"""

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, Field

from selfsame.errors import unknown
from selfsame.modalities.table.stats import Stats
from selfsame.records import Record, ViewPlan

__all__ = ["View", "Views", "recipe", "recipes"]


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the range {ends[0]:g} to {ends[1]:g} is empty: give the smaller number first")
    return ends


Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, le=1)]


class View(Record):
    """Strengths of one pipeline, in the order of its steps."""

    crop: Annotated[tuple[Part, Part], AfterValidator(_ordered)] = (1.0, 1.0)
    """of a sequence: share of the events that is kept, those that follow each other, uniform"""
    cutmix: Share = 0.0
    """probability, for each column, of the value of another row, the same row for all columns"""
    mixup: Share = 0.0
    """weight of another row: numbers are averaged with it, categories are its own with this probability"""
    replace: Share = 0.0
    """share of the columns whose value is drawn anew from all values of the column"""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """standard deviation of normal noise on scaled numbers and dates"""
    thin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """counts become binomial of themselves with a probability that is uniform in [1 - thin, 1]"""
    drop_words: Share = 0.0
    """probability, for each number of a text, of becoming 0"""
    mask: Share = 0.0
    """share of the columns that are hidden"""
    mask_events: Share = 0.0
    """of a sequence: probability, for each event, that all its columns are hidden"""


class Views(Record):
    """Strengths of all views of a row, or of a sequence of rows."""

    size: Annotated[int, Field(ge=1)]
    """columns of a row; of a sequence the events of a view"""
    one: View = View()
    """the first, third, ... full view"""
    two: View = View()
    """the second, fourth, ... full view"""
    part: View = View()
    """views of few columns, or of few events"""

    def strengths(self, plan: ViewPlan) -> list[View]:
        """Those of the random views of a plan: full views alternate between one and two, then the parts."""
        return [self.two if k % 2 else self.one for k in range(plan.full)] + [self.part] * plan.part


# Recipes -------------------------------------------------------------------------------------------------------------

CROP = (0.5, 1.0)  # of sequences; a choice
PIECE = (0.2, 0.5)  # of sequences, part views; a choice


def made(size: int, one: View, two: View | None = None, part: View | None = None) -> Views:
    """The second pipeline is the first; part views hide half of the columns, unless given."""
    return Views(size=size, one=one, two=two or one, part=part or (two or one).changed(mask=0.5))


def scarf(size: int) -> Views:
    """SCARF (Bahri et al. 2021, arXiv 2106.15147): the row as it is, and with 60 % of its columns drawn anew.

    Where a method takes both views alike, as SimCLR does, this is its loss. Deviation: the marginal of a column is
    drawn from the quantiles and frequencies in `Stats`, not from its rows, so that no other row need be read.
    """
    return made(size, View(), View(replace=0.6))


def both(size: int) -> Views:
    """SCARF's replacement in both views, half as strong, for methods that predict one view from the other. Ours."""
    return made(size, View(replace=0.3))


def saint(size: int) -> Views:
    """SAINT (Somepalli et al. 2021, arXiv 2106.01342, section 4): the row, and the row cut- and mixed with others.

    CutMix takes each column from another row with probability 0.3, mixup gives the other row weight 0.2. Deviations:
    mixup is on scaled numbers, and categories take the other's value with that probability, where SAINT mixes
    embeddings: a view is a row here, which any encoder takes. One other row serves for both, where SAINT draws two.
    The figures are from memory of the paper.
    """
    return made(size, View(), View(cutmix=0.3, mixup=0.2))


def mask(size: int) -> Views:
    """Some columns hidden in both views, 30 % as in VIME's corruption (Yoon et al. 2020, NeurIPS); "auto" is this one.

    Deviation: VIME puts other rows' values there; a network that sees what is hidden need not guess it.
    """
    return made(size, View(mask=0.3), part=View(mask=0.6))


def weak(size: int) -> Views:
    """The row as it is but for a little noise on its numbers and a tenth of its columns hidden."""
    return made(size, View(noise=0.05, mask=0.1))


KNOWN = (scarf, both, saint, mask, weak)
RECIPES: dict[str, Callable[[int], Views]] = {known.__name__: known for known in KNOWN}
DEFAULT = "mask"


def recipes() -> list[str]:
    """The names that `recipe` knows."""
    return ["auto", *RECIPES]


def recipe(name: str, size: int, stats: Stats) -> Views:
    """The named strengths for rows of `size` columns, or sequences of `size` events, which are cut in time as well.

    Raises UserError on unknown names.
    """
    if name not in recipes():
        raise unknown("recipe of views", name, recipes())
    views = RECIPES[DEFAULT if name == "auto" else name](size)
    if not stats.by:
        return views
    cut = {key: getattr(views, key).changed(crop=CROP) for key in ("one", "two")}
    # Few events are a part already: of these the columns are as in a full view.
    return views.changed(**cut, part=views.two.changed(crop=PIECE))
