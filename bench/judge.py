"""The measure of ../shared/bench, restated: k-NN (k 20, temperature 0.1) and a fixed linear probe on frozen features.

It differs from `selfsame evaluate`, whose probe chooses its strength; here every contender gets the same 40 epochs.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def knn(train: Tensor, y: Tensor, test: Tensor, truth: Tensor, k: int = 20, temperature: float = 0.1) -> float:
    """Accuracy in per cent of the weighted vote of the k nearest by cosine."""
    similarity, nearest = (F.normalize(test) @ F.normalize(train).T).topk(k, 1)
    votes = torch.zeros(len(test), int(y.max()) + 1).scatter_add_(1, y[nearest], (similarity / temperature).exp())
    return (votes.argmax(1) == truth).float().mean().item() * 100


def probe(train: Tensor, y: Tensor, test: Tensor, truth: Tensor, epochs: int = 40) -> float:
    """Accuracy in per cent of a linear layer on standardised features: AdamW 3e-3, decay 1e-2, batch 256, cosine."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    mean, std = train.mean(0), train.std(0) + 1e-5
    train, test = (train - mean) / std, (test - mean) / std
    layer = nn.Linear(train.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = epochs * (len(train) // 256)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(train), (256,))
        optimizer.zero_grad()
        F.cross_entropy(layer(train[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return (layer(test).argmax(1) == truth).float().mean().item() * 100
