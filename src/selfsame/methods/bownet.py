"""BoWNet: predict from a changed view which visual words the unchanged item has, by the words of a frozen network.

Source: Gidaris et al. 2020, arXiv 2002.12247, sections 3.1 to 3.3. A round: the local features of a frozen teacher are
clustered to a vocabulary, the histogram of the nearest words of the plain item is the target, and the student predicts
it by unit weights times one learnable scale. Then the student is the next round's teacher.

The loss is reported as the divergence, that is the cross-entropy less what nobody can predict: the bags' own entropy.
Deviations: the first teacher is the encoder as it is given, random or `--init`, where the paper has one trained on
rotations; with random weights words are colours and edges, and later rounds must do the rest. The student goes on from
round to round where the paper's starts anew, but its last layer does start anew. There is no CutMix, and no variant
with a bag for each quarter of an item. Uncertain: the published scores, the scale at its start, and which of the dense
features, for the paper was not at hand.

In short runs (`whitened`), which is ours: local features and vectors are whitened, words are few and of a finer map.
Without it short runs left vectors worse than random ones (CIFAR-10, a small network). There bags of random weights'
4x4 maps tell the kinds of items hardly apart (22 % of nearest neighbours in the right class, with 750 words), bags of
128 words of whitened 8x8 maps do (31 %); untouched batch-norm statistics of the teacher were better than the batch's.
A round takes ten passes at least: in two passes, three rounds did worse than one (k-NN 33.5 and 34.4, linear 34.9 and
37.1 %).
"""

import copy
import math
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Generator, Tensor, nn

from selfsame import types
from selfsame.errors import UserError
from selfsame.nn.contrast import dots
from selfsame.nn.diagnose import spread
from selfsame.nn.heads import ending
from selfsame.nn.kmeans import kmeans
from selfsame.nn.survey import vectors_of
from selfsame.nn.sync import shared
from selfsame.nn.views import as_planned
from selfsame.nn.whiten import SHRINK
from selfsame.nn.words import counted, divergence, local, perplexity
from selfsame.records import Budget, Preset, ViewPlan

LEAST = 10  # passes of a round


