"""What `evaluate` does: features of the encoder and of its baselines, through one protocol after the other."""

import copy
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from selfsame.downstream.finetune import Finetune, finetune, predict
from selfsame.downstream.knn import knn_accuracy
from selfsame.downstream.metrics import top_k_accuracy
from selfsame.downstream.protocol import Features, Row, beats, measure
from selfsame.downstream.protocol import table as table_of
from selfsame.downstream.split import budget, grouped_split, numbered, read_budget, stratified_split
from selfsame.engine import dist
from selfsame.engine.feed import CUT, VIEW, Order
from selfsame.engine.plan import workers_for
from selfsame.engine.state import check_writable, write_text
from selfsame.engine.watch import console, say
from selfsame.errors import NO_LABEL, UserError
from selfsame.jobs.data import Data, all_vectors, check_share, open_like, parts_of
from selfsame.jobs.evaluate import Evaluate
from selfsame.jobs.grouping import groups_of
from selfsame.jobs.runs import EVALUATION, JOB, load
from selfsame.nn.norm import calibrated
from selfsame.records import ViewPlan
from selfsame.types import Draws, Encoder, Modality, mixed

PARTS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}  # folders that are no classes
CALIBRATED = 512  # train items whose batch-norm statistics random weights are given


@dataclass
class Part:
    """Labelled items: a source, which of its items, and their class numbers."""

    data: Data
    items: list[int]
    labels: Tensor


