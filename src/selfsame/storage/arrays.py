"""Arrays in .npy and .npz files, and labels among them. Raises UserError on what is neither."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfsame.errors import UserError, unknown
from selfsame.storage.folders import opened_zip

KEYED = (".npz", ".tar", ".parquet")  # files of which `file::key` names a part


def split_key(path: str) -> tuple[str, str | None]:
    """`file.npz::key` as file and key, so too of shards; any other path is a file."""
    file, mark, key = path.rpartition("::")
    return (file, key) if mark and file.lower().endswith(KEYED) else (path, None)


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
    """The array of a .npy, or the one of this key of an .npz; mapped, not loaded, where it is stored as it is."""
    try:
        if key is None:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        mapped = mapped_member(path, f"{key}.npy")
        if mapped is not None:
            return mapped
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}{f'::{key}' if key else ''}: this array cannot be read: {error}.") from error


def mapped_member(path: str, name: str) -> np.ndarray | None:
    """A member that `np.savez` has stored uncompressed, mapped into memory; None for others, and empty ones."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name)
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            return None
        with archive.open(member) as file:
            shape, fortran, dtype = header_of(file)
            head = file.tell()
    if dtype.hasobject or 0 in shape:
        return None
    with Path(path).open("rb") as file:
        file.seek(member.header_offset + 26)  # the lengths of the name and of the extra field that follow 30 bytes
        lengths = np.frombuffer(file.read(4), "<u2")
    start = member.header_offset + 30 + int(lengths.sum()) + head
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def header_of(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type, of an array whose file is open at its begin."""
    header = np.lib.format
    version = header.read_magic(file)
    read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
    return read(file)


def described(path: str, key: str | None, usual: Sequence[str]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array from its header alone."""
    if Path(path).suffix.lower() == ".npy":
        values = load_array(path, None)
        return values.shape, values.dtype
    with opened_zip(path) as arrays, arrays.open(f"{npz_key(path, key, usual)}.npy") as file:
        shape, _, dtype = header_of(file)
        return shape, dtype


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


def labels_beside(path: str, key: str) -> str | None:
    """The array of an .npz that holds the labels of the array `key`: `y_train` beside `x_train`, `y` beside `x`."""
    name = {"x": "y", "images": "labels"}.get(key, f"y_{key[2:]}" if key.startswith("x_") else None)
    return name if name in npz_keys(path) else None


def misfit(path: str, key: str, beside: str, count: int, items: int) -> UserError:
    """The error for labels beside an array that are not its own; `count` 0 where they are no list of labels."""
    held = f"{count:,} labels for {items:,} items" if count else "no list of whole numbers or texts"
    return UserError(
        f"{path}: {beside}, beside {key}, holds {held}. Give one label an item, or name others with --labels, as "
        "other.npz::y or a CSV with the columns path and label."
    )
