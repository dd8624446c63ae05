"""OBoW: predict from crops which visual words a slow copy sees in the item; words are its own local features.

Source: Gidaris et al. 2021, arXiv 2012.11552, section 3, and its reference code (valeoai/obow); defaults are its full
ImageNet version. The vocabulary of a level is a queue of the slow copy's local features, one an item and step; codes
are soft, their sharpness goes by the mean distance to the nearest word; a network makes the weights of the prediction
from the words themselves, so that a changing vocabulary does not matter.

As in the code, losses of the full and of the small crops are added up, of each kind and over levels averaged.
Deviations: until the vocabulary is full of features the distance is the batch's, where the code's running mean starts
at 0.5, so that the random words of the start are forgotten; maps of fewer than five places along a side keep their
border, for there would be nothing left; a batch need not divide the vocabulary.

In short runs (`whitened`), which is ours: local features and vectors are whitened, words are few, scores are not
scaled, and the slow copy follows faster. Without it short runs left vectors worse than random ones (CIFAR-10, a small
network). There, before the first step, scores of eight times vectors of length 9 cost 12.7 nats, where bags differ from
their mean by one: a short run goes into calming the scores. What each of the changes gives was not measured alone.
"""

from typing import Annotated, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.diagnose import spread
from selfsame.nn.ema import Target, able_to_follow, cosine
from selfsame.nn.heads import OutputNorm, ending
from selfsame.nn.joint import by_size
from selfsame.nn.queue import Queue
from selfsame.nn.sync import mean_of_rows, places, shared, world
from selfsame.nn.views import as_planned
from selfsame.nn.words import (
    averaged,
    by_place,
    coded,
    distances,
    divergences,
    inner,
    local,
    nearest_word,
    perplexity,
)
from selfsame.records import Budget, Preset, ViewPlan, more_than_items

MEMORY = 0.99  # of the running mean of the distance to the nearest word (reference code)


