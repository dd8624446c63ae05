"""Views of images, made: the worker half (cut and resize), the device half (all the rest). `recipes` says how strong.

Raises UnreadableItem where an item cannot be read.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from selfsame.errors import UserError
from selfsame.modalities.image import graph, kernel, saliency, steps
from selfsame.modalities.image.recipes import SMALL, View, Views
from selfsame.modalities.image.stats import Stats
from selfsame.records import ViewPlan
from selfsame.types import Draws

__all__ = ["make_views", "sample"]

WHOLE = 224 / 256  # share of the short side that a plain view of a larger size keeps
CUTOUT_RATIO = (0.3, 3.3)  # width / height of the patch cut out; Zhong et al. 2017, arXiv 1708.04896
BATCHED = 80  # pixels: items of an array are cut all at once up to this side; above it Pillow, one by one, is quicker
CHUNK = 64  # rows resized at a time, so that they stay in the cache

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
    if plan.part and views.part_size > views.size:
        raise UserError(
            f"part views of {views.part_size} px are larger than the full views of {views.size} px. Lower "
            "--views.part-size, or raise --size."
        )
    kinds = views.strengths(plan)
    numbers = [draws.uniform(4).numpy() for _ in kinds]
    sides = [views.size] * plan.full + [views.part_size] * plan.part + [views.size] * plan.plain

    def boxes(rows: slice, height: int, width: int) -> list[Int[np.ndarray, "b 4"]]:
        crops = [
            steps.crop_boxes(uniform[rows], height, width, kind.area, kind.ratio)
            for kind, uniform in zip(kinds, numbers, strict=True)
        ]
        if views.overlap:
            full = [steps.brought_together(crops[0], crop, views.overlap) for crop in crops[1 : plan.full]]
            crops[1 : plan.full] = full
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
LATER = ("background", "background_gray")
"""The same for steps that came later: drawn after those of all views, and only where a view has such a step, so that
runs without them see what they always saw."""

RARE = ("rotate", "box_blur", "sharpen", "cutout")  # steps that the compiled kernel lacks


def make_views(
    samples: list[Integer[Tensor, "b c s s"]], plan: ViewPlan, views: Views, stats: Stats, draws: Draws
) -> list[Float[Tensor, "b c s s"]]:
    """Transform what `sample` has cut, on the device it is on: float32 in [0, 1], not normalised.

    Args:
        samples: stored values, in the order full, part, plain.
        stats: its `white` is the stored value that becomes 1.
        draws: each random view takes one `uniform(len(COLUMNS))`; after them, where any has such a step, each one
            `uniform(len(LATER))`.

    Which rows a step is for, and how much of it, is known on the CPU: the device is never waited for. On a GPU all rows
    go through every step, and each pipeline may be one compiled graph. Plain views are only scaled.
    """
    kinds = views.strengths(plan)
    numbers = [dict(zip(COLUMNS, draws.uniform(len(COLUMNS)).unbind(1), strict=True)) for _ in kinds]
    if any(kind.background for kind in kinds):
        for drawn in numbers:
            drawn.update(zip(LATER, draws.uniform(len(LATER)).unbind(1), strict=True))
    random = list(zip(samples, kinds, numbers, strict=False))
    made = None
    if random and graph.wanted(samples[0].device):
        made = graph.attempted(lambda: by_masks(random, stats.white, graph_of))
    if random and made is None and samples[0].is_cuda:
        made = by_masks(random, stats.white, masked)
    if made is None:
        made = [one_by_one(pixels, kind, drawn, stats.white) for pixels, kind, drawn in random]
    return made + [scaled(pixels, stats.white) for pixels in samples[len(kinds) :]]


def by_masks(
    random: Sequence[tuple[Integer[Tensor, "b c s s"], View, dict[str, Tensor]]],
    white: int,
    way: Callable[..., Callable[..., Tensor]],
) -> list[Float[Tensor, "b c s s"]]:
    """The views as `masked` or `graph_of` make them, from one transfer of all that is known of their rows."""
    # A background is found in hundreds of small steps, which would take minutes to compile: it is replaced before.
    ready = [
        (regrounded(scaled(pixels, white), kind, drawn), kind.changed(background=0.0), 1)
        if kind.background
        else (pixels, kind, white)
        for pixels, kind, drawn in random
    ]
    with graph.one_thread():
        known = [chosen(kind, drawn, *pixels.shape[1:3]) for pixels, kind, drawn in random]
        tables = [
            torch.cat([part.reshape(len(part), -1).float() for part in numbers.values()], dim=1) for numbers in known
        ]
    tables = graph.moved(tables, random[0][0].device)
    made = []
    for (pixels, kind, white), numbers, table in zip(ready, known, tables, strict=True):
        shapes = tuple((name, tuple(part.shape[1:])) for name, part in numbers.items())
        made.append(way(kind, tuple(pixels.shape[1:]), shapes, white)(pixels, table))
    return made


@functools.cache
def graph_of(
    view: View, shape: tuple[int, ...], shapes: tuple[tuple[str, tuple[int, ...]], ...], white: int
) -> Callable[..., Tensor]:
    """`masked`, compiled."""
    return graph.compiled(masked(view, shape, shapes, white))


def masked(
    view: View, shape: tuple[int, ...], shapes: tuple[tuple[str, tuple[int, ...]], ...], white: int
) -> Callable[..., Tensor]:
    """`transformed` of stored values [b *shape] for these strengths: (pixels, table of numbers) -> view.

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

    return make


