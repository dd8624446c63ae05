"""Train the whole encoder with a linear head on labels; from scratch, the same is the supervised baseline.

Source: Grill et al. 2020 (BYOL), arXiv 2006.07733, C.2, for the protocol; AdamW, cosine and a slower encoder from
        Bao et al. 2021 (BEiT), 2106.08254, appendix; the numbers are ours, for thousands of items, not millions.
Raises: UserError on settings or batches that cannot be used, TrainingStopped when the loss is no longer a number.
"""

import copy
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsame.errors import TrainingStopped, UserError
from selfsame.records import Record
from selfsame.types import Encoder

NORM_BATCH = 16  # below this, batch statistics are too noisy to fine-tune with


class Finetune(Record):
    """How to fine-tune."""

    epochs: int = Field(default=30, ge=1)
    """passes over the labelled items; the best one on the validation part is kept"""
    batch: int = Field(default=64, ge=1)
    """items in one step; below 16 the encoder's batch norm keeps its statistics"""
    lr_head: float = Field(default=1e-3, gt=0)
    """highest learning rate of the linear head, and of everything when training from scratch"""
    lr_encoder: float = Field(default=1e-4, gt=0)
    """highest learning rate of the pre-trained encoder"""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW's, on weight matrices only: not on biases or norms"""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """share of the steps in which the learning rate climbs from 0, before its cosine to 0"""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """share of each target spread over all classes"""
    bf16: bool = False
    """compute in bfloat16 where the device is quick at it"""

    def epoch_steps(self, items: int) -> int:
        """Steps of one pass over that many items; a last incomplete batch is left to the next shuffle."""
        return max(1, items // self.batch)


class Classifier(nn.Module):
    """An encoder and a linear layer: views [b ...] -> logits [b k]."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.dim, classes)

    def forward(self, views: Tensor) -> Float[Tensor, "b k"]:
        return self.head(self.encoder(views))


@dataclass(frozen=True)
class Finetuned:
    """The best classifier, in eval mode, and how it was found."""

    classifier: Classifier
    epoch: int  # which was best, counted from 1
    accuracy: float  # its accuracy on the validation part
    history: list[float]  # validation accuracy after every epoch


def finetune(
    encoder: Encoder,
    classes: int,
    batch_at: Callable[[int], tuple[Tensor, Int[Tensor, "b"]]],
    epoch_steps: int,
    validation: Iterable[tuple[Tensor, Int[Tensor, "b"]]],
    settings: Finetune,
    seed: int = 0,
    scratch: bool = False,
) -> Finetuned:
    """Train a copy of `encoder` and a new head; the encoder passed in is not touched.

    `batch_at(step)` gives views [b ...] and class numbers for step 0..epochs·epoch_steps-1. `validation` is gone
    through after every epoch (so no one-way iterator) and must come from the train set: the epoch with the highest
    accuracy on it, and the lower loss among equals, is returned. `scratch` says that the weights are random: the
    encoder then learns at the head's rate and its batch norm learns at any batch size.
    Runs on the device of the encoder. Deterministic given the seed and `batch_at`, as far as the device is.
    Raises UserError on an empty validation part or fewer than two classes, TrainingStopped on a loss that is NaN.
    """
    if classes < 2:
        raise UserError(f"fine-tuning needs labels of two or more classes, not {classes}.")
    device = next(encoder.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        classifier = Classifier(copy.deepcopy(encoder), classes).to(device).requires_grad_(True)
        optimiser = _optimiser(classifier, settings, scratch)
        rates = [group["lr"] for group in optimiser.param_groups]
        history: list[float] = []
        best, best_epoch, best_state = (-1.0, 0.0), 0, classifier.state_dict()
        for epoch in range(settings.epochs):
            _train_mode(classifier, settings, scratch)
            total = torch.zeros((), device=device)
            for step in range(epoch * epoch_steps, (epoch + 1) * epoch_steps):
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * _schedule(step, settings.epochs * epoch_steps, settings.warmup)
                views, labels = batch_at(step)
                with _precision(device, settings):
                    logits = classifier(views.to(device))
                loss = F.cross_entropy(logits.float(), labels.to(device), label_smoothing=settings.label_smoothing)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += loss.detach()
            if not math.isfinite(total.item()):
                raise TrainingStopped(
                    f"fine-tuning's loss was no longer a number in epoch {epoch + 1}. "
                    f"Lower lr_encoder (now {settings.lr_encoder:g}) and lr_head (now {settings.lr_head:g})."
                )
            accuracy, cost = _score(classifier, validation, settings)
            history.append(accuracy)
            if (accuracy, -cost) > best:
                best, best_epoch = (accuracy, -cost), epoch + 1
                best_state = copy.deepcopy(classifier.state_dict())
    classifier.load_state_dict(best_state)
    return Finetuned(classifier.eval(), best_epoch, best[0], history)


@torch.no_grad()
def predict(classifier: Classifier, batches: Iterable[Tensor], bf16: bool = False) -> Float[Tensor, "n k"]:
    """Logits of all batches, in float32 on the CPU, computed in eval mode; the classifier's mode is put back.

    Raises UserError where there is nothing to predict.
    """
    training = classifier.training
    classifier.eval()
    device = classifier.head.weight.device
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = [classifier(views.to(device)).float().cpu() for views in batches]
    finally:
        classifier.train(training)
    if not logits:
        raise UserError("there are no items to predict.")
    return torch.cat(logits)


def _optimiser(classifier: Classifier, settings: Finetune, scratch: bool) -> torch.optim.Optimizer:
    groups = []
    for module, rate in (
        (classifier.encoder, settings.lr_head if scratch else settings.lr_encoder),
        (classifier.head, settings.lr_head),
    ):
        for matrices, decay in ((True, settings.weight_decay), (False, 0.0)):
            chosen = [weight for weight in module.parameters() if (weight.dim() > 1) == matrices]
            groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups)


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate at a step: a linear climb, then half a cosine that ends near 0."""
    climb = warmup * steps
    if step < climb:
        return (step + 1) / (climb + 1)
    return (1 + math.cos(math.pi * (step - climb) / (steps - climb))) / 2


def _train_mode(classifier: Classifier, settings: Finetune, scratch: bool) -> None:
    classifier.train()
    if settings.batch < NORM_BATCH and not scratch:
        for module in classifier.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _precision(device: torch.device, settings: Finetune) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16)


def _score(
    classifier: Classifier, validation: Iterable[tuple[Tensor, Tensor]], settings: Finetune
) -> tuple[float, float]:
    """Accuracy and mean cross-entropy on the validation part."""
    views_and_labels = list(validation)
    if not views_and_labels:
        raise UserError("the validation part is empty, so no epoch can be called best. Hold out some labelled items.")
    logits = predict(classifier, (views for views, _ in views_and_labels), settings.bf16)
    labels = torch.cat([labels for _, labels in views_and_labels]).cpu()
    return (logits.argmax(dim=1) == labels).double().mean().item(), F.cross_entropy(logits, labels).item()
