"""Single steps of views of series: batched, on any device, NaN where a value is missing. Numbers are given, not drawn.

`spans` are what of a row is there: [b 2], its first step with a value and the one after its last. What lies outside of
it, the rest of a view that a shorter crop does not fill, stays where it is.
"""

from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

KNOTS = 6  # places between which a curve is smooth: four and the ends, as in Um et al. 2017, arXiv 1706.00527


def spans_of(x: Float[Tensor, "b c t"]) -> Int[Tensor, "b 2"]:
    """First step at which any channel has a value, and the one after the last; the whole view where there is none."""
    there = ~x.isnan().all(dim=1)
    t = there.shape[1]
    first = there.int().argmax(dim=1)
    last = t - there.flip(1).int().argmax(dim=1)
    return torch.stack([first, last], dim=1)


@cache
def smooth(steps: int, knots: int = KNOTS) -> Float[Tensor, "steps knots"]:
    """The natural cubic spline through `knots` values at even places of [0, 1], at `steps` even places: a matrix."""
    inner = np.zeros((knots, knots))
    right = np.zeros((knots, knots))
    inner[0, 0] = inner[-1, -1] = 1  # no curvature at the ends
    for k in range(1, knots - 1):
        inner[k, k - 1 : k + 2] = 1, 4, 1
        right[k, k - 1 : k + 2] = 6, -12, 6
    curvature = np.linalg.solve(inner, right)
    place = np.linspace(0, knots - 1, steps)
    left = np.minimum(place.astype(int), knots - 2)
    b = (place - left)[:, None]
    a = 1 - b
    value = np.eye(knots)
    curve = a * value[left] + b * value[left + 1]
    curve += ((a**3 - a) * curvature[left] + (b**3 - b) * curvature[left + 1]) / 6
    return torch.from_numpy(curve).float()


def along(curve: Float[Tensor, "b ... t"], spans: Int[Tensor, "b 2"]) -> Float[Tensor, "b ... t"]:
    """Curves over the view, brought to the span of each row, so that they begin and end with it."""
    t = curve.shape[-1]
    step = torch.arange(t, device=curve.device)
    first, length = spans[:, :1], (spans[:, 1:] - spans[:, :1]).clamp(min=2)
    place = ((step - first).clamp(min=0) / (length - 1) * (t - 1)).round().long().clamp(max=t - 1)
    index = place.view(len(place), *[1] * (curve.ndim - 2), t).expand(curve.shape)
    return curve.gather(-1, index)


def sampled(x: Float[Tensor, "b c t"], place: Float[Tensor, "b t"]) -> Float[Tensor, "b c t"]:
    """The values at places between steps, linearly. Missing where the nearer step is; else the other alone counts."""
    t = x.shape[2]
    place = place.clamp(0, t - 1)
    left = place.floor().clamp(max=max(0, t - 2)).long()
    weight = (place - left)[:, None]
    low, high = (x.gather(2, at[:, None].expand_as(x)) for at in (left, (left + 1).clamp(max=t - 1)))
    near = torch.where(weight < 0.5, low, high)
    between = low + weight * (high - low)
    return torch.where(between.isnan(), near, between)


def warped(x: Float[Tensor, "b c t"], spans: Int[Tensor, "b 2"], pace: Float[Tensor, "b knots"]) -> Tensor:
    """Time runs at a smooth pace through the six that are given, each at least 0.1; begin and end stay."""
    t = x.shape[2]
    speed = along((pace @ smooth(t).to(x.device).T).clamp(min=0.1), spans)
    step = torch.arange(t, device=x.device)
    inside = (step > spans[:, :1]) & (step < spans[:, 1:])
    passed = (speed * inside).cumsum(dim=1)
    length = (spans[:, 1:] - spans[:, :1] - 1).clamp(min=1)
    moved = spans[:, :1] + passed / passed[:, -1:].clamp(min=1e-6) * length
    inside = (step >= spans[:, :1]) & (step < spans[:, 1:])
    return sampled(x, torch.where(inside, moved, step.float()))


def permuted(
    x: Float[Tensor, "b c t"],
    spans: Int[Tensor, "b 2"],
    count: Int[Tensor, "b"],
    cuts: Float[Tensor, "b m"],
    order: Float[Tensor, "b m1"],
) -> Float[Tensor, "b c t"]:
    """The span of each row cut into `count` segments, which are joined in the order of the numbers `order`.

    Args:
        cuts: of at most m + 1 segments, in [0, 1); the first count - 1 are used.
        order: one number a segment.
    """
    t = x.shape[2]
    step = torch.arange(t, device=x.device)
    first, last = spans[:, :1], spans[:, 1:]
    u = (step - first) / (last - first).clamp(min=1)
    used = torch.arange(cuts.shape[1], device=x.device) < count[:, None] - 1
    at = torch.where(used, cuts, 2.0)
    segment = (u[:, :, None] >= at[:, None, :]).sum(dim=2)
    # Segments have ranks above 0 and below 2; within one, steps keep their order. What is outside stays outside.
    rank = order.argsort(dim=1).argsort(dim=1).gather(1, segment)
    key = rank * t + step
    key = torch.where(step < first, step - t, torch.where(step >= last, step + t * (order.shape[1] + 1), key))
    return x.gather(2, key.argsort(dim=1)[:, None].expand_as(x))


def recoloured(x: Float[Tensor, "b c t"], gain: Float[Tensor, "b f"]) -> Float[Tensor, "b c t"]:
    """Each frequency of each channel times the row's gain. Missing values count as the mean and stay missing."""
    lost = x.isnan()
    count = (~lost).sum(dim=2, keepdim=True).clamp(min=1)
    mean = x.nan_to_num().sum(dim=2, keepdim=True) / count
    made = torch.fft.irfft(torch.fft.rfft(torch.where(lost, 0, x - mean)) * gain[:, None], n=x.shape[2]) + mean
    return torch.where(lost, float("nan"), made)


def without_run(
    x: Float[Tensor, "b c t"], spans: Int[Tensor, "b 2"], share: Float[Tensor, "b"], place: Float[Tensor, "b"]
) -> Float[Tensor, "b c t"]:
    """A run of that share of the span missing, at a place in [0, 1) of those where it fits; never all of it."""
    step = torch.arange(x.shape[2], device=x.device)
    length = (spans[:, 1] - spans[:, 0]).float()
    run = torch.minimum((share * length).round(), length - 1)
    start = spans[:, 0] + (place * (length - run + 1)).floor()
    hidden = (step >= start[:, None]) & (step < (start + run)[:, None])
    return x.masked_fill(hidden[:, None], float("nan"))


def without_steps(x: Float[Tensor, "b c t"], noise: Float[Tensor, "b t"], share: float) -> Float[Tensor, "b c t"]:
    """Steps whose number is below the share missing in all channels; a row keeps one that has a value."""
    empty = x.isnan().all(dim=1)
    kept = torch.where(empty, -1.0, noise).argmax(dim=1, keepdim=True)
    hidden = (noise < share).scatter(1, kept, False)
    return x.masked_fill(hidden[:, None], float("nan"))


def without_channels(x: Float[Tensor, "b c t"], noise: Float[Tensor, "b c"], share: float) -> Float[Tensor, "b c t"]:
    """Channels whose number is below the share missing; a row keeps one that has a value."""
    empty = x.isnan().all(dim=2)
    kept = torch.where(empty, -1.0, noise).argmax(dim=1, keepdim=True)
    hidden: Bool[Tensor, "b c"] = (noise < share).scatter(1, kept, False)
    return x.masked_fill(hidden[:, :, None], float("nan"))
