"""Stand-in until nn/stored.py is there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from selfsame.errors import UserError


def save(encoder: Any, folder: str | Path) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(encoder, str(folder / "encoder.safetensors"))
    (folder / "encoder.json").write_text(json.dumps({"format": 1, **encoder.spec}))


def load(folder: str | Path, build: Callable[[dict[str, Any]], Any]) -> Any:
    folder = Path(folder)
    if not (folder / "encoder.json").is_file():
        raise UserError(f"{folder} holds no encoder")
    spec = json.loads((folder / "encoder.json").read_text())
    spec.pop("format")
    with torch.random.fork_rng(devices=[]):
        encoder = build(spec)
    load_model(encoder, str(folder / "encoder.safetensors"))
    return encoder.eval()
