"""The steps of views, batched: each row with its own numbers, and none looks at another row.

Levels are in units of the natural logarithm of power, 4.34 dB each.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from selfsame.modalities.audio.front import FLOOR

STEEP = 8  # a filter falls by 6 dB an octave times half of this: Butterworth's of the fourth order, 24 dB an octave
DEEPEST = -18.0  # of a filter's response: -78 dB
KNOTS = 6  # of the equaliser, evenly on the logarithm of frequency
CANVAS = 1.5  # times the view, on which the resize crop is laid in time (BYOL-A, virtual crop scale 1.0, 1.5)
CUBIC = -0.75  # of the cubic kernel, as torch's
TAPS = 8  # of the windowed sinc that changes speed
PHASES = 256  # places between two samples at which it is known
BLOCK = 4096  # samples whose taps are gathered at a time


def between(uniform: Tensor, ends: tuple[float, float]) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * uniform


def log_between(uniform: Tensor, ends: tuple[float, float]) -> Tensor:
    return between(uniform, (math.log(ends[0]), math.log(ends[1]))).exp()


# On waveforms --------------------------------------------------------------------------------------------------------


def sped(wave: Float[Tensor, "b m"], speed: Float[Tensor, "b"], count: int) -> Float[Tensor, "b count"]:
    """`count` samples about the middle, read at `speed` times the pace, by a Hann-windowed sinc of TAPS taps.

    Where it is faster the sinc is wider, so that what would lie above half the rate is weakened, not folded. It is
    known at PHASES places between two samples and the nearest is taken: what that adds is 50 dB below the sound.
    """
    middle = (wave.shape[1] - 1) / 2
    windows = F.pad(wave, (TAPS, TAPS)).unfold(1, TAPS, 1)
    weights = sincs(speed.clamp(min=1)).flatten(0, 1)
    own = (PHASES + 1) * torch.arange(len(wave), device=wave.device)[:, None]
    pieces = []
    for start in range(0, count, BLOCK):
        k = torch.arange(start, min(count, start + BLOCK), device=wave.device)
        place = middle + (k - (count - 1) / 2) * speed[:, None]
        before = place.floor()
        first = (before.long() + (TAPS // 2 + 1)).clamp(0, windows.shape[1] - 1)
        taps = windows.gather(1, first[..., None].expand(-1, -1, TAPS))
        pieces.append((taps * F.embedding(((place - before) * PHASES).round().long() + own, weights)).sum(dim=2))
    return torch.cat(pieces, dim=1)


def sincs(scale: Float[Tensor, "b"]) -> Float[Tensor, "b phases taps"]:
    """The windowed sinc, so many times as wide, at PHASES + 1 places from one sample to the next; each adds up to 1."""
    taps = torch.arange(TAPS, device=scale.device) - (TAPS // 2 - 1)
    away = torch.arange(PHASES + 1, device=scale.device)[:, None] / PHASES - taps
    weights = torch.sinc(away / scale[:, None, None]) * (0.5 + 0.5 * torch.cos(math.pi * away / (TAPS / 2)))
    return weights / weights.sum(dim=2, keepdim=True)


def noise(seeds: Float[Tensor, "b"], count: int) -> Float[Tensor, "b count"]:
    """Standard normal numbers from one number in [0, 1) a row: a hash of the place, the same on every device.

    Source of the hash: C. Wellons 2018, "lowbias32".
    """
    low = 0xFFFFFFFF
    whole = (seeds * 2**32).long()  # exact in float32 too; some devices have no float64
    x = torch.arange(count, device=seeds.device) * 0x9E3779B1 + whole[:, None] * 0x85EBCA6B
    x = x & low
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = ((x ^ (x >> shift)) * factor) & low
    uniform = (x.float() + 0.5) / 2**32
    return torch.erfinv((2 * uniform - 1).clamp(-0.9999999, 0.9999999)) * math.sqrt(2)


def noisy(
    wave: Float[Tensor, "b t"], snr: Float[Tensor, "b"], colour: Float[Tensor, "b"], seeds: Float[Tensor, "b"]
) -> Float[Tensor, "b t"]:
    """With noise `snr` dB below the sound, whose power falls as frequency to the power `colour`. Silence stays so.

    How loud the sound is is measured where there is any: samples of 0 do not count.
    """
    count = wave.shape[1]
    spectrum = torch.fft.rfft(noise(seeds, count))
    places = torch.arange(spectrum.shape[1], device=wave.device).clamp(min=1).float()
    shaped = torch.fft.irfft(spectrum * places.log().mul(-colour[:, None] / 2).exp(), n=count)
    shaped = shaped / shaped.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
    heard = (wave != 0).sum(dim=1, keepdim=True).clamp(min=1)
    level = (wave.square().sum(dim=1, keepdim=True) / heard).sqrt()
    return wave + shaped * level * 10 ** (-snr[:, None] / 20)


def filtered(wave: Float[Tensor, "b t"], response: Float[Tensor, "b k"]) -> Float[Tensor, "b t"]:
    """Through filters without delay, given as log power at the frequencies of a transform of `padded_size`."""
    size = 2 * (response.shape[1] - 1)
    return torch.fft.irfft(torch.fft.rfft(wave, n=size) * (response / 2).exp(), n=size)[:, : wave.shape[1]]


def padded_size(samples: int, frame: int) -> int:
    """Long enough that the filter's echo does not come round to the start, and quick to transform."""
    least = samples + frame
    return min(
        power * 2 ** max(1, math.ceil(math.log2(least / power))) for power in (1, 3, 5, 9, 15)
    )  # whole multiples of small primes


