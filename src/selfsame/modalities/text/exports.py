"""Text encoders as ONNX and torch.export files and as folders of `transformers`, with their tokenizer.

Raises: UserError where the outputs differ, or a package is missing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsame.modalities.text import for_transformers
from selfsame.modalities.text.encoder import TextEncoder
from selfsame.modalities.text.networks import Convolutions
from selfsame.storage.exports import Exporter, Writer
from selfsame.storage.wanted import Axis, Fed

__all__ = ["export"]


def export(encoder: TextEncoder, to: str, out: str | Path, **options: Any) -> dict[str, Any]:
    """Write the encoder to `out`, with its facts and its tokenizer beside it: see Exporter.export.

    onnx (.onnx) and torch (.pt2) hold the whole encoder, for any number of texts of `size` tokens; the tokenizer of a
    file x lies in x.tokenizer.json. transformers is a folder that AutoModel and AutoTokenizer load. `tokens_of` among
    the facts is the Python that makes tokens of texts.
    """
    writers: dict[str, Writer] = {
        "transformers": lambda one, to, folder, wanted: for_transformers.write(one, fed(one), folder, wanted)
    }
    facts = Exporter(fed, described, writers).export(encoder, to, out, **options)
    if to == "transformers":
        return facts
    words = Path(facts["files"][0]).with_suffix(".tokenizer.json")
    words.write_text(encoder.spec["stats"]["tokenizer"], encoding="utf-8")
    size = encoder.spec["size"]
    facts["tokens_of"] = (
        "import torch\n"
        "from tokenizers import Tokenizer\n\n"
        f"tokenizer = Tokenizer.from_file({str(words)!r})\n"
        f"tokenizer.enable_truncation({size})\n"
        f"tokenizer.enable_padding(length={size}, pad_id=0)\n"
        'texts = ["a text of yours", "another one"]\n'
        "tokens = torch.tensor([one.ids for one in tokenizer.encode_batch(texts)], dtype=torch.int32)\n"
    )
    return {**facts, "files": [*facts["files"], str(words)]}


def fed(encoder: TextEncoder) -> Fed:
    size, vocabulary = encoder.spec["size"], encoder.vocabulary

    def example(rows: int) -> Tensor:
        """Random tokens, rows of all lengths."""
        ids = torch.randint(1, vocabulary, (rows, size), dtype=torch.int32)
        return ids * (torch.arange(size) < torch.randint(1, size + 1, (rows, 1)))

    def sized(lengths: Sequence[int]) -> Tensor:
        """One text that fills so many places."""
        return torch.randint(1, vocabulary, (1, *lengths), dtype=torch.int32)

    made = f"torch.randint(1, {vocabulary}, (2, {size}), dtype=torch.int32)  # your texts as numbers of the tokenizer"
    told = f"int32 [b, {size}]: numbers of the tokenizer, filled up with 0"
    # Each stage of the convolutions halves the places, and torch.export follows that of whole halves alone.
    halves = 2 ** (len(encoder.trunk.widths) - 1) if isinstance(encoder.trunk, Convolutions) else 1
    axes = {1: Axis("places", halves, encoder.spec["longest"] or None)}
    return Fed("tokens", made, example, told, axes, sized)


def described(encoder: TextEncoder) -> dict[str, Any]:
    return {"input_size": [encoder.spec["size"]], "vocabulary": encoder.vocabulary}
