"""Texts as token numbers: byte-level byte-pair encoding trained on the texts themselves, or a local tokenizer.json.

Source: Sennrich et al. 2016, arXiv 1508.07909; over bytes as in Radford et al. 2019 (GPT-2), section 2.2, so that
there is no unknown character. Number 0 is the padding.
Raises: UserError where the package is missing or a tokenizer does not fit.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from selfsame.errors import UserError, missing

PAD = "[PAD]"
LEAST, MOST = 512, 32_768  # words and pieces of a vocabulary: 256 of them are the bytes
FULL = 8.0  # pieces for each square root of a byte: 8,000 for a megabyte, as words grow with the root of a text (Heaps)
STEP = 64  # vocabularies are multiples of it, which multiplies matrices faster on a GPU
WIDE = 16  # characters a token, at most, that are looked at to fill a view


class Codec:
    """A tokenizer as its JSON describes it. Pickles as that."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokenizer = made_from(text)

    def __reduce__(self) -> Any:
        return Codec, (self.text,)

    def ids(self, text: str, most: int) -> list[int]:
        """The first `most` tokens of a text; empty where nothing is left of it."""
        found = self.tokenizer.encode(text[: most * WIDE]).ids
        return [i for i in found if i][:most]  # a given tokenizer may take a word for its padding

    def padded(self, texts: Sequence[str], size: int) -> Int32[np.ndarray, "b size"]:
        """Their first tokens, filled up with 0."""
        out = np.zeros((len(texts), size), np.int32)
        for row, text in zip(out, texts, strict=True):
            ids = self.ids(text, size)
            row[: len(ids)] = ids
        return out

    def lengths(self, texts: Sequence[str]) -> Int32[np.ndarray, "n"]:
        """How many tokens they have."""
        return np.array([len(self.tokenizer.encode(text).ids) for text in texts], np.int32)

    def text_of(self, ids: Iterable[int]) -> str:
        """The text of some tokens, without padding."""
        return self.tokenizer.decode([int(i) for i in ids if i], skip_special_tokens=False).strip()

    @property
    def vocabulary(self) -> int:
        """One more than the largest number of a token."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def specials(self) -> list[int]:
        """The numbers of tokens that stand for no text, such as [CLS]."""
        added = json.loads(self.text).get("added_tokens", [])
        return sorted({0, *(int(one["id"]) for one in added if one.get("special"))})


def library() -> Any:
    # Its threads would not survive the forks of reading processes, and say so at each.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ImportError:
        raise missing("text", "tokenizers", "text") from None
    return tokenizers


def made_from(text: str) -> Any:
    try:
        made = library().Tokenizer.from_str(text)
    except UserError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"this is no tokenizer: {' '.join(str(error).split())[:200]}") from None
    made.no_padding()
    made.no_truncation()
    return made


def trained(texts: Iterator[str] | Iterable[str], size: int, lower: bool) -> str:
    """The JSON of a tokenizer with at most `size` tokens, trained on the texts. The same texts give the same one."""
    tk = library()
    made = tk.Tokenizer(tk.models.BPE())
    if lower:
        made.normalizer = tk.normalizers.Lowercase()
    made.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = tk.decoders.ByteLevel()
    trainer = tk.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[PAD],
        initial_alphabet=sorted(tk.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    held = json.loads(made.to_str())
    held["added_tokens"] = []  # or a text in which [PAD] is written would have padding in its middle
    return json.dumps(held, ensure_ascii=False, separators=(",", ":"))


def loaded(path: str) -> str:
    """The JSON of a local tokenizer.json, or of that in a folder or a run. Raises UserError where it does not fit."""
    place = Path(path).expanduser()
    file = place / "tokenizer.json" if place.is_dir() else place
    if (place / "encoder.json").is_file() and not file.is_file():
        try:
            return json.loads((place / "encoder.json").read_text(encoding="utf-8"))["stats"]["tokenizer"]
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"--reading.tokenizer {path}: its encoder.json is damaged, or of no text encoder."
            ) from None
    if not file.is_file():
        raise UserError(
            f"--reading.tokenizer {path}: no {file.name} there. Give a local tokenizer.json, or its folder."
        )
    try:
        text = file.read_text(encoding="utf-8")
        held = json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"--reading.tokenizer {path}: not readable as JSON ({error}).") from None
    made = made_from(text)
    padding = (held.get("padding") or {}).get("pad_token") or next(
        (name for name in (PAD, "<pad>", "<|padding|>") if made.token_to_id(name) is not None), None
    )
    number = None if padding is None else made.token_to_id(padding)
    if number != 0:
        found = "has none" if number is None else f"has {number}"
        raise UserError(
            f"--reading.tokenizer {path}: number 0 must be its padding token, as BERT's [PAD] is; this one {found}. "
            "Take another, or leave it out: one is trained on your texts."
        )
    return text


def vocabulary_for(size: int) -> int:
    """Tokens of a vocabulary for that many bytes of text."""
    wanted = round(FULL * size**0.5 / STEP) * STEP
    return min(MOST, max(LEAST, wanted))
