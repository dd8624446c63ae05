"""Graph constraints: items that a circle of neighbours joins belong together, items that lie far apart do not.

Source: Li, Hung, Huang et al. 2016, "Unsupervised visual representation learning by graph-based consistent constraints"
(ECCV): a graph of nearest neighbours; positives by cycles of at most four links, negatives by geodesic distance. Its
numbers were not at hand: neighbours, percentile and the rest below are choices.

Choices: before a pass over the data a look at all items gives the graph (5 neighbours by the cosine of centred
vectors) and a bank of projections. A positive is an item that is no direct neighbour and is reached, and reached back,
within two links: a directed cycle of four. Batches are drawn at random, so partners come from the bank by their number:
for each row one of its positives, and as negatives some items, the landmarks, to which all geodesic distances are known
exactly; those beyond the percentile count. The bank follows the items that come by; projections end with a plain batch
norm, for without it they all ran from the bank in one direction in trial. Where the paper trains a
classifier of pairs on top of strong descriptors, the loss here is InfoNCE and the vectors are its own; so that it finds
a start from random weights, an item's other view is a positive too (`own_view`).

Short runs: neighbours get better than those of random weights, what a probe can read does not. CIFAR-10, 624 steps of
64 images, residual net of width 0.25, one seed, k-NN / probe: 34.8 / 35.0, random weights 30.4 / 35.3. Few directions
are left in use (RankMe 8 of 128), which may be why; that was not tested.
"""

from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Generator, Tensor

from selfsame import types
from selfsame.errors import UserError
from selfsame.nn.bank import by_item
from selfsame.nn.diagnose import spread
from selfsame.nn.graph import circles, distances, neighbours
from selfsame.nn.heads import tower
from selfsame.nn.joint import each
from selfsame.nn.norm import frozen_statistics
from selfsame.nn.survey import vectors_of
from selfsame.nn.sync import mean_of_rows, places, shared, world
from selfsame.nn.views import as_planned
from selfsame.records import Budget


