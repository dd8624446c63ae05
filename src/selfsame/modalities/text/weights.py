"""Weights from a file of tensors, of the same words.

Raises UserError on files that are no tensors, on tensors that are not the network's, and on another tokenizer.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from torch import nn

from selfsame.errors import UserError
from selfsame.storage.weights import fitting, tensors


def load_weights(encoder: nn.Module, tokenizer: str, file: Path) -> dict[str, Any]:
    """Take weights from a file of tensors whose names end as the encoder's do; and what was taken.

    Beside another run's encoder lies its encoder.json: its tokenizer must be the same. Raises UserError where under
    95 % of the tensors are found in the right shape.
    """
    beside = file.with_name("encoder.json")
    if file.name == "encoder.safetensors" and beside.is_file():
        try:
            then = json.loads(beside.read_text(encoding="utf-8"))["stats"]["tokenizer"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{beside} is damaged, or of no text encoder.") from None
        if then != tokenizer:
            raise UserError(
                f"{file} was trained with another tokenizer, so its words have other numbers. Give that one too: "
                f"--reading.tokenizer {file.parent}"
            )
    given, own = tensors(file), encoder.state_dict()
    starts: Counter[tuple[str, str]] = Counter()  # what to take away in front of a given name, and to put there
    for key in given:
        for name in own:
            if key.endswith(name):
                starts[key[: len(key) - len(name)], ""] += 1
            elif name.endswith(key):
                starts["", name[: len(name) - len(key)]] += 1
    (away, put), _ = starts.most_common(1)[0] if starts else (("", ""), 0)
    renamed = {put + key.removeprefix(away): value for key, value in given.items() if key.startswith(away)}
    fits = fitting(renamed, own, file)
    encoder.load_state_dict(fits, strict=False)
    return {"file": str(file), "loaded": len(fits), "of": len(own), "missing": sorted(own.keys() - fits.keys())}
