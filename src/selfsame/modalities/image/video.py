"""Frames of videos, read by number as images are: a video is like a folder of frames, clip.mp4/000123 the 124th.

A frame is found again by its presentation time, never by counting from a guessed place: decoding begins at the key
frame before it, and goes on until that time comes. So what is read at random is, to the bit, what is read in order;
where a file's own table leads elsewhere, decoding begins at the start. Frames may have any distances in time.

Frames are 8 bits a channel, gray where the video is, upright as the file says, without alpha; pixels that are not
square are read as if they were, and interlaced frames as they lie. Of several pictures in a file the main one is read.

Raises UserError where the package av (PyAV) is missing, UnreadableItem for what cannot be read of a video.
"""

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from selfsame.errors import UnreadableItem, UserError, missing
from selfsame.modalities.image.decode import PIXELS, Form, Header, StoredPicture, too_large
from selfsame.modalities.image.source import ImageSource
from selfsame.storage.disk import joined
from selfsame.storage.folders import folder_labels
from selfsame.storage.index import kept

__all__ = ["VideoSource"]

OPEN = 4  # videos that a thread of a process holds open: each has a decoder with its reference frames
LEAST = 64  # frames whose pixels are counted, where there are fewer key frames than these
# What a file holds is told by its content; formats that name other files, as play lists do, are not among these.
SAFE = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi", "protocol_whitelist": "file"}

Labels = Sequence[str] | Callable[[], list[str] | None] | None


class Scan(NamedTuple):
    """What a video holds, from its packets; only its first frame is decoded."""

    moments: Int64[np.ndarray, "f"]
    """presentation times of the frames, ascending, in units of the stream"""
    keys: Int64[np.ndarray, "k"]
    """those of the key frames, at which decoding can begin"""
    unit: float
    """seconds"""
    height: int
    width: int
    channels: int


