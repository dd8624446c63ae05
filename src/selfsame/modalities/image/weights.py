"""Weights from a file of tensors: of another library, size, channel count, or under another start of their names.

Raises UserError on files that are no tensors and on tensors that are not the network's.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer as TimmViT
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from selfsame.storage.weights import fitting, tensors

STANDARDISED = ".parametrizations.weight.original"
HEADS = re.compile(r"(fc|head|heads|head_dist|classifier)\.")  # classifiers, which an encoder does without


def load_weights(trunk: nn.Module, file: Path, channels: int) -> dict[str, Any]:
    """Fill `trunk` from a file of tensors; returns what was taken. UserError unless 95 % of its tensors were found."""
    stored = tensors(file)
    # Standardised weights (`nn.norm`) are known by the names they had before; their network has no running statistics.
    given = {name.replace(STANDARDISED, ".weight"): value for name, value in stored.items()}
    own = {name: tensor for name, tensor in trunk.state_dict().items() if not name.endswith("num_batches_tracked")}
    if given.keys() != stored.keys():
        own = {name: tensor for name, tensor in own.items() if not name.endswith(("running_mean", "running_var"))}
    starts = Counter(
        key[: len(key) - len(rest)] for key in given for rest in _tails(key) if rest in own
    )  # "module.encoder_q." and the like: the start under which most names fit
    prefix = starts.most_common(1)[0][0] if starts else ""
    found = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    before = {name: tuple(value.shape) for name, value in found.items()}
    if isinstance(trunk, TimmViT):
        found = checkpoint_filter_fn(found, trunk)  # other patch and image sizes, other libraries' names
    first = next((f"{part}.weight" for part, layer in trunk.named_modules() if isinstance(layer, nn.Conv2d)), "")
    if first in found and found[first].ndim == 4 and found[first].shape[1] != channels == own[first].shape[1]:
        found[first] = _other_channels(found[first], channels)
    unexpected = sorted(
        name
        for name in given
        if name.removeprefix(prefix) not in own
        and not HEADS.match(name.removeprefix(prefix))
        and not name.endswith("num_batches_tracked")
    )
    fits = fitting(found, own, file, unexpected)
    counters = {name: value for name, value in found.items() if name.endswith("num_batches_tracked")}
    trunk.load_state_dict({**fits, **counters}, strict=False)
    return {
        "file": str(file),
        "prefix": prefix,
        "loaded": len(fits),
        "of": len(own),
        "missing": sorted(own.keys() - fits.keys()),
        "unexpected": unexpected,
        "adapted": sorted(name for name, value in fits.items() if name in before and before[name] != value.shape),
    }


def _tails(key: str) -> Iterator[str]:
    """The key, and what is left of it after its first dot, second dot, ..."""
    while True:
        yield key
        _, dot, key = key.partition(".")
        if not dot:
            return


def _other_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution for another number of channels: summed to one, else repeated and scaled, as timm does."""
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    had = weight.shape[1]
    return weight.repeat(1, -(-channels // had), 1, 1)[:, :channels] * (had / channels)
