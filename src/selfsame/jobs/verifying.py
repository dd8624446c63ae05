"""What `verify` does: a threshold chosen on pairs of some identities and measured on others, and two items compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsame.downstream import verification
from selfsame.downstream.verification import Pairs, Rates, Roc, Same, Scores
from selfsame.engine import dist
from selfsame.engine.watch import say
from selfsame.errors import UserError
from selfsame.jobs.data import all_vectors, open_like
from selfsame.jobs.encoding import (
    Encoded,
    Figures,
    beside,
    check_finite,
    keep,
    keep_table,
    numbers_of,
    show,
    warn_if_behind,
)
from selfsame.jobs.given import Given, classes_of, encoder_of, labelled, opened
from selfsame.jobs.report import versions
from selfsame.jobs.runs import read_json
from selfsame.jobs.verify import Verify
from selfsame.report.curves import curve
from selfsame.report.gallery import Tile, tiled
from selfsame.report.vector_page import Form, beside_html, write_vector_page
from selfsame.storage.encoders import fingerprint
from selfsame.storage.tables import Finder, some, table
from selfsame.types import Encoder

NAME = "verification"
HEAD = ("a", "b", "same")
FEW = 10  # identities in a part with which pairs are anything but independent: a choice
SHARE = 0.5  # of the items in the development part
WORDS = {"1": True, "true": True, "yes": True, "same": True, "0": False, "false": False, "no": False}
WORDS |= {"different": False}
SHOWN, A_STRIP = 12, 3  # pairs of either kind of mistake in the report
BINS = 60  # of the histogram of scores
PRIORS = {"min_dcf_01": 0.01, "min_dcf_05": 0.05}
NAMES = {"auc": "AUC", "eer": "EER", "tar": "TAR", "far": "FAR"}
NAMES |= {name: f"minDCF, P {prior}" for name, prior in PRIORS.items()}
FORMS: dict[str, Form] = {"eer": "percent", "tar": "percent", "far": "percent"}
SHORTLY = ("auc", "eer", "tar", "far")  # of them on the screen


@dataclass
class Parts:
    """Pairs of items in two parts that share no identity, by the items' places among those encoded."""

    development: tuple[Pairs, Same]
    test: tuple[Pairs, Same]
    identities: tuple[int, int]
    lost: int = 0  # given pairs across both parts


@dataclass
class Judged:
    """A threshold, and what it does."""

    threshold: float
    development: Roc
    scores: Scores  # of the test pairs
    curve: Roc
    rates: Rates
    figures: Figures
    development_auc: float


def run(job: Verify, module: torch.nn.Module | None = None) -> dict[str, Any]:
    return compared(job, module) if job.other is not None else measured(job, module)


# A threshold ---------------------------------------------------------------------------------------------------------


def measured(job: Verify, module: torch.nn.Module | None) -> dict[str, Any]:
    given = opened(job, module)
    seeds = range(job.seed, job.seed + job.seeds)
    if job.pairs is not None:
        pairs, same = read_pairs(job.pairs, given)
        items, unread = Encoded(given, np.unique(pairs).tolist()), len(pairs)
        pairs, same = placed(pairs, same, items)
        unread -= len(pairs)
        identities = verification.identities_of(pairs, same, len(items))
        parts = {seed: parts_of_pairs(pairs, same, identities, seed) for seed in seeds}
    else:
        labels = classes_of(given)
        items, unread = Encoded(given, labelled(given, labels)), 0
        _, identities = numbers_of([labels[i] for i in items.items])
        parts = {seed: parts_of_labels(identities, job.most, seed) for seed in seeds}
    first = parts[job.seed]
    told_of_parts(job, first, len(items), unread)

    rows = beside(items, lambda vectors, seed: figures_of(judged(vectors, parts[seed], job.far)), seeds, steady=False)
    own = judged(items.vectors, first, job.far)
    show(rows, {name: NAMES[name] for name in SHORTLY}, forms=FORMS)
    warn_if_behind(rows, "auc", "AUC")
    rates = own.rates
    say(
        f"threshold {own.threshold:.6g}: of {rates.different:,} other different pairs {rates.far:.2%} pass for the "
        f"same {interval(rates.far_interval)}, of {rates.same:,} same ones {rates.tar:.1%} "
        f"{interval(rates.tar_interval)}"
    )
    dev_same = first.development[1]
    result = {
        "run": str(given.run),
        "data": given.path,
        "pairs": None if job.pairs is None else str(job.pairs),
        "encoder": fingerprint(given.encoder),
        "threshold": own.threshold,
        "false_accept_rate": job.far,
        "development": {"same": int(dev_same.sum()), "different": int((~dev_same).sum())},
        "test": {key: list(one) if isinstance(one, tuple) else one for key, one in asdict(rates).items()},
        "identities": {"development": first.identities[0], "test": first.identities[1]},
        "pairs_across_parts": first.lost,
        "unread_pairs": unread,
        "figures": own.figures,
        "raw": given.modality.raw_name,
        "seed": job.seed,
        "machine": dist.machine(items.on),
        "rows": rows,
    }
    keep(given.place, NAME, result)
    if job.pairs is not None:
        keep_scores(items, parts[job.seed], own)
    page(job, items, parts[job.seed], own, rows, result)
    say(f"threshold and report: {given.place / (NAME + '.json')}, {given.place / 'report.html'}")
    return result


