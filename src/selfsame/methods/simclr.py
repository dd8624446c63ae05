"""SimCLR: pick the other view of the same item out of the whole batch.

Source: Chen et al. 2020, arXiv 2002.05709 (equation 1, algorithm 1, section 4.2), and its reference code; NT-Xent is
`nn.contrast.nt_xent`.
Deviations: the loss is the paper's mean over 2 n rows, half of what the reference code adds up, which LARS and AdamW do
not notice and SGD does. As in that code both views pass the network together, so that batch norms see them as one
batch, and the head ends in a batch norm; there it has no shift, here it has, and the paper's text has no norm there.
Two layers are the paper's; three are the reference code's later default; none is ours, for networks
as shallow as averaged word vectors (docs/text.md). With micro-batches the others are those of a micro-batch.
"""

from typing import Annotated, ClassVar, Self

from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.contrast import nt_xent
from selfsame.nn.diagnose import neighbour_agreement, spread
from selfsame.nn.heads import tower
from selfsame.nn.joint import by_size
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset


class SimCLR(types.Method):
    """Learn by telling every item of a batch from all others."""

    good_for: ClassVar = "the simplest contrast; wants large batches and strong views"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2002.05709, section 2.2; weight decay as in the paper (its code's README: 1e-4)",
            training={
                "optimizer": "lars", "lr": 4.8, "batch_size": 4096, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 1e-6, "encoder": "resnet50", "size": 224, "views": "simclr",
            },
            published="ImageNet, ResNet-50, linear: 69.3 % top-1",
        ),
        "cifar": Preset(
            source="arXiv 2002.05709, appendix B.9, and its reference code's CIFAR-10 command",
            method={"temperature": 0.5},
            training={
                "optimizer": "lars", "lr": 2.0, "batch_size": 512, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 1e-4, "encoder": "resnet18", "size": 32, "views": "simclr_small",
            },
            published="CIFAR-10, ResNet-18, linear: about 91 %; 90.7 % with temperature 0.2 (solo-learn)",
        ),
        "text": Preset(
            source="docs/text.md, where it is measured: word vectors that are compared without a head",
            method={"layers": 0},
            training={"encoder": "bag-small", "views": "simcse", "lr": 4e-3},
            derived=True,
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the head's hidden layers (4.2); fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=1)] = 128
    """width of the projection (4.2)"""
    layers: Annotated[int, Field(ge=0, le=8)] = 2
    """linear layers of the head: 2 in the paper (4.2), 3 in its code; 0 compares the vectors themselves"""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """of the softmax over the batch (5.1, table 5)"""

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def fitted(self, budget: Budget) -> Self:
        """Head no wider than a small encoder can use."""
        derived = {"hidden": min(2048, max(512, 2 * budget.dim))}
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})


class Learner(types.Learner):
    """SimCLR at work. Views: two full ones."""

    def __init__(self, method: SimCLR, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.encoder = encoder
        self.projector: nn.Module = nn.Identity()
        if method.layers:
            self.projector = tower(encoder.dim, *[method.hidden] * (method.layers - 1), method.out, last="affine")

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "SimCLR")
        one, two = by_size(nn.Sequential(self.encoder, self.projector), views)
        loss = nt_xent(one, two, self.method.temperature)
        found = neighbour_agreement(one.detach(), two.detach())
        return types.Step(loss, {"spread": spread(one.detach()), "accuracy": found})
