"""Arrays of images. What all arrays have in common is in `storage.arrays`. Raises UserError on what is none."""

import numpy as np
from jaxtyping import UInt

from selfsame.errors import UserError
from selfsame.storage.arrays import described, label_strings, load_array, npz_key, npz_keys, split_key

__all__ = ["IMAGES", "images_of", "label_strings", "load_array", "npz_key", "npz_keys", "pixels_in", "split_key"]

IMAGES = ("x_train", "x", "images")  # the arrays of an .npz that are taken when none is named, best first

SMALLEST = 8  # pixels of a side below which an array of floats is no array of images


def pixels_in(path: str, key: str | None) -> int:
    """1 where the array may be one of images, by its header alone; 0 for series, of numbers with one or two axes.

    Floats with three axes may be images [n h w] or series [n c t]: images where they are square, for series seldom are.
    """
    shape, dtype = described(path, key, IMAGES)
    if dtype.kind in "bu":
        return int(len(shape) in (3, 4))
    square = len(shape) == 3 and shape[1] == shape[2] >= SMALLEST and dtype.kind == "f"
    return int(len(shape) == 4 or square)


def images_of(values: np.ndarray, shown: str) -> UInt[np.ndarray, "n h w c"]:
    """The array as [n h w c]. Raises UserError where it is no array of images."""
    shape = " x ".join(str(length) for length in values.shape)
    if values.ndim not in (3, 4) or 0 in values.shape or (values.ndim == 3 and values.shape[2] <= 4):
        raise UserError(f"{shown}: an array of {shape or 'one number'}; images are [n h w] or [n h w c].")
    if values.ndim == 4 and values.shape[1] <= 4 < values.shape[3]:
        raise UserError(f"{shown}: {shape} looks like [n c h w]; save it as [n h w c] with x.transpose(0, 2, 3, 1).")
    if values.dtype not in (np.dtype("u1"), np.dtype("<u2"), np.dtype(">u2")):
        cure = {
            "f": "Values from 0 to 1 are saved by (x * 255).round().astype('uint8'), or 65535 and 'uint16'.",
            "b": "Save it as x.astype('uint8') * 255.",
        }.get(values.dtype.kind, "Save it as x.astype('uint8') if it holds 0 to 255, or 'uint16' if 0 to 65535.")
        raise UserError(f"{shown}: images of {values.dtype}; uint8 and uint16 are read. {cure}")
    return values[..., None] if values.ndim == 3 else values
