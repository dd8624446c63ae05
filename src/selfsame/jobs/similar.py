"""What `evaluate --protocols similarity` does: pairs of items with scores, of the encoder and of its baselines."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsame.downstream.protocol import Kind, Row
from selfsame.downstream.similarity import LEAST, similarity
from selfsame.engine import dist
from selfsame.engine.plan import workers_for
from selfsame.engine.watch import say
from selfsame.errors import UserError
from selfsame.jobs.data import Data, all_vectors, check_share, open_like
from selfsame.jobs.evaluate import Evaluate
from selfsame.jobs.evaluating import redrawn, with_label
from selfsame.types import Encoder


def similar(job: Evaluate, encoder: Encoder, on: torch.device) -> dict[str, Any]:
    """Rows and facts for evaluation.json, beside random weights and the trivial feature; nothing is trained."""
    one, two, scores, every = pairs(job, encoder)
    modality, stats = one.modality, one.stats
    views = modality.recipe("weak", encoder.spec["size"], stats)
    workers, _ = workers_for(False, job.workers)

    def vectors(of: Encoder, items: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
        (kept, first), (others, second) = (all_vectors(of, side, views, items, on, workers) for side in (one, two))
        theirs = dict(zip(others, torch.from_numpy(second), strict=True))
        return {i: (v, theirs[i]) for i, v in zip(kept, torch.from_numpy(first), strict=True) if i in theirs}

    def measured(of: Encoder, items: list[int]) -> tuple[float, list[int]]:
        found = vectors(of, items)
        if len(found) < LEAST:
            raise UserError(f"{job.labelled}: {len(found)} pairs can be read; at least {LEAST} are needed.")
        both = [torch.stack(side) for side in zip(*found.values(), strict=True)]
        return similarity(both[0], both[1], scores[list(found)]), list(found)

    trained, items = measured(encoder, every)  # it finds the pairs that cannot be read
    for side in (one, two):
        check_share(side, job.max_skipped)
    given = scores[items]
    say(f"{len(items):,} pairs with scores from {given.min():g} to {given.max():g}")
    seeds = range(job.seed, job.seed + job.seeds)
    first, second = modality.raw_vectors([(one.source, items), (two.source, items)], stats)
    runs: dict[Kind, list[float]] = {
        "encoder": [trained],
        "random": [measured(redrawn(encoder, modality, seed, on), items)[0] for seed in seeds],
        "raw": [similarity(first, second, given)],
    }
    rows = [Row.of(kind, "similarity", "none", values) for kind, values in runs.items()]
    return {
        "run": str(job.run_folder),
        "labelled": job.labelled,
        "pairs": len(items),
        "raw": modality.raw_name,
        "seed": job.seed,
        "machine": dist.machine(on),
        "rows": rows,
    }


def pairs(job: Evaluate, encoder: Encoder) -> tuple[Data, Data, Tensor, list[int]]:
    """Both columns of a table, each as items; the scores, and the items that have one: all that can be read."""
    columns = [name.strip() for name in job.pairs.split(",")]
    if len(columns) != 2 or not all(columns):
        raise UserError(f"--pairs {job.pairs}: give the names of two columns, as sentence1,sentence2.")
    if job.labels is None:
        raise UserError("--protocols similarity needs --labels COLUMN: how alike the items of a pair are.")
    one = open_like(job.labelled, encoder, job.labels, column=columns[0])
    two = open_like(job.labelled, encoder, None, column=columns[1])
    given = one.source.labels
    if given is None or len(one.source) != len(two.source):
        raise UserError(f"{job.labelled}: give a table with two columns of items and one of scores.")
    items = with_label(one, given)
    try:
        scores = torch.zeros(len(given), dtype=torch.float64)
        scores[items] = torch.tensor([float(given[i]) for i in items], dtype=torch.float64)
    except ValueError as error:
        raise UserError(f"{Path(job.labelled).name}: --labels {job.labels} must be numbers: {error}.") from None
    if not np.isfinite(scores.numpy()).all():
        raise UserError(f"{Path(job.labelled).name}: some of --labels {job.labels} are no finite numbers.")
    return one, two, scores, items
