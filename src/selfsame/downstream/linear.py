"""Linear probe: multinomial logistic regression on frozen vectors, its strength chosen without the test set.

Source: Kornblith et al. 2019, arXiv 1805.08974, A.1 (L-BFGS, a grid of L2 strengths, refit on train + validation), and
        Böhning 1992, doi 10.1007/BF00048682 (the preconditioner). `fit_linear` states the deviations.
Raises: UserError on vectors that cannot be used and on a train set of one class.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from selfsame.downstream import vectors
from selfsame.downstream.split import stratified_split
from selfsame.errors import UserError
from selfsame.types import mixed

# The objective is mean cross-entropy + strength / 2 · |weights|², so that scikit-learn's C is 1 / (strength · items).
STRENGTHS = tuple(10.0**power for power in range(1, -7, -1))  # strong to weak: each starts where the last one ended
VALIDATION = 0.2  # of train, class by class
FEW, REPEATS = 2000, 5  # below FEW train items one validation part is too small to choose by: take the mean of REPEATS
CHOOSING, FINAL = 1e-4, 1e-5  # stop when no slope (preconditioned) is larger: loose for the grid, tight for the refit
ITERATIONS = 300  # or after so many steps, each of which lowers the loss
MEMORY = 10  # past steps that L-BFGS keeps


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe, in the coordinates of the vectors it was fitted on."""

    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, "k"]
    classes: Int[Tensor, "k"]  # the class number of each row; classes absent from train have none
    strength: float  # the L2 strength chosen
    validation: float  # accuracy on the validation part(s) at that strength; NaN where no class had two items

    def scores(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        """Log-probabilities up to a constant a row, in the order of `classes`."""
        return x.double().to(self.weight.device) @ self.weight.T + self.bias

    def predict(self, x: Float[Tensor, "m d"]) -> Int[Tensor, "m"]:
        """Class numbers."""
        return self.classes[self.scores(x).argmax(dim=1)]


def linear_accuracy(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, "n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, "m"],
    seed: int = 0,
    groups: Int[Tensor, "n"] | None = None,
) -> float:
    """Share of test items, in [0, 1], that the probe names rightly; a class absent from train counts as wrong.

    Deterministic given the seed, which draws the validation part. `groups` as in `fit_linear`. Raises UserError as it
    does.
    """
    vectors.check(train, train_labels, test, test_labels)
    predicted = fit_linear(train, train_labels, seed, groups).predict(test)
    return (predicted == test_labels.to(predicted.device)).double().mean().item()


def fit_linear(
    train: Float[Tensor, "n d"], labels: Int[Tensor, "n"], seed: int = 0, groups: Int[Tensor, "n"] | None = None
) -> LinearProbe:
    """Fit at every strength on a part of train, keep the best on the rest of it, then refit on all of train.

    Best is the highest validation accuracy; among equals the lowest cross-entropy. Vectors are standardised by
    train's mean and std; columns that never change are left out. Where every class has one item there is nothing
    to validate on, and the strength is 1 / items (scikit-learn's C = 1).
    `groups` numbers what each train item comes from (a speaker, a patient), where the test items come from others:
    validation parts are then whole groups, each in turn, of more than REPEATS as many parts of them. A strength chosen
    on other items of the same speakers is too weak for new ones.
    Deviations from Kornblith et al.: 8 strengths, 10 to 1e-6 of a mean-loss objective, in place of 45 log-spaced ones;
    standardised vectors; below 2,000 items the mean of 5 splits in place of one.
    Raises UserError on vectors that are not finite or a train set of one class.
    """
    vectors.check(train, labels, train)
    classes, targets = labels.to(train.device).unique(return_inverse=True)
    if len(classes) < 2:
        raise UserError(
            f"all {len(labels)} train items are of one class, so there is nothing to tell apart. "
            "Give labels of two or more classes, or a larger label budget."
        )
    x = train.double()
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(std > 1e-6 * x.abs().amax(dim=0), 1 / std, 0.0)
    rotated, basis = _principal((x - mean) * scale)
    strength, validation = _choose(rotated, targets, seed, groups)
    weight, bias = _path(rotated, targets, len(classes), (strength,), FINAL)[0]
    weight = (basis @ weight).T * scale
    return LinearProbe(weight, bias - weight @ mean, classes, strength, validation)


def _choose(x: Tensor, targets: Tensor, seed: int, groups: Tensor | None) -> tuple[float, float]:
    """The strength to use, and its accuracy on validation."""
    classes = int(targets.max()) + 1
    accuracy, loss = torch.zeros(len(STRENGTHS)).double(), torch.zeros(len(STRENGTHS)).double()
    parts = _parts(targets, seed, groups)
    for fit, held in parts:
        if not len(held):
            return 1 / len(targets), float("nan")
        for i, (weight, bias) in enumerate(_path(x[fit], targets[fit], classes, STRENGTHS, CHOOSING)):
            scores = x[held].double() @ weight + bias
            accuracy[i] += (scores.argmax(dim=1) == targets[held]).double().mean().item() / len(parts)
            loss[i] += F.cross_entropy(scores, targets[held]).item() / len(parts)
    best = max(range(len(STRENGTHS)), key=lambda i: (round(accuracy[i].item(), 9), -loss[i].item()))
    return STRENGTHS[best], accuracy[best].item()


def _parts(targets: Tensor, seed: int, groups: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """Indices (fit, held out) of each validation, on the device of the targets."""
    of_group = None if groups is None else groups.to(targets.device).unique(return_inverse=True)[1]
    count = 1 if of_group is None else int(of_group.max()) + 1
    if of_group is None or count < 2:
        repeats = REPEATS if len(targets) < FEW else 1
        drawn = [stratified_split(targets, VALIDATION, mixed(seed, repeat)) for repeat in range(repeats)]
        return [(fit.to(targets.device), held.to(targets.device)) for fit, held in drawn]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed(seed)))
    part = (order.to(targets.device) % min(REPEATS, count))[of_group]
    return [((part != k).nonzero()[:, 0], (part == k).nonzero()[:, 0]) for k in range(min(REPEATS, count))]


