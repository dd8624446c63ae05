"""What `outliers` does: the distance of each item to its k-th neighbour, in a list, in pictures, beside baselines."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsame.downstream.outliers import found_by, kth_distances, reference
from selfsame.engine import dist
from selfsame.engine.watch import say
from selfsame.errors import UserError, printable, unknown
from selfsame.jobs.encoding import Encoded, Figures, beside, keep, keep_table, show, warn_if_behind
from selfsame.jobs.given import Given, classes_of, labelled, opened
from selfsame.jobs.outliers import Outliers
from selfsame.jobs.report import versions
from selfsame.report.curves import curve, short
from selfsame.report.gallery import Tile, neighbours, tiled
from selfsame.report.vector_page import beside_html, write_vector_page

NAME = "outliers"
NAMES = {"auroc": "AUROC", "average_precision": "average precision", "first": "strange among the first"}
ASKED, FURTHER, ORDINARY, A_STRIP = 12, 36, 9, 9  # items in the report


def run(job: Outliers, module: torch.nn.Module | None = None) -> dict[str, Any]:
    given = opened(job, module)
    labels, strange_labels = strange_of(job, given)
    items = Encoded(given, labelled(given, labels))
    among = reference(len(items), job.seed)
    whole = len(among) == len(items)
    distances = kth_distances(items.vectors, job.neighbour, None if whole else among)
    order = np.argsort(-distances, kind="stable")
    own = [labels[i] for i in items.items] if labels else None
    rows: list[dict[str, Any]] = []
    if own is not None:
        strange = np.isin(own, strange_labels)

        def measure(vectors: Tensor, seed: int) -> tuple[float, Figures]:
            found = found_by(kth_distances(vectors, job.neighbour, None if whole else among), strange)
            return found["auroc"], found

        rows = beside(items, measure, range(job.seed, job.seed + job.seeds), steady=True)
        say(f"{int(strange.sum()):,} of {len(items):,} items are strange by their label ({job.anomalies})")
        show(rows, NAMES)
        warn_if_behind(rows, "auroc", "AUROC")
    result = {
        "run": str(given.run),
        "data": given.path,
        "items": len(items),
        "k": job.neighbour,
        "neighbours_among": len(among),
        "strangest": [[items.names[k], float(distances[k])] for k in order[:10].tolist()],
        "anomalies": job.anomalies,
        "raw": given.modality.raw_name,
        "seed": job.seed,
        "machine": dist.machine(items.on),
        "rows": rows,
    }
    listed = {"name": [items.names[k] for k in order], "distance": [f"{distances[k]:.6f}" for k in order]}
    if own is not None:
        listed["label"] = [printable(own[k]) for k in order]
    keep_table(given.place, NAME, listed)
    keep(given.place, NAME, result)
    page(job, items, distances, order, own, rows, result)
    of = "" if whole else f" among {len(among):,} drawn ones"
    say(f"{len(items):,} items by the distance to their neighbour {job.neighbour}{of}; the strangest: ")
    for k in order[:5].tolist():
        say(f"  {distances[k]:.3f}  {items.names[k]}")
    say(f"list and report: {given.place / 'outliers.csv'}, {given.place / 'report.html'}")
    return result


def strange_of(job: Outliers, given: Given) -> tuple[list[str] | None, list[str]]:
    """The labels, and those of strange items; (None, []) where none were named. Raises UserError."""
    if job.anomalies is None:
        return None, []
    labels = classes_of(given)
    wanted = [name.strip() for name in job.anomalies.split(",") if name.strip()]
    for name in wanted:
        if name not in labels:
            raise unknown("label in --anomalies", name, set(labels))
    if not wanted or set(wanted) >= set(labels):
        raise UserError(f"--anomalies {job.anomalies}: name some of the labels, not none and not all.")
    return labels, wanted


def page(
    job: Outliers,
    items: Encoded,
    distances: np.ndarray,
    order: np.ndarray,
    labels: list[str] | None,
    rows: list[dict[str, Any]],
    result: dict[str, Any],
) -> None:
    def tiles(some: np.ndarray) -> str:
        made = [
            Tile(k, items.names[k], f"{distances[k]:.3f}" + (f"\n{labels[k]}" if labels else "")) for k in some.tolist()
        ]
        return tiled([made[k : k + A_STRIP] for k in range(0, len(made), A_STRIP)], items.picture, items.fragment)

    near = neighbours(
        items.vectors.numpy(), items.picture, items.names, order[:ASKED].tolist(), 7, labels, items.fragment
    )
    among = result["neighbours_among"]
    drawn = "" if among == len(items) else f" Neighbours are sought among {among:,} items, drawn by the seed."
    lead = (
        f"How strange an item is: the distance of its vector to that of its nearest neighbour number {job.neighbour}, "
        f"itself left out. Vectors have unit length, so distances lie between 0 and 2.{drawn} Being far from others is "
        "all that this means: damaged, mislabelled and rare items are, and so is the one good picture of a kind."
    )
    ranks, sorted_distances = np.arange(1, len(order) + 1), distances[order]
    drop = curve(
        "Distance by place in the list", {"distance": (ranks.tolist(), sorted_distances.tolist())}, "place", width=720,
        note="A steep fall at the left sets a group of outliers apart; an even slope has none to set apart.",
    )  # fmt: skip
    note = (
        f"Strange are the labels {job.anomalies}. AUROC: the chance that a strange item is further out than another, "
        "0.5 is chance. The last figure: of as many items as are strange, taken from the top of the list, the share "
        f"that is. Random weights: {job.seeds} draws, each with the batch-norm statistics that serve it better. Raw is "
        f"{result['raw']}."
    )
    figures = [
        ("Items", f"{len(items):,}", ""),
        ("Largest distance", short(float(sorted_distances[0])), items.names[order[0]]),
        ("Median distance", short(float(np.median(distances))), ""),
        *([("AUROC", f"{rows[0]['figures']['auroc']['mean']:.3f}", "0.5 is chance")] if rows else []),
    ]
    sections = [
        ("beside", "Beside random weights and raw input", beside_html(rows, NAMES, note)),
        ("strangest", "The strangest, each with its nearest", near),
        ("next", "The next ones", tiles(order[ASKED : ASKED + FURTHER])),
        ("ordinary", "The most ordinary", tiles(order[::-1][:ORDINARY])),
        ("distances", "Distances", drop),
    ]
    settings = [*((key, value) for key, value in result.items() if key not in ("rows", "strangest")), *versions()]
    write_vector_page(
        items.given.place,
        f"Outliers: {items.given.run.name} on {items.given.path}",
        lead,
        figures,
        sections,
        settings,
        items.skipped,
    )
