"""Encoders, and whole tasks, as programs of ONNX and of torch.export: what is in such a file, and how it is written.

Raises: UserError where an exporter cannot follow what is wanted, or a package is missing.
"""

import contextlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfsame.errors import UserError, missing
from selfsame.storage.compared import compared
from selfsame.storage.wanted import Fed, Wanted, shortest
from selfsame.types import Encoder

__all__ = ["METADATA", "Program", "Whole", "to_onnx", "to_torch"]

METADATA = "selfsame"  # the key, in a file of a whole task, of the JSON that says what it gives


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


@dataclass(frozen=True)
class Program:
    """What is to be written."""

    encoder: Encoder
    whole: nn.Module
    """what the file holds"""
    reference: nn.Module
    """what its outputs are compared with"""
    fed: Fed
    told: dict[str, Any] | None
    """what a file of a whole task says of itself; None where it holds an encoder alone"""


def to_onnx(given: Program, file: Path, wanted: Wanted) -> dict[str, Any]:
    """Write an ONNX file of any batch size; what `Writer` returns."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise missing("onnx", package, "export to onnx")
    encoder, fed = given.encoder, given.fed
    names = [f"map_{k}" for k, _ in enumerate(encoder.map_widths, 1)] if wanted.maps else []
    told = None if given.told is None else json.dumps(given.told)
    load = (
        f"{'import json' + chr(10) * 2 if told else ''}import onnxruntime\nimport torch\n\n"
        f"session = onnxruntime.InferenceSession({str(file)!r}, providers=['CPUExecutionProvider'])\n"
    )
    load += f"facts = json.loads(session.get_modelmeta().custom_metadata_map[{METADATA!r}])\n" if told else ""
    run = f"session.run(None, {{'{fed.name}': {fed.name}.numpy()}})"
    into = named_outputs(wanted)
    use = f"{into} = {run}\n" if "," in into else f"{into} = {run}[0]\n"
    with understood("onnx", encoder, wanted):
        program = torch.onnx.export(
            given.whole,
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
    with understood("onnx", encoder, wanted):
        return {"input": fed.told, **compared(given.reference, fed, load, use, wanted)}


def to_torch(given: Program, file: Path, wanted: Wanted) -> dict[str, Any]:
    """Write a file of torch.export of any batch size; what `Writer` returns."""
    encoder, fed = given.encoder, given.fed
    load, held = f"import torch\n\nmodel = torch.export.load({str(file)!r}).module()\n", {}
    if wanted.behind is not None:
        held[METADATA] = json.dumps(given.told)
        more = "".join(f"import {package}  # its operations are in the file\n" for package in wanted.behind.needs)
        load = (
            f"import json\n\nimport torch\n{more}\nheld = {{{METADATA!r}: ''}}\n"
            f"model = torch.export.load({str(file)!r}, extra_files=held).module()\n"
            f"facts = json.loads(held[{METADATA!r}])\n"
        )
    into = named_outputs(wanted)
    into += "," if wanted.behind is not None and "," not in into else ""
    use = f"with torch.inference_mode():\n    {into} = model({fed.name})\n"
    with understood("torch", encoder, wanted):
        axes = varying(fed, wanted, named=False)
        program = torch.export.export(given.whole, (fed.example(2),), dynamic_shapes=(axes,), strict=False)
    torch.export.save(program, file, extra_files=held)  # not within: a full disk is another matter
    with understood("torch", encoder, wanted):
        return {"input": fed.told, **compared(given.reference, fed, load, use, wanted)}


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
