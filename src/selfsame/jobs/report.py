"""The report and the model card of a run: gathered once from data and encoder, written again when numbers come."""

import contextlib
import importlib.metadata
import platform
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from selfsame import modalities
from selfsame.engine.related import Related, Relations
from selfsame.engine.state import write_text, write_whole
from selfsame.engine.watch import say
from selfsame.errors import printable
from selfsame.jobs.data import Data, all_vectors, read_skipped, sheet, write_skipped
from selfsame.jobs.pretrain import GIVEN
from selfsame.jobs.runs import EVALUATION, PLAN, Run, read_json
from selfsame.records import Record, ViewPlan
from selfsame.report.card import write_card
from selfsame.report.gallery import map_of_items, neighbours
from selfsame.report.page import write_page
from selfsame.types import Encoder, mixed

SHOWN = 600  # items on the map
QUERIES = 8
LISTED = 8  # values of a list that a card shows
SHEET = 8  # items, each beside some of its views
FULL = {True: 4, False: 6}  # full views, where the method has part views and where not
PARTS = 3  # of its part views, at most


def write_report(
    folder: Path, data: Data, encoder: Encoder, views: Record, on: torch.device, labels: list[str] | None, seed: int,
    plan: ViewPlan, relations: Relations | None,
) -> None:  # fmt: skip
    """Make the pictures of a run, keep them in report/, and write report.html and README.md.

    `plan`: the views of its method; `relations`: the pairs it learned from.
    """
    place = folder / "report"
    shown_views = ViewPlan(full=FULL[plan.part > 0], part=min(plan.part, PARTS))
    related = None if relations is None else Related(relations, data.readable())
    drawn = sheet(data, views, SHEET, shown_views, seed, related)
    if isinstance(drawn, str):
        write_text(place / "views.txt", drawn)
    else:
        picture_of_views = drawn
        write_whole(place / "views.png", lambda draft: picture_of_views.save(draft, format="PNG"))
    chosen = np.sort(np.random.default_rng(mixed(seed, 9)).permutation(data.readable())[:SHOWN]).tolist()
    kept, vectors = all_vectors(encoder, data, views, chosen, on)
    if data.skipped:  # some may have been met only now
        write_skipped(data, folder)
    names = [printable(data.source.name(i)) for i in kept]
    of_kept = [labels[i] for i in kept] if labels else None

    def picture(k: int) -> Image.Image:
        return data.modality.picture(data.source, kept[k])

    def shown(k: int) -> str:
        return data.modality.fragment(data.source, kept[k])

    queries = np.random.default_rng(mixed(seed, 10)).permutation(len(kept))[:QUERIES].tolist()
    write_text(place / "neighbours.html", neighbours(vectors, picture, names, queries, labels=of_kept, fragment=shown))
    write_text(place / "map.html", map_of_items(vectors, picture, names, of_kept))
    refresh_report(folder)


def refresh_report(folder: Path, evaluation: dict[str, Any] | None = None) -> None:
    """Write report.html and README.md from what stands in the run folder."""
    run = Run(folder)
    place = folder / "report"
    if evaluation is None and (folder / EVALUATION).exists():
        evaluation = read_json(folder / EVALUATION)
    rows = evaluation["rows"] if evaluation else None
    measured_on = on_what(evaluation) if evaluation else ""
    plan, spec = read_json(folder / PLAN), read_json(folder / "encoder.json")
    lines = [
        (line["name"], f"{line['value']} ({line['why']})" if line["why"] else line["value"]) for line in plan["lines"]
    ]
    with contextlib.ExitStack() as stack:
        picture = stack.enter_context(Image.open(place / "views.png")) if (place / "views.png").exists() else None
        write_page(
            folder,
            title=f"{run.job['method']['name']} on {run.job['data']}",
            verdict=run.verdict,
            plan=lines,
            job=run.job,
            log=run.log,
            numbers=rows,
            measured_on=measured_on,
            sheet=picture or fragment(place / "views.txt"),
            neighbours_html=fragment(place / "neighbours.html"),
            map_html=fragment(place / "map.html"),
            skipped=read_skipped(folder),
            versions=versions(),
            beside=run.result.get("expected", {}).get("sentence", ""),
        )
    result, stats = run.result, plan["stats"]
    write_card(
        folder,
        title=f"{plan['encoder']} trained with {run.job['method']['name']} on {run.job['data']}",
        encoder=[("network", plan["encoder"]), ("width", spec.get("dim")), ("view size", plan["size"])],
        data=[
            ("path", run.job["data"]),
            ("items", result.get("items")),
            ("unreadable", result.get("skipped")),
            *of_stats(str(spec.get("modality")), stats),
        ],
        method=list({"name": run.job["method"]["name"], **plan["method_settings"]}.items()),
        training=[
            *(
                (key, plan["loop"][key])
                for key in ("steps", "batch", "optimizer", "lr", "weight_decay", "precision", "seed")
            ),
            ("seconds", result.get("seconds")),
            ("machine", result.get("machine")),
        ],
        command=command(run),
        verdict=run.verdict,
        numbers=rows,
        measured_on=measured_on,
        versions=versions(),
    )
    say(f"report: {folder / 'report.html'}")


