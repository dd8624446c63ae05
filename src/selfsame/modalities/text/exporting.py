"""Text encoders for other programs: ONNX, and torch's state dict with the code that uses it.

Every file is loaded again and compared with the encoder before it takes its place. The tokenizer goes with it.
Raises: UserError where the target cannot hold the encoder or its outputs differ, or a package is missing.
"""

import contextlib
import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from selfsame.errors import UserError, missing, unknown
from selfsame.modalities.text.encoder import TextEncoder

__all__ = ["export"]

SUFFIX = {"onnx": ".onnx", "torch": ".safetensors"}
TOLERANCE = {"onnx": 1e-4, "torch": 1e-5}


def export(encoder: TextEncoder, to: str, out: str | Path) -> dict[str, Any]:
    """Write the encoder to the file `out`, its tokenizer beside it (.tokenizer.json), and its facts (.json).

    onnx (.onnx) gets the whole encoder for any number of texts of `size` tokens; torch (.safetensors) its state dict.
    The facts are returned: files, input, `snippet` (the Python that loads the file, which was run) and `difference`,
    the largest absolute difference of outputs in units of the largest output.
    """
    if to not in SUFFIX:
        raise unknown("export", to, SUFFIX)
    out = Path(out)
    if not out.suffix:
        out = out.with_suffix(SUFFIX[to])
    if out.suffix != SUFFIX[to]:
        raise UserError(
            f"export to {to} writes {SUFFIX[to]} files, and {out.name} is none. Name it {out.stem}{SUFFIX[to]}."
        )
    beside, words = out.with_suffix(".json"), out.with_suffix(".tokenizer.json")
    if beside.is_file() and not _ours(beside):
        raise UserError(f"{beside} is there already and is no earlier export, so {out.name} needs another name.")
    out.parent.mkdir(parents=True, exist_ok=True)
    encoder = copy.deepcopy(encoder).cpu().float().eval()
    new = out.with_name(f"{out.stem}.new{out.suffix}")
    words.write_text(encoder.spec["stats"]["tokenizer"], encoding="utf-8")
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            facts = (_onnx if to == "onnx" else _torch)(encoder, new, words)
        if not facts["difference"] <= TOLERANCE[to]:
            raise UserError(
                f"the encoder and its export to {to} differ by {facts['difference']:.2g} of the largest output; "
                f"at most {TOLERANCE[to]:g} is allowed. Nothing was written."
            )
        new.replace(out)
    except BaseException:
        words.unlink(missing_ok=True)
        raise
    finally:
        new.unlink(missing_ok=True)
    facts["snippet"] = facts["snippet"].replace(repr(str(new)), repr(str(out)))
    size = encoder.spec["size"]
    described = {
        "to": to,
        "name": encoder.spec["name"],
        **facts,
        "input": f"int32 [b, {size}]: numbers of the tokenizer beside it, filled up with 0",
        "input_size": [size],
        "dim": encoder.dim,
    }
    beside.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return {**described, "files": [str(out), str(words), str(beside)]}


def _ours(file: Path) -> bool:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(held, dict) and {"to", "snippet", "difference"} <= held.keys()


def _tokens(encoder: TextEncoder, words: Path) -> str:
    """The Python that makes tokens of texts."""
    size = encoder.spec["size"]
    return (
        "import torch\n"
        "from tokenizers import Tokenizer\n\n"
        f"tokenizer = Tokenizer.from_file({str(words)!r})\n"
        f"tokenizer.enable_truncation({size})\n"
        f"tokenizer.enable_padding(length={size}, pad_id=0)\n"
        'texts = ["a text of yours", "another one"]\n'
        "tokens = torch.tensor([one.ids for one in tokenizer.encode_batch(texts)], dtype=torch.int32)\n"
    )


def _onnx(encoder: TextEncoder, file: Path, words: Path) -> dict[str, Any]:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise missing("onnx", package, "export to onnx")
    torch.onnx.export(
        encoder,
        (_example(encoder, 2),),
        str(file),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["tokens"],
        output_names=["vectors"],
        external_data=False,
        verbose=False,
    )
    load = (
        f"import onnxruntime\n{_tokens(encoder, words)}"
        f"session = onnxruntime.InferenceSession({str(file)!r}, providers=['CPUExecutionProvider'])\n"
    )
    return _run(encoder, load, "vectors = session.run(None, {'tokens': tokens.numpy()})[0]\n")


def _torch(encoder: TextEncoder, file: Path, words: Path) -> dict[str, Any]:
    save_file({key: value.contiguous().clone() for key, value in encoder.state_dict().items()}, file)
    spec = {key: value for key, value in encoder.spec.items() if key != "stats"}
    stats = {**encoder.spec["stats"], "tokenizer": ""}
    load = (
        "from pathlib import Path\n"
        f"{_tokens(encoder, words)}"
        "from safetensors.torch import load_file\n"
        "from selfsame.modalities import text\n\n"
        f"stats = {stats!r} | {{'tokenizer': Path({str(words)!r}).read_text()}}\n"
        f"model = text.build_encoder({spec!r} | {{'stats': stats}}).eval()\n"
        f"model.load_state_dict(load_file({str(file)!r}))\n"
    )
    return _run(encoder, load, "with torch.inference_mode():\n    vectors = model(tokens)\n")


def _example(encoder: TextEncoder, rows: int) -> Tensor:
    """Random tokens, rows of all lengths."""
    size = encoder.spec["size"]
    ids = torch.randint(1, encoder.vocabulary, (rows, size), dtype=torch.int32)
    length = torch.randint(1, size + 1, (rows, 1))
    return torch.where(torch.arange(size) < length, ids, torch.zeros_like(ids))


def _run(encoder: TextEncoder, load: str, use: str) -> dict[str, Any]:
    """The snippet, and how far what it gives is from the encoder, on its own texts and on batches of 1 and 3."""
    names: dict[str, Any] = {}
    difference = 0.0
    with torch.no_grad():
        exec(load + use, names)
        for batch in (None, 1, 3):
            if batch is not None:
                names["tokens"] = _example(encoder, batch)
                exec(use, names)
            vectors = torch.as_tensor(names["vectors"])
            expected = encoder(names["tokens"])
            if vectors.shape != expected.shape:
                raise UserError(f"the exported file gives {list(vectors.shape)}, the encoder {list(expected.shape)}.")
            gap = (vectors - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
            difference = max(difference, float(gap))
    return {"snippet": load + use, "difference": difference}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither prints, warnings nor logs below errors: exporters chat."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
