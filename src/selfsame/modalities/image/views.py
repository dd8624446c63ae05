"""Views of images: how strong they are, the worker half (cut and resize), the device half (all the rest).

Sources: BYOL, Grill et al. 2020, arXiv 2006.07733, appendix B ("photo"); solo-learn's asymmetric CIFAR recipe
("small"); SwAV, Caron et al. 2020, arXiv 2006.09882, and DINO, 2021, arXiv 2104.14294 (part views).
Raises UserError on an unknown recipe, UnreadableItem where an item cannot be read.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from pydantic import AfterValidator, Field
from torch import Tensor

from selfsame.errors import unknown
from selfsame.modalities.image import graph, kernel, steps
from selfsame.modalities.image.measure import Stats
from selfsame.records import Record, ViewPlan
from selfsame.types import Draws

__all__ = ["View", "Views", "make_views", "recipe", "recipes", "sample"]

SMALL = 64  # pixels: up to this side "auto" is "small", and a plain view is the whole short side
WHOLE = 224 / 256  # share of the short side that a plain view of a larger size keeps
CUTOUT_RATIO = (0.3, 3.3)  # width / height of the patch cut out; Zhong et al. 2017, arXiv 1708.04896
BATCHED = 80  # pixels: items of an array are cut all at once up to this side; above it Pillow, one by one, is quicker
CHUNK = 64  # rows resized at a time, so that they stay in the cache


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the range {ends[0]:g} to {ends[1]:g} is empty: give the smaller number first")
    return ends


Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Degrees = Annotated[float, Field(ge=-180, le=180)]
Pixels = Annotated[int, Field(ge=1, le=15)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]


class View(Record):
    """Strengths of one pipeline, in the order of its steps. Probabilities and shares are in [0, 1]."""

    area: Shares = (0.08, 1.0)
    """share of the image kept by the crop, uniform"""
    ratio: Range = (3 / 4, 4 / 3)
    """width / height of the crop, log-uniform"""
    flip: Probability = 0.5
    """probability of a mirror image"""
    vertical_flip: Probability = 0.0
    """probability of turning it upside down"""
    rotate: Probability = 0.0
    """probability of a rotation"""
    degrees: Annotated[tuple[Degrees, Degrees], AfterValidator(_ordered)] = (-15.0, 15.0)
    """angle of the rotation, counter-clockwise"""
    jitter: Probability = 0.8
    """probability of the four colour changes that follow, in random order"""
    brightness: Annotated[float, Field(ge=0)] = 0.4
    """strength s: the factor is uniform in [max(0, 1 - s), 1 + s]"""
    contrast: Annotated[float, Field(ge=0)] = 0.4
    """strength, as for brightness"""
    saturation: Annotated[float, Field(ge=0)] = 0.2
    """strength, as for brightness; 3 channels only"""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """largest shift in turns, either way; 3 channels only"""
    gray: Probability = 0.2
    """probability of grayscale; 3 channels only"""
    blur: Probability = 1.0
    """probability of a Gaussian blur"""
    sigma: Range = (0.1, 2.0)
    """its standard deviation in pixels of the view"""
    box_blur: Probability = 0.0
    """probability of a mean filter"""
    box_radius: Annotated[tuple[Pixels, Pixels], AfterValidator(_ordered)] = (1, 2)
    """its radius r in pixels of the view; it is 2 r + 1 wide"""
    sharpen: Probability = 0.0
    """probability of an unsharp mask"""
    sharpen_amount: Range = (0.5, 1.5)
    """its strength: the part of the detail under 1 pixel that is added"""
    solarize: Probability = 0.0
    """probability of inverting the values from 0.5 on"""
    cutout: Probability = 0.0
    """probability of setting a patch to one value"""
    cutout_area: Shares = (0.02, 0.2)
    """share of the view that the patch covers, uniform"""
    cutout_value: Probability | None = None
    """the value, 0 black to 1 white; random if not given"""


class Views(Record):
    """Strengths of all views of an image."""

    size: Annotated[int, Field(ge=1)]
    """side of full and plain views in pixels"""
    one: View = View()
    """the first, third, ... full view"""
    two: View = View(blur=0.1, solarize=0.2)
    """the second, fourth, ... full view"""
    part: View = View(area=(0.05, 0.14), blur=0.5)
    """views of a small piece"""
    part_size: Annotated[int, Field(ge=1)] = 96
    """side of part views in pixels"""

    def strengths(self, plan: ViewPlan) -> list[View]:
        """Those of the random views of a plan: full views alternate between one and two, then the parts."""
        return [self.two if k % 2 else self.one for k in range(plan.full)] + [self.part] * plan.part


# Recipes -------------------------------------------------------------------------------------------------------------


def photo(size: int) -> Views:
    """BYOL's two pipelines; part views as SwAV's (area, 96 of 224 px), blurred as DINO's.

    Deviations from BYOL: brightness is a factor, not an offset; contrast pivots on the mean luma, not on each channel's
    mean; the blur reflects at the border, and its kernel is cut at 3 sigma. Hue and clipping: `steps.colour_matrices`.
    """
    return Views(size=size, part_size=part_side(size))


def small(size: int) -> Views:
    """solo-learn's for CIFAR: BYOL's without blur. The area of part views is ours: SwAV's would be 7 pixels wide."""
    return Views(
        size=size,
        one=View(blur=0.0),
        two=View(blur=0.0, solarize=0.2),
        part=View(area=(0.1, 0.3), blur=0.0),
        part_size=part_side(size),
    )