def _principal(x: Tensor) -> tuple[Tensor, Tensor]:
    """x in the basis of its principal directions (float32 [n r]), and that basis [d r].

    L2 is blind to rotation, so the optimum is the same; directions without variance are dropped, so that few items
    of great width stay cheap.
    """
    wide = x.shape[1] > x.shape[0]
    values, directions = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = values > values[-1].clamp(min=1e-12) * 1e-10
    values, directions = values[kept], directions[:, kept]
    basis = x.T @ directions / values.sqrt() if wide else directions
    return (x @ basis).float(), basis


def _path(
    x: Tensor, targets: Tensor, classes: int, strengths: tuple[float, ...], slack: float
) -> list[tuple[Tensor, Tensor]]:
    """Weights [r k] and biases [k] at each strength, one warm-started from another."""
    n, width = x.shape
    curvature = x.square().sum(dim=0) / n / 4
    wanted = F.one_hot(targets, classes).to(x)
    weight, bias = x.new_zeros(width, classes), x.new_zeros(1, classes)
    fits = []
    for strength in strengths:
        # In these units the objective is about equally curved in every direction, whatever the spectrum of x.
        unit = (curvature + strength).rsqrt()[:, None]
        scaled, penalty = x * unit.T, strength * unit.square()

        def objective(w: Tensor, scaled: Tensor = scaled, penalty: Tensor = penalty) -> tuple[float, Tensor]:
            logs = torch.addmm(2 * w[-1], scaled, w[:-1]).log_softmax(dim=1)
            loss = -(logs * wanted).sum(dtype=torch.float64) / n + (penalty * w[:-1].square()).sum() / 2
            off = (logs.exp() - wanted) / n
            return loss.item(), torch.cat([scaled.T @ off + penalty * w[:-1], 2 * off.sum(dim=0, keepdim=True)])

        w = _minimise(objective, torch.cat([weight / unit, bias / 2]), slack)
        weight, bias = w[:-1] * unit, 2 * w[-1:]
        fits.append((weight.double(), bias[0].double()))
    return fits


def _minimise(objective: Callable[[Tensor], tuple[float, Tensor]], w: Tensor, slack: float) -> Tensor:
    """L-BFGS (Nocedal & Wright 2006, algorithm 7.5) with steps halved until the loss falls enough (Armijo).

    Our own, for torch.optim's takes seconds to import and SciPy's fights with torch over the processor's cores.
    """
    loss, slope = objective(w)
    past: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=MEMORY)  # moves, changes of slope, 1 / their product
    for _ in range(ITERATIONS):
        if slope.abs().max() < slack:
            break
        direction, kept = -slope, []
        for move, change, inverse in reversed(past):
            kept.append(inverse * (move * direction).sum())
            direction = direction - kept[-1] * change
        if past:
            move, change, inverse = past[-1]
            direction = direction / (inverse * change.square().sum())
        for (move, change, inverse), share in zip(past, reversed(kept), strict=True):
            direction = direction + (share - inverse * (change * direction).sum()) * move
        descent, step = (slope * direction).sum().item(), 1.0
        while True:
            new_loss, new_slope = objective(w + step * direction)
            if new_loss <= loss + 1e-4 * step * descent:
                break
            step /= 2
            if step < 1e-4:  # float32 can tell no further descent
                return w
        move, change = step * direction, new_slope - slope
        product = (move * change).sum()
        if product > 0:
            past.append((move, change, 1 / product))
        w, loss, slope = w + move, new_loss, new_slope
    return w
