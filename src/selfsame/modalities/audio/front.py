"""From a waveform to what a network sees: log-mel, log-power (STFT) and cepstral (MFCC) spectrograms, batched.

Frames as BYOL-A's (Niizuma et al. 2021, arXiv 2103.06695): 64 ms under a Hann window every 10 ms, 64 bands from 60 Hz
to 0.975 of half the rate, power, log(x + 1.2e-7). Mel scale and area of the bands are Slaney's, as nnAudio's there.
Deviation: beyond its ends a waveform is silent, not mirrored, so that short pieces have spectra too.
Natural logarithms throughout: 1 is 4.34 dB of power.
"""

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from selfsame.modalities.audio.reading import Stats

FLOOR = float(np.finfo(np.float32).eps)  # added to powers before the logarithm, as in BYOL-A's code
QUIET = 1e-4  # share of a view's mean power that is silence where all are heard at one loudness
COEFFICIENTS = 40  # of the cepstrum, at most
DB = 10 / math.log(10)  # dB of power in one unit of the natural logarithm
FULL = 32768.0  # the stored value that is full scale


def scaled(wave: Tensor) -> Float[Tensor, "b t"]:
    """Stored 16 bits as floats in [-1, 1); floats stay as they are."""
    return wave if wave.is_floating_point() else wave.float() / FULL


