"""Files that load in other libraries with the same outputs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfsame.jobs.checked import checked
from selfsame.records import Record

if TYPE_CHECKING:
    from torch import nn


class Export(Record):
    """Write the encoder for another library, and check that it gives the same outputs there."""

    run_folder: Path
    """folder of a run"""
    to: Literal["timm", "torchvision", "onnx", "torch"]
    """timm and torchvision: a weight file; onnx and torch: the whole encoder with its normalisation"""
    out: Path | None = None
    """file to write [in the run folder]"""

    def run(self, encoder: "nn.Module | None" = None) -> dict[str, Any]:
        from selfsame import modalities
        from selfsame.engine.state import writing
        from selfsame.engine.watch import say
        from selfsame.jobs.runs import load

        trained = load(self.run_folder, encoder)
        suffix = {"timm": ".safetensors", "torchvision": ".safetensors", "onnx": ".onnx", "torch": ".pt2"}[self.to]
        out = self.out or self.run_folder / "export" / f"{self.to}{suffix}"
        with writing(out):
            result = modalities.load(trained.spec["modality"]).export(trained, self.to, out)
        say(f"wrote {', '.join(result['files'])}; outputs agree to {result['difference']:.1e}. Load it with:")
        say(result["snippet"], "bold")
        return {"out": result["files"][0], **result}


def export(run: Any, to: str, out: str | Path | None = None, encoder: "nn.Module | None" = None) -> dict[str, Any]:
    """Write the encoder of a run for timm, torchvision, onnx or torch.

    `encoder` is a module of the architecture that was trained, where the run was given one in Python.
    """
    return checked(Export, {"run_folder": getattr(run, "folder", run), "to": to, "out": out}).run(encoder)
