"""Weighted k-nearest neighbours: how well does likeness in the vector space follow the labels? Nothing is trained.

Source: Wu et al. 2018, arXiv 1805.01978, section 3.4; k and temperature from Caron et al. 2021 (DINO), 2104.14294.
Raises: UserError on vectors that cannot be compared.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from selfsame.downstream import vectors
from selfsame.errors import UserError

BLOCK = 2**24  # similarities held at once: 64 MB in float32


def knn_accuracy(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, "n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, "m"],
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of test items, in [0, 1], whose most voted class is theirs; a class absent from train counts as wrong.

    Raises UserError as `knn_votes` does.
    """
    vectors.check(train, train_labels, test, test_labels)
    predicted = knn_votes(train, train_labels, test, k, temperature).argmax(dim=1)
    return (predicted == test_labels.to(predicted.device)).double().mean().item()


def knn_votes(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, "n"],
    test: Float[Tensor, "m d"],
    k: int = 20,
    temperature: float = 0.07,
) -> Float[Tensor, "m c"]:
    """Share of the votes for each class 0..max(train_labels); rows sum to 1.

    The k nearest train items by cosine vote with weight exp(cosine / temperature); k is clipped to n.
    Raises UserError on unequal sizes, vectors that are not finite, k < 1 or temperature <= 0.
    """
    vectors.check(train, train_labels, test)
    if k < 1 or temperature <= 0:
        raise UserError(f"k is {k} and temperature {temperature}; k must be at least 1, temperature above 0.")
    known, asked = F.normalize(train.float(), dim=1), F.normalize(test.float(), dim=1)
    labels = train_labels.to(known.device)
    shares = torch.zeros(len(asked), int(labels.max()) + 1, device=known.device)
    rows = max(1, BLOCK // len(known))
    for start in range(0, len(asked), rows):
        cosine, nearest = (asked[start : start + rows] @ known.T).topk(min(k, len(known)), dim=1)
        # softmax is the weighted vote divided by its sum, without exp(1/temperature) to overflow.
        shares[start : start + rows].scatter_add_(1, labels[nearest], (cosine / temperature).softmax(dim=1))
    return shares
