"""Run folders: what is in them, and getting an encoder back out."""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfsame.errors import UserError
from selfsame.records import Record

if TYPE_CHECKING:
    from torch import nn

    from selfsame.types import Encoder

REPORT, CARD, JOB, PLAN, RESULT = "report.html", "README.md", "job.json", "plan.json", "result.json"
EVALUATION, SKIPPED, LOCK = "evaluation.json", "skipped.csv", ".lock"


class Run:
    """A finished or unfinished run: its folder and what stands in it."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / JOB).is_file():
            raise not_a_run(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.result.get('verdict', 'unfinished')})"

    @cached_property
    def job(self) -> dict[str, Any]:
        return read_json(self.folder / JOB)

    @cached_property
    def plan(self) -> dict[str, Any]:
        return read_json(self.folder / PLAN)

    @property
    def result(self) -> dict[str, Any]:
        """Verdict and figures of the finished run; empty while it is unfinished."""
        path = self.folder / RESULT
        return read_json(path) if path.exists() else {}

    @property
    def log(self) -> list[dict[str, Any]]:
        from selfsame.engine.watch import read_log

        return read_log(self.folder / "log.jsonl")

    @property
    def verdict(self) -> str:
        return self.result.get("verdict", "unfinished")

    @cached_property
    def encoder(self) -> "Encoder":
        """The trained encoder, in eval mode."""
        return load(self.folder)


def load(run: "str | Path | Run", encoder: "nn.Module | None" = None) -> "Encoder":
    """The encoder of a run, in eval mode, with the same outputs to the bit.

    Args:
        run: a run folder, or any folder with encoder.safetensors and encoder.json.
        encoder: a module of the architecture that was trained, where the run was given one in Python.

    An encoder of library "own" is built by importing and calling the factory that encoder.json names, so load such
    folders only from people you trust; those of timm and torchvision networks run no code.

    Raises UserError when there is no encoder, it is damaged, or it needs the module it was made from.
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. Give the --out folder of a run.")
    if not (folder / "encoder.json").is_file():
        if (folder / JOB).is_file():
            raise UserError(f"{folder} has no encoder yet: its run is unfinished. Run the same command again to go on.")
        raise not_a_run(folder)
    from selfsame.modalities import load as load_modality

    spec = read_json(folder / "encoder.json")
    modality = load_modality(str(spec.get("modality", "image")))
    return modality.load_encoder(folder, module=encoder).eval()


def encoder(module: "nn.Module", size: int, channels: int = 3, mean: Any = None, std: Any = None) -> "Encoder":
    """A torch module of your own as an image encoder: normalisation in front, one vector [b d] behind.

    Args:
        module: takes normalised [b c h w]; gives [b d], or maps [b d h w], which are averaged.
        size: pixels of a side. mean, std: per channel on the [0, 1] scale; 0.5 and 0.25 if not given.
    """
    from selfsame.modalities.image import Stats, own_encoder

    stats = Stats(
        items=0,
        channels=channels,
        bits=8,
        white=255,
        mean=(0.5,) * channels if mean is None else tuple(map(float, mean)),
        std=(0.25,) * channels if std is None else tuple(map(float, std)),
        height=size,
        width=size,
        uniform=True,
    )
    return own_encoder(module, size, stats)


def earlier(job: Record, folder: Path, free: set[str]) -> dict[str, Any] | None:
    """The job of an earlier run in a folder; None where there is none.

    `free` are the settings that may differ. Raises UserError where others do, and for a folder of other things.
    """
    path = folder / JOB
    if not path.exists():
        inside = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        # The lock is left by a run that ended before it began, the list by one with too many unreadable items.
        inside = [name for name in inside if name not in (LOCK, SKIPPED)]
        if inside:
            names = ", ".join(inside[:3])
            raise UserError(f"{folder} is no run folder and not empty ({names}, ...). Choose another --out.")
        return None
    was, now = read_json(path), job.model_dump(mode="json")
    if "image_size" in was:  # its name before there was anything but images
        was["size"] = was.pop("image_size")
    for key, field in type(job).model_fields.items():
        if field.is_required() and key not in was:
            command = type(job).__name__.lower()
            raise UserError(
                f"{folder} holds a run of another command than {command}, or {JOB} is damaged: it has no {key!r}. "
                "Choose another --out."
            )
        if not field.is_required():
            was.setdefault(key, field.default)  # younger than the run in the folder
    odd = [key for key in now if key not in free and was.get(key) != now[key]]
    if odd:
        pairs = "; ".join(f"{key} was {shown(was.get(key))}, now {shown(now[key])}" for key in odd)
        raise UserError(f"{folder} holds a run made with other settings: {pairs}. Choose another --out.")
    return was


def shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value)


def not_a_run(folder: Path) -> UserError:
    what = "is not a run folder (it has no job.json)" if folder.is_dir() else "does not exist"
    return UserError(f"{folder} {what}. Give the --out folder of `selfsame pretrain`.")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing. Was the run stopped before it began? Run the same command again."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}). Restore it, or choose another --out.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (not an object). Restore it, or choose another --out.")
    return content
