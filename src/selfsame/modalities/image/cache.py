"""A pixel cache: images that are read in many passes are decoded once, made smaller, and kept on disk.

One file of pixels, mapped into memory, in which every image has its place from the start, and one byte an image that
says whether it is there. So any number of processes may fill it at once, and a process that is killed leaves the
images it has finished. It belongs to the data as they were found: other files, or files changed since, get another.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt

from selfsame.modalities.image.decode import Form, Picture, StoredPicture, resized
from selfsame.records import Record
from selfsame.storage.index import home

__all__ = ["CachePlan", "CachedSource", "cached", "plan_cache"]

SIDE = 1.5  # short side of a cached image in sides of a view: a crop of 4/9 of the image or more has all its pixels
UNUSED, RECENT = 30 * 86400, 3600  # seconds since a run opened a cache: it is removed; it is left alone
PIXELS, READY, SYNCED, ABOUT = "pixels", "ready", "synced", "about.json"


class CachePlan(Record):
    """What is kept. A run keeps its plan: with the same plan the views are the same, whatever is in the cache yet."""

    side: int
    """short side of what is kept, in pixels; smaller images are kept as they are"""
    items: int
    """how many of the items have a place; the others are decoded each time, at their full size"""
    bytes: int
    """of all places together"""

    @property
    def summary(self) -> str:
        return f"{self.items:,} images of at most {self.side} px, decoded once, kept in {home()}"


def room() -> int:
    """Bytes that a cache may take where nothing is said: half of the memory, and half of the disk that is free.

    Pixels that do not stay in memory must be read again in each pass, and there are many more of them than of JPEG.
    """
    place = next(folder for folder in (home(), *home().parents) if folder.exists())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
    return min(memory // 2, (shutil.disk_usage(place).free + held(home())) // 2)


def held(folder: Path) -> int:
    """Bytes on disk of all caches in a folder."""
    total = 0
    for file in folder.glob(f"*/{PIXELS}"):
        with contextlib.suppress(OSError):  # removed meanwhile
            total += getattr(file.stat(), "st_blocks", 0) * 512
    return total


def plan_cache(source: Any, items: Int64[np.ndarray, "m"], views: Any, most: int | None) -> CachePlan | None:
    """What to keep of these items for these views, in at most `most` bytes; None where nothing can be.

    Arrays are at rest decoded, and need none. Sizes are those that `measure` has noted on the source.
    """
    items = measured(source, items)
    if source.array is not None or not len(items) or not writable(home()):
        return None
    side = round(SIDE * views.size)
    sizes = np.cumsum(volumes(source, items, side))
    limit = room() if most is None else most
    count = int(np.searchsorted(sizes, limit, side="right"))
    return CachePlan(side=side, items=count, bytes=int(sizes[count - 1])) if count else None


def cached(source: Any, items: Int64[np.ndarray, "m"], plan: CachePlan) -> "CachedSource":
    """The source, its images read from the cache where they are there, and put into it where they are not."""
    return CachedSource(source, measured(source, items)[: plan.items], plan)


def measured(source: Any, items: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "k"]:
    """The items whose size is known: of very many only some were looked at."""
    return items[:0] if source.sizes is None else items[source.sizes[items, 0] > 0]


def kept_sizes(sizes: Int64[np.ndarray, "n 2"], side: int) -> Int64[np.ndarray, "n 2"]:
    """Height and width of what is kept of images of these sizes."""
    scale = np.minimum(1.0, side / sizes.min(axis=1))
    return np.maximum(1, np.rint(sizes * scale[:, None])).astype(np.int64)


def volumes(source: Any, items: Int64[np.ndarray, "m"], side: int) -> Int64[np.ndarray, "m"]:
    """Bytes of what is kept of each item."""
    return kept_sizes(source.sizes[items], side).prod(axis=1) * (source.form.channels * source.form.bits // 8)


class CachedSource:
    """Stands for a source, but that `open` gives decoded images. Each process opens the files for itself."""

    def __init__(self, source: Any, items: Int64[np.ndarray, "m"], plan: CachePlan) -> None:
        self.source = source
        self.form: Form = source.form
        self.side = plan.side
        self.items = items  # ascending
        self.sizes = kept_sizes(source.sizes[items], plan.side)
        self.starts = np.concatenate([[0], np.cumsum(volumes(source, items, plan.side))])
        self.folder = home() / digest(source, items, plan.side)
        self.opened: tuple[int, Files | None] | None = None
        with contextlib.suppress(OSError):  # a full or read-only disk: read without it
            create(self.folder, source.path, len(items), int(self.starts[-1]))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "source":  # while unpickling there is no source yet
            raise AttributeError(name)
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": None}

    def open(self, i: int) -> Picture:
        """The item as it is kept; as it is in the source where it has no place. Raises UnreadableItem."""
        place = int(np.searchsorted(self.items, i))
        if place == len(self.items) or self.items[place] != i:
            return self.source.open(i)
        height, width = self.sizes[place]
        start, end = self.starts[place : place + 2]
        files = self.files()
        pixels = files.get(place, start, end, self.form.bits) if files else None
        if pixels is None:
            pixels = smaller(self.source.open(i), int(height), int(width), self.form)
            if files:
                files.put(place, start, pixels)
        return StoredPicture(pixels.reshape(height, width, self.form.channels), self.form)

    def fetch(self, items: Sequence[int]) -> None:
        """What is here already need not be fetched."""
        files = self.files()
        places = np.searchsorted(self.items, items)
        known = places < len(self.items)
        known[known] = self.items[places[known]] == np.asarray(items)[known]
        here = [bool(k and files and files.there[place]) for k, place in zip(known, places, strict=True)]
        self.source.fetch([i for i, there in zip(items, here, strict=True) if not there])

    def files(self) -> "Files | None":
        """Opened by each process for itself; None where somebody has removed them."""
        if self.opened is None or self.opened[0] != os.getpid():
            try:
                files = Files(self.folder, int(self.starts[-1]))
            except (OSError, ValueError):
                files = None
            self.opened = os.getpid(), files
        return self.opened[1]

    def sync(self) -> None:
        """Force to disk what is there, so that it is trusted after a power failure too."""
        if (files := self.files()) is not None:
            files.sync()


class Files:
    """The open files of a cache, in one process."""

    def __init__(self, folder: Path, total: int) -> None:
        self.folder = folder
        self.full = False
        self.map = np.memmap(folder / PIXELS, np.uint8, "r", shape=(total,))
        self.there = np.memmap(folder / READY, np.uint8, "r")
        self.pixels = os.open(folder / PIXELS, os.O_RDWR)
        self.ready = os.open(folder / READY, os.O_RDWR)

    def __del__(self) -> None:
        for file in (getattr(self, "pixels", None), getattr(self, "ready", None)):
            if file is not None:
                os.close(file)

    def get(self, place: int, start: int, end: int, bits: int) -> UInt[np.ndarray, "n"] | None:
        if not self.there[place]:
            return None
        return self.map[start:end].view(np.uint8 if bits == 8 else np.uint16)

    def put(self, place: int, start: int, pixels: UInt[np.ndarray, "h w c"]) -> None:
        """The pixels first, then the byte that says so: a kill between the two loses an image, it does not break one.

        On a full disk nothing more is kept, and nothing fails.
        """
        if self.full:
            return
        data = np.ascontiguousarray(pixels).data.cast("B")
        try:
            while data:
                written = os.pwrite(self.pixels, data, start)
                data, start = data[written:], start + written
            os.pwrite(self.ready, b"\1", place)
        except OSError:
            self.full = True

    def sync(self) -> None:
        there = bytes(self.there)  # before the pixels are forced to disk: what comes meanwhile is not vouched for
        with contextlib.suppress(OSError):  # a full disk, a cache removed meanwhile: then it is made again
            os.fsync(self.pixels)
            write(self.folder / SYNCED, there)


def smaller(picture: Picture, height: int, width: int, form: Form) -> UInt[np.ndarray, "h w c"]:
    """The upright image in these pixels, from a decoding at a reduced scale where that has enough of them."""
    values = picture.pixels(min(height, width))
    return values if values.shape[:2] == (height, width) else resized(values, (height, width), form)


# The folder ----------------------------------------------------------------------------------------------------------


def digest(source: Any, items: Int64[np.ndarray, "m"], side: int) -> str:
    """Changes with the names, the sizes and the files' stamps of the items, and with what is kept of them."""
    made = hashlib.sha256("\n".join(source.name(int(i)) for i in items).encode("utf-8", "surrogateescape"))
    for part in (source.sizes[items], source.stamps[items], np.array([side, *source.form])):
        made.update(np.ascontiguousarray(part, dtype=np.int64).tobytes())
    return made.hexdigest()[:20]


