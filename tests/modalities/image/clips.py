"""Videos made for tests: each frame shows its own number."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

HEIGHT, WIDTH, BITS = 48, 96, 6
BAR = WIDTH // BITS
MILLISECOND = Fraction(1, 1000)


def numbered(k: int) -> np.ndarray:
    """uint8 [h w 3]: bars, white where a bit of k is set, on a ground whose top is lighter than its bottom."""
    picture = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    picture[:4] = 120
    for bit in range(BITS):
        if k >> bit & 1:
            picture[8:, bit * BAR : (bit + 1) * BAR] = 225
    return picture


def number_in(pixels: np.ndarray) -> int:
    """The number of a frame that `numbered` drew."""
    bars = pixels[12:, :, 0].reshape(-1, BITS, BAR)[:, :, 4:-4].mean((0, 2))
    return sum(int(bar > 127) << bit for bit, bar in enumerate(bars))


def write(
    path: Path,
    pictures: Sequence[np.ndarray],
    codec: str = "mpeg4",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    pixels: str = "yuv420p",
) -> Path:
    """A video of these pictures, 30 a second, or at `times` in milliseconds."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options or {"g": "10", "bf": "2"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.bit_rate = 4_000_000
        if times is not None:
            stream.time_base = stream.codec_context.time_base = MILLISECOND
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[k], MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def clip(path: Path, frames: int = 30, **settings: object) -> Path:
    return write(path, [numbered(k) for k in range(frames)], **settings)  # type: ignore[arg-type]
