"""Masks: what class each pixel of a picture is; what their stored values mean, found from the files themselves.

In memory a mask is uint8 [h w]: the number of the class, or IGNORED.

Raises UserError on masks whose values cannot be classes, UnreadableItem for one that is broken or does not fit.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from selfsame.downstream.classlists import MOST, list_of_classes
from selfsame.downstream.maskfiles import Stored, packed, read, unpacked
from selfsame.downstream.pairs import Labels
from selfsame.downstream.task import Facts
from selfsame.engine.watch import say
from selfsame.errors import UnreadableItem, UserError

IGNORED = 255
"""stands in a mask for a pixel that counts for nothing; the stored value that usually says so, too"""
VOID = 0xE0E0C0
"""the colour of what VOC ignores: (224, 224, 192)"""
BLACK_WHITE = ((0, 0, 0), (255, 255, 255))
LOOKED = 5_000  # masks whose values are looked at when they are opened: all, or of more than these as many, evenly
WORDS = frozenset((
    "annotation", "annotations", "gt", "gtfine", "groundtruth", "label", "labelids", "labels", "labeltrainids", "mask",
    "masks", "seg", "segmentation", "segmentationclass", "segmentationclassaug", "segmentations", "target", "targets",
))  # fmt: skip
MASKS = Labels(
    "mask",
    "masks",
    "label",
    WORDS,
    frozenset({".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jpg", ".jpeg"}),
)


class Classes(Facts):
    """The classes of masks, and how they are stored."""

    classes: tuple[str, ...]
    """names, by number"""
    values: tuple[int, ...]
    """stored value of each class; of colours red * 65536 + green * 256 + blue"""
    coded: Literal["values", "colours"] = "values"
    """what the stored values are"""
    ignore: int | None = None
    """stored value of pixels that count for nothing"""
    threshold: int | None = None
    """stored values from here on are the second of two classes, all others the first"""
    colours: tuple[tuple[int, int, int], ...] = ()
    """of each class, to draw it"""
    shares: tuple[float, ...] = ()
    """of each class: its pixels over all that count, in the masks that hold it; 0 for a class that none holds"""

    @property
    def summary(self) -> str:
        if self.threshold is not None:
            return f"2 classes: {self.classes[0]} (below {self.threshold}) and {self.classes[1]} (from there on)"
        shown = [f"{name} ({self.told(value)})" for name, value in zip(self.classes, self.values, strict=True)]
        more = f", ... {shown[-1]}" if len(shown) > 8 else ""
        ignored = "no value" if self.ignore is None else self.told(self.ignore)
        return f"{len(shown)} classes: {', '.join(shown[:8])}{more}; ignored: {ignored}"

    def told(self, value: int) -> str:
        return f"#{value:06x}" if self.coded == "colours" else str(value)


# What the values mean ------------------------------------------------------------------------------------------------


@dataclass
class Look:
    """What is in one mask: pixels by stored value, and by colour."""

    form: str
    palette: tuple[tuple[int, int, int], ...]
    lossy: bool
    values: dict[int, int]
    colours: dict[int, int]


def look(path: str) -> Look | UnreadableItem:
    try:
        mask = read(path)
    except UnreadableItem as error:
        return error
    counted = counts(mask.values)
    colours = counted if mask.form == "colour" else dict(zip(counted, colours_of(mask, counted), strict=True))
    by_colour: Counter[int] = Counter()
    for value, colour in colours.items() if mask.form != "colour" else ((value, value) for value in counted):
        by_colour[colour] += counted[value]
    return Look(mask.form, mask.palette, mask.lossy, counted, dict(by_colour))


def colours_of(mask: Stored, values: Iterable[int]) -> list[int]:
    few = Stored(np.array([list(values)], np.int32), mask.form, mask.palette)
    return few.colours[0].tolist()


def counts(values: np.ndarray) -> dict[int, int]:
    """Pixels by value."""
    if values.size and values.min() >= 0 and values.max() < 65536:
        found = np.bincount(values.ravel())
        return {int(value): int(found[value]) for value in np.nonzero(found)[0]}
    kinds, number = np.unique(values, return_counts=True)
    return dict(zip(kinds.tolist(), number.tolist(), strict=True))


def understood(
    files: Sequence[str],
    folders: Sequence[Path],
    ignore: int | None = None,
    threshold: int | None = None,
    known: Classes | None = None,
) -> tuple[Classes, dict[int, str]]:
    """What the values of masks mean, and which of the masks cannot be read, with the reason.

    `folders` are looked through for a list of classes. Without one the classes are the values found; two values of
    which one is 0 are background and foreground. 255 is ignored where two other values are found beside it. `ignore`
    names another value, -1 for none. `known` are the classes of a head, which masks must fit.
    """
    places = np.linspace(0, len(files) - 1, min(len(files), LOOKED)).round().astype(int).tolist()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without holding Python's lock
        found = dict(zip(places, pool.map(lambda i: look(files[i]), places), strict=True))
    broken = {i: f"its mask {files[i]}: {one}" for i, one in found.items() if isinstance(one, UnreadableItem)}
    looks = {files[i]: one for i, one in found.items() if isinstance(one, Look)}
    if not looks:
        i, reason = next(iter(broken.items()))
        raise UserError(f"none of the {len(files)} masks can be read. The first, {files[i]}: {reason}.")
    coloured = any(one.form == "colour" and any(not is_gray(value) for value in one.values) for one in looks.values())
    tables = {
        file: one.colours if coloured else {grey_of(one, v): n for v, n in one.values.items()}
        for file, one in looks.items()
    }
    if known is not None:
        wanted = known.coded == "colours"
        if wanted != coloured:
            tables = {file: one.colours for file, one in looks.items()} if wanted else tables
        fits = set(known.values) | {known.ignore}
        there = set().union(*tables.values())
        if known.threshold is not None or (there <= fits and not ambiguous(there, known)):
            return known, broken
    lossy = next((file for file, one in looks.items() if one.lossy), None)
    if lossy and threshold is None:
        raise UserError(
            f"{lossy}: a mask in JPEG, which changes values. Save masks as PNG, or, where they are black and white, "
            "divide them with --task.threshold 128."
        )
    here = named(tables, looks, folders, coloured, ignore, threshold)
    if known is not None:
        if here.classes != known.classes:
            raise UserError(
                f"these masks are of other classes than the head was made for. Theirs: {listed(here.classes)}. "
                f"The head's: {listed(known.classes)}. Use masks of its classes, or train a head with selfsame adapt."
            )
        recoded(here, known, there, bool(list_of_classes(folders)[0]))
    return here, broken


def ambiguous(there: set[int], known: Classes) -> bool:
    """Whether what the head's masks ignore stands here where the second of two classes would be: 0 and 255 alone."""
    return len(known.classes) == 2 and known.ignore in there and there == {known.values[0], known.ignore}


