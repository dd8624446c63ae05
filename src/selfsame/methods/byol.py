"""BYOL: predict what a slow copy of the network makes of another view. No negatives.

Source: Grill et al. 2020, arXiv 2006.07733; defaults are its ImageNet run, sections named below. The switches are
the full scope of its patent; `norm` is the study without batch statistics, arXiv 2010.10241.
Choices: the target begins as a copy of the online network (the reference code draws it apart, and its authors saw no
difference); the target has no predictor; no classifier is trained alongside, k-NN looks take its place.
"""

from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.errors import UserError
from selfsame.nn.adversary import ascend
from selfsame.nn.diagnose import spread
from selfsame.nn.ema import Target, cosine, momentum_for
from selfsame.nn.heads import OutputNorm, mlp
from selfsame.nn.joint import each
from selfsame.nn.norm import frozen_statistics
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan

Loss = Literal["nmse", "mse", "l2", "cosine", "dot", "xent"]


class BYOL(types.Method):
    """Learn by predicting a slow copy of yourself."""

    good_for: ClassVar = "a safe choice: small batches, no negatives, robust to weak views"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2006.07733, section 3.3, and its reference code",
            method={"hidden": 4096, "momentum": 0.996, "output_norm": "none"},
            training={
                "optimizer": "lars", "lr": 3.2, "batch_size": 4096, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 1.5e-6, "encoder": "resnet50", "size": 224, "views": "photo",
            },
            published="ImageNet, ResNet-50, linear: 74.3 % top-1",
        ),
        "cifar": Preset(
            source="solo-learn, scripts/pretrain/cifar/byol.yaml; its LARS (eta 0.02, clipped) is replaced by SGD at "
            "lightly's rate",
            method={"hidden": 4096, "momentum": 0.99, "output_norm": "none"},
            training={
                "optimizer": "sgd", "lr": 0.12, "batch_size": 256, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 5e-4, "encoder": "resnet18", "size": 32, "views": "small",
            },
            published="CIFAR-10, ResNet-18, 1000 epochs, linear: 92.6 % (solo-learn); k-NN 86.9 % after 200 (lightly)",
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1)] = 4096
    """width of both heads' hidden layer (3.3); fitted to the encoder unless given"""
    out: Annotated[int, Field(ge=1)] = 256
    """width of the projection (3.3)"""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
    """of the target at the start (3.3); fitted to batch and length unless given"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """momentum rises to 1 over the run, or stays"""
    projector: bool = True
    """without it the target is the representation itself"""
    predictor: bool = True
    """without it, and no other asymmetry, it collapses (table 5)"""
    transformed: Literal["both", "online", "target"] = "both"
    """which side sees a transformed view; the other sees the plain item"""
    symmetric: bool = True
    """sum the loss over both directions (equation 2)"""
    loss: Loss = "nmse"
    """distance of prediction and target: nmse = 2 - 2 cos (equation 2), mse, l2, cosine, dot, xent"""
    normalize: Literal["both", "prediction", "target", "none"] = "none"
    """sides put on the unit sphere before mse, l2, dot or xent; nmse and cosine always are"""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """of the prediction's softmax in xent"""
    target_temperature: Annotated[float, Field(gt=0)] = 0.04
    """of the target's softmax in xent; sharper than the prediction's"""
    update_every: Annotated[int, Field(ge=1)] = 1
    """steps between two moves of the target"""
    copy_every: Annotated[int, Field(ge=0)] = 0
    """copy online into target every n steps, in place of momentum, schedule and update-every; 0: average"""
    buffers: Literal["own", "copy", "average"] = "own"
    """batch-norm statistics of the target: its own (reference code), copied, or averaged"""
    output_norm: OutputNorm = "none"
    """end of the projector: none, a plain norm without scale and shift, or whiten; whiten in short runs unless given"""
    norm: Literal["batch", "group"] = "batch"
    """group: GroupNorm and weight standardisation in place of batch norm"""
    adversary: Annotated[int, Field(ge=0)] = 0
    """steps of gradient ascent that make one view harder; 0: none"""
    epsilon: Annotated[float, Field(ge=0, le=1)] = 8 / 255
    """largest change of a value by the adversary, in the units of views: images lie in [0, 1]"""
    alpha: Annotated[float, Field(gt=0, le=1)] = 2 / 255
    """size of one step of the adversary"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=2) if self.transformed == "both" else ViewPlan(full=1, plain=1)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        still = self.momentum == 1 and self.copy_every == 0
        return [
            text
            for true, text in (
                (
                    not self.predictor and self.transformed == "both" and not still,
                    "without a predictor both sides can agree on a constant: full collapse (arXiv 2006.07733, table 5)",
                ),
                (
                    self.copy_every == 1 or (self.momentum == 0 and self.copy_every == 0),
                    "a target that equals the online network gives unstable training (table 5: momentum 0 collapses)",
                ),
                (still, "a target that never moves is stable but learns little (table 5: 18.8 % on ImageNet)"),
                (
                    self.loss == "dot" and self.normalize != "both",
                    "the dot product of vectors of any length has no lower bound: lengths grow until it diverges",
                ),
                (
                    self.loss in ("mse", "l2") and self.normalize in ("none", "prediction"),
                    "plain squared distance is smallest when all vectors shrink to zero: normalise the target",
                ),
                (
                    self.loss == "xent" and self.target_temperature >= self.temperature,
                    "a target softmax no sharper than the prediction's drifts to the uniform distribution",
                ),
            )
            if true
        ]

    def fitted(self, budget: Budget) -> Self:
        """Momentum by `momentum_for`, heads no wider than a small encoder can use, whitened projections in short runs.

        Deviations: the paper's heads are 4096 wide, and it has no norm at the projector's end. Whitened, short runs
        learn clearly faster than with a plain norm (docs/numbers.md: CIFAR-10 at a small budget). Where `norm` shuns
        batch statistics a plain group norm takes its place.
        """
        derived = {
            "momentum": momentum_for(budget.batch, budget.steps),
            "hidden": min(4096, max(1024, 2 * budget.dim)),
            "output_norm": ("whiten" if self.norm == "batch" else "plain") if budget.short else "none",
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})


class Learner(types.Learner):
    """BYOL at work. Views: two full ones, or one full and one plain."""

    steps: Tensor  # optimiser steps done

    def __init__(self, method: BYOL, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        if method.norm == "group":
            encoder.use_group_norm()
        self.encoder = encoder
        width = method.out if method.projector else encoder.dim
        widths = (encoder.dim, method.hidden, method.out)
        self.projector = mlp(*widths, method.norm, method.output_norm) if method.projector else nn.Identity()
        self.predictor = mlp(width, method.hidden, width, method.norm) if method.predictor else nn.Identity()
        self.target = Target(self.online, method.buffers)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @property
    def online(self) -> nn.Sequential:
        # Built on each use: a stored one would keep the old layers after batch norms are converted.
        return nn.Sequential(self.encoder, self.projector)

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "BYOL")
        one, two = views
        m = self.method
        if m.adversary:
            one = self.harder(one, two)
        if m.transformed == "both":
            pairs = [(one, two), (two, one)] if m.symmetric else [(one, two)]
        else:  # `one` is transformed, `two` is plain
            first = (one, two) if m.transformed == "online" else (two, one)
            pairs = [first, first[::-1]] if m.symmetric else [first]
        predictions = each(nn.Sequential(*self.online, self.predictor), [x for x, _ in pairs])
        targets = self.target([y for _, y in pairs])
        loss = torch.stack([self.distance(p, z) for p, z in zip(predictions, targets, strict=True)]).sum()
        return types.Step(loss, {"spread": spread(self.last_target)})

    def predict(self, view: Tensor) -> Float[Tensor, "b d"]:
        return self.predictor(self.online(view))

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.last_target = target
        return distance(prediction, target, self.method)

    def harder(self, view: Tensor, other: Tensor) -> Tensor:
        """The view moved within epsilon so that the other is harder to predict; the network is left as it was."""
        m = self.method
        if not view.is_floating_point():
            raise UserError(
                f"--method.adversary {m.adversary}: it changes the values of a view little by little, and views of "
                "this kind are whole numbers, as those of words. Leave it out."
            )
        with frozen_statistics(self):
            target, limits = self.target(other), self.encoder.limits

            def loss(x: Tensor) -> Tensor:
                return distance(self.predict(x), target, m)

            return ascend(view, loss, m.epsilon, m.alpha, m.adversary, limits=limits)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        m = self.method
        self.steps += 1
        every = m.copy_every or m.update_every
        if every > 1 and int(self.steps) % every:  # the usual 1 must not wait for the device to say the count
            return
        rising = cosine(m.momentum, 1.0, progress) if m.schedule == "cosine" else m.momentum
        self.target.follow(self.online, 0.0 if m.copy_every else rising)


def distance(p: Float[Tensor, "b d"], z: Float[Tensor, "b d"], method: BYOL) -> Float[Tensor, ""]:
    """Mean over the batch of the distance of prediction and target, computed in fp32.

    nmse: 2 - 2 cos, in [0, 4]. cosine: -cos. dot: -<p, z>. l2: squared distance. mse: l2 / d.
    xent: cross-entropy of softmax(p / temperature) against softmax(z / target_temperature).
    """
    p, z = p.float(), z.detach().float()
    if method.loss in ("nmse", "cosine"):
        cos = F.cosine_similarity(p, z, dim=-1).mean()
        return 2 - 2 * cos if method.loss == "nmse" else -cos
    if method.normalize in ("both", "prediction"):
        p = F.normalize(p, dim=-1)
    if method.normalize in ("both", "target"):
        z = F.normalize(z, dim=-1)
    if method.loss == "mse":
        return F.mse_loss(p, z)
    if method.loss == "l2":
        return (p - z).square().sum(-1).mean()
    if method.loss == "dot":
        return -(p * z).sum(-1).mean()
    return F.cross_entropy(p / method.temperature, (z / method.target_temperature).softmax(-1))
