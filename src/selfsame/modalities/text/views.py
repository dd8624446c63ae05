"""Views of texts, made: all of it in the worker half, on words; the device half hands the tokens on.

Raises UnreadableItem where an item cannot be read.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.text.distort import joined, view_of, words_of
from selfsame.modalities.text.recipes import Views
from selfsame.modalities.text.stats import Stats
from selfsame.records import ViewPlan
from selfsame.types import Draws

__all__ = ["make_views", "sample"]

HALVES = 2**24  # a number of Draws has 24 random bits: two of them begin a generator


def sample(source: Any, items: Sequence[int], plan: ViewPlan, views: Views, draws: Draws) -> list[Int[Tensor, "b n"]]:
    """The tokens of the views of the items, int32, filled up with 0; a tensor a view in the order full, part, plain.

    Of a text with more words than a view has tokens, all its views are made from one random stretch of that many
    words, so that they have something in common. A plain view has the first tokens of the text.

    Args:
        source: a TextSource, or what stands for one. Where it has `attempt(i, read)`, items are read through it.
        items: their numbers, one for each row of `draws`.
        draws: one `uniform(1)` for the stretch, then each random view takes one `uniform(2)`.
    """
    if plan.part and views.part_size > views.size:
        raise UserError(
            f"part views of {views.part_size} tokens are longer than the full views of {views.size}. Lower "
            "--views.part-size, or give larger full views."
        )
    kinds = views.strengths(plan)
    sizes = [views.size] * plan.full + [views.part_size] * plan.part + [views.size] * plan.plain
    stretch = draws.uniform(1)[:, 0].tolist()
    seeds = [(draws.uniform(2).double() * HALVES).long().tolist() for _ in kinds]
    made = [np.zeros((len(items), size), np.int32) for size in sizes]
    codec = source.codec

    def read(item: int, row: int) -> None:
        text = source.read(item)
        words = words_of(text)
        if len(words) > views.size:
            start = int(stretch[row] * (len(words) - views.size + 1))
            words = words[start : start + views.size]
        texts = [
            joined(view_of(words, kind, np.random.default_rng(seed[row])))
            for kind, seed in zip(kinds, seeds, strict=True)
        ] + [text] * plan.plain
        for out, one in zip(made, texts, strict=True):
            ids = codec.ids(one, out.shape[1])
            if not ids:
                raise UnreadableItem("nothing of its text is left as tokens")
            out[row, : len(ids)] = ids
            out[row, len(ids) :] = 0

    attempt = getattr(source, "attempt", None)
    for row, item in enumerate(items):
        reading = partial(read, row=row)
        attempt(item, reading) if attempt else reading(item)
    return [torch.from_numpy(view) for view in made]


def make_views(
    samples: list[Int[Tensor, "b n"]], plan: ViewPlan, views: Views, stats: Stats, draws: Draws
) -> list[Int[Tensor, "b n"]]:
    """The samples as they are: what is random about a text was done to its words."""
    return list(samples)
