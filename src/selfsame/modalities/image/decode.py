"""Image files to arrays of stored values: every Pillow mode, EXIF orientation, 16 bits, TIFF of any channel count.

Alpha is composited onto white. Of several frames or pages the first is read; the pages of a TIFF that was written as
one array (tifffile, ImageJ, OME) are its channels. Pillow reads 16-bit colour PNG at 8 bits. Raises UnreadableItem
with the reason, and UserError where a TIFF needs the optional package tifffile.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import IO, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt
from PIL import Image, UnidentifiedImageError

from selfsame.errors import UnreadableItem, UserError, missing
from selfsame.modalities.image import kernel

try:
    import simplejpeg
except ImportError:  # no wheel for this machine: Pillow reads the same, more slowly
    simplejpeg = None

__all__ = ["PIXELS", "Box", "Form", "Header", "Picture", "StoredPicture", "resized", "suffixes"]

PIXELS = 2 * 89_478_485
"""Most pixels an image may claim in its header: about 179 million, where Pillow itself refuses."""

# Formats that Pillow names but cannot decode, hands to another program (EPS), or that are films.
NO_PIXELS = {"BUFR", "EPS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PDF", "WMF"}
USUAL = {"JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"}
PLANES = 64  # more pages than these, not named as channels, are a stack or a film, of which the first is read
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GRAY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112

Box = tuple[float, float, float, float]
"""top, left, height, width, in pixels of the upright image"""


class Form(NamedTuple):
    """What the items of a source are brought to: channels, bits (8 or 16), and the value that is white."""

    channels: int
    bits: int
    white: int


class Header(NamedTuple):
    """What is known of an image before its pixels are decoded. Sizes are those of the upright image."""

    height: int
    width: int
    channels: int
    bits: int
    stamp: int = 0
    """changes when the file does, as far as its size and its date tell"""


@cache
def formats() -> tuple[str, ...]:
    """The formats Pillow can turn into pixels, those of registered plugins included; the usual ones are tried first."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - NO_PIXELS, key=lambda name: (name not in USUAL, name)))


@cache
def suffixes() -> frozenset[str]:
    """Lower-case file suffixes, dot included, of the formats that are read."""
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in formats()}
    return frozenset(known | {".mpo", ".btf", ".tf8"})