def weak(size: int) -> Views:
    """Crop and mirror image only."""
    full = View(jitter=0.0, gray=0.0, blur=0.0)
    return Views(size=size, one=full, two=full, part=full.changed(area=(0.05, 0.14)), part_size=part_side(size))


RECIPES: dict[str, Callable[[int], Views]] = {"photo": photo, "small": small, "weak": weak}


def recipes() -> list[str]:
    """The names that `recipe` knows."""
    return ["auto", *RECIPES]


def recipe(name: str, size: int, stats: Stats) -> Views:
    """The named strengths for views of `size` pixels; "auto" is "photo" above 64 pixels, else "small".

    Data of other than 3 channels gets no saturation, hue and grayscale, so that what is shown is what is done.
    Raises UserError on unknown names.
    """
    if name not in recipes():
        raise unknown("recipe of views", name, recipes())
    if name == "auto":
        name = "photo" if size > SMALL else "small"
    views = RECIPES[name](size)
    if stats.channels == 3:
        return views
    plain = {key: getattr(views, key).changed(saturation=0.0, hue=0.0, gray=0.0) for key in ("one", "two", "part")}
    return views.changed(**plain)


def part_side(size: int) -> int:
    """96 pixels for 224, in proportion, as a whole number of 16-pixel patches; never more than `size`."""
    return min(size, max(16, round(size * 96 / 224 / 16) * 16))


# Worker half ---------------------------------------------------------------------------------------------------------


def sample(
    source: Any, items: Sequence[int], plan: ViewPlan, views: Views, draws: Draws
) -> list[Integer[Tensor, "b c s s"]]:
    """Cut the views of the items: crops at random places, and plain views.

    Args:
        source: an ImageSource, or what stands for one. Where it has `attempt(i, read)`, items are read through it.
        items: their numbers, one for each row of `draws`.
        draws: each random view takes one `uniform(4)`: area, aspect, top, left.

    Returns stored values, uint8, or int32 for 16-bit data; a tensor a view in the order full, part, plain.
    They may lie channels last in memory. Raises UnreadableItem.
    """
    kinds = views.strengths(plan)
    numbers = [draws.uniform(4).numpy() for _ in kinds]
    sides = [views.size] * plan.full + [views.part_size] * plan.part + [views.size] * plan.plain

    def boxes(rows: slice, height: int, width: int) -> list[Int[np.ndarray, "b 4"]]:
        crops = [
            steps.crop_boxes(uniform[rows], height, width, kind.area, kind.ratio)
            for kind, uniform in zip(kinds, numbers, strict=True)
        ]
        return crops + [
            plain_box(height, width, views.size).repeat(len(items[rows]), axis=0) for _ in range(plan.plain)
        ]

    if source.array is not None and max(source.array.shape[1:3]) <= BATCHED:
        form = getattr(source, "form", None)
        return cut_array(source.array, items, boxes, sides, form.white if form else None)
    return cut_each(source, items, boxes, sides)


Boxes = Callable[[slice, int, int], list[Int[np.ndarray, "b 4"]]]  # of some rows and an image size: one a view


