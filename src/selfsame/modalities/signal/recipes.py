"""How strong views of series are: the strengths of a pipeline, and the named recipes.

What the steps do stands in `views` and `steps`; each recipe says where its numbers come from and what it leaves out.
Raises UserError on an unknown recipe.
"""

from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfsame.errors import unknown
from selfsame.modalities.signal.stats import Stats
from selfsame.records import Probability, Record, Shares, ViewPlan

__all__ = ["LEAST", "View", "Views", "recipe", "recipes"]

LEAST = 8  # steps of a view: shorter series end in missing values


Part = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0)]


class View(Record):
    """Strengths of one pipeline, in the order of its steps. A channel's unit is its standard deviation."""

    crop: Shares = (0.5, 1.0)
    """share of the steps kept, one run of them, uniform; of what fits into a view of a longer item"""
    stretch: Probability = 0.0
    """probability that the run is stretched to the length it was cut from; else what is left of the view is missing"""
    permute: Probability = 0.0
    """probability of cutting the view into segments and joining them in another order"""
    segments: Annotated[int, Field(ge=2, le=64)] = 5
    """largest number of these segments, drawn from 1; cut at random places"""
    time_warp: Probability = 0.0
    """probability of running faster here and slower there"""
    time_warp_std: Strength = 0.2
    """standard deviation of the pace about 1, at six places between which it is smooth"""
    scale: Strength = 0.0
    """standard deviation of a factor about 1, of each channel"""
    magnitude_warp: Strength = 0.0
    """the same of a factor that changes smoothly along the time, drawn at six places"""
    filter: Strength = 0.0
    """standard deviation, in decibels, of a smooth random gain over the frequencies, drawn at six of them"""
    band: Probability = 0.0
    """probability of taking out a band of frequencies"""
    band_width: Shares = (0.05, 0.3)
    """its share of all frequencies, uniform"""
    flip: Probability = 0.0
    """probability of turning the sign of all channels"""
    jitter: Strength = 0.0
    """standard deviation of noise added to each value"""
    gap: Probability = 0.0
    """probability of a run of steps whose values are missing"""
    gap_length: Shares = (0.05, 0.3)
    """its share of the view, uniform"""
    hide: Part = 0.0
    """share of the steps whose values are missing, each drawn by itself"""
    drop: Part = 0.0
    """probability of each channel to be missing; one always stays"""


class Views(Record):
    """Strengths of all views of a series."""

    size: Annotated[int, Field(ge=LEAST)]
    """steps of full and plain views"""
    one: View = View()
    """the first, third, ... full view"""
    two: View = View()
    """the second, fourth, ... full view"""
    part: View = View(crop=(0.15, 0.4))
    """views of a small piece"""
    part_size: Annotated[int, Field(ge=LEAST)] = LEAST
    """steps of part views"""
    pairs: Literal["apart", "overlap", "near"] = "apart"
    """crops of an item's full views: each by itself; two that overlap (TS2Vec); later ones near the first (TNC)"""
    reach: Annotated[float, Field(gt=0)] = 1.0
    """how far from the first a near one begins: standard deviation in lengths of the crop"""
    stay: bool = False
    """whether crops stay at their time in the view, the rest missing; else they begin it"""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.stay or self.pairs == "overlap") and (self.one.stretch or self.two.stretch):
            raise ValueError("crops that overlap or stay keep their pace: set stretch to 0")
        if self.stay and self.pairs == "near":
            raise ValueError("a near crop comes from another time, so it cannot stay at its own: set stay to false")
        return self

    def strengths(self, plan: ViewPlan) -> list[View]:
        """Those of the random views of a plan: full views alternate between one and two, then the parts."""
        return [self.two if k % 2 else self.one for k in range(plan.full)] + [self.part] * plan.part


# Recipes -------------------------------------------------------------------------------------------------------------

PIECES = (0.15, 0.4)  # of a series, in part views; ours, after the areas of multi-crop
WHOLE = (1.0, 1.0)


def made(size: int, one: View, two: View | None = None) -> Views:
    """Views of `size` steps; the second pipeline is the first unless given, and parts are pieces of it.

    Full views stay at their time, unless they are stretched: both are then on one time axis.
    """
    part = one.changed(crop=PIECES, stretch=0.0)
    stay = not one.stretch and not (two or one).stretch
    return Views(size=size, one=one, two=two or one, part=part, part_size=part_steps(size), stay=stay)