@contextmanager
def readable() -> Iterator[None]:
    """Silence Pillow's warnings and turn whatever a decoder raises on a broken file into UnreadableItem."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise too_large() from None
    except UnidentifiedImageError:
        raise UnreadableItem("not an image, or of a format that Pillow does not read") from None
    except OSError as error:
        raise UnreadableItem(error.strerror or str(error)) from error
    except Exception as error:  # decoders of broken files raise anything: SyntaxError, struct.error, KeyError...
        raise UnreadableItem(" ".join(str(error).split()) or type(error).__name__) from error


def too_large() -> UnreadableItem:
    return UnreadableItem(f"claims more than {PIXELS:,} pixels: a decompression bomb, or an image to cut into tiles")


class Picture:
    """One image, opened but not decoded until its pixels are asked for. `file` is kept, not closed.

    `form` is what `pixels` and `cut` bring the image to; None leaves it as it is stored.
    """

    def __init__(self, file: IO[bytes], form: Form | None = None) -> None:
        self.file = file
        self.image: Image.Image | None = None
        self.turn = 1
        with readable():
            self.header = self._open()
        self.form = form or own_form(self.header)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright image in pixels, before any decoding."""
        return self.header.height, self.header.width

    def pixels(self, side: int | None = None) -> UInt[np.ndarray, "h w c"]:
        """The whole upright image, uint8 or uint16 as `form` says.

        With `side`, a JPEG may come reduced by 2, 4 or 8, its short side still at least `side` long.
        """
        reduce = 1 if side is None else reduction(min(self.size) / side)
        return brought(self._load(reduce)[0], self.form)

    def cut(
        self, boxes: Sequence[Box], size: int, into: Sequence[np.ndarray] | None = None
    ) -> Sequence[UInt[np.ndarray, "size size c"]]:
        """Each box resized to size x size, antialiased bicubic, from one decoding; into arrays that are given.

        A JPEG is decoded at a reduced scale where every box keeps at least `size` pixels a side; the borders of its
        boxes are then rounded to whole pixels of that scale. Raises UnreadableItem.
        """
        loaded, reduce = self._load(reduction(min(min(height, width) for _, _, height, width in boxes) / size))
        values = brought(loaded, self.form)
        places = [self._place(values.shape, box, reduce) for box in boxes]
        if kernel.cuts(values[None]):
            whole = [(0, y.start, x.start, y.stop - y.start, x.stop - x.start) for y, x in places]
            return kernel.cut(values[None], np.array(whole), size, into)
        cuts = [resized(values[place], (size, size), self.form) for place in places]
        if into is None:
            return cuts
        for out, cut in zip(into, cuts, strict=True):
            out[:] = cut
        return into

    def _place(self, shape: tuple[int, ...], box: Box, reduce: int) -> tuple[slice, slice]:
        """Where a box of the full image lies in one that was reduced."""
        top, left, height, width = box
        # A reduced image is as large as it takes to cover the full one; what it has more lies where the far edge was.
        if self.turn in (2, 3, 6, 7):
            left += max(shape[1] * reduce - self.header.width, 0)
        if self.turn in (3, 4, 7, 8):
            top += max(shape[0] * reduce - self.header.height, 0)

        def part(start: float, length: float, full: int) -> slice:
            first = min(round(start / reduce), full - 1)
            return slice(first, max(first + 1, min(round((start + length) / reduce), full)))

        return part(top, height, shape[0]), part(left, width, shape[1])

    def _open(self) -> Header:
        self.file.seek(0)
        start = self.file.read(4)
        self.file.seek(0)
        if not start:
            raise UnreadableItem("empty file")
        try:
            self.image = Image.open(self.file, formats=formats())
        except UnidentifiedImageError:
            if start not in TIFF_STARTS:
                raise
            return self._open_tiff()
        if self.image.width * self.image.height > PIXELS:
            raise too_large()
        if needs_tifffile(self.image):
            return self._open_tiff()
        self.turn = orientation(self.image)
        width, height = self.image.size if self.turn < 5 else self.image.size[::-1]
        gray = self.image.mode in GRAY_MODES or gray_palette(self.image)
        return Header(height, width, 1 if gray else 3, 16 if self.image.mode in DEEP_MODES else 8)

    def _open_tiff(self) -> Header:
        self.image = None
        with tiff(self.file) as file:
            axes, shape = layout(file.series[0])
            sizes = dict(zip(axes, shape, strict=True))
            height, width = sizes["Y"], sizes["X"]
            if height * width > PIXELS or math.prod(shape) > 16 * PIXELS:
                raise too_large()
            self.turn = tiff_orientation(file)
            if self.turn >= 5:
                height, width = width, height
            channels = sizes.get("C", 1) * sizes.get("S", 1) - (alpha_of(file) is not None)
            return Header(height, width, channels, 8 if file.series[0].dtype in (np.uint8, np.bool_) else 16)

    def _load(self, reduce: int) -> tuple[UInt[np.ndarray, "h w c"], int]:
        """The upright image, without alpha, and how much it was reduced."""
        with readable():
            if self.image is None:
                self._open()
            if self.image is None:
                return self._load_tiff(), 1
            image, self.image = self.image, None  # a decoded image stays decoded at its scale: open again next time
            smaller = (max(image.width // reduce, 1), max(image.height // reduce, 1))
            values = self._load_jpeg(image, reduce) if image.format in ("JPEG", "MPO") else None
            if values is None:
                if reduce > 1 and image.draft(None, smaller) is None:
                    reduce = 1
                image.load()
                deep = image.mode in DEEP_MODES
                values = stored(np.asarray(image)) if deep else np.array(flat(image, self.header.channels))
            values = turned(values.reshape(*values.shape[:2], -1), self.turn)
            if reduce == 1 and values.shape[:2] != self.size:
                height, width = values.shape[:2]
                raise UnreadableItem(f"{height} x {width} pixels where its header says {self.size}")
            return values, reduce

    def _load_jpeg(self, image: Image.Image, reduce: int) -> UInt[np.ndarray, "h w c"] | None:
        """As Pillow decodes it, to the bit, in two thirds of the time; None where simplejpeg is absent or unsure."""
        if simplejpeg is None or image.mode not in ("L", "RGB"):
            return None
        self.file.seek(0)
        least = {"min_height": -(-image.height // reduce), "min_width": -(-image.width // reduce)} if reduce > 1 else {}
        try:
            return simplejpeg.decode_jpeg(self.file.read(), "GRAY" if image.mode == "L" else "RGB", **least)
        except ValueError:  # damaged, or a warning that Pillow passes over: Pillow decides
            return None

    def _load_tiff(self) -> UInt[np.ndarray, "h w c"]:
        with tiff(self.file) as file:
            axes, shape = layout(file.series[0])
            values = file.series[0].asarray().reshape(shape)
            alpha = alpha_of(file)
            for place in reversed(range(len(axes))):
                if axes[place] not in "YXCS":
                    values, axes = values.take(0, axis=place), axes[:place] + axes[place + 1 :]
            order = [axes.index("Y"), axes.index("X"), *(axes.index(name) for name in "CS" if name in axes)]
            values = stored(values.transpose(order).reshape(values.shape[order[0]], values.shape[order[1]], -1))
            if alpha is not None:
                values = on_white(values, premultiplied=alpha == 1)
            return turned(values, tiff_orientation(file))


class StoredPicture(Picture):
    """An image that is an array already: uint8 or uint16 [h w c]. Four channels are four channels, not alpha."""

    def __init__(self, values: UInt[np.ndarray, "h w c"], form: Form | None = None) -> None:
        self.values = values
        self.turn = 1
        height, width, channels = values.shape
        self.header = Header(height, width, channels, 8 * values.dtype.itemsize)
        self.form = form or own_form(self.header)

    def _load(self, reduce: int) -> tuple[UInt[np.ndarray, "h w c"], int]:
        return self.values.astype(np.uint8 if self.header.bits == 8 else np.uint16, copy=False), 1


def own_form(header: Header) -> Form:
    return Form(header.channels, header.bits, 2**header.bits - 1)


def reduction(ratio: float) -> int:
    """The largest of JPEG's reductions 1, 2, 4, 8 that is at most `ratio`."""
    return next((scale for scale in (8, 4, 2) if ratio >= scale), 1)


def resized(values: UInt[np.ndarray, "h w c"], size: tuple[int, int], form: Form) -> UInt[np.ndarray, "g v c"]:
    """Resized to this height and width, antialiased bicubic (a = -0.5): 8 bits to within one step, 16 exactly."""
    if not (values.flags.c_contiguous and values.flags.writeable):
        values = values.copy()  # torch would make a copy of its own, and warns of what it must not write
    # The batch axis comes first: only then does torch see that channels are last, for which it has a quick way.
    pixels = torch.from_numpy(values.astype(np.float32) if form.bits == 16 else values)[None].permute(0, 3, 1, 2)
    small = F.interpolate(pixels, size, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    if form.bits == 16:
        return small.round().clamp(0, form.white).numpy().astype(np.uint16)
    return small.contiguous().numpy()


def brought(values: UInt[np.ndarray, "h w c"], form: Form) -> UInt[np.ndarray, "h w k"]:
    """The image with the channels and bits of `form`; a gray image is repeated, a colour image becomes its luma.

    8-bit values are spread to 0..white, 16-bit values stay as they are up to white. Raises UnreadableItem.
    """
    channels, deep = values.shape[2], values.dtype == np.uint16
    if (channels, form.channels) == (1, 3):
        values = values.repeat(3, axis=2)
    elif (channels, form.channels) == (3, 1):
        luma = values @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's convert("L")
        values = np.rint(luma)[:, :, None].astype(values.dtype)
    elif channels != form.channels:
        raise UnreadableItem(f"{channels} channels where {form.channels} are expected")
    if form.bits == 16:
        return np.minimum(values, form.white) if deep else np.rint(values * (form.white / 255)).astype(np.uint16)
    return np.rint(values / 257).astype(np.uint8) if deep else values


def stored(values: np.ndarray) -> UInt[np.ndarray, "..."]:
    """Numbers of any kind as uint8 or uint16; real numbers in [0, 1] fill 0..65535. Raises UnreadableItem."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return values.astype(values.dtype.newbyteorder("="))
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65535):  # so that NaN is refused too
        raise UnreadableItem(f"values from {low:g} to {high:g}; 0 to 65535, or real numbers from 0 to 1, are read")
    if values.dtype.kind == "f" and high <= 1:
        values = values * 65535.0
    return np.rint(values).astype(np.uint16)


def flat(image: Image.Image, channels: int) -> Image.Image:
    """An 8-bit image of any mode as L (1 channel) or RGB, without alpha."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(over)
    return image if image.mode == mode else image.convert(mode)


def on_white(values: UInt[np.ndarray, "h w c"], premultiplied: bool) -> UInt[np.ndarray, "h w k"]:
    """An image whose last channel is alpha, composited onto white."""
    white = np.iinfo(values.dtype).max
    alpha = values[:, :, -1:] / white
    colour = values[:, :, :-1] * (1.0 if premultiplied else alpha)
    return np.rint(colour + (1 - alpha) * white).clip(0, white).astype(values.dtype)


def gray_palette(image: Image.Image) -> bool:
    """Whether an image is of palette mode and all its colours are gray. Decodes nothing."""
    if image.mode != "P" or image.palette is None:
        return False
    colours = image.palette
    if colours.rawmode:  # as the file has it: Pillow's order of bytes is known only to Pillow
        probe = Image.new("P", (1, 1))
        probe.putpalette(colours.palette, colours.rawmode)
        triples = probe.getpalette() or []
    else:
        triples = list(colours.palette) if colours.mode == "RGB" else [0, 0, 1]
    return triples[0::3] == triples[1::3] == triples[2::3]


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8. Pillow turns TIFF by itself, and would decode a whole PNG to look for late EXIF."""
    if image.format == "TIFF" or (
        image.format == "PNG" and not {"exif", "Raw profile type exif"} & {str(key) for key in image.info}
    ):
        return 1
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF in a sound picture: leave it as it lies
        return 1
    return turn if turn in TURNS else 1


def turned(values: np.ndarray, turn: int) -> np.ndarray:
    """An array [h w c] brought upright from EXIF orientation `turn`."""
    if turn >= 5:
        values = values.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        values = values[:, ::-1]
    if turn in (3, 4, 7, 8):
        values = values[::-1]
    return values


def needs_tifffile(image: Image.Image) -> bool:
    """Whether Pillow would lose bits, channels or planes of this TIFF."""
    tags: Any = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return False
    samples, bits = tags.get(277, 1), max(tags.get(258, (1,)))
    if samples > 1 and (bits > 8 or image.mode == "RGBX"):
        return True
    as_one_array = str(tags.get(270, "")).lstrip().startswith(("{", "ImageJ=", "<?xml", "<OME"))
    return as_one_array and getattr(image, "n_frames", 1) > 1


@contextmanager
def tiff(file: IO[bytes]) -> Iterator[Any]:
    """The file opened by tifffile. Raises UserError where that package is absent."""
    try:
        import tifffile
    except ImportError:
        raise missing(
            "tiff", "tifffile", "a TIFF of more than 8 bits and one channel, or of other than 1 or 3 channels,"
        ) from None
    file.seek(0)
    with tifffile.TiffFile(file) as opened:
        yield opened


def layout(series: Any) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of what a TIFF holds, with Y, X and, where there are channels, C or S among the axes."""
    axes, shape = series.axes, series.shape
    if axes in ("QYX", "IYX") and min(shape[0], shape[2]) <= PLANES:
        # An array written without names: [h w c] is cut into h pages of w x c, so the short axis tells the channels.
        return ("YXC" if shape[2] < shape[0] else "CYX"), shape
    return axes, shape


def alpha_of(file: Any) -> int | None:
    """1 (premultiplied) or 2 (not) where the last sample of a pixel is alpha, None where it is not."""
    page = file.pages[0]
    extra = [int(kind) for kind in (page.extrasamples or ())]
    return extra[-1] if page.samplesperpixel in (2, 4) and len(extra) == 1 and extra[0] in (1, 2) else None


def tiff_orientation(file: Any) -> int:
    tag = file.pages[0].tags.get(ORIENTATION)
    return int(tag.value) if tag is not None and int(tag.value) in TURNS else 1
