"""Encoders of series as ONNX and torch.export files."""

from pathlib import Path
from typing import Any

import torch

from selfsame.modalities.signal.encoder import SignalEncoder
from selfsame.storage.exports import Exporter
from selfsame.storage.wanted import Axis, Fed

__all__ = ["export"]


def fed(encoder: SignalEncoder) -> Fed:
    channels, size = encoder.spec["channels"], encoder.spec["size"]
    mean, std = encoder.mean.cpu().float(), encoder.std.cpu().float()
    means = ", ".join(f"{value:.6g}" for value in mean.flatten().tolist())
    return Fed(
        name="series",
        made=f"torch.tensor([{means}]).view(1, {channels}, 1) + torch.rand(2, {channels}, {size})"
        "  # your series: float32 as stored, NaN where missing",
        example=lambda batch: mean + std * torch.randn(batch, channels, size),
        told=f"float32 [b, {channels}, {size}] as stored, NaN where missing: the file normalises by itself",
        axes={2: Axis("steps", encoder.patch if encoder.has_tokens else 1)},
        sized=None if encoder.has_tokens else lambda lengths: mean + std * torch.randn(1, channels, *lengths),
    )


def facts(encoder: SignalEncoder) -> dict[str, Any]:
    stats = encoder.spec["stats"]
    return {
        "mean": list(stats["mean"]),
        "std": list(stats["std"]),
        "channels": list(stats["names"]) or encoder.spec["channels"],
        "rate": stats["rate"],
        "input_size": [encoder.spec["channels"], encoder.spec["size"]],
    }


def export(encoder: SignalEncoder, to: str, out: str | Path, **options: Any) -> dict[str, Any]:
    """Write the encoder, normalisation included, for onnx (.onnx) or torch (.pt2). See `storage.exports`."""
    return Exporter(fed, facts).export(encoder, to, out, **options)