def recoded(here: Classes, known: Classes, there: set[int], listed_here: bool) -> None:
    """Say how masks of the head's classes, stored by other values, are read.

    `there` are the values that the masks hold; `listed_here` whether a list of classes tells what they are. Raises
    UserError where a value means one thing here and was another in the masks that the head learned from.
    """
    meant: dict[int | None, str] = {**dict(zip(known.values, known.classes, strict=True)), known.ignore: "ignored"}
    read: dict[int | None, str] = {**dict(zip(here.values, here.classes, strict=True)), here.ignore: "ignored"}
    told = ", ".join(f"{here.told(value)} is {read[value]}" for value in sorted(there & read.keys())[:8])
    were = ", ".join(f"{known.told(value)} was {name}" for value, name in meant.items() if value is not None)
    # Colours and values are numbers of two kinds: only those of the same kind can contradict each other.
    clash = [
        value for value in sorted(there & meant.keys()) if here.coded == known.coded and read[value] != meant[value]
    ]
    if clash and not listed_here:
        raise UserError(
            f"these masks hold other values than those the head learned from, and what they mean cannot be known: "
            f"read by themselves {told}; there {were}. Store them by the same values, or put a classes.json beside "
            'them: [{"id": 0, "name": "background"}, ...].'
        )
    say(f"these masks are stored by other values than those the head learned from ({were}): {told}", "yellow")