def mixed(size: int) -> Views:
    """Ours: crops, a smooth change of height, noise; a second view with a random filter. For series of any kind.

    Strengths of scale, magnitude warp and jitter lie between those of Um et al. 2017 (arXiv 1706.00527) and of TS-TCC
    (arXiv 2106.14112).
    """
    one = View(crop=(0.5, 1.0), scale=0.2, magnitude_warp=0.2, jitter=0.1)
    return made(size, one, one.changed(filter=3.0))


def weak(size: int) -> Views:
    """Nine tenths of the series, stretched: window slicing of Le Guennec et al. 2016, and nothing else."""
    return made(size, View(crop=(0.9, 0.9), stretch=1.0))


def crop(size: int) -> Views:
    """Crops of half the series to all of it, at the pace they have, and nothing else."""
    return made(size, View(crop=(0.5, 1.0)))


def jitter(size: int) -> Views:
    """Noise of 0.03 and a factor of 1 ± 0.1 for each channel: Um et al. 2017, arXiv 1706.00527, its two mildest."""
    return made(size, View(crop=WHOLE, jitter=0.03, scale=0.1))


def warp(size: int) -> Views:
    """Time warp and magnitude warp of 0.2: Um et al. 2017, arXiv 1706.00527, with crops of 0.9, stretched."""
    return made(size, View(crop=(0.9, 1.0), stretch=1.0, time_warp=1.0, magnitude_warp=0.2))


def spectral(size: int) -> Views:
    """A random filter in both views, a band of frequencies taken out of half of them; crops of 0.5 to 1. Ours."""
    return made(size, View(crop=(0.5, 1.0), filter=3.0, band=0.5))


def sensors(size: int) -> Views:
    """For many channels: each missing with probability 0.2, half the views with a gap; jitter and factors as above."""
    return made(size, View(crop=(0.7, 1.0), scale=0.1, jitter=0.05, gap=0.5, drop=0.2))


def ts2vec(size: int) -> Views:
    """Two crops that overlap, half of all steps hidden: TS2Vec (Yue et al. 2022, arXiv 2106.10466, 3.2).

    Crops stay at their time, so that the two views can be compared step by step. Deviations: lengths and places are
    drawn for each series, not one length for a batch; crops keep at least a twentieth; steps are hidden in the view
    (the encoder "dilated" hides them behind its first layer, as the paper does).
    """
    full = View(crop=(0.05, 1.0), hide=0.5)
    return made(size, full).changed(pairs="overlap")


def tnc(size: int) -> Views:
    """The second view from nearby in the same record: TNC (Tonekaboni et al. 2021, arXiv 2106.00750), for any loss.

    Its neighbourhood is a Gaussian about the window; its width comes from a test of stationarity (else 3 windows),
    here `reach` is 1 window. Other series of the batch are what is not near, as the method takes them. Windows cut by
    --reading.window move within their record, up to the next window that is held out; others are a quarter to a half of
    their series.
    """
    return made(size, View(crop=(0.25, 0.5))).changed(pairs="near", stay=False)


def tstcc(size: int) -> Views:
    """A strong view, segments in another order and noise of 0.8, and a weak one, a factor for each channel: TS-TCC.

    Source: Eldele et al. 2021, arXiv 2106.14112, its settings for HAR (8 segments). Deviation: its factors are
    2 ± 1.1; here 1 ± 0.55, which is the same to a common factor.
    """
    strong = View(crop=WHOLE, permute=1.0, segments=8, jitter=0.8)
    return made(size, strong, View(crop=WHOLE, scale=0.55))


KNOWN = (mixed, weak, crop, jitter, warp, spectral, sensors, ts2vec, tnc, tstcc)
RECIPES: dict[str, Callable[[int], Views]] = {known.__name__: known for known in KNOWN}
AUTO = "mixed"


def recipes() -> list[str]:
    """The names that `recipe` knows."""
    return ["auto", *RECIPES]


def recipe(name: str, size: int, stats: Stats) -> Views:
    """The named strengths for views of `size` steps; "auto" is "mixed".

    Data of one channel is never without it (`drop`), so that what is shown is what is done. UserError on unknown names.
    """
    if name not in recipes():
        raise unknown("recipe of views", name, recipes())
    views = RECIPES[AUTO if name == "auto" else name](size)
    if stats.channels > 1:
        return views
    return views.changed(**{key: getattr(views, key).changed(drop=0.0) for key in ("one", "two", "part")})


def part_steps(size: int) -> int:
    """Two fifths of a view, which hold the longest part; at least LEAST."""
    return min(size, max(LEAST, -(-size * 2 // 5)))