def of_stats(kind: str, stats: dict[str, Any]) -> list[tuple[str, Any]]:
    """What was measured of the data as a card can show it: of a table its columns kind by kind, then the rest."""
    known = modalities.load(kind)
    record = known.Stats.model_validate(stats)
    roles = [(role, f"{names} ({why})") for role, names, why in getattr(record, "roles", [])]
    told = {"columns", "left_out"} if roles else set()
    return [*roles, *((key, readable(value)) for key, value in stats.items() if key not in told)]


def readable(value: Any) -> Any:
    """A value of the statistics in words: the first of a long list, of a long text, as a tokenizer is, its begin."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        if not value:
            return "none"
        more = f", ... ({len(value):,} in all)" if len(value) > LISTED else ""
        return ", ".join(str(readable(one)) for one in value[:LISTED]) + more
    text = str(value)
    return f"{text[:200]} ... ({len(text):,} characters)" if len(text) > 240 else value


def on_what(evaluation: dict[str, Any]) -> str:
    """Of what the numbers of an evaluation are."""
    if "pairs" in evaluation:
        return (
            f"{evaluation['labelled']}: {evaluation['pairs']:,} pairs; Spearman's correlation of the cosine with the "
            f"score. Raw input is {evaluation['raw']}."
        )
    return (
        f"{evaluation['labelled']}: {evaluation['train']:,} train and {evaluation['test']:,} test items of "
        f"{evaluation['classes']} classes, first seed {evaluation['seed']}."
        + (f" Raw input is {evaluation['raw']}." if evaluation.get("raw") else "")
    )


def command(run: Run) -> str:
    """The command line that makes the run again, or a remark where there is none."""
    if run.job["encoder"].endswith(GIVEN):
        return f"# The encoder was {run.job['encoder']}: ss.pretrain(..., encoder=module) makes the run again."
    words = ["selfsame", "pretrain", run.job["data"], "--out", str(run.folder)]
    for key, value in run.job.items():
        if key in ("data", "out") or value is None or value is False:
            continue
        if isinstance(value, dict):
            words += [f"--{key}", str(value["name"])] if "name" in value else []  # a reading has none
            words += [w for k, v in value.items() if k != "name" for w in flags(f"--{key}.{k}", v)]
        elif value != DEFAULTS.get(key):
            words += flags(f"--{key}", value)
    return shlex.join(words)


DEFAULTS = {"encoder": "auto", "accumulate": 1, "seed": 0, "device": "auto", "max_skipped": 0.01}


def flags(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [word for key, inner in value.items() for word in flags(f"{name}.{key}", inner)]
    values = value if isinstance(value, list | tuple) else [value]
    if isinstance(value, bool):
        return [f"{name.replace('_', '-')}={value}"]
    return [name.replace("_", "-"), *map(str, values)]


def fragment(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def versions() -> list[tuple[str, str]]:
    named = ("selfsame", "torch", "torchvision", "timm", "numpy", "pillow")
    found = [("python", platform.python_version())]
    for package in named:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append((package, importlib.metadata.version(package)))
    return found