def named(
    tables: dict[str, dict[int, int]],
    looks: dict[str, Look],
    folders: Sequence[Path],
    coloured: bool,
    ignore: int | None,
    threshold: int | None,
) -> Classes:
    pixels: Counter[int] = Counter()
    for table in tables.values():
        pixels.update(table)
    entries, source = list_of_classes(folders)
    names = [entry.name for entry in entries]
    if threshold is not None:
        first, second = names if len(names) == 2 else ("background", "foreground")
        cut = {file: folded(table, threshold) for file, table in tables.items()}
        return Classes(
            classes=(first, second),
            values=(0, 255),
            threshold=threshold,
            colours=BLACK_WHITE,
            shares=shares(cut.values(), [0, 255]),
        )
    palette = next((one.palette for one in looks.values() if one.form == "palette"), ())
    void = len(palette) > IGNORED and packed(palette[IGNORED]) == VOID
    usual = VOID if coloured else IGNORED
    left_out: int | None
    if ignore is not None:
        left_out = None if ignore < 0 else ignore
    elif entries and any(entry.value == usual for entry in entries):
        left_out = None
    elif coloured or void or len(entries) > 2:
        left_out = usual
    else:
        left_out = usual if len(set(pixels) - {usual}) >= 2 else None
    values = sorted(set(pixels) - {left_out})
    told = partial(Classes.told, Classes(classes=(), values=(), coded="colours" if coloured else "values"))
    if entries:
        stored = [entry.value for entry in entries]
        if not coloured and stored == [0, 1] and values and set(values) <= {0, IGNORED}:
            stored = [0, IGNORED]
        if coloured:
            if any(entry.colour is None for entry in entries):
                raise UserError(
                    f"{source}: masks hold colours, and this list does not say which colour is which class. Write a "
                    'classes.json as [{"name": "road", "color": [128, 64, 128]}, ...].'
                )
            stored = [packed(entry.colour) for entry in entries]
        odd = [value for value in values if value not in stored]
        if odd:
            file = next(file for file, table in tables.items() if odd[0] in table)
            raise UserError(
                f"{file}: masks hold {listed([told(value) for value in odd])}, which is none of the {len(entries)} "
                f"classes of {source} ({listed([told(value) for value in stored])}). Mend the masks or the list, or "
                "name a value that counts for nothing with --task.ignore."
            )
        chosen = tuple(entry.colour for entry in entries)
    else:
        refuse_odd(tables, pixels, values, coloured)
        stored = values
        binary = not coloured and len(values) == 2 and values[0] == 0
        names = ["background", "foreground"] if binary else [told(value) for value in values]
        chosen = (None,) * len(values)
    default = BLACK_WHITE if stored == [0, IGNORED] else drawn(len(stored))
    colours = tuple(
        unpacked(value) if coloured else given or (palette[value] if value < len(palette) else default[k])
        for k, (value, given) in enumerate(zip(stored, chosen, strict=True))
    )
    return Classes(
        classes=tuple(names),
        values=tuple(stored),
        coded="colours" if coloured else "values",
        ignore=left_out,
        colours=colours,
        shares=shares(tables.values(), stored),
    )


