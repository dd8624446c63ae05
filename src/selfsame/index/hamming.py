"""Pairs of codes that differ in few bits, without comparing all pairs.

Source: multi-index hashing, Norouzi, Punjani & Fleet 2012, arXiv 1307.2982, section 3: of two codes of 64 bits that
differ in at most r bits, one of their four quarters differs in at most r // 4. Exact: none is missed.
Raises: UserError for a radius beyond what that is quick for.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from jaxtyping import UInt64

from selfsame.errors import UserError
from selfsame.index.pairs import Collected, Found

__all__ = ["BITS", "LARGEST", "distance", "pairs_within"]

BITS = 64
QUARTER = 16  # bits: 65,536 buckets
LARGEST = 11  # bits of difference: beyond, quarters differ in 3, and each is looked up in 697 buckets
AT_ONCE = 2**22  # candidates


def distance(one: UInt64[np.ndarray, "..."], two: UInt64[np.ndarray, "..."]) -> np.ndarray:
    """Bits that differ, 0 to 64."""
    return np.bitwise_count(one ^ two)


def pairs_within(codes: UInt64[np.ndarray, "n"], radius: int, others: UInt64[np.ndarray, "n"] | None = None) -> Found:
    """Pairs of items whose codes differ in at most `radius` bits; scores are 1 - distance / 64.

    Args:
        others: a second code of each item, as that of its mirror image: pairs are then also those whose first code
            differs little from the other's second.

    Raises UserError for a radius above `LARGEST`.
    """
    if not 0 <= radius <= LARGEST:
        raise UserError(f"a difference of {radius} bits; 0 to {LARGEST} of {BITS} are found.")
    collected = Collected(len(codes))
    targets = [codes] if others is None else [codes, others]
    for target in targets:
        for one, two in candidates(codes, target, radius // 4):
            bits = distance(codes[one], target[two])
            near = (bits <= radius) & (one != two)
            collected.add(one[near], two[near], 1 - bits[near] / BITS)
    return best(collected, codes, others)


def best(collected: Collected, codes: np.ndarray, others: np.ndarray | None) -> Found:
    """Each pair with its least distance, whichever of the codes it was found by."""
    pairs, _ = collected.found()
    bits = distance(codes[pairs[:, 0]], codes[pairs[:, 1]])
    if others is not None:
        bits = np.minimum(bits, distance(codes[pairs[:, 0]], others[pairs[:, 1]]))
    return pairs, (1 - bits / BITS).astype(np.float32)


def candidates(codes: np.ndarray, target: np.ndarray, flips: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(items, items) of which a quarter differs in at most `flips` bits, some of them more than once."""
    masks = [sum(1 << bit for bit in bits) for k in range(flips + 1) for bits in combinations(range(QUARTER), k)]
    for quarter in range(BITS // QUARTER):
        shift = np.uint64(QUARTER * quarter)
        mine = ((codes >> shift) & np.uint64(0xFFFF)).astype(np.int64)
        theirs = ((target >> shift) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(theirs, kind="stable")
        ends = np.concatenate([[0], np.cumsum(np.bincount(theirs, minlength=2**QUARTER))])
        for mask in masks:
            key = mine ^ mask
            yield from ranges(ends[key], ends[key + 1], order)


def ranges(starts: np.ndarray, stops: np.ndarray, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row, order[place]) of each place in starts[row] .. stops[row], at most about `AT_ONCE` at a time."""
    counts = stops - starts
    total = np.concatenate([[0], np.cumsum(counts)])
    row = 0
    while row < len(starts):
        last = max(row + 1, int(np.searchsorted(total, total[row] + AT_ONCE, side="right")) - 1)
        here = counts[row:last]
        rows = np.repeat(np.arange(row, last), here)
        places = np.arange(total[last] - total[row]) - np.repeat(total[row:last] - total[row], here)
        yield rows, order[starts[rows] + places]
        row = last
