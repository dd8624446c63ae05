"""CPC: cut an item into pieces and tell the vector of a piece further on from those of all others.

Source: van den Oord et al. 2018, arXiv 1807.03748 (v1), and Hénaff et al. 2019, arXiv 1905.09272 (v2: norms without
batch statistics, four directions, the convolutions of its appendix), both from memory; no code was at hand. Vectors of
pieces in reading direction go through a network that sees no later ones; from what it makes of row t, a linear layer
each predicts the rows t + k. Scores are dot products, not normalised; candidates are all pieces of all items.

Deviations and choices: the loss is the mean over k and directions, not the sum; pieces get no random transformation
of their own; row t + 1 is left out (`skip`), because pieces overlap by half; each direction has a network of its own;
`candidates` limits memory where batches are large. Batch norm would tell which pieces belong together (v2, section
4.2): it is replaced by group norm with standardised weights. The encoder is trained on pieces and then used on whole
views.

Short runs: not better than random weights of a network with batch norm, where views are small. CIFAR-10, 624 steps of
64 images, residual net of width 0.25, one seed, k-NN / probe: 28.9 / 31.0, random weights 30.4 / 35.3. With group norm,
which CPC puts in its place, random weights of the same network are at 12.9 / 19.9 (one draw, in bf16; in fp32, by
4,000 and on 1,000 images, 12.2 / 20.2): so it learns much from a low start, and a short run ends where others begin.
Pieces of 8 px hold little, and whole views are none of them; neither that nor a cure was tried.
"""

import math
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsame import types
from selfsame.errors import UserError
from selfsame.nn.diagnose import spread
from selfsame.nn.sync import gathered, places, shared
from selfsame.nn.tokens import wide
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan

SCALE = 0.1  # of the predictions, so that scores begin small (v2, appendix)