def create(folder: Path, path: str, items: int, total: int) -> None:
    """Make the folder, whole, or find it; note that it is used."""
    boot = this_boot()
    if not whole(folder, items, total):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_room(folder.parent, path, total)
        draft = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
        for name, length in ((PIXELS, total), (READY, items)):
            with (draft / name).open("wb") as file:
                file.truncate(length)  # takes no disk yet
        write(draft / ABOUT, json.dumps({"path": path, "boot": boot}).encode())
        try:
            draft.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(draft, ignore_errors=True)
    about = json.loads((folder / ABOUT).read_text())
    if about["boot"] != boot:  # the machine went down: bytes of READY may have reached the disk before their pixels
        synced = (folder / SYNCED).read_bytes() if (folder / SYNCED).exists() else b""
        write(folder / READY, synced if len(synced) == items else bytes(items))
        write(folder / ABOUT, json.dumps({**about, "boot": boot}).encode())
    os.utime(folder / ABOUT)


def whole(folder: Path, items: int, total: int) -> bool:
    """Whether a cache is there as it was made."""
    try:
        about = json.loads((folder / ABOUT).read_text())
        sizes = [(folder / name).stat().st_size for name in (PIXELS, READY)]
    except (OSError, ValueError):
        return False
    return sizes == [total, items] and {"path", "boot"} <= about.keys()


def make_room(folder: Path, path: str, total: int) -> None:
    """Remove caches of the same path as it was before, those long unused, and the oldest while there are too many.

    None that was opened within the hour; processes that still read one may go on.
    """
    for draft in folder.glob(".making-*"):  # of processes that were killed
        with contextlib.suppress(OSError):
            if time.time() - draft.stat().st_mtime > RECENT:
                shutil.rmtree(draft, ignore_errors=True)
    caches = []
    for about in folder.glob(f"*/{ABOUT}"):
        with contextlib.suppress(OSError, ValueError, KeyError):  # another process may remove it first
            age = time.time() - about.stat().st_mtime
            if age > RECENT:
                same = json.loads(about.read_text())["path"] == path
                caches.append((UNUSED if same else age, about.parent))
    for age, place in sorted(caches, reverse=True):
        if age >= UNUSED or held(folder) + total > (shutil.disk_usage(folder).free + held(folder)) // 2:
            shutil.rmtree(place, ignore_errors=True)


def this_boot() -> str:
    """Changes when the machine starts anew; where that cannot be told, at each call."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(time.time_ns())


def writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def write(path: Path, data: bytes) -> None:
    """Whole or not at all, and on disk."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
