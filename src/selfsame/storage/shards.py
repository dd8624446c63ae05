"""Items inside few large files: tar (as WebDataset's) and Parquet, indexed once, then read one by one.

Raises UserError where a shard cannot be read.
"""

import contextlib
import hashlib
import io
import posixpath
import tarfile
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from os import getpid
from threading import Lock
from typing import IO, Any

import numpy as np
from jaxtyping import Int64

from selfsame.errors import UnreadableItem, UserError, missing, unknown
from selfsame.storage.disk import Disk
from selfsame.storage.index import kept
from selfsame.storage.names import Names

LABEL = "cls"  # WebDataset's extension of a class: number or text
REST = 1 << 20  # bytes behind the end of a tar that are looked at: there are zeros
SMALL = 1024  # bytes: a class is not longer
SCAN = 8 << 20  # bytes read at a time of a tar at an address while its headers are looked for
AHEAD = 64 << 10  # bytes that are read of a member at first: enough for a header
HELD = 256 << 20  # bytes of Parquet groups that a process holds; items are mixed within as many
GROUP = 1 << 30  # bytes: larger groups cannot be held by every reading process


# Tar -----------------------------------------------------------------------------------------------------------------


@dataclass
class Members:
    """The files in some tars, in the order of the tars."""

    names: Names
    """path inside the tar"""
    shard: Int64[np.ndarray, "n"]
    start: Int64[np.ndarray, "n"]
    size: Int64[np.ndarray, "n"]
    labels: list[str] | None
    marks: Int64[np.ndarray, "shards"]
    """63 bits of each tar that change when it does"""


def mark(state: str) -> int:
    return int.from_bytes(hashlib.sha256(state.encode("utf-8", "surrogateescape")).digest()[:8], "big") >> 1


def members(paths: Sequence[str], disk: Disk, wanted: Callable[[str], bool], kind: str | None) -> tuple[Members, dict]:
    """The wanted files in these tars, with WebDataset's labels, and the suffixes of the others, counted.

    `wanted` is asked for a suffix such as ".jpg". `kind` is what stands behind the first dot of a name, as `jpg` or
    `seg.png` of one sample; without it all wanted files are taken, if no sample has several of them.
    Kept on disk under the names, sizes and dates of the tars: with tars unchanged nothing is read again.
    """
    states = [f"{path} {disk.state(path)}" for path in paths]
    found = kept("\n".join(["tar 2", *states]), lambda: scanned(paths, disk))
    every = Names.of(found["text"], found["ends"])
    take = np.zeros(len(every), bool)
    kinds: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    for i, name in enumerate(every):
        _, ending = divided(name)
        suffix = posixpath.splitext(name)[1].lower()
        if wanted(suffix) and kind in (None, ending):
            take[i] = True
        elif ending != LABEL:
            ignored[suffix] += 1
        if wanted(suffix):
            kinds[ending] += 1
    if kind is not None and kind not in kinds:
        raise unknown(f"kind of image in {paths[0]}", kind, list(dict(kinds.most_common(8))))
    if kind is None and several(kinds, found["sample"][take]):
        raise UserError(
            f"{paths[0]}: a sample here has several images: {', '.join(kinds)}. "
            f"Say which, as in {paths[0]}::{next(iter(kinds))}"
        )
    items = np.flatnonzero(take)
    codes = found["label"][items]
    words = [str(word) for word in found["words"]]
    labels = [words[code] for code in codes] if len(codes) and codes.min() >= 0 else None
    names = Names(every[int(i)] for i in items)
    marks = np.array([mark(state) for state in states], np.int64)
    shard, start, size = (found[key][items] for key in ("shard", "start", "size"))
    return Members(names, shard, start, size, labels, marks), dict(ignored)


def several(kinds: Counter[str], samples: np.ndarray) -> bool:
    """Whether most samples have more than one image. File names with dots in them may look so in a few."""
    return 1 < len(kinds) <= 8 and len(samples) > 1.5 * len(np.unique(samples))


def divided(name: str) -> tuple[str, str]:
    """WebDataset's key and extension: what stands before and behind the first dot of the file's name."""
    folder, _, file = name.rpartition("/")
    key, _, ending = file.partition(".")
    return f"{folder}/{key}", ending.lower()