class OBoW(types.Method):
    """Predict the visual words of a slow copy of yourself."""

    needs: ClassVar = ("maps",)
    good_for: ClassVar = "features that keep what parts an item has; transfer to detection and other dense tasks"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2012.11552, section 4, and config/ImageNetFull of its code",
            training={
                "optimizer": "sgd", "lr": 0.03, "batch_size": 256, "epochs": 200, "warmup_epochs": 10,
                "weight_decay": 1e-4, "encoder": "resnet50", "size": 160,
                "views": {
                    "name": "simclr", "one": {"area": [0.08, 0.6]}, "two": {"area": [0.08, 0.6]}, "part_size": 96,
                },
            },
            published="ImageNet, ResNet-50, 200 epochs, 2x160 and 5x96 crops, linear: 73.8 % top-1",
        ),
    }  # fmt: skip

    words: Annotated[int, Field(ge=2)] = 8192
    """in the vocabulary of each level (4.1); fitted to items and length unless given"""
    levels: Annotated[int, Field(ge=1)] = 2
    """dense features with words, from the coarsest (3.4); one where the encoder has no more"""
    sharpness: Annotated[float, Field(gt=0)] = 15.0
    """of the codes, over the mean squared distance to the nearest word (3.2)"""
    kappa: Annotated[float, Field(gt=0)] = 8.0
    """scale of the predicted scores (reference code); 1 in short runs unless given"""
    hidden: Annotated[int, Field(ge=1)] = 4096
    """width inside the network that makes weights of words: twice the encoder's unless given (reference code)"""
    part_views: Annotated[int, Field(ge=0)] = 5
    """small crops beside the two full views (4.1); none in short runs unless given"""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.99
    """of the slow copy at the start, rising to 1 (reference code); less in very short runs unless given"""
    whitened: bool = False
    """whiten local features before they are words, and vectors before they predict; in short runs unless given"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=2, part=self.part_views, plain=1)

    def cautions(self) -> list[str]:
        return ["a slow copy that never moves gives the words of its first weights"] if self.momentum == 1 else []

    def fitted(self, budget: Budget) -> Self:
        """Words that fit the items, a head that fits the encoder, no small crops in short runs.

        Short runs further get whitened features and vectors, and what goes with them. Whitened vectors are about √d
        long, so that with unit weights their scores differ by about 1 as they are.
        """
        short = budget.short
        whitened = self.whitened if "whitened" in self.model_fields_set else short
        derived = {
            "words": max(budget.batch, min(512 if short else 8192, budget.items // 4)),
            "kappa": 1.0 if whitened else 8.0,
            "hidden": 2 * budget.dim,
            "part_views": 0 if short else 5,
            "momentum": able_to_follow(0.99, budget.steps),
            "whitened": short,
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def misfits(self, budget: Budget) -> list[str]:
        """A vocabulary takes one local feature an item and pass: of few items it would be many of each."""
        return more_than_items(budget, self.words, "words, one an item,", "words", each=4)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)


class Learner(types.Learner):
    """OBoW at work. Views: two full ones, the small ones, the plain one."""

    distance: Tensor  # [levels] running mean of the squared distance to the nearest word

    def __init__(self, method: OBoW, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.encoder = encoder
        self.target = Target(encoder)
        widths = encoder.map_widths[-method.levels :]
        self.vocabularies = nn.ModuleList(Queue(method.words, width) for width in widths)
        self.generators = nn.ModuleList(generator(width, method.hidden, encoder.dim) for width in widths)
        norm: OutputNorm = "whiten" if method.whitened else "none"
        self.ending = nn.Sequential(*ending(norm, encoder.dim))
        self.whiteners = nn.ModuleList(nn.Sequential(*ending(norm, width)) for width in widths)
        self.register_buffer("distance", torch.zeros(len(widths)))

    def forward(self, views: list[Tensor]) -> types.Step:
        m = self.method
        views = as_planned(views, self.method.plan, "OBoW")
        *crops, plain = views
        vectors = torch.cat([self.ending(y) for y in by_size(self.encoder, crops)])
        words = [vocabulary() for vocabulary in self.vocabularies]
        bags = self.bags(plain, words)
        losses = []
        for make, known, bag in zip(self.generators, words, bags, strict=True):
            weights = unit(make(unit(known)))
            with torch.autocast(weights.device.type, enabled=False):
                of_crops = divergences(m.kappa * vectors.to(weights.dtype) @ weights.T, bag)
            losses += [kind.mean() for kind in (of_crops[:2], of_crops[2:]) if len(kind)]
        logs = {"spread": spread(vectors[: len(plain)].detach()), "perplexity": perplexity(bags[-1])}
        return types.Step(torch.stack(losses).sum() / len(words), logs)

    @torch.no_grad()
    def bags(self, plain: Tensor, words: list[Tensor]) -> list[Float[Tensor, "b k"]]:
        """What words the slow copy sees at each level; its vocabularies move on."""
        slow: Any = self.target.net
        queues: list[Any] = list(self.vocabularies)
        maps = slow.maps(plain)[-len(words) :]
        maps = [inner(by_place(whiten, one)) for whiten, one in zip(self.whiteners, maps, strict=True)]
        chance = shared(torch.rand(len(plain) * world(), device=plain.device))[places(len(plain), plain.device)]
        found = []
        with torch.autocast(plain.device.type, enabled=False):
            for level, (one, known, queue) in enumerate(zip(maps, words, queues, strict=True)):
                features = local(one)
                distance = distances(features, known.to(features.dtype))
                nearest = mean_of_rows(nearest_word(features, distance)).mean()
                mean = torch.lerp(nearest, self.distance[level].to(nearest.dtype), MEMORY)
                self.distance[level] = torch.where(queue.full, mean, nearest)
                found.append(coded(distance, self.method.sharpness / self.distance[level].to(nearest.dtype)))
                means = local(averaged(one))
                at = (chance * means.shape[1]).long()[:, None, None].expand(-1, 1, means.shape[2])
                if self.training:
                    queue.push(means.gather(1, at)[:, 0])
        return found

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.target.follow(self.encoder, cosine(self.method.momentum, 1.0, progress))


def generator(width: int, hidden: int, out: int) -> nn.Sequential:
    """Makes weights of words. Its norm is over the whole vocabulary and keeps no statistics: it is never in eval."""
    norm = nn.BatchNorm1d(hidden, track_running_stats=False)
    return nn.Sequential(nn.Linear(width, hidden, bias=False), norm, nn.ReLU(inplace=True), nn.Linear(hidden, out))


def unit(x: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    return F.normalize(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, dim=1)
