"""An encoder as a file or a folder of another kind: ONNX and torch.export, for any modality; a modality may add more.

What is written is loaded again by the library it is for and compared with the encoder before it takes its place; where
that library is not installed, the result says that nothing was compared.
Raises: UserError where the target cannot hold the encoder or its outputs differ, or a package is missing.
"""

import contextlib
import copy
import importlib.util
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from selfsame.errors import UserError, missing, unknown
from selfsame.types import Encoder

METADATA = "selfsame"  # the key, in a file of a whole task, of the JSON that says what it gives
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
SMALLER = 2  # how many times shorter than the usual the axes of a view of any size may be
WHOLE = ("onnx", "torch")  # targets that hold the whole encoder, and so take all options
FACTS = "selfsame.json"  # beside what is in a folder


@dataclass(frozen=True)
class Behind:
    """What stands behind the encoder in a file that does a whole task: then it gives predictions, and no vector."""

    module: nn.Module
    """(encoder, views, height, width) -> a tensor for each of `outputs`, of any batch; height and width of what the
    file is fed with, None where that is no picture"""
    outputs: dict[str, str]
    """name of each output and what it is, in words"""
    facts: dict[str, Any]
    """of the task: what its numbers stand for. Goes into the file too"""
    whole: bool = False
    """whether a picture is squeezed to the view as a whole, in place of its middle square"""
    needs: tuple[str, ...] = ()
    """packages whose operations are in the file, which torch must find when it loads it"""
    apart: Callable[[Sequence[Tensor], Sequence[Tensor]], float] | None = None
    """how far outputs are from what is expected, in place of `apart` of each"""


@dataclass(frozen=True)
class Wanted:
    """What an export is to have beyond the vector of a view of one size in full precision."""

    maps: bool = False
    """the dense features too"""
    preprocessing: str | None = None
    """the way from stored pixels of any size inside, which lie as "hwc" or "chw" """
    any_size: bool = False
    """views of other sizes too, from half of the usual on"""
    half: bool = False
    """weights, and what is done with them, in 16 bits"""
    behind: Behind | None = None
    """a head"""

    def __str__(self) -> str:
        return ", ".join(name.replace("_", "-") for name, value in vars(self).items() if value and name != "behind")

    @property
    def plain(self) -> bool:
        """Whether the file is to hold the encoder as it is."""
        return not str(self) and self.behind is None


@dataclass(frozen=True)
class Axis:
    """Of an input, along which a map has places too."""

    name: str
    multiple: int = 1
    """what its length has to be a multiple of"""
    most: int | None = None
    """its greatest length"""


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
    axes: dict[int, Axis] = field(default_factory=dict)
    """by their number"""
    sized: Callable[[Sequence[int]], Tensor] | None = None
    """an example of one item with these lengths of the axes, where others than the usual are taken"""


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
        writers: dict[str, Writer] = {**self.writers, "onnx": self._onnx, "torch": self._torch}
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

    # ONNX and torch.export -------------------------------------------------------------------------------------------

    def _onnx(self, encoder: Encoder, to: str, file: Path, wanted: Wanted) -> dict[str, Any]:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise missing("onnx", package, "export to onnx")
        whole, fed, reference = self._whole(encoder, wanted)
        names = [f"map_{k}" for k, _ in enumerate(encoder.map_widths, 1)] if wanted.maps else []
        told = None if wanted.behind is None else json.dumps(self._told(encoder, wanted))
        load = (
            f"{'import json' + chr(10) * 2 if told else ''}import onnxruntime\nimport torch\n\n"
            f"session = onnxruntime.InferenceSession({str(file)!r}, providers=['CPUExecutionProvider'])\n"
        )
        load += f"facts = json.loads(session.get_modelmeta().custom_metadata_map[{METADATA!r}])\n" if told else ""
        run = f"session.run(None, {{'{fed.name}': {fed.name}.numpy()}})"
        into = named_outputs(wanted)
        use = f"{into} = {run}\n" if "," in into else f"{into} = {run}[0]\n"
        with understood(to, encoder, wanted):
            program = torch.onnx.export(
                whole,
                (fed.example(2),),
                dynamo=True,
                dynamic_shapes=(varying(fed, wanted, named=True),),
                input_names=[fed.name],
                output_names=["vectors", *names] if wanted.behind is None else list(wanted.behind.outputs),
                verbose=False,
            )
        assert program is not None
        if told:
            program.model.metadata_props[METADATA] = told
        program.save(str(file), external_data=False)
        with understood(to, encoder, wanted):
            return {"input": fed.told, **compared(reference, fed, load, use, wanted)}

    def _torch(self, encoder: Encoder, to: str, file: Path, wanted: Wanted) -> dict[str, Any]:
        whole, fed, reference = self._whole(encoder, wanted)
        load, held = f"import torch\n\nmodel = torch.export.load({str(file)!r}).module()\n", {}
        if wanted.behind is not None:
            held[METADATA] = json.dumps(self._told(encoder, wanted))
            more = "".join(f"import {package}  # its operations are in the file\n" for package in wanted.behind.needs)
            load = (
                f"import json\n\nimport torch\n{more}\nheld = {{{METADATA!r}: ''}}\n"
                f"model = torch.export.load({str(file)!r}, extra_files=held).module()\n"
                f"facts = json.loads(held[{METADATA!r}])\n"
            )
        into = named_outputs(wanted)
        into += "," if wanted.behind is not None and "," not in into else ""
        use = f"with torch.inference_mode():\n    {into} = model({fed.name})\n"
        with understood(to, encoder, wanted):
            axes = varying(fed, wanted, named=False)
            program = torch.export.export(whole, (fed.example(2),), dynamic_shapes=(axes,), strict=False)
        torch.export.save(program, file, extra_files=held)  # not within: a full disk is another matter
        with understood(to, encoder, wanted):
            return {"input": fed.told, **compared(reference, fed, load, use, wanted)}

    def _whole(self, encoder: Encoder, wanted: Wanted) -> tuple[nn.Module, Fed, nn.Module]:
        """What the file holds, what it is fed with, and what its outputs are compared with."""
        prepare, fed = None, self.fed(encoder)
        if wanted.preprocessing:
            assert self.prepared is not None
            prepare, fed = self.prepared(encoder, wanted)
        reference = Whole(encoder, prepare, wanted)
        held = reference
        if wanted.half:
            held = Whole(copy.deepcopy(encoder).half(), prepare, wanted)
            held.behind = copy.deepcopy(reference.behind).half() if reference.behind is not None else None
        return (encoder if wanted.plain else held), fed, reference

    def _told(self, encoder: Encoder, wanted: Wanted) -> dict[str, Any]:
        """What a file of a whole task says of itself: facts of the task and the encoder, its input and outputs."""
        assert wanted.behind is not None
        fed = self._whole(encoder, wanted)[1]
        return {**self.facts(encoder), **wanted.behind.facts, "input": fed.told, "outputs": wanted.behind.outputs}


