"""Images at rest: a folder, a glob, a list, a zip or an array, read by number, with labels where there are any.

Labels are for evaluation only. Raises UserError where there is nothing to read, UnreadableItem for one broken item.
"""

import io
import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import UInt

from selfsame.errors import UserError
from selfsame.modalities.image.arrays import (
    IMAGES,
    images_of,
    label_strings,
    load_array,
    npz_key,
    npz_keys,
    shape_of,
    split_key,
)
from selfsame.modalities.image.decode import Form, Header, Picture, StoredPicture, readable, suffixes
from selfsame.modalities.image.files import (
    chosen,
    files_of,
    folder_labels,
    is_image,
    listed,
    matching,
    nowhere,
    opened_zip,
    split_glob,
    suffix_of,
    walk,
)
from selfsame.modalities.image.measure import Stats, measure
from selfsame.modalities.image.tables import paths_and_labels, some, table

__all__ = ["ArraySource", "FileSource", "ImageSource", "Stats", "ZipSource", "measure", "open_source", "reads"]

LABELS = ("y_train", "y", "labels")
FIRST = 10_000  # files whose names are looked at to see whether a place holds images


class ImageSource:
    """Images read by number. Holds names, not images; survives pickling and forking."""

    def __init__(self, path: str, names: Sequence[str], labels: list[str] | None) -> None:
        self.path = path
        self.names = names
        self.labels = labels
        self.ignored: dict[str, int] = {}
        """files that are no images, counted by their suffix"""
        self.form: Form | None = None
        self.sizes: np.ndarray | None = None
        self.stamps: np.ndarray | None = None
        """[n 2] height and width, and [n] `Header.stamp`, once `measure` has noted them"""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "sizes": None, "stamps": None}  # large, and of no use to workers

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The path below the source's root, '/'-separated, or the number in an array. Unique."""
        return self.names[i]

    def fit(self, stats: Stats) -> None:
        """From now on every item comes with the channels, the bits and the white of `stats`."""
        self.form = Form(stats.channels, stats.bits, stats.white)

    def open(self, i: int, form: Form | None = None) -> Picture:
        """The item, its pixels not yet decoded, in `form` or else in that of `fit`. Raises UnreadableItem."""
        with readable(), self.file(i) as file:
            data = file.read()
        return Picture(io.BytesIO(data), form or self.form)

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
        state = os.fstat(file.fileno())
        return (state.st_mtime_ns * 1_000_003 + state.st_size) % 2**63

    def stored(self, i: int) -> int:
        """Bytes of the item at rest. Raises UnreadableItem."""
        with readable(), self.file(i) as file:
            return os.fstat(file.fileno()).st_size

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

    def __init__(self, path: str, root: Path, names: Sequence[str], labels: list[str] | None = None) -> None:
        super().__init__(path, names, labels)
        self.root = root

    def file(self, i: int) -> IO[bytes]:
        return (self.root / self.names[i]).open("rb")


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
            names, ignored = chosen(members, file.open)
        if not names:
            nested = " The zips inside it are not opened: unpack it and give one of them." if ".zip" in ignored else ""
            raise UserError(f"{path}: no images in this zip. It holds {listed(ignored)}.{nested}")
        super().__init__(path, names, folder_labels(names))
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


def open_source(path: str, labels: str | None = None) -> ImageSource:
    """List the images at `path`: folder, glob, .txt or .csv list, .npy, .npz (`file.npz::key`), .zip, or one image.

    `labels` is a CSV `path,label` or, for arrays, an array (`file.npz::key`); without it the labels are those the
    source has itself: a list's label column, `y_...` beside `x_...`, the folders the images lie in, or none.
    Raises UserError.
    """
    path = str(Path(path).expanduser())
    file, key = split_key(path)
    suffix = Path(file).suffix.lower()
    source: ImageSource
    if not Path(file).exists():
        source = open_glob(path)
    elif Path(file).is_dir():
        source = open_folder(path)
    elif suffix in (".txt", ".csv"):
        source = open_list(path)
    elif suffix in (".npy", ".npz"):
        source = open_array(file, key)
    elif suffix == ".zip":
        source = ZipSource(path)
    elif is_image(Path(), path):
        source = FileSource(path, Path(path).parent, [Path(path).name])
    else:
        raise UserError(
            f"{path}: no source of images. Give a folder, a glob, a .txt or .csv list, or a .npy, .npz or .zip file."
        )
    if labels is not None:
        source.labels = labels_from(str(Path(labels).expanduser()), source)
    return source


def reads(path: str) -> bool:
    """Whether `path` looks like images, by its suffix or its first files. False where nothing is there."""
    path = str(Path(path).expanduser())
    file, key = split_key(path)
    place, suffix = Path(file), Path(file).suffix.lower()
    try:
        if not place.exists():
            root, pattern = split_glob(path)
            return bool(pattern) and any(is_image(root, name) for name in islice(matching(root, pattern), FIRST))
        if place.is_dir():
            return any(is_image(place, name) for name in islice(walk(place), FIRST))
        if suffix in (".txt", ".csv"):
            return any(suffix_of(cell.strip()) in suffixes() for row in table(place)[:FIRST] for cell in row)
        if suffix in (".npy", ".npz"):
            return len(shape_of(file, key)) in (3, 4)
        if suffix == ".zip":
            with opened_zip(file) as members:
                return any(suffix_of(name) in suffixes() for name in members.namelist())
        return is_image(Path(), path)
    except (UserError, OSError):
        return False


# Opening -------------------------------------------------------------------------------------------------------------


