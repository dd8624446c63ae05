"""Masks as they lie on disk: grey values of 8 or 16 bits, palette indices (as VOC's SegmentationClass) or RGB colours.

In PNG, TIFF, BMP, GIF or WebP; what the values mean: masks.py. Raises UnreadableItem for a file that is broken.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32
from PIL import Image, ImageOps

from selfsame.errors import UnreadableItem, missing
from selfsame.modalities.image.decode import TIFF_STARTS, readable


@dataclass(frozen=True)
class Stored:
    """A mask as it lies on disk."""

    values: Int32[np.ndarray, "h w"]
    """grey values, palette indices, or colours as red * 65536 + green * 256 + blue"""
    form: Literal["grey", "palette", "colour"]
    palette: tuple[tuple[int, int, int], ...] = ()
    lossy: bool = False

    @property
    def colours(self) -> Int32[np.ndarray, "h w"]:
        if self.form == "colour":
            return self.values
        if self.form == "palette":
            table = np.zeros(256, np.int32)
            table[: len(self.palette)] = [packed(colour) for colour in self.palette]
            return table[self.values]
        return self.values.clip(max=255) * 0x010101


def read(path: str) -> Stored:
    """Raises UnreadableItem."""
    with readable():
        with Path(path).open("rb") as file:
            tiff = file.read(4) in TIFF_STARTS
        if tiff and (values := deep_tiff(path)) is not None:
            return Stored(values, "grey")
        with Image.open(path) as opened:
            lossy = opened.format == "JPEG"
            image = ImageOps.exif_transpose(opened)
            if image.mode == "P":
                table = (image.getpalette("RGB") or [])[:768]
                palette = tuple(zip(table[::3], table[1::3], table[2::3], strict=True))
                return Stored(np.asarray(image).astype(np.int32), "palette", palette)
            if image.mode in ("1", "L") or image.mode.startswith(("I", "LA", "La")):
                values = np.asarray(image)
                return Stored((values if values.ndim == 2 else values[..., 0]).astype(np.int32), "grey", (), lossy)
            if image.mode == "F":
                return Stored(whole(np.asarray(image)), "grey")
            return Stored(packed(np.asarray(image.convert("RGB"))), "colour", (), lossy)


def size_of(path: str) -> tuple[int, int]:
    """Height and width, upright, from the header. Raises UnreadableItem."""
    with readable():
        try:
            with Image.open(path) as image:
                turned = image.getexif().get(0x0112, 1) >= 5
                return (image.width, image.height) if turned else (image.height, image.width)
        except Image.UnidentifiedImageError:
            height, width = read(path).values.shape
            return height, width


def deep_tiff(path: str) -> Int32[np.ndarray, "h w"] | None:
    """A TIFF that Pillow does not read; None for one that it does."""
    try:
        with Image.open(path):
            return None
    except Image.UnidentifiedImageError:
        try:
            import tifffile
        except ImportError:
            raise missing("tiff", "tifffile", f"{path}, a TIFF that Pillow does not read,") from None
        values = np.squeeze(tifffile.imread(path))
        if values.ndim != 2:
            raise UnreadableItem(f"a TIFF of shape {list(values.shape)}; a mask is one plane") from None
        return whole(values)


def whole(values: np.ndarray) -> Int32[np.ndarray, "h w"]:
    rounded = np.nan_to_num(values, nan=-1).astype(np.int64)
    if not np.array_equal(rounded, values):
        raise UnreadableItem("holds numbers that are not whole; classes are whole numbers")
    return rounded.astype(np.int32)


def packed(colour: Any) -> Any:
    """red * 65536 + green * 256 + blue, of one colour or of an array [h w 3]."""
    values = np.asarray(colour).astype(np.int32)
    return values[..., 0] * 65536 + values[..., 1] * 256 + values[..., 2]


def unpacked(value: int) -> tuple[int, int, int]:
    return value >> 16 & 255, value >> 8 & 255, value & 255