class Whole(nn.Module):
    """An encoder with what stands before and behind it; gives the vector, the vector and the maps, or a head's outputs.

    In float32, but for outputs of a head that are whole numbers.
    """

    def __init__(self, encoder: Encoder, prepare: nn.Module | None, wanted: Wanted) -> None:
        super().__init__()
        self.encoder, self.prepare, self.with_maps = encoder, prepare, wanted.maps
        self.behind = None if wanted.behind is None else wanted.behind.module
        self.tall = {"hwc": 1, "chw": 2, None: 2}[wanted.preprocessing]
        """which axis of a picture is its height"""

    def forward(self, given: Tensor) -> Tensor | tuple[Tensor, ...]:
        view = given if self.prepare is None else self.prepare(given)
        if self.behind is not None:
            height, width = given.shape[self.tall : self.tall + 2] if given.ndim == 4 else (None, None)
            return tuple(self.behind(self.encoder, view, height, width))
        if not self.with_maps:
            return self.encoder(view).float()
        vector, maps = self.encoder.with_maps(view)
        return vector.float(), *(one.float() for one in maps)


def named_outputs(wanted: Wanted) -> str:
    """The outputs of a file as the snippet unpacks them."""
    if wanted.behind is not None:
        return ", ".join(wanted.behind.outputs)
    return "vectors, *maps" if wanted.maps else "vectors"


def varying(fed: Fed, wanted: Wanted, named: bool) -> dict[int, Any]:
    """The axes of the input whose length may vary, as torch.export calls them.

    Named ones must be shown to fit at all lengths; the others are let vary as far as the network's own code allows,
    which the file then checks: `compared` tries whether that is as far as is wanted.
    """
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if wanted.any_size or wanted.preprocessing:
        for number, axis in fed.axes.items():
            least, most = (
                None if end is None else end // axis.multiple for end in (shortest(fed, number, wanted), axis.most)
            )
            dim = torch.export.Dim(axis.name, min=least, max=most)
            if axis.multiple == 1:
                axes[number] = dim if named else torch.export.Dim.AUTO
            else:
                axes[number] = axis.multiple * dim
    return axes


