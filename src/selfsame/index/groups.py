"""From pairs of copies to groups, each with one item that is kept.

Components are found by union-find. A chain of near copies would join items that are nothing alike, so each component is
divided around representatives: the best item takes every item that is paired with itself, the best of what is left the
next, until none is left. So each item of a group is paired with the one that is kept, and two others of a group are at
most two pairs apart.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

__all__ = ["components", "stars"]


def components(n: int, pairs: Int64[np.ndarray, "m 2"]) -> Int64[np.ndarray, "n"]:
    """The smallest item that each of n items is linked to, by however many pairs; itself where it has none.

    Union-find on whole arrays (Shiloach & Vishkin 1982): roots are linked to smaller roots, then paths are halved.
    """
    root = np.arange(n)
    one, two = pairs[:, 0], pairs[:, 1]
    while True:
        a, b = root[one], root[two]
        if (a == b).all():
            return root
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root[root] != root).any():
            root = root[root]


def stars(
    n: int, pairs: Int64[np.ndarray, "m 2"], order: Sequence[int] | Int64[np.ndarray, "n"]
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """(the representative of each of n items, by which pair it is linked to it).

    Args:
        pairs: of different items, in any order.
        order: all items, the best first.

    A representative is its own, and linked by -1, as is an item without a partner.
    """
    place = np.empty(n, dtype=np.int64)
    place[np.asarray(order, dtype=np.int64)] = np.arange(n)
    leader, link = np.arange(n), np.full(n, -1, dtype=np.int64)
    if not len(pairs):
        return leader, link
    both = np.concatenate([pairs, pairs[:, ::-1]])  # each pair from both sides
    number = np.tile(np.arange(len(pairs)), 2)
    sort = np.lexsort((place[both[:, 1]], place[both[:, 0]]))
    both, number = both[sort], number[sort]
    starts = np.flatnonzero(np.diff(both[:, 0], prepend=-1))
    taken = np.zeros(n, dtype=bool)
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(both)], strict=True):
        item = both[start, 0]
        if taken[item]:
            continue
        near = both[start:stop, 1]
        free = ~taken[near]
        taken[item] = True
        taken[near] = True
        leader[near[free]], link[near[free]] = item, number[start:stop][free]
    return leader, link
