"""A model of a task at rest: the files of its encoder, head.safetensors, and task.json to build the head again."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from selfsame import modalities
from selfsame.downstream import tasks
from selfsame.downstream.task import Model
from selfsame.engine.state import write_text, write_whole
from selfsame.errors import UserError

TASK, HEAD = "task.json", "head.safetensors"
FORMAT = 1  # of task.json


def save(model: Model, folder: Path) -> None:
    """Write encoder, head and what they are of; each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    modalities.load(str(model.encoder.spec["modality"])).save_encoder(model.encoder, folder)

    def write_head(draft: Path) -> None:
        save_model(model.head, str(draft))
        draft.chmod(0o644)  # safetensors would keep it from other users

    write_whole(folder / HEAD, write_head)
    story = {
        "format": FORMAT,
        "task": type(model.task).name,
        "settings": model.task.model_dump(mode="json"),
        "facts": model.facts.model_dump(mode="json"),
        "size": model.size,
    }
    write_text(folder / TASK, json.dumps(story, indent=1) + "\n")


def load(folder: Path, module: torch.nn.Module | None = None) -> Model:
    """What `save` wrote, in eval mode on the CPU. `module` for an encoder of the user's own.

    A task that is named by a dotted path is imported, so load such folders only from people you trust. Raises
    UserError where files are missing, damaged, or do not fit.
    """
    story = read_story(folder)
    task = tasks.load(story["task"]).model_validate(story["settings"])
    facts = type(task).Facts.model_validate(story["facts"])
    spec = (
        json.loads((folder / "encoder.json").read_text(encoding="utf-8")) if (folder / "encoder.json").is_file() else {}
    )
    modality = modalities.load(str(spec.get("modality", "image")))
    encoder = modality.load_encoder(folder, module)
    with torch.random.fork_rng(devices=[]):  # the first weights are overwritten
        head = task.head(encoder, facts, story["size"])
    try:
        load_model(head, str(folder / HEAD))
    except FileNotFoundError:
        raise UserError(f"{folder} has no {HEAD}: its run is unfinished, or the file was lost.") from None
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder / HEAD} is damaged or of another head: {reason}") from None
    return Model(encoder, head, task, facts, story["size"]).eval()


def read_story(folder: Path) -> dict[str, Any]:
    """What stands in task.json. Raises UserError."""
    path = folder / TASK
    try:
        story = json.loads(path.read_text(encoding="utf-8"))
        if story["format"] > FORMAT:
            raise UserError(
                f"{path} has format {story['format']}; this selfsame reads up to {FORMAT}. Install a newer."
            )
        return {key: story[key] for key in ("task", "settings", "facts", "size")}
    except FileNotFoundError:
        if began(folder):
            raise unfinished(folder) from None
        raise UserError(
            f"{folder} is no task run (it has no {TASK}). Give the --out folder of `selfsame adapt`."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}). Restore it, or adapt again.") from None


def began(folder: Path) -> bool:
    """Whether it is the folder of a task run that is not finished."""
    if (folder / TASK).exists():
        return False
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        return "task" in job and "run_folder" in job
    except (OSError, ValueError, TypeError):
        return False


def unfinished(folder: Path) -> UserError:
    return UserError(f"{folder} is not finished: give its `selfsame adapt` again, and it goes on.")
