"""The names of very many items in little memory."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

AT_ONCE = 65536


class Names(Sequence[str]):
    """Texts by number, their bytes end to end: about 8 bytes each beside their own, where a list takes 60 to 100.

    Reading processes share it: nothing in it is touched when it is read, as the counts of references of a list are.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.text = bytearray()
        self.ends = array("q")
        self.extend(names)

    @classmethod
    def of(cls, text: Any, ends: Any) -> "Names":
        """From arrays of uint8 and int64, as `text` and `ends` are."""
        names = cls()
        names.text = bytearray(text)
        names.ends.frombytes(np.ascontiguousarray(ends, np.int64).tobytes())
        return names

    def extend(self, names: Iterable[str]) -> None:
        rest = iter(names)
        while encoded := [name.encode("utf-8", "surrogateescape") for name in islice(rest, AT_ONCE)]:
            lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
            self.ends.frombytes((len(self.text) + np.cumsum(lengths)).tobytes())
            self.text += b"".join(encoded)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self.ends))[i]
        return self.text[self.ends[i - 1] if i else 0 : self.ends[i]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self.ends:
            yield self.text[start:end].decode("utf-8", "surrogateescape")
            start = end

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self.text == other.text and self.ends == other.ends
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Names({self[:3]}{f' and {len(self) - 3:,} more' if len(self) > 3 else ''})"

    __hash__ = None  # type: ignore[assignment]


def repeated(names: Sequence[str]) -> list[str]:
    """The names that stand there more than once, each once. Hashes are compared first: they are small."""
    marks = np.fromiter(map(hash, names), np.int64, len(names))
    values, counts = np.unique(marks, return_counts=True)
    doubtful = np.flatnonzero(np.isin(marks, values[counts > 1]))
    return [name for name, number in Counter(names[int(i)] for i in doubtful).items() if number > 1]
