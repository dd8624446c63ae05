"""Large matrices worked on by portions that stay in a processor's cache.

What goes over a matrix several times waits for memory otherwise, and new memory for what lies between costs more yet.
"""

from torch import Tensor

CACHED = 2**19  # numbers of a portion: 2 MB of float32


def portions(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of x that follow each other along an axis; x alone on other devices, which like it large."""
    length = x.shape[dim]
    if x.device.type != "cpu" or not x.numel():
        return (x,)
    return x.split(max(1, CACHED * length // x.numel()), dim=dim)
