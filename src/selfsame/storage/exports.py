"""An encoder as a file or a folder of another kind: ONNX and torch.export, for any modality; a modality may add more.

What is written is loaded again by the library it is for and compared with the encoder before it takes its place; where
that library is not installed, the result says that nothing was compared.
Raises: UserError where the target cannot hold the encoder or its outputs differ, or a package is missing.
"""

import contextlib
import copy
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selfsame.errors import UserError, unknown
from selfsame.storage.programs import Program, Whole, to_onnx, to_torch
from selfsame.storage.wanted import Fed, Wanted
from selfsame.types import Encoder

SUFFIX = {  # none: a folder
    "timm": ".safetensors",
    "torchvision": ".safetensors",
    "transformers": "",
    "ultralytics": "",
    "mmdetection": "",
    "onnx": ".onnx",
    "torch": ".pt2",
}
TOLERANCE = {to: 1e-4 if to in ("onnx", "torch", "ultralytics") else 1e-5 for to in SUFFIX}
OF_MAPS = 1e-5  # the largest difference of maps that is allowed, and of the vector beside them
COSINE = 0.999  # the least between vectors in half precision and in full
WHOLE = ("onnx", "torch")  # targets that hold the whole encoder, and so take all options
FACTS = "selfsame.json"  # beside what is in a folder

Writer = Callable[[Any, str, Path, Wanted], dict[str, Any]]
"""writes an encoder for a target to a file or into a folder: facts, at least `snippet`, `difference` and, where that is
None, `compared` (why), as `tried` gives them"""