def judged(vectors: Tensor, parts: Parts, far: float) -> Judged:
    """The threshold of the development part, and what it does to the test part."""
    pairs, same = parts.development
    before = verification.cosines(vectors, pairs)
    threshold = verification.threshold_at(before, same, far)
    pairs, truth = parts.test
    scores = verification.cosines(vectors, pairs)
    curve = verification.roc(scores, truth)
    rates = verification.rates_at(scores, truth, threshold)
    figures = {
        "auc": verification.auc(scores, truth),
        "eer": verification.equal_error_rate(curve)[0],
        "tar": rates.tar,
        "far": rates.far,
        **{name: verification.min_dcf(curve, prior) for name, prior in PRIORS.items()},
    }
    return Judged(
        threshold,
        verification.roc(before, same),
        scores,
        curve,
        rates,
        figures,
        verification.auc(before, same),
    )


def figures_of(found: Judged) -> tuple[float, Figures]:
    """What the better of two kinds of random weights is chosen by, on the development part, and the figures."""
    return found.development_auc, found.figures


def told_of_parts(job: Verify, parts: Parts, items: int, unread: int) -> None:
    (_, dev), (_, test) = parts.development, parts.test
    say(
        f"{items:,} items; {len(dev):,} pairs of {parts.identities[0]} identities to choose the threshold on, "
        f"{len(test):,} pairs of {parts.identities[1]} others to measure it on"
    )
    if min(parts.identities) < FEW:
        say("so few identities that the rates depend on who they are: see how far they differ between splits", "yellow")
    if parts.lost:
        say(f"{parts.lost:,} given pairs have an item in either part and are left out")
    if unread:
        say(f"{unread:,} given pairs have an item that cannot be read and are left out", "yellow")
    if (needed := verification.resolved_by(job.far)) > (have := int((~dev).sum())):
        say(
            f"a false-accept rate of {job.far:g} needs about {needed:,} different pairs to be told; the development "
            f"part has {have:,}. Give more items, or a larger --far.",
            "yellow",
        )


def parts_of_labels(identities: np.ndarray, most: int, seed: int) -> Parts:
    side = verification.sides_of(identities, SHARE, seed)

    def of(inside: np.ndarray) -> tuple[Pairs, Same]:
        places = np.flatnonzero(inside)
        pairs, same = verification.pairs_of(identities[places], most, seed)
        return places[pairs], same

    return complete(Parts(of(side), of(~side), counts(identities, side)))


def parts_of_pairs(pairs: Pairs, same: Same, identities: np.ndarray, seed: int) -> Parts:
    side = verification.sides_of(identities, SHARE, seed)
    one, two = side[pairs].T
    chosen, other = one & two, ~one & ~two
    lost = len(pairs) - int(chosen.sum() + other.sum())
    of = [(pairs[some], same[some]) for some in (chosen, other)]
    return complete(Parts(of[0], of[1], counts(identities, side), lost))


def counts(identities: np.ndarray, side: np.ndarray) -> tuple[int, int]:
    return len(np.unique(identities[side])), len(np.unique(identities[~side]))


def complete(parts: Parts) -> Parts:
    """Raises UserError where a part has not pairs of both kinds."""
    for name, (_, same) in (("development", parts.development), ("test", parts.test)):
        if same.all() or not same.any():
            kind = "different" if len(same) and same.all() else "same" if len(same) else "same or different"
            raise UserError(
                f"the {name} part has no {kind} pairs: identities are divided in two, and pairs across them are left "
                "out. Give more identities with two items or more, more pairs, or another --seed."
            )
    return parts


