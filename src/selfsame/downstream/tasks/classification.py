"""Classification: one class an item, or several at once (tags), of any kind of data.

Sources: linear head on the pooled vector with a batch norm without weights in front, He et al. 2022 (MAE), arXiv
2111.06377, appendix A.1; macro average precision as scikit-learn defines it; expected calibration error, Guo et al.
2017, arXiv 1706.04599, section 2 (15 bins of equal width).
"""

import csv
import io
import json
import posixpath
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from pydantic import Field
from sklearn.metrics import average_precision_score, f1_score, label_ranking_average_precision_score
from torch import Tensor, nn

from selfsame import modalities
from selfsame.downstream import metrics, task
from selfsame.downstream.task import Attempt, directly
from selfsame.engine.state import write_text
from selfsame.errors import NO_LABEL, UserError
from selfsame.records import ViewPlan
from selfsame.types import Draws, Encoder

BETWEEN = "|"  # tags of one item; alone it stands for none


class Classes(task.Facts):
    """The classes."""

    classes: tuple[str, ...]
    several: bool
    """whether an item can have several classes, or none"""

    @property
    def summary(self) -> str:
        what = "tags, of which an item has any number" if self.several else "classes"
        names = ", ".join(self.classes[:8]) + (", ..." if len(self.classes) > 8 else "")
        return f"{len(self.classes)} {what}: {names}"


