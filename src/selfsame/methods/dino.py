"""DINO: a slow copy of the network sorts items, and the network learns to sort other views as it does; no labels.

Source: Caron et al. 2021, arXiv 2104.14294: sections 3.1 and 3.2, appendix C, and its reference code. Centring keeps
one output from winning for all items, sharpening keeps all outputs from winning alike; either alone collapses.
Deviations: the gradient is clipped as a whole, where the code clips each parameter's; no stochastic depth in the
student; the temperature warms up by steps, not by epochs; the last layer's lengths always stay 1 (the code's default
`norm_last_layer`), and its scores are computed in float32.
Short runs (ours, `fitted`): in trials of some hundred steps the paper's settings collapsed, and with whitened vectors
alone they did not learn. Cosines of a fresh network with its outputs spread by 1 / sqrt(narrow), 0.06 for 256, and a
target of temperature 0.04 to 0.07 makes of them next to the uniform distribution; the head's weights of std 0.02
without a norm leave vectors of std 0.004. So there the hidden layers have batch norm, the vector is narrower and
whitened, the temperature is 0.02, and Sinkhorn's algorithm takes the place of the centre, as DINOv2 does it in large
runs. CIFAR-10, 624 steps of 64 images, a narrow ResNet-18, one seed, k-NN / probe: 38.7 / 42.1, and 27.7 / 28.2 with
whitened vectors alone; random weights 30.4 / 35.3. The changes were not tried one by one.
"""

from typing import Annotated, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from selfsame import types
from selfsame.nn.centre import Centre
from selfsame.nn.diagnose import spread
from selfsame.nn.ema import Target, able_to_follow, cosine
from selfsame.nn.heads import OutputNorm
from selfsame.nn.joint import by_size
from selfsame.nn.prototypes import across_views, prototype_head, warming
from selfsame.nn.sinkhorn import sinkhorn
from selfsame.nn.views import as_planned
from selfsame.records import Budget, Preset, ViewPlan, more_than_items


