"""Files and folders that load in other libraries with the same outputs."""

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
    to: Literal["timm", "torchvision", "transformers", "ultralytics", "mmdetection", "onnx", "torch"]
    """timm, torchvision: weights; transformers, ultralytics, mmdetection: a folder; onnx, torch: the whole encoder"""
    out: Path | None = None
    """file or folder to write [in the run folder]"""
    maps: bool = False
    """onnx, torch: give the dense features too"""
    preprocessing: Literal["hwc", "chw"] | None = None
    """onnx, torch, of images: take stored values of any size, [b h w c] or [b c h w], and cut and resize them inside"""
    any_size: bool = False
    """onnx, torch: take views of other sizes too, from half of the usual on, where the network can"""
    half: bool = False
    """onnx, torch, transformers: weights in 16 bits"""

    def run(self, encoder: "nn.Module | None" = None) -> dict[str, Any]:
        from selfsame import modalities
        from selfsame.engine.state import writing
        from selfsame.engine.watch import say
        from selfsame.jobs.runs import load

        trained = load(self.run_folder, encoder)
        asked = {name: getattr(self, name) for name in ("maps", "preprocessing", "any_size", "half")}
        options = {name: value for name, value in asked.items() if value}
        stem = "-".join([self.to, *(name.replace("_", "-") for name in options)])
        out = self.out or self.run_folder / "export" / stem
        with writing(out):
            result = modalities.load(trained.spec["modality"]).export(trained, self.to, out, **options)
        if result["difference"] is None:
            found = result["compared"]
        else:
            found = f"outputs agree to {result['difference']:.1e}"
            if "cosine" in result:
                found += f", vectors to a cosine of {result['cosine']:.6f}"
        say(f"wrote {', '.join(result['files'])}; {found}. Load it with:")
        say(result["snippet"], "bold")
        return {"out": result["files"][0] if Path(result["files"][0]).parent == out.parent else str(out), **result}


def export(
    run: Any, to: str, out: str | Path | None = None, encoder: "nn.Module | None" = None, **options: Any
) -> dict[str, Any]:
    """Write the encoder of a run for another library, and compare what it gives there.

    Args:
        to: timm, torchvision, transformers, ultralytics, mmdetection, onnx or torch.
        encoder: a module of the architecture that was trained, where the run was given one in Python.
        options: those of `Export`: maps, preprocessing, any_size, half.
    """
    settings = {"run_folder": getattr(run, "folder", run), "to": to, "out": out, **options}
    return checked(Export, settings).run(encoder)
