"""What a text is without any learning: TF-IDF of its words and pairs of words, the baseline of an evaluation.

Source: Spärck Jones 1972; sublinear counts and unit length as in Manning et al. 2008, section 6.4, through
scikit-learn; latent semantic analysis, Deerwester et al. 1990.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfsame.errors import UnreadableItem

__all__ = ["raw_name", "raw_vectors"]

raw_name = "TF-IDF of words and pairs of words"

TERMS = 4096  # words and pairs of words that are counted: the most frequent ones


def raw_vectors(parts: Sequence[tuple[Any, Sequence[int]]], stats: Any) -> list[Float[Tensor, "n d"]]:
    """TF-IDF of the texts of each part, unit vectors in float32; words and their rarity are those of the first part."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    made = TfidfVectorizer(
        ngram_range=(1, 2), max_features=TERMS, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", dtype=np.float32
    )
    (source, items), *others = parts
    first = made.fit_transform(texts(source, items))
    return [
        torch.from_numpy(table.toarray())
        for table in (first, *(made.transform(texts(source, items)) for source, items in others))
    ]


def texts(source: Any, items: Sequence[int]) -> Iterator[str]:
    for i in items:
        try:
            yield source.read(i)
        except UnreadableItem:
            yield ""
