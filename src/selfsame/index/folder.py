"""An index at rest: vectors of one encoder, the names of their items, labels where there are any; in a folder.

    IDX/index.json          what made the vectors, how many rows count, where the items came from
        vectors-1.f32       float32 [rows dim] at unit length, end to end; read through a memory map
        names-1.txt         UTF-8, end to end, and
        ends-1.i64          where each name ends
        labels-1.i32        the number of each label among the classes of index.json; -1 for none
        removed-1.i64       rows that were taken out
        graph-1.faiss       where search is approximate, the graph, and
        graph-1.i64         the row of each of its items; -1 for those that are gone

The files of vectors, names and labels only ever grow, and count as far as index.json says. So an addition that is cut
short, by a full disk or a kill, leaves the index as it was: what lies behind the last row that counts is written over
by the next one. Rows that were taken out stay where they are until they are a quarter of all; then the rest moves to
files of the next number, in blocks.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Float, Int
from pydantic import ValidationError

from selfsame.engine.state import write_text, write_whole, writing
from selfsame.errors import NO_LABEL, UserError, unknown
from selfsame.index import approximate, exact
from selfsame.index.approximate import Graph
from selfsame.index.contract import AT_ONCE, FORMAT, PRIVATE, Found, Index, Made, Origin, check_lengths, not_there, unit
from selfsame.records import Record
from selfsame.storage.names import Names, repeated

CONTENTS = "index.json"
SPARSE = 0.25  # share of rows taken out at which the rest is moved together


class Part(Origin):
    """Rows that came from one place, up to the row `rows`."""

    rows: int


class Contents(Record):
    """index.json."""

    format: int = FORMAT
    made: Made
    near: str | None = None
    """the run's folder as seen from the index, so that both can be moved together"""
    rows: int = 0
    removed: int = 0
    text: int = 0
    """bytes of the names"""
    number: int = 1
    """of the files"""
    classes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    unfinished: str | None = None
    """the data that is being embedded"""
    graph: Graph | None = None


