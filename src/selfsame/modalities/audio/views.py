"""Views of recordings, made: the worker half (read and cut), the device half (all the rest). `recipes` says how strong.

A view is a waveform [b t] in [-1, 1], or the log-mel spectrogram [b f t] of one, not normalised; encoders take either.
Mixing needs a second item: the worker half draws it among all items that are learned from and hands its samples on
beside the row's own, so that a row is the same however the batch is divided.
Raises UnreadableItem where an item cannot be read.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor

from selfsame.errors import UserError
from selfsame.modalities.audio import front, steps
from selfsame.modalities.audio.reading import Stats
from selfsame.modalities.audio.recipes import View, Views
from selfsame.records import ViewPlan
from selfsame.types import Draws

__all__ = ["make_views", "sample"]

# Worker half ---------------------------------------------------------------------------------------------------------

CUTS = ("start", "keep", "keep_at", "partner", "partner_start")
"""What each of the numbers is for that the worker half draws for a random view."""


def sample(
    source: Any, items: Sequence[int], plan: ViewPlan, views: Views, draws: Draws
) -> list[Int16[Tensor, "b *two t"]]:
    """Cut the views of the items: pieces at random places, and plain views.

    Items shorter than a view are laid at a random place in it, silence about them; in a plain view in its middle.

    Args:
        source: an AudioSource, or what stands for one. Where it has `attempt(i, read)`, items are read through it, and
            where it has `among`, the other items of mixing come from these alone.
        items: their numbers, one for each row of `draws`.
        draws: each random view takes one `uniform(len(CUTS))`.

    Returns int16 waveforms, a tensor a view in the order full, part, plain: [b t], or [b 2 t] where a view is mixed,
    the other item second. They are longer than the view where its speed may change. Raises UnreadableItem.
    """
    if plan.part and views.part_size > views.size:
        raise UserError(
            f"part views of {views.part_size} samples are longer than the full views of {views.size}. Lower "
            "--views.part-size, or raise the size."
        )
    kinds = views.strengths(plan)
    numbers = [dict(zip(CUTS, draws.uniform(len(CUTS)).double().numpy().T, strict=True)) for _ in kinds]
    sizes = [views.size] * plan.full + [views.part_size] * plan.part
    lengths = [cut_length(size, kind) for size, kind in zip(sizes, kinds, strict=True)]
    unseen = [(length - seen_length(size, kind)) // 2 for size, kind, length in zip(sizes, kinds, lengths, strict=True)]
    lengths += [views.plain_size] * plan.plain
    shapes = [(2, length) if kind.mix else (length,) for kind, length in zip(kinds, lengths, strict=False)]
    shapes += [(views.plain_size,)] * plan.plain
    made = [np.zeros((len(items), *shape), np.int16) for shape in shapes]
    among = getattr(source, "among", None)
    attempt = getattr(source, "attempt", None) or (lambda i, read: read(i))

    def own(item: int, row: int) -> None:
        told: dict[str, Any] = {}

        def places(total: int) -> list[tuple[int, int]]:
            told.update(
                total=total,
                starts=starts_of(total, [one["start"][row] for one in numbers], lengths, views.reach, unseen),
            )
            return list(zip(told["starts"], lengths, strict=True))

        for k, piece in enumerate(source.cut(item, places)):
            if k < len(kinds):
                chosen = numbers[k]["keep"][row], numbers[k]["keep_at"][row]
                piece = kept(piece, kinds[k], *chosen, told["starts"][k], told["total"])
            (made[k][row, 0] if made[k].ndim == 3 else made[k][row])[:] = piece

    def other(item: int, row: int, k: int) -> None:
        drawn = [numbers[k]["partner_start"][row]]
        (piece,) = source.cut(
            item, lambda total: [(int(starts_of(total, drawn, lengths[k : k + 1], 0, unseen[k:])[0]), lengths[k])]
        )
        made[k][row, 1] = piece

    for row, item in enumerate(items):
        attempt(item, functools.partial(own, row=row))
        for k, kind in enumerate(kinds):
            if kind.mix:
                total = len(source) if among is None else len(among)
                place = min(total - 1, int(numbers[k]["partner"][row] * total))
                attempt(place if among is None else int(among[place]), functools.partial(other, row=row, k=k))
    return [torch.from_numpy(view) for view in made]


def cut_length(size: int, kind: View) -> int:
    """Samples that a view of `size` is made from: more where it may be played faster."""
    if kind.speed == (1.0, 1.0):
        return size
    return int(np.ceil(size * max(1.0, kind.speed[1]))) + 2 * steps.TAPS


def seen_length(size: int, kind: View) -> int:
    """Samples in the middle of such a cut that a view shows at any speed."""
    return cut_length(size, kind) if kind.speed == (1.0, 1.0) else int(size * min(1.0, kind.speed[0]))


def starts_of(
    total: int, drawn: Sequence[float], lengths: Sequence[int], reach: float, unseen: Sequence[int] = ()
) -> list[int]:
    """Where each view starts in an item of `total` samples; more lengths than numbers are plain views: the middle.

    Views after the first lie where it does, or up to `reach` of its lengths before or behind. Negative where the item
    is shorter than the view: it then lies in each view at a place of its own: what views share is learned. `unseen`
    samples at either end may not be shown: an item that is shorter without them does not lie there.
    """
    starts: list[int] = []
    for k, length in enumerate(lengths):
        room = total - length
        if k >= len(drawn):
            starts.append(room // 2)
            continue
        low, high = min(0, room), max(0, room)
        if room < 0 and unseen:
            ends = -unseen[k], room + unseen[k]
            low, high = min(ends), max(ends)
        if k and room >= 0:
            far = int(reach * lengths[0])
            ends = starts[0] - far, starts[0] + lengths[0] - length + far
            low, high = (min(max(end, low), high) for end in ends)
        starts.append(low + min(high - low, int(drawn[k] * (high - low + 1))))
    return starts


def kept(
    piece: Int16[np.ndarray, "t"], kind: View, share: float, place: float, start: int, total: int
) -> Int16[np.ndarray, "t"]:
    """The piece with silence but for one stretch: that share of what it shows of its item of `total` samples."""
    if kind.keep == (1.0, 1.0):
        return piece
    first, last = max(0, -start), min(len(piece), total - start)
    visible = max(1, last - first)
    heard = max(1, round(visible * float(steps.between(torch.tensor(share), kind.keep))))
    begin = first + int(place * (visible - heard + 1))
    out = np.zeros_like(piece)
    out[begin : begin + heard] = piece[begin : begin + heard]
    return out


# Device half ---------------------------------------------------------------------------------------------------------

COLUMNS = (
    *("speed", "polarity", "noise", "noise_snr", "noise_colour", "noise_seed"),
    *("low_pass", "low_pass_at", "high_pass", "high_pass_at", "band", "band_at", "band_octaves", "equalize"),
    *(f"equalize_{k}" for k in range(steps.KNOTS)),
    *("gain", "gain_db", "mix", "resize", "height", "width", "top", "left", "fade", "head", "tail"),
)
"""What each of the numbers drawn for a row is for. All are drawn whatever is used, so that a step switched off or on
leaves the other steps as they were."""


def make_views(
    samples: list[Int16[Tensor, "b *two t"]], plan: ViewPlan, views: Views, stats: Stats, draws: Draws
) -> list[Tensor]:
    """Transform what `sample` has cut, on the device it is on: float32 waveforms [b t] or log-mel spectrograms [b f t].

    Args:
        samples: int16, in the order full, part, plain.
        draws: each random view takes one `uniform(len(COLUMNS))`.

    Plain views are only scaled and, in the domain of spectrograms, brought into it.
    """
    kinds = views.strengths(plan)
    sizes = [views.size] * plan.full + [views.part_size] * plan.part
    made = []
    for given, kind, size in zip(samples, kinds, sizes, strict=False):
        drawn = dict(zip(COLUMNS, draws.uniform(len(COLUMNS)).unbind(1), strict=True))
        made.append(transformed(given, kind, drawn, size, views.domain, stats))
    for given in samples[len(kinds) :]:
        wave = front.scaled(given)
        made.append(front.log_mel(wave, stats) if views.domain == "spectrogram" else wave)
    return made


def transformed(
    given: Int16[Tensor, "b *two t"], view: View, drawn: dict[str, Tensor], size: int, domain: str, stats: Stats
) -> Tensor:
    """One pipeline: speed, polarity, noise; filters and gain; mixing; resize crop; fade. See `steps`."""
    device = given.device
    number = {name: values.to(device, non_blocking=True) for name, values in drawn.items()}
    both = front.scaled(given)
    wave, other = (both[:, 0], middle(both[:, 1], size)) if given.ndim == 3 else (both, None)
    if view.speed != (1.0, 1.0):
        wave = steps.sped(wave, steps.log_between(number["speed"], view.speed), size)
    if view.polarity:
        wave = torch.where(number["polarity"][:, None] < view.polarity, -wave, wave)
    if view.noise:
        here = (drawn["noise"] < view.noise).nonzero()[:, 0].to(device, non_blocking=True)
        if len(here):
            snr = steps.between(number["noise_snr"][here], view.noise_snr)
            colour = steps.between(number["noise_colour"][here], view.noise_colour)
            wave = wave.index_copy(0, here, steps.noisy(wave[here], snr, colour, number["noise_seed"][here]))
    share = view.mix * number["mix"]
    faded = (number["fade"] < view.fade)[:, None]
    head, tail = ((2 * number[end] - 1) * view.fade_db / front.DB for end in ("head", "tail"))
    if domain == "wave":
        if filters(view):
            bins = steps.padded_size(size, stats.frame) // 2 + 1
            hz = torch.linspace(0, stats.rate / 2, bins, device=device)
            wave = steps.filtered(wave, response(hz, view, number, stats))
        if other is not None:
            wave = (1 - share[:, None]).sqrt() * wave + share[:, None].sqrt() * other
        if view.fade:
            wave = torch.where(faded, wave * (steps.ramp(head, tail, size) / 2).exp(), wave)
        return wave.clamp(-1, 1)
    x = front.log_mel(wave, stats)
    if filters(view):
        hz = torch.tensor(front.centres(stats), dtype=torch.float32, device=device)
        x = steps.changed_level(x, response(hz, view, number, stats)[:, :, None])
    if other is not None:
        x = steps.mixed_logs(x, front.log_mel(other, stats), share)
    if view.resize:
        here = number["resize"] < view.resize
        height, width = (steps.between(number[side], ends) for side, ends in
                         (("height", view.resize_band), ("width", view.resize_time)))  # fmt: skip
        middle_only = view.resize_place == "middle"
        left = torch.full_like(number["left"], 0.5) if middle_only else number["left"]
        moved = steps.resize_crop(x, height, width, number["top"], left, None if middle_only else stats.mean)
        x = torch.where(here[:, None, None], moved, x)
    if view.fade:
        x = torch.where(faded[..., None], steps.changed_level(x, steps.ramp(head, tail, x.shape[2])[:, None]), x)
    return x


def middle(wave: Float[Tensor, "b m"], size: int) -> Float[Tensor, "b size"]:
    start = (wave.shape[1] - size) // 2
    return wave[:, start : start + size]


def filters(view: View) -> bool:
    return bool(view.low_pass or view.high_pass or view.band or view.equalize or view.gain)


def response(hz: Float[Tensor, "k"], view: View, number: dict[str, Tensor], stats: Stats) -> Float[Tensor, "b k"]:
    """Filters and gain of each row as one: log power at these frequencies."""
    half = stats.rate / 2

    def only(name: str, found: Tensor) -> Tensor:
        return torch.where((number[name] < getattr(view, name))[:, None], found, 0.0)

    total = torch.zeros(len(number["gain"]), len(hz), device=hz.device)
    if view.low_pass:
        total += only("low_pass", steps.low_pass(hz, half * steps.log_between(number["low_pass_at"], view.low_pass_at)))
    if view.high_pass:
        at = half * steps.log_between(number["high_pass_at"], view.high_pass_at)
        total += only("high_pass", steps.high_pass(hz, at))
    if view.band:
        width = 2 ** steps.between(number["band_octaves"], view.band_octaves)
        room = (stats.high / stats.low / width).clamp(min=1)
        low = stats.low * room ** number["band_at"]
        total += only("band", steps.low_pass(hz, low * width) + steps.high_pass(hz, low))
    if view.equalize:
        gains = torch.stack([number[f"equalize_{k}"] for k in range(steps.KNOTS)], dim=1)
        gains = (2 * gains - 1) * view.equalize_db / front.DB
        total += only("equalize", steps.equalizer(hz, gains, (stats.low, stats.high)))
    total = total.clamp(min=steps.DEEPEST)
    if view.gain:
        total = total + only("gain", steps.between(number["gain_db"], view.gain_db)[:, None] / front.DB)
    return total