class BoWNet(types.Method):
    """Predict the visual words of an item."""

    needs: ClassVar = ("maps",)
    good_for: ClassVar = "improving a trained encoder in rounds; items that are told by their parts, not their layout"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2002.12247, section 4.2",
            training={
                "optimizer": "sgd", "lr": 0.1, "batch_size": 256, "epochs": 140, "weight_decay": 1e-4,
                "encoder": "resnet50", "size": 224, "views": "simclr",
            },
            published="ImageNet, ResNet-50, linear: about 62 % top-1",
        ),
        "cifar": Preset(
            source="arXiv 2002.12247, section 4.1: the vocabulary; the rest is usual for CIFAR",
            method={"words": 2048},
            training={
                "optimizer": "sgd", "lr": 0.1, "batch_size": 128, "epochs": 200, "weight_decay": 5e-4,
                "encoder": "resnet18", "size": 32, "views": "simclr_small",
            },
        ),
    }  # fmt: skip

    words: Annotated[int, Field(ge=2)] = 8192
    """in the vocabulary (4.2; 2048 for CIFAR); fitted to items and length unless given"""
    level: Annotated[int, Field(ge=0)] = 1
    """which of the dense features have words, from the coarsest; 0, fitted to short runs: the second or the only one"""
    target: Literal["histogram", "binary"] = "histogram"
    """how often a word is there, or whether it is (3.1)"""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """of the scores at the start; learned (3.2)"""
    every: Annotated[int, Field(ge=1)] = 70
    """passes over the data in a round; a third of the run, or ten where that is less, unless given"""
    sample: Annotated[int, Field(ge=2)] = 100_000
    """local features that are clustered, or one of each item where that is less"""
    iterations: Annotated[int, Field(ge=1)] = 20
    """of the k-means"""
    whitened: bool = False
    """whiten local features before they are words, and vectors before they predict; in short runs unless given"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=1, plain=1)

    def fitted(self, budget: Budget) -> Self:
        """Words that fit the items, three rounds; words that a short run can learn to predict."""
        derived = {
            "words": max(2, min(128 if budget.short else 8192, budget.items // 4)),
            "every": max(LEAST, math.ceil(budget.passes / 3)),
            "level": 0 if budget.short else 1,
            "whitened": budget.short,
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def misfits(self, budget: Budget) -> list[str]:
        if self.words <= self.sample:
            return []
        return [f"{self.words} words cannot be found in {self.sample} local features: raise --method.sample."]

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder, items)


class Learner(types.Learner):
    """BoWNet at work. Views: a full one and the plain one."""

    vocabulary: Tensor  # [words c]
    mean: Tensor  # [c] of local features; used where they are whitened
    whitener: Tensor  # [c c] what they are multiplied by then
    seed: Tensor
    rounds: Tensor  # begun so far

    def __init__(self, method: BoWNet, encoder: types.Encoder, items: int) -> None:
        super().__init__()
        if items < 1:
            raise UserError("BoWNet looks at all items for its vocabulary: say how many there are, build(encoder, n).")
        widths = encoder.map_widths
        if method.level > len(widths):
            raise UserError(f"--method.level {method.level}: the encoder has {len(widths)} dense features. Lower it.")
        self.method = method
        self.level = method.level or min(2, len(widths))
        self.items = items
        self.encoder = encoder
        self.teacher = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.directions = nn.Parameter(drawn(method.words, encoder.dim))
        self.scale = nn.Parameter(torch.full((1,), method.scale))
        self.ending = nn.Sequential(*ending("whiten" if method.whitened else "none", encoder.dim))
        width = widths[-self.level]
        self.register_buffer("vocabulary", torch.randn(method.words, width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("whitener", torch.eye(width))
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("rounds", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.teacher.eval()  # always: the same item has the same words
        return self

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "BoWNet")
        changed, plain = views
        vectors = self.encoder(changed)
        scores = self.scale * dots(self.ending(vectors), F.normalize(self.directions, dim=1))
        bags = self.bags(plain)
        logs = {"spread": spread(vectors.detach()), "perplexity": perplexity(bags)}
        return types.Step(divergence(scores, bags), logs)

    @torch.no_grad()
    def bags(self, plain: Tensor) -> Float[Tensor, "b k"]:
        features = self.features(plain)
        with torch.autocast(features.device.type, enabled=False):
            if self.method.whitened:
                features = (features - self.mean.to(features.dtype)) @ self.whitener.to(features.dtype)
            return counted(features, self.vocabulary.to(features.dtype), self.method.target == "binary")

    def features(self, plain: Tensor) -> Float[Tensor, "b n c"]:
        return local(self.teacher.maps(plain)[-self.level])

    def surveys(self, number: int) -> bool:
        return number % self.method.every == 0

    @torch.no_grad()
    def survey(self, look: types.Look) -> None:
        """Begin a round: the student is the teacher, its local features give the vocabulary."""
        m = self.method
        seed = types.mixed(int(self.seed), int(self.rounds))
        generator = Generator().manual_seed(seed)
        self.teacher.load_state_dict(self.encoder.state_dict())
        chance = torch.rand(self.items, -(-m.sample // self.items), generator=generator)

        def some(view: Tensor, which: Int[Tensor, "b"]) -> Float[Tensor, "b few c"]:
            features = self.features(view)
            at = (chance[which.cpu()] * features.shape[1]).long().to(features.device)
            return features.gather(1, at[..., None].expand(-1, -1, features.shape[2]))

        looked = (([some(view, which)], which) for (view,), which in look)
        found = vectors_of(looked, lambda features: features, self.items).flatten(0, 1)
        found = found[torch.randperm(len(found), generator=generator)[: m.sample].to(found.device)]
        if m.whitened:
            mean, whitener = whitening(found)
            self.mean.copy_(mean)
            self.whitener.copy_(whitener)
            found = (found - mean) @ whitener
        self.vocabulary.copy_(kmeans(found, m.words, seed, m.iterations)[0])
        self.directions.copy_(drawn(m.words, self.encoder.dim, generator))
        self.scale.fill_(m.scale)
        self.rounds += 1


def drawn(words: int, width: int, generator: Generator | None = None) -> Float[Tensor, "k d"]:
    """Random rows of length about 1: the shorter a row, the further a step of the optimiser turns it."""
    return torch.randn(words, width, generator=generator) / math.sqrt(width)


def whitening(x: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "c"], Float[Tensor, "c c"]]:
    """The mean, and the symmetric inverse square root of the covariance, shrunk as `nn.whiten` does it."""
    mean = shared(x.mean(dim=0))
    around = x - mean
    values, axes = torch.linalg.eigh(around.T @ around / len(x))
    shrunk = (values + SHRINK * values.mean()).clamp(min=torch.finfo(x.dtype).tiny)
    return mean, shared(axes * shrunk.rsqrt() @ axes.T)