def shortest(fed: Fed, number: int, wanted: Wanted) -> int:
    """The least length of an axis that may vary."""
    multiple = fed.axes[number].multiple
    usual = fed.example(1).shape[number]
    return multiple * max(2, 1 if wanted.preprocessing else usual // SMALLER // multiple)


@contextlib.contextmanager
def understood(to: str, encoder: Encoder, wanted: Wanted) -> Iterator[None]:
    """Raise UserError where an exporter cannot follow what the options add; without options its error passes."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        if wanted.plain:
            raise
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        if not str(wanted):
            other = "torch" if to == "onnx" else "onnx"
            raise UserError(
                f"{encoder.spec['name']} and its head cannot be exported to {to}: {reason}. Try --to {other}, or "
                "--encoder-only."
            ) from error
        raise UserError(
            f"{encoder.spec['name']} cannot be exported to {to} with {wanted}: {reason}. Leave that out."
        ) from error


# Comparing ------------------------------------------------------------------------------------------------------------


def tried(encoder: nn.Module, fed: Fed, load: str, use: str) -> dict[str, Any]:
    """The snippet, and how far what it gives is from the encoder, on batches of 2 (its own) and of 1 and 3."""
    return compared(encoder, fed, load, use, Wanted())


def compared(reference: nn.Module, fed: Fed, load: str, use: str, wanted: Wanted) -> dict[str, Any]:
    """As `tried`, of all outputs, other sizes too if they are wanted, and with the least cosine of two vectors."""
    snippet = load + f"{fed.name} = {fed.made}\n" + use
    given: list[Tensor | None] = [None, fed.example(1), fed.example(3)]
    if (wanted.any_size or wanted.preprocessing) and fed.sized is not None:
        usual = fed.example(1).shape
        for share in (1 / SMALLER, 1.5):
            lengths = [
                max(2, round(usual[number] * share * (1 + 0.5 * k) / axis.multiple)) * axis.multiple
                for k, (number, axis) in enumerate(fed.axes.items())
            ]
            most = [axis.most or length for axis, length in zip(fed.axes.values(), lengths, strict=True)]
            given.append(fed.sized([min(pair) for pair in zip(lengths, most, strict=True)]))
    names: dict[str, Any] = {}
    difference, cosine, outputs = 0.0, 1.0, []
    with torch.no_grad():
        exec(snippet, names)
        for batch in given:
            if batch is not None:
                names[fed.name] = batch
                exec(use, names)
            found = (
                (names["vectors"], *names.get("maps", []))
                if wanted.behind is None
                else [names[name] for name in wanted.behind.outputs]
            )
            outputs = [torch.as_tensor(one) for one in found]
            expected = reference(names[fed.name])
            expected = [expected] if isinstance(expected, Tensor) else list(expected)
            if [one.shape for one in outputs] != [one.shape for one in expected]:
                raise UserError(
                    f"what was exported gives {[list(one.shape) for one in outputs]}, "
                    f"the encoder {[list(one.shape) for one in expected]}."
                )
            if wanted.behind is not None and wanted.behind.apart is not None:
                difference = max(difference, wanted.behind.apart(outputs, expected))
            for one, other in zip(outputs, expected, strict=True):
                if not one.is_floating_point():
                    continue
                if wanted.behind is None or wanted.behind.apart is None:
                    difference = max(difference, apart(one, other))
                cosine = min(cosine, float(F.cosine_similarity(one.flatten(1), other.flatten(1)).min()))
    facts: dict[str, Any] = {"snippet": snippet, "difference": difference}
    if wanted.half:
        facts["cosine"] = cosine
    if wanted.maps:
        facts["maps"] = [of_map(one, None if wanted.preprocessing else fed) for one in reference(fed.example(1))[1:]]
    if wanted.any_size:
        facts["axes"] = {
            axis.name: {"least": shortest(fed, number, wanted), "multiple_of": axis.multiple, "most": axis.most}
            for number, axis in fed.axes.items()
        }
    return facts


def apart(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference in units of the largest value of the other."""
    return float((one.float() - other).abs().max() / other.abs().max().clamp_min(1e-12))


def of_map(features: Float[Tensor, "b c ..."], fed: Fed | None) -> dict[str, Any]:
    """Channels and places of a map, and where the input has one size, of how many steps of it one place is."""
    places = list(features.shape[2:])
    facts: dict[str, Any] = {"channels": features.shape[1], "places": places}
    lengths = [] if fed is None else [fed.example(1).shape[axis] for axis in fed.axes]
    if lengths and len(places) >= len(lengths):
        facts["stride"] = [length / place for length, place in zip(lengths, places[-len(lengths) :], strict=True)]
    return facts


def uncompared(library: str, why: str | None = None) -> dict[str, Any]:
    """The facts of an export that could not be loaded by its library here."""
    reason = why or f"{library} is not installed here"
    return {"difference": None, "compared": f"{reason}, so nothing was compared: run the snippet where it is"}


# Files ----------------------------------------------------------------------------------------------------------------


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
