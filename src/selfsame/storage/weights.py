"""Weights at rest: tensors by name from a file of any library, and as many of them as a network needs.

Raises: UserError on files that are no tensors, and on tensors that are not the network's.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from selfsame.errors import UserError

ENOUGH = 0.95  # share of a network's tensors that a file must hold


def tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a local file by name: .safetensors, or .pt/.pth of tensors alone, of which no code is run.

    Of a checkpoint the state of the model is taken. Raises UserError where there are none.
    """
    if not file.is_file():
        raise UserError(f"no weights at {file}. Give a local file: .safetensors, .pt or .pth. Nothing is downloaded.")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        held = torch.load(file, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        RuntimeError,
        ValueError,
        OSError,
        EOFError,
        KeyError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"{file} cannot be read as tensors: {reason}. Give .safetensors, or .pt/.pth of tensors only."
        ) from None
    for name in ("state_dict", "model", "model_state_dict", "teacher", "student", "encoder"):
        if isinstance(held, dict) and isinstance(held.get(name), dict):
            held = held[name]
            break
    found = {key: value for key, value in held.items() if isinstance(value, Tensor)} if isinstance(held, dict) else {}
    if not found:
        raise UserError(f"{file} holds no tensors by name. Give the state_dict of a network.")
    return found


def fitting(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path, unused: list[str] | None = None
) -> dict[str, Tensor]:
    """Those of the given tensors that a network has in the same shape. UserError where they are under 95 % of its own.

    `unused` are names of the file to speak of in that error.
    """
    fits = {name: value for name, value in given.items() if name in own and value.shape == own[name].shape}
    if len(fits) < ENOUGH * len(own):
        more = "" if unused is None else f" Not used: {some(unused)}."
        raise UserError(
            f"{file}: only {len(fits)} of the {len(own)} tensors of the encoder are in it with the right shape. "
            f"Missing or of another shape: {some(sorted(own.keys() - fits.keys()))}.{more} "
            "Name the encoder that the weights are of."
        )
    return fits


def some(names: list[str]) -> str:
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"
