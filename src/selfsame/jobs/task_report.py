"""The report and the card of a task run: pictures of predictions, then what stands in the folder."""

import shlex
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from selfsame.downstream import saved
from selfsame.downstream.task import Examples, Model, Panel
from selfsame.engine.state import write_text
from selfsame.engine.watch import say
from selfsame.errors import UnreadableItem, printable
from selfsame.jobs.data import read_skipped
from selfsame.jobs.report import flags, fragment, versions
from selfsame.jobs.runs import EVALUATION, PLAN, Run, read_json
from selfsame.report.card import write_task_card
from selfsame.report.gallery import data_uri
from selfsame.report.page import pairs_html, written
from selfsame.report.task_page import standings_html, write_task_page
from selfsame.types import mixed

SHOWN = 16  # predictions in the report
PICTURES = "predictions.html"


def write_report(folder: Path, model: Model, examples: Examples, items: list[int], on: torch.device) -> None:
    """Draw predictions of some of the items, keep them in report/, and write report.html and README.md."""
    write_pictures(folder, model, examples, items, on)
    refresh(folder)


def write_pictures(folder: Path, model: Model, examples: Examples, items: list[int], on: torch.device) -> None:
    chosen = np.sort(np.random.default_rng(mixed(0, 22)).permutation(items)[:SHOWN]).tolist()
    tiles = []
    for i, prediction in model.task.predictions(model, examples, chosen, on):
        try:
            truth = examples.truth(i) if examples.labelled else None
            drawn = model.task.picture(examples, i, prediction, truth)
        except UnreadableItem:
            continue
        said = escape(model.task.caption(prediction, truth, model.facts))
        name = escape(printable(examples.name(i)))
        broad = isinstance(drawn, Image.Image) and drawn.width > 1.5 * drawn.height
        kind = ' class="broad"' if broad else ""
        tiles.append(f'<figure{kind} title="{name}">{shown(drawn)}<figcaption>{said or name}</figcaption></figure>')
    lead = '<p class="lead">Predictions for some of the items that were measured last, drawn by chance.</p>'
    legend = "".join(
        f'<li><i class="swatch" style="--colour:{colour}"></i>{escape(word)}</li>'
        for word, colour in model.task.legend(model.facts)
    )
    legend = f'<ul class="legend">{legend}</ul>' if legend else ""
    made = f'{lead}{legend}<div class="predictions">{"".join(tiles)}</div>' if tiles else ""
    write_text(folder / "report" / PICTURES, made)


def shown(drawn: Image.Image | list[Panel] | str) -> str:
    """HTML of what a task drew of an item."""
    if isinstance(drawn, str):
        return drawn
    if isinstance(drawn, Image.Image):
        return f'<img src="{data_uri(drawn)}" alt=""/>'
    panels = (f'<div><img src="{data_uri(p.picture)}" alt=""/><span>{escape(p.words)}</span></div>' for p in drawn)
    return f'<div class="panels">{"".join(panels)}</div>'


def write_standings(place: Path, found: dict[str, Any]) -> Path:
    """The page of what was measured of an encoder at a task."""
    lead = (
        f"{found['run']} on {found['labelled']}: {found['train']:,} train and {found['test']:,} test items, first seed "
        f"{found['seed']}. All heads are trained in the same way; {'lower' if found['lower'] else 'higher'} is better."
    )
    title = f"{found['task']}: the encoder beside its baselines"
    html = standings_html(found["rows"], found["verdicts"], lead)
    about = [("machine", found["machine"]), *versions()]
    sections = [("scores", "Scores", html), ("versions", "Versions", pairs_html(about))]
    return written(place, title, f"<h1>{escape(title)}</h1>", sections)


def refresh(folder: Path, evaluation: dict[str, Any] | None = None) -> None:
    """Write report.html and README.md of a task run."""
    run = Run(folder)
    if evaluation is None and (folder / EVALUATION).exists():
        evaluation = read_json(folder / EVALUATION)
    plan, result, story = read_json(folder / PLAN), run.result, saved.read_story(folder)
    lines = [
        (line["name"], f"{line['value']} ({line['why']})" if line["why"] else line["value"]) for line in plan["lines"]
    ]
    found = evaluation or {}
    measured = (
        f"{found['labelled']}: {found['test']:,} items"
        + (", from which the head was learned: too good." if found.get("seen") else " that are not those learned from.")
        if found
        else "Of the items that chose the weights, so a little too good."
    )
    title = f"{story['task']} on {run.job['labelled']}"
    write_task_page(
        folder,
        title=title,
        summary=run.verdict,
        log=run.log,
        score=result["score"],
        best=result.get("best_step"),
        pictures=fragment(folder / "report" / PICTURES),
        standings=found.get("rows", ()),
        verdicts=found.get("verdicts", ()),
        measured_on=measured if found else "",
        plan=lines,
        job=run.job,
        skipped=read_skipped(folder),
        versions=versions(),
    )
    scores = found.get("scores") or result["validation"]
    write_task_card(
        folder,
        title=title,
        task=[
            ("task", story["task"]),
            *((key, value) for key, value in story["settings"].items() if value is not None),
        ],
        data=[("labelled", run.job["labelled"]), ("items", result["items"]), ("labels", summary(lines))],
        training=[
            ("encoder from", run.job["run_folder"]),
            (
                "encoder",
                "frozen" if run.job["freeze"] else "from random weights" if run.job["scratch"] else "fine-tuned",
            ),
            *((key, plan["loop"][key]) for key in ("steps", "batch", "lr", "weight_decay", "precision", "seed")),
            ("best step", result["best_step"]),
            ("machine", result["machine"]),
        ],
        scores=[(name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in scores.items()],
        measured=measured,
        command=command(run),
        versions=versions(),
    )
    say(f"report: {folder / 'report.html'}")


def summary(lines: list[tuple[str, Any]]) -> str:
    return str(dict(lines).get("labels", ""))


def command(run: Run) -> str:
    """The command line that makes the task run again."""
    job = run.job
    words = ["selfsame", "adapt", job["run_folder"], job["labelled"], "--out", str(run.folder)]
    words += ["--task", job["task"]["name"]]
    words += [word for key, value in job["task"].items() if key != "name" for word in flags(f"--task.{key}", value)]
    standard = {"weight_decay": 0.05, "clip": 1.0, "val_share": 0.2, "budget": "all"}
    standard |= {"seed": 0, "device": "auto", "max_skipped": 0.01, "keep_states": 2}
    for key, value in job.items():
        if key in ("run_folder", "labelled", "out", "task") or value in (None, False) or value == standard.get(key):
            continue
        words += [f"--{key.replace('_', '-')}"] if value is True else flags(f"--{key}", value)
    return shlex.join(words)
