"""Pictures written as a video, one after the other. Raises UserError where the package av (PyAV) is missing."""

import shutil
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import UInt8

from selfsame.errors import missing

__all__ = ["Overlay"]

CODECS = ("libx264", "mpeg4")  # what browsers play, where it is there; what every build of FFmpeg has
BITS = 8_000_000  # a second, where the codec does not see to a quality by itself


def package() -> Any:
    """PyAV, or UserError with the line that installs it."""
    try:
        import av
    except ImportError:
        raise missing("video", "av", "writing a video") from None
    return av


class Overlay:
    """A video that is being written: pictures of one size are added, `copy` puts it where it belongs.

    A context: until it is copied it lies in a temporary folder, which is then removed.
    """

    def __init__(self, rate: float) -> None:
        """`rate` is in pictures a second."""
        self.av = package()
        self.folder = tempfile.TemporaryDirectory(prefix="selfsame-overlay-")
        self.path = Path(self.folder.name) / "overlay.mp4"
        self.rate = Fraction(rate).limit_denominator(1001)
        self.container: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self.folder.cleanup()

    def add(self, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """The next picture. Where height or width is odd, the last line is left out: two pixels share a colour."""
        height, width = (side // 2 * 2 for side in picture.shape[:2])
        if self.container is None:
            self.container = self.av.open(str(self.path), "w", format="mp4")
            codec = next(name for name in CODECS if name in self.av.codecs_available)
            self.stream = self.container.add_stream(codec, rate=self.rate, height=height, width=width)
            self.stream.pix_fmt = "yuv420p"
            if codec == "mpeg4":
                self.stream.bit_rate = BITS
        frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        if self.container is not None:
            self.container.mux(self.stream.encode(None))
            self.container.close()
            self.container = None

    def copy(self, place: Path) -> None:
        """The whole video, to `place`."""
        self.close()
        shutil.copyfile(self.path, place)
