"""How recordings are read, and what is measured of them: records, without torch.

`Reading` is what a user may ask for, `Stats` what was found and decided; both are kept with the encoder.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfsame.records import Record

__all__ = ["NAMED", "SUFFIXES", "Reading", "Stats"]

NAMED = 5  # files that are named at most

SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".mp3",
    ".oga",
    ".opus",
    ".aif",
    ".aiff",
)  # what libsndfile reads of the usual ones


class Reading(Record):
    """How recordings are read."""

    rate: Annotated[int, Field(ge=1000, le=384_000)] | None = None
    """samples a second to which all are resampled; unless given the rate of most recordings, at most 16,000"""
    channel: Annotated[int, Field(ge=0)] | Literal["mix"] = "mix"
    """mix: the mean of all channels; or the number of one, from 0; recordings of one channel are read as they are"""
    window: Annotated[float, Field(ge=0)] = 0.0
    """seconds of an item: recordings are cut into items of this length; 0: a recording is an item"""
    stride: Annotated[float, Field(ge=0)] = 0.0
    """seconds from the start of one such item to the next; 0: the window's length, so that none overlap"""
    mels: Annotated[int, Field(ge=16, le=512)] = 64
    """bands of the log-mel spectrogram (BYOL-A: 64)"""
    frame_ms: Annotated[float, Field(ge=4, le=500)] = 64.0
    """length of a frame of the spectrogram (BYOL-A: 64); 25 is usual in speech recognition"""
    hop_ms: Annotated[float, Field(ge=1, le=100)] = 10.0
    """from one frame to the next (BYOL-A: 10)"""
    loudness: Literal["kept", "same"] = "kept"
    """same: encoders hear every view at one loudness, and what is 40 dB below it as silence; kept: as recorded"""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.hop_ms > self.frame_ms:
            raise ValueError(
                f"frames of {self.frame_ms:g} ms every {self.hop_ms:g} ms leave gaps: lower hop_ms, or raise frame_ms"
            )
        if self.stride and not self.window:
            raise ValueError("a stride is that of a window: give window too, in seconds")
        return self


class Stats(Record):
    """What was measured, and how spectrograms are made; saved with the encoder."""

    items: int
    """items that can be read, as far as they were looked at"""
    rate: Annotated[int, Field(ge=1)]
    """samples a second to which all are brought"""
    channels: Annotated[int, Field(ge=1)]
    """most channels of a recording; they are mixed, or one is chosen"""
    seconds: tuple[float, float, float, float]
    """length of an item: shortest, median, that of nine in ten at most, longest"""
    silent: int = 0
    """items without sound, as far as they were looked at"""
    cut_off: tuple[str, ...] = ()
    """WAVs with fewer samples than their headers announce: the first `NAMED` of them, with the share that is lost"""
    cut_off_count: int = 0
    """how many they are, as far as they were looked at; they are read as far as they go"""
    clipped: int = 0
    """items of which a thousandth of the samples or more is at full scale, as far as they were looked at"""
    mels: int
    """bands of the log-mel spectrogram"""
    frame: int
    """samples of a frame"""
    hop: int
    """samples from one frame to the next"""
    loudness: Literal["kept", "same"] = "kept"
    """same: encoders hear every view at one loudness"""
    low: float
    """Hz: where the lowest band begins (BYOL-A: 60)"""
    high: float
    """Hz: where the highest band ends (BYOL-A: 7800 at 16 kHz, in proportion at other rates)"""
    level: Annotated[float, Field(gt=0)]
    """root mean square of the samples, full scale is 1"""
    mean: float
    """of the log-mel spectrogram, over all bands and frames"""
    std: Annotated[float, Field(gt=0)]
    """the same"""
    stft_mean: float
    """of the log-power spectrogram, over all frequencies and frames"""
    stft_std: Annotated[float, Field(gt=0)]
    """the same"""
    mfcc_mean: tuple[float, ...]
    """of each cepstral coefficient over all frames"""
    mfcc_std: tuple[Annotated[float, Field(gt=0)], ...]
    """the same"""

    @property
    def summary(self) -> str:
        """As in: 3,000 recordings of 0.14 to 2.28 s (median 0.42 s), 8 kHz, mono; 12 silent."""
        shortest, median, _, longest = self.seconds
        odd = [f"{count:,} {kind}" for count, kind in ((self.silent, "silent"), (self.clipped, "clipped")) if count]
        kind = "mono" if self.channels == 1 else f"up to {self.channels} channels, made one"
        spread = f"of {shortest:.2f} to {longest:.2f} s (median {median:.2f} s)"
        found = f"{self.items:,} recordings {spread}, {self.rate / 1000:g} kHz, {kind}"
        if self.cut_off_count:
            odd.append(f"{self.cut_off_count:,} cut off before the end that the header says")
        return f"{found}; {', '.join(odd)}" if odd else found

    @property
    def cautions(self) -> list[str]:
        """What a person should know before the run begins."""
        if not self.cut_off_count:
            return []
        more = f" and {self.cut_off_count - len(self.cut_off)} more" if self.cut_off_count > len(self.cut_off) else ""
        one = self.cut_off_count == 1
        return [
            f"{self.cut_off_count:,} recording{' ends' if one else 's end'} before the length that the header says, "
            f"as a copy that was broken off: {', '.join(self.cut_off)}{more}. What is there is read."
        ]
