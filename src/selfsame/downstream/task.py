"""What an encoder is used for: labels that are read, a head that learns them, scores that judge it.

One file of `tasks/` is one task, found by its file name: it holds one `Task`, its `Facts`, `Examples` and `Head`.

    labelled items --(workers: Examples.sample)--> samples and targets --(device: Examples.make_views)--> views, targets
        --> Head(encoder, views) --> Head.loss(outputs, targets)                            while it learns
                                 --> Head.decoded(outputs) --> Examples.restored --> Scores where it is used
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn

from selfsame.errors import UserError, printable
from selfsame.records import Record
from selfsame.types import Draws, Encoder

T = TypeVar("T")
Attempt = Callable[[int, Callable[[int], T]], T]


def directly(i: int, read: Callable[[int], T]) -> T:
    """The plain way to read an item; while it learns, `feed.Patient.attempt` gives another for one that is damaged."""
    return read(i)


class Panel(NamedTuple):
    """One of several pictures of an item, with the words that stand under it."""

    picture: Image.Image
    words: str


class Facts(Record):
    """What labels say of a task, saved as JSON with the head: names of classes, of keypoints, the range of depth."""

    @property
    def summary(self) -> str:
        """One line for the plan."""
        raise NotImplementedError


class Examples:
    """Items and what is known of each, read by number: 0 .. n - 1. Items without a label are left out.

    Survives pickling to reading processes. Nothing is random here but what `draws` gives.
    """

    facts: Facts
    here: Facts | None = None
    """what the labels of these items alone say, where facts are measured and may be those of other items"""
    labelled: bool = True
    """False where items are only to be predicted: `truth` and the targets of `sample` are then not there"""
    skipped: dict[int, str]
    """items that cannot be read, and why; added to while they are read"""
    most_skipped: float = 1.0
    """the largest share of unreadable items to go on with: see `check_skipped`"""
    blocks = None  # as of `types.Source`: each item can be read by itself
    window = 1

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, i: int) -> str:
        """Unique name of an item, as its source has it."""
        raise NotImplementedError

    def part_of(self, i: int) -> str:
        """Name of what an item is a part of, as the recording of a window, the picture of an object; else its own."""
        return self.name(i)

    @property
    def strata(self) -> Int[Tensor, "n"]:
        """Numbers by which parts and budgets are drawn evenly: the class; all 0 where there is none."""
        return torch.zeros(len(self), dtype=torch.long)

    def sample(
        self, items: Sequence[int], size: int, draws: Draws, learn: bool, attempt: Attempt = directly
    ) -> list[Tensor]:
        """Worker half: [samples [b ...], *targets [b ...]], of integers where it can be.

        `learn`: cut at random, and with targets; else the item as it is, without. Each item is read by
        `attempt(i, read)`, whose `read` may be called with another item: sample and target must then be that one's.
        """
        raise NotImplementedError

    def make_views(self, samples: list[Tensor], draws: Draws, learn: bool) -> list[Tensor]:
        """Device half: [views [b ...] in [0, 1], *targets], on the device the samples are on."""
        raise NotImplementedError

    def restored(self, i: int, prediction: Any) -> Any:
        """A prediction for the view of `sample(learn=False)`, brought back to the item: its size, its coordinates."""
        return prediction

    def truth(self, i: int) -> Any:
        """What is known of an item, in the form of `restored`. Raises UnreadableItem."""
        raise NotImplementedError

    def check_skipped(self, most: float | None = None, called: str = "labelled items") -> None:
        """Raise UserError where more than `most` of the items cannot be read [`most_skipped`], or none can."""
        lost, total, most = self.skipped, len(self), self.most_skipped if most is None else most
        if len(lost) > most * total or (lost and len(lost) == total):
            i, why = next(iter(lost.items()))
            raise UserError(
                f"{len(lost)} of {total} {called} cannot be read ({len(lost) / total:.1%}; at most "
                f"{most:.1%} may be): {printable(self.name(i))}: {why}. Mend or remove them, or raise --max-skipped."
            )


class Head(nn.Module):
    """What a task adds to the encoder. Sizes come from the encoder and the facts; weights from torch's generator."""

    def forward(self, encoder: Encoder, views: Tensor) -> Any:
        """Outputs for the views, from whatever of the encoder it needs: a tensor, or tensors in lists and dicts."""
        raise NotImplementedError

    def loss(self, outputs: Any, targets: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and parts of it for the log (detached)."""
        raise NotImplementedError

    def decoded(self, outputs: Any) -> list[Any]:
        """One prediction a view, on the CPU, in the view's own coordinates."""
        raise NotImplementedError

    # What `export` asks of it

    gives: ClassVar[dict[str, str]] = {}
    """name of each tensor of `portable`, and what it is, in words; {} where the head cannot be exported"""
    why_not: ClassVar[str] = ""
    """why, and what to do instead"""
    in_half: ClassVar[bool] = True
    """whether it may be exported in half precision"""
    operations: ClassVar[tuple[str, ...]] = ()
    """packages beside torch whose operations `portable` uses"""

    def portable(self, outputs: Any, height: int | None, width: int | None) -> tuple[Tensor, ...]:
        """Predictions as tensors whose first axis is the batch, by operations that other programs have.

        `outputs` in float32. `height` and `width` are those of the pictures, which a file with the preprocessing inside
        squeezes to the view; of the view where there is none. None of what is no picture.
        """
        raise NotImplementedError

    def told(self) -> dict[str, Any]:
        """Further facts for whoever uses the file."""
        return {}

    def apart(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
        """How far the outputs of a file are from what is expected, 0 for not at all.

        To be defined where the largest difference of each output in units of the largest is not it, as of whole
        numbers, or of boxes in any order.
        """
        raise NotImplementedError

    def apart_of(self) -> Callable[[Sequence[Tensor], Sequence[Tensor]], float] | None:
        return None if type(self).apart is Head.apart else self.apart


class Scores:
    """Predictions beside the truth, added one by one; the order and the parts they come in change nothing."""

    def add(self, prediction: Any, truth: Any) -> None:
        raise NotImplementedError

    def found(self) -> dict[str, float]:
        """The scores by name, the one by which weights are chosen among them. UserError where nothing was added."""
        raise NotImplementedError


class Task(Record):
    """Settings of a task. The text of the class is its line in `--help`."""

    name: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    """what the encoder must have: "maps" """
    kinds: ClassVar[tuple[str, ...]] = ()
    """modalities it is for; () for all"""
    score: ClassVar[str] = ""
    """the score by which weights are chosen, unless `chosen_by` says otherwise"""
    lower: ClassVar[bool] = False
    """whether a lower score is better"""
    worth: ClassVar[int] = 20_000
    """samples that a head is trained on where the user names no epochs, on a processor; ten times as many on a GPU"""
    lr: ClassVar[float] = 1e-3
    """peak learning rate of the head where the encoder learns too"""
    lr_frozen: ClassVar[float] = 1e-3
    """the same where it is frozen"""
    batch: ClassVar[int] = 64
    """items in a step where the user names none"""
    parts: ClassVar[tuple[str, str]] = ("", "")
    """what an item may have several of, one and many: ("box", "boxes"); empty where it has one prediction"""
    accepts: ClassVar[str] = ""
    """the forms of labels, in words"""
    Facts: ClassVar[type[Facts]]

    def head_lr(self, freeze: bool) -> float:
        """Peak learning rate of the head where the user names none."""
        return self.lr_frozen if freeze else self.lr

    def open(
        self, path: str, labels: str | None, encoder: Encoder, facts: Any = None, labelled: bool = True
    ) -> Examples:
        """The labelled items at a path, read as the encoder reads.

        `facts` are those of a head that exists: labels that do not fit them are refused. Without, they are found here.
        `labelled` False: items to predict, no labels looked for. Raises UserError on what cannot be used.
        """
        raise NotImplementedError

    def default_size(self, encoder: Encoder, examples: Examples) -> int:
        """Size of a view where the user names none."""
        return int(encoder.spec["size"])

    def caution(self, examples: Examples, size: int) -> str:
        """A sentence for views of `size` that show too little of these items, with what to do; "" for none."""
        return ""

    @property
    def size_given(self) -> tuple[str, int] | None:
        """The setting that says the size of a view, as a flag, and what it says; None where none does."""
        return None

    def head(self, encoder: Encoder, facts: Any, size: int) -> Head:
        """A new head for views of `size`."""
        raise NotImplementedError

    def chosen_by(self, facts: Any) -> str:
        """The score by which weights are chosen and runs compared."""
        return self.score

    def scores(self, facts: Any) -> Scores:
        raise NotImplementedError

    def trivial(self, examples: Examples, items: Sequence[int]) -> Callable[[Examples, int], Any]:
        """What is said without an encoder, learned from the truth of these items: (examples, i) -> prediction."""
        raise NotImplementedError

    def count(self, prediction: Any) -> int:
        """How many of `parts` a prediction holds."""
        return 1

    def baseline(self, facts: Any) -> str:
        """What `trivial` says, in two or three words: the name of its row in tables."""
        return "trivial guess"

    def predictions(
        self, model: "Model", examples: Examples, items: Sequence[int], on: torch.device, workers: int = 0
    ) -> Iterator[tuple[int, Any]]:
        """(item, prediction) in order, restored; in eval mode. Items that cannot be read are added to `skipped`."""
        from selfsame.downstream.adapting import restored

        return restored(model, examples, items, on, workers)

    def write(self, predictions: Iterable[tuple[str, Any]], facts: Any, out: Path) -> list[Path]:
        """Write (name, prediction) pairs as the field does, and return the files. Nothing half-written stays."""
        raise NotImplementedError

    def suffixes(self) -> tuple[str, ...]:
        """Endings of `--out` that `write` takes; "" for a folder."""
        raise NotImplementedError

    def picture(
        self, examples: Examples, i: int, prediction: Any, truth: Any, side: int = 256
    ) -> Image.Image | list[Panel] | str:
        """An item with what is predicted and, unless None, what is known of it.

        Drawn, on one panel or several, or as HTML, with texts escaped.
        """
        raise NotImplementedError

    def legend(self, facts: Any) -> list[tuple[str, str]]:
        """What the colours of `picture` stand for: names and CSS colours; [] where there are none."""
        return []

    def caption(self, prediction: Any, truth: Any, facts: Any) -> str:
        """What is predicted and, unless None, what is known, in a few words; "" where the picture says it."""
        return ""

    def refuse(self, encoder: Encoder) -> None:
        """Raise UserError where the task cannot be had of this encoder."""
        kind = str(encoder.spec["modality"])
        if self.kinds and kind not in self.kinds:
            raise UserError(
                f"--task {self.name} is for {' and '.join(self.kinds)} data; this encoder sees {kind} data. "
                "Choose another task, as classification."
            )
        for need in self.needs:
            if not getattr(encoder, f"has_{need}"):
                raise UserError(
                    f"--task {self.name} needs an encoder with {need}; {encoder.spec.get('name')} has none. "
                    "Train a residual net or a vision transformer."
                )


class Model(nn.Module):
    """An encoder and the head of a task: what is trained, saved, used. Views [b ...] -> the head's outputs."""

    def __init__(self, encoder: Encoder, head: Head, task: Task, facts: Any, size: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.task, self.facts, self.size = task, facts, size

    def forward(self, views: Tensor) -> Any:
        return self.head(self.encoder, views)