class VideoSource(ImageSource):
    """The frames of videos, or of each so many a second. Names of videos are relative to `root`, or absolute.

    Survives pickling and forking: each thread of each process opens videos for itself.
    """

    def __init__(
        self, path: str, root: Path | str, videos: Sequence[str], labels: Labels = None, fps: float | None = None
    ) -> None:
        package()  # what is missing is said before anything is read
        super().__init__(path, [], None)
        self.root = root
        self.videos = videos
        self.fps = fps
        self.local = threading.local()
        found = self.scanned()
        self.starts = found["starts"]  # long [v + 1]: the first item of each video, and the number of items
        self.numbers = found["numbers"]  # long [n]: of each item the number of its frame in its video, from 0
        self.moments = found["moments"]  # long [n], as in `Scan`
        self.keys, self.key_starts = found["keys"], found["key_starts"]  # long [k], [v + 1]: those of each video
        self.shapes = found["shapes"]  # long [v 3]: height, width, channels
        self.frames = found["frames"]  # long [v]: how many frames there are, those that are no items too
        self.rates = found["rates"]  # double [v]: items for a second of the video; 0 where there is one item
        self.marks = found["marks"]  # long [v]: changes when the file does
        self.reasons: list[str] = found["reasons"].tolist()
        """why a video cannot be read: one item is left of it, which says so; "" for others"""
        self.names = FrameNames(videos, self.starts, self.numbers)
        self.counted = min(self.counted, max(LEAST, len(self.keys)))
        self.label_frames(partial(folder_labels, videos) if labels is None else labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "local": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.local = threading.local()

    @property
    def place(self) -> str:
        return str(self.root) if self.disk.remote else str(Path.cwd() / self.root)

    def label_frames(self, labels: Labels) -> None:
        """Each frame has the label of its video; `labels` are one a video."""

        def of_frames() -> list[str] | None:
            found = labels() if callable(labels) else labels
            if found is None:
                return None
            return [label for label, count in zip(found, np.diff(self.starts), strict=True) for _ in range(count)]

        self.known_labels = None if labels is None else of_frames

    @property
    def roles(self) -> list[tuple[str, str, str]]:
        """For the plan: which frames are items."""
        good = [count for count, why in zip(self.frames.tolist(), self.reasons, strict=True) if not why]
        taken = "every frame" if self.fps is None else f"{self.fps:g} a second"
        fewer = "; --reading.fps takes fewer" if self.fps is None else ""
        return [("videos", f"{len(self.videos):,}, {taken}", f"{len(self):,} of {sum(good):,} frames{fewer}")]

    # Looking ---------------------------------------------------------------------------------------------------------

    def scanned(self) -> dict[str, np.ndarray]:
        """What stands in all the videos, kept on disk until one of them changes: every packet of them is looked at."""
        paths = [joined(self.root, name) for name in self.videos]
        states = [self.state(path) for path in paths]
        told = (f"{path} {state}" for path, state in zip(paths, states, strict=True))
        key = "\n".join((f"frames 1, PyAV {package().__version__}, fps {self.fps}", *told))

        def make() -> dict[str, np.ndarray]:
            with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
                return self.gathered(list(pool.map(self.looked_into, paths)))

        marks = [int.from_bytes(hashlib.sha256(state.encode()).digest()[:8], "big") >> 1 for state in states]
        return {**kept(key, make), "marks": np.array(marks, np.int64)}

    def state(self, path: str) -> str:
        """Changes when the file does; empty where it may not be read, or is a broken link."""
        try:
            return self.disk.state(path) if self.disk.remote or os.access(path, os.R_OK) else ""
        except (OSError, UserError):
            return ""

    def looked_into(self, path: str) -> Scan | UnreadableItem:
        try:
            with readable():
                return scan(partial(self.handle, path))
        except UnreadableItem as reason:
            return reason

    def gathered(self, scans: Sequence[Scan | UnreadableItem]) -> dict[str, np.ndarray]:
        """The scans end to end, of each video the frames that are items."""
        nothing = Scan(np.zeros(1, np.int64), np.zeros(1, np.int64), 1.0, 0, 0, 0)
        whole = [nothing if isinstance(one, UnreadableItem) else one for one in scans]
        numbers = [taken(one.moments * one.unit, self.fps) for one in whole]
        moments = [one.moments[some] for one, some in zip(whole, numbers, strict=True)]
        spans = [float(some[-1] - some[0]) * one.unit for one, some in zip(whole, moments, strict=True)]
        rates = [round((len(some) - 1) / span, 6) if span else 0.0 for some, span in zip(moments, spans, strict=True)]
        return {
            "starts": np.cumsum([0, *map(len, moments)]),
            "numbers": np.concatenate(numbers),
            "moments": np.concatenate(moments),
            "keys": np.concatenate([one.keys for one in whole]),
            "key_starts": np.cumsum([0, *(len(one.keys) for one in whole)]),
            "shapes": np.array([(one.height, one.width, one.channels) for one in whole], np.int64),
            "frames": np.array([len(one.moments) for one in whole], np.int64),
            "rates": np.array(rates),
            "reasons": np.array([str(one) if isinstance(one, UnreadableItem) else "" for one in scans]),
        }

    def video_of(self, i: int) -> int:
        """Number of the video that item i is a frame of."""
        return int(np.searchsorted(self.starts, range(len(self))[i], side="right")) - 1

    def drawn(self, seed: int, most: int) -> list[int]:
        """At most `most` items, those first that are nearest behind a key frame: others take long to decode."""
        rng = np.random.default_rng(seed)
        first = np.zeros(len(self), bool)
        for video in range(len(self.videos)):
            low, high = self.starts[video : video + 2]
            places = low + np.searchsorted(self.moments[low:high], self.keys_of(video))
            first[places[places < high]] = True
        order = np.concatenate([rng.permutation(np.flatnonzero(first)), rng.permutation(np.flatnonzero(~first))])
        return sorted(order[:most].tolist())

    def keys_of(self, video: int) -> Int64[np.ndarray, "k"]:
        return self.keys[self.key_starts[video] : self.key_starts[video + 1]]

    # Reading ---------------------------------------------------------------------------------------------------------

    def header(self, i: int) -> Header:
        """Of the video that item i is a frame of. Raises UnreadableItem."""
        video = self.video_of(i)
        if self.reasons[video]:
            raise UnreadableItem(self.reasons[video])
        height, width, channels = self.shapes[video].tolist()
        return Header(height, width, channels, 8, int(self.marks[video]))

    def stored(self, i: int) -> int:
        """Bytes of the video for each of its frames. Raises UnreadableItem."""
        video = self.video_of(i)
        with readable(), self.disk.open(joined(self.root, self.videos[video])) as file:
            return max(1, file.seek(0, os.SEEK_END) // int(self.frames[video]))

    def open(self, i: int, form: Form | None = None) -> StoredPicture:
        """The frame, decoded. Raises UnreadableItem."""
        i = range(len(self))[i]
        video = self.video_of(i)
        if self.reasons[video]:
            raise UnreadableItem(self.reasons[video])
        moment, keys = int(self.moments[i]), self.keys_of(video)
        key = int(keys[np.searchsorted(keys, moment, side="right") - 1])
        with readable():
            pixels = self.decoder(video).pixels(moment, key)
        return StoredPicture(pixels, form or self.form)

    def fetch(self, items: Sequence[int]) -> None:
        """Frames are not fetched ahead: a video at an address is read where it lies."""

    def decoder(self, video: int) -> "Decoder":
        """The video, open in this thread of this process."""
        # What came through a fork shares its place in the file with the parent: each process opens its own.
        if getattr(self.local, "process", None) != os.getpid():
            self.local.process, self.local.held = os.getpid(), OrderedDict()
        held: OrderedDict[int, Decoder] = self.local.held
        if video not in held:
            while len(held) >= OPEN:
                held.popitem(last=False)[1].close()
            held[video] = Decoder(partial(self.handle, joined(self.root, self.videos[video])))
        held.move_to_end(video)
        return held[video]

    def handle(self, path: str) -> str | IO[bytes]:
        # An absolute path is never taken for an address.
        return self.disk.open(path) if self.disk.remote else str(Path(path).absolute())


class FrameNames(Sequence[str]):
    """The names of frames without a list of them: that of the video, and the number of the frame in it."""

    def __init__(self, videos: Sequence[str], starts: Int64[np.ndarray, "v"], numbers: Int64[np.ndarray, "n"]) -> None:
        self.videos, self.starts, self.numbers = videos, starts, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        return f"{self.videos[int(np.searchsorted(self.starts, i, side='right')) - 1]}/{self.numbers[i]:06d}"


# One video -----------------------------------------------------------------------------------------------------------


def package() -> Any:
    """PyAV, or UserError with the line that installs it."""
    try:
        import av
    except ImportError:
        raise missing("video", "av", "reading videos") from None
    return av


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """What goes wrong inside is the video's own fault: UnreadableItem with the reason in one line."""
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise UnreadableItem("a frame of it does not fit in memory") from None
    except (OSError, ValueError, LookupError, RuntimeError, NotImplementedError) as error:  # FFmpeg's are all of these
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UnreadableItem(f"not a video, or a damaged one: {reason}") from error


def opened(file: str | IO[bytes]) -> Any:
    """The container, open for reading. Raises UnreadableItem where it is empty, or holds no moving picture."""
    if isinstance(file, str) and not Path(file).stat().st_size:
        raise UnreadableItem("it is empty: 0 bytes")
    container = package().open(file, container_options=dict(SAFE))
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        container.close()
        raise UnreadableItem("it holds no picture that can be decoded" if stream else "it holds no picture")
    stream.codec_context.thread_count = 1  # reading processes are many already
    return container


def scan(file: Callable[[], str | IO[bytes]]) -> Scan:
    """The frames of a video by its packets. Raises UnreadableItem where none can be decoded."""
    with contextlib.closing(opened(file())) as container:
        first = next(frames(container), (0, None))[1]
    moments: list[int] = []
    keys: list[int] = []
    with contextlib.closing(opened(file())) as container, contextlib.suppress(package().error.FFmpegError):
        # Of a file that is cut off, what comes before can be read.
        unit = float(container.streams.best("video").time_base)
        if in_order_of_decoding(container):
            for moment, frame in frames(container):
                moments.append(moment)
                keys += [moment] if frame.key_frame else []
        else:
            for packet in container.demux(container.streams.best("video")):
                moment = packet.dts if packet.pts is None else packet.pts
                if packet.size and moment is not None and not packet.is_discard and not packet.is_corrupt:
                    moments.append(moment)
                    keys += [moment] if packet.is_keyframe else []
    if first is None or not keys:
        raise UnreadableItem("it holds no frame that can be decoded")
    height, width = (first.height, first.width) if first.rotation % 180 == 0 else (first.width, first.height)
    if height * width > PIXELS:
        raise too_large()
    starts, shown = np.unique(keys), np.unique(moments)
    shown = shown[shown >= starts[0]]  # what comes before the first key frame refers to what is not there
    return Scan(shown, starts, unit, height, width, 1 if len(first.format.components) == 1 else 3)


def frames(container: Any) -> Iterator[tuple[int, Any]]:
    """(presentation time, frame), from where the container stands, in the order in which they are shown."""
    by_order, last = in_order_of_decoding(container), -1
    for packet in container.demux(container.streams.best("video")):
        try:
            decoded = packet.decode()
        except package().error.InvalidDataError:  # those behind a damaged packet may be whole
            continue
        for frame in decoded:
            moment = frame.dts if by_order or frame.pts is None else frame.pts
            last = last + 1 if moment is None else moment  # the last frames come when there are no packets any more
            yield last, frame


def in_order_of_decoding(container: Any) -> bool:
    """Whether the file says when frames are decoded, not when they are shown, and the two differ: AVI with B-frames."""
    return container.format.name == "avi" and bool(container.streams.best("video").codec_context.has_b_frames)


def taken(seconds: Float64[np.ndarray, "f"], fps: float | None) -> Int64[np.ndarray, "n"]:
    """Numbers of the frames nearest to the times 0, 1 / fps, 2 / fps, ... after the first; all where fps is None."""
    if fps is None:
        return np.arange(len(seconds))
    since = seconds - seconds[0]
    wanted = np.arange(int(since[-1] * fps + 1e-6) + 1) / fps
    after = np.searchsorted(since, wanted).clip(max=len(since) - 1)
    before = (after - 1).clip(min=0)
    return np.unique(np.where(wanted - since[before] < since[after] - wanted, before, after))


class Decoder:
    """An open video, which decodes onward from where it is, or from a key frame."""

    def __init__(self, file: Callable[[], str | IO[bytes]]) -> None:
        self.file = file
        self.begin()

    def begin(self) -> None:
        """Open it, at its start."""
        self.container = opened(self.file())
        self.coming = frames(self.container)
        self.last: tuple[int, Any] | None = None
        """time and frame that were decoded last"""

    def close(self) -> None:
        self.container.close()

    def pixels(self, moment: int, key: int) -> UInt8[np.ndarray, "h w c"]:
        """The frame shown at `moment`, upright; `key` is that of the last key frame before it, or of itself.

        Raises UnreadableItem.
        """
        frame = self.frame(moment, key)
        # With threads of FFmpeg's, a process forked from here would wait for them in vain.
        values = frame.to_ndarray(format="gray" if len(frame.format.components) == 1 else "rgb24", threads=1)
        upright = np.rot90(values.reshape(*values.shape[:2], -1), frame.rotation // 90 % 4)
        return np.ascontiguousarray(upright)

    def frame(self, moment: int, key: int) -> Any:
        near = self.last is not None and key <= self.last[0] <= moment
        found = self.onward(moment) if near or self.led_to(key) else None
        if found is None or found.is_corrupt:
            self.close()
            self.begin()
            found = self.onward(moment)
        if found is None or found.is_corrupt:
            at = f"{moment * float(self.container.streams.best('video').time_base):.3f} s"
            raise UnreadableItem(f"the frame at {at} is damaged" if found else f"no frame comes at {at}")
        return found

    def led_to(self, key: int) -> bool:
        """Whether the table of the file leads to this key frame, which is then the last."""
        self.last = None
        try:
            self.container.seek(key, stream=self.container.streams.best("video"))
        except package().error.FFmpegError:
            return False
        self.coming = frames(self.container)
        found = self.onward(key)
        return found is not None and bool(found.key_frame)

    def onward(self, moment: int) -> Any:
        """The frame of this moment, from here on; None where a later one comes, or none."""
        while self.last is None or self.last[0] < moment:
            coming = next(self.coming, None)
            if coming is None:
                return None
            self.last = coming
        return self.last[1] if self.last[0] == moment else None
