"""Images at rest, read by number: files, zips, arrays. Labels are for evaluation only.

Raises UserError where there is nothing to read, UnreadableItem for one broken item.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int64, UInt

from selfsame.errors import UserError
from selfsame.modalities.image.arrays import images_of, load_array
from selfsame.modalities.image.decode import Form, Header, Picture, StoredPicture, readable
from selfsame.modalities.image.files import IMAGE_FILES
from selfsame.modalities.image.stats import Stats
from selfsame.storage.disk import Disk, disk_of, joined
from selfsame.storage.folders import folder_labels, listed, opened_zip

LOOKED = 500_000  # items whose headers are read at opening: all, or of more than these as many, drawn by the seed
LOOKED_FAR = 20_000  # the same, where each is a request over a network
COUNTED = 2000  # items whose pixels are counted
REQUESTS = 16  # at a time to a network


class ImageSource:
    """Images read by number. Holds names, not images; survives pickling and forking.

    `labels` may be a function that finds them: they are not looked for before they are wanted.
    """

    looks = LOOKED
    counted = COUNTED
    blocks: Int64[np.ndarray, "k"] | None = None
    """the first items of runs that can only be read together; `window` of these are held at once"""
    window = 1

    def __init__(
        self,
        path: str,
        names: Sequence[str],
        labels: "Sequence[str] | Callable[[], list[str] | None] | None",
        disk: Disk | None = None,
    ) -> None:
        self.path = path
        self.names = names
        self.known_labels = labels
        self.disk = disk or Disk()
        if self.disk.remote:
            self.looks = LOOKED_FAR
        self.ignored: dict[str, int] = {}
        """files that are no images, counted by their suffix"""
        self.form: Form | None = None
        self.fetched: dict[int, bytes | Exception] = {}
        self.sizes: np.ndarray | None = None
        self.stamps: np.ndarray | None = None
        """[n 2] height and width, and [n] `Header.stamp`, once `measure` has noted them; 0 where it has not looked"""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "sizes": None, "stamps": None, "known_labels": None}  # large, of no use to workers

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> list[str] | None:
        if callable(self.known_labels):
            self.known_labels = self.known_labels()
        return self.known_labels  # type: ignore[return-value]

    @labels.setter
    def labels(self, labels: list[str] | None) -> None:
        self.known_labels = labels

    @property
    def place(self) -> str | None:
        """The folder that names are relative to; None where they name no files."""
        return None

    def name(self, i: int) -> str:
        """The path below the source's root, '/'-separated, or the number in an array. Unique."""
        return self.names[i]

    def drawn(self, seed: int, most: int) -> list[int]:
        """At most `most` items, drawn by the seed, ascending."""
        return sorted(np.random.default_rng(seed).permutation(len(self))[:most].tolist())

    def fit(self, stats: Stats) -> None:
        """From now on every item comes with the channels, the bits and the white of `stats`."""
        self.form = Form(stats.channels, stats.bits, stats.white)

    def fetch(self, items: Sequence[int]) -> None:
        """Get the bytes of these items, which are read next, all at once where each is a request over a network."""
        if not self.disk.remote or not len(items):
            return

        def got(i: int) -> bytes | Exception:
            try:
                return self.data(i)
            except Exception as error:
                return error  # raised where the item is read

        with ThreadPoolExecutor(REQUESTS) as pool:
            self.fetched = dict(zip(items, pool.map(got, items), strict=True))

    def data(self, i: int) -> bytes:
        with self.file(i) as file:
            return file.read()

    def open(self, i: int, form: Form | None = None) -> Picture:
        """The item, its pixels not yet decoded, in `form` or else in that of `fit`. Raises UnreadableItem."""
        with readable():
            data = self.fetched.pop(i, None)
            if isinstance(data, Exception):
                raise data
            return Picture(io.BytesIO(self.data(i) if data is None else data), form or self.form)

    @property
    def left_out(self) -> str:
        """As in: 12 .pdf, 1 without suffix."""
        return listed(self.ignored) if self.ignored else ""

    def header(self, i: int) -> Header:
        """Size, channels and bits of an item, from as few bytes as can be. Raises UnreadableItem."""
        with readable(), self.file(i) as file:
            return Picture(file).header._replace(stamp=self.stamp(i, file))

    def stamp(self, i: int, file: IO[bytes]) -> int:
        """63 bits that change with the file's size and date."""
        if self.disk.remote:  # what a file system tells has names of its own
            told = str(sorted(getattr(file, "details", {}).items(), key=str)).encode()
            return int.from_bytes(hashlib.sha256(told).digest()[:8], "big") >> 1
        state = os.fstat(file.fileno())
        return (state.st_mtime_ns * 1_000_003 + state.st_size) % 2**63

    def stored(self, i: int) -> int:
        """Bytes of the item at rest. Raises UnreadableItem."""
        with readable(), self.file(i) as file:
            return file.seek(0, io.SEEK_END)

    @property
    def noted(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What `measure` has noted, for other processes that did not measure."""
        return self.sizes, self.stamps

    @noted.setter
    def noted(self, noted: tuple[np.ndarray | None, np.ndarray | None]) -> None:
        self.sizes, self.stamps = noted

    def note(self, headers: dict[int, Header]) -> None:
        """Keep the sizes and stamps; an item without a header has size 0."""
        self.sizes, self.stamps = np.zeros((len(self), 2), np.int32), np.zeros(len(self), np.int64)
        for i, header in headers.items():
            self.sizes[i], self.stamps[i] = header[:2], header.stamp

    def read(self, i: int) -> UInt[np.ndarray, "h w c"]:
        """The decoded item, upright: uint8 or uint16. Raises UnreadableItem."""
        return self.open(i).pixels()

    @property
    def array(self) -> UInt[np.ndarray, "n h w c"] | None:
        """All items as one array, where they are at rest as one in the form of `fit`; None otherwise."""
        return None

    def file(self, i: int) -> IO[bytes]:
        """The item's file, open for reading."""
        raise NotImplementedError


class FileSource(ImageSource):
    """Image files. Names are relative to `root`, or absolute."""

    def __init__(self, path: str, root: Path | str, names: Sequence[str], labels: Any = None) -> None:
        super().__init__(path, names, labels, disk_of(path))
        self.root = root

    @property
    def place(self) -> str:
        return str(Path.cwd() / self.root)

    def file(self, i: int) -> IO[bytes]:
        return self.disk.open(joined(self.root, self.names[i]))

    def data(self, i: int) -> bytes:
        return self.disk.read(joined(self.root, self.names[i]))  # at an address one request, where a file takes two


class ZipSource(ImageSource):
    """Images in one zip, read without unpacking it."""

    def __init__(self, path: str) -> None:
        self.handle: tuple[int, zipfile.ZipFile] | None = None
        with opened_zip(path) as file:
            members = {
                member.filename: member
                for member in file.infolist()
                if not member.is_dir()
                and not any(part.startswith((".", "__MACOSX")) for part in member.filename.split("/"))
            }
            encrypted = sum(member.flag_bits & 1 for member in members.values())
            if encrypted:
                raise UserError(f"{path}: {encrypted} of its files are encrypted. Unpack it and give the folder.")
            names, ignored = IMAGE_FILES.chosen([sorted(members)], file.open)
        if not names:
            nested = " The zips inside it are not opened: unpack it and give one of them." if ".zip" in ignored else ""
            raise UserError(f"{path}: no images in this zip. It holds {listed(ignored)}.{nested}")
        super().__init__(path, names, partial(folder_labels, names))
        self.ignored = ignored

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "handle": None}

    def stamp(self, i: int, file: IO[bytes]) -> int:
        assert self.handle is not None
        return self.handle[1].getinfo(self.names[i]).CRC

    def stored(self, i: int) -> int:
        with readable(), self.file(i):
            assert self.handle is not None
            return self.handle[1].getinfo(self.names[i]).compress_size

    def __del__(self) -> None:
        handle = getattr(self, "handle", None)
        if handle is not None:
            handle[1].close()

    def file(self, i: int) -> IO[bytes]:
        # A handle that came through a fork shares its place in the file with the parent: each process opens its own.
        if self.handle is None or self.handle[0] != os.getpid():
            self.handle = os.getpid(), opened_zip(self.path)
        return self.handle[1].open(self.names[i])


