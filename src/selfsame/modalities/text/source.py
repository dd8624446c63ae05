"""Texts at rest, read by number: lines of files and whole files. Labels are for evaluation only.

Nothing is held but where items begin: files of any size are read item by item. Rows of tables stand in `rows`.
Raises UserError where there is nothing to read, UnreadableItem for one bad item.
"""

import codecs
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.text.lines import MARKS, lines_of
from selfsame.modalities.text.reading import Reading
from selfsame.storage.disk import Disk
from selfsame.storage.folders import listed
from selfsame.storage.tables import first_names

if TYPE_CHECKING:
    from selfsame.modalities.text.stats import Stats
    from selfsame.modalities.text.tokens import Codec

LONGEST = 1 << 16  # bytes of an item that are read; what is behind is left out, and counted
LOOKED = 100_000  # items that are read at opening: all, or of more than these as many, drawn by the seed


class TextSource:
    """Texts read by number. Survives pickling and forking.

    `labels` may be a function that finds them: they are not looked for before they are wanted.
    """

    looks = LOOKED
    blocks: Int64[np.ndarray, "k"] | None = None
    window = 1
    array = None
    noted = None
    """nothing: what `measure` finds is all in its statistics"""
    column = ""
    """the column of the text, where there are columns"""
    columns: Sequence[str] = ()
    """the names of all columns"""

    def __init__(self, path: str, reading: Reading, labels: Any = None) -> None:
        self.path = path
        self.reading = reading
        self.known_labels = labels
        self.labelled_by = ""
        """the column that was asked for as labels"""
        self.empty = 0
        """lines without text, which are no items"""
        self.ignored: dict[str, int] = {}
        """files that are no text, counted by their suffix"""
        self.coding: str | None = None
        self.made: Codec | None = None

    @property
    def roles(self) -> list[tuple[str, str, str]]:
        """Which column of a table is the text, and which are not read."""
        if not self.column:
            return []
        others = [name for name in self.columns if name != self.column]
        found = [("text column", self.column, "given" if self.reading.column else "of words, with the longest texts")]
        return [*found, ("left out", first_names(others), "no text")] if others else found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "known_labels": None, "made": None}  # of no use to workers, or made there

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, i: int) -> str:
        """As in reviews.txt:12, or the path below the folder. Unique."""
        raise NotImplementedError

    def held(self, i: int) -> bytes | str:
        """The item as it lies there, cut after LONGEST bytes. Raises UnreadableItem."""
        raise NotImplementedError

    def labels_by_column(self, name: str) -> list[str]:
        """The cells of a column; NO_LABEL for rows that cannot be read. Raises UserError for unknown names."""
        raise NotImplementedError

    def stored(self, i: int) -> int:
        """Bytes of the item at rest."""
        raise NotImplementedError

    @property
    def labels(self) -> list[str] | None:
        if self.labelled_by and self.labelled_by == self.column:
            raise UserError(f"--labels {self.column}: this is the column of the text. Give another.")
        if callable(self.known_labels):
            self.known_labels = self.known_labels()
        return self.known_labels

    @labels.setter
    def labels(self, labels: Any) -> None:
        self.known_labels = labels

    @property
    def place(self) -> str | None:
        """The folder that names are relative to; None where they name no files."""
        return None

    def fit(self, stats: "Stats") -> None:
        """From now on `codec` is that of these statistics, and so is the column, unless the reading names one.

        Raises UserError where the table has several columns and none is the one that was learned from.
        """
        self.coding, self.made = stats.tokenizer, None
        if self.reading.column is not None or not stats.column or len(self.columns) < 2:
            return
        if stats.column not in self.columns:
            raise UserError(
                f"{self.path} has no column {stats.column!r}, which the encoder learned from. It has: "
                f"{', '.join(self.columns)}. Give the column of the text that name."
            )
        if stats.column != self.column:
            self.take(stats.column)

    def take(self, column: str) -> None:
        """Read the texts of this column of the table from now on."""
        self.column = column

    @property
    def codec(self) -> "Codec":
        """What makes token numbers of texts. Made in each process."""
        from selfsame.modalities.text.tokens import Codec

        if self.made is None:
            assert self.coding is not None, "the source has not been fitted"
            self.made = Codec(self.coding)
        return self.made

    def read(self, i: int) -> str:
        """The text, its blanks and line ends one blank each, in Unicode's composed form. Raises UnreadableItem."""
        held = self.held(i)
        text = held if isinstance(held, str) else decoded(held, self.reading.encoding)
        text = text.encode("utf-8", "replace").decode()  # half a character, as "\\ud83d" of a JSON may be: one of "?"
        text = " ".join(unicodedata.normalize("NFC", text).split())
        if not text:
            raise UnreadableItem("there is no text in it")
        return text

    def read_rest(self, i: int) -> bool:
        """Whether something of the item is left out, because it is very long."""
        return self.stored(i) > LONGEST

    @property
    def left_out(self) -> str:
        """As in: 12 .pdf, 3 empty lines."""
        parts = [listed(self.ignored)] if self.ignored else []
        if self.empty:
            parts.append(f"{self.empty:,} empty line{'s' if self.empty > 1 else ''}")
        return ", ".join(parts)