def read_pairs(path: Path, given: Given) -> tuple[Pairs, Same]:
    """The items of each row of a CSV a,b,same, and whether they are the same. Raises UserError."""
    path = path.expanduser()
    if path.suffix.lower() != ".csv":
        raise UserError(f"--pairs {path}: give a .csv with the columns a, b and same.")
    rows = list(table(path))
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    headed = set(HEAD) <= set(head)
    places = [head.index(name) for name in HEAD] if headed else [0, 1, 2]
    odd = [row for row in rows if len(row) != len(head)] if len(head) > 2 else rows[:1]
    if odd or not rows:
        raise UserError(
            f"{path}: rows must have three cells, a, b and same" + (f"; one has {len(odd[0])}." if odd else ".")
        )
    if headed or head[2] not in WORDS:  # a header, of these names or of others
        rows = rows[1:]
    cells = [[row[place].strip() for place in places] for row in rows]
    wrong = [same for _, _, same in cells if same.lower() not in WORDS]
    if wrong:
        raise UserError(f"{path}: {some(wrong, len(cells), 'rows')} do not say 1 or 0 in the column same.")
    names = [given.name(i) for i in range(len(given))]
    find = Finder(path, names, given.root, given.path)
    found = [[find.item(cell) for cell in (a, b)] for a, b, _ in cells]
    missing = [
        cell for row, pair in zip(cells, found, strict=True) for cell, i in zip(row, pair, strict=False) if i is None
    ]
    if missing:
        raise UserError(f"{path}: {some(missing, 2 * len(cells), 'cells')} name no item of {given.path}.")
    pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
    if (selfs := np.flatnonzero(pairs[:, 0] == pairs[:, 1])).size:
        raise UserError(f"{path}: {len(selfs)} pairs are an item and itself, the first is {cells[selfs[0]][0]}.")
    return pairs, np.array([WORDS[same.lower()] for _, _, same in cells], dtype=bool)


def placed(pairs: Pairs, same: Same, items: Encoded) -> tuple[Pairs, Same]:
    """Pairs by the places of their items among those encoded; without those whose items could not be read."""
    kept = np.array(items.items)
    readable = np.isin(pairs, kept).all(axis=1)
    return np.searchsorted(kept, pairs[readable]), same[readable]


def keep_scores(items: Encoded, parts: Parts, own: Judged) -> None:
    """scores.csv: the given pairs of the test part."""
    pairs, same = parts.test
    columns: dict[str, Sequence[Any]] = {
        "a": [items.names[k] for k in pairs[:, 0]],
        "b": [items.names[k] for k in pairs[:, 1]],
        "same": same.astype(int).tolist(),
        "cosine": [f"{score:.6f}" for score in own.scores],
        "accepted": (own.scores >= own.threshold).astype(int).tolist(),
    }
    keep_table(items.given.place, "scores", columns)


def interval(ends: tuple[float, float]) -> str:
    return f"({ends[0]:.2%} to {ends[1]:.2%})"


# The page ------------------------------------------------------------------------------------------------------------


def page(
    job: Verify, items: Encoded, parts: Parts, own: Judged, rows: list[dict[str, Any]], result: dict[str, Any]
) -> None:
    rates, (pairs, same) = own.rates, parts.test
    figures = [
        ("Threshold of the cosine", f"{own.threshold:.4f}", f"FAR {job.far:g} where it was chosen"),
        ("False-accept rate", f"{rates.far:.2%}", f"95 %: {interval(rates.far_interval)}"),
        ("True-accept rate", f"{rates.tar:.1%}", f"95 %: {interval(rates.tar_interval)}"),
        ("Equal error rate", f"{own.figures['eer']:.1%}", ""),
        ("AUC", f"{own.figures['auc']:.3f}", "0.5 is chance"),
    ]
    note = (
        f"Mean ± standard deviation over {job.seeds} splits of the identities, with other random weights in each. TAR "
        f"and FAR: achieved by the threshold that was chosen for a FAR of {job.far:g}, one of its own for each row. "
        f"EER, minDCF and FAR: lower is better. Raw is {result['raw']}. Of random weights the better of two kinds of "
        "batch-norm statistics counts, by the AUC of the development part."
    )
    lead = (
        "An accepted pair has a cosine of at least the threshold. It was chosen on the pairs of "
        f"{parts.identities[0]} identities; the figures here are those of {parts.identities[1]} others: "
        f"{rates.same:,} same and {rates.different:,} different pairs"
        + (f", of the first of {job.seeds} splits. The table below has the mean of all. " if job.seeds > 1 else ". ")
        + "The intervals are Wilson's, which take pairs as independent; pairs "
        "that share an item are not, so the truth is less certain than they say."
    )
    first = ", first split" if job.seeds > 1 else ""
    sections = [
        ("beside", "Beside random weights and raw input", beside_html(rows, NAMES, note, forms=FORMS)),
        ("curves", f"Curves of the test part{first}", charts(own, same)),
        ("accepted", "Different, but most alike", pair_strips(items, pairs, same, own, False)),
        ("rejected", "The same, but least alike", pair_strips(items, pairs, same, own, True)),
    ]
    about = {key: value for key, value in result.items() if key not in ("rows", "figures", "test")}
    settings = [*about.items(), *versions()]
    title = f"Same or different: {items.given.run.name} on {items.given.path}"
    write_vector_page(items.given.place, title, lead, figures, sections, settings, items.skipped)