def one_by_one(
    pixels: Integer[Tensor, "b c s s"], kind: View, drawn: dict[str, Tensor], white: int
) -> Float[Tensor, "b c s s"]:
    """A view without torch's compiler: by the compiled kernel where that can, else each step on the rows it is for."""
    fused = kernel.finishes(pixels, white) and not any(getattr(kind, name) for name in (*RARE, "background"))
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
    """One pipeline: the background, and then each step done to the rows it is for alone, in place. Overwrites x."""
    x = regrounded(x, view, drawn) if view.background else x
    known = chosen(view, drawn, *x.shape[1:3])
    number = dict(zip(known, graph.moved([part.float() for part in known.values()], x.device), strict=True))
    rows = {name: part.nonzero()[:, 0] for name, part in known.items() if part.dtype == torch.bool}
    places = dict(zip(rows, graph.moved(list(rows.values()), x.device), strict=True))

    def only(name: str, x: Tensor, step: Callable[..., Tensor], *given: str) -> Tensor:
        return on_rows(x, places[name], step, *(number[one] for one in given)) if name in places else x

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


def regrounded(x: Float[Tensor, "b c s s"], view: View, drawn: dict[str, Tensor]) -> Float[Tensor, "b c s s"]:
    """Some rows, what stands out of them left as it is and all about it replaced. May overwrite x.

    Source: Ryali et al. 2021, arXiv 2103.12719, BG_RM ("gray") and BG_Random ("other"), with the masks of `saliency`
    in place of a trained network's, and of the crop itself. The other item is the one before in the micro-batch, its
    object filled with the colours about it: with "other" what is seen depends on how a batch is divided.
    """

    def on_gray(chosen: Tensor, value: Tensor) -> Tensor:
        return torch.where(saliency.mask_of(chosen)[:, None], chosen, value[:, None, None, None])

    def on_other(chosen: Tensor, before: Tensor) -> Tensor:
        other = x.index_select(0, before)
        ground = saliency.background_of(other, saliency.mask_of(other))
        return torch.where(saliency.mask_of(chosen)[:, None], chosen, ground)

    here = graph.moved([(drawn["background"] < view.background).nonzero()[:, 0]], x.device)[0]
    if view.background_fill == "gray":
        return on_rows(x, here, on_gray, *graph.moved([drawn["background_gray"]], x.device))
    return on_rows(x, here, on_other, torch.arange(-1, len(x) - 1, device=x.device) % len(x))


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


def on_rows(
    x: Float[Tensor, "b c s s"], here: Int[Tensor, "m"], step: Callable[..., Tensor], *numbers: Tensor
) -> Float[Tensor, "b c s s"]:
    """The step done to the rows `here` only, in place. `numbers` has one for each row of x."""
    if not len(here):
        return x
    if len(here) == len(x):
        return step(x, *numbers)
    return x.index_copy_(0, here, step(x.index_select(0, here), *(number[here] for number in numbers)))
