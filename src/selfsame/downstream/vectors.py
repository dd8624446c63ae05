"""Labelled vectors at the door of a protocol: what is accepted, and what is refused with a reason."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfsame.errors import UserError


def check(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, "n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, "m"] | None = None,
) -> None:
    """Refuse empty sets, unequal lengths or widths, and vectors that are not finite. Raises UserError."""
    for name, vectors, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if vectors.dim() != 2 or not vectors.numel():
            raise UserError(
                f"the {name} vectors have shape {list(vectors.shape)}; give one vector an item: [items, d]."
            )
        if labels is not None and len(labels) != len(vectors):
            raise UserError(f"{len(vectors)} {name} vectors but {len(labels)} labels; give one label a vector.")
        if labels is not None and int(labels.min()) < 0:
            raise UserError(f"a {name} label is {int(labels.min())}; leave unlabelled items out, classes count from 0.")
        bad = int((~torch.isfinite(vectors).all(dim=1)).sum())
        if bad:
            raise UserError(
                f"{bad} of {len(vectors)} {name} vectors hold NaN or infinity, so no score of them would mean "
                "anything. Look at the encoder that made them: it diverged, or it was fed broken items."
            )
    if train.shape[1] != test.shape[1]:
        raise UserError(
            f"train vectors have width {train.shape[1]}, test vectors {test.shape[1]}; use one encoder for both."
        )


def check_alone(vectors: Float[Tensor, "n d"]) -> None:
    """Refuse vectors of another shape, none at all, and vectors that are not finite. Raises UserError."""
    if vectors.dim() != 2 or not vectors.numel():
        raise UserError(f"the vectors have shape {list(vectors.shape)}; give one vector an item: [items, d].")
    bad = int((~torch.isfinite(vectors).all(dim=1)).sum())
    if bad:
        raise UserError(
            f"{bad} of {len(vectors)} vectors hold NaN or infinity, so they are near to nothing. Look at the encoder "
            "that made them: it diverged, or it was fed broken items."
        )
