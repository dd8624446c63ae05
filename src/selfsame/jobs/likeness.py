"""Pairs of items whose vectors are near, by an encoder or by the raw input, from a threshold calibrated on them."""

from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from selfsame.engine import dist
from selfsame.engine.plan import workers_for
from selfsame.engine.watch import counted, say
from selfsame.errors import UserError
from selfsame.index.calibration import calibrated, far_of
from selfsame.index.pairs import Found, near_pairs, nothing
from selfsame.index.whitening import Whitening
from selfsame.jobs.data import check_share, encoded, fixed_views
from selfsame.jobs.duplicates import Duplicates
from selfsame.jobs.parts import Items
from selfsame.records import ViewPlan
from selfsame.types import Encoder

FEW = 100  # items, below which vectors of the raw input say little: a choice
FITTED = 20_000  # items that what is fitted of the raw input is fitted on, and that are read at once
VIEWED = 512  # items of which a view is made, to see how alike it is to its item


class Likeness:
    """The vectors of items at work; `calibration` has the threshold of each kind of vectors, and how it was found."""

    def __init__(self, job: Duplicates, items: Items, encoder: Encoder | None, kinds: list[str]) -> None:
        self.job, self.items, self.encoder, self.kinds = job, items, encoder, kinds
        self.modality = items.parts[0].modality
        self.on = dist.device(job.device)
        self.calibration: dict[str, dict[str, Any]] = {}

    def pairs(self, kind: str, items: Int64[np.ndarray, "u"], part: np.ndarray | None, known: np.ndarray) -> Found:
        """Pairs of places in `items` whose vectors of a kind are near, and their cosines; `known` are found otherwise.

        Raises UserError where vectors are not finite.
        """
        if kind == "raw" and self.job.by == "auto" and len(items) < FEW:
            say(
                f"{len(items):,} items are few to compare unasked by the raw input; --by exact,raw does it all the same"
            )
            return nothing()
        found, lost = self.vectors(items) if kind == "encoder" else self.raw(items)
        if not np.isfinite(found).all():
            of = f"{self.job.run_folder}: its encoder" if kind == "encoder" else f"{self.job.data}: the raw input"
            raise UserError(f"{of} gives vectors that are not finite for these data.")
        self.whitening = Whitening.fitted(found[~lost] if not lost.all() else found)
        vectors = self.whitening(found)
        vectors[lost] = 0
        threshold = self.threshold(kind, vectors, known, items)
        join = near_pairs(vectors, threshold, part, self.job.seed, self.on)
        how = "all pairs compared"
        if not join.exact:
            measured = "unknown: the sample has no pair" if join.recall is None else (
                f"{join.recall:.1%} of {join.judged:,} true pairs of a sample"
            )  # fmt: skip
            how = f"{join.cells:,} cells, the nearest {join.probes} of an item looked into; found: {measured}"
        self.calibration[kind]["search"] = {
            key: value for key, value in asdict(join).items() if key not in ("pairs", "scores")
        }
        by = "the encoder" if kind == "encoder" else f"the raw input ({self.modality.raw_name})"
        say(f"{counted(len(join.pairs), 'pair')} by {by}; {how}")
        return join.pairs, join.scores

    def raw(self, items: Int64[np.ndarray, "u"]) -> tuple[Float32[np.ndarray, "u d"], np.ndarray]:
        """Vectors of the raw input of items, and of which there is none: bool [u].

        Many items are taken in parts: what is fitted is fitted on some of them, which are then read with each part.
        """
        found, part = np.zeros((0, 0), np.float32), self.items.part[items]
        for number, data in enumerate(self.items.parts):
            here = np.flatnonzero(part == number)
            mine = (items[here] - self.items.starts[number]).tolist()
            if not mine:
                continue
            learned = np.flatnonzero(part == part[0])
            first, start = self.items.parts[int(part[0])], self.items.starts[int(part[0])]
            drawn = np.sort(np.random.default_rng(self.job.seed).permutation(learned)[:FITTED])
            fit = (first.source, (items[drawn] - start).tolist())
            for begin in range(0, len(mine), FITTED):
                some = mine[begin : begin + FITTED]
                (_, rows) = self.modality.raw_vectors([fit, (data.source, some)], first.stats)
                if not found.size:
                    found = np.zeros((len(items), rows.shape[1]), np.float32)
                found[here[begin : begin + FITTED]] = rows.numpy()
        return found, np.zeros(len(items), bool)

    def vectors(self, items: Int64[np.ndarray, "u"]) -> tuple[Float32[np.ndarray, "u d"], np.ndarray]:
        """Vectors of items by the encoder, and of which there is none, for it can no longer be read: bool [u]."""
        assert self.encoder is not None
        found = np.zeros((len(items), self.encoder.dim), np.float32)
        lost = np.ones(len(items), bool)
        for number, data in enumerate(self.items.parts):
            here = np.flatnonzero(self.items.part[items] == number)
            mine = items[here] - self.items.starts[number]
            order = np.argsort(mine, kind="stable")  # ascending, as sources that lie in blocks are read quickly
            workers, _ = workers_for(data.source.array is not None, self.job.workers)
            views = data.modality.recipe("weak", self.encoder.spec["size"], data.stats)
            chunks = encoded(self.encoder, data, views, mine[order], self.on, workers, self.job.batch_size)
            with closing(chunks):
                for kept, some in chunks:
                    at = here[order][np.searchsorted(mine[order], kept)]
                    found[at], lost[at] = some, False
            check_share(data, self.job.max_skipped, self.job.out)
        return found, lost

    def threshold(self, kind: str, vectors: np.ndarray, known: np.ndarray, items: np.ndarray) -> float:
        """The cosine from which on items are copies: given, or calibrated without the copies known already."""
        n = len(vectors)
        if self.job.threshold is not None and (kind == "encoder" or "encoder" not in self.kinds):
            self.calibration[kind] = {"threshold": self.job.threshold}
            return self.job.threshold
        if n < 3:
            raise UserError(f"{n} items are too few to calibrate a threshold on. Give one with --threshold.")
        alone = np.ones(n, bool)
        alone[known[:, 1]] = False  # the worse item of each pair that the hash found
        far = self.job.far or far_of(n)
        threshold, others = calibrated(vectors[alone] if alone.sum() > 2 else vectors, far, self.job.seed, self.on)
        value = threshold.value
        self.calibration[kind] = {
            "threshold": value,
            "far": far,
            "extrapolated": threshold.extrapolated,
            "compared": threshold.compared,
            "reached": threshold.accepted,
            "false_pairs_expected": far * n * (n - 1) / 2,
            "others": quantiles(others),
        }
        seen = ""
        if kind == "encoder":
            own = self.of_views(vectors, items)
            self.calibration[kind] |= {"views_accepted": float((own >= value).mean()), "views": quantiles(own)}
            seen = f"; {(own >= value).mean():.0%} of random views reach it with their item"
        say(
            f"threshold {value:.4f}, false-accept rate {far:.2g}, so about {far * n * (n - 1) / 2:,.1f} false pairs "
            f"are to be expected{seen}"
        )
        return value

    def of_views(self, vectors: np.ndarray, items: np.ndarray) -> Float32[np.ndarray, "v"]:
        """Cosines of some items with a random view of them."""
        assert self.encoder is not None
        there = np.flatnonzero(vectors.any(axis=1))
        some = np.sort(np.random.default_rng(self.job.seed).permutation(there)[:VIEWED])
        cosines = []
        for number, data in enumerate(self.items.parts):
            here = some[self.items.part[items[some]] == number]
            if not len(here):
                continue
            views = data.modality.recipe("auto", self.encoder.spec["size"], data.stats)
            numbers = items[here] - self.items.starts[number]
            made = fixed_views(data, views, numbers, self.job.seed, self.on, ViewPlan(full=1))()[0]
            encoder = self.encoder.to(self.on).eval()
            with torch.inference_mode():
                seen = torch.cat([encoder(part) for part in made.split(self.job.batch_size)]).float().cpu().numpy()
            cosines.append((self.whitening(seen) * vectors[here]).sum(axis=1))
        return np.concatenate(cosines)


def quantiles(scores: np.ndarray) -> dict[str, float]:
    return {f"{share:g}": float(np.quantile(scores, share)) for share in (0.01, 0.05, 0.5, 0.95, 0.99)}
