"""What tells copies of an image apart from other images, without an encoder: its bytes, and a perceptual hash.

Source: pHash, Zauner 2010 (Implementation and Benchmarking of Perceptual Image Hash Functions, section 3.2.1): the
signs of low frequencies of a small gray image. As in Krawetz's variant, which `imagehash.phash` follows, the image is
32 x 32 and bits say which coefficients lie above the median.
Deviations: the 64 coefficients are those of lowest frequency, without the constant one, which says nothing but how
bright the image is; a second code is that of the mirror image; images of next to no contrast have no code, for theirs
would be of noise, and all blank pages would be copies of each other at random.
Raises: UnreadableItem.
"""

import io

import numpy as np
from jaxtyping import Float, UInt

from selfsame.modalities.image.decode import Form, Picture, readable, resized
from selfsame.modalities.image.source import ArraySource, ImageSource
from selfsame.modalities.image.video import VideoSource
from selfsame.types import Fingerprint

__all__ = ["codes", "fingerprint", "luma"]

SIDE = 32  # pixels of the small image
BITS = 64
FAINT = 0.01  # standard deviation of the small image, white being 1: below there is nothing to be seen
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

_k, _n = np.mgrid[:SIDE, :SIDE]
DCT = np.cos(np.pi * _k * (2 * _n + 1) / (2 * SIDE))  # type II; the scale of a row does not change signs
# By the sum of the two frequencies, then by the vertical one, as a zigzag goes; the constant one is left out.
LOWEST = sorted((u + v, u, v) for u in range(SIDE) for v in range(SIDE))[1 : BITS + 1]
DOWN, ACROSS = np.array([u for _, u, _ in LOWEST]), np.array([v for _, _, v in LOWEST])
MIRRORED = np.where(ACROSS % 2, -1.0, 1.0)  # a mirror turns the sign of odd horizontal frequencies


def fingerprint(source: ImageSource, i: int) -> Fingerprint:
    """The bytes of the file, or the pixels of an array's item or a video's frame; height x width; the codes, if any."""
    if isinstance(source, ArraySource | VideoSource):
        picture = source.open(i)
        values = picture.pixels()
        content = str((values.shape, values.dtype)).encode() + values.tobytes()
        stored = values.nbytes
    else:
        with readable():
            content = source.data(i)
        stored = len(content)
        picture = Picture(io.BytesIO(content), source.form)
        values = picture.pixels(2 * SIDE)  # a JPEG need not be decoded in full for so small an image
    height, width = picture.size
    return Fingerprint(content, stored, height * width, codes(luma(values, picture.form)))


def luma(values: UInt[np.ndarray, "h w c"], form: Form) -> Float[np.ndarray, "32 32"]:
    """A small gray image in [0, 1]; of other than 3 channels their mean."""
    small = resized(values, (SIDE, SIDE), form).astype(np.float64) / form.white
    return small @ np.array(LUMA) if small.shape[2] == 3 else small.mean(axis=2)


def codes(gray: Float[np.ndarray, "32 32"]) -> tuple[int, int] | None:
    """The code of the image and that of its mirror image, 64 bits each; None for an image without contrast."""
    if gray.std() < FAINT:
        return None
    lowest = (DCT @ gray @ DCT.T)[DOWN, ACROSS]
    return code(lowest), code(lowest * MIRRORED)


def code(lowest: Float[np.ndarray, "64"]) -> int:
    bits = np.packbits(lowest > np.median(lowest))
    return int.from_bytes(bits.tobytes(), "big")