class Folder(Index):
    """An index in a folder of this machine; see the text at the top of the file."""

    KINDS: ClassVar = {"vectors": "f32", "names": "txt", "ends": "i64", "labels": "i32", "removed": "i64"}

    def __init__(self, folder: str | Path) -> None:
        """Open one. Raises UserError where there is none, or it is damaged."""
        self.folder = Path(folder).expanduser()
        self.place = str(folder)
        self._read()

    @classmethod
    def create(cls, folder: str | Path, made: Made) -> Self:
        """An empty index. Raises UserError where the folder is one already, or holds other things."""
        folder = Path(folder).expanduser()
        if (folder / CONTENTS).exists():
            raise UserError(f"{folder} is an index already. Add to it with --add, or choose another --out.")
        if folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty, and no index. Choose another --out.")
        near = None if made.run is None else os.path.relpath(made.run, folder.absolute())
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with held(folder):
            for kind, suffix in cls.KINDS.items():
                with writing(folder):
                    (folder / f"{kind}-1.{suffix}").touch()
            save(folder, Contents(made=made, near=near))
        return cls(folder)

    # Reading ---------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self.contents = contents(self.folder)
        self.made = self.contents.made
        self._forget()
        self._check_files()

    def _forget(self) -> None:
        """Let go of what was read; it is read again where it is needed."""
        for name in ("_rows", "_all_names", "_codes", "_removed", "_marks", "_live", "_gathered", "_names", "_net"):
            self.__dict__.pop(name, None)

    def _check_files(self) -> None:
        now, wanted = self.contents, self._bytes()
        for kind, size in wanted.items():
            path = self._file(kind)
            there = path.stat().st_size if path.is_file() else -1
            if there < size:
                what = "is missing" if there < 0 else f"has {there:,} bytes, of which {size:,} are needed"
                raise UserError(
                    f"{path} {what}: the index of {now.rows:,} rows is damaged, perhaps a copy that was cut short. "
                    "Copy it again, or make it again."
                )

    def _bytes(self) -> dict[str, int]:
        now = self.contents
        return {
            "vectors": 4 * now.rows * now.made.dim,
            "names": now.text,
            "ends": 8 * now.rows,
            "labels": 4 * now.rows,
            "removed": 8 * now.removed,
        }

    def _file(self, kind: str, number: int | None = None) -> Path:
        return self.folder / f"{kind}-{number or self.contents.number}.{self.KINDS[kind]}"

    def _array(self, kind: str, dtype: str, count: int) -> np.ndarray:
        return np.fromfile(self._file(kind), dtype, count)

    @cached_property
    def _rows(self) -> Float[np.ndarray, "rows d"]:
        """All rows, taken out or not."""
        shape = (self.contents.rows, self.made.dim)
        if not all(shape):
            return np.zeros(shape, np.float32)
        return np.memmap(self._file("vectors"), np.dtype("<f4"), PRIVATE, shape=shape)

    @cached_property
    def _all_names(self) -> Names:
        text = self._array("names", "<u1", self.contents.text)
        return Names.of(text, self._array("ends", "<i8", self.contents.rows))

    @cached_property
    def _codes(self) -> Int[np.ndarray, "rows"]:
        return self._array("labels", "<i4", self.contents.rows)

    @cached_property
    def _removed(self) -> Int[np.ndarray, "removed"]:
        return np.sort(self._array("removed", "<i8", self.contents.removed))

    @cached_property
    def _live(self) -> Int[np.ndarray, "n"]:
        """The rows of the items, ascending."""
        keep = np.ones(self.contents.rows, dtype=bool)
        keep[self._removed] = False
        return np.flatnonzero(keep)

    @cached_property
    def _marks(self) -> Int[np.ndarray, "rows"]:
        """A hash of each name: much smaller than a dictionary of names."""
        return np.fromiter(map(hash, self._all_names), np.int64, self.contents.rows)

    @cached_property
    def _gathered(self) -> Float[np.ndarray, "n d"]:
        """The vectors of the items, in a file without a name where some rows were taken out: it goes with its map."""
        shape = (len(self), self.made.dim)
        with tempfile.TemporaryFile() as file, writing(Path(tempfile.gettempdir())):
            for start in range(0, len(self), AT_ONCE):
                file.write(self._rows[self._live[start : start + AT_ONCE]].tobytes())
            file.flush()
            return np.memmap(file, np.dtype("<f4"), PRIVATE, shape=shape) if all(shape) else np.zeros(shape, np.float32)

    @cached_property
    def _names(self) -> Names:
        return Names(self._all_names[int(row)] for row in self._live)

    def __len__(self) -> int:
        return self.contents.rows - self.contents.removed

    @property
    def names(self) -> Names:
        return self._names if self.contents.removed else self._all_names

    @property
    def labels(self) -> list[str] | None:
        if not self.contents.classes:
            return None
        classes = [*self.contents.classes, NO_LABEL]  # -1 is the last
        return [classes[code] for code in self._codes[self._live]]

    @property
    def vectors(self) -> Float[np.ndarray, "n d"]:
        return self._gathered if self.contents.removed else self._rows

    def _code(self, label: str) -> int:
        if not self.contents.classes:
            raise UserError(f"{self.place} holds no labels, so none can be {label!r}.")
        if label not in self.contents.classes:
            raise unknown("label", label, self.contents.classes, f"These are in {self.place}.")
        return self.contents.classes.index(label)

    def count(self, label: str) -> int:
        return int((self._codes[self._live] == self._code(label)).sum())

    def _row(self, name: str) -> int | None:
        for row in np.flatnonzero(self._marks == hash(name)).tolist():
            place = int(np.searchsorted(self._removed, row))
            gone = place < len(self._removed) and self._removed[place] == row
            if not gone and self._all_names[row] == name:
                return row
        return None

    def known(self, names: Sequence[str]) -> list[str]:
        marks = np.fromiter(map(hash, names), np.int64, len(names))
        maybe = np.flatnonzero(np.isin(marks, self._marks)).tolist()
        rows = self._rows_of([names[i] for i in maybe])
        return [names[i] for i, row in zip(maybe, rows, strict=True) if row is not None]

    def _rows_of(self, names: Sequence[str]) -> list[int | None]:
        if len(names) < 64:
            return [self._row(name) for name in names]
        rows = {
            self._all_names[int(row)]: int(row)
            for row in self._live[np.isin(self._marks[self._live], list(map(hash, names)))]
        }
        return [rows.get(name) for name in names]

    def vector(self, name: str) -> Float[np.ndarray, "d"]:
        row = self._row(name)
        if row is None:
            raise not_there(self, name)
        return np.array(self._rows[row])

    def labels_of(self, names: Sequence[str]) -> list[str]:
        classes = [*self.contents.classes, NO_LABEL]
        return [classes[-1 if row is None else self._codes[row]] for row in self._rows_of(names)]

    def origins_of(self, names: Sequence[str]) -> list[Origin | None]:
        ends = [part.rows for part in self.contents.parts]
        parts = [Origin(path=part.path, prefix=part.prefix) if part.path else None for part in self.contents.parts]
        rows = self._rows_of(names)
        return [None if row is None else parts[int(np.searchsorted(ends, row, side="right"))] for row in rows]

    @property
    def runs(self) -> list[Path]:
        near = [(self.folder / self.contents.near).resolve()] if self.contents.near else []
        return [*super().runs, *near]

    @property
    def sources(self) -> list[Origin]:
        found = {part.path: Origin(path=part.path, prefix=part.prefix) for part in reversed(self.contents.parts)}
        return [found[path] for path in dict.fromkeys(part.path for part in self.contents.parts) if path]

    def close(self) -> None:
        self._forget()

    def _items(self, places: Int[np.ndarray, "m"]) -> tuple[list[str], Float[np.ndarray, "m d"]]:
        rows = self._live[places]
        return [self._all_names[int(row)] for row in rows], np.array(self._rows[rows])

    def _search(self, queries: Float[np.ndarray, "q d"], k: int, label: str | None, view: int) -> Found:
        found = self._walked(queries, k, view) if view else None
        if found is None:
            rows = None if label is None else self._live[self._codes[self._live] == self._code(label)]
            if rows is None and self.contents.removed:
                rows = self._live
            found = exact.search(self._rows, queries, k, rows)
        cosines, places = found
        classes = [*self.contents.classes, NO_LABEL]
        return Found(
            names=[[self._all_names[int(row)] for row in line] for line in places],
            cosines=cosines,
            items=np.searchsorted(self._live, places) if self.contents.removed else places,
            labels=[[classes[code] for code in self._codes[line]] for line in places] if classes[:-1] else None,
        )

    # Approximate search ----------------------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph | None:
        return self.contents.graph

    @cached_property
    def _net(self) -> tuple[Any, Int[np.ndarray, "m"], Any, Int[np.ndarray, "t"]]:
        """The graph, the row of each of its items, which of them are still there, and the rows that are not in it."""
        known = self.contents.graph
        assert known is not None
        net = approximate.read(self.folder / known.file)
        rows = self._graph_rows(net.ntotal)
        alive = np.zeros(self.contents.rows + 1, dtype=bool)  # the last for -1
        alive[self._live] = True
        return net, rows, approximate.kept(alive[rows]), self._live[self._live >= known.covered]

    def _graph_rows(self, count: int) -> Int[np.ndarray, "m"]:
        known = self.contents.graph
        assert known is not None
        return np.fromfile(self.folder / known.rows_file, "<i8", count)

    def _walked(
        self, queries: Float[np.ndarray, "q d"], k: int, view: int
    ) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]] | None:
        """What the graph finds, and exact search among what came after it; None where that is too little."""
        net, rows, alive, late = self._net
        cosines, places = approximate.search(net, queries, k, view, alive)
        found = np.where(places < 0, -1, rows[places])
        cosines = np.where(places < 0, -np.inf, cosines)
        if len(late):
            more, at = exact.search(self._rows, queries, min(k, len(late)), late)
            cosines, found = np.concatenate([cosines, more], axis=1), np.concatenate([found, at], axis=1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        cosines, found = np.take_along_axis(cosines, order, 1), np.take_along_axis(found, order, 1)
        return None if (found < 0).any() else (cosines.clip(-1, 1).astype(np.float32), found)

    def approximate(self) -> Graph:
        with held(self.folder):
            self._follow()
            old, number = self.contents.graph, 1
            net = rows = None
            if old is not None:
                number = int(old.file.removeprefix("graph-").removesuffix(".faiss")) + 1
                grown = approximate.read(self.folder / old.file, whole=True)
                at = self._graph_rows(grown.ntotal)
                if np.isin(at, self._live).mean() >= 0.5:  # of a graph that is mostly of items long gone a new one
                    net, rows = grown, at
            covered = 0 if net is None or old is None else old.covered
            late = self._live[self._live >= covered]
            net = approximate.new(self.made.dim) if net is None else net
            approximate.grown(net, self._rows, late)
            rows = late if rows is None else np.concatenate([rows, late])
            file, rows_file = f"graph-{number}.faiss", f"graph-{number}.i64"
            approximate.written(net, self.folder / file)
            write_whole(self.folder / rows_file, lambda draft: draft.write_bytes(rows.astype("<i8").tobytes()))
            known = Graph(
                kind="HNSW of faiss",
                view=1,
                recall=0,
                k=1,
                asked=1,
                items=len(self),
                file=file,
                rows_file=rows_file,
                covered=self.contents.rows,
            )
            before = self.contents
            self.contents = before.changed(graph=known)
            self._forget()
            try:
                view, k, recall = approximate.widened(len(self), self._recall)
            finally:
                self.contents = before
                self._forget()
            asked = min(approximate.ASKED, len(self))
            save(self.folder, before.changed(graph=known.changed(view=view, k=k, recall=recall, asked=asked)))
            self._read()
            self._sweep()
            assert self.contents.graph is not None
            return self.contents.graph

    def _sweep(self) -> None:
        """Remove the files of older graphs."""
        known = self.contents.graph
        for path in self.folder.glob("graph-*"):
            if known is None or path.name not in (known.file, known.rows_file):
                path.unlink(missing_ok=True)

    # Writing ---------------------------------------------------------------------------------------------------------

    def add(
        self,
        names: Sequence[str],
        vectors: Float[np.ndarray, "n d"],
        labels: Sequence[str | None] | None = None,
        origin: Origin | None = None,
    ) -> None:
        check_lengths(names, vectors, labels)
        with held(self.folder):
            self._follow()
            self._check_new(names)
            now = self.contents
            codes, classes = coded(labels, len(names), now.classes)
            added = Names(names)
            ends = np.frombuffer(added.ends, np.int64) + now.text if len(added) else np.zeros(0, np.int64)
            with self._appending():
                with self._at_end("vectors") as file:
                    for start in range(0, len(names), AT_ONCE):
                        block = vectors[start : start + AT_ONCE]
                        file.write(unit(block, now.made.dim, "an item", names[start : start + AT_ONCE]).tobytes())
                for kind, content in (("names", bytes(added.text)), ("ends", ends.tobytes()), ("labels", codes)):
                    with self._at_end(kind) as file:
                        file.write(content)
                rows, text = now.rows + len(names), now.text + len(added.text)
                parts = lengthened(now.parts, origin or Origin(path=""), rows)
                save(self.folder, now.changed(rows=rows, text=text, classes=classes, parts=parts))
            known, marks = self._all_names, np.fromiter(map(hash, names), np.int64, len(names))
            marks = np.concatenate([self._marks, marks])
            self._read()
            known.extend(names)
            # What was read once is not read again: a large index is made by many additions.
            self.__dict__.update(_all_names=known, _marks=marks)

    def remove(self, names: Sequence[str]) -> int:
        with held(self.folder):
            self._follow()
            once = list(dict.fromkeys(names))
            rows = self._rows_of(once)
            if None in rows:
                raise not_there(self, once[rows.index(None)], "Nothing was removed.")
            now = self.contents
            with self._appending():
                with self._at_end("removed") as file:
                    file.write(np.array(rows, dtype="<i8").tobytes())
                save(self.folder, now.changed(removed=now.removed + len(rows)))
            self._read()
        if self.contents.removed >= SPARSE * self.contents.rows and rows:
            self.compact()
        return len(rows)

    def compact(self) -> None:
        """Move the rows of items together, in blocks, into new files; the rows taken out are then gone from the disk.

        Needs the room of the new files beside the old ones. Raises UserError where it is not there; nothing is lost.
        """
        with held(self.folder):
            self._follow()
            now = self.contents
            if not now.removed:
                return
            number = now.number + 1
            try:
                with writing(self.folder):
                    with self._file("vectors", number).open("wb") as file:
                        for start in range(0, len(self), AT_ONCE):
                            file.write(self._rows[self._live[start : start + AT_ONCE]].tobytes())
                        settled(file)
                    kept = self._names
                    rest = {"names": kept.text, "ends": bytes(kept.ends), "labels": self._codes[self._live].tobytes()}
                    for kind, content in {**rest, "removed": b""}.items():
                        with self._file(kind, number).open("wb") as file:
                            file.write(content)
                            settled(file)
                ends = np.searchsorted(self._live, [part.rows for part in now.parts])
                parts = [part.changed(rows=int(end)) for part, end in zip(now.parts, ends, strict=True)]
                known = {"rows": len(self), "removed": 0, "text": len(kept.text), "number": number, "parts": parts}
                if now.graph is not None:
                    known["graph"] = self._moved(now.graph, number)
                save(self.folder, now.changed(**known))
            except BaseException:
                for kind in self.KINDS:
                    self._file(kind, number).unlink(missing_ok=True)
                raise
            for kind in self.KINDS:
                self._file(kind, now.number).unlink(missing_ok=True)
            self._read()
            self._sweep()

    def _moved(self, graph: Graph, number: int) -> Graph:
        """The graph as it is when the rows have moved together: its items are the same, at other rows."""
        rows = self._graph_rows((self.folder / graph.rows_file).stat().st_size // 8)
        place = np.full(self.contents.rows + 1, -1, dtype="<i8")  # the last for -1
        place[self._live] = np.arange(len(self))
        file = graph.rows_file.replace(".i64", f"-{number}.i64")
        write_whole(self.folder / file, lambda draft: draft.write_bytes(place[rows].tobytes()))
        return graph.changed(rows_file=file, covered=int(np.searchsorted(self._live, graph.covered)))

    def together(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    @property
    def unfinished(self) -> str | None:
        return self.contents.unfinished

    def mark(self, data: str | None) -> None:
        with held(self.folder):
            self._follow()
            save(self.folder, self.contents.changed(unfinished=data))
            self._read()

    def _follow(self) -> None:
        """Take over what others have written meanwhile."""
        if contents(self.folder) != self.contents:
            self._read()

    def _check_new(self, names: Sequence[str]) -> None:
        if twice := repeated(names):
            raise UserError(
                f"the name {twice[0]!r} is given twice; each item of an index has its own. Nothing was added."
            )
        if known := self.known(names):
            raise UserError(
                f"{self.place} holds {len(known):,} of these names already, {known[0]!r} for one. Remove them first, "
                "or give others. Nothing was added."
            )

    @contextlib.contextmanager
    def _at_end(self, kind: str) -> Iterator[Any]:
        """A file to write on behind what counts in it; forced to the disk at the end."""
        with self._file(kind).open("r+b") as file:
            file.truncate(self._bytes()[kind])
            file.seek(0, os.SEEK_END)
            yield file
            settled(file)

    @contextlib.contextmanager
    def _appending(self) -> Iterator[None]:
        """Cut files back to what counts where the block fails; index.json has not been changed then."""
        try:
            with writing(self.folder):
                yield
        except BaseException:
            with contextlib.suppress(OSError):
                for kind, size in self._bytes().items():
                    os.truncate(self._file(kind), size)
            raise


def contents(folder: Path) -> Contents:
    """index.json, checked. Raises UserError."""
    path = folder / CONTENTS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found["format"]
        if not isinstance(version, int):
            raise TypeError("its format is no number")
        if version > FORMAT:
            raise UserError(
                f"{path} has format {version}; this selfsame reads up to {FORMAT}. Install a newer selfsame."
            )
        return Contents.model_validate(found)
    except (FileNotFoundError, NotADirectoryError):
        what = "is no index (it has no index.json)" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} {what}. Make one with: selfsame index RUN PATH --out {folder}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged ({reason}). Restore it, or make the index again.") from None


def save(folder: Path, now: Contents) -> None:
    write_text(folder / CONTENTS, now.model_dump_json(indent=1) + "\n")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Let nobody else write meanwhile. Raises UserError where somebody does; the system frees it at the end."""
    lock = FileLock(folder / ".lock")
    with writing(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is changing {folder}. Wait until it is done and try again.") from None
    try:
        yield
    finally:
        lock.release()


def settled(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def coded(labels: Sequence[str | None] | None, count: int, classes: Sequence[str]) -> tuple[bytes, list[str]]:
    """The labels as numbers, and the classes with those that are new behind them."""
    numbers = {name: number for number, name in enumerate(classes)}
    given = labels if labels is not None else [None] * count
    codes = [-1 if label is None or label == NO_LABEL else numbers.setdefault(label, len(numbers)) for label in given]
    return np.array(codes, dtype="<i4").tobytes(), list(numbers)


def lengthened(parts: Sequence[Part], origin: Origin, rows: int) -> list[Part]:
    last = parts[-1:]
    if last and (last[0].path, last[0].prefix) == (origin.path, origin.prefix):
        parts = parts[:-1]
    return [*parts, Part(path=origin.path, prefix=origin.prefix, rows=rows)]
