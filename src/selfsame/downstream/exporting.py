"""A whole task in one file, for programs without this package: the encoder, the head, and what makes predictions.

Raises: UserError where a head cannot be written so, where outputs differ, or a package is missing.
"""

import copy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from selfsame import modalities
from selfsame.downstream.adapting import in_float
from selfsame.downstream.pictures import PictureTask
from selfsame.downstream.task import Head, Model
from selfsame.errors import UserError
from selfsame.storage.wanted import Behind
from selfsame.types import Encoder


class Portable(nn.Module):
    """A head and what becomes of its outputs, all in tensors."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, encoder: Encoder, views: Tensor, height: int | None, width: int | None) -> tuple[Tensor, ...]:
        return self.head.portable(in_float(self.head(encoder, views)), height, width)


def export(model: Model, to: str, out: str | Path, **options: Any) -> dict[str, Any]:
    """Write a model for `onnx` or `torch`: see `storage.exports.Exporter.export`, whose facts are returned.

    Among them, and as JSON in the file: task, facts of the labels (names of classes, ...), size of a view, input and
    outputs. `options`: preprocessing and half of `storage.wanted.Wanted`.
    """
    name, head = type(model.task).name, copy.deepcopy(model.head).cpu().float().eval()
    if not head.gives:
        raise UserError(f"--task {name} cannot be exported{head.why_not}. --encoder-only exports the encoder.")
    tile = getattr(model.task, "tile", None)
    if options.get("preprocessing") and tile is not None:
        raise UserError(
            f"--preprocessing squeezes whole pictures, and this head has learned tiles of {tile} px. Leave it out: the "
            f"file then takes tiles of {model.size} x {model.size} px, and its scores can be blended."
        )
    if options.get("half") and not head.in_half:
        raise UserError(f"--half: the head of --task {name} needs full precision. Leave it out.")
    told = {"task": name, **model.facts.model_dump(mode="json"), "size": model.size, **head.told()}
    behind = Behind(
        Portable(head), head.gives, told, isinstance(model.task, PictureTask), head.operations, head.apart_of()
    )
    encoder = copy.deepcopy(model.encoder)
    encoder.spec = {**encoder.spec, "size": model.size}  # heads may be made for other views than the encoder was
    return modalities.load(str(encoder.spec["modality"])).export(encoder, to, out, behind=behind, **options)