def plain_box(height: int, width: int, size: int) -> Int[np.ndarray, "1 4"]:
    """The middle square: 224/256 of the short side, or all of it for small views and images that have the size."""
    short = min(height, width)
    side = short if size <= SMALL or height == width == size else max(1, round(short * WHOLE))
    return np.array([[(height - side) // 2, (width - side) // 2, side, side]])


def cut_array(
    array: np.ndarray, items: Sequence[int], boxes: Boxes, sides: list[int], white: int | None = None
) -> list[Integer[Tensor, "b c s s"]]:
    """All rows at once, of an array [n h w c]; values above white, the largest of the type unless given, become it."""
    stored = array[np.asarray(items, dtype=np.int64)]
    deep = stored.dtype != np.uint8
    count, height, width, channels = stored.shape
    if kernel.cuts(stored):
        rows = np.arange(count)[:, None]
        pairs = zip(boxes(slice(0, count), height, width), sides, strict=True)
        return [channels_first(np.asarray(kernel.cut(stored, np.hstack([rows, box]), side))) for box, side in pairs]
    pixels_of = torch.from_numpy(stored.astype(np.int32) if deep else stored).permute(0, 3, 1, 2)
    made = [torch.empty(count, channels, side, side, dtype=pixels_of.dtype) for side in sides]
    for start in range(0, count, CHUNK):
        these = slice(start, start + CHUNK)
        pixels = pixels_of[these].to(torch.float32, memory_format=torch.contiguous_format)
        for out, box, side in zip(made, boxes(these, height, width), sides, strict=True):
            resized = steps.resized(pixels, torch.from_numpy(box), side)
            out[these] = resized.round_().clamp_(0, white or (65535 if deep else 255))
    return made


def cut_each(source: Any, items: Sequence[int], boxes: Boxes, sides: list[int]) -> list[Integer[Tensor, "b c s s"]]:
    """One item after the other, each decoded once for every size of view."""

    made: list[np.ndarray] = []

    def cut(item: int, row: int) -> None:
        picture = source.open(item)
        if not made:
            channels, kind = picture.form.channels, np.uint8 if picture.form.bits == 8 else np.uint16
            made.extend(np.empty((len(items), side, side, channels), kind) for side in sides)
        wanted = [tuple(box[0].tolist()) for box in boxes(slice(row, row + 1), *picture.size)]
        for side in set(sides):
            of_side = [k for k, one in enumerate(sides) if one == side]
            picture.cut([wanted[k] for k in of_side], side, [made[k][row] for k in of_side])

    source.fetch(items)
    attempt = getattr(source, "attempt", None)
    for row, item in enumerate(items):
        read = functools.partial(cut, row=row)
        attempt(item, read) if attempt else read(item)
    return [channels_first(view) for view in made]


def channels_first(pixels: np.ndarray) -> Integer[Tensor, "b c s s"]:
    """[b s s c] as [b c s s] without a copy; 16 bits travel as int32, since torch's uint16 can hardly do anything."""
    return torch.from_numpy(pixels.astype(np.int32) if pixels.dtype == np.uint16 else pixels).permute(0, 3, 1, 2)


# Device half ---------------------------------------------------------------------------------------------------------

COLUMNS = (
    *("flip", "vertical_flip", "rotate", "degrees"),
    *("jitter", "brightness", "contrast", "saturation", "hue", "first", "second", "third", "fourth", "gray"),
    *("blur", "sigma", "box_blur", "box_radius", "sharpen", "sharpen_amount", "solarize"),
    *("cutout", "cutout_area", "cutout_aspect", "cutout_top", "cutout_left", "cutout_value"),
)
"""What each of the numbers drawn for a row is for. All are drawn whatever is used, so that a step switched off or on
leaves the other steps as they were. The order of the colour changes is that of "first" to "fourth" by size."""

RARE = ("rotate", "box_blur", "sharpen", "cutout")  # steps that the compiled kernel lacks


def make_views(
    samples: list[Integer[Tensor, "b c s s"]], plan: ViewPlan, views: Views, stats: Stats, draws: Draws
) -> list[Float[Tensor, "b c s s"]]:
    """Transform what `sample` has cut, on the device it is on: float32 in [0, 1], not normalised.

    Args:
        samples: stored values, in the order full, part, plain.
        stats: its `white` is the stored value that becomes 1.
        draws: each random view takes one `uniform(len(COLUMNS))`.

    Which rows a step is for, and how much of it, is known on the CPU: the device is never waited for. On a GPU each
    pipeline is one compiled graph. Plain views are only scaled.
    """
    kinds = views.strengths(plan)
    drawn = [dict(zip(COLUMNS, draws.uniform(len(COLUMNS)).unbind(1), strict=True)) for _ in kinds]
    random = list(zip(samples, kinds, drawn, strict=False))
    made = None
    if random and graph.wanted(samples[0].device):
        made = graph.attempted(lambda: in_graphs(random, stats.white))
    if made is None:
        made = [one_by_one(pixels, kind, numbers, stats.white) for pixels, kind, numbers in random]
    return made + [scaled(pixels, stats.white) for pixels in samples[len(kinds) :]]


def in_graphs(
    random: Sequence[tuple[Integer[Tensor, "b c s s"], View, dict[str, Tensor]]], white: int
) -> list[Float[Tensor, "b c s s"]]:
    """The views as compiled graphs make them, from one transfer of all that is known of their rows."""
    known = [chosen(kind, drawn, *pixels.shape[1:3]) for pixels, kind, drawn in random]
    tables = [torch.cat([part.reshape(len(part), -1).float() for part in numbers.values()], dim=1) for numbers in known]
    tables = graph.moved(tables, random[0][0].device)
    made = []
    for (pixels, kind, _), numbers, table in zip(random, known, tables, strict=True):
        shapes = tuple((name, tuple(part.shape[1:])) for name, part in numbers.items())
        made.append(graph_of(kind, tuple(pixels.shape[1:]), shapes, white)(pixels, table))
    return made


@functools.cache
def graph_of(
    view: View, shape: tuple[int, ...], shapes: tuple[tuple[str, tuple[int, ...]], ...], white: int
) -> Callable[..., Tensor]:
    """`transformed` of stored values [b *shape] for these strengths, compiled: (pixels, table of numbers) -> view.

    All rows go through every step that there is, and keep what came of it where the step is for them: shapes are then
    the same whatever was drawn.
    """
    names, sizes = [name for name, _ in shapes], [math.prod(shape) for _, shape in shapes]

    def make(pixels: Tensor, table: Tensor) -> Tensor:
        parts = zip(table.split(sizes, dim=1), shapes, strict=True)
        number = dict(zip(names, (part.reshape(-1, *shape) for part, (_, shape) in parts), strict=True))

        def only(name: str, x: Tensor, step: Callable[..., Tensor], *given: str) -> Tensor:
            if not getattr(view, name):
                return x
            return torch.where(number[name][:, None, None, None] > 0, step(x, *(number[one] for one in given)), x)

        x = pipeline(scaled(pixels, white), view, number, only)
        return x.contiguous(memory_format=torch.channels_last)

    return graph.compiled(make)


def one_by_one(
    pixels: Integer[Tensor, "b c s s"], kind: View, drawn: dict[str, Tensor], white: int
) -> Float[Tensor, "b c s s"]:
    """A view without torch's compiler: by the compiled kernel where that can, else each step on the rows it is for."""
    fused = kernel.finishes(pixels, white) and not any(getattr(kind, name) for name in RARE)
    return at_once(pixels, kind, drawn) if fused else transformed(scaled(pixels, white), kind, drawn)


def scaled(pixels: Integer[Tensor, "b c s s"], white: int) -> Float[Tensor, "b c s s"]:
    """Stored values as floats in [0, 1], where `white` and all above it is 1. Always a new tensor."""
    return pixels.to(torch.float32, memory_format=torch.contiguous_format, copy=True).div_(white).clamp_(max=1)


def at_once(pixels: Integer[Tensor, "b c s s"], view: View, drawn: dict[str, Tensor]) -> Float[Tensor, "b c s s"]:
    """`transformed` of stored values in one pass, for pipelines of flips, colour, Gaussian blur and solarisation."""
    number = chosen(view, drawn, *pixels.shape[1:3])
    taps = number["taps"]
    taps = torch.where(number["blur"][:, None], taps, steps.box_taps(torch.zeros(1).long(), taps.shape[1] // 2))
    does = torch.stack([number["flip"], number["vertical_flip"], number["solarize"]], dim=1)
    return kernel.finish(pixels, number["on_pixel"], number["on_mean"], does, taps)


def transformed(x: Float[Tensor, "b c s s"], view: View, drawn: dict[str, Tensor]) -> Float[Tensor, "b c s s"]:
    """One pipeline, each step done to the rows it is for alone, in place. Overwrites x."""
    known = chosen(view, drawn, *x.shape[1:3])
    number = dict(zip(known, graph.moved([part.float() for part in known.values()], x.device), strict=True))
    rows = {name: part.nonzero()[:, 0] for name, part in known.items() if part.dtype == torch.bool}
    places = dict(zip(rows, graph.moved(list(rows.values()), x.device), strict=True))

    def only(name: str, x: Tensor, step: Callable[..., Tensor], *given: str) -> Tensor:
        here = places.get(name)
        if here is None or not len(here):
            return x
        if len(here) == len(x):
            return step(x, *(number[one] for one in given))
        return x.index_copy_(0, here, step(x.index_select(0, here), *(number[one][here] for one in given)))

    return pipeline(x, view, number, only)


def pipeline(
    x: Float[Tensor, "b c s s"], view: View, number: dict[str, Tensor], only: Callable[..., Tensor]
) -> Float[Tensor, "b c s s"]:
    """Flips, rotation, colour jitter and grayscale, filters, solarisation, cut-out.

    Args:
        number: what `chosen` gives, on the device of x.
        only: `only(name, x, step, *names)` is x with the step done to the rows that `number[name]` is true for; the
            step takes x and the numbers of the other names.
    """
    x = only("flip", x, lambda rows: rows.flip(3))
    x = only("vertical_flip", x, lambda rows: rows.flip(2))
    x = only("rotate", x, steps.rotated, "degrees")
    if view.jitter or view.gray:
        x = steps.recolour(x, number["on_pixel"], number["on_mean"])
    x = only("blur", x, steps.smoothed, "taps")
    x = only("box_blur", x, steps.smoothed, "box_taps")
    x = only("sharpen", x, steps.sharpened, "amount")
    x = only("solarize", x, steps.solarized)
    x = only("cutout", x, steps.cut_out, "box", "value")
    return x.clamp_(0, 1)


def chosen(view: View, drawn: dict[str, Tensor], channels: int, side: int) -> dict[str, Tensor]:
    """What is known of each row before it is looked at, by name [b ...]: which steps are for it, how much of each."""

    def within(name: str) -> Float[Tensor, "b"]:
        return steps.between(drawn[name], getattr(view, name))

    known = {name: drawn[name] < getattr(view, name) for name in ("flip", "vertical_flip", "blur", "solarize")}
    jitter, gray = drawn["jitter"] < view.jitter, (drawn["gray"] < view.gray) & (channels == 3)
    matrices = steps.colour_matrices(channels, **jittered(view, drawn, jitter), gray=gray)
    known |= {"on_pixel": matrices[0], "on_mean": matrices[1], "taps": blur_taps(within("sigma"), view, side)}
    rare = {name: drawn[name] < getattr(view, name) for name in RARE if getattr(view, name)}
    if "rotate" in rare:
        rare["degrees"] = within("degrees")
    if "box_blur" in rare:
        low, high = view.box_radius
        radius = min(high, side - 1)
        reach = steps.between(drawn["box_radius"], (low, high + 1)).long().clamp(max=radius)
        rare["box_taps"] = steps.box_taps(reach, radius)
    if "sharpen" in rare:
        rare["amount"] = within("sharpen_amount")
    if "cutout" in rare:
        place = torch.stack([drawn[f"cutout_{name}"] for name in ("area", "aspect", "top", "left")], dim=1)
        rare["box"] = torch.from_numpy(steps.crop_boxes(place.numpy(), side, side, view.cutout_area, CUTOUT_RATIO))
        value = drawn["cutout_value"]
        rare["value"] = value if view.cutout_value is None else torch.full_like(value, view.cutout_value)
    return known | rare


def blur_taps(sigma: Float[Tensor, "b"], view: View, side: int) -> Float[Tensor, "b k"]:
    """BYOL's kernel is a tenth of the view wide; past 3 sigma its taps weigh nothing and cost as much."""
    return steps.gaussian_taps(sigma, min(max(1, side // 20), math.ceil(3 * view.sigma[1]), side - 1))


def jittered(view: View, drawn: dict[str, Tensor], rows: Bool[Tensor, "b"]) -> dict[str, Tensor]:
    """The order, the factors and the hue for `steps.colour_matrices`; no change where not in `rows`."""

    def factor(name: str) -> Float[Tensor, "b"]:
        strength = getattr(view, name)
        return torch.where(rows, steps.between(drawn[name], (max(0.0, 1 - strength), 1 + strength)), 1.0)

    return {
        "order": torch.stack([drawn[place] for place in ("first", "second", "third", "fourth")], dim=1).argsort(dim=1),
        **{name: factor(name) for name in ("brightness", "contrast", "saturation")},
        "hue": torch.where(rows, steps.between(drawn["hue"], (-view.hue, view.hue)), 0.0),
    }