def refuse_odd(tables: dict[str, dict[int, int]], pixels: Counter[int], values: Sequence[int], coloured: bool) -> None:
    """Raise UserError where values can hardly be classes."""
    file = max(tables, key=lambda file: len(tables[file]))
    if len(values) < 2:
        shown = f"only the value {values[0]}" if values else "nothing but what is ignored"
        raise UserError(f"{file}: the masks hold {shown}: there is nothing to tell apart. Look at the masks.")
    if values[0] < 0:
        raise UserError(f"{file}: masks hold negative values, as {values[0]}; classes are numbered from 0.")
    ends = pixels[0] + pixels[0xFFFFFF if coloured else 255]
    blurred = len(values) > 8 and ends > 0.9 * pixels.total()
    if len(values) > MOST or blurred:
        kind = "colours" if coloured else "values"
        cause = (
            "nearly all pixels are black or white: borders seem to be smoothed. Divide them with --task.threshold 128, "
            if blurred
            else "these seem to be no classes, but numbers of instances, depth or a photo. Give masks of classes, "
        )
        raise UserError(
            f"{file}: the masks hold {len(values):,} different {kind}; {cause}or list the classes in a classes.txt."
        )


def shares(tables: Iterable[dict[int, int]], values: Sequence[int]) -> tuple[float, ...]:
    mine, all_there = Counter[int](), Counter[int]()
    for table in tables:
        total = sum(table.get(value, 0) for value in values)
        for value in values:
            if table.get(value):
                mine[value] += table[value]
                all_there[value] += total
    return tuple(mine[value] / all_there[value] if mine[value] else 0.0 for value in values)


def folded(table: dict[int, int], threshold: int) -> dict[int, int]:
    return {
        0: sum(number for value, number in table.items() if value < threshold),
        255: sum(number for value, number in table.items() if value >= threshold),
    }


def is_gray(value: int) -> bool:
    return len(set(unpacked(value))) == 1


def grey_of(one: Look, value: int) -> int:
    """The value of a mask of gray colours, stored with three channels."""
    return value & 255 if one.form == "colour" else value


def listed(words: Sequence[str]) -> str:
    return ", ".join(words[:8]) + (f", ... ({len(words)} in all)" if len(words) > 8 else "")


def drawn(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours of classes as VOC's development kit has them: black, dark red, green, olive, ..."""
    found = []
    for number in range(count):
        colour, rest = [0, 0, 0], number
        for shift in range(7, -1, -1):
            for channel in range(3):
                colour[channel] |= (rest >> channel & 1) << shift
            rest >>= 3
        found.append((colour[0], colour[1], colour[2]))
    return tuple(found)


# Classes and stored values -------------------------------------------------------------------------------------------


def numbered(mask: Stored, facts: Classes) -> UInt8[np.ndarray, "h w"]:
    """The numbers of the classes. Raises UnreadableItem for a value that is none of them."""
    if facts.coded == "colours":
        values = mask.colours
    else:
        values = mask.values & 255 if mask.form == "colour" else mask.values
    if facts.threshold is not None:
        return (values >= facts.threshold).astype(np.uint8)
    pairs = [*enumerate(facts.values), *([] if facts.ignore is None else [(IGNORED, facts.ignore)])]
    order = sorted(pairs, key=lambda pair: pair[1])
    keys = np.array([value for _, value in order])
    numbers = np.array([number for number, _ in order], np.uint8)
    place = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    if (odd := keys[place] != values).any():
        unknown = [facts.told(value) for value in np.unique(values[odd]).tolist()]
        raise UnreadableItem(f"holds {listed(unknown)}, which is none of the classes")
    return numbers[place]


def as_image(prediction: UInt8[np.ndarray, "h w"], facts: Classes) -> Image.Image:
    """Numbers of classes in the coding that the masks had: grey or palette values, 16-bit values, or colours."""
    values = np.array(facts.values)[prediction]
    if facts.coded == "colours":
        return Image.fromarray(
            np.stack([values >> 16 & 255, values >> 8 & 255, values & 255], axis=-1).astype(np.uint8)
        )
    if max(facts.values) > 255:
        return Image.fromarray(values.astype(np.uint16))
    image = Image.fromarray(values.astype(np.uint8))
    if facts.values != (0, 255):  # black and white as it is; others would look black
        table = list(drawn(256))
        for value, colour in zip(facts.values, facts.colours, strict=True):
            table[value] = colour
        image.putpalette([channel for colour in table for channel in colour])
    return image
