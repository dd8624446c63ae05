"""How strong views of a text are: the strengths of a pipeline, and the named recipes.

What the steps do stands in `distort`; each recipe says where its numbers come from and what it leaves out. Raises
UserError on an unknown recipe.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from selfsame.errors import unknown
from selfsame.modalities.text.stats import Stats
from selfsame.records import Probability, Record, Shares, ViewPlan

__all__ = ["View", "Views", "recipe", "recipes"]


class View(Record):
    """Strengths of one pipeline, in the order of its steps. All of it is done to words, before they become tokens."""

    span: Shares = (0.6, 1.0)
    """share of the words that is kept, in one piece, uniform"""
    drop: Probability = 0.0
    """probability of each word to be left out; one always stays"""
    shuffle: Probability = 0.0
    """probability that words change places"""
    reach: Annotated[int, Field(ge=1)] = 3
    """how many places a word moves at most when they do"""
    typo: Probability = 0.0
    """probability of a slip in each word: a neighbouring key, two letters swapped, one left out or twice"""


class Views(Record):
    """Strengths of all views of a text. Beside them the network's dropout makes views of one text differ."""

    size: Annotated[int, Field(ge=1)]
    """tokens of full and plain views; shorter ones are filled up"""
    one: View = View()
    """the first, third, ... full view"""
    two: View = View()
    """the second, fourth, ... full view"""
    part: View = View(span=(0.2, 0.5))
    """short views"""
    part_size: Annotated[int, Field(ge=1)] = 16
    """tokens of part views"""

    def strengths(self, plan: ViewPlan) -> list[View]:
        """Those of the random views of a plan: full views alternate between one and two, then the parts."""
        return [self.two if k % 2 else self.one for k in range(plan.full)] + [self.part] * plan.part


# Recipes -------------------------------------------------------------------------------------------------------------

PIECES = (0.2, 0.5)  # share of the words in part views; ours


def made(size: int, full: View) -> Views:
    """Both full views alike; parts are short spans of it."""
    return Views(size=size, one=full, two=full, part=full.changed(span=PIECES), part_size=part_size(size))


def spoken(size: int) -> Views:
    """Spans with some words left out: what "auto" is. The strengths are ours (docs/text.md has what was measured)."""
    return made(size, View(span=(0.5, 1.0), drop=0.1))


def span(size: int) -> Views:
    """Spans of 50 to 90 % of the words and nothing else: crops of the item; DeCLUTR's idea within one short text.

    DeCLUTR (Giorgi et al. 2021, arXiv 2006.03659) takes spans of a document that overlap, touch or contain each other.
    """
    return made(size, View(span=(0.5, 0.9)))


def words(size: int) -> Views:
    """Deletion and order of words: CLEAR (Wu et al. 2020, arXiv 2012.15466) and EDA (Wei & Zou 2019, 1901.11196).

    Each word is left out with probability 0.1, as EDA's alpha; in half of the views words move up to 3 places (Lample
    et al. 2018, 1711.00043, section 2.3). Left out: exchange for synonyms, which needs a dictionary of one language.
    """
    return made(size, View(span=(1.0, 1.0), drop=0.1, shuffle=0.5))


def typos(size: int) -> Views:
    """A slip in each tenth word: neighbouring keys, letters swapped, lost or doubled (Pruthi et al. 2019, 1905.11268).

    Their attacks change one or two words of a text; the share is ours.
    """
    return made(size, View(span=(1.0, 1.0), typo=0.1))


def simcse(size: int) -> Views:
    """Two equal views, which differ by the network's dropout alone: SimCSE (Gao et al. 2021, arXiv 2104.08821)."""
    return made(size, View(span=(1.0, 1.0)))


def weak(size: int) -> Views:
    """Spans of 80 % of the words or more."""
    return made(size, View(span=(0.8, 1.0)))


KNOWN = (span, words, typos, simcse, weak)
RECIPES: dict[str, Callable[[int], Views]] = {"auto": spoken, **{known.__name__: known for known in KNOWN}}


def recipes() -> list[str]:
    """The names that `recipe` knows."""
    return list(RECIPES)


def recipe(name: str, size: int, stats: Stats | Any) -> Views:
    """The named strengths for views of `size` tokens. Raises UserError on unknown names."""
    if name not in RECIPES:
        raise unknown("recipe of views", name, recipes())
    return RECIPES[name](size)


def part_size(size: int) -> int:
    """Half of the tokens, which hold the longest part, as a multiple of 4."""
    return min(size, max(4, -(-size // 8) * 4))