def open_folder(path: str) -> FileSource:
    root = Path(path)
    names, ignored = chosen(walk(root), files_of(root))
    if not names:
        raise UserError(
            f"{path}: no images in this folder. It {f'holds {listed(ignored)}' if ignored else 'is empty'}."
        )
    source = FileSource(path, root, names, folder_labels(names))
    source.ignored = ignored
    return source


def open_glob(path: str) -> FileSource:
    root, pattern = split_glob(path)
    if not pattern or not root.is_dir():
        raise nowhere(str(root) if pattern else split_key(path)[0])
    names, ignored = chosen(matching(root, pattern), files_of(root))
    if not names:
        found = f"only {listed(ignored)}" if ignored else "no file"
        raise UserError(
            f"{path}: this pattern matches {found}. Write ** for folders of any depth, as in photos/**/*.jpg."
        )
    source = FileSource(path, root, names, folder_labels(names))
    source.ignored = ignored
    return source


def open_list(path: str) -> FileSource:
    """Files named one a line (.txt), or in the column `path` or else the first of a .csv; its labels if complete."""
    here = Path(path).parent
    named, labels = paths_and_labels(Path(path), lambda cell: suffix_of(cell) in suffixes() or (here / cell).is_file())
    if not named:
        raise UserError(f"{path}: this list is empty. Give one path a line.")
    names = [posixpath.normpath(name) for name in named]
    relative = (name for name in names if not Path(name).is_absolute())
    root = here if any((here / name).exists() for name in islice(relative, FIRST)) else Path()
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        places = "its folder" if root == Path() == here else f"{here} and the working folder"
        raise UserError(f"{path}: {some(missing, len(names), 'files')} are not there. Looked in {places}.")
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise UserError(f"{path}: {some(twice, len(names), 'files')} are named more than once.")
    if labels is None:
        labels = folder_labels(names)
    return FileSource(path, root, names, labels if labels and all(labels) else None)


# Labels --------------------------------------------------------------------------------------------------------------


def labels_from(path: str, source: ImageSource) -> list[str]:
    """One label an item, from a CSV `path,label` or, for an array of images, an array of labels. Raises UserError."""
    file, key = split_key(path)
    suffix = Path(file).suffix.lower()
    if not Path(file).exists():
        raise nowhere(file)
    if suffix in (".npy", ".npz") and isinstance(source, ArraySource):
        key = npz_key(file, key, LABELS) if suffix == ".npz" else None
        labels = label_strings(file, key)
        if labels is None:
            raise UserError(f"{path}: labels are one whole number or one text an item.")
        if len(labels) != len(source):
            raise UserError(f"{path}: {len(labels)} labels for the {len(source)} images of {source.path}.")
        return labels
    if suffix == ".csv":
        return labels_from_csv(Path(file), source)
    raise UserError(
        f"{path}: labels are read from a .csv with the columns path and label, or for arrays from .npy or .npz."
    )


def labels_from_csv(path: Path, source: ImageSource) -> list[str]:
    """Labels by name: a path from the source's root or from the CSV's folder, or a file name that is unique."""
    by_name = {source.name(i): i for i in range(len(source))}
    by_file: dict[str, list[int]] = {}
    by_place: dict[str, int] = {}
    for name, i in by_name.items():
        by_file.setdefault(posixpath.basename(name), []).append(i)
        if isinstance(source, FileSource):
            by_place[os.path.normpath(Path.cwd() / source.root / name)] = i

    def item(cell: str) -> int | None:
        if (name := posixpath.normpath(cell)) in by_name:
            return by_name[name]
        if (place := os.path.normpath(Path.cwd() / path.parent / cell)) in by_place:
            return by_place[place]
        same = by_file.get(cell, [])
        if len(same) > 1:
            raise UserError(
                f"{path}: {cell} could be any of {len(same)} files ({', '.join(source.name(i) for i in same[:3])}). "
                "Write the path, not the file name only."
            )
        return same[0] if same else None

    cells, labels = paths_and_labels(path, lambda cell: item(cell) is not None or suffix_of(cell) in suffixes())
    if labels is None:
        raise UserError(f"{path}: which column is the label? Name the columns path and label.")
    found: dict[int, str] = {}
    missing: list[str] = []
    for cell, label in zip(cells, labels, strict=True):
        known = item(cell)
        if known is None:
            if not (path.parent / cell).exists():  # a file that is there but not in this source may have its label
                missing.append(cell)
        elif found.setdefault(known, label) != label:
            raise UserError(f"{path}: {cell} has two labels, {found[known]} and {label}.")
    if missing:
        raise UserError(
            f"{path}: {some(missing, len(cells), 'rows')} name files that are neither in {source.path} nor there."
        )
    bare = [source.name(i) for i in range(len(source)) if not found.get(i)]
    if bare:
        raise UserError(f"{path}: {some(bare, len(source), 'images')} have no label.")
    return [found[i] for i in range(len(source))]


# Arrays --------------------------------------------------------------------------------------------------------------


def open_array(path: str, key: str | None) -> ArraySource:
    if Path(path).suffix.lower() == ".npy":
        return ArraySource(path, None)
    key = npz_key(path, key, IMAGES)
    source = ArraySource(path, key)
    beside = {"x": "y", "images": "labels"}.get(key, f"y_{key[2:]}" if key.startswith("x_") else None)
    if beside in npz_keys(path):
        labels = label_strings(path, beside)
        source.labels = labels if labels is not None and len(labels) == len(source) else None
    return source