class Classification(task.Task):
    """Say the class of an item, or its tags."""

    score: ClassVar = "balanced accuracy"
    lr_frozen: ClassVar = 1e-2
    accepts: ClassVar = (
        "one folder a class, or --labels with a CSV path,label (tags joined by |, which stands alone for none), "
        "a column, or file.npz::y"
    )
    Facts: ClassVar = Classes

    several: bool | None = None
    """whether an item can have several classes [yes where a label holds |]"""
    views: str = "weak"
    """strength of the training views, by the names that `pretrain --views` takes"""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of each target spread over all classes; of one class an item"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of the vector's numbers that are hidden from the head in training"""

    def open(
        self, path: str, labels: str | None, encoder: Encoder, facts: Any = None, labelled: bool = True
    ) -> "Labelled":
        found = modalities.open_like(path, encoder.spec, labels)
        if not labelled:
            return Labelled(self, found, encoder, range(len(found.source)), [], facts, False)
        given = found.source.labels
        if given is None:
            folders = {posixpath.dirname(found.source.name(i)) for i in range(len(found.source))}
            if len(folders) == 1 and (only := folders.pop()):
                raise UserError(
                    f"{path} holds only one class ({posixpath.basename(only)}); classification needs two or more."
                )
            raise UserError(f"{path} has no labels for --task classification. Accepted: {self.accepts}.")
        items = [i for i, label in enumerate(given) if label not in (NO_LABEL, "")]
        several = facts.several if facts else self.several
        if several is None:
            several = any(BETWEEN in given[i] for i in items)
        if several:
            items = [i for i, label in enumerate(given) if label != NO_LABEL]  # one without tags is known to have none
        names = {name for i in items for name in parted(given[i], several)}
        if facts is None:
            if len(names) < (1 if several else 2):
                raise UserError(
                    f"{path}: all {len(items)} labels are {next(iter(names), 'empty')!r}; classification needs two "
                    "classes or more."
                )
            facts = Classes(classes=tuple(sorted(names)), several=several)
        elif odd := sorted(names - set(facts.classes)):
            raise UserError(
                f"{path} has the class{'es' if len(odd) > 1 else ''} {', '.join(map(repr, odd[:5]))}, which the head "
                f"was not made for. It knows: {', '.join(facts.classes[:20])}. Adapt anew with these labels."
            )
        number = {name: k for k, name in enumerate(facts.classes)}
        return Labelled(
            self, found, encoder, items, [[number[n] for n in parted(given[i], several)] for i in items], facts, True
        )

    def head(self, encoder: Encoder, facts: Classes, size: int) -> "Linear":
        return Linear(encoder.dim, facts, self.smoothing, self.dropout)

    def chosen_by(self, facts: Classes) -> str:
        return "mAP" if facts.several else self.score

    def scores(self, facts: Classes) -> "Scores":
        return Scores(facts)

    def trivial(self, examples: task.Examples, items: Sequence[int]) -> Callable[[task.Examples, int], Any]:
        """The share of these items that each class has, or each tag: of classes the most frequent is said."""
        shares = np.mean([np.asarray(examples.truth(i)) for i in items], axis=0, dtype=np.float64)
        return lambda _, __: shares

    def baseline(self, facts: Classes) -> str:
        return "tag frequencies" if facts.several else "most frequent class"

    def suffixes(self) -> tuple[str, ...]:
        return (".csv", ".json")

    def write(self, predictions: Iterable[tuple[str, Float[np.ndarray, "k"]]], facts: Classes, out: Path) -> list[Path]:
        """CSV: name, label, probability, then the probability of each class; or the same as a JSON list.

        `probability` is that of the likeliest class or tag: of the label, where there is one.
        """
        rows = [(name, self.caption_of(p, facts), p) for name, p in predictions]
        if out.suffix == ".json":
            found = []
            for name, label, p in rows:
                told = {"name": name, "label": label, "probability": rounded(max(p, default=0.0))}
                each = {c: rounded(v) for c, v in zip(facts.classes, p, strict=True)}
                found.append({**told, **each, **told})  # a class that is called name or label takes no place of theirs
            write_text(out, json.dumps(found, indent=1) + "\n")
            return [out]
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["name", "label", "probability", *facts.classes])
        for name, label, p in rows:
            top = max((float(v) for v in p), default=0.0)
            table.writerow([name, label, f"{top:.6g}", *(f"{v:.6g}" for v in p)])
        write_text(out, text.getvalue())
        return [out]

    def caption_of(self, p: Float[np.ndarray, "k"], facts: Classes) -> str:
        """The class, or the tags that are more likely than not."""
        if not facts.several:
            return facts.classes[int(np.argmax(p))]
        return BETWEEN.join(name for name, v in zip(facts.classes, p, strict=True) if v >= 0.5)

    def picture(
        self, examples: task.Examples, i: int, prediction: Any, truth: Any, side: int = 256
    ) -> Image.Image | str:
        assert isinstance(examples, Labelled)
        modality, source = examples.opened.modality, examples.opened.source
        item = int(examples.items[i])
        return modality.fragment(source, item) or modality.picture(source, item, side)

    def caption(self, prediction: Float[np.ndarray, "k"], truth: Any, facts: Classes) -> str:
        """As in: said 0 (0.41), is 1."""
        says = f"said {self.caption_of(prediction, facts) or 'no tag'}"
        if not facts.several:
            says += f" ({prediction.max():.2f})"
        if truth is None:
            return says
        right = self.caption_of(np.asarray(truth, dtype=np.float64), facts) or "no tag"
        return f"{says}, is {right}"


def rounded(value: float) -> float:
    """To six digits, as they are written."""
    return float(f"{value:.6g}")


