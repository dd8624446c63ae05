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
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from selfsame.engine.state import writing
from selfsame.errors import NO_LABEL, UserError
from selfsame.index import approximate, exact
from selfsame.index.approximate import Graph
from selfsame.index.contents import CONTENTS, Contents, coded, contents, held, lengthened, save, settled
from selfsame.index.contract import AT_ONCE, Addition, Found, Index, Made, Origin, no_label, not_there
from selfsame.index.net import Net, moved
from selfsame.index.rows import Rows
from selfsame.storage.names import Names

SPARSE = 0.25  # share of rows taken out at which the rest is moved together


class Folder(Index):
    """An index in a folder of this machine; see the text at the top of the file."""

    def __init__(self, folder: str | Path) -> None:
        """Open one. Raises UserError where there is none, or it is damaged."""
        self.folder = Path(folder).expanduser()
        self.place = str(folder)
        self._read()

    def _read(self) -> None:
        self.contents = contents(self.folder)
        self.made = self.contents.made
        self._forget()

    def _forget(self) -> None:
        """Let go of what was read; it is read again where it is needed."""
        self.rows = Rows(self.folder, self.contents)
        self.__dict__.pop("_net", None)

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
            for kind, suffix in Rows.KINDS.items():
                with writing(folder):
                    (folder / f"{kind}-1.{suffix}").touch()
            save(folder, Contents(made=made, near=near))
        return cls(folder)

    def __len__(self) -> int:
        return self.contents.rows - self.contents.removed

    @property
    def names(self) -> Names:
        return self.rows.live_names

    @property
    def labels(self) -> list[str] | None:
        if not self.contents.classes:
            return None
        return self._labels_at(self.rows.live)

    def _labels_at(self, rows: Any) -> list[str]:
        classes = [*self.contents.classes, NO_LABEL]  # -1 is the last
        return [classes[code] for code in self.rows.codes[rows]]

    @property
    def vectors(self) -> Float[np.ndarray, "n d"]:
        return self.rows.live_vectors

    def _labelled(self, label: str) -> Int[np.ndarray, "m"]:
        """The rows of the items with a label. Raises UserError where there is no such label."""
        if label not in self.contents.classes:
            raise no_label(self, label, self.contents.classes)
        return self.rows.live[self.rows.codes[self.rows.live] == self.contents.classes.index(label)]

    def count(self, label: str) -> int:
        return len(self._labelled(label))

    def known(self, names: Sequence[str]) -> list[str]:
        marks = np.fromiter(map(hash, names), np.int64, len(names))
        maybe = np.flatnonzero(np.isin(marks, self.rows.marks)).tolist()
        rows = self.rows.of_each([names[i] for i in maybe])
        return [names[i] for i, row in zip(maybe, rows, strict=True) if row is not None]

    def vector(self, name: str) -> Float[np.ndarray, "d"]:
        row = self.rows.of(name)
        if row is None:
            raise not_there(self, name)
        return np.array(self.rows.vectors[row])

    def labels_of(self, names: Sequence[str]) -> list[str]:
        classes = [*self.contents.classes, NO_LABEL]
        return [classes[-1 if row is None else self.rows.codes[row]] for row in self.rows.of_each(names)]

    def origins_of(self, names: Sequence[str]) -> list[Origin | None]:
        ends = [part.rows for part in self.contents.parts]
        parts = [Origin(path=part.path, prefix=part.prefix) if part.path else None for part in self.contents.parts]
        rows = self.rows.of_each(names)
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
        rows = self.rows.live[places]
        return [self.rows.names[int(row)] for row in rows], np.array(self.rows.vectors[rows])

    def _search(self, queries: Float[np.ndarray, "q d"], k: int, label: str | None, view: int) -> Found:
        found = self._net.walked(self.rows.vectors, queries, k, view) if view else None
        if found is None:
            rows = self.rows.live if self.contents.removed else None
            found = exact.search(self.rows.vectors, queries, k, rows if label is None else self._labelled(label))
        cosines, places = found
        return Found(
            names=[[self.rows.names[int(row)] for row in line] for line in places],
            cosines=cosines,
            items=np.searchsorted(self.rows.live, places) if self.contents.removed else places,
            labels=[self._labels_at(line) for line in places] if self.contents.classes else None,
        )

    # Approximate search ----------------------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph | None:
        return self.contents.graph

    @cached_property
    def _net(self) -> Net:
        known = self.contents.graph
        assert known is not None
        return Net.read(self.folder, known).among(self.rows.live, self.contents.rows, known.covered)

    @classmethod
    def check_graph(cls, made: Made) -> None:
        approximate.library()

    def approximate(self) -> Graph:
        with held(self.folder):
            self._follow()
            old = self.contents.graph
            number = 1 if old is None else int(old.file.removeprefix("graph-").removesuffix(".faiss")) + 1
            net, covered = Net.to_grow(self.folder, old, self.rows.live, self.made.dim)
            net.grow(self.rows.vectors, self.rows.live[self.rows.live >= covered])
            known = Graph(
                kind="HNSW of faiss", view=1, recall=0, k=1, asked=1, items=len(self), covered=self.contents.rows,
                **net.write(self.folder, number),
            )  # fmt: skip
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

    def _add(self, added: Addition) -> None:
        with held(self.folder):
            self._follow()
            self._check_new(added.names)
            now, before = self.contents, self.rows
            codes, classes = coded(added.labels, len(added.names), now.classes)
            names = Names(added.names)
            ends = np.frombuffer(names.ends, np.int64) + now.text if len(names) else np.zeros(0, np.int64)
            with self._appending():
                with self._at_end("vectors") as file:
                    for _, block in added.blocks(now.made.dim):
                        file.write(block.tobytes())
                for kind, content in (("names", bytes(names.text)), ("ends", ends.tobytes()), ("labels", codes)):
                    with self._at_end(kind) as file:
                        file.write(content)
                rows, text = now.rows + len(names), now.text + len(names.text)
                parts = lengthened(now.parts, added.origin or Origin(path=""), rows)
                save(self.folder, now.changed(rows=rows, text=text, classes=classes, parts=parts))
            known, marks = before.names, np.fromiter(map(hash, added.names), np.int64, len(names))
            marks = np.concatenate([before.marks, marks])
            self._read()
            known.extend(added.names)
            # What was read once is not read again: a large index is made by many additions.
            self.rows.names, self.rows.marks = known, marks

    def remove(self, names: Sequence[str]) -> int:
        with held(self.folder):
            self._follow()
            once = list(dict.fromkeys(names))
            rows = self.rows.of_each(once)
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
            number, live = now.number + 1, self.rows.live
            try:
                with writing(self.folder):
                    with self.rows.file("vectors", number).open("wb") as file:
                        for start in range(0, len(live), AT_ONCE):
                            file.write(self.rows.vectors[live[start : start + AT_ONCE]].tobytes())
                        settled(file)
                    kept = self.rows.live_names
                    rest = {"names": kept.text, "ends": bytes(kept.ends), "labels": self.rows.codes[live].tobytes()}
                    for kind, content in {**rest, "removed": b""}.items():
                        with self.rows.file(kind, number).open("wb") as file:
                            file.write(content)
                            settled(file)
                ends = np.searchsorted(live, [part.rows for part in now.parts])
                parts = [part.changed(rows=int(end)) for part, end in zip(now.parts, ends, strict=True)]
                known = {"rows": len(self), "removed": 0, "text": len(kept.text), "number": number, "parts": parts}
                if now.graph is not None:
                    known["graph"] = moved(self.folder, now.graph, live, now.rows, number)
                save(self.folder, now.changed(**known))
            except BaseException:
                for kind in Rows.KINDS:
                    self.rows.file(kind, number).unlink(missing_ok=True)
                raise
            for kind in Rows.KINDS:
                self.rows.file(kind, now.number).unlink(missing_ok=True)
            self._read()
            self._sweep()

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

    @contextlib.contextmanager
    def _at_end(self, kind: str) -> Iterator[Any]:
        """A file to write on behind what counts in it; forced to the disk at the end."""
        with self.rows.file(kind).open("r+b") as file:
            file.truncate(self.rows.sizes()[kind])
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
                for kind, size in self.rows.sizes().items():
                    os.truncate(self.rows.file(kind), size)
            raise