class DINO(types.Method):
    """Distil a slow copy of yourself into yourself."""

    good_for: ClassVar = "vision transformers: vectors whose nearest neighbours are good without a classifier"
    presets: ClassVar = {
        "imagenet": Preset(
            source="arXiv 2104.14294, appendix C and D, and its reference code's README (ViT-S/16)",
            training={
                "optimizer": "adamw", "lr": 2e-3, "batch_size": 1024, "epochs": 800, "warmup_epochs": 10,
                "weight_decay": 0.04, "weight_decay_end": 0.4, "clip": 3.0, "encoder": "vit_small_patch16_224",
                "size": 224, "views": "dino",
            },
            published="ImageNet, ViT-S/16: linear 77.0 %, k-NN 74.5 %",
        ),
        "resnet": Preset(
            source="its reference code's README (ResNet-50)",
            method={"part_views": 6},
            training={
                "optimizer": "sgd", "lr": 0.12, "batch_size": 1024, "epochs": 800, "warmup_epochs": 10,
                "weight_decay": 1e-4, "encoder": "resnet50", "size": 224,
                "views": {
                    "name": "dino", "one": {"area": [0.14, 1.0]}, "two": {"area": [0.14, 1.0]},
                    "part": {"area": [0.05, 0.14]},
                },
            },
            published="ImageNet, ResNet-50: linear 75.3 %, k-NN 67.5 %",
        ),
        "cifar": Preset(
            source="solo-learn, scripts/pretrain/cifar/dino.yaml; its LARS (eta 0.02, clipped) is replaced by SGD at "
            "lightly's rate for BYOL",
            method={"out": 4096, "momentum": 0.9995, "part_views": 0},
            training={
                "optimizer": "sgd", "lr": 0.12, "batch_size": 256, "epochs": 1000, "warmup_epochs": 10,
                "weight_decay": 5e-4, "encoder": "resnet18", "size": 32, "views": "small",
            },
            published="CIFAR-10, ResNet-18, 1000 epochs, linear: 89.5 % (solo-learn, with LARS)",
        ),
    }  # fmt: skip

    hidden: Annotated[int, Field(ge=1)] = 2048
    """width of the head's two hidden layers (appendix C); fitted to the encoder unless given"""
    narrow: Annotated[int, Field(ge=2)] = 256
    """width of the unit vector before the last layer (appendix C); 128 in short runs unless given"""
    out: Annotated[int, Field(ge=2)] = 65_536
    """outputs to sort items into (appendix C); fitted to the number of items unless given"""
    head_norm: Literal["none", "batch"] = "none"
    """of the head's hidden layers: none, or batch norm (its code's use_bn_in_head); batch in short runs unless given"""
    output_norm: OutputNorm = "none"
    """end of the narrow vector: no norm as in the paper, plain or whiten; whiten in short runs unless given"""
    targets: Literal["centre", "sinkhorn"] = "centre"
    """how outputs are kept in use alike: by centring as in the paper, or by Sinkhorn, as in short runs unless given"""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """of the student's softmax (3.2)"""
    target_temperature: Annotated[float, Field(gt=0)] = 0.04
    """of the target's softmax at the start (3.2); 0.02 in short runs unless given"""
    target_temperature_end: Annotated[float, Field(gt=0)] = 0.07
    """of the target's softmax after its warm-up (3.2); that of the start in short runs unless given"""
    temperature_warmup: Annotated[float, Field(ge=0, le=1)] = 0.0375
    """share of the run in which it rises (reference code: 30 epochs of 800)"""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
    """of the target at the start, 1 at the end (3.2); fitted to the run's length unless given"""
    centre_momentum: Annotated[float, Field(ge=0, le=1)] = 0.9
    """of the centre (appendix D)"""
    part_views: Annotated[int, Field(ge=0, le=16)] = 8
    """small crops beside the two large ones (reference code; ten in appendix E); none in short runs unless given"""
    freeze: Annotated[float, Field(ge=0, le=1)] = 0.00125
    """share of the run at its start during which the last layer stands still (reference code: 1 epoch of 800)"""

    @property
    def plan(self) -> ViewPlan:
        return ViewPlan(full=2, part=self.part_views)

    def temperature_at(self, progress: float) -> float:
        return warming(self.target_temperature, self.target_temperature_end, progress, self.temperature_warmup)

    def build(self, encoder: types.Encoder, items: int = 0) -> "Learner":
        return Learner(self, encoder)

    def cautions(self) -> list[str]:
        return [
            text
            for true, text in (
                (
                    max(self.target_temperature, self.target_temperature_end) >= self.temperature,
                    "a target no sharper than the student drifts to the uniform distribution: full collapse "
                    "(arXiv 2104.14294, section 5.3)",
                ),
                (
                    self.centre_momentum == 1,
                    "without centring one output wins for all items: full collapse (arXiv 2104.14294, section 5.3)",
                ),
                (self.momentum == 0, "a target that equals the student does not learn (arXiv 2104.14294, table 7)"),
                (self.momentum == 1, "a target that never moves is stable but learns little"),
            )
            if true
        ]

    def misfits(self, budget: Budget) -> list[str]:
        if self.targets == "centre":  # which asks for no equal use
            return []
        return more_than_items(budget, self.out, "outputs", "out", ", or give --method.targets centre")

    def doubts(self, budget: Budget) -> list[str]:
        why = "; outputs beyond them cost memory and time, and sort nothing (the paper has 20 items to an output)"
        return more_than_items(budget, self.out, "outputs", "out", why)

    def fitted(self, budget: Budget) -> Self:
        """Outputs by items, a target that can follow; in short runs no part views, and what the module's text says.

        The paper's 65,536 outputs are for 1.3 million items.
        """
        short, given = budget.short, self.model_fields_set
        even = short and ("out" not in given or self.out <= budget.items)  # more outputs cannot be used alike
        targets = self.targets if "targets" in given or not even else "sinkhorn"
        start = self.target_temperature if "target_temperature" in given or not short else 0.02
        derived = {
            "hidden": min(2048, max(512, 4 * budget.dim)),
            "narrow": 128 if short else 256,
            "out": min(65_536, max(256, budget.items // 12), budget.items),
            "momentum": able_to_follow(0.996, budget.steps),
            "part_views": 0 if short else 8,
            "head_norm": "batch" if short else "none",
            "output_norm": "whiten" if short else "none",
            "targets": targets,
            "target_temperature": start,
            "target_temperature_end": start if short else 0.07,
            "freeze": round(min(0.05, 1 / budget.passes), 6),
        }
        return self.changed(**{name: value for name, value in derived.items() if name not in self.model_fields_set})


class Learner(types.Learner):
    """DINO at work. Views: two full ones, which target and student see, then part views for the student alone."""

    target_temperature: Tensor

    def __init__(self, method: DINO, encoder: types.Encoder) -> None:
        super().__init__()
        self.method = method
        self.encoder = encoder
        norm: Literal["batch"] | None = "batch" if method.head_norm == "batch" else None
        self.head = prototype_head(encoder.dim, method.hidden, method.narrow, method.out, method.output_norm, norm)
        self.target = Target(self.student)
        self.centre = Centre(method.out, method.centre_momentum)
        self.register_buffer("target_temperature", torch.tensor(method.temperature_at(0.0)))

    @property
    def student(self) -> nn.Sequential:
        # Built on each use: a stored one would keep the old layers after batch norms are converted.
        return nn.Sequential(self.encoder, self.head)

    def forward(self, views: list[Tensor]) -> types.Step:
        views = as_planned(views, self.method.plan, "DINO")
        rows = len(views[0])
        sorted_by_target = self.target(torch.cat(views[:2]))
        targets = self.targets_of(sorted_by_target)
        scores = self.head(torch.cat(by_size(self.encoder, views)))
        loss = across_views(targets.split(rows), scores.split(rows), self.method.temperature)
        if self.method.targets == "centre":
            self.centre.follow(sorted_by_target)
        logs = {"spread": spread(sorted_by_target[:rows]), "entropy": torch.special.entr(targets).sum(1).mean()}
        return types.Step(loss, logs)

    @torch.no_grad()
    def targets_of(self, scores: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        if self.method.targets == "sinkhorn":
            return sinkhorn(scores, self.target_temperature)
        return self.centre(scores, self.target_temperature)

    def before_update(self, progress: float) -> None:
        if progress < self.method.freeze:
            self.head[-1].weight.grad = None

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.target.follow(self.student, cosine(self.method.momentum, 1.0, progress))
        self.target_temperature.fill_(self.method.temperature_at(progress))