def unit(wave: Float[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """At a root mean square of 1; silence stays silence."""
    return wave / wave.square().mean(dim=1, keepdim=True).sqrt().clamp(min=FLOOR)


def frames_of(samples: int, hop: int) -> int:
    """How many frames a waveform of so many samples has."""
    return 1 + samples // hop


def samples_for(frames: int, hop: int) -> int:
    """The shortest waveform of so many frames."""
    return (frames - 1) * hop


def fft_size(frame: int) -> int:
    return 1 << max(1, frame - 1).bit_length()


def power(wave: Float[Tensor, "b t"], stats: "Stats") -> Float[Tensor, "b k frames"]:
    """The power at n_fft / 2 + 1 frequencies of each frame; frames are centred on multiples of the hop."""
    size = fft_size(stats.frame)
    window = on_device("window", stats.frame, size, wave.device)
    padded = F.pad(wave.float(), (size // 2, size // 2))
    frames = padded.unfold(1, size, stats.hop) * window
    if torch.compiler.is_exporting():  # formats of other libraries may know no Fourier transform: two products do it
        cosine, sine = fourier(size, wave.device)
        parts = frames @ cosine, frames @ sine
        return (parts[0].square() + parts[1].square()).transpose(1, 2)
    found = torch.view_as_real(torch.fft.rfft(frames, dim=2))
    return found.square().sum(dim=3).transpose(1, 2)


def log_mel(wave: Float[Tensor, "b t"], stats: "Stats") -> Float[Tensor, "b mels frames"]:
    """log(mel + FLOOR), not normalised, in float32 whatever surrounds it."""
    with torch.autocast(wave.device.type, enabled=False):
        bank = on_device("mel", bank_key(stats), None, wave.device)
        return (bank @ power(wave, stats)).add(FLOOR).log()


def log_power(wave: Float[Tensor, "b t"], stats: "Stats") -> Float[Tensor, "b k frames"]:
    """The logarithm of the power at all frequencies above 0: n_fft / 2 rows, linear in frequency."""
    with torch.autocast(wave.device.type, enabled=False):
        return power(wave, stats)[:, 1:].add(FLOOR).log()


def levelled(x: Float[Tensor, "b f t"]) -> Float[Tensor, "b f t"]:
    """Log powers of each view with its mean power taken away, what is 40 dB below that as silence, and then their mean.

    Ours. The distance of a voice from its microphone says nothing of the word, and 40 dB are less than a quiet room.
    """
    with torch.autocast(x.device.type, enabled=False):
        powers = (x.float().exp() - FLOOR).clamp(min=0)
        x = (powers / powers.mean(dim=(1, 2), keepdim=True).clamp(min=1e-10) + QUIET).log()
        return x - x.mean(dim=(1, 2), keepdim=True)


def cepstrum(log_mels: Float[Tensor, "b mels frames"]) -> Float[Tensor, "b c frames"]:
    """The first coefficients of an orthonormal DCT-II of each frame of a log-mel spectrogram: MFCC."""
    with torch.autocast(log_mels.device.type, enabled=False):
        return on_device("dct", log_mels.shape[1], None, log_mels.device) @ log_mels.float()


def coefficients(mels: int) -> int:
    return min(COEFFICIENTS, mels)


# Tables --------------------------------------------------------------------------------------------------------------


def on_device(kind: str, first: Any, second: Any, device: torch.device) -> Tensor:
    """A table on a device. It is not kept there: in a step that is only counted or exported it must be another."""
    made = {"window": window_of, "mel": mel_bank, "dct": dct}[kind]
    return torch.tensor(made(first, second) if second is not None else made(first), device=device)


@functools.cache
def window_of(frame: int, size: int) -> Float[np.ndarray, "size"]:
    """A periodic Hann window of `frame` samples in the middle of `size`."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)
    before = (size - frame) // 2
    return np.pad(window, (before, size - frame - before)).astype(np.float32)


def fourier(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [size size / 2 + 1]: the real Fourier transform as two matrices."""
    angles = 2 * np.pi * np.outer(np.arange(size), np.arange(size // 2 + 1)) / size
    return tuple(torch.tensor(part.astype(np.float32), device=device) for part in (np.cos(angles), np.sin(angles)))  # type: ignore[return-value]


def bank_key(stats: "Stats") -> tuple[int, int, int, float, float]:
    return stats.rate, fft_size(stats.frame), stats.mels, stats.low, stats.high


@functools.cache
def mel_bank(key: tuple[int, int, int, float, float]) -> Float[np.ndarray, "mels k"]:
    """Triangles of equal area (Slaney's), the first from `low`, the last to `high`, on the mel scale.

    A band too narrow to hold a frequency of the transform takes the nearest one.
    """
    rate, size, mels, low, high = key
    places = np.arange(size // 2 + 1) * rate / size
    edges = mel_to_hz(np.linspace(hz_to_mel(low), hz_to_mel(high), mels + 2))
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.minimum((places - left) / (middle - left), (right - places) / (right - middle)).clip(min=0)
    for band in np.flatnonzero(bank.sum(axis=1) == 0):
        bank[band, np.abs(places - middle[band]).argmin()] = 1.0
    return (bank * (2 / (right - left))).astype(np.float32)


def centres(stats: "Stats") -> Float[np.ndarray, "mels"]:
    """Hz of the middle of each band."""
    return mel_to_hz(np.linspace(hz_to_mel(stats.low), hz_to_mel(stats.high), stats.mels + 2))[1:-1]


KNEE = 1000.0  # Hz: below it the scale is linear, 3 mel to 200 Hz; above it logarithmic, 27 mel to a factor of 6.4
STEP = math.log(6.4) / 27


def hz_to_mel(hz: Any) -> Any:
    """Slaney's scale (Auditory Toolbox, 1998)."""
    hz = np.asarray(hz, dtype=float)
    return np.where(hz < KNEE, hz * 3 / 200, 15 + np.log(np.maximum(hz, KNEE) / KNEE) / STEP)


def mel_to_hz(mel: Any) -> Any:
    mel = np.asarray(mel, dtype=float)
    return np.where(mel < 15, mel * 200 / 3, KNEE * np.exp((np.maximum(mel, 15) - 15) * STEP))


@functools.cache
def dct(mels: int) -> Float[np.ndarray, "c mels"]:
    """The orthonormal DCT-II, its first rows."""
    k, n = np.arange(coefficients(mels))[:, None], np.arange(mels)[None, :]
    rows = np.cos(np.pi * k * (n + 0.5) / mels) * math.sqrt(2 / mels)
    rows[0] /= math.sqrt(2)
    return rows.astype(np.float32)
