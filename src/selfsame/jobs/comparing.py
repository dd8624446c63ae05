"""What `compare` does: the same training with one method after the other, measured in the same way, and a page."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfsame import methods
from selfsame.downstream.knn import knn_accuracy
from selfsame.downstream.linear import linear_accuracy
from selfsame.engine import dist, slurm
from selfsame.engine.health import Signs, look
from selfsame.engine.plan import Line, workers_for
from selfsame.engine.state import write_text
from selfsame.engine.watch import console, say
from selfsame.errors import UserError
from selfsame.jobs.checked import checked
from selfsame.jobs.compare import Compare
from selfsame.jobs.data import fixed_views, open_like
from selfsame.jobs.evaluate import Evaluate
from selfsame.jobs.evaluating import Labelled, parts, raw
from selfsame.jobs.methods import about
from selfsame.jobs.pretrain import Pretrain
from selfsame.jobs.pretraining import Pretraining
from selfsame.jobs.runs import Run, load, read_json
from selfsame.records import Record
from selfsame.report.comparison import conclusion, told, write_comparison
from selfsame.types import Encoder, mixed

COMPARISON = "comparison.json"
LOOKED_AT = 2000  # items whose vectors are measured without labels
SHARED = ("encoder", "size", "views", "batch_size", "precision", "workers", "cache", "device", "max_skipped")
LABEL_FREE = ("agreement", "rank")  # what ranks where there are no labels: the mean place by these, higher is better


def compared(job: Compare) -> dict[str, Any]:
    slurm.take_seat()
    if dist.world() > 1:
        raise UserError("compare trains one run after the other in one process. Start it without torchrun or srun.")
    folder = job.folder
    stored = earlier(job, folder)
    names, left_out = fitting(job)
    budget = job.budget if job.samples is None else f"{job.samples:,} samples"
    say(f"{len(names)} methods, {job.seeds} seed{'s' if job.seeds > 1 else ''} each, {budget} a run")
    for name, why in left_out.items():
        say(f"left out: {name}: {why}")
    result: dict[str, Any] = {
        "job": job.model_dump(mode="json"),
        "machine": dist.machine(dist.device(job.device)),
        "epochs": stored.get("epochs", {}),
        "left_out": left_out,
        "baselines": stored.get("baselines", []),
        "runs": stored.get("runs", []),
        "rows": [],
    }

    def keep() -> None:
        result["rows"] = ranked(result["runs"])
        write_text(folder / COMPARISON, json.dumps(result, indent=1) + "\n")

    plan: list[Line] = []  # of the first run, which is shown whole
    keep()  # before the first run: whatever stops it, the same command goes on
    for seed in range(job.seed, job.seed + job.seeds):
        for name in names:
            if any((run["method"], run["seed"]) == (name, seed) for run in result["runs"]):
                continue
            say(f"{name}, seed {seed}", "bold")
            result["runs"].append(one_run(job, name, seed, result["epochs"], keep, plan))
            keep()
    if job.labels is not None and sum(one["features"] == "random" for one in result["baselines"]) < job.seeds:
        result["baselines"] = baselines(job, folder, result["runs"])
        keep()
    write_comparison(folder, result, {row["method"]: about(methods.load(row["method"])) for row in result["rows"]})
    show(result)
    say(conclusion(result["rows"], result["baselines"]), "bold")
    say(f"report: {folder / 'report.html'}")
    return result


def earlier(job: Compare, folder: Path) -> dict[str, Any]:
    """What stands in the folder already. Raises UserError where it is of another comparison."""
    if not (folder / COMPARISON).exists():
        if folder.is_dir() and any(folder.iterdir()):
            inside = ", ".join(sorted(path.name for path in folder.iterdir())[:3])
            raise UserError(f"{folder} is no comparison and not empty ({inside}, ...). Choose another --out.")
        return {}
    found, now = read_json(folder / COMPARISON), job.model_dump(mode="json")
    free = {"out", "methods", "seeds", "workers", "device"}  # more methods or seeds go on from what is there
    odd = [key for key in now if key not in free and found["job"].get(key) != now[key]]
    if odd:
        pairs = "; ".join(f"{key} was {json.dumps(found['job'].get(key))}, now {json.dumps(now[key])}" for key in odd)
        raise UserError(f"{folder} holds a comparison with other settings: {pairs}. Choose another --out.")
    return found


def pretrain_job(job: Compare, name: str, out: Path, epochs: float | None, seed: int) -> Pretrain:
    given = {field: getattr(job, field) for field in (*SHARED, "data", "modality", "reading", "sample")}
    wish = {**given, "method": name, "epochs": epochs, "seed": seed, "out": out, "processes": 1}
    return checked(Pretrain, wish)


def fitting(job: Compare) -> tuple[list[str], dict[str, str]]:
    """The methods that can work with this encoder and this data, and why others cannot.

    Raises UserError where one of those was named by the user, and where the labels cannot be used.
    """
    fit: list[str] = []
    not_fit: dict[str, str] = {}
    for name in job.names:
        with tempfile.TemporaryDirectory() as place:
            try:
                encoder = provisional(job, name, Path(place), quiet=bool(fit or not_fit)).decided()
            except UserError as error:
                if not str(error).startswith(f"--method {name} "):
                    raise  # wrong data or settings, whatever the method
                if "all" not in job.methods.split(","):
                    raise
                not_fit[name] = str(error)
                continue
            if not fit and job.labels is not None:
                labelled_items(job, Path(place), encoder)
            fit.append(name)
    if not fit:
        raise UserError(f"no method fits: {next(iter(not_fit.values()))}")
    return fit, not_fit


def provisional(job: Compare, name: str, place: Path, epochs: float | None = None, quiet: bool = True) -> Pretraining:
    """The run, its data opened, for what is to be known of it before its length is decided."""
    work = Pretraining(pretrain_job(job, name, place / "run", None, job.seed))
    work.quiet = quiet
    work.opened()
    work.job = work.job.changed(epochs=epochs or (job.samples or 10_000) / work.items)
    return work


def epochs_for(job: Compare, name: str) -> float:
    """Passes over the data that the budget allows: by the samples, or by the time that a trial step takes here.

    Timed twice: the batch depends on the length of the run, and what a sample costs on the batch. Surveys and looks at
    the health are not in it.
    """
    epochs: float | None = None
    for _ in range(2):
        with tempfile.TemporaryDirectory() as place:
            work = provisional(job, name, Path(place), epochs)
            if job.samples is not None:
                return job.samples / work.items
            learner = work.prepared()
            seconds, _ = work.trial(learner, work.steps(learner.by_item))
            assert job.minutes is not None
            epochs = max(1.0, 60 * job.minutes / seconds) * work.loop.batch / work.items
    assert epochs is not None
    return epochs


def one_run(
    job: Compare, name: str, seed: int, epochs: dict[str, float], keep: Callable[[], None], plan: list[Line]
) -> dict[str, Any]:
    """Train and measure: one entry of comparison.json's runs. A method that fails is an entry too, with the reason.

    `plan`: the lines that were shown of an earlier run; of this one only others are shown. Filled by the first.
    """
    out = job.folder / f"{name}-{seed}"
    began = time.monotonic()
    entry: dict[str, Any] = {"method": name, "seed": seed, "folder": out.name}
    try:
        if name not in epochs:
            epochs[name] = epochs_for(job, name)
            keep()  # a run that is stopped goes on with the length it has begun with
        work = Pretraining(pretrain_job(job, name, out, epochs[name], seed))
        work.beside, work.quiet = plan, True
        run = work.run()
        plan[:] = plan or work.lines
    except UserError as stopped:
        say(f"{name}: {stopped}", "yellow")
        return {**entry, "verdict": "stopped", "why": str(stopped), "seconds": round(time.monotonic() - began, 1)}
    encoder = load(out).to(dist.device(job.device))
    signs = measured(job, run, encoder)
    return {
        **entry,
        "verdict": run.verdict,
        "seconds": run.result["seconds"],
        "samples": run.plan["loop"]["steps"] * run.plan["loop"]["batch"],
        "loss": run.result["loss"],
        **{key: round(float(value), 5) for key, value in vars(signs).items()},
        **(accuracies(job, out, encoder) if job.labels is not None else {}),
    }


def measured(job: Compare, run: Run, encoder: Encoder) -> Signs:
    """Without labels: two views of the same items for all methods."""
    data = open_like(job.data, encoder)
    chosen = np.random.default_rng(mixed(job.seed, 12)).permutation(len(data.source))[:LOOKED_AT]
    views = data.modality.recipe(str(job.views["name"]), encoder.spec["size"], data.stats)
    make = fixed_views(data, views, np.sort(chosen).tolist(), job.seed, dist.device(job.device))
    return look(encoder, make())[0]


def labelled_items(job: Compare, out: Path, encoder: Encoder) -> Labelled:
    on = dist.device(job.device)
    wish = {
        "run_folder": out,
        "labelled": job.labelled or job.data,
        "labels": None if job.labels == "folders" else job.labels,
        "test": job.test,
        "test_labels": job.test_labels,
        "seed": job.seed,
    }
    train, test, _ = parts(checked(Evaluate, wish), encoder)
    workers, _ = workers_for(getattr(train.data.source, "array", None) is not None, job.workers)
    return Labelled(encoder, train, test, on, workers, job.max_skipped)


def accuracies(job: Compare, out: Path, encoder: Encoder) -> dict[str, float]:
    items = labelled_items(job, out, encoder)
    return scores(items, *items.vectors(encoder), job.seed)


def scores(items: Labelled, train: torch.Tensor, test: torch.Tensor, seed: int) -> dict[str, float]:
    y, truth = items.train.labels, items.test.labels
    return {
        "knn": round(knn_accuracy(train, y, test, truth), 5),
        "linear": round(linear_accuracy(train, y, test, truth, seed), 5),
    }


def baselines(job: Compare, folder: Path, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Random weights of the same network, one a seed, and the raw input."""
    trained = next((run for run in runs if run["verdict"] != "stopped"), None)
    if trained is None:
        return []
    out = folder / trained["folder"]
    encoder = load(out).to(dist.device(job.device))
    items = labelled_items(job, out, encoder)
    found = [
        {"features": "random", "seed": seed, **scores(items, *items.untrained(seed), seed)}
        for seed in range(job.seed, job.seed + job.seeds)
    ]
    trivial = scores(items, *raw(items.train, items.test), job.seed)
    return [*found, {"features": "raw", "seed": job.seed, **trivial}]


