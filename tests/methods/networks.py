"""Networks inside of a learner, told from what is the method's own: for tests that watch one and leave the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from selfsame.nn.ema import Target
from selfsame.nn.vocabulary import WordHead
from selfsame.types import Encoder

CALLS = ("forward", "both", "tokens", "maps", "with_maps", "last_layers", "steps", "word_tokens")  # of an encoder
Call = Callable[..., Any]


def is_network(part: nn.Module) -> bool:
    """An encoder, a layer of torch, or the layer that scores words: what may compute in half precision."""
    if isinstance(part, nn.Sequential | nn.ModuleList):
        return False  # what stands in it is looked at by itself
    return isinstance(part, Encoder | WordHead) or type(part).__module__.startswith("torch.nn.")


@contextmanager
def around(learner: nn.Module, wrap: Callable[[nn.Module, Call], Call]) -> Iterator[None]:
    """Under it the passes of each of the learner's networks go through `wrap(network, pass)`."""
    changed: list[tuple[nn.Module, str]] = []
    for part in learner.modules():
        if is_network(part):
            for name in CALLS if isinstance(part, Encoder) else ("forward",):
                if hasattr(part, name):
                    changed.append((part, name))
                    setattr(part, name, wrap(part, getattr(part, name)))
    try:
        yield
    finally:
        for part, name in changed:
            delattr(part, name)


def slow_parts(learner: nn.Module) -> set[nn.Module]:
    """All that is inside of slow copies and frozen teachers."""
    teachers = [part for name, part in learner.named_children() if isinstance(part, Target) or name == "teacher"]
    return {inner for teacher in teachers for inner in teacher.modules()}