def ramp(head: Float[Tensor, "b"], tail: Float[Tensor, "b"], count: int) -> Float[Tensor, "b count"]:
    """From head to tail in even steps."""
    return torch.lerp(head[:, None], tail[:, None], torch.linspace(0, 1, count, device=head.device)[None])


# Filters -------------------------------------------------------------------------------------------------------------


def low_pass(hz: Float[Tensor, "k"], at: Float[Tensor, "b"]) -> Float[Tensor, "b k"]:
    return -torch.log1p((hz / at[:, None]) ** STEEP)


def high_pass(hz: Float[Tensor, "k"], at: Float[Tensor, "b"]) -> Float[Tensor, "b k"]:
    return -torch.log1p((at[:, None] / hz.clamp(min=1e-3)) ** STEEP)


def equalizer(
    hz: Float[Tensor, "k"], gains: Float[Tensor, "b knots"], ends: tuple[float, float]
) -> Float[Tensor, "b k"]:
    """Gains at KNOTS frequencies, evenly between the ends on the logarithm of frequency, and straight in between."""
    low, high = (math.log(end) for end in ends)
    place = ((hz.clamp(min=ends[0]).log() - low) / (high - low)).clamp(0, 1) * (KNOTS - 1)
    first = place.floor().clamp(max=KNOTS - 2).long()
    return torch.lerp(gains[:, first], gains[:, first + 1], (place - first)[None])


# On log-mel spectrograms ---------------------------------------------------------------------------------------------


def changed_level(x: Float[Tensor, "b f t"], response: Tensor) -> Float[Tensor, "b f t"]:
    """log(power · e^response + FLOOR) of x = log(power + FLOOR): silence stays where it is."""
    return ((x.exp() - FLOOR).clamp(min=0) * response.exp() + FLOOR).log()


def mixed_logs(x: Float[Tensor, "b f t"], other: Float[Tensor, "b f t"], share: Float[Tensor, "b"]) -> Tensor:
    """log((1 - a) e^x + a e^other): BYOL-A's log-mixup-exp (arXiv 2103.06695, section III-B1)."""
    share = share[:, None, None]
    return torch.logaddexp(x + torch.log1p(-share), other + share.clamp(min=1e-12).log())


def resize_crop(
    x: Float[Tensor, "b f t"],
    height: Float[Tensor, "b"],
    width: Float[Tensor, "b"],
    top: Float[Tensor, "b"],
    left: Float[Tensor, "b"],
    fill: float | None,
) -> Float[Tensor, "b f t"]:
    """BYOL-A's random resize crop (section III-B2): a piece of a canvas, CANVAS times as long, stretched to the size.

    The spectrogram lies in the middle of the canvas, about it is `fill`, or where that is None its first and its last
    frame again. Bicubic, corners on corners.

    Args:
        height, width: of the piece over those of x; cut down to whole rows and columns of the canvas.
        top, left: where it lies, in [0, 1): 0 at the low end, 1 at the high end of where it fits.
    """
    down = stretching(x.shape[1], x.shape[1], height, top)
    across = stretching(x.shape[2], int(CANVAS * x.shape[2]), width, left, fill is None)
    level = 0.0 if fill is None else fill
    return torch.bmm(torch.bmm(down, x - level), across.transpose(1, 2)) + level


def stretching(
    length: int, canvas: int, share: Float[Tensor, "b"], place: Float[Tensor, "b"], going_on: bool = False
) -> Float[Tensor, "b length length"]:
    """Matrices [out in] that stretch a piece of the canvas to `length`; beyond what lies on the canvas is 0.

    going_on: or the first and the last of what lies there.
    """
    size = (share * length).floor().clamp(1, canvas)
    start = (place * (canvas - size + 1)).floor()
    k = torch.arange(length, device=share.device)
    at = start[:, None] + k * ((size - 1) / max(1, length - 1))[:, None]
    base = at.floor()
    matrix = at.new_zeros(len(share), length, length)
    for step in range(-1, 3):
        weight = cubic((at - base - step).abs())
        index = (base + step).maximum(start[:, None]).minimum((start + size - 1)[:, None]) - (canvas - length) // 2
        there = going_on | ((index >= 0) & (index < length))
        index = index.clamp(0, length - 1).long()
        matrix.scatter_add_(2, index[..., None], (weight * there)[..., None])
    return matrix


def cubic(away: Tensor) -> Tensor:
    near = ((CUBIC + 2) * away - (CUBIC + 3)) * away * away + 1
    far = ((CUBIC * away - 5 * CUBIC) * away + 8 * CUBIC) * away - 4 * CUBIC
    return torch.where(away <= 1, near, torch.where(away < 2, far, torch.zeros_like(away)))