@dataclass(frozen=True)
class Exporter:
    """Writes the encoders of one modality."""

    fed: Callable[[Any], Fed]
    """of an encoder"""
    facts: Callable[[Any], dict[str, Any]]
    """what is written beside the file about an encoder"""
    writers: dict[str, Writer] = field(default_factory=dict)
    """targets beside onnx and torch"""
    prepared: Callable[[Any, Wanted], tuple[nn.Module, Fed]] | None = None
    """of an encoder: what makes views of stored values inside a file, and what that is fed with"""

    def export(self, encoder: Any, to: str, out: str | Path, **options: Any) -> dict[str, Any]:
        """Write the encoder to `out`, with its facts beside it: x.json of a file x, selfsame.json in a folder.

        onnx (.onnx) and torch (.pt2) hold the whole encoder, normalisation included, for any batch size. `options` are
        those of `Wanted`; they alone take all of them. The facts are returned: files, input, what `facts` gives,
        `snippet` (the Python that loads what was written, which was run) and `difference`, the largest absolute
        difference of outputs in units of the largest output: at most 1e-5, of onnx, torch and ultralytics 1e-4, with
        maps 1e-5. With a head `behind` the encoder, the file gives its outputs, and holds what they are as JSON. In
        half precision the difference is told, and vectors have a cosine of 0.999 or more (`cosine`).
        `difference` is None where the library is not installed; `compared` then says so in words.
        """
        wanted = Wanted(**options)
        writers: dict[str, Writer] = {**self.writers, "onnx": self._program, "torch": self._program}
        if to not in writers:
            advice = f"{to} does not hold this kind of encoder." if to in SUFFIX else ""
            raise unknown("export", to, writers, advice)
        self._check(encoder, to, wanted)
        out = placed(Path(out), to)
        out.parent.mkdir(parents=True, exist_ok=True)
        encoder = copy.deepcopy(encoder).cpu().float().eval()
        new = out.with_name(f".{out.stem}.{os.getpid()}.new{out.suffix}")
        try:
            if not SUFFIX[to]:
                new.mkdir()
            with _quiet(), torch.random.fork_rng(devices=[]):  # rebuilding networks draws weights
                facts = writers[to](encoder, to, new, wanted)
            self._judge(facts, to, wanted)
            facts = {
                key: value.replace(str(new), str(out)) if isinstance(value, str) else value
                for key, value in facts.items()
            }
            described = {"to": to, "name": encoder.spec["name"], **facts, **self.facts(encoder), "dim": encoder.dim}
            if wanted.behind is not None:
                described |= self._told(encoder, wanted)
            if str(wanted):
                described["options"] = str(wanted)
            told = json.dumps(described, indent=2) + "\n"
            if not SUFFIX[to]:
                (new / FACTS).write_text(told, encoding="utf-8")
            if out.is_dir():
                shutil.rmtree(out)  # an earlier export
            new.replace(out)
        finally:
            tidy(new)
        if not SUFFIX[to]:
            return {**described, "files": sorted(str(file) for file in out.iterdir())}
        beside = out.with_suffix(".json")
        beside.write_text(told, encoding="utf-8")
        return {**described, "files": [str(out), str(beside)]}

    def _check(self, encoder: Encoder, to: str, wanted: Wanted) -> None:
        """Refuse options that this target, modality or encoder cannot have."""
        name = encoder.spec["name"]
        if wanted.behind is not None:
            if to not in WHOLE:
                raise UserError(f"--to {to} holds no head: a whole task is written to {' and '.join(WHOLE)}.")
            if wanted.maps:
                raise UserError("--maps are of the encoder alone: give --encoder-only too.")
            if wanted.any_size:
                raise UserError(
                    "--any-size: a head is made for views of one size. --preprocessing takes pictures of any size; "
                    "--encoder-only gives the encoder."
                )
        if to not in WHOLE:
            given = str(
                Wanted(wanted.maps, wanted.preprocessing, wanted.any_size, wanted.half and to != "transformers")
            )
            if given:
                more = "; transformers takes half too" if wanted.half else ""
                raise UserError(
                    f"--to {to} has no options, and {given} was asked for. They are for onnx and torch{more}."
                )
        if wanted.preprocessing and self.prepared is None:
            raise UserError(
                "--preprocessing is for images, which may have any size. This encoder takes its input as the file's "
                "facts say; leave it out."
            )
        if wanted.preprocessing and wanted.any_size:
            raise UserError("--preprocessing takes images of any size already. Leave --any-size out.")
        if wanted.maps and not encoder.has_maps:
            raise UserError(f"--maps: {name} has no maps. Leave it out: the vector is exported.")
        if wanted.any_size and self.fed(encoder).sized is None:
            raise UserError(f"--any-size: {name} takes views of one size alone. Leave it out.")

    def _judge(self, facts: dict[str, Any], to: str, wanted: Wanted) -> None:
        """Raise UserError where outputs differ too much."""
        if facts["difference"] is None:
            return
        if wanted.half:
            if not facts["cosine"] >= COSINE:
                raise UserError(
                    f"the encoder and its export to {to} in half precision agree to a cosine of {facts['cosine']:.6f}; "
                    f"at least {COSINE} is needed. Leave --half out. Nothing was written."
                )
            return
        most = OF_MAPS if wanted.maps else TOLERANCE[to]
        if not facts["difference"] <= most:
            raise UserError(
                f"the encoder and its export to {to} differ by {facts['difference']:.2g} of the largest output; "
                f"at most {most:g} is allowed. Nothing was written."
            )

    def _program(self, encoder: Encoder, to: str, file: Path, wanted: Wanted) -> dict[str, Any]:
        """Write what ONNX and torch.export hold: all that is wanted."""
        prepare, fed = self._prepared(encoder, wanted)
        reference = Whole(encoder, prepare, wanted)
        held = reference
        if wanted.half:
            held = Whole(copy.deepcopy(encoder).half(), prepare, wanted)
            held.behind = copy.deepcopy(reference.behind).half() if reference.behind is not None else None
        told = None if wanted.behind is None else self._told(encoder, wanted)
        write = {"onnx": to_onnx, "torch": to_torch}[to]
        return write(Program(encoder, encoder if wanted.plain else held, reference, fed, told), file, wanted)

    def _prepared(self, encoder: Encoder, wanted: Wanted) -> tuple[nn.Module | None, Fed]:
        """What makes views inside the file, if anything does, and what the file is fed with."""
        if not wanted.preprocessing:
            return None, self.fed(encoder)
        assert self.prepared is not None
        return self.prepared(encoder, wanted)

    def _told(self, encoder: Encoder, wanted: Wanted) -> dict[str, Any]:
        """What a file of a whole task says of itself: facts of the task and the encoder, its input and outputs."""
        assert wanted.behind is not None
        fed = self._prepared(encoder, wanted)[1]
        return {**self.facts(encoder), **wanted.behind.facts, "input": fed.told, "outputs": wanted.behind.outputs}


def placed(out: Path, to: str) -> Path:
    """Where the export goes, its suffix put behind. Raises UserError where something else is in the way."""
    suffix = SUFFIX[to]
    if not suffix:
        if not out.name:
            raise UserError(f"--to {to} writes a folder of its own. Name it, as in {out / to}.")
        if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or _ours(out / FACTS))):
            raise UserError(
                f"{out} is there already and is no earlier export. --to {to} writes a folder: name another."
            )
        return out
    if not out.suffix:
        out = out.with_suffix(suffix)
    if out.suffix != suffix:
        raise UserError(f"export to {to} writes {suffix} files, and {out.name} is none. Name it {out.stem}{suffix}.")
    beside = out.with_suffix(".json")
    if beside.is_file() and not _ours(beside):
        raise UserError(f"{beside} is there already and is no earlier export, so {out.name} needs another name.")
    return out


def tidy(path: Path) -> None:
    """Remove a draft."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _ours(file: Path) -> bool:
    """Whether a .json was written by an earlier export, so that it may be written again."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and {"to", "snippet", "difference"} <= held.keys()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither prints, warnings nor logs below errors: exporters chat."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        chat = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(chat), contextlib.redirect_stderr(chat):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