def scanned(paths: Sequence[str], disk: Disk) -> dict[str, np.ndarray]:
    """Names, places and labels of all files in these tars, by one pass over their headers."""
    names, words = Names(), {"": 0}
    places: list[np.ndarray] = []
    damaged: list[str] = []
    samples = 0
    for number, path in enumerate(paths):
        try:
            with disk.open(path, SCAN) as file:
                rows = []
                for _, group in groupby(latest(entries(file)), key=lambda entry: divided(entry[0])[0]):
                    sample = list(group)
                    label = next((text for *_, text in sample if text is not None), None)
                    code = -1 if label is None else words.setdefault(label, len(words))
                    names.extend(name for name, *_ in sample)
                    rows += [(number, start, size, code, samples) for _, start, size, _ in sample]
                    samples += 1
                places.append(np.array(rows, np.int64).reshape(-1, 5))
        except UserError:
            raise
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            if isinstance(error, tarfile.ReadError) and compressed(path, disk):
                raise UserError(
                    f"{path} is compressed, and cannot be read at random. Images are compressed already: unpack it "
                    "to a plain tar (gunzip, unzstd, unxz, bunzip2)."
                ) from None
            damaged.append(f"{path} ({' '.join(str(error).split()) or 'cut short'})")
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise UserError(
            f"{len(damaged)} of {len(paths)} tars are damaged: {', '.join(damaged[:3])}{more}. "
            "Fetch or write them again, or give a pattern without them."
        )
    table = np.concatenate(places)
    text = np.frombuffer(bytes(names.text), np.uint8)
    columns = dict(zip(("shard", "start", "size", "label", "sample"), table.T, strict=True))
    return {"text": text, "ends": np.array(names.ends, np.int64), "words": np.array(list(words)), **columns}


def latest(found: Iterator[tuple[str, int, int, str | None]]) -> list[tuple[str, int, int, str | None]]:
    """Of members with one name the last, as tar unpacks them."""
    every = list(found)
    if len(last := {name: k for k, (name, *_) in enumerate(every)}) < len(every):
        every = [entry for k, entry in enumerate(every) if last[entry[0]] == k]
    return every


def entries(file: IO[bytes]) -> Iterator[tuple[str, int, int, str | None]]:
    """(name, start, size, class) of each file in a tar; the class is that in a `.cls` file, None for others.

    Links stand at the end, with the place of what they mean. Raises tarfile.ReadError where the tar is not whole:
    tarfile itself takes whatever it does not understand for the end.
    """
    places: dict[str, tuple[int, int]] = {}
    links: list[tuple[str, str]] = []
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # or it would hold all it has seen
            name = posixpath.normpath(member.name)
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if member.islnk() or member.issym():
                here = posixpath.dirname(name) if member.issym() else ""
                links.append((name, posixpath.normpath(posixpath.join(here, member.linkname))))
            if not member.isreg() or member.issparse():
                continue
            text = None
            if divided(name)[1] == LABEL and member.size <= SMALL:
                content = tar.extractfile(member)
                text = content.read().decode("utf-8", "replace").strip() if content else None
            places[name] = member.offset_data, member.size
            yield name, member.offset_data, member.size, text
        file.seek(tar.offset)
        rest = file.read(REST)
        if len(rest) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("cut short")
        if any(rest):
            raise tarfile.ReadError(f"no header of a tar at byte {tar.offset:,}, or several tars in one file")
    yield from ((name, *places.get(meant, (0, 0)), None) for name, meant in links)


def compressed(path: str, disk: Disk) -> bool:
    return disk.cut(path, 0, 6)[:2] in (b"\x1f\x8b", b"BZ", b"\x28\xb5", b"\xfd7")


class Section(io.RawIOBase):
    """A part of a file as a file. Bytes are read when they are asked for."""

    def __init__(self, disk: Disk, path: str, start: int, size: int) -> None:
        self.disk, self.path, self.start, self.size = disk, path, start, size
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence])
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self.size - self.place))
        data = self.disk.cut(self.path, self.start + self.place, length) if length else b""
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)

    def readall(self) -> bytes:
        data = self.disk.cut(self.path, self.start + self.place, max(0, self.size - self.place))
        self.place += len(data)
        return data


