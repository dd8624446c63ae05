"""What an export is to have, and what it is fed with: the words that exporters of all modalities share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

__all__ = ["SMALLER", "Axis", "Behind", "Fed", "Wanted", "shortest"]

SMALLER = 2  # how many times shorter than the usual the axes of a view of any size may be


@dataclass(frozen=True)
class Behind:
    """What stands behind the encoder in a file that does a whole task: then it gives predictions, and no vector."""

    module: nn.Module
    """(encoder, views, height, width) -> a tensor for each of `outputs`, of any batch; height and width of what the
    file is fed with, None where that is no picture"""
    outputs: dict[str, str]
    """name of each output and what it is, in words"""
    facts: dict[str, Any]
    """of the task: what its numbers stand for. Goes into the file too"""
    whole: bool = False
    """whether a picture is squeezed to the view as a whole, in place of its middle square"""
    needs: tuple[str, ...] = ()
    """packages whose operations are in the file, which torch must find when it loads it"""
    apart: Callable[[Sequence[Tensor], Sequence[Tensor]], float] | None = None
    """how far outputs are from what is expected, in place of `apart` of each"""


@dataclass(frozen=True)
class Wanted:
    """What an export is to have beyond the vector of a view of one size in full precision."""

    maps: bool = False
    """the dense features too"""
    preprocessing: str | None = None
    """the way from stored pixels of any size inside, which lie as "hwc" or "chw" """
    any_size: bool = False
    """views of other sizes too, from half of the usual on"""
    half: bool = False
    """weights, and what is done with them, in 16 bits"""
    behind: Behind | None = None
    """a head"""

    def __str__(self) -> str:
        return ", ".join(name.replace("_", "-") for name, value in vars(self).items() if value and name != "behind")

    @property
    def plain(self) -> bool:
        """Whether the file is to hold the encoder as it is."""
        return not str(self) and self.behind is None


@dataclass(frozen=True)
class Axis:
    """Of an input, along which a map has places too."""

    name: str
    multiple: int = 1
    """what its length has to be a multiple of"""
    most: int | None = None
    """its greatest length"""


@dataclass(frozen=True)
class Fed:
    """What an exported encoder is fed with."""

    name: str
    """of the variable in the snippet and of the input of an ONNX file: pixels, waves, ..."""
    made: str
    """Python that makes an example of two, as in: torch.rand(2, 3, 32, 32)  # your images: float32 in [0, 1]"""
    example: Callable[[int], Tensor]
    """an example of as many items"""
    told: str
    """in words: shape, type and range"""
    axes: dict[int, Axis] = field(default_factory=dict)
    """by their number"""
    sized: Callable[[Sequence[int]], Tensor] | None = None
    """an example of one item with these lengths of the axes, where others than the usual are taken"""


def shortest(fed: Fed, number: int, wanted: Wanted) -> int:
    """The least length of an axis that may vary."""
    multiple = fed.axes[number].multiple
    usual = fed.example(1).shape[number]
    return multiple * max(2, 1 if wanted.preprocessing else usual // SMALLER // multiple)