def charts(own: Judged, same: Same) -> str:
    """ROC, errors by threshold, and where scores lie."""
    far, tar = own.curve.far, own.curve.tar
    area = f"AUC {own.figures['auc']:.3f}"
    roc = curve(
        "ROC", {"TAR": (far.tolist(), tar.tolist())}, "false-accept rate", "true-accept rate",
        note="Pairs of either kind that pass as the threshold falls. A diagonal is chance.", said=area,
    )  # fmt: skip
    seen = np.isfinite(own.curve.threshold)
    at = own.curve.threshold[seen][::-1].tolist()
    errors = {"FAR": (at, far[seen][::-1].tolist()), "FRR": (at, (1 - tar[seen])[::-1].tolist())}
    by = curve(
        "Errors by threshold", errors, "cosine", said=f"EER {own.figures['eer']:.1%}",
        note=f"FAR: different pairs that are accepted; FRR: same ones that are not. The threshold is "
        f"{own.threshold:.4f}.",
    )  # fmt: skip
    edges = np.linspace(own.scores.min(), own.scores.max() + 1e-9, BINS + 1)
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    shares = {}
    for name, kind in (("same", same), ("different", ~same)):
        count, _ = np.histogram(own.scores[kind], edges)
        shares[name] = (middles, (count / kind.sum()).tolist())
    where = curve(
        "Scores", shares, "cosine", said="", note="Share of the pairs of a kind. The less they overlap, the better."
    )
    return f'<div class="curves">{roc}{by}{where}</div>'


def pair_strips(items: Encoded, pairs: Pairs, same: Same, own: Judged, kind: bool) -> str:
    """The pairs of a kind whose score is most wrong, each item once; three pairs of two tiles a strip."""
    of = np.flatnonzero(same == kind)
    order = of[np.argsort(own.scores[of] if kind else -own.scores[of], kind="stable")]
    shown: set[int] = set()
    tiles: list[Tile] = []
    for k in order.tolist():
        one, two = pairs[k].tolist()
        if {one, two} & shown:
            continue
        shown |= {one, two}
        passed = own.scores[k] >= own.threshold
        said = f"{own.scores[k]:.3f} · {'accepted' if passed else 'rejected'}"
        right = " same" if passed == kind else ""
        of = items.names[one].rpartition("/")[2]
        tiles += [Tile(one, items.names[one], of), Tile(two, items.names[two], said, f"end{right}")]
        if len(tiles) == 2 * SHOWN:
            break
    lead = (
        "Pairs side by side, worst first, each item once; under the second their cosine, underlined where the "
        "threshold is right."
    )
    rows = [tiles[k : k + 2 * A_STRIP] for k in range(0, len(tiles), 2 * A_STRIP)]
    return f'<p class="lead">{lead}</p>{tiled(rows, items.picture, items.fragment)}'


# Two items -----------------------------------------------------------------------------------------------------------


def compared(job: Verify, module: torch.nn.Module | None) -> dict[str, Any]:
    """Whether two files hold the same, by the threshold that was kept."""
    encoder, run, _ = encoder_of(job, module)
    place = job.out or run / job.FOLDER
    path = place / f"{NAME}.json"
    if not path.is_file():
        raise UserError(
            f"there is no threshold in {place}. Choose one first, on labelled items: selfsame verify "
            f"{job.run_folder} LABELLED"
        )
    kept = read_json(path)
    if kept.get("encoder") != fingerprint(encoder) or not isinstance(kept.get("threshold"), int | float):
        raise UserError(
            f"the threshold in {path} was chosen for another encoder than that of {job.run_folder}. Choose one for it: "
            f"selfsame verify {job.run_folder} LABELLED"
        )
    assert job.data is not None and job.other is not None
    vectors = torch.cat([alone(path, encoder, job.device) for path in (job.data, job.other)])
    check_finite(vectors)
    cosine, threshold = float(verification.cosines(vectors, np.array([[0, 1]]))[0]), float(kept["threshold"])
    same = cosine >= threshold
    rates = kept["test"]
    say(
        f"{'same' if same else 'different'}: cosine {cosine:.4f}, threshold {threshold:.4f} (of other different pairs "
        f"{rates['far']:.2%} passed for the same, of same ones {rates['tar']:.1%})"
    )
    return {"same": same, "cosine": cosine, "threshold": threshold, "false_accept_rate": kept["false_accept_rate"]}


def alone(path: str, encoder: Encoder, device: str) -> Tensor:
    """The vector [1 d] of the one item at a path. Raises UserError where there are more."""
    data = open_like(path, encoder)
    if len(data.source) != 1:
        raise UserError(f"{path} holds {len(data.source):,} items; to compare two, give two files with one item each.")
    views = data.modality.recipe("weak", encoder.spec["size"], data.stats)
    _, found = all_vectors(encoder, data, views, [0], dist.device(device))
    return torch.from_numpy(found)
