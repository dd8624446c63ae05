"""Depth as files, and how near a predicted depth is to it.

Read are PNG and TIFF of one plane, .npy, .npz (one array, or one called depth) and PFM. In memory depth is float32
[h w] in metres, 0 where it is not known: where a file has 0, less, NaN or infinity, or the 65535 of 16 bits.

Raises UserError on files whose unit cannot be known, UnreadableItem for one that is broken.
"""

import os
import statistics
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32
from PIL import Image

from selfsame.downstream.pairs import Labels
from selfsame.downstream.task import Facts, Scores
from selfsame.engine.watch import say
from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.image.decode import readable

DEPTHS = Labels(
    "depth",
    "depth files",
    "depth",
    frozenset(("depth", "depths", "depthmap", "depthmaps", "disp", "distance", "groundtruth", "gt", "sync")),
    frozenset((".png", ".tif", ".tiff", ".npy", ".npz", ".pfm")),
)
MILLIMETRES = 1000.0  # units of a metre in 16-bit files, where the user says nothing: NYU, RealSense, Kinect, ScanNet
LOOKED = 2_000  # files that are looked at when they are opened: all, or of more than these as many, evenly
VALUES = 2_000  # values of each that the median is of
PLAUSIBLE = (0.01, 1000.0)  # metres: a median outside is told


class Range(Facts):
    """What depths there are."""

    least: float
    """metres"""
    median: float
    """metres; of as many values from each picture"""
    most: float
    """metres"""
    known: float
    """share of the pixels whose depth is known"""
    scale: float
    """units of a metre in the integers of the files; predictions are written so"""

    @property
    def summary(self) -> str:
        return (
            f"depth {self.least:.3g} to {self.most:.3g} m, median {self.median:.3g} m; {1 - self.known:.1%} of the "
            f"pixels without; integers are {self.scale:g} a metre"
        )


def read(path: str, scale: float | None = None, cap: float | None = None) -> Float32[np.ndarray, "h w"]:
    """Metres, 0 where not known or farther than `cap`.

    `scale`: units of a metre; None for 1000 of integers and 1 of real numbers. Raises UnreadableItem.
    """
    with readable():
        values = plane(stored(path))
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise UnreadableItem(f"holds {values.dtype} numbers of shape {list(values.shape)}; depth is one plane [h w]")
    whole = values.dtype.kind != "f"
    if whole and values.dtype.itemsize < 2 and scale is None:
        raise UserError(
            f"{path}: depth of 8 bits, whose unit cannot be known. Say how many units a metre has with --task.scale, "
            "or give 16-bit PNG in millimetres."
        )
    known = np.isfinite(values) & (values > 0)
    if values.dtype == np.uint16:
        known &= values < 65535
    metres = np.where(known, values, 0).astype(np.float32) / np.float32(scale or (MILLIMETRES if whole else 1.0))
    if cap is not None:
        metres[metres > cap] = 0
    return metres


def stored(path: str) -> np.ndarray:
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                names = list(arrays)
                if len(names) != 1 and "depth" not in names:
                    raise UnreadableItem(f"holds the arrays {', '.join(names[:5])}; one of them must be called depth")
                return arrays["depth" if "depth" in names else names[0]]
        except zipfile.BadZipFile as error:
            raise UnreadableItem(f"is no npz: {error}") from None
    if suffix == ".pfm":
        return portable(Path(path).read_bytes())
    with Image.open(path) as image:
        if len(image.getbands()) > 1 or image.mode == "P":
            raise UnreadableItem(f"is a picture of mode {image.mode}; depth is one plane, in PNG of 16 bits")
        return np.asarray(image)


def plane(values: np.ndarray) -> np.ndarray:
    """Without an axis of one channel, which may be the last or the first."""
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        return values[..., 0] if values.shape[2] == 1 else values[0]
    return values


def portable(data: bytes) -> Float32[np.ndarray, "h w"]:
    """A PFM of one channel: rows from below, a negative scale for little-endian numbers."""
    kind, size, order, numbers = data.split(b"\n", 3)
    if kind.strip() != b"Pf":
        raise UnreadableItem("is a PFM of three channels, or none; depth has one")
    width, height = (int(part) for part in size.split())
    values = np.frombuffer(numbers, "<f4" if float(order) < 0 else ">f4")
    return values.reshape(height, width)[::-1].astype(np.float32)


def size_of(path: str) -> tuple[int, int]:
    """Height and width. Raises UnreadableItem."""
    with readable():
        if Path(path).suffix.lower() in (".png", ".tif", ".tiff"):
            with Image.open(path) as image:
                return image.height, image.width
        height, width = plane(stored(path)).shape
        return height, width


@dataclass
class Look:
    """What is in one file."""

    known: float
    least: float
    most: float
    some: np.ndarray


