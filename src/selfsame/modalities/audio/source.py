"""Recordings at rest, read by number and by pieces. Labels are for evaluation only.

A recording of up to WHOLE seconds is decoded whole, resampled, and kept in memory as long as there is room; of a longer
one only the piece that is wanted is read, so that an hour takes no more memory than its crop. Resampling is polyphase
with a windowed sinc (scipy.signal.resample_poly's filter); a piece is laid on the same grid as the whole, so that both
ways give the same samples.
Raises UnreadableItem for one broken recording, and where soundfile is missing UserError.
"""

import contextlib
import functools
import io
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int16, Int64

from selfsame.errors import UnreadableItem, UserError, missing
from selfsame.modalities.audio import mpeg
from selfsame.modalities.audio.announced import Announced, announced
from selfsame.modalities.audio.reading import Reading
from selfsame.storage.disk import Disk, disk_of, joined
from selfsame.storage.folders import listed, suffix_of

if TYPE_CHECKING:
    from selfsame.modalities.audio.reading import Stats

__all__ = ["AudioSource", "Header", "resampled"]

LOOKED = 100_000  # items whose headers are read at opening: all, or of more than these as many, drawn by the seed
LOOKED_FAR = 5_000  # the same, where each is a request over a network
WHOLE = 30.0  # seconds up to which a recording is decoded whole
AT_ONCE = 1 << 20  # samples of a piece where a long recording is read whole
KEPT = 256 << 20  # bytes of decoded recordings that a process keeps
LOUDEST = 8.0  # float samples above this are on another scale; up to it they are clipped, as recordings too hot are
ZEROS = 10  # of the sinc, to either side, at the lower of the two rates: scipy's choice
RATELESS = "its header says 0 samples a second: write the rate that it was recorded at"
BETA = 5.0  # of its Kaiser window: scipy's choice


class Header(NamedTuple):
    """What stands at the head of a recording."""

    frames: int
    rate: int
    channels: int


