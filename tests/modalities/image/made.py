"""A small data set of images, for tests that run over every modality."""

from pathlib import Path

from PIL import Image

from tests.conftest import paint

TINY, TINY_TOKENS, SIZE = "tests.nets:tiny", "tests.nets:tokens", 32  # the first with dense features
TINY_PIECES = "resnet10t@0.125"  # with the group norm of its last layer, a group a channel, TINY has one mean for all
KINDS = ("across", "down", "disc", "chequer")


def make(folder: Path, n: int = 32) -> str:
    """n images of four kinds, in a folder each; the path that is given to `pretrain`."""
    for k in range(n):
        name = KINDS[k % 4]
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(paint(k % 4, 100 * k)).save(folder / name / f"{k:03}.png")
    return str(folder)


def labelled(folder: Path) -> tuple[str, str | None]:
    """Data with labels, and the value of --labels; None where they need none, as class folders."""
    return make(folder), None
