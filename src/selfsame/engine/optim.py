"""Optimisers and the learning rate of a step.

Sources: LARS, You et al. 2017, arXiv 1708.03888, as BYOL's reference code has it; schedule of BYOL, arXiv 2006.07733,
section 3.3.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from selfsame.engine.shard import divided, local, norms

Name = Literal["sgd", "adamw", "lars"]
Schedule = Literal["cosine", "step", "constant"]
DROPS = (0.6, 0.8)  # shares of the run after which the rate of "step" is a tenth of what it was: MoCo's 120, 160 of 200


def make_optimizer(name: Name, learner: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    """One of sgd (momentum 0.9), adamw or lars over all parameters that learn.

    Biases and all other one-dimensional parameters (norms' scales and shifts) are free of weight decay, and of
    LARS's adaptation, as in BYOL's reference code.
    """
    groups = decay_groups(learner, weight_decay)
    # Fused is one pass over each weight in place of several, on a CPU too; it knows no divided weights.
    parted = any(divided(p) for group in groups for p in group["params"])
    way: dict[str, Any] = {"foreach": True} if parted else {"fused": True}
    if name == "sgd":
        sgd = SGD(groups, lr=lr, momentum=0.9, **way)
        for p in (p for group in sgd.param_groups for p in group["params"]):
            # As after a gradient of 0: fused, torch fails where some weights have had a gradient and others have not.
            sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return sgd
    if name == "adamw":
        return AdamW(groups, lr=lr, **way)
    return LARS(groups, lr=lr)


def decay_groups(learner: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights and the rest; each once more for what keeps its learning rate at the peak, and for each lower rate."""
    steady, shares = getattr(learner, "steady", ()), getattr(learner, "shares", {})
    groups: list[dict[str, Any]] = []
    for held in (False, True) if steady else (False,):
        learning = [it for it in learner.named_parameters() if it[1].requires_grad and it[0].startswith(steady) == held]
        for share in sorted({shares.get(name, 1.0) for name, _ in learning} or {1.0}):
            of_rate = [p for name, p in learning if shares.get(name, 1.0) == share]
            kind = {"steady": held, "share": share}
            groups += [
                {"params": [p for p in of_rate if p.ndim > 1], "weight_decay": weight_decay, "adapt": True, **kind},
                {"params": [p for p in of_rate if p.ndim <= 1], "weight_decay": 0.0, "adapt": False, **kind},
            ]
    return groups


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling: each weight's step is in proportion to its norm.

    d = gradient + weight_decay * w; where the group adapts, d is scaled by eta |w| / |d| (by 1 if a norm is 0);
    m = momentum * m + d; w = w - lr * m. No Nesterov; the learning rate stands outside the momentum. The norms are
    those of whole weights, the rest is done part by part where they are divided over processes.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.9, eta: float = 1e-3) -> None:
        defaults = {"lr": lr, "momentum": momentum, "eta": eta, "weight_decay": 0.0, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        result = closure() if closure is not None else None
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            if not learning:
                continue
            for p in learning:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            weights = [local(p) for p in learning]
            buffers = [local(self.state[p]["momentum"]) for p in learning]
            decay: float = group["weight_decay"]
            updates = list(torch._foreach_add([local(p.grad) for p in learning], weights, alpha=decay))
            if group["adapt"]:
                parted = divided(learning[0])
                sizes, lengths = norms(weights, parted), norms(updates, parted)
                trust = torch.where((sizes > 0) & (lengths > 0), group["eta"] * sizes / lengths, 1.0)
                torch._foreach_mul_(updates, list(trust.unbind()))
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(weights, buffers, alpha=-group["lr"])
        return result


def lr_at(step: int, steps: int, warmup: int, lr: float, schedule: Schedule = "cosine") -> float:
    """Linear from 0 over `warmup` steps, then by `schedule`.

    cosine: half a cosine from `lr` to 0 at `steps`. step: a tenth after each share of the run in DROPS. constant: `lr`.
    """
    if step < warmup:
        return lr * step / warmup
    if schedule == "constant":
        return lr
    if schedule == "step":
        return lr * 0.1 ** sum(step >= share * steps for share in DROPS)
    return lr * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def decay_at(step: int, steps: int, start: float, end: float | None) -> float:
    """Weight decay of a step: half a cosine from `start` to `end` (DINO, arXiv 2104.14294, section 3.2), or `start`."""
    return start if end is None else end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2


def set_rates(optimizer: Optimizer, lr: float, peak: float, weight_decay: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group.get("share", 1.0) * (peak if group.get("steady") else lr)
        if group["adapt"]:
            group["weight_decay"] = weight_decay


def clip(optimizer: Optimizer, most: float | None) -> None:
    """Shorten the gradient of all parameters together to a norm of at most `most`; None leaves it."""
    learning = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if most is None or not learning:
        return
    gradients = [local(p.grad) for p in learning]
    total = norms(gradients, divided(learning[0])).norm()
    torch._foreach_mul_(gradients, (most / (total + 1e-6)).clamp(max=1.0))