def section(disk: Disk, path: str, start: int, size: int) -> IO[bytes]:
    return io.BufferedReader(Section(disk, path, start, size), AHEAD)


# Parquet -------------------------------------------------------------------------------------------------------------

Choice = Callable[[str, Any, str | None], tuple[str, str | None]]


class Rows:
    """One column in some Parquet files, by row number. A group of rows is read at once, and held for a while.

    `choose` names the column: (path, schema, wish) -> the column, and the field in it where it is a struct; by default
    one of bytes. Survives pickling and forking: each process opens the files and holds groups for itself.
    """

    def __init__(
        self, paths: Sequence[str], disk: Disk, column: str | None = None, choose: Choice | None = None
    ) -> None:
        self.paths, self.disk = list(paths), disk
        self.lock, self.owner = Lock(), getpid()
        self.files: OrderedDict[int, Any] = OrderedDict()
        self.groups: OrderedDict[int, Any] = OrderedDict()
        folders = [posixpath.dirname(path) for path in self.paths]
        self.shared = len(posixpath.commonpath(folders).rstrip("/")) + 1 if any(folders) else 0
        self.marks = [mark(f"{path} {disk.state(path)}") for path in self.paths]
        schema = self.file(0).schema_arrow
        self.column, self.inner = (choose or bytes_column)(self.paths[0], schema, column)
        self.label, self.classes = label_column(schema, self.column)
        counts: list[int] = []
        self.firsts: list[int] = []  # row that each file begins with
        self.places: list[tuple[int, int]] = []  # (file, group in it)
        largest = total = 0
        for number, path in enumerate(self.paths):
            file = self.file(number)
            if self.column not in file.schema_arrow.names:
                raise UserError(f"{path} has no column {self.column!r}, which {self.paths[0]} has.")
            self.firsts.append(sum(counts))
            for k in range(file.num_row_groups):
                group = file.metadata.row_group(k)
                if group.num_rows:
                    counts.append(group.num_rows)
                    self.places.append((number, k))
                    size = column_bytes(group, self.column)
                    largest, total = max(largest, size), total + size
        if not counts:
            raise UserError(f"{self.paths[0]}: no rows.")
        if largest > GROUP:
            raise UserError(
                f"{self.paths[0]}: groups of rows of up to {largest / 2**30:.1f} GiB, which each reading process "
                "would hold. Write the file anew with smaller ones, as pyarrow.parquet.write_table(table, path, "
                "row_group_size=100) does."
            )
        self.starts: list[int] = [0, *np.cumsum(counts).tolist()]
        self.window = max(1, HELD // max(1, total // len(counts)))
        """groups that are held at once"""

    def __len__(self) -> int:
        return self.starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lock": None, "owner": None, "files": OrderedDict(), "groups": OrderedDict()}

    def name(self, i: int) -> str:
        """As in train-00001.parquet/17: the path below the folder that all files share, and the row."""
        shard = bisect_right(self.firsts, i) - 1
        return f"{self.paths[shard][self.shared :]}/{i - self.firsts[shard]}"

    def mark(self, i: int) -> int:
        """63 bits that change with the file and the row."""
        return (self.marks[bisect_right(self.firsts, i) - 1] + i * 1_000_003) % 2**63

    def read(self, i: int) -> Any:
        """What is in row i, mostly bytes. Raises UnreadableItem."""
        if self.owner != getpid():
            self.lock, self.owner = Lock(), getpid()
            self.files, self.groups = OrderedDict(), OrderedDict()
        group = bisect_right(self.starts, i) - 1
        with self.lock:
            values = self.groups.pop(group, None)
            if values is None:
                try:
                    values = self.load(group)
                except UnreadableItem as reason:  # held too: it is not tried for each of its rows
                    values = reason
                while len(self.groups) >= self.window:
                    self.groups.popitem(last=False)
            self.groups[group] = values
        if isinstance(values, UnreadableItem):
            raise UnreadableItem(str(values))
        value = values[i - self.starts[group]].as_py()
        if value is None:
            raise UnreadableItem("no bytes in this row")
        return value

    def load(self, group: int) -> Any:
        """The bytes of a group, as an Arrow array. Raises UnreadableItem."""
        import pyarrow as pa

        shard, k = self.places[group]
        try:
            values = self.file(shard).read_row_group(k, columns=[self.column]).column(0)
        except (OSError, pa.ArrowException) as error:
            raise UnreadableItem(f"its group of rows cannot be read: {' '.join(str(error).split())}") from error
        values = values.combine_chunks()
        if self.inner is not None:
            values = (values.chunk(0) if isinstance(values, pa.ChunkedArray) else values).field(self.inner)
        return values

    def file(self, number: int) -> Any:
        pa, parquet = arrow()
        path = self.paths[number]
        file = self.files.pop(number, None)
        if file is None:
            try:
                file = parquet.ParquetFile(self.disk.open(path) if self.disk.remote else path)
            except UserError:
                raise
            except (OSError, ValueError, pa.ArrowException) as error:
                reason = " ".join(str(error).split()).rstrip(".")
                raise UserError(f"{path}: no Parquet file, or a damaged one ({reason}).") from None
            while len(self.files) >= 16:
                self.files.popitem(last=False)
        self.files[number] = file
        return file

    def labels(self) -> list[str] | None:
        """The column `label`, as text; numbers by their names where the file has them, as Hugging Face's do."""
        if self.label is None:
            return None
        found: list[str] = []
        for number in range(len(self.paths)):
            if self.label not in self.file(number).schema_arrow.names:
                return None
            with undamaged(self.paths[number], f"its column {self.label!r}"):
                values = self.file(number).read(columns=[self.label]).column(0).to_pylist()
            for value in values:
                if value is None:
                    return None
                named = isinstance(value, int) and 0 <= value < len(self.classes)
                found.append(self.classes[value] if named else str(value))
        return found


@contextlib.contextmanager
def undamaged(path: str, what: str) -> Iterator[None]:
    """What Arrow cannot read inside is told in one line. Raises UserError."""
    pa, _ = arrow()
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{path}: {what} cannot be read: the file is damaged ({reason}). Write it anew, or leave it out."
        ) from error


def arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise missing("parquet", "pyarrow", "reading Parquet") from None
    return pa, parquet


def bytes_column(path: str, schema: Any, wish: str | None) -> tuple[str, str | None]:
    """The column that holds bytes, and the field in it where it is a struct, as Hugging Face's {bytes, path}."""
    pa, _ = arrow()

    def binary(kind: Any) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    able: dict[str, str | None] = {}
    for field in schema:
        if binary(field.type):
            able[field.name] = None
        elif pa.types.is_struct(field.type) and any(part.name == "bytes" and binary(part.type) for part in field.type):
            able[field.name] = "bytes"
    if wish is not None:
        if wish not in able:
            raise unknown(f"column of bytes in {path}", wish, list(able))
        return wish, able[wish]
    if not able:
        raise UserError(f"{path}: no column holds the bytes of files. It has: {', '.join(schema.names)}.")
    usual = [name for name in ("image", "bytes", "jpg", "png") if name in able]
    if len(able) > 1 and not usual:
        raise UserError(
            f"{path}: several columns hold bytes: {', '.join(able)}. Name one, as in {path}::{next(iter(able))}"
        )
    name = usual[0] if usual else next(iter(able))
    return name, able[name]


def label_column(schema: Any, column: str) -> tuple[str | None, list[str]]:
    """The column of labels, and the names of its classes where the schema has them."""
    name = next((name for name in ("label", "labels", "cls", "class") if name in schema.names and name != column), None)
    return name, [] if name is None else class_names(schema, name)


def class_names(schema: Any, column: str) -> list[str]:
    """The names of the classes that the numbers of a column stand for; none where the schema has none."""
    import json

    about: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features", column, "names"):
        about = about.get(key) if isinstance(about, dict) else None
    return [str(word) for word in about] if isinstance(about, list) else []


def column_bytes(group: Any, column: str) -> int:
    """Bytes of a column in a group, decompressed."""
    parts = [group.column(k) for k in range(group.num_columns)]
    of_it = [part for part in parts if f"{part.path_in_schema}.".startswith(f"{column}.")]
    return sum(part.total_uncompressed_size for part in of_it)
