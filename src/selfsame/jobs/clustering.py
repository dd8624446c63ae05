"""What `clusters` does: k-means of the vectors, the count chosen where none is given, in a list and in pictures."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from selfsame.downstream.clusters import Clustering, agreement, chosen_count, cluster
from selfsame.engine import dist
from selfsame.engine.watch import counted, say
from selfsame.errors import printable
from selfsame.jobs.clusters import Clusters
from selfsame.jobs.encoding import (
    Encoded,
    Figures,
    beside,
    keep,
    keep_table,
    numbers_of,
    show,
    warn_if_behind,
)
from selfsame.jobs.given import labelled, labels_if_any, opened
from selfsame.jobs.report import versions
from selfsame.report.curves import curve
from selfsame.report.gallery import Tile, tiled
from selfsame.report.vector_page import beside_html, write_vector_page

NAME = "clusters"
NAMES = {"nmi": "NMI", "ari": "ARI", "purity": "purity"}
CENTRAL, FRINGE = 6, 3  # items of a cluster in the report
PICTURED = 30  # clusters in it
LOW = 0.1  # a mean silhouette below it shows no groups that stand apart: a choice, Rousseeuw's text speaks of 0.25


def run(job: Clusters, module: torch.nn.Module | None = None) -> dict[str, Any]:
    given = opened(job, module)
    labels = labels_if_any(given)
    items = Encoded(given, labelled(given, labels))
    silhouettes: dict[int, float] = {}
    count = job.count
    if count is None:
        count, silhouettes = chosen_count(items.vectors, job.seed)
        best = silhouettes[count]
        say(f"{count} clusters: of {', '.join(map(str, silhouettes))} they have the largest silhouette, {best:.3f}")
        if best < LOW:
            say("so small a silhouette means that no count sets groups apart: give the --count you need.", "yellow")
    found = cluster(items.vectors, count, job.seed)
    own = [labels[i] for i in items.items] if labels else None
    rows: list[dict[str, Any]] = []
    if own is not None:
        _, numbers = numbers_of(own)

        def measure(vectors: Tensor, seed: int) -> tuple[float, Figures]:
            figures = agreement(cluster(vectors, count, seed).of, numbers)
            return figures["nmi"], figures

        rows = beside(items, measure, range(job.seed, job.seed + job.seeds), steady=False)
        say(f"{counted(count, 'cluster')} beside {counted(len(set(own)), 'label')}")
        show(rows, NAMES)
        warn_if_behind(rows, "nmi", "NMI")
    result = {
        "run": str(given.run),
        "data": given.path,
        "items": len(items),
        "count": count,
        "chosen_by": "silhouette" if job.count is None else "given",
        "silhouettes": {str(tried): score for tried, score in silhouettes.items()},
        "sizes": found.sizes.tolist(),
        "raw": given.modality.raw_name,
        "seed": job.seed,
        "machine": dist.machine(items.on),
        "rows": rows,
    }
    listed: dict[str, Any] = {
        "name": items.names,
        "cluster": (found.of + 1).tolist(),
        "distance": [f"{distance:.6f}" for distance in found.distance],
    }
    if own is not None:
        listed["label"] = list(map(printable, own))
    keep_table(given.place, NAME, listed)
    keep(given.place, NAME, result)
    page(job, items, found, own, rows, result)
    sizes = found.sizes.tolist()
    say(f"sizes: {', '.join(f'{size:,}' for size in sizes[:20])}{', ...' if len(sizes) > 20 else ''}")
    say(f"list and report: {given.place / 'clusters.csv'}, {given.place / 'report.html'}")
    return result


def page(
    job: Clusters,
    items: Encoded,
    found: Clustering,
    labels: list[str] | None,
    rows: list[dict[str, Any]],
    result: dict[str, Any],
) -> None:
    count = result["count"]
    shown, headings = [], []
    for number in range(min(count, PICTURED)):
        members = found.members(number)
        last = members[CENTRAL:][-FRINGE:]

        def tile(k: int) -> Tile:
            return Tile(k, items.names[k], f"{found.distance[k]:.3f}" + (f"\n{labels[k]}" if labels else ""))

        central = [tile(k) for k in members[:CENTRAL].tolist()]
        if central and len(last):  # set apart from the fringe
            central[-1] = central[-1]._replace(kind="end")
        shown.append([*central, *(tile(k) for k in last.tolist())])
        common = Counter(labels[k] for k in members).most_common(3) if labels else []
        of = f" · {', '.join(f'{name} {n / len(members):.0%}' for name, n in common)}" if common else ""
        headings.append(f"Cluster {number + 1} · {len(members):,} items{of}")
    pictures = (
        f'<p class="lead">Of each cluster the {CENTRAL} items nearest to its centre, then, behind the gap, the '
        f"{FRINGE} that lie furthest from it; below, their distances to it.</p>"
        f"{tiled(shown, items.picture, items.fragment, headings)}"
        + (f'<p class="note">{count - PICTURED} smaller clusters are in clusters.csv.</p>' if count > PICTURED else "")
    )
    tried = {int(k): score for k, score in result["silhouettes"].items()}
    chart = curve(
        "Mean silhouette by count", {"silhouette": (list(tried), list(tried.values()))}, "clusters", width=720,
        note="1: groups far from each other; 0: they run into each other. The largest was taken.",
    ) if tried else ""  # fmt: skip
    note = (
        "NMI (by the arithmetic mean of the entropies) and purity lie in [0, 1]; ARI is 1 for equal groups and about "
        f"0 for chance. All have {count} clusters; {job.seeds} starts, and as many draws of random weights, each with "
        f"the batch-norm statistics that serve it better. Raw is {result['raw']}."
    )
    sizes = found.sizes
    figures = [
        ("Clusters", f"{count}", "given" if job.count is not None else "chosen by the silhouette"),
        ("Items", f"{len(items):,}", ""),
        ("Largest", f"{int(sizes.max()):,}", "items"),
        ("Smallest", f"{int(sizes.min()):,}", "items"),
        *([("NMI", f"{rows[0]['figures']['nmi']['mean']:.3f}", "with the labels")] if rows else []),
    ]
    lead = "Groups of items that are alike, by k-means of vectors at unit length. Distances lie between 0 and 2."
    sections = [
        ("beside", "Beside random weights and raw input", beside_html(rows, NAMES, note)),
        ("clusters", "The clusters, the largest first", pictures),
        ("count", "How many", chart),
    ]
    settings = [*((key, value) for key, value in result.items() if key != "rows"), *versions()]
    write_vector_page(
        items.given.place,
        f"Clusters: {items.given.run.name} on {items.given.path}",
        lead,
        figures,
        sections,
        settings,
        items.skipped,
    )
