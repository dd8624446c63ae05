"""Arrays of images and of labels in .npy and .npz files. Raises UserError on what is neither."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt

from selfsame.errors import UserError, unknown
from selfsame.storage.folders import opened_zip

IMAGES = ("x_train", "x", "images")  # the arrays of an .npz that are taken when none is named, best first

SMALLEST = 8  # pixels of a side below which an array of floats is no array of images


def split_key(path: str) -> tuple[str, str | None]:
    """`file.npz::key` as file and key, so too of shards; any other path is a file."""
    file, mark, key = path.rpartition("::")
    return (file, key) if mark and file.lower().endswith((".npz", ".tar", ".parquet")) else (path, None)


def npz_keys(path: str) -> list[str]:
    with opened_zip(path) as file:
        return [name.removesuffix(".npy") for name in file.namelist()]


def npz_key(path: str, key: str | None, usual: Sequence[str]) -> str:
    """The array meant by `key`; without one the only array, or the first of the `usual` ones that is there."""
    keys = npz_keys(path)
    if key is not None:
        if key not in keys:
            raise unknown(f"array in {path}", key, keys)
        return key
    found = keys if len(keys) == 1 else [name for name in usual if name in keys]
    if not found:
        raise UserError(f"{path} holds several arrays: {', '.join(keys)}. Name one, as in {path}::{(*keys, 'x')[0]}")
    return found[0]


def load_array(path: str, key: str | None) -> np.ndarray:
    try:
        if key is None:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}{f'::{key}' if key else ''}: this array cannot be read: {error}.") from error


def pixels_in(path: str, key: str | None) -> int:
    """1 where the array may be one of images, by its header alone; 0 for series, of numbers with one or two axes."""
    shape, dtype = header_of(path, key)
    whole = dtype.kind in "bu" or (dtype.kind == "i" and len(shape) == 4)
    # A table of floats [n h w] could be images or series: both modalities then ask for it.
    return int(len(shape) in (3, 4) and (whole or len(shape) == 4 or min(shape[1:]) >= SMALLEST))


def header_of(path: str, key: str | None) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array of images from its header alone."""
    if Path(path).suffix.lower() == ".npy":
        values = load_array(path, None)
        return values.shape, values.dtype
    with opened_zip(path) as arrays, arrays.open(f"{npz_key(path, key, IMAGES)}.npy") as file:
        header = np.lib.format
        version = header.read_magic(file)
        read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
        shape, _, dtype = read(file)
        return shape, dtype


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


def label_strings(path: str, key: str | None) -> list[str] | None:
    """An array of labels as text; whole numbers become the names in `classes` beside it if that fits.

    None where the array is no list of labels.
    """
    values = load_array(path, key)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iubU":
        return None
    if values.dtype.kind in "iu" and path.endswith(".npz") and "classes" in npz_keys(path):
        classes = load_array(path, "classes")
        if classes.ndim == 1 and len(values) and values.min() >= 0 and values.max() < len(classes):
            return [str(label) for label in classes[values].tolist()]
    return [str(label) for label in values.tolist()]