class Labelled(task.Examples):
    """Items of a modality and the classes of each."""

    def __init__(
        self,
        settings: Classification,
        opened: modalities.Opened,
        encoder: Encoder,
        items: Sequence[int],
        classes: list[list[int]],
        facts: Classes,
        labelled: bool,
    ) -> None:
        self.settings, self.opened = settings, opened
        self.items = np.asarray(items, dtype=np.int64)
        self.classes = classes
        self.facts: Classes = facts
        self.labelled = labelled
        self.skipped = {}
        self.recipe = opened.modality.recipe(settings.views, int(encoder.spec["size"]), opened.stats)

    def __getstate__(self) -> dict[str, Any]:
        """For reading processes: a modality is a module, which travels by its name."""
        return {**self.__dict__, "opened": (self.opened.modality.__name__, *self.opened[1:])}  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any]) -> None:
        name, *rest = state.pop("opened")
        self.__dict__.update(state)
        known = name.removeprefix(f"{modalities.__name__}.")
        self.opened = modalities.Opened(modalities.load(known), *rest)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def source(self) -> Any:
        return self.opened.source

    def name(self, i: int) -> str:
        return self.opened.source.name(int(self.items[i]))

    def part_of(self, i: int) -> str:
        """Of a window the recording or record, of a frame the video."""
        source: Any = self.opened.source
        if hasattr(source, "video_of"):
            return source.videos[source.video_of(int(self.items[i]))]
        name = self.name(i)
        return name.rpartition("@")[0] or name if getattr(self.opened.reading, "window", None) else name

    @property
    def strata(self) -> Int[Tensor, "n"]:
        """The class; of items with tags the rarest of them, so that no part is without it."""
        counts = np.bincount([k for of_item in self.classes for k in of_item], minlength=len(self.facts.classes))
        return torch.tensor([min(of_item, key=lambda k: counts[k], default=len(counts)) for of_item in self.classes])

    def sample(
        self, items: Sequence[int], size: int, draws: Draws, learn: bool, attempt: Attempt = directly
    ) -> list[Tensor]:
        source = Standing(self, attempt)
        plan = ViewPlan(full=1) if learn else ViewPlan(full=0, plain=1)
        views = self.opened.modality.sample(
            source, [int(self.items[i]) for i in items], plan, self.of_size(size), draws
        )
        if not learn:
            return views
        return [*views, torch.from_numpy(np.stack([self.target(source.stood.get(i, i)) for i in items]))]

    def of_size(self, size: int | None) -> Any:
        """The strengths for views of a size; None for the encoder's own."""
        if size in (None, getattr(self.recipe, "size", size)):
            return self.recipe
        return self.opened.modality.recipe(self.settings.views, int(size or 0), self.opened.stats)

    def target(self, i: int) -> np.ndarray:
        """The class of an item, or a mark at each of its tags."""
        if not self.facts.several:
            return np.asarray(self.classes[i][0], dtype=np.int64)
        marks = np.zeros(len(self.facts.classes), dtype=np.uint8)
        marks[self.classes[i]] = 1
        return marks

    def make_views(self, samples: list[Tensor], draws: Draws, learn: bool) -> list[Tensor]:
        plan = ViewPlan(full=1) if learn else ViewPlan(full=0, plain=1)
        views = self.of_size(samples[0].shape[-1] if samples[0].ndim == 4 else None)
        made = self.opened.modality.make_views(samples[:1], plan, views, self.opened.stats, draws)
        return [made[0], *samples[1:]]

    def truth(self, i: int) -> Float[np.ndarray, "k"]:
        """1 at the class of an item, or at each of its tags, else 0."""
        marks = np.zeros(len(self.facts.classes))
        marks[self.classes[i]] = 1
        return marks


class Standing:
    """A source that remembers which item stood in for one that could not be read.

    Whatever else it is asked it hands on, so its own names must be those of no source.
    """

    def __init__(self, examples: Labelled, attempt: Attempt) -> None:
        self._source, self._attempt = examples.opened.source, attempt
        self._examples = {int(item): i for i, item in enumerate(examples.items)}
        self._items = examples.items
        self.stood: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def attempt(self, item: int, read: Callable[[int], Any]) -> Any:
        """`read` takes items of the source, the engine's own way of trying others takes examples."""
        i = self._examples.get(int(item))
        if i is None:  # read beside, as what is mixed in
            return read(item)

        def of_example(k: int) -> Any:
            made = read(int(self._items[k]))
            self.stood[i] = k
            return made

        return self._attempt(i, of_example)


