"""Table encoders in files of other libraries: ONNX and torch.export, with scaling and embedding inside.

Every file is loaded again and compared with the encoder before it takes its place.
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
from typing import Any, Literal

import torch
from torch import Tensor

from selfsame.errors import UserError, missing, unknown
from selfsame.modalities.table.encoder import TableEncoder
from selfsame.modalities.table.stats import Stats

__all__ = ["export"]

SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4

Target = Literal["onnx", "torch"]


def export(encoder: TableEncoder, to: Target, out: str | Path) -> dict[str, Any]:
    """Write the encoder to the file `out`, for any batch size, with its facts in a .json of the same name beside it.

    Rows go in as the encoder takes them: float32, numbers as they are, categories as codes, NaN where missing. The
    facts are returned: files, input, the columns with their kinds and the values that codes stand for, `snippet` (the
    Python that loads the file, which was run) and `difference`, the largest of outputs in units of the largest output.
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
    beside = out.with_suffix(".json")
    if beside.is_file() and not ours(beside):
        raise UserError(f"{beside} is there already and is no earlier export, so {out.name} needs another name.")
    out.parent.mkdir(parents=True, exist_ok=True)
    encoder = copy.deepcopy(encoder).cpu().float().eval()
    new = out.with_name(f"{out.stem}.new{out.suffix}")
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            facts = (onnx if to == "onnx" else program)(encoder, new)
        if not facts["difference"] <= TOLERANCE:
            raise UserError(
                f"the encoder and its export to {to} differ by {facts['difference']:.2g} of the largest output; at most "
                f"{TOLERANCE:g} is allowed. Nothing was written."
            )
        new.replace(out)
    finally:
        new.unlink(missing_ok=True)
    facts["snippet"] = facts["snippet"].replace(repr(str(new)), repr(str(out)))
    stats = encoder.stats
    shape = ["b", encoder.spec["size"], stats.width] if stats.by else ["b", stats.width]
    described = {
        "to": to,
        "name": encoder.spec["name"],
        **facts,
        "input": f"float32 [{', '.join(map(str, shape))}]: numbers as they are in the table, dates as days since 1970, "
        "categories as codes, NaN where a value is missing",
        "columns": [
            {"name": column.name, "kind": column.kind, "at": start, "values": list(column.values)}
            for column, start in zip(stats.columns, stats.starts, strict=True)
        ],
        "dim": encoder.dim,
    }
    beside.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return {**described, "files": [str(out), str(beside)]}


def ours(file: Path) -> bool:
    """Whether a .json was written by an earlier export, so that it may be written again."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(held, dict) and {"to", "snippet", "difference"} <= held.keys()


def onnx(encoder: TableEncoder, file: Path) -> dict[str, Any]:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise missing("onnx", package, "export to onnx")
    torch.onnx.export(
        encoder,
        (example(encoder.stats, encoder.spec["size"], 2),),
        str(file),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["rows"],
        output_names=["vectors"],
        external_data=False,
        verbose=False,
    )
    load = (
        "import onnxruntime\nimport torch\n\n"
        f"session = onnxruntime.InferenceSession({str(file)!r}, providers=['CPUExecutionProvider'])\n"
    )
    return compared(encoder, load, "vectors = session.run(None, {'rows': rows.numpy()})[0]\n")


def program(encoder: TableEncoder, file: Path) -> dict[str, Any]:
    made = torch.export.export(
        encoder,
        (example(encoder.stats, encoder.spec["size"], 2),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        strict=False,
    )
    torch.export.save(made, file)
    load = f"import torch\n\nmodel = torch.export.load({str(file)!r}).module()\n"
    return compared(encoder, load, "with torch.inference_mode():\n    vectors = model(rows)\n")


def example(stats: Stats, size: int, batch: int) -> Tensor:
    """Rows of values that the columns have, some of them missing."""
    from selfsame.modalities.table.scaling import marginals

    shape = (batch, size) if stats.by else (batch,)
    rows = marginals(stats, torch.device("cpu")).drawn(torch.rand(*shape, len(stats.columns)))
    return torch.where(torch.rand(*shape, 1) < 0.1, float("nan"), rows)


def compared(encoder: TableEncoder, load: str, use: str) -> dict[str, Any]:
    """The snippet, and how far what it gives is from the encoder, on batches of 2 (its own) and of 1 and 3."""
    rows = example(encoder.stats, encoder.spec["size"], 2)
    snippet = load + f"rows = torch.full({tuple(rows.shape)}, float('nan'))  # your rows; here all is missing\n" + use
    names: dict[str, Any] = {}
    difference = 0.0
    with torch.no_grad():
        exec(snippet, names)
        for batch in (None, 2, 1, 3):
            if batch is not None:
                names["rows"] = example(encoder.stats, encoder.spec["size"], batch)
                exec(use, names)
            vectors, expected = torch.as_tensor(names["vectors"]), encoder(names["rows"])
            if vectors.shape != expected.shape:
                raise UserError(f"the exported file gives {list(vectors.shape)}, the encoder {list(expected.shape)}.")
            scale = expected.abs().max().clamp_min(1e-12)
            difference = max(difference, float((vectors - expected).abs().max() / scale))
    return {"snippet": snippet, "difference": difference}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither prints, warnings nor logs below errors: exporters chat."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
