"""Where the rows of a CSV begin, of any size and in one pass: a line within quotation marks is no row of its own."""

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from selfsame.storage.disk import Disk

__all__ = ["SCAN", "Marks", "line_starts"]

SCAN = 8 << 20  # bytes of a CSV read at a time


def line_starts(path: str, disk: Disk, separator: str) -> tuple[Int64[np.ndarray, "n"], int, Int64[np.ndarray, "m"]]:
    """Where each row begins, without blank lines; where the last ends; and where lines end within a cell.

    A line within quotation marks is no row of its own, unless the last of them is never closed: then they are plain
    signs, as the inches of a screen.
    """
    starts, end, lines, closed = scanned(path, disk, separator)
    return (starts, end, lines) if closed else scanned(path, disk, "")[:3]


def scanned(path: str, disk: Disk, separator: str) -> tuple[Int64[np.ndarray, "n"], int, Int64[np.ndarray, "m"], bool]:
    """Where rows begin, bytes of the file, where lines end within cells, and whether all quotation marks are closed;
    without a separator these are plain signs."""
    found: list[np.ndarray] = []
    inner: list[np.ndarray] = [np.zeros(0, np.int64)]
    place, fresh = 0, True  # fresh: the next sign that is none of a line's end begins a row
    marks = Marks(separator) if separator else None
    with disk.open(path, SCAN) as file:
        while data := file.read(SCAN):
            signs = np.frombuffer(data, np.uint8)
            ends = np.flatnonzero((signs == 10) | (signs == 13))
            if marks:
                within = marks.within
                edges = marks.edges(signs)
                if within or len(edges):
                    outside = (within + np.searchsorted(edges, ends)) % 2 == 0
                    held = ends[~outside]
                    inner.append(place + held[signs[held] == 10].astype(np.int64))
                    ends = ends[outside]
            begins = np.concatenate([[0] if fresh else [], ends + 1]).astype(np.int64)
            begins = begins[begins < len(signs)]
            # Of several line ends in a row, and before spaces only, what is between them begins no row.
            begins = begins[(signs[begins] != 10) & (signs[begins] != 13)]
            found.append(place + begins)
            fresh = bool(len(ends) and ends[-1] == len(signs) - 1)
            place += len(signs)
    starts = np.concatenate(found) if found else np.zeros(0, np.int64)
    if len(starts) and starts[0] == 0 and disk.cut(path, 0, 3) == b"\xef\xbb\xbf":
        starts[0] = 3
    return starts, place, np.concatenate(inner), not (marks and marks.within)


class Marks:
    """The quotation marks of a file that open or close a cell, as module csv takes them, chunk after chunk.

    One opens a cell only as its first sign: behind a separator, a line's end or, but for tabs, spaces behind these.
    Any other outside is a plain sign, as in 5" disk. Within, the next one closes; two in a row close and open again.
    """

    def __init__(self, separator: str) -> None:
        self.separator = ord(separator)
        self.within = False
        self.first = True  # no chunk was seen yet
        self.closing = False  # the sign before the chunk is a mark that closed a cell
        self.last = 10  # the sign before the chunk
        self.solid = 10  # the last one before it that is no space

    def edges(self, signs: UInt8[np.ndarray, "n"]) -> Int64[np.ndarray, "k"]:
        """Where in the next chunk a quoted cell begins or ends, ascending."""
        quotes = np.flatnonzero(signs == 34)
        kept = np.zeros(0, bool)
        if len(quotes):
            after = signs[quotes - 1]
            if quotes[0] == 0:
                after[0] = self.last
            again = after == 34
            again[0] &= self.closing
            spaced = np.flatnonzero(after == 32)
            if self.separator != 9 and len(spaced):
                solid = np.flatnonzero(signs != 32)  # the quotes are among them
                behind = np.searchsorted(solid, quotes[spaced])
                after[spaced] = np.where(behind > 0, signs[solid[behind - 1]], self.solid)
            opening = (after == self.separator) | (after == 10) | (after == 13)
            if self.first and signs[:4].tobytes() == b'\xef\xbb\xbf"':
                opening[0] = True
            kept = self.turning(opening, again)
        self.closing = bool(len(quotes) and kept[-1] and quotes[-1] == len(signs) - 1 and not self.within)
        self.first, self.last = False, int(signs[-1])
        if self.last != 32:
            self.solid = self.last
        elif len(solid := np.flatnonzero(signs != 32)):
            self.solid = int(signs[solid[-1]])
        return quotes[kept]

    def turning(self, opening: Bool[np.ndarray, "k"], again: Bool[np.ndarray, "k"]) -> Bool[np.ndarray, "k"]:
        """Which marks open or close a cell, of those that may open one and those right behind another."""
        count = len(opening)
        kept = np.ones(count, bool)
        openings, plain = np.flatnonzero(opening), np.flatnonzero(~(opening | again))
        by_parity = [plain[plain % 2 == k] for k in (0, 1)]
        place = int(self.within)  # of the next mark that must open: every second one, up to one that cannot
        while (k := np.searchsorted(by_parity[place % 2], place)) < len(by_parity[place % 2]):
            stray = int(by_parity[place % 2][k])
            k = np.searchsorted(openings, stray)
            place = int(openings[k]) if k < len(openings) else count
            kept[stray:place] = False
        self.within = (count - place) % 2 == 1
        return kept