class Graph(types.Method):
    """Learn pairs that a graph of your own vectors finds."""

    good_for: ClassVar = "data in families that neighbours of neighbours find; best from weights that know something"

    neighbours: Annotated[int, Field(ge=1)] = 5
    """links from each item"""
    hops: Annotated[int, Field(ge=2, le=3)] = 2
    """links at most to a positive, and back: 2 makes cycles of four (paper)"""
    positives: Annotated[int, Field(ge=1)] = 8
    """kept of each item at most"""
    percentile: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """of the geodesic distances, beyond which a pair is negative"""
    landmarks: Annotated[int, Field(ge=1)] = 1024
    """items that serve as negatives, others after each look; fitted to the number of items unless given"""
    own_view: bool = True
    """an item's other view is a positive too"""
    every: Annotated[int, Field(ge=1)] = 1
    """passes over the data between two graphs"""
    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the projector's hidden layer; fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=1)] = 128
    """width of the vectors that are compared"""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """of the softmax over a positive and the negatives"""

    def cautions(self) -> list[str]:
        if self.own_view:
            return []
        return ["without own views, pairs found with random weights teach little more than colours (--init helps)"]

    def fitted(self, budget: Budget) -> Self:
        derived = {
            "neighbours": max(1, min(5, budget.items // 4)),
            "landmarks": min(1024, budget.items),
            "hidden": min(2048, max(512, 2 * budget.dim)),
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def misfits(self, budget: Budget) -> list[str]:
        wrong = []
        if self.neighbours >= budget.items:
            wrong.append(f"{budget.items} items have fewer than {self.neighbours} others: lower --method.neighbours.")
        if self.landmarks > budget.items:
            wrong.append(f"of {budget.items} items {self.landmarks} cannot be chosen: lower --method.landmarks.")
        return wrong

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder, items)


class Learner(types.Learner):
    """Graph constraints at work. Views: two full ones."""

    by_item = True
    bank: Tensor  # [items d] unit vectors
    partners: Tensor  # [items positives] -1 where there are fewer
    landmarks: Tensor  # [landmarks] items
    far: Tensor  # [items landmarks] whether they are apart
    seed: Tensor
    graphs: Tensor  # made so far

    def __init__(self, method: Graph, encoder: types.Encoder, items: int) -> None:
        super().__init__()
        if items <= method.neighbours or items < method.landmarks:
            raise UserError(
                f"Graph finds {method.neighbours} neighbours and {method.landmarks} landmarks among more items "
                f"than {items}."
            )
        self.method = method
        self.encoder = encoder
        self.projector = tower(encoder.dim, method.hidden, method.out, last="plain")
        self.register_buffer("bank", F.normalize(torch.randn(items, method.out), dim=1))
        self.register_buffer("partners", torch.full((items, method.positives), -1))
        self.register_buffer("landmarks", torch.randperm(items)[: method.landmarks])
        self.register_buffer("far", torch.ones(items, method.landmarks, dtype=torch.bool))
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("graphs", torch.zeros((), dtype=torch.long))

    def forward(self, views: list[Tensor], items: Int[Tensor, "b"]) -> types.Step:  # type: ignore[override]
        views = as_planned(views, self.method.plan, "Graph", items)
        m = self.method
        one, two = (unit(self.projector(y)) for y in each(self.encoder, views))
        partner, found = self.partner_of(items)
        negatives = self.bank[self.landmarks].to(one.dtype)
        far = self.far[items] & ~(found[:, None] & (self.landmarks == partner[:, None]))
        mined = self.bank[partner].to(one.dtype)
        every = torch.ones_like(found)
        losses = [picked(z, mined, negatives, far, found, m.temperature) for z in (one, two)]
        if m.own_view:
            losses += [picked(a, b, negatives, far, every, m.temperature) for a, b in ((one, two), (two, one))]
        self.remember(unit((one + two).detach()), items)
        return types.Step(torch.stack(losses).mean(), {"spread": spread(one.detach()), "joined": found.float().mean()})

    def partner_of(self, items: Int[Tensor, "b"]) -> tuple[Int[Tensor, "b"], Bool[Tensor, "b"]]:
        """One of the positives of each item, by chance, and whether there is one."""
        counts = (self.partners[items] >= 0).sum(dim=1)
        chance = shared(torch.rand(len(items) * world(), device=items.device))[places(len(items), items.device)]
        pick = (chance * counts).long()
        return self.partners[items, pick].clamp(min=0), counts > 0

    @torch.no_grad()
    def remember(self, vectors: Tensor, items: Tensor) -> None:
        mean, every = by_item(vectors, items)
        self.bank.index_copy_(0, every, mean.to(self.bank.dtype))

    def surveys(self, number: int) -> bool:
        return number % self.method.every == 0

    @torch.no_grad()
    def survey(self, look: types.Look) -> None:
        m = self.method
        generator = Generator().manual_seed(types.mixed(int(self.seed), int(self.graphs)))

        def both(view: Tensor) -> Tensor:
            y = self.encoder(view)
            return torch.cat([y, self.projector(y)], dim=1)

        with frozen_statistics(self):
            vectors, projections = vectors_of(look, both, len(self.bank)).split([self.encoder.dim, m.out], dim=1)
        self.bank.copy_(unit(projections))
        links = neighbours(vectors - vectors.mean(dim=0), m.neighbours)
        priority = torch.rand(len(links), generator=generator).to(links.device)
        self.partners.copy_(circles(links, m.hops, priority, m.positives))
        self.landmarks.copy_(torch.randperm(len(links), generator=generator)[: m.landmarks])
        self.far.copy_(beyond(distances(links, self.landmarks), m.percentile, m.hops).T)
        self.graphs += 1


def unit(x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    return F.normalize(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, dim=1)


def beyond(distance: Tensor, percentile: float, hops: int) -> Tensor:
    """Which distances are greater than their percentile and than `hops`; the greatest always are, unless all are 0."""
    counts = torch.bincount(distance.flatten(), minlength=256).double().cumsum(0)
    limit = max(hops, int((counts < percentile * counts[-1]).sum()))
    return distance > max(0, min(limit, int(distance.max()) - 1))


def picked(
    z: Float[Tensor, "b d"],
    positive: Float[Tensor, "b d"],
    negatives: Float[Tensor, "n d"],
    far: Bool[Tensor, "b n"],
    counted: Bool[Tensor, "b"],
    temperature: float,
) -> Float[Tensor, ""]:
    """InfoNCE of unit vectors against each row's own negatives: the mean over the counted rows of all processes."""
    with torch.autocast(z.device.type, enabled=False):
        right = (z * positive).sum(dim=1, keepdim=True) / temperature
        wrong = (z @ negatives.T / temperature).masked_fill(~far, float("-inf"))
    loss = torch.cat([right, wrong], dim=1).logsumexp(dim=1) - right[:, 0]
    share = mean_of_rows(counted.to(loss.dtype))
    return (loss * counted).mean() / share.clamp(min=torch.finfo(loss.dtype).tiny)
