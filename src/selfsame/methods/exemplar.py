"""Exemplar: every item is a class of its own; name the class of a transformed view.

Source: Dosovitskiy et al. 2014, arXiv 1406.6909 (Exemplar-CNN), from memory; no code was at hand.
Cost: the last layer grows with the number K of classes: K d weights (three times that with AdamW's moments) and b K d
multiplications a step, where a contrast within the batch needs b b d. Take SimCLR or Metric for very many items.
Choices: items beyond `classes` are folded, class = item mod K, so that no pass of the network is wasted and the cost
has a bound; a class then holds several unlike items. The paper takes K = 8000 seed patches with strong gradients out of
its images and makes 100 to 150 transformed copies of each beforehand; here an item is a whole image, and each pass over
the data makes a new copy. Its dropout in the head is left out.

Ours in short runs are `output_norm` and `start`. A run of four passes meets each class four times: with random weights
of the classes it learns to hit random vectors, and 600 steps left vectors far worse than random weights of the network
(CIFAR-10, a small network). So a class then starts with the vector of its item (imprinted weights, Qi et al. 2018,
arXiv 1712.07136). Spread vectors with weights that start at zero were not enough: k-NN 30.7 %, linear 30.5 % after two
passes.
"""

from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.errors import UserError
from selfsame.nn.diagnose import spread
from selfsame.nn.heads import OutputNorm, ending
from selfsame.nn.norm import frozen_statistics
from selfsame.nn.survey import vectors_of
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan


class Exemplar(types.Method):
    """Learn by naming each item from a distorted view of it."""

    good_for: ClassVar = "few items seen many times; one view a step, so a step costs half of a contrast"
    presets: ClassVar = {
        "paper": Preset(
            source="arXiv 1406.6909; its network is replaced by ResNet-18, rate and length are ours",
            method={"classes": 8000},
            training={
                "optimizer": "sgd", "lr": 0.05, "batch_size": 128, "epochs": 100, "weight_decay": 4e-4,
                "encoder": "resnet18", "size": 32, "views": "exemplar", "schedule": "step",
            },
            published="linear SVM on its 64c5-128c5-256c5-512f network: STL-10 74.2 %, CIFAR-10 84.3 %",
        ),
    }  # fmt: skip

    classes: Annotated[int, Field(ge=2)] = 8000
    """surrogate classes at most (more, many of them alike, did worse); items beyond are folded onto them"""
    output_norm: OutputNorm = "none"
    """between vectors and last layer: no norm as in the paper, plain or whiten; whiten in short runs unless given"""
    start: Literal["random", "items"] = "random"
    """weights of the classes at first: random, or the vectors of their items, in short runs unless given"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=1)

    def fitted(self, budget: Budget) -> Self:
        """In short runs vectors that are spread, and a last layer that knows the items from the start."""
        if not budget.short:
            return self
        derived = {"output_norm": "whiten", "start": "items"}
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder, min(self.classes, items) if items else self.classes, items)


class Learner(types.Learner):
    """Exemplar at work. Views: one full one, and which item each row is."""

    by_item = True

    def __init__(self, method: Exemplar, encoder: types.Encoder, classes: int, items: int = 0) -> None:
        super().__init__()
        if method.start == "items" and items < 1:
            raise UserError("Exemplar starts with the vectors of all items: say how many there are, build(encoder, n).")
        self.items = items
        self.method = method
        self.encoder = encoder
        self.ending = nn.Sequential(*ending(method.output_norm, encoder.dim))
        self.classifier = nn.Linear(encoder.dim, classes)

    def forward(self, views: list[Tensor], items: Int[Tensor, "b"]) -> types.Step:  # type: ignore[override]
        views = as_planned(views, self.method.plan, "Exemplar", items)
        vectors = self.encoder(views[0])
        scores = self.classifier(self.ending(vectors))
        named = items % scores.shape[1]
        accuracy = (scores.argmax(dim=1) == named).float().mean()
        loss = F.cross_entropy(scores.float(), named)
        return types.Step(loss, {"spread": spread(vectors.detach()), "accuracy": accuracy})

    def surveys(self, number: int) -> bool:
        return self.method.start == "items" and number == 0

    @torch.no_grad()
    def survey(self, look: types.Look) -> None:
        """The weights of a class become the unit vector of its item, or of the mean of its items; biases 0."""
        with frozen_statistics(self):
            found = vectors_of(look, lambda view: self.ending(self.encoder(view)), self.items)
        weight = self.classifier.weight
        classes = torch.arange(self.items, device=found.device) % len(weight)
        means = found.new_zeros(len(weight), found.shape[1]).index_add_(0, classes, F.normalize(found, dim=1))
        weight.copy_(F.normalize(means, dim=1))
        self.classifier.bias.zero_()
