"""What the recordings are: rate, lengths, channels, level, statistics of their spectrograms, and the broken ones.

Every header is opened; sound is measured on a seeded sample. Raises UserError where nothing can be read or heard.
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from selfsame.errors import UserError
from selfsame.modalities.audio import front
from selfsame.modalities.audio.reading import NAMED, Stats
from selfsame.modalities.audio.source import AudioSource, Header
from selfsame.storage.attempts import attempted

__all__ = ["measure"]

MOST_RATE = 16_000  # Hz, unless --reading.rate asks for more: BYOL-A's, and usual for speech and sounds
LOW, HIGH = 60.0, 0.975  # Hz, and the share of half the rate, that the bands span: BYOL-A's 60 to 7800 Hz at 16 kHz
HEARD = 10.0  # seconds of an item that are measured at most, from its middle
QUIET = 2 / 32768  # largest absolute sample of an item without sound: a step or two of 16 bits
FULL, CLIPPED = 32760, 1e-3  # stored value near full scale, and the share of such samples from which an item is clipped
END = 64  # samples at the end of an item that are read, whether they are there


class Heard(NamedTuple):
    """Of one item: numbers of values, and sums and sums of squares of samples and spectrograms."""

    samples: int
    square: float
    peak: float
    full: float
    frames: int
    mel: tuple[float, float]
    stft: tuple[float, float]
    mfcc: np.ndarray  # [2 c]


def measure(source: AudioSource, seed: int = 0, most: int = 2000) -> tuple[Stats, dict[int, str]]:
    """Statistics of the recordings, and the unreadable ones {item: reason}.

    All headers are opened, or of more than `source.looks` items as many, drawn with `seed`; of `most` items up to
    HEARD seconds are decoded: damage behind a header is found in these only, at their end too, where a broken-off copy
    is damaged.
    """
    looked = list(range(len(source))) if len(source) <= source.looks else source.drawn(seed, source.looks)
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        headers, broken = attempted(pool, source.header, looked)
        if not headers:
            raise nothing_readable(source, broken)
        form = form_of(source, headers)
        before, source.stats = source.stats, form
        try:
            chosen = set(source.drawn(seed, most))
            heard, damaged = attempted(pool, lambda i: listen(source, i, form), [i for i in headers if i in chosen])
            cut_off = lost_of(source, pool, [i for i in headers if i not in damaged])
            lengths = {i: source.spanned(i, header)[1] / form.rate for i, header in headers.items() if i not in damaged}
        finally:
            source.stats = before
    unreadable = dict(sorted((broken | damaged).items()))
    if not heard:
        raise nothing_readable(source, unreadable)
    silent = sum(one.peak <= QUIET for one in heard.values())
    if silent == len(heard):
        phase = " Channels that cancel each other when mixed are silent too: choose one with --reading.channel 0."
        raise UserError(
            f"{source.path}: nothing can be heard: all of {silent} recordings looked at are silent."
            f"{phase if form.channels > 1 and source.reading.channel == 'mix' else ''}"
        )
    sounding = [one for one in heard.values() if one.peak > QUIET]
    mel, stft = (moments([getattr(one, kind) for one in sounding], sounding, size)
                 for kind, size in (("mel", form.mels), ("stft", front.fft_size(form.frame) // 2)))  # fmt: skip
    cepstra = moments([one.mfcc for one in sounding], sounding, 1)
    spread = np.quantile(list(lengths.values()), [0, 0.5, 0.9, 1]).round(4).tolist()
    return form.changed(
        items=len(source) - len(unreadable),
        seconds=tuple(spread),
        silent=silent,
        cut_off=tuple(f"{name} ({lost:.0%} lost)" for name, lost in list(cut_off.items())[:NAMED]),
        cut_off_count=len(cut_off),
        clipped=sum(one.full >= CLIPPED for one in heard.values()),
        level=float(np.sqrt(sum(one.square for one in sounding) / sum(one.samples for one in sounding))),
        mean=float(mel[0]),
        std=float(mel[1]),
        stft_mean=float(stft[0]),
        stft_std=float(stft[1]),
        mfcc_mean=tuple(cepstra[0].tolist()),
        mfcc_std=tuple(cepstra[1].tolist()),
    ), unreadable


def lost_of(source: AudioSource, pool: ThreadPoolExecutor, items: list[int]) -> dict[str, float]:
    """The files of which less is there than their headers announce, and the share that is lost."""
    first = {source.place_of(i): i for i in reversed(items)}  # of several windows of a file one asks
    found, _ = attempted(pool, source.announced, sorted(first.values()))
    return {source.file_of(i): says.lost for i, says in found.items() if says is not None and says.lost}


def form_of(source: AudioSource, headers: dict[int, Header]) -> Stats:
    """Rate and frames, decided from the headers; what is measured of the sound is not yet in it."""
    reading = source.reading
    counts = Counter(header.rate for header in headers.values())
    usual = max(counts, key=lambda rate: (counts[rate], rate))
    rate = reading.rate or min(usual, MOST_RATE)
    mels = reading.mels
    channels = max(header.channels for header in headers.values())
    if reading.channel != "mix" and reading.channel >= channels > 1:
        raise UserError(
            f"{source.path}: its recordings have up to {channels} channels, so --reading.channel is 0 to "
            f"{channels - 1}, or mix; it was given {reading.channel}."
        )
    frame = max(16, round(rate * reading.frame_ms / 1000))
    return Stats(
        items=len(headers),
        rate=rate,
        channels=channels,
        seconds=(0, 0, 0, 0),
        mels=mels,
        frame=frame,
        hop=max(1, round(rate * reading.hop_ms / 1000)),
        loudness=reading.loudness,
        low=min(LOW, rate / 100),
        high=HIGH * rate / 2,
        level=1.0,
        mean=0.0,
        std=1.0,
        stft_mean=0.0,
        stft_std=1.0,
        mfcc_mean=(0.0,) * front.coefficients(mels),
        mfcc_std=(1.0,) * front.coefficients(mels),
    )


@torch.no_grad()
def listen(source: AudioSource, i: int, form: Stats) -> Heard:
    """Measure the middle of an item, or all of a short one. Raises UnreadableItem."""
    longest = round(HEARD * form.rate)

    def places(length: int) -> list[tuple[int, int]]:
        return [(max(0, (length - longest) // 2), min(length, longest)), (max(0, length - END), min(length, END))]

    stored, _ = source.cut(i, places, whole=0)
    wave = front.scaled(torch.from_numpy(stored))[None]
    # Summed by numpy: torch's sums depend on its number of threads, and a run goes on only with the same statistics.
    mels, powers = front.log_mel(wave, form), front.log_power(wave, form)
    cepstra = front.cepstrum(mels.double())[0].double().numpy()
    sound = wave.double().numpy()
    return Heard(
        samples=len(stored),
        square=float(np.square(sound).sum()),
        peak=float(np.abs(sound).max()),
        full=float((np.abs(stored.astype(np.int32)) >= FULL).mean()),
        frames=mels.shape[2],
        mel=sums(mels.double().numpy()),
        stft=sums(powers.double().numpy()),
        mfcc=np.stack([cepstra.sum(axis=1), np.square(cepstra).sum(axis=1)]),
    )


def sums(values: Float64[np.ndarray, "..."]) -> tuple[float, float]:
    """Sum, and sum of squares."""
    return float(values.sum()), float(np.square(values).sum())


def moments(sums: list, heard: list[Heard], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation from sums and sums of squares over all frames of `rows` values; 1 for constants."""
    total = rows * sum(one.frames for one in heard)
    mean, square = np.sum([np.asarray(one) for one in sums], axis=0) / total
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return mean, np.where(std > 1e-6, std, 1.0)


def nothing_readable(source: AudioSource, unreadable: dict[int, str]) -> UserError:
    item, reason = next(iter(unreadable.items()))
    return UserError(
        f"{source.path}: none of the {len(source)} recordings can be read. The first, {source.name(item)}: {reason}."
    )
