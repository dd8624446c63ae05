"""Encoders at rest: encoder.safetensors, and encoder.json with all that is needed to build one again."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from selfsame.errors import UserError
from selfsame.types import Encoder

FORMAT = 1  # of encoder.json

E = TypeVar("E", bound=Encoder)


def save(encoder: Encoder, folder: str | Path) -> None:
    """Write encoder.safetensors and encoder.json. A crash leaves the old files or the new ones, whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, text = folder / "encoder.safetensors.tmp", folder / "encoder.json.tmp"
    save_model(encoder, str(tensors))
    text.write_text(json.dumps({"format": FORMAT, **encoder.spec}, indent=2) + "\n", encoding="utf-8")
    tensors.chmod(text.stat().st_mode & 0o777)  # safetensors would keep it from other users
    for path in (tensors, text):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    for path in (tensors, text):
        path.replace(path.with_suffix(""))


def load(folder: str | Path, build: Callable[[dict[str, Any]], E]) -> E:
    """Read what `save` wrote, in eval mode on the CPU, with outputs that are equal to the bit.

    `build` makes the encoder that a spec describes. Raises UserError where a file is missing, damaged, or of another
    network.
    """
    folder = Path(folder)
    text, tensors = folder / "encoder.json", folder / "encoder.safetensors"
    for path in (text, tensors):
        if not path.is_file():
            raise UserError(f"{folder} holds no encoder: {path.name} is missing. Give the folder of a run.")
    try:
        spec = json.loads(text.read_text(encoding="utf-8"))
        version = spec.pop("format")
        if not isinstance(version, int):
            raise TypeError("its format is no number")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{text} is damaged ({error}). Save the encoder again.") from None
    if version > FORMAT:
        raise UserError(f"{text} has format {version}; this selfsame reads up to {FORMAT}. Install a newer selfsame.")
    with torch.random.fork_rng(devices=[]):  # the first weights are overwritten
        try:
            encoder = build(spec)
        except UserError as error:
            raise UserError(f"{text}: {error}") from None
    try:
        load_model(encoder, str(tensors))
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{tensors} is damaged or of another network: {reason}") from None
    return encoder.eval()


def fingerprint(encoder: Encoder) -> str:
    """32 hexadecimal digits of SHA-256 over the spec and all weights: equal for encoders that give equal vectors.

    The same before `save` and after `load`, and on every device.
    """
    digest = hashlib.sha256(json.dumps(encoder.spec, sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        kept = tensor.detach().cpu().contiguous()
        digest.update(f"\n{name} {kept.dtype} {tuple(kept.shape)}\n".encode())
        digest.update(kept.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
