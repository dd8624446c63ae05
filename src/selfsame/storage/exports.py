"""An encoder as a file of another kind: ONNX and torch.export, for any modality; a modality may add its libraries'.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsame.errors import UserError, missing, unknown
from selfsame.types import Encoder

SUFFIX = {"timm": ".safetensors", "torchvision": ".safetensors", "onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = {"timm": 1e-5, "torchvision": 1e-5, "onnx": 1e-4, "torch": 1e-4}


@dataclass(frozen=True)
class Fed:
    """What an exported encoder is fed with."""

    name: str
    """of the variable in the snippet and of the input of an ONNX file: pixels, waves, ..."""
    made: str
    """Python that makes an example of two, as in: torch.rand(2, 3, 32, 32)  # your images: float32 in [0, 1]"""
    example: Callable[[int], Tensor]
    """an example of as many items"""
    told: str
    """in words: shape, type and range"""


Writer = Callable[[Any, str, Path], dict[str, Any]]
"""writes an encoder for a target to a file: facts, at least `snippet` and `difference`, as `tried` gives them"""


@dataclass(frozen=True)
class Exporter:
    """Writes the encoders of one modality."""

    fed: Callable[[Any], Fed]
    """of an encoder"""
    facts: Callable[[Any], dict[str, Any]]
    """what is written beside the file about an encoder"""
    writers: dict[str, Writer] = field(default_factory=dict)
    """targets beside onnx and torch"""

    def export(self, encoder: Any, to: str, out: str | Path) -> dict[str, Any]:
        """Write the encoder to the file `out`, with its facts in a .json of the same name beside it.

        onnx (.onnx) and torch (.pt2) hold the whole encoder, normalisation included, for any batch size. The facts are
        returned: files, input, what `facts` gives, `snippet` (the Python that loads the file, which was run) and
        `difference`, the largest absolute difference of outputs in units of the largest output, at most 1e-4.
        """
        writers: dict[str, Writer] = {**self.writers, "onnx": self._onnx, "torch": self._torch}
        if to not in writers:
            advice = "" if "timm" in writers else f"{', '.join(sorted(SUFFIX.keys() - writers))} take images alone."
            raise unknown("export", to, writers, advice)
        out = Path(out)
        if not out.suffix:
            out = out.with_suffix(SUFFIX[to])
        if out.suffix != SUFFIX[to]:
            raise UserError(
                f"export to {to} writes {SUFFIX[to]} files, and {out.name} is none. Name it {out.stem}{SUFFIX[to]}."
            )
        beside = out.with_suffix(".json")
        if beside.is_file() and not _ours(beside):
            raise UserError(f"{beside} is there already and is no earlier export, so {out.name} needs another name.")
        out.parent.mkdir(parents=True, exist_ok=True)
        encoder = copy.deepcopy(encoder).cpu().float().eval()
        new = out.with_name(f"{out.stem}.new{out.suffix}")
        try:
            with _quiet(), torch.random.fork_rng(devices=[]):  # rebuilding networks draws weights
                facts = writers[to](encoder, to, new)
            if not facts["difference"] <= TOLERANCE[to]:
                raise UserError(
                    f"the encoder and its export to {to} differ by {facts['difference']:.2g} of the largest output; "
                    f"at most {TOLERANCE[to]:g} is allowed. Nothing was written."
                )
            new.replace(out)
        finally:
            new.unlink(missing_ok=True)
        facts["snippet"] = facts["snippet"].replace(repr(str(new)), repr(str(out)))
        described = {"to": to, "name": encoder.spec["name"], **facts, **self.facts(encoder), "dim": encoder.dim}
        beside.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        return {**described, "files": [str(out), str(beside)]}

    def _onnx(self, encoder: Encoder, to: str, file: Path) -> dict[str, Any]:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise missing("onnx", package, "export to onnx")
        fed = self.fed(encoder)
        torch.onnx.export(
            encoder,
            (fed.example(2),),
            str(file),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[fed.name],
            output_names=["vectors"],
            external_data=False,
            verbose=False,
        )
        load = (
            "import onnxruntime\nimport torch\n\n"
            f"session = onnxruntime.InferenceSession({str(file)!r}, providers=['CPUExecutionProvider'])\n"
        )
        use = f"vectors = session.run(None, {{'{fed.name}': {fed.name}.numpy()}})[0]\n"
        return {"input": fed.told, **tried(encoder, fed, load, use)}

    def _torch(self, encoder: Encoder, to: str, file: Path) -> dict[str, Any]:
        fed = self.fed(encoder)
        program = torch.export.export(
            encoder, (fed.example(2),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
        )
        torch.export.save(program, file)
        load = f"import torch\n\nmodel = torch.export.load({str(file)!r}).module()\n"
        use = f"with torch.inference_mode():\n    vectors = model({fed.name})\n"
        return {"input": fed.told, **tried(encoder, fed, load, use)}


def tried(encoder: Encoder, fed: Fed, load: str, use: str) -> dict[str, Any]:
    """The snippet, and how far what it gives is from the encoder, on batches of 2 (its own) and of 1 and 3."""
    snippet = load + f"{fed.name} = {fed.made}\n" + use
    names: dict[str, Any] = {}
    difference = 0.0
    with torch.no_grad():
        exec(snippet, names)
        for batch in (None, 1, 3):
            if batch is not None:
                names[fed.name] = fed.example(batch)
                exec(use, names)
            vectors = torch.as_tensor(names["vectors"])
            expected = encoder(names[fed.name])
            if vectors.shape != expected.shape:
                raise UserError(f"the exported file gives {list(vectors.shape)}, the encoder {list(expected.shape)}.")
            difference = max(
                difference, float((vectors - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
            )
    return {"snippet": snippet, "difference": difference}


def _ours(file: Path) -> bool:
    """Whether a .json was written by an earlier export, so that it may be written again."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(held, dict) and {"to", "snippet", "difference"} <= held.keys()


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
