"""Arrays of images. What all arrays have in common is in `storage.arrays`. Raises UserError on what is none."""

import numpy as np
from jaxtyping import UInt

from selfsame.errors import UserError
from selfsame.storage.arrays import described, label_strings, load_array, npz_key, npz_keys, split_key

__all__ = ["IMAGES", "images_of", "label_strings", "load_array", "looks", "npz_key", "npz_keys", "shape_of", "split_key"]

IMAGES = ("x_train", "x", "images")  # the arrays of an .npz that are taken when none is named, best first


def shape_of(path: str, key: str | None) -> tuple[int, ...]:
    """The shape of an array of images from its header alone."""
    return described(path, key, IMAGES)[0]


def looks(path: str, key: str | None) -> bool:
    """Whether an array looks like images: by its axes where it holds their integers, else only if it is square.

    Series [n c t] have as many axes, but other numbers and seldom as many channels as steps.
    """
    shape, dtype = described(path, key, IMAGES)
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return len(shape) in (3, 4)
    return len(shape) == 4 or (len(shape) == 3 and shape[1] == shape[2])


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
