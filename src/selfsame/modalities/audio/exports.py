"""Audio encoders as ONNX and torch.export files, which take waveforms: the front end is inside.

Raises: UserError where outputs differ, or a package is missing.
"""

from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from selfsame.modalities.audio.encoder import AudioEncoder
from selfsame.storage.exports import Exporter
from selfsame.storage.wanted import Axis, Fed

__all__ = ["export"]


def export(encoder: AudioEncoder, to: str, out: str | Path, **options: Any) -> dict[str, Any]:
    """Write the encoder to the file `out`, with its facts in a .json of the same name beside it: see Exporter.export.

    The file takes waveforms of the encoder's own size. In it the Fourier transform is a product with two matrices.
    """
    return Exporter(fed, facts).export(encoder, to, out, **options)


def fed(encoder: AudioEncoder) -> Fed:
    size, rate = encoder.spec["size"], encoder.stats.rate

    def example(batch: int) -> Tensor:
        return 0.1 * torch.randn(batch, size)

    made = f"0.1 * torch.randn(2, {size})  # your recordings: float32, full scale is 1, {rate} samples a second"
    told = f"float32 [b, {size}]: waveforms at {rate} Hz, one channel, full scale is 1; the file normalises by itself"
    windowed = isinstance(encoder.trunk, VisionTransformer)  # how many windows there are is counted in Python
    sized = None if windowed else lambda lengths: 0.1 * torch.randn(1, *lengths)
    return Fed("waves", made, example, told, {1: Axis("samples")}, sized)


def facts(encoder: AudioEncoder) -> dict[str, Any]:
    return {"rate": encoder.stats.rate, "input_size": [encoder.spec["size"]], "front": encoder.spec["front"]}