class ArraySource(ImageSource):
    """One array of images, uint8 or uint16 [n h w] or [n h w c]. A .npy stays on disk, mapped into memory."""

    def __init__(self, path: str, key: str | None, labels: list[str] | None = None) -> None:
        self.key = key
        self.loaded: UInt[np.ndarray, "n h w c"] | None = None
        self.path = path
        super().__init__(path, Numbers(len(self.values)), labels)

    @property
    def values(self) -> UInt[np.ndarray, "n h w c"]:
        if self.loaded is None:
            shown = f"{self.path}::{self.key}" if self.key else self.path
            self.loaded = images_of(load_array(self.path, self.key), shown)
        return self.loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "loaded": None}

    def open(self, i: int, form: Form | None = None) -> Picture:
        return StoredPicture(self.values[i], form or self.form)

    def header(self, i: int) -> Header:
        return StoredPicture(self.values[i]).header

    def stored(self, i: int) -> int:
        return self.values[i].nbytes

    @property
    def array(self) -> UInt[np.ndarray, "n h w c"] | None:
        values = self.values
        stored = (values.shape[3], 8 * values.dtype.itemsize)
        fits = self.form is None or stored == (self.form.channels, self.form.bits)
        return values if fits and values.dtype.isnative else None


class Numbers(Sequence[str]):
    """The names "0", "1", ... without a list of them."""

    def __init__(self, total: int) -> None:
        self.total = total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, i: Any) -> Any:
        return str(range(self.total)[i])
