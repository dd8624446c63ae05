"""Detection: where the objects in a picture are, and what they are.

Sources: heads of torchvision (see `detectors`), scores of COCO (see `precision`).
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image, ImageDraw
from pydantic import Field
from torch import Tensor

from selfsame import modalities
from selfsame.downstream import boxfiles, boxforms, task
from selfsame.downstream.boxes import COUNTED, Detections, Truth, clipped, overlaps, target_of
from selfsame.downstream.detectors import HEADS, BoxHead
from selfsame.downstream.outputs import into_folder
from selfsame.downstream.pictures import Frame, PictureExamples, PictureTask
from selfsame.downstream.precision import BoxScores, boxes_of, check_installed
from selfsame.engine.state import write_text
from selfsame.engine.watch import say
from selfsame.errors import UnreadableItem, UserError
from selfsame.nn.kmeans import kmeans
from selfsame.storage.captions import font_for
from selfsame.types import Encoder

LEAST_BOX = 8  # pixels of a view for the short side of half of the boxes of the class with the smallest
LARGEST = 512  # pixels of a view where the user names none
STEP = 32  # pixels: sizes of views that are chosen here are multiples
PICTURED = 0.5  # score from which boxes are drawn and counted
NEAR = 0.5  # overlap from which a guessed box is a hit
COLOURS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324", "#808000", "#000075",
)  # fmt: skip


class Kinds(task.Facts):
    """The kinds of objects."""

    classes: tuple[str, ...]
    ids: tuple[int, ...]
    """their numbers in the labels"""

    @property
    def summary(self) -> str:
        names = ", ".join(self.classes[:8]) + (", ..." if len(self.classes) > 8 else "")
        return f"{len(self.classes)} kinds of objects: {names}"


class Detection(PictureTask):
    """Find the objects in a picture: a box around each, with its class."""

    needs: ClassVar = ("maps",)
    score: ClassVar = "AP"
    worth: ClassVar = 6_000
    batch: ClassVar = 16
    parts: ClassVar = ("box", "boxes")
    accepts: ClassVar = boxforms.FORMS
    Facts: ClassVar = Kinds

    detector: Literal["fcos", "retinanet", "faster-rcnn"] = "fcos"
    """fcos: each place says what it lies in, quickest; retinanet: corrects nine boxes a place; faster-rcnn: proposes
    boxes, then looks at each"""
    width: Annotated[int, Field(ge=8)] = 64
    """channels of the pyramid and the heads; 256 in the papers, for pictures of 800 pixels"""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """boxes of a lower score are dropped; 100 of a picture at most are kept"""
    overlap: Annotated[float | None, Field(gt=0, le=1)] = None
    """of boxes of a class that overlap by more, the best stays [0.6 fcos, 0.5 others]"""

    def open(
        self, path: str, labels: str | None, encoder: Encoder, facts: Any = None, labelled: bool = True
    ) -> "Boxed":
        if labelled:
            check_installed()
            found = boxfiles.box_set(path, labels, facts.classes if facts else None)
            if found.notes:
                say(f"{path}: {found.notes}", "yellow")
            facts = facts or Kinds(classes=tuple(found.classes), ids=tuple(found.ids))
            source, items, truths = found.source, found.items, found.truths
        else:
            source, listed = boxfiles.pictures_at(path, modalities.reading_of(encoder.spec))
            items, truths = list(range(len(source))) if listed is None else listed, []
        if labelled and not any((truth.standing == COUNTED).any() for truth in truths):
            raise UserError(
                f"{path}: the labels of its {len(items)} pictures hold no box: there is nothing to learn or score."
            )
        source.fit(modalities.load("image").Stats.model_validate(encoder.spec["stats"]))
        return Boxed(self, source, items, facts, encoder, labelled, truths)

    def default_size(self, encoder: Encoder, examples: task.Examples) -> int:
        """The encoder's, or more where it takes any size and the smallest kind of objects would have few pixels."""
        assert isinstance(examples, Boxed)
        size = int(encoder.spec["size"])
        share = examples.smallest
        if not encoder.has_pieces or share is None:
            return size
        wanted = -(-LEAST_BOX // (share * STEP)) * STEP
        return max(size, int(min(wanted, LARGEST, max(examples.first_size()) // STEP * STEP)))

    def head(self, encoder: Encoder, facts: Kinds, size: int) -> BoxHead:
        return HEADS[self.detector](encoder, len(facts.classes), size, self.width, self.threshold, self.overlap)

    def scores(self, facts: Kinds) -> BoxScores:
        return BoxScores(facts.classes)

    def count(self, prediction: Detections) -> int:
        return len(prediction)

    def trivial(self, examples: task.Examples, items: Sequence[int]) -> Callable[[task.Examples, int], Detections]:
        """The same boxes in every picture: of each class as many as pictures have on average, where most of them lie.

        They are the centres of clusters of the known boxes (as shares of the picture), each with the share of the
        pictures that have a box of the class there as its score.
        """
        assert isinstance(examples, Boxed)
        truths = [examples.truths[i].shared(*examples.known_size(i)) for i in items]
        boxes, classes, scores = [np.zeros((0, 4))], [np.zeros(0, np.int64)], [np.zeros(0)]
        for k in range(len(examples.facts.classes)):
            mine = [t.xyxy[(t.classes == k) & (t.standing == COUNTED)] for t in truths]
            rows = np.concatenate(mine) if mine else np.zeros((0, 4))
            if not len(rows):
                continue
            count = min(len(rows), max(1, round(len(rows) / len(truths))))
            guessed = kmeans(torch.from_numpy(rows), count, seed=0)[0].numpy()
            hits = [(overlaps(guessed, one) >= NEAR).any(axis=1) for one in mine]
            boxes.append(guessed)
            classes.append(np.full(len(guessed), k))
            scores.append(np.mean(hits, axis=0))
        order = np.argsort(-np.concatenate(scores), kind="stable")
        shares, kinds, chances = (np.concatenate(parts)[order] for parts in (boxes, classes, scores))

        def guess(others: task.Examples, i: int) -> Detections:
            assert isinstance(others, Boxed)
            height, width = others.known_size(i)
            scaled = clipped(shares * (width, height, width, height), height, width)
            return Detections(scaled, kinds, chances, (height, width))

        return guess

    def baseline(self, facts: Kinds) -> str:
        return "usual boxes"

    def suffixes(self) -> tuple[str, ...]:
        return ".json", ".csv", ""

    def write(self, predictions: Iterable[tuple[str, Detections]], facts: Kinds, out: Path) -> list[Path]:
        """.json: COCO's results; .csv: a row a box; a folder: YOLO's, a .txt a picture with the score as last number.

        The image_id of COCO's results is the number that a picture is called by, else its name.
        """
        if out.suffix.lower() == ".json":
            write_text(out, json.dumps([row for name, one in predictions for row in results(name, one, facts)]) + "\n")
            return [out]
        if out.suffix.lower() == ".csv":
            write_text(out, as_csv(predictions, facts))
            return [out]

        def save(draft: Path, text: str) -> None:
            draft.write_text(text, encoding="utf-8")

        names = partial(save, text="".join(f"{name}\n" for name in facts.classes))
        return into_folder(
            ((name, partial(save, text=as_yolo(one))) for name, one in predictions), ".txt", out, {"classes.txt": names}
        )

    def picture(
        self, examples: task.Examples, i: int, prediction: Detections, truth: Truth | None, side: int = 256
    ) -> list[task.Panel]:
        """The picture with the known boxes, and with those found and their scores."""
        assert isinstance(examples, Boxed)
        shown = examples.shown(i, 2 * side)
        found = prediction.above(PICTURED)
        names = examples.facts.classes
        scale = shown.width / prediction.size[1]
        drawn = with_boxes(shown, found.xyxy * scale, found.classes, names, found.scores)
        panels = [task.Panel(drawn, f"found, score from {PICTURED:g}")]
        if truth is not None:
            panels.insert(0, task.Panel(with_boxes(shown, truth.xyxy * scale, truth.classes, names), "known"))
        return panels

    def legend(self, facts: Kinds) -> list[tuple[str, str]]:
        """The classes in the colours of their boxes, which carry names where there are fewer colours than classes."""
        return list(zip(facts.classes, COLOURS, strict=False)) if len(facts.classes) <= len(COLOURS) else []

    def caption(self, prediction: Detections, truth: Truth | None, facts: Kinds) -> str:
        """How many of each class are found and, where that is known, are there."""
        found = Counter(prediction.above(PICTURED).classes.tolist())
        known = Counter(truth.classes.tolist()) if truth is not None else Counter()
        said = [
            f"{facts.classes[k]} {found[k]}" + (f" of {known[k]}" if truth is not None else "")
            for k in sorted(found | known, key=lambda k: (-max(found[k], known[k]), k))[:4]
        ]
        return ", ".join(said) or ("nothing found" if truth is None else "nothing found, nothing there")


class Boxed(PictureExamples):
    """Pictures with the boxes of their objects."""

    facts: Kinds

    def __init__(
        self,
        settings: Detection,
        source: Any,
        items: Sequence[int],
        facts: Kinds,
        encoder: Encoder,
        labelled: bool,
        truths: Sequence[Truth],
    ) -> None:
        super().__init__(settings, source, items, facts, encoder, labelled)
        self.truths = list(truths)
        self.most = max([1, *(int((truth.standing == COUNTED).sum()) for truth in truths)])
        """boxes of the picture that has most: rows of a target"""
        self.sizes: dict[int, tuple[int, int]] = {}

    @property
    def strata(self) -> Int[Tensor, "n"]:
        """The rarest class in each picture, from 1; 0 where there is no box."""
        counts = Counter(k for truth in self.truths for k in set(truth.classes.tolist()))
        rarest = [min(truth.classes.tolist(), key=lambda k: (counts[k], k), default=-1) for truth in self.truths]
        return torch.tensor(rarest, dtype=torch.long) + 1

    @property
    def smallest(self) -> float | None:
        """The median short side of the boxes of the class in which it is smallest, as a share of the picture."""
        sides: dict[int, list[float]] = {}
        for i, truth in enumerate(self.truths):
            if len(truth):
                shares = truth.shared(*self.known_size(i)).xyxy
                for k, side in zip(truth.classes.tolist(), (shares[:, 2:] - shares[:, :2]).min(axis=1), strict=True):
                    sides.setdefault(k, []).append(float(side))
        return min((float(np.median(found)) for found in sides.values()), default=None)

    def known_size(self, i: int) -> tuple[int, int]:
        """Height and width, as the labels say or as the picture is. Raises UnreadableItem."""
        return (self.truths[i].size if self.truths else None) or self.size_of(i)

    def size_of(self, i: int) -> tuple[int, int]:
        if i not in self.sizes:
            self.sizes[i] = self.source.header(self.items[i])[:2]
        return self.sizes[i]

    def frame_of(self, i: int, size: int, chances: Sequence[float], height: int, width: int, learn: bool) -> Frame:
        self.sizes[i] = height, width
        said = self.known_size(i)
        if said != (height, width):
            raise UnreadableItem(
                f"its labels are of a picture of {said[1]} x {said[0]} pixels, it has {width} x {height}"
            )
        return super().frame_of(i, size, chances, height, width, learn)

    def target(self, i: int, frame: Frame, chance: float) -> list[np.ndarray]:
        return [target_of(self.truth(i), frame, self.most)]

    def truth(self, i: int) -> Truth:
        return self.truths[i].sized(*self.known_size(i))

    def restored(self, i: int, prediction: Detections) -> Detections:
        return prediction.back(*self.size_of(i))


# Written and drawn ---------------------------------------------------------------------------------------------------


def results(name: str, found: Detections, facts: Kinds) -> list[dict[str, Any]]:
    """A picture's boxes as COCO's results have them."""
    stem = PurePosixPath(name).stem
    number: int | str = int(stem) if stem.isascii() and stem.isdecimal() else name
    return [
        {
            "image_id": number,
            "file_name": name,
            "category_id": facts.ids[kind],
            "category": facts.classes[kind],
            "bbox": [round(value, 2) for value in box],
            "score": round(score, 5),
        }
        for box, kind, score in zip(boxes_of(found), found.classes.tolist(), found.scores.tolist(), strict=True)
    ]


def as_csv(predictions: Iterable[tuple[str, Detections]], facts: Kinds) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["path", "class", "score", *boxforms.EDGES])
    for name, found in predictions:
        for box, kind, score in zip(found.xyxy.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True):
            rows.writerow([name, facts.classes[kind], f"{score:.5f}", *(f"{edge:.2f}" for edge in box)])
    return text.getvalue()


def as_yolo(found: Detections) -> str:
    """A line a box: class, middle x and y, width, height as shares of the picture, score."""
    height, width = found.size
    shares = found.xyxy / (width, height, width, height)
    middle, side = (shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]
    rows = np.concatenate([middle, side, found.scores[:, None]], axis=1).tolist()
    return "".join(
        f"{kind} {' '.join(f'{value:.6f}' for value in row)}\n"
        for kind, row in zip(found.classes.tolist(), rows, strict=True)
    )


def with_boxes(
    shown: Image.Image,
    boxes: np.ndarray,
    classes: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray | None = None,
) -> Image.Image:
    """A picture with boxes (in its own pixels) in the colours of their classes, with their scores; the best on top.

    They are named where classes share colours. Words are a twentieth of the picture high, so that they are read where
    it is shown at half its size.
    """
    drawn = shown.copy()
    width = max(2, max(shown.size) // 170)
    draw, font = ImageDraw.Draw(drawn), font_for("".join(names), max(11, max(shown.size) // 20))
    for n in reversed(range(len(boxes))):
        colour = COLOURS[int(classes[n]) % len(COLOURS)]
        left, top, right, bottom = boxes[n].tolist()
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=width)
    for n in reversed(range(len(boxes))):
        kind = int(classes[n])
        left, top = boxes[n, :2].tolist()
        words = [names[kind]] if len(names) > len(COLOURS) else []
        words += [f"{scores[n]:.2f}"] if scores is not None else []
        if not words:
            continue
        said = " ".join(words)
        _, _, wide, high = draw.textbbox((0, 0), said, font=font)
        wide, high = wide + 6, high + 4
        # Above its box where there is room, else within; never beyond the edge of the picture.
        at = (min(left, max(0, shown.width - wide)), top - high if top >= high else top)
        draw.rectangle((*at, at[0] + wide, at[1] + high), fill=COLOURS[kind % len(COLOURS)])
        draw.text((at[0] + 3, at[1] + 1), said, fill="#ffffff", font=font)
    return drawn