class AudioSource:
    """Recordings, or windows of them, read by number. Holds names, not sound; survives pickling and forking.

    Args:
        names: of the files, relative to `root` or absolute.
        labels: one a file, or a function that finds them; they are not looked for before they are wanted.
    """

    looks = LOOKED
    blocks: Int64[np.ndarray, "k"] | None = None
    window = 1
    array: np.ndarray | None = None

    def __init__(
        self,
        path: str,
        root: Path | str,
        names: Sequence[str],
        labels: "Sequence[str] | Callable[[], list[str] | None] | None" = None,
        reading: Reading | None = None,
    ) -> None:
        self.path = path
        self.root = root
        self.files = names
        self.file_labels = labels
        self.reading = reading or Reading()
        self.disk: Disk = disk_of(path)
        if self.disk.remote:
            self.looks = LOOKED_FAR
        self.ignored: dict[str, int] = {}
        """files that are no recordings, counted by their suffix"""
        self.stats: Stats | None = None
        self.kept: OrderedDict[int, Any] = OrderedDict()
        """decoded recordings by their number, the latest last: int16 [t]"""
        self.kept_bytes = 0
        self.noted: Any = None
        self.windows: tuple[np.ndarray, np.ndarray] | None = None
        """of each item the number of its file, and where it starts in seconds; None where an item is a file"""
        if self.reading.window:
            self.windows = self.cut_into_windows()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": OrderedDict(), "kept_bytes": 0, "file_labels": None}

    def __len__(self) -> int:
        return len(self.files) if self.windows is None else len(self.windows[0])

    def name(self, i: int) -> str:
        """The path below the source's root, '/'-separated; of a window with its start, as in a.wav@12.5s."""
        i = range(len(self))[i]
        if self.windows is None:
            return self.files[i]
        return f"{self.files[int(self.windows[0][i])]}@{self.windows[1][i]:g}s"

    @property
    def place(self) -> str | None:
        """The folder that names are relative to."""
        return str(self.root) if self.disk.remote else str(Path.cwd() / self.root)

    @property
    def labels(self) -> list[str] | None:
        """One an item: a window has that of its recording."""
        if callable(self.file_labels):
            self.file_labels = self.file_labels()
        if self.file_labels is None or self.windows is None:
            return None if self.file_labels is None else list(self.file_labels)
        return [self.file_labels[int(file)] for file in self.windows[0]]

    @property
    def left_out(self) -> str:
        """As in: 12 .pdf, 1 without suffix."""
        return listed(self.ignored) if self.ignored else ""

    def drawn(self, seed: int, most: int) -> list[int]:
        """At most `most` items, drawn by the seed, ascending."""
        return sorted(np.random.default_rng(seed).permutation(len(self))[:most].tolist())

    def fit(self, stats: "Stats") -> None:
        """From now on every item comes at the rate of `stats`."""
        if self.stats is None or self.stats.rate != stats.rate:
            self.kept.clear()
            self.kept_bytes = 0
        self.stats = stats

    # Reading -----------------------------------------------------------------------------------------------------

    def stored(self, i: int) -> int:
        """Bytes of the recording at rest. Raises UnreadableItem."""
        with readable(), self.disk.open(self.place_of(i)) as file:
            return file.seek(0, io.SEEK_END)

    def header(self, i: int) -> Header:
        """Of the recording that item i is, or is a window of. Raises UnreadableItem."""
        with self.opened(i) as sound:
            return header_of(sound)

    def announced(self, i: int) -> Announced | None:
        """What the header of a WAV on this machine says, beside what libsndfile makes of it; None of others."""
        place = self.place_of(i)
        if self.disk.remote or suffix_of(place) != ".wav":
            return None
        with readable(), Path(place).open("rb") as file:
            return announced(file)

    def read(self, i: int) -> Int16[np.ndarray, "t"]:
        """The whole item, of one channel, at the rate of `fit`, else at its own. Raises UnreadableItem."""

        def pieces(length: int) -> list[tuple[int, int]]:  # so that a long one is never there as floats as a whole
            return [(at, min(AT_ONCE, length - at)) for at in range(0, length, AT_ONCE)]

        return np.concatenate(self.cut(i, pieces))

    def cut(
        self, i: int, places: Callable[[int], Sequence[tuple[int, int]]], whole: float = WHOLE
    ) -> list[Int16[np.ndarray, "t"]]:
        """Pieces of an item, int16 at the rate of `fit`. Raises UnreadableItem.

        Args:
            places: is told how many samples the item has, and says where pieces start and how long they are. What lies
                outside of the item is silence.
            whole: seconds up to which the recording is decoded at once.
        """
        i = range(len(self))[i]
        held = self.kept.get(i)
        if held is not None:
            self.kept.move_to_end(i)
            return [piece_of(held, *place) for place in places(len(held))]
        with self.opened(i) as sound:
            header = header_of(sound)
            start, length = self.spanned(i, header)
            rate = self.rate_for(header)
            if length > whole * rate:
                return [self.streamed(sound, header, start, length, *place) for place in places(length)]
            held = quantised(self.resampled_piece(sound, header, start, length))
        self.keep(i, held)
        return [piece_of(held, *place) for place in places(length)]

    def keep(self, i: int, samples: Int16[np.ndarray, "t"]) -> None:
        if samples.nbytes > KEPT:
            return
        self.kept[i] = samples
        self.kept_bytes += samples.nbytes
        while self.kept_bytes > KEPT:
            self.kept_bytes -= self.kept.popitem(last=False)[1].nbytes

    def streamed(
        self, sound: Any, header: Header, start: int, length: int, at: int, count: int
    ) -> Int16[np.ndarray, "t"]:
        """A piece of a long item, of which only the piece is read."""
        first, last = max(0, at), min(length, at + count)
        out = np.zeros(count, np.int16)
        if last > first:
            out[first - at : last - at] = quantised(self.resampled_piece(sound, header, start + first, last - first))
        return out

    def resampled_piece(self, sound: Any, header: Header, start: int, count: int) -> Float32[np.ndarray, "t"]:
        """`count` samples at the wanted rate, from sample `start` of the recording at that rate on."""
        up, down = ratio(header.rate, self.rate_for(header))
        if up == down:
            return self.samples(sound, header, start, count)
        # The grid of output samples meets that of input samples every `up` outputs: begin there.
        margin = math.ceil(reach(up, down) / (up * down))  # of the filter, in steps of the common grid
        first = max(0, start // up - margin)
        begin = first * down
        end = min(header.frames, math.ceil((start + count) / up + margin) * down + 1)
        made = resampled(self.samples(sound, header, begin, end - begin), up, down)
        made = made[start - first * up :][:count]
        return np.pad(made, (0, count - len(made)))

    def samples(self, sound: Any, header: Header, start: int, count: int) -> Float32[np.ndarray, "t"]:
        """Samples of one channel at the recording's own rate, checked."""
        if sound.format == "MP3":
            given = mpeg.piece(sound, start, count)
            if len(given) < count and mpeg.is_guessed(sound):
                given = np.pad(given, ((0, count - len(given)), (0, 0)))
        else:
            if sound.tell() != start:
                sound.seek(start)
            given = sound.read(count, dtype="float32", always_2d=True)
        if len(given) < count:
            raise UnreadableItem(f"it ends after {start + len(given):,} of the {header.frames:,} samples it announces")
        channel = self.reading.channel
        if channel == "mix" or header.channels == 1:
            samples = given[:, 0] if header.channels == 1 else given.mean(axis=1, dtype=np.float32)
        elif channel < header.channels:
            samples = np.ascontiguousarray(given[:, channel])
        else:
            raise UnreadableItem(f"it has {header.channels} channels, and --reading.channel {channel} is asked for")
        most = float(np.abs(samples).max(initial=0.0))  # NaN where any is
        if not math.isfinite(most):
            raise UnreadableItem("it holds samples that are no numbers (NaN or infinite)")
        if most > LOUDEST:
            raise UnreadableItem(f"its float samples reach {most:.4g}, and full scale is 1: divide them")
        return samples

    def spanned(self, i: int, header: Header) -> tuple[int, int]:
        """Where item i starts in its recording and how many samples it has, at the wanted rate."""
        up, down = ratio(header.rate, self.rate_for(header))
        total = -(-header.frames * up // down)
        if self.windows is None:
            return 0, total
        rate = self.rate_for(header)
        start = round(float(self.windows[1][i]) * rate)
        return start, max(1, min(total - start, round(self.reading.window * rate)))

    def rate_for(self, header: Header) -> int:
        return self.stats.rate if self.stats is not None else header.rate

    def file_of(self, i: int) -> str:
        """The name of the file that item i is, or is a window of."""
        i = range(len(self))[i]
        return self.files[i if self.windows is None else int(self.windows[0][i])]

    def place_of(self, i: int) -> str:
        return joined(self.root, self.file_of(i))

    @contextlib.contextmanager
    def opened(self, i: int) -> Iterator[Any]:
        """The recording as soundfile opens it. Raises UnreadableItem for what goes wrong while it is open."""
        sf = soundfile()
        with readable(), contextlib.ExitStack() as stack:
            place = self.place_of(i)
            if self.disk.remote:
                yield stack.enter_context(sf.SoundFile(stack.enter_context(self.disk.open(place))))
            else:
                if not os.stat(place).st_size:  # noqa: PTH116 - places are texts
                    raise UnreadableItem("it is empty: 0 bytes")
                try:
                    with mpeg.silent() if suffix_of(place) == ".mp3" else contextlib.nullcontext():
                        sound = sf.SoundFile(place)
                except sf.LibsndfileError:
                    if (says := self.announced(i)) is not None and not says.rate:
                        raise UnreadableItem(RATELESS) from None
                    raise
                yield stack.enter_context(sound)

    # Windows -----------------------------------------------------------------------------------------------------

    def cut_into_windows(self) -> tuple[np.ndarray, np.ndarray]:
        """Every header is opened. A rest is an item where half a window or more of it is in no other; short recordings
        stay whole.

        Of a recording that cannot be read one item is left, which then says so.
        """
        from concurrent.futures import ThreadPoolExecutor

        length = self.reading.window
        stride = self.reading.stride or length

        def starts(k: int) -> Float32[np.ndarray, "w"]:
            try:
                with self.opened(k) as sound:
                    header = header_of(sound)
            except UnreadableItem:
                return np.zeros(1)
            seconds = header.frames / header.rate
            whole = 1 + max(0, math.floor((seconds - length) / stride + 1e-6))
            rest = seconds - ((whole - 1) * stride + length)
            return stride * np.arange(whole + (rest >= length / 2))

        with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
            found = list(pool.map(starts, range(len(self.files))))
        files = np.repeat(np.arange(len(found)), [len(one) for one in found])
        return files, np.concatenate(found) if found else np.zeros(0)


# Of one recording ------------------------------------------------------------------------------------------------


def soundfile() -> Any:
    """The package, or UserError with the line that installs it."""
    try:
        import soundfile as package
    except (ImportError, OSError) as error:  # OSError: the package without its library
        raise missing("audio", "soundfile", "reading recordings") from error
    return package


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """What goes wrong inside is the item's own fault: UnreadableItem with the reason in one line."""
    try:
        yield
    except UnreadableItem:
        raise
    except UserError:
        raise
    except MemoryError as error:
        raise UnreadableItem("it does not fit in memory") from error
    except OSError as error:
        raise UnreadableItem(error.strerror or str(error)) from error
    except (RuntimeError, ValueError, TypeError) as error:  # soundfile.LibsndfileError is a RuntimeError
        reason = " ".join(str(getattr(error, "error_string", None) or error).split())
        # What libsndfile says of an MP3 without a frame of sound: the file is there, as it was opened.
        told = "" if reason.startswith("File does not exist") else f": {reason}"
        raise UnreadableItem(f"not a recording, or a damaged one{told}") from error


def header_of(sound: Any) -> Header:
    header = Header(int(sound.frames), int(sound.samplerate), int(sound.channels))
    if header.rate <= 0:
        raise UnreadableItem(RATELESS)
    if header.frames <= 0:
        raise UnreadableItem("it holds no samples")
    return header


def quantised(samples: Float32[np.ndarray, "t"]) -> Int16[np.ndarray, "t"]:
    """16 bits, full scale is 32768, as soundfile makes 16 bits into floats: such recordings come back to the bit."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def piece_of(samples: Int16[np.ndarray, "t"], at: int, count: int) -> Int16[np.ndarray, "t"]:
    """`count` samples from `at` on; silence before the first and behind the last."""
    if at >= 0 and at + count <= len(samples):
        return samples[at : at + count]
    out = np.zeros(count, np.int16)
    first, last = max(0, at), min(len(samples), at + count)
    if last > first:
        out[first - at : last - at] = samples[first:last]
    return out


# Resampling ------------------------------------------------------------------------------------------------------


def ratio(have: int, want: int) -> tuple[int, int]:
    """(up, down) in lowest terms."""
    common = math.gcd(have, want)
    return want // common, have // common


def reach(up: int, down: int) -> int:
    """How far the filter reaches to either side, in steps of 1 / up of an input sample."""
    return ZEROS * max(up, down)


@functools.cache
def sinc(up: int, down: int) -> Float32[np.ndarray, "k"]:
    """The low-pass filter: a sinc under a Kaiser window, as scipy.signal.resample_poly makes it, in float32."""
    most = max(up, down)
    half = reach(up, down)
    k = np.arange(-half, half + 1)
    taps = np.sinc(k / most) * np.kaiser(2 * half + 1, BETA)
    return (taps * (1 / taps.sum())).astype(np.float32)


def resampled(samples: Float32[np.ndarray, "t"], up: int, down: int) -> Float32[np.ndarray, "t"]:
    """At up / down times the rate: ceil(t up / down) samples; what lies beside the piece counts as silence."""
    from scipy.signal import resample_poly  # comes with scikit-learn

    return resample_poly(samples, up, down, window=sinc(up, down)).astype(np.float32, copy=False)