def decoded(data: bytes, encoding: str) -> str:
    """The text of these bytes; a character that was cut through at their end is left out. Raises UnreadableItem."""
    if b"\0" in data:
        raise UnreadableItem("it holds zero bytes: no text, or one in UTF-16, which must be converted to UTF-8")
    try:
        return codecs.getincrementaldecoder(encoding)().decode(data, final=len(data) < LONGEST)
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{data[error.start]:02x} at {error.start} is no {encoding.upper()}"
        hint = "; if it is Latin-1 or Windows-1252: --reading.encoding cp1252" if encoding == "utf-8" else ""
        raise UnreadableItem(f"{wrong}{hint}") from None


class LineSource(TextSource):
    """One line an item, of one or several files."""

    def __init__(
        self, path: str, root: str, names: Sequence[str], reading: Reading, labels: Any = None, marked: bool = False
    ) -> None:
        super().__init__(path, reading, labels)
        self.root = root
        self.files = list(names)
        found = [lines_of(str(Path(root) / name)) for name in self.files]
        self.firsts = np.cumsum([0, *(len(one["start"]) for one in found)])
        self.start, self.size, self.line = (
            np.concatenate([one[key] for one in found]) for key in ("start", "size", "line")
        )
        self.empty = sum(int(one["empty"]) for one in found)
        if not len(self):
            raise UserError(f"{path}: there is no line with text in it.")

    def __len__(self) -> int:
        return len(self.start)

    def file_of(self, i: int) -> str:
        return self.files[bisect_right(self.firsts, i) - 1]

    def name(self, i: int) -> str:
        return f"{self.file_of(i)}:{self.line[range(len(self))[i]]}"

    def stored(self, i: int) -> int:
        return int(self.size[i])

    def held(self, i: int) -> bytes | str:
        place = str(Path(self.root) / self.file_of(i))
        try:
            return Disk().cut(place, int(self.start[i]), min(int(self.size[i]), LONGEST))
        except OSError as error:
            raise UnreadableItem(f"{place} cannot be read: {error.strerror}") from error

    def labels_of_files(self) -> list[str] | None:
        """The names of the files without suffix, where there are several."""
        if len(self.files) < 2:
            return None
        stems = [Path(name).stem for name in self.files]
        words = stems if len(set(stems)) == len(stems) else self.files
        return [word for word, count in zip(words, np.diff(self.firsts), strict=True) for _ in range(count)]


class FileSource(TextSource):
    """One file an item. Names are relative to `root`, or absolute."""

    def __init__(self, path: str, root: str, names: Sequence[str], reading: Reading, labels: Any = None) -> None:
        super().__init__(path, reading, labels)
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    @property
    def place(self) -> str:
        return str(Path.cwd() / self.root)

    def name(self, i: int) -> str:
        return self.names[i]

    def stored(self, i: int) -> int:
        try:
            return (Path(self.root) / self.names[i]).stat().st_size
        except OSError as error:
            raise UnreadableItem(f"it cannot be read: {error.strerror}") from error

    def held(self, i: int) -> bytes | str:
        try:
            data = Disk().cut(str(Path(self.root) / self.names[i]), 0, LONGEST)
        except OSError as error:
            raise UnreadableItem(f"it cannot be read: {error.strerror}") from error
        for mark, kind in MARKS.items():
            if data.startswith(mark):
                raise UnreadableItem(f"it is in {kind}, which must be converted to UTF-8")
        return data.removeprefix(codecs.BOM_UTF8)