class Linear(task.Head):
    """A linear layer on the normalised vector."""

    gives: ClassVar = {"probabilities": "float32 [b, k]: of each of `classes`; of tags each for itself"}

    def __init__(self, dim: int, facts: Classes, smoothing: float, dropout: float) -> None:
        super().__init__()
        self.several, self.smoothing = facts.several, smoothing
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6)
        self.drop = nn.Dropout(dropout)
        self.layer = nn.Linear(dim, len(facts.classes))
        nn.init.trunc_normal_(self.layer.weight, std=0.01)
        nn.init.zeros_(self.layer.bias)

    def forward(self, encoder: Encoder, views: Tensor) -> Float[Tensor, "b k"]:
        return self.layer(self.drop(self.norm(encoder(views))))

    def loss(self, outputs: Float[Tensor, "b k"], targets: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.several:
            return F.binary_cross_entropy_with_logits(outputs, targets[0].to(outputs.dtype)), {}
        right = (outputs.argmax(dim=1) == targets[0]).float().mean()
        return F.cross_entropy(outputs, targets[0], label_smoothing=self.smoothing), {"accuracy": right}

    def decoded(self, outputs: Float[Tensor, "b k"]) -> list[Float[np.ndarray, "k"]]:
        """Probabilities of the classes."""
        return list(self.portable(outputs)[0].double().cpu().numpy())

    def portable(
        self, outputs: Float[Tensor, "b k"], height: int | None = None, width: int | None = None
    ) -> tuple[Float[Tensor, "b k"]]:
        return ((outputs.sigmoid() if self.several else outputs.softmax(dim=1)),)


class Scores(task.Scores):
    """Shares in [0, 1]: accuracy, top 5, balanced accuracy, macro F1, nll (nats), ece; of tags mAP and others."""

    def __init__(self, facts: Classes) -> None:
        self.facts = facts
        self.said: list[np.ndarray] = []
        self.known: list[np.ndarray] = []

    def add(self, prediction: Float[np.ndarray, "k"], truth: Float[np.ndarray, "k"]) -> None:
        self.said.append(prediction)
        self.known.append(truth)

    def found(self) -> dict[str, float]:
        if not self.said:
            raise UserError("there are no labelled items to score.")
        p, y = np.stack(self.said), np.stack(self.known)
        return of_tags(p, y) if self.facts.several else of_classes(p, y)


def of_classes(p: Float[np.ndarray, "n k"], y: Float[np.ndarray, "n k"]) -> dict[str, float]:
    """Scores of one class an item; top 5 where there are more than five classes, or it would be 1."""
    scores, labels = torch.from_numpy(p), torch.from_numpy(y.argmax(axis=1))
    said = scores.argmax(dim=1)
    return {
        "balanced accuracy": metrics.balanced_accuracy(said, labels),
        "accuracy": metrics.top_k_accuracy(scores, labels),
        **({"top 5": metrics.top_k_accuracy(scores, labels, 5)} if p.shape[1] > 5 else {}),
        "macro F1": metrics.macro_f1(said, labels),
        "nll": float(-np.log(np.maximum(p[np.arange(len(p)), labels.numpy()], 1e-12)).mean()),
        "ece": calibration_error(p.max(axis=1), (said == labels).numpy()),
    }


def of_tags(p: Float[np.ndarray, "n k"], y: Float[np.ndarray, "n k"]) -> dict[str, float]:
    """Scores of tags. Those that no item has are left out of means over tags, as average precision is none of them."""
    there = y.any(axis=0)
    precision = [float(average_precision_score(y[:, k], p[:, k])) for k in np.flatnonzero(there)]
    if not precision:
        raise UserError("no item has a tag, so that nothing can be scored. Give items with tags.")
    return {
        "mAP": float(np.mean(precision)),
        "micro AP": float(average_precision_score(y.ravel(), p.ravel())),
        "LRAP": float(label_ranking_average_precision_score(y, p)),
        "macro F1": float(f1_score(y[:, there], p[:, there] >= 0.5, average="macro", zero_division=0)),
        "ece": calibration_error(np.concatenate([p.ravel()]), y.ravel() > 0.5),
    }


def calibration_error(confidence: Float[np.ndarray, "n"], right: np.ndarray, bins: int = 15) -> float:
    """Mean over bins of equal width of |share that is right - mean confidence|, weighted by items."""
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    parts = [place == b for b in range(bins)]
    return float(sum(part.mean() * abs(right[part].mean() - confidence[part].mean()) for part in parts if part.any()))


def parted(label: str, several: bool) -> list[str]:
    """The tags of a label, or the label as it is."""
    return [name for name in (part.strip() for part in label.split(BETWEEN)) if name] if several else [label]
