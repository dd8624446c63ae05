"""What is done to the words of a text: a span of them, some left out, their order, slips of the keyboard.

A word is what stands between blanks; in scripts that are written without them it is one sign.
Sources: deletion of words as in EDA (Wei & Zou 2019, arXiv 1901.11196), CLEAR (Wu et al. 2020,
2012.15466), noise of order as in Lample et al. 2018, 1711.00043, section 2.3.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from selfsame.modalities.text.recipes import View

# Chinese, Japanese kana, Thai, Lao, Khmer, Burmese and Tibetan are written without blanks between words.
SIGNS = "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(f"[{SIGNS}]|[^\\s{SIGNS}]+")
BARE = re.compile(f"([{SIGNS}]) (?=[{SIGNS}])")
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # of an English keyboard


def _neighbours() -> dict[str, str]:
    """The keys beside each letter: left and right, and the nearest two of the rows above and below."""
    near: dict[str, set[str]] = {}
    for r, row in enumerate(ROWS):
        for k, key in enumerate(row):
            beside = {(r, k - 1), (r, k + 1), (r - 1, k), (r - 1, k + 1), (r + 1, k - 1), (r + 1, k)}
            near[key] = {ROWS[y][x] for y, x in beside if 0 <= y < len(ROWS) and 0 <= x < len(ROWS[y])}
    return {key: "".join(sorted(keys)) for key, keys in near.items()}


NEAR = _neighbours()


def words_of(text: str) -> list[str]:
    return WORD.findall(text)


def joined(words: Sequence[str]) -> str:
    """With blanks between them, but for signs that are written without."""
    return BARE.sub(r"\1", " ".join(words))


def view_of(words: Sequence[str], view: View, rng: Generator) -> list[str]:
    """The words of a random view, at least one where there is one.

    All numbers that a step may need are drawn whether it is on or off, so that the others stay as they were.
    """
    total = len(words)
    share, where, moved = rng.random(3)
    low, high = view.span
    kept = min(total, max(1, round(total * (low + (high - low) * share))))
    start = int(where * (total - kept + 1))
    found = list(words[start : start + kept])
    noise = rng.random((3, kept))
    if view.drop:
        stay = noise[0] >= view.drop
        if not stay.any():
            stay[int(noise[0].argmax())] = True
        found, noise = [word for word, yes in zip(found, stay, strict=True) if yes], noise[:, stay]
    if view.typo:
        found = [
            misspelt(word, rng) if u < view.typo else word for word, u in zip(found, noise[1].tolist(), strict=True)
        ]
    if view.shuffle and moved < view.shuffle:
        order = np.argsort(np.arange(len(found)) + (view.reach + 1) * noise[2], kind="stable")
        found = [found[k] for k in order.tolist()]
    return found


def misspelt(word: str, rng: Generator) -> str:
    """The word with one slip at a random letter; as it is where there is no room for it.

    Four slips alike: a neighbouring key, this letter and the next swapped, left out, twice. Words of one letter and
    such without letters stay; a letter that has no key gets another slip than the key beside it.
    """
    letters = [k for k, sign in enumerate(word) if sign.isalpha()]
    if len(letters) < 2:
        return word
    place, kind, key = (float(u) for u in rng.random(3))
    k = letters[int(place * len(letters))]
    slip, sign = int(kind * 4), word[k]
    near = NEAR.get(sign.lower(), "")
    if slip == 0 and near:
        new = near[int(key * len(near))]
        return word[:k] + (new.upper() if sign.isupper() else new) + word[k + 1 :]
    if slip == 1 or slip == 0:
        k = min(k, len(word) - 2)
        return word[:k] + word[k + 1] + word[k] + word[k + 2 :]
    return word[:k] + word[k + 1 :] if slip == 2 else word[:k] + sign + word[k:]