class CPC(types.Method):
    """Learn by predicting pieces that are further on."""

    needs: ClassVar = ("pieces",)
    good_for: ClassVar = "items with an order, as time in sound and series; pictures with much texture"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 1905.09272, section 3 and appendix (v2), from memory; its pieces are larger, 6 x 6 of 80 px",
            method={"directions": 4, "hidden": 256, "out": 64, "ahead": 3, "skip": 2},
            training={
                "optimizer": "adamw", "lr": 4e-4, "batch_size": 512, "epochs": 200, "encoder": "resnet50",
                "size": 256, "views": "photo",
            },
            published="ImageNet, linear: ResNet-50 63.8 %, ResNet-161 71.5 % top-1",
        ),
        "cifar": Preset(
            source="no recipe is published: v2 with 7 x 7 pieces of 8 px, not tuned",
            method={"directions": 4, "hidden": 256, "out": 64},
            training={
                "optimizer": "adamw", "lr": 1e-3, "batch_size": 64, "epochs": 200, "encoder": "resnet18",
                "size": 32, "views": "small",
            },
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1)] = 256
    """inner width of the context network (v2, appendix; v1's GRU: 256); fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=1)] = 64
    """width in which predictions and pieces are compared (v2, appendix)"""
    context: Literal["conv", "gru"] = "conv"
    """conv: masked convolutions over rows and columns (pictures); gru: from first to last (v1), for sequences"""
    depth: Annotated[int, Field(ge=1)] = 5
    """layers of the masked convolutions, each of which sees a row further back (v2, appendix)"""
    ahead: Annotated[int, Field(ge=1)] = 5
    """rows on that are predicted at most, as far as the grid goes (v1: pictures 5, sound 12)"""
    skip: Annotated[int, Field(ge=0)] = 1
    """rows on that are left out because their pieces overlap with the present one"""
    directions: Annotated[int, Field(ge=1, le=4)] = 1
    """1 downwards, of sequences to the future (v1), 2 back, 3 right, 4 left too (v2); pictures: 4 unless given"""
    norm: Literal["group", "batch"] = "group"
    """batch norms of the encoder are replaced, or stay"""
    candidates: Annotated[int, Field(ge=0)] = 4096
    """pieces of the batch, drawn at each step, among which to tell the right one; 0: all; fewer in short runs"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=1)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def fitted(self, budget: Budget) -> Self:
        """Pictures in all four directions (v2), sequences from past to future (v1); readers no dearer than a small
        encoder."""
        sequence = budget.piece_axes == 1
        context = self.context if "context" in self.model_fields_set or not sequence else "gru"
        derived = {
            "context": context,
            "directions": 1 if sequence or context == "gru" else 4,
            "hidden": min(256, max(64, budget.dim // 2)),
            "candidates": 1024 if budget.short else 4096,
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})

    def misfits(self, budget: Budget) -> list[str]:
        if budget.piece_axes == 1 and self.directions > 2:
            return [
                f"--method.directions {self.directions}: a sequence is read from past to future (1) and back (2); "
                "there is no third direction."
            ]
        if self.skip < self.ahead:
            return []
        return [
            f"of {self.ahead} rows ahead {self.skip} are skipped, so nothing is predicted: lower --method.skip, or "
            "raise --method.ahead."
        ]

    def cautions(self) -> list[str]:
        if self.norm == "batch":
            return ["batch norm lets a piece know the others of its item, which solves the task without learning"]
        if self.skip == 0:
            return ["the next piece overlaps with the present one: to predict it, edges suffice"]
        return []


class Learner(types.Learner):
    """CPC at work. Views: a full one."""

    def __init__(self, method: CPC, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        if method.norm == "group" and any(isinstance(part, _BatchNorm) for part in encoder.modules()):
            encoder.use_group_norm()
        self.encoder = encoder
        self.into = nn.Linear(encoder.dim, method.out)
        self.readers = nn.ModuleList(Reader(method, encoder.dim) for _ in range(method.directions))

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "CPC")
        m = self.method
        z = self.vectors(views[0])
        goals = self.into(z)
        every = wide(gathered(goals)).flatten(0, 2)  # [n d]
        allowed = self.drawn(len(every), every.device)
        item = places(len(z), z.device)[:, None, None]
        number = item * z[0, ..., 0].numel() + torch.arange(z[0, ..., 0].numel(), device=z.device).view(z.shape[1:3])
        losses, right = [], []
        for reader, turn in zip(self.readers, TURNS, strict=False):
            rows, labels = turn(z), turn(number)
            made = reader(rows)
            for k, guess in enumerate(made, m.skip + 1):
                labels_k = labels[:, k:].flatten()
                scores = against(SCALE * guess[:, :-k].flatten(0, 2), every, labels_k, allowed)
                losses.append(F.cross_entropy(scores, torch.zeros_like(labels_k)))
                right.append((scores.argmax(dim=1) == 0).float().mean())
        logs = {"spread": spread(goals.flatten(0, 2)), "accuracy": torch.stack(right).mean()}
        return types.Step(torch.stack(losses).mean(), logs)

    def vectors(self, view: Tensor) -> Float[Tensor, "b rows columns d"]:
        """The encoder's vectors of the pieces; a grid of one axis has one column."""
        pieces = self.encoder.pieces(view)
        grid = pieces.shape[1 : pieces.ndim - view.ndim + 1]
        rows, columns = grid[0], math.prod(grid[1:])
        if min(rows, columns if self.method.directions > 2 else rows) <= self.method.skip + 1:
            raise UserError(
                f"a view gives {rows} x {columns} pieces; to predict past {self.method.skip} skipped "
                f"{'rows and columns' if self.method.directions > 2 else 'rows'} there must be at least "
                f"{self.method.skip + 2}. Give larger views, or lower --method.skip or --method.directions."
            )
        flat = pieces.flatten(0, len(grid))
        return self.encoder(flat).view(len(view), rows, columns, -1)

    def drawn(self, pieces: int, device: torch.device) -> Tensor | None:
        """Numbers of the candidates that all rows share; None for all."""
        if not 0 < self.method.candidates < pieces:
            return None
        return shared(torch.randperm(pieces).to(device, non_blocking=True))[: self.method.candidates]


class Reader(nn.Module):
    """What is known at each row from it and those before, and from that the rows further on."""

    def __init__(self, method: CPC, dim: int) -> None:
        super().__init__()
        self.method = method
        self.context = Columns(dim, method.hidden) if method.context == "gru" else Masked(dim, method)
        width = method.hidden if method.context == "gru" else dim
        self.ahead = nn.Linear(width, (method.ahead - method.skip) * method.out)

    def forward(self, z: Float[Tensor, "b r c d"]) -> list[Float[Tensor, "b r c out"]]:
        """Predictions for each number of rows on, from skip + 1 as far as the grid goes."""
        return list(self.ahead(self.context(z)).split(self.method.out, dim=-1))[: z.shape[1] - 1 - self.method.skip]


class Masked(nn.Module):
    """Residual convolutions over columns, this row and the one before: no row sees a later one (v2, appendix)."""

    def __init__(self, dim: int, method: CPC) -> None:
        super().__init__()
        hidden = method.hidden
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, (1, 3), padding=(0, 1)),
                nn.ZeroPad2d((0, 0, 1, 0)), nn.Conv2d(hidden, hidden, (2, 1)), nn.ReLU(), nn.Conv2d(hidden, dim, 1),
            )
            for _ in range(method.depth)
        )  # fmt: skip

    def forward(self, z: Float[Tensor, "b r c d"]) -> Float[Tensor, "b r c d"]:
        x = z.permute(0, 3, 1, 2)
        for layer in self.layers:
            x = x + layer(x)
        return x.relu().permute(0, 2, 3, 1)


class Columns(nn.Module):
    """A recurrent network along the rows, each column by itself (v1)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, hidden, batch_first=True)

    def forward(self, z: Float[Tensor, "b r c d"]) -> Float[Tensor, "b r c hidden"]:
        b, _, c, _ = z.shape
        made, _ = self.gru(z.transpose(1, 2).flatten(0, 1))
        return made.unflatten(0, (b, c)).transpose(1, 2)


TURNS = (  # of [b r c ...], so that reading goes down, up, right, left
    lambda x: x,
    lambda x: x.flip(1),
    lambda x: x.transpose(1, 2),
    lambda x: x.transpose(1, 2).flip(1),
)


def against(
    guess: Float[Tensor, "m d"], every: Float[Tensor, "n d"], labels: Tensor, allowed: Tensor | None
) -> Float[Tensor, "m k"]:
    """Scores in float32 of the right piece (column 0) and of the candidates, where the right one is left out."""
    with torch.autocast(guess.device.type, enabled=False):
        guess = wide(guess)
        numbers = torch.arange(len(every), device=every.device) if allowed is None else allowed
        scores = guess @ every[numbers].T
        scores = scores.masked_fill(labels[:, None] == numbers, float("-inf"))
        return torch.cat([(guess * every[labels]).sum(dim=1, keepdim=True), scores], dim=1)
