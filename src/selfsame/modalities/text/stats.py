"""What the texts are: their number and lengths, and the tokenizer that is trained on them.

Raises UserError where nothing can be read, or there are no letters.
"""

from typing import TYPE_CHECKING

import numpy as np

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.text.tokens import Codec, loaded, trained, vocabulary_for
from selfsame.records import Record

if TYPE_CHECKING:
    from selfsame.modalities.text.source import TextSource

__all__ = ["Stats", "measure"]

TRAINED = 20_000_000  # characters that a tokenizer is trained on, at most
COUNTED = 20_000  # texts whose tokens are counted, at most
SHARES = (5, 50, 75, 95, 100)  # percent of the items that are not longer


class Stats(Record):
    """What is measured from the texts and saved with the encoder. Equal ones prepare texts alike."""

    items: int
    """texts that can be read, as far as they were looked at"""
    vocabulary: int
    """numbers that tokens have, 0 (padding) too"""
    lengths: tuple[int, ...]
    """tokens of a text: 5, 50, 75 and 95 % of them are not longer; and the longest"""
    cut: int
    """texts of which only the first 64 KiB are read"""
    column: str
    """the column of the text; empty where there are no columns"""
    given: bool
    """whether the tokenizer was given, not trained"""
    specials: tuple[int, ...]
    """tokens that stand for no text, 0 (padding) first"""
    tokenizer: str
    """the tokenizer, as its JSON"""

    @property
    def summary(self) -> str:
        """One line for the plan; the tokenizer is not shown."""
        parts = [f"column {self.column!r}"] if self.column else []
        parts.append(f"{'given' if self.given else 'trained'} vocabulary of {self.vocabulary:,}")
        parts.append(f"{self.lengths[1]} tokens a text (median), {self.lengths[3]} at 95 %, {self.lengths[4]} at most")
        if self.cut:
            parts.append(f"{self.cut} text{'s' if self.cut > 1 else ''} cut after 64 KiB")
        return ", ".join(parts)


def measure(source: "TextSource", seed: int = 0) -> tuple[Stats, dict[int, str]]:
    """Statistics of the texts, with a tokenizer; and the unreadable ones {item: reason}.

    All are read, or of more than `source.looks` as many, drawn with `seed`. The tokenizer is trained on 20 million
    characters of them at most. Raises UserError.
    """
    total = len(source)
    looked = range(total) if total <= source.looks else drawn(source, seed, source.looks)
    texts: list[str] = []
    unreadable: dict[int, str] = {}
    held = size = cut = readable = letters = 0
    rng = np.random.default_rng(seed)
    for i in looked:
        try:
            text = source.read(i)
            cut += source.read_rest(i)
        except UnreadableItem as error:
            unreadable[i] = str(error)
            continue
        readable += 1
        letters += any(sign.isalpha() for sign in text)
        size += len(text)
        # A reservoir by chance: where there is more text than is wanted, all parts of it have a share.
        if held < TRAINED:
            texts.append(text)
            held += len(text)
        elif (place := int(rng.integers(readable))) < len(texts):
            held += len(text) - len(texts[place])
            texts[place] = text
    if not readable:
        item, reason = next(iter(unreadable.items()))
        raise UserError(
            f"{source.path}: none of the {total} texts can be read. The first, {source.name(item)}: {reason}."
        )
    if not letters:
        raise UserError(
            f"{source.path}: there are no letters in any of the {readable} texts looked at. Numbers are read with "
            "--modality table or signal."
        )
    wanted = source.reading
    if wanted.tokenizer is not None:
        coding = loaded(wanted.tokenizer)
    else:
        bytes_of_all = len("".join(texts).encode()) * (total / max(1, len(texts)))
        vocabulary = wanted.vocabulary or vocabulary_for(int(bytes_of_all))
        coding = trained(texts, vocabulary, wanted.lower)
    codec = Codec(coding)
    some = texts if len(texts) <= COUNTED else [texts[k] for k in rng.permutation(len(texts))[:COUNTED]]
    lengths = np.percentile(codec.lengths(some), SHARES, method="higher").astype(int)
    stats = Stats(
        items=total - len(unreadable),
        vocabulary=codec.vocabulary,
        lengths=tuple(lengths.tolist()),
        cut=cut,
        column=source.column,
        given=wanted.tokenizer is not None,
        specials=tuple(codec.specials),
        tokenizer=coding,
    )
    return stats, unreadable


def drawn(source: "TextSource", seed: int, most: int) -> list[int]:
    """At most `most` items, drawn by the seed, ascending; of blocks that are read whole few, but all of them."""
    rng = np.random.default_rng(seed)
    if source.blocks is None:
        return sorted(rng.permutation(len(source))[:most].tolist())
    starts = np.append(source.blocks, len(source))
    order = rng.permutation(len(starts) - 1)
    enough = int(np.searchsorted(np.cumsum(np.diff(starts)[order]), 2 * most)) + 1
    inside = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in order[:enough]])
    return sorted(rng.permutation(inside)[:most].tolist())