class Labelled:
    """Train and test items as an encoder of one architecture sees them, whatever its weights."""

    def __init__(
        self, encoder: Encoder, train: Part, test: Part, on: torch.device, workers: int, max_skipped: float
    ) -> None:
        self.encoder, self.train, self.test = encoder, train, test
        self.on, self.workers, self.max_skipped = on, workers, max_skipped
        self.views = train.data.modality.recipe("weak", encoder.spec["size"], train.data.stats)

    def vectors(self, of: Encoder) -> tuple[Tensor, Tensor]:
        """Of the train and of the test items; those that cannot be read are left out from now on."""
        both = []
        for part in (self.train, self.test):
            kept, found = all_vectors(of, part.data, self.views, part.items, self.on, self.workers)
            forget(part, kept)
            check_share(part.data, self.max_skipped)
            both.append(torch.from_numpy(found))
        return both[0], both[1]

    def fresh(self, seed: int) -> Encoder:
        """The same network with random weights."""
        return redrawn(self.encoder, self.train.data.modality, seed, self.on)

    def untrained(self, seed: int) -> tuple[Tensor, Tensor]:
        """Vectors of random weights: with batch-norm statistics as they are made, or with the data's.

        Either can be far better, so the baseline is the one whose k-NN is better within the train part.
        """
        train = self.train
        plainly, some = self.vectors(self.fresh(seed)), np.random.default_rng(mixed(seed, 4)).permutation(train.items)
        chosen = some[:CALIBRATED].tolist()
        met = plain(train.data, self.views, chosen, chunk=-(-len(chosen) // -(-len(chosen) // 128)))
        knowing = self.vectors(calibrated(self.fresh(seed), (view.to(self.on) for view in met)))
        half, other = stratified_split(train.labels, 0.5, seed)
        if not len(other):  # one item a class: nothing to choose by
            return knowing

        def within(pair: tuple[Tensor, Tensor]) -> float:
            return knn_accuracy(pair[0][half], train.labels[half], pair[0][other], train.labels[other])

        return max((plainly, knowing), key=within)


def run(job: Evaluate, module: torch.nn.Module | None = None) -> dict[str, Any]:
    protocols, budgets = job.protocols.split(","), job.budgets.split(",")
    for wanted in budgets:  # what can be refused at once is not refused after hours
        read_budget(wanted)
    encoder = load(job.run_folder, module)
    check_writable(job.run_folder)
    on = dist.device(job.device)
    encoder.to(on)
    if protocols == ["similarity"]:
        return of_pairs(job, encoder, on)
    train, test, names = parts(job, encoder)
    workers, _ = workers_for(getattr(train.data.source, "array", None) is not None, job.workers)
    say(f"{len(train.items):,} train and {len(test.items):,} test items of {len(names)} classes")
    labelled = Labelled(encoder, train, test, on, workers, job.max_skipped)

    # The encoder goes first: it finds the unreadable items, so that all features are of the same items.
    trained = labelled.vectors(encoder)
    features: dict[Literal["encoder", "random", "raw", "supervised"], Features] = {
        "encoder": lambda seed: trained,
        "random": labelled.untrained,
        "raw": lambda seed: raw(train, test),
    }
    frozen = [name for name in protocols if name != "finetune"]
    seeds = range(job.seed, job.seed + job.seeds)
    rows = measure(features, train.labels, test.labels, frozen, budgets, seeds) if frozen else []

    def result() -> dict[str, Any]:
        return {
            "run": str(job.run_folder),
            "labelled": job.labelled,
            "classes": len(names),
            "raw": train.data.modality.raw_name,
            "train": len(train.items),
            "test": len(test.items),
            "seed": job.seed,
            "machine": dist.machine(on),
            "rows": [row.model_dump() for row in rows],
            "verdicts": [str(verdict) for verdict in beats(rows, len(test.items))],
        }

    starts: dict[tuple[str, str], Callable[[int], Encoder]] = {}
    if "finetune" in protocols:
        starts["encoder", "finetune"] = lambda seed: encoder
        starts["random", "finetune"] = labelled.fresh
    elif job.supervised:
        starts["supervised", "finetune"] = labelled.fresh
    for (kind, protocol), start in starts.items():
        # Fine-tuning random weights is training with labels only: one row serves as both.
        shown = "supervised" if kind == "random" else kind
        for wanted in budgets:
            runs = []
            write_text(job.run_folder / EVALUATION, json.dumps(result(), indent=1) + "\n")  # before the slow part
            for seed in seeds:
                say(f"fine-tuning: {shown}, labels {wanted}, seed {seed}")
                runs.append(
                    tuned(job, start(seed), train, test, labelled.views, wanted, seed, shown != "encoder", len(names))
                )
            rows.append(Row.of(shown, protocol, wanted, runs))  # type: ignore[arg-type]
    found = result()
    console.print(table_of(rows))
    for sentence in found["verdicts"]:
        say(sentence)
    keep(job, found)
    return found


def of_pairs(job: Evaluate, encoder: Encoder, on: torch.device) -> dict[str, Any]:
    """The same for pairs with a score."""
    from selfsame.jobs.similar import similar

    found = similar(job, encoder, on)
    rows = found["rows"]
    result = {
        **found,
        "rows": [row.model_dump() for row in rows],
        "verdicts": [str(verdict) for verdict in beats(rows, found["pairs"])],
    }
    console.print(table_of(rows))
    for sentence in result["verdicts"]:
        say(sentence)
    keep(job, result)
    return result


def parts(job: Evaluate, encoder: Encoder) -> tuple[Part, Part, list[str]]:
    """Train and test parts: as given, as `parts_of` finds them, or split by seed."""
    train_path, test_path, test_labels = job.labelled, job.test, job.test_labels
    if test_path is None and parts_of(job.labelled)[1] is not None:
        train_path, test_path = parts_of(job.labelled)
        test_labels = test_labels or job.labels  # one list for both parts
    elif test_path is None and ".npz" in job.labelled:
        train_path, test_path = archive_parts(job.labelled)
    elif job.labels is not None and not Path(job.labels.partition("::")[0]).expanduser().exists():
        test_labels = test_labels or job.labels  # a column of both, or the folders of both; a file is of one
    train = open_like(train_path, encoder, job.labels)
    if test_path is None:
        items, everything = labelled_items(train)
        names, numbers, _ = numbered(everything, [])
        if job.groups is None:
            kept, held = stratified_split(numbers, job.test_share, job.seed)
        else:
            of_items = [train.source.name(i) for i in items]
            groups = groups_of(job.groups, train_path, job.labels, encoder.spec, train.source, of_items, of_items)
            kept, held = grouped_split(numbers, groups, job.test_share, job.seed)
        some, others = ([items[k] for k in side.tolist()] for side in (kept, held))
        if not len(held):
            raise UserError(f"{job.labelled} has one item of each class, so none can be split off. Give --test PATH.")
        say(f"no test part: {job.test_share:.0%} of each class split off by seed {job.seed}")
        return Part(train, some, numbers[kept]), Part(train, others, numbers[held]), names
    if job.groups is not None:
        raise UserError("--groups says how a test part is split off, and there is one already. Leave it out.")
    test = open_like(test_path, encoder, test_labels)
    items, first = labelled_items(train)
    others, second = labelled_items(test, "--test-labels")
    names, of_train, of_test = numbered(first, second)
    return Part(train, items, of_train), Part(test, others, of_test), names


def archive_parts(path: str) -> tuple[str, str | None]:
    """x_train and x_test of one .npz, where it has both and no other key was asked for."""
    file, _, key = path.partition("::")
    if not zipfile.is_zipfile(Path(file).expanduser()):
        return path, None  # its source says what is wrong with it
    with zipfile.ZipFile(Path(file).expanduser()) as archive:
        keys = {name.removesuffix(".npy") for name in archive.namelist()}
    if key in ("", "x_train") and {"x_train", "x_test"} <= keys:
        return f"{file}::x_train", f"{file}::x_test"
    return path, None


def labelled_items(data: Data, flag: str = "--labels") -> tuple[list[int], list[str]]:
    """The items and their labels, but of those that cannot be read: these count as skipped, and are of no class."""
    labels = labels_of(data, flag)
    items = with_label(data, labels)
    return items, [labels[i] for i in items]


def with_label(data: Data, labels: list[str]) -> list[int]:
    """The items whose label could be read; the others are listed as skipped. Raises UserError where all are."""
    items = [i for i, label in enumerate(labels) if label != NO_LABEL]
    if len(items) < len(labels):
        data.skipped.update((i, "its row cannot be read") for i, label in enumerate(labels) if label == NO_LABEL)
    if not items:
        check_share(data, 1.0)
    return items


def labels_of(data: Data, flag: str = "--labels") -> list[str]:
    return classes(data.source.labels, data.path, flag)


def classes(labels: list[str] | None, path: str, flag: str = "--labels") -> list[str]:
    """The labels of the items of a path. Raises UserError where there are none, or they are no classes."""
    if labels is None:
        raise UserError(
            f"{path} has no labels. Accepted: one folder a class, {flag} FILE.csv with the columns path,label, "
            f"or {flag} FILE.npz::y."
        )
    found = set(labels) - {NO_LABEL}
    if len(found) > 1 and {name.lower() for name in found} <= PARTS:
        named = " and ".join(sorted(found))
        raise UserError(
            f"{path}: {named} are parts of a set, not classes. Give the part to learn from, and --test the other; "
            "a folder with train/ and test/ is taken apart by itself."
        )
    return labels


def forget(part: Part, kept: list[int]) -> None:
    """Leave out the items that could not be read."""
    if len(kept) == len(part.items):
        return
    chosen = set(kept)
    mask = torch.tensor([item in chosen for item in part.items])
    part.labels = part.labels[mask]
    part.items = kept


def raw(train: Part, test: Part) -> tuple[Tensor, Tensor]:
    """The trivial feature of this kind of data."""
    parts = [(part.data.source, part.items) for part in (train, test)]
    first, second = train.data.modality.raw_vectors(parts, train.data.stats)
    return first, second


def redrawn(encoder: Encoder, modality: Modality, seed: int, on: torch.device) -> Encoder:
    """The same network with random weights, in eval mode."""
    torch.manual_seed(mixed(seed, 3))
    try:
        new = modality.build_encoder(encoder.spec)
    except UserError:  # a module given in Python cannot be built again: a copy with all weights drawn anew
        new = copy.deepcopy(encoder)
        reinitialise(new)
    return new.to(on).eval()


@torch.no_grad()
def reinitialise(module: torch.nn.Module) -> None:
    """Draw the weights of every layer that knows how to; all other weights are shuffled, which keeps their scale."""
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
            continue
        for weight in part.parameters(recurse=False):
            weight.copy_(weight.flatten()[torch.randperm(weight.numel())].view_as(weight))


def tuned(
    job: Evaluate,
    start: Encoder,
    train: Part,
    test: Part,
    views: Any,
    wanted: str,
    seed: int,
    scratch: bool,
    classes: int,
) -> float:
    """Test accuracy after fine-tuning on a label budget; a stratified tenth of it chooses the epoch."""
    use = budget(train.labels, wanted, seed)
    learn, check = stratified_split(train.labels[use], 0.1, seed)
    items, labels = [train.items[i] for i in use[learn]], train.labels[use[learn]]
    settings = Finetune(epochs=job.epochs, batch=min(job.batch_size, len(items)), bf16=dist.has_bf16(on_of(start)))
    modality, stats = train.data.modality, train.data.stats
    order, plan = Order(len(items), seed), ViewPlan(full=1)

    def batch_at(step: int) -> tuple[Tensor, Tensor]:
        chosen = order.at(np.arange(step * settings.batch, (step + 1) * settings.batch))
        numbers = [items[i] for i in chosen]
        cut = Draws(seed, step, len(numbers), stream=CUT)
        samples = [part.to(on_of(start)) for part in modality.sample(train.data.source, numbers, plan, views, cut)]
        draws = Draws(seed, step, len(numbers), stream=VIEW)
        return modality.make_views(samples, plan, views, stats, draws)[0], labels[torch.from_numpy(chosen)]

    checked = [train.items[i] for i in use[check]] or items
    truth = train.labels[use[check]] if len(check) else labels
    validation = list(zip(plain(train.data, views, checked), truth.split(128), strict=True))
    best = finetune(start, classes, batch_at, settings.epoch_steps(len(items)), validation, settings, seed, scratch)
    scores = predict(best.classifier, plain(test.data, views, test.items), settings.bf16)
    return top_k_accuracy(scores, test.labels)


def plain(data: Data, views: Any, items: list[int], chunk: int = 128) -> Iterator[Tensor]:
    for k in range(0, len(items), chunk):
        part = items[k : k + chunk]
        plan = ViewPlan(full=0, plain=1)
        yield data.modality.sample(data.source, part, plan, views, Draws(0, 0, len(part)))[0]


def on_of(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device


def keep(job: Evaluate, result: dict[str, Any]) -> None:
    """evaluation.json, and the numbers in the run's report and model card."""
    from selfsame.jobs.report import refresh_report

    write_text(job.run_folder / EVALUATION, json.dumps(result, indent=1) + "\n")
    if (job.run_folder / JOB).exists():
        refresh_report(job.run_folder, result)