class Row(Record):
    """A method in the ranking. Means over its seeds; a std is that of n - 1, None for one run."""

    method: str
    place: int
    runs: int
    verdicts: list[str]
    seconds: float
    figures: dict[str, tuple[float, float | None]]
    """(mean, std) of knn, linear, rank, agreement, spread, alignment, uniformity: what was measured"""


def ranked(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The methods, best first: by linear accuracy, or without labels by the mean place of LABEL_FREE; stopped last.

    Those that are alike have the same place.
    """
    by_method: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_method.setdefault(run["method"], []).append(run)
    figures: dict[str, dict[str, tuple[float, float | None]]] = {}
    for name, members in by_method.items():
        done = [run for run in members if run["verdict"] != "stopped"]
        keys = ("linear", "knn", *vars(Signs(0, 0, 0, 0, 0, 0)))
        figures[name] = {key: spread([run[key] for run in done]) for key in keys if done and key in done[0]}
    alive = [name for name in by_method if len(figures[name])]
    if any("linear" in figures[name] for name in alive):
        standing = {name: -figures[name]["linear"][0] for name in alive}
    else:
        standing = {name: sum(place_by(key, name, alive, figures) for key in LABEL_FREE) for name in alive}
    order = sorted(alive, key=standing.__getitem__) + [name for name in by_method if name not in alive]
    places = {name: 1 + sum(other < mine for other in standing.values()) for name, mine in standing.items()}
    return [
        Row(
            method=name,
            place=places.get(name, place),
            runs=len(by_method[name]),
            verdicts=[run["verdict"] for run in by_method[name]],
            seconds=round(statistics.fmean(run["seconds"] for run in by_method[name]), 1),
            figures=figures[name],
        ).model_dump(mode="json")
        for place, name in enumerate(order, 1)
    ]


def place_by(key: str, name: str, names: list[str], figures: dict[str, dict[str, tuple[float, float | None]]]) -> int:
    """How many methods have more of it."""
    return sum(figures[other][key][0] > figures[name][key][0] for other in names)


def spread(values: list[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def show(result: dict[str, Any]) -> None:
    """The ranking on the screen."""
    from rich.table import Table

    with_labels = any("linear" in row["figures"] for row in result["rows"])
    keys = [*(["linear", "knn"] if with_labels else []), *LABEL_FREE]
    shown = Table("", "method", *keys, "s", "verdict", box=None, padding=(0, 2, 0, 0))
    for column in shown.columns[:-1]:
        column.no_wrap = True
        column.justify = "left" if column.header == "method" else "right"
    for row in result["rows"]:
        cells = [told(key, row["figures"].get(key)) for key in keys]
        verdicts = ", ".join(dict.fromkeys(row["verdicts"]))
        shown.add_row(str(row["place"]), row["method"], *cells, f"{row['seconds']:,.0f}", verdicts)
    for kind in dict.fromkeys(one["features"] for one in result["baselines"]):
        of_kind = [one for one in result["baselines"] if one["features"] == kind]
        cells = [told(key, spread([one[key] for one in of_kind])) if key in of_kind[0] else "" for key in keys]
        shown.add_row("", kind, *cells, "", "baseline", style="dim")
    console.print(shown)