def look(path: str, scale: float | None, cap: float | None) -> Look | UnreadableItem | UserError:
    try:
        depth = read(path, scale, cap)
    except UserError as error:  # an UnreadableItem is one too
        return error
    values = depth[depth > 0]
    if not values.size:
        return UnreadableItem("no pixel of its depth is known: all are 0, NaN, infinite or too far")
    some = values[:: max(1, len(values) // VALUES)][:VALUES]
    return Look(len(values) / depth.size, float(values.min()), float(values.max()), some)


def understood(
    files: Sequence[str], scale: float | None, cap: float | None
) -> tuple[Range, dict[int, str], dict[int, str]]:
    """(what depths there are, files that cannot be read, files without any known depth), the latter with the reason."""
    places = np.linspace(0, len(files) - 1, min(len(files), LOOKED)).round().astype(int).tolist()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(places, pool.map(lambda i: look(files[i], scale, cap), places), strict=True))
    for one in found.values():
        if isinstance(one, UserError) and not isinstance(one, UnreadableItem):
            raise one  # true of all: the unit is not known
    looks = [one for one in found.values() if isinstance(one, Look)]
    bad = {i: f"{one} ({files[i]})" for i, one in found.items() if isinstance(one, UnreadableItem)}
    empty = {i: reason for i, reason in bad.items() if reason.startswith("no pixel")}
    if not looks:
        reason = next(iter(bad.values()))
        raise UserError(
            f"none of the {len(files)} depth files can be used. The first: {reason}. Depth is 16-bit PNG in "
            "millimetres (another unit: --task.scale), or metres in .npy, .npz or .pfm; 0 where it is not known."
        )
    here = Range(
        least=min(one.least for one in looks),
        median=float(np.median(np.concatenate([one.some for one in looks]))),
        most=max(one.most for one in looks),
        known=float(np.mean([one.known for one in looks])),
        scale=scale or MILLIMETRES,
    )
    if not PLAUSIBLE[0] < here.median < PLAUSIBLE[1]:
        say(f"the median depth is {here.median:.3g} m: is --task.scale {here.scale:g} units a metre right?", "yellow")
    return here, {i: reason for i, reason in bad.items() if i not in empty}, empty


# Scores --------------------------------------------------------------------------------------------------------------


class Closeness(Scores):
    """Scores of depths [h w] in metres, on the pixels whose depth is known.

    Each score is of one picture, over its known pixels; what is found is the mean over pictures, so that each counts
    alike (as in the evaluation of Monodepth, Godard et al. 2017; pooling all pixels, as Eigen et al. do, differs where
    pictures have few known pixels). Pictures without any are passed over. Predictions are taken as they are: neither
    their scale nor their median is fitted to the truth.
    """

    def __init__(self) -> None:
        self.pictures: list[dict[str, float]] = []

    def add(self, prediction: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "h w"]) -> None:
        known: Bool[np.ndarray, "h w"] = np.isfinite(truth) & (truth > 0)
        if known.any():
            self.pictures.append(of_depth(np.asarray(prediction)[known], np.asarray(truth)[known]))

    def found(self) -> dict[str, float]:
        """AbsRel, SqRel, RMSE, RMSElog, log10, SILog (smaller is better); delta, shares in [0, 1]."""
        if not self.pictures:
            raise UserError("no pixel with a known depth to score. Look at the depth files, and at --task.cap.")
        # A correctly rounded sum: the order of the pictures changes nothing.
        return {name: statistics.fmean([one[name] for one in self.pictures]) for name in self.pictures[0]}


def of_depth(prediction: Float[np.ndarray, "n"], truth: Float[np.ndarray, "n"]) -> dict[str, float]:
    """The scores of Eigen et al. 2014, arXiv 1406.2283, section 4.1, and SILog of KITTI; of positive depths.

    AbsRel mean |p - y| / y, SqRel mean (p - y)^2 / y, RMSE in metres, RMSElog of natural logarithms, log10 mean
    |log10 p - log10 y|, delta < 1.25^k the share with max(p / y, y / p) below it, SILog 100 sqrt(mean d^2 - mean(d)^2)
    with d = ln p - ln y.
    """
    p, y = prediction.astype(np.float64), truth.astype(np.float64)
    d, ratio = np.log(p) - np.log(y), np.maximum(p / y, y / p)
    return {
        "AbsRel": float((abs(p - y) / y).mean()),
        "RMSE": float(np.sqrt(((p - y) ** 2).mean())),
        "RMSElog": float(np.sqrt((d**2).mean())),
        "log10": float(abs(d).mean() / np.log(10)),
        "delta < 1.25": float((ratio < 1.25).mean()),
        "delta < 1.25^2": float((ratio < 1.25**2).mean()),
        "delta < 1.25^3": float((ratio < 1.25**3).mean()),
        "SqRel": float(((p - y) ** 2 / y).mean()),
        "SILog": float(100 * np.sqrt(max(0.0, (d**2).mean() - d.mean() ** 2))),
    }
