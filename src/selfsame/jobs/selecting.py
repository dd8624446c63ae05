"""What `select` does: a diverse subset in a list and in pictures, its coverage beside that of random subsets."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from selfsame.downstream import selection
from selfsame.engine import dist
from selfsame.engine.watch import say
from selfsame.errors import UserError
from selfsame.jobs.encoding import (
    Encoded,
    Figures,
    keep,
    keep_table,
    row_of,
    show,
)
from selfsame.jobs.given import labelled, labels_if_any, opened
from selfsame.jobs.report import versions
from selfsame.jobs.select import Select
from selfsame.report.gallery import Tile, tiled
from selfsame.report.vector_page import Form, beside_html, figure_told, write_vector_page

NAME = "selection"
FORMS: dict[str, Form] = {"labels": "count"}
NAMES = {"radius": "largest distance", "mean": "mean distance"}
SHOWN, A_STRIP = 72, 9  # items in the report
ADDED = {"k-centre": "distance", "facility": "gain"}  # what is known of each item when it was chosen


def run(job: Select, module: torch.nn.Module | None = None) -> dict[str, Any]:
    given = opened(job, module)
    labels = labels_if_any(given)
    if job.count > len(given):
        raise UserError(f"--count {job.count:,}: {given.path} has {len(given):,} items. Give as many or fewer.")
    items = Encoded(given, labelled(given, labels))
    chosen, added = chosen_by(job, items)
    own = np.array([labels[i] for i in items.items], dtype=object) if labels else None
    seeds = range(job.seed, job.seed + job.seeds)
    drawn = [selection.randomly(len(items), job.count, seed) for seed in seeds]

    def measured(some: Int[np.ndarray, "k"]) -> Figures:
        figures = selection.coverage(items.vectors, some)
        return figures | ({"labels": float(len(set(own[some])))} if own is not None else {})

    rows = [] if job.by == "random" else [row_of(job.by, [measured(chosen)])]
    rows.append(row_of("random", [measured(some) for some in drawn]))
    names = NAMES | ({"labels": f"labels, of {len(set(own))}"} if own is not None else {})
    show(rows, names, "chosen", FORMS)
    fewer = fewer_labels(rows)
    if fewer:
        say(fewer, "yellow")
    looked = min(len(items), selection.MOST) if job.by == "facility" else len(items)
    result = {
        "run": str(given.run),
        "data": given.path,
        "items": len(items),
        "count": job.count,
        "by": job.by,
        "chosen_among": looked,
        "names": [items.names[k] for k in chosen],
        "seed": job.seed,
        "machine": dist.machine(items.on),
        "rows": rows,
    }
    listed: dict[str, Any] = {"name": result["names"]}
    if paths := items.paths():
        listed = {"path": [paths[k] for k in chosen], **listed}
    if added is not None:
        listed[ADDED[job.by]] = [f"{one:.6f}" for one in added]
    keep_table(given.place, NAME, listed)
    keep(given.place, NAME, result)
    page(job, items, chosen, added, rows, names, result, fewer, own)
    if looked < len(items):
        say(f"chosen among {looked:,} items drawn by the seed: facility location compares all with all", "yellow")
    say(f"{job.count:,} of {len(items):,} items: {given.place / 'selection.csv'}, {given.place / 'report.html'}")
    return result


def fewer_labels(rows: list[dict[str, Any]]) -> str:
    """A sentence where the chosen items hold fewer labels than random ones; "" where they do not, or none are known."""
    own, drawn = rows[0], rows[-1]
    if own is drawn or "labels" not in own["figures"]:
        return ""
    mine, theirs = own["figures"]["labels"], drawn["figures"]["labels"]
    if mine["mean"] >= theirs["mean"]:
        return ""
    return (
        f"the chosen items hold fewer labels ({figure_told(mine, 1, 'count')}) than as many random ones "
        f"({figure_told(theirs, drawn['seeds'], 'count')}): what the encoder finds different is not what the labels "
        "tell apart."
    )


def chosen_by(job: Select, items: Encoded) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"] | None]:
    """The items in the order in which they were chosen, and what each added."""
    if job.by == "random":
        return selection.randomly(len(items), job.count, job.seed), None
    if job.by == "facility":
        return selection.facility_location(items.vectors, job.count, job.seed)
    return selection.k_centre(items.vectors, job.count)


def page(
    job: Select,
    items: Encoded,
    chosen: Int[np.ndarray, "k"],
    added: Float[np.ndarray, "k"] | None,
    rows: list[dict[str, Any]],
    names: dict[str, str],
    result: dict[str, Any],
    fewer: str,
    labels: np.ndarray | None,
) -> None:
    own = rows[0]["figures"]
    # The first by k-centre has none before it to be distant from.
    begins = 1 if job.by == "k-centre" else 0
    tiles = [
        Tile(
            k,
            items.names[k],
            f"{place + 1}"
            + (f" · {added[place]:.3f}" if added is not None and place >= begins else "")
            + (f"\n{labels[k]}" if labels is not None else ""),
        )
        for place, k in enumerate(chosen[:SHOWN].tolist())
    ]
    said = {"k-centre": "its distance to those before it", "facility": "what it added to the likeness of all"}
    lead = "In the order in which they were chosen" + (f"; below, {said[job.by]}." if job.by in said else ".")
    pictures = f'<p class="lead">{lead}</p>' + tiled(
        [tiles[k : k + A_STRIP] for k in range(0, len(tiles), A_STRIP)], items.picture, items.fragment
    )
    note = (
        "Distances of all items to the nearest chosen one, between vectors of unit length, 0 to 2: lower is better. "
        f"Random: {job.seeds} draws of as many items." + (f" Here {fewer}" if fewer else "")
    )
    about = {
        "k-centre": "Each next item is the one furthest from all chosen before: rare kinds are taken early, and so are "
        "damaged and mislabelled items, which selfsame outliers shows. At most twice the least radius there is.",
        "facility": "Each next item adds most to how alike every item is to its likest chosen one: typical items of "
        "each kind, the frequent kinds first. At least 63 % of the best there is.",
        "random": "Drawn by the seed.",
    }[job.by]
    figures = [
        ("Chosen", f"{job.count:,}", f"of {len(items):,} items"),
        ("Largest distance", f"{own['radius']['mean']:.3f}", "of an item to a chosen one"),
        ("Mean distance", f"{own['mean']['mean']:.3f}", ""),
        *(
            [("Labels", figure_told(own["labels"], rows[0]["seeds"], "count"), f"of {len(set(labels))}")]
            if labels is not None
            else []
        ),
    ]
    sections = [
        ("coverage", "Coverage beside random subsets", beside_html(rows, names, note, "chosen", FORMS)),
        ("chosen", "The chosen items", pictures),
    ]
    settings = [*((key, value) for key, value in result.items() if key not in ("rows", "names")), *versions()]
    title = f"A subset: {job.count:,} items of {items.given.path}, by {job.by}"
    write_vector_page(items.given.place, title, about, figures, sections, settings, items.skipped)
