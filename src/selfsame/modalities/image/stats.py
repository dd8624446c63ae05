"""What the data are: channels, depth, sizes, mean and standard deviation, and the items that cannot be read.

Every header is opened; pixels are counted on a seeded sample. Raises UserError where the items do not go together.
"""

import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from selfsame.errors import UserError
from selfsame.modalities.image.decode import Form, Header
from selfsame.records import Record
from selfsame.storage.attempts import attempted

if TYPE_CHECKING:
    from selfsame.modalities.image.source import ImageSource

__all__ = ["Stats", "measure"]

SIDE = 512  # pixels: photos much larger than what encoders see are counted at a reduced scale, which is quicker


class Stats(Record):
    """What is measured from the images and saved with the encoder."""

    items: int
    """images that can be read, as far as they were looked at"""
    channels: int
    """1 gray, 3 colour (gray and colour together too), n as stored"""
    bits: int
    """8 or 16; 16 where any image has more than 8"""
    white: int
    """the stored value that is 1.0: 255, or for 16 bits the largest value found, rounded up to 2^k - 1"""
    mean: tuple[float, ...]
    """of each channel over all pixels, on the scale where white is 1"""
    std: tuple[float, ...]
    """the same; 1 for a constant channel, so that dividing by it is safe"""
    height: int
    """median, in pixels"""
    width: int
    """median, in pixels"""
    uniform: bool
    """whether all images have one size"""


@dataclass(frozen=True)
class Sums:
    """Of the pixels of one image, per channel: mean and mean square of the values, and the largest one."""

    weight: int
    deep: bool
    mean: np.ndarray
    square: np.ndarray
    largest: int


def measure(source: "ImageSource", seed: int = 0, most: int | None = None) -> tuple[Stats, dict[int, str]]:
    """Statistics of the images, and the unreadable ones {item: reason}.

    All headers are opened, or of more than `source.looks` items as many, drawn with `seed`; and `most` images
    (`source.counted`) are decoded: damage behind a header is found in these only. JPEGs of more than 1024 pixels a side
    are counted at a reduced scale of at least 512. The sizes that were seen are noted on the source. Raises UserError
    where nothing can be read, or where channel counts other than 1 and 3 are mixed.
    """
    looked = range(len(source)) if len(source) <= source.looks else source.drawn(seed, source.looks)
    known = set(looked) if len(source) > source.looks else looked
    sample = [i for i in source.drawn(seed, most or source.counted) if i in known]
    # Threads share the list of warning filters: while this holds, what each sets and resets is the same.
    threads = min(8, 2 * (os.cpu_count() or 1), source.window if source.blocks is not None else 8)
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=threads) as pool:
        warnings.simplefilter("ignore")
        headers, broken = attempted(pool, source.header, looked, source.blocks)
        form = common_form(source, headers, broken)
        drawn = [i for i in sample if i in headers]
        sums, damaged = attempted(pool, lambda i: count(source, i, form, headers[i]), drawn, source.blocks)
    unreadable = dict(sorted((broken | damaged).items()))
    for item in damaged:
        del headers[item]
    source.note(headers)
    if not sums:
        raise nothing_readable(source, unreadable)
    sizes = np.array([(header.height, header.width) for header in headers.values()])
    height, width = np.median(sizes, axis=0).round().astype(int).tolist()
    white, mean, std = combined(list(sums.values()), form)
    stats = Stats(
        items=len(source) - len(unreadable),
        channels=form.channels,
        bits=form.bits,
        white=white,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        height=height,
        width=width,
        uniform=bool((sizes == sizes[0]).all()),
    )
    return stats, unreadable


def common_form(source: "ImageSource", headers: dict[int, Header], broken: dict[int, str]) -> Form:
    """Channels and bits that all items can be brought to."""
    if not headers:
        raise nothing_readable(source, broken)
    counts = Counter(header.channels for header in headers.values())
    if len(counts) > 1 and set(counts) != {1, 3}:
        shown = ", ".join(f"{number} with {channels}" for channels, number in sorted(counts.items()))
        raise UserError(
            f"{source.path}: images of different channel counts ({shown}). Gray (1) and colour (3) go together; "
            "give the others each a folder of their own."
        )
    deep = any(header.bits == 16 for header in headers.values())
    return Form(max(counts), 16, 65535) if deep else Form(max(counts), 8, 255)


def count(source: "ImageSource", item: int, form: Form, header: Header) -> Sums:
    values = source.open(item, form).pixels(SIDE)
    levels = [np.bincount(values[..., c].ravel()).astype(float) for c in range(form.channels)]
    pixels = values.shape[0] * values.shape[1]
    return Sums(
        weight=header.height * header.width,
        deep=header.bits == 16,
        mean=np.array([level @ np.arange(len(level)) for level in levels]) / pixels,
        square=np.array([level @ np.arange(len(level), dtype=float) ** 2 for level in levels]) / pixels,
        largest=max(len(level) for level in levels) - 1,
    )


def combined(sums: list[Sums], form: Form) -> tuple[int, np.ndarray, np.ndarray]:
    """White, and mean and standard deviation per channel on the scale where white is 1."""
    largest = max((one.largest for one in sums if one.deep), default=0)
    white = 2 ** max(largest.bit_length(), 1) - 1 if largest else form.white
    # 8-bit images among 16-bit ones were spread to 0..form.white, and are to be spread to 0..white.
    unit = np.array([white if one.deep else form.white for one in sums], dtype=float)[:, None]
    weight = np.array([one.weight for one in sums], dtype=float)
    mean = np.average(np.stack([one.mean for one in sums]) / unit, axis=0, weights=weight)
    square = np.average(np.stack([one.square for one in sums]) / unit**2, axis=0, weights=weight)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return white, mean, np.where(std > 1e-6, std, 1.0)


def nothing_readable(source: "ImageSource", unreadable: dict[int, str]) -> UserError:
    item, reason = next(iter(unreadable.items()))
    return UserError(
        f"{source.path}: none of the {len(source)} images can be read. The first, {source.name(item)}: {reason}."
    )
