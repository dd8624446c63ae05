"""Files and folders that load in other libraries with the same outputs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfsame.errors import UserError
from selfsame.jobs.checked import checked
from selfsame.records import Record

if TYPE_CHECKING:
    from torch import nn

WHOLE = ("onnx", "torch")  # targets that hold heads


class Export(Record):
    """Write the encoder, or a whole task, for another library, and check that it gives the same outputs there."""

    run_folder: Path
    """folder of a run; of a task run, encoder and head are written for onnx and torch"""
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
    encoder_only: bool = False
    """of a task run: its encoder without the head"""

    def run(self, encoder: "nn.Module | None" = None) -> dict[str, Any]:
        from selfsame import modalities
        from selfsame.downstream import exporting, saved
        from selfsame.engine.state import writing
        from selfsame.engine.watch import say
        from selfsame.jobs.runs import load

        of_task = (self.run_folder / saved.TASK).is_file()
        if self.encoder_only and not of_task:
            raise UserError(
                f"--encoder-only: {self.run_folder} is no task run, its encoder is all there is. Leave it out."
            )
        whole = of_task and not self.encoder_only and self.to in WHOLE
        if of_task and not whole and not self.encoder_only:
            say(f"the encoder alone is written: {self.to} has no place for the head. onnx and torch hold both.")
        asked = {name: getattr(self, name) for name in ("maps", "preprocessing", "any_size", "half")}
        options = {name: value for name, value in asked.items() if value}
        parts = [self.to, *(name.replace("_", "-") for name in options)]
        stem = "-".join([*parts, "encoder"] if of_task and self.to in WHOLE and not whole else parts)
        out = self.out or self.run_folder / "export" / stem
        if whole:
            model = saved.load(self.run_folder, encoder)
            with writing(out):
                result = exporting.export(model, self.to, out, **options)
        else:
            trained = load(self.run_folder, encoder)
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
    """Write the encoder of a run, or the whole of a task run, for another library, and compare what it gives there.

    Args:
        to: timm, torchvision, transformers, ultralytics, mmdetection, onnx or torch.
        encoder: a module of the architecture that was trained, where the run was given one in Python.
        options: those of `Export`: maps, preprocessing, any_size, half, encoder_only.
    """
    settings = {"run_folder": getattr(run, "folder", run), "to": to, "out": out, **options}
    return checked(Export, settings).run(encoder)
