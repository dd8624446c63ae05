"""Scores of a classification, all in [0, 1], all from predictions and class numbers.

Definitions agree with scikit-learn's; an empty set is an UserError, never a silent 0.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfsame.errors import UserError


def top_k_accuracy(scores: Float[Tensor, "n k"], labels: Int[Tensor, "n"], k: int = 1) -> float:
    """Share of items whose class is among the k highest scores; k is clipped to the number of classes."""
    _check(scores, labels)
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1).double().mean().item()


def confusion(predicted: Int[Tensor, "n"], labels: Int[Tensor, "n"]) -> Int[Tensor, "k k"]:
    """How often class `row` was called `column`; k is the largest class number + 1."""
    _check(predicted, labels)
    size = int(torch.maximum(predicted.max(), labels.max())) + 1
    return torch.bincount(labels * size + predicted, minlength=size * size).reshape(size, size)


def balanced_accuracy(predicted: Int[Tensor, "n"], labels: Int[Tensor, "n"]) -> float:
    """Mean recall of the classes that occur in `labels`."""
    table = confusion(predicted, labels).double()
    there = table.sum(dim=1) > 0
    return (table.diagonal()[there] / table.sum(dim=1)[there]).mean().item()


def macro_f1(predicted: Int[Tensor, "n"], labels: Int[Tensor, "n"]) -> float:
    """Mean over classes of 2 hits / (times predicted + times true), for the classes that occur in either."""
    table = confusion(predicted, labels).double()
    either = table.sum(dim=0) + table.sum(dim=1)
    there = either > 0
    return (2 * table.diagonal()[there] / either[there]).mean().item()


def _check(predicted: Tensor, labels: Tensor) -> None:
    if len(predicted) != len(labels) or not len(labels):
        raise UserError(f"{len(predicted)} predictions for {len(labels)} labels; give as many of one as of the other.")
