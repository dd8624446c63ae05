"""Semantic segmentation: the class of each pixel of a picture, of street scenes as of cells under a microscope.

Sources: per-pixel classification of the trunk's maps by a 1x1 convolution, Long et al. 2015 (FCN), arXiv 1411.4038,
section 3; U-Net, Ronneberger et al. 2015, arXiv 1505.04597; soft Dice loss beside cross-entropy, Isensee et al. 2021
(nnU-Net), Nature Methods 18, with the plain sums of Sudre et al. 2017, arXiv 1707.03237; median frequency balancing,
Eigen and Fergus 2015, arXiv 1411.4734, section 6.2.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from pydantic import Field
from torch import Tensor

from selfsame import modalities
from selfsame.downstream import maskfiles, masks, outlines, pairs, tiles
from selfsame.downstream.boxfiles import pictures_at
from selfsame.downstream.decoders import MultiScale, PerPixel, classes_at, roomy
from selfsame.downstream.masks import IGNORED, MASKS, Classes
from selfsame.downstream.outputs import into_folder
from selfsame.downstream.overlap import Overlap
from selfsame.downstream.pictures import Frame, PictureExamples, PictureTask, enlarged
from selfsame.downstream.task import Examples, Head, Model, Panel
from selfsame.errors import UnreadableItem, UserError
from selfsame.nn.sync import mean_total, summed
from selfsame.storage.compared import apart
from selfsame.types import Encoder

AT_BORDERS = 1e-3  # share of pixels whose two best scores may be so near that rounding decides
SQUEEZED = 3  # pixels of a picture for one of its view from which on that is said
SOME = 64  # pictures whose sizes are looked at before all masks are read
LEVELS = {1: 64, 2: 16, 3: 8}  # of each channel, by the number of channels: for the guess without an encoder


class Segmentation(PictureTask):
    """Say the class of each pixel of a picture."""

    needs: ClassVar = ("maps",)
    score: ClassVar = "mIoU"
    worth: ClassVar = 6_000
    batch: ClassVar = 16
    accepts: ClassVar = (
        "pictures and masks of the same names in image/ and label/ (images/, masks/, SegmentationClass/, NAME_mask.png "
        "...), or --labels FOLDER of masks: PNG (gray, palette, colours) or TIFF; or outlines of COCO's form: --labels "
        "instances.json"
    )
    Facts: ClassVar = Classes

    decoder: Literal["multiscale", "linear"] = "multiscale"
    """multiscale: over the maps of all strides, as U-Net; linear: one 1x1 convolution on the maps, the classes being a
    linear function of the features at each place"""
    dice: Annotated[float, Field(ge=0)] = 1.0
    """weight of the soft Dice loss beside the cross-entropy"""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare classes weigh more in the cross-entropy, by the median frequency over their own"""
    tile: Annotated[int | None, Field(ge=16)] = None
    """pixels of a side of the parts in which large pictures are seen at their own scale: training crops, and tiles that
    overlap in use [each picture is squeezed to one view]"""
    overlap: Annotated[float, Field(ge=0, le=0.75)] = 0.25
    """least share of a tile's side that its neighbours see too"""
    ignore: Annotated[int | None, Field(ge=-1)] = None
    """stored value of mask pixels that count for nothing, -1 for none; of colours red * 65536 + green * 256 + blue
    [255, unless the masks hold nothing but it and one other value]"""
    threshold: Annotated[int | None, Field(ge=1)] = None
    """mask values from here on are foreground, all others background: for black and white masks with smooth borders"""
    per_picture: bool = False
    """score each picture too: Dice, and HD95 and ASSD, distances between borders in pixels, as for medical ones"""

    def head_lr(self, freeze: bool) -> float:
        """Of a linear head on a frozen encoder as of a classifier's: at a tenth of it one had not learned its share.

        (membrane, 300 steps of 16: mIoU 0.579 at 0.001, 0.663 at 0.01, by the pictures to choose by.)
        """
        return 1e-2 if freeze and self.decoder == "linear" else super().head_lr(freeze)

    def open(
        self, path: str, labels: str | None, encoder: Encoder, facts: Any = None, labelled: bool = True
    ) -> "Masked":
        if labelled and labels is not None and labels.lower().endswith(".json"):
            return self.outlined(path, labels, encoder, facts)
        found = pairs.find(path, labels, MASKS, labelled, modalities.reading_of(encoder.spec))
        found.source.fit(modalities.load("image").Stats.model_validate(encoder.spec["stats"]))
        if not labelled:
            return Masked(self, found.source, found.items, facts, encoder, False)
        if facts is None:
            self.check_tile(found.source, found.items)
        facts, broken = masks.understood(found.files, folders_of(found.files, path), self.ignore, self.threshold, facts)
        kept = pairs.usable(found, broken, maskfiles.size_of, MASKS, path)
        items, files = [found.items[k] for k in kept], [found.files[k] for k in kept]
        return Masked(self, found.source, items, facts, encoder, True, files)

    def outlined(self, path: str, labels: str, encoder: Encoder, facts: Classes | None) -> "Masked":
        """Pictures with the outlines of their objects, from COCO's json."""
        if self.ignore is not None or self.threshold is not None:
            raise UserError(
                f"--task.ignore and --task.threshold are of stored masks; {labels} has none. Leave them out."
            )
        source, _ = pictures_at(path, modalities.reading_of(encoder.spec))
        source.fit(modalities.load("image").Stats.model_validate(encoder.spec["stats"]))
        if facts is None:
            self.check_tile(source, range(len(source)))
        found = outlines.read(Path(labels).expanduser(), source, facts.classes if facts else None)
        there = set(found.items)
        without = [source.name(item) for item in range(len(source)) if item not in there]
        among = pairs.Pairs(source, found.items, found.names, without)
        kept = pairs.usable(among, found.broken, found.size_of, MASKS, path)
        found.items, found.names = [found.items[k] for k in kept], [found.names[k] for k in kept]
        facts = facts or found.facts(source.header)
        return Masked(self, source, found.items, facts, encoder, True, found.names, found)

    def check_tile(self, source: Any, items: Sequence[int]) -> None:
        """Raise UserError where no picture has the size of a tile. Headers of some pictures are read."""
        largest = 0
        for item in items[:: max(1, len(items) // SOME)] if self.tile else ():
            with suppress(UnreadableItem):  # told where it is read
                largest = max(largest, *source.header(item)[:2])
        if self.tile and largest and self.tile > largest:
            raise UserError(
                f"--task.tile {self.tile}: the pictures have sides of up to {largest} px, so a tile would be larger "
                "than all of them. Give fewer pixels, or leave it out."
            )

    @property
    def size_given(self) -> tuple[str, int] | None:
        return None if self.tile is None else ("--task.tile", self.tile)

    def default_size(self, encoder: Encoder, examples: Examples) -> int:
        """The encoder's, at least 128 px where it takes any size and the pictures are as large; or that of a tile."""
        if self.tile is not None:
            return self.tile
        assert isinstance(examples, PictureExamples)
        return roomy(encoder, examples)

    def caution(self, examples: Examples, size: int) -> str:
        """Where pictures are squeezed to a third or less."""
        assert isinstance(examples, PictureExamples)
        short = min(examples.first_size()) if self.tile is None else 0
        if short < SQUEEZED * size:
            return ""
        return (
            f"pictures of {short} px are squeezed to {size} px. Where small things matter, as under a microscope, "
            f"cut them at their own scale: --task.tile {size}"
        )

    def frame(self, chances: Sequence[float], height: int, width: int, size: int) -> Frame:
        if self.tile is None:
            return super().frame(chances, height, width, size)
        side = min(self.tile, height, width)
        top, left = int(chances[2] * (height - side + 1)), int(chances[3] * (width - side + 1))
        return Frame(top, left, side, side, size, chances[4] < self.flip, chances[5] < self.vertical_flip)

    def head(self, encoder: Encoder, facts: Classes, size: int) -> "PixelClasses":
        return PixelClasses(encoder, facts, size, self)

    def scores(self, facts: Classes) -> Overlap:
        return Overlap(facts, self.per_picture)

    def predictions(
        self, model: Model, examples: Examples, items: Sequence[int], on: torch.device, workers: int = 0
    ) -> Iterator[tuple[int, UInt8[np.ndarray, "h w"]]]:
        if self.tile is None:
            return super().predictions(model, examples, items, on, workers)
        assert isinstance(examples, PictureExamples)
        return tiles.classes(model, examples, items, on, self.tile, self.overlap)

    def trivial(self, examples: Examples, items: Sequence[int]) -> Callable[[Examples, int], Any]:
        """The class that a colour has most often, of 64 grays or 8 x 8 x 8 colours; a new colour has the commonest."""
        assert isinstance(examples, Masked)
        counts: np.ndarray | None = None
        for i in items:
            try:
                bins, number = examples.colour_bins(i)
                truth = examples.truth(i)
            except UnreadableItem as error:
                examples.skipped[i] = str(error)
                continue
            known, k = truth != IGNORED, len(examples.facts.classes)
            found = np.bincount(bins[known] * k + truth[known], minlength=number * k).reshape(number, k)
            counts = found if counts is None else counts + found
        if counts is None:
            raise UserError("none of the labelled pictures can be read.")
        table = np.where(counts.any(axis=1), counts.argmax(axis=1), counts.sum(axis=0).argmax()).astype(np.uint8)
        return lambda others, i: table[others.colour_bins(i)[0]]  # type: ignore[attr-defined]

    def baseline(self, facts: Classes) -> str:
        return "guess by colour"

    def suffixes(self) -> tuple[str, ...]:
        return ("",)

    def write(
        self, predictions: Iterable[tuple[str, UInt8[np.ndarray, "h w"]]], facts: Classes, out: Path
    ) -> list[Path]:
        """A PNG for each picture, of the values that the labelled masks had, and classes.json that tells them.

        It is called as its picture, without what marks that as the picture: 7_image.png gives 7.png.
        """
        listed = [
            {"id": value if facts.coded == "values" else k, "name": name, "color": list(colour)}
            for k, (name, value, colour) in enumerate(zip(facts.classes, facts.values, facts.colours, strict=True))
        ]

        def save(draft: Path, mask: np.ndarray) -> None:
            masks.as_image(mask, facts).save(draft, format="PNG")

        def save_list(draft: Path) -> None:
            draft.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")

        named = ((pairs.unmarked(name), partial(save, mask=mask)) for name, mask in predictions)
        return into_folder(named, ".png", out, {"classes.json": save_list})

    def picture(self, examples: Examples, i: int, prediction: Any, truth: Any, side: int = 256) -> list[Panel]:
        """The picture, the truth over it, the prediction over it."""
        assert isinstance(examples, PictureExamples) and isinstance(examples.facts, Classes)
        shown = examples.shown(i, side)
        layers = [("prediction", prediction)]
        if truth is not None:
            layers.insert(0, ("truth; white: not counted" if (truth == IGNORED).any() else "truth", truth))
        return [Panel(shown, "picture"), *(Panel(over(shown, mask, examples.facts), name) for name, mask in layers)]

    def legend(self, facts: Classes) -> list[tuple[str, str]]:
        """The classes in the colours of the pictures; the first is not coloured."""
        table = colours_of(facts)
        named = [(name, f"rgb({r} {g} {b})") for name, (r, g, b) in zip(facts.classes, table.tolist(), strict=False)]
        return [(f"{facts.classes[0]} (not coloured)", "transparent"), *named[1:]]

    def caption(self, prediction: Any, truth: Any, facts: Classes) -> str:
        """The classes predicted, by their share of the picture; where the truth is known, the share that is right."""
        if truth is not None:
            counted = truth != IGNORED
            right = (prediction == truth)[counted].mean() if counted.any() else 0.0
            return f"{right:.1%} of the pixels right"
        found = np.bincount(prediction.ravel(), minlength=len(facts.classes)) / prediction.size
        return ", ".join(f"{facts.classes[k]} {found[k]:.0%}" for k in np.argsort(-found)[:3] if found[k] > 0)


class Masked(PictureExamples):
    """Pictures with their masks."""

    facts: Classes

    def __init__(
        self,
        task: Segmentation,
        source: Any,
        items: Sequence[int],
        facts: Classes,
        encoder: Encoder,
        labelled: bool,
        files: Sequence[str] = (),
        drawn: outlines.Outlines | None = None,
    ) -> None:
        super().__init__(task, source, items, facts, encoder, labelled)
        self.files = list(files)
        self.drawn = drawn
        """outlines of the objects, where there are no masks; `files` are then names of pictures in them"""

    def target(self, i: int, frame: Frame, chance: float) -> list[np.ndarray]:
        return [frame.nearest(self.truth(i))]

    def truth(self, i: int) -> UInt8[np.ndarray, "h w"]:
        """Numbers of the classes, or IGNORED."""
        if self.drawn is not None:
            height, width = self.source.header(self.items[i])[:2]
            return self.drawn.mask(self.files[i], height, width)
        try:
            return masks.numbered(maskfiles.read(self.files[i]), self.facts)
        except UnreadableItem as error:
            raise UnreadableItem(f"its mask {self.files[i]}: {error}") from None

    def restored(self, i: int, prediction: Float[Tensor, "k g v"]) -> UInt8[np.ndarray, "h w"]:
        """The class of each pixel of the picture: scores are enlarged before the greatest is taken."""
        return classes_at(prediction, self.size_of(i))[1].numpy().astype(np.uint8)

    def colour_bins(self, i: int) -> tuple[Int[np.ndarray, "h w"], int]:
        """A coarse number for the colour of each pixel, and how many there are; of the first three channels."""
        pixels = self.source.open(self.items[i]).pixels()[..., :3]
        levels = LEVELS[pixels.shape[2]]
        parts = pixels.astype(np.int64) * levels // (self.source.form.white + 1)
        number = np.zeros(pixels.shape[:2], np.int64)
        for channel in range(pixels.shape[2]):
            number = number * levels + parts[..., channel].clip(max=levels - 1)
        return number, levels ** pixels.shape[2]


class PixelClasses(Head):
    """Scores of the classes at each place."""

    gives: ClassVar = {
        "mask": "uint8 [b, h, w], as large as what is given: the number of the class, by its place in `classes`",
        "scores": "float32 [b, k, g, v]: of the classes at each place before softmax, as coarse as the head gives them",
    }
    weights: Tensor

    def __init__(self, encoder: Encoder, facts: Classes, size: int, task: Segmentation) -> None:
        super().__init__()
        kind = MultiScale if task.decoder == "multiscale" else PerPixel
        self.decoder = kind(encoder, size, len(facts.classes))
        self.dice = task.dice
        weights = balanced(facts.shares) if task.class_weights == "balanced" else torch.ones(len(facts.classes))
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, encoder: Encoder, views: Tensor) -> Float[Tensor, "b k g v"]:
        return self.decoder(encoder, views)

    def loss(
        self, outputs: Float[Tensor, "b k g v"], targets: list[UInt8[Tensor, "b s s"]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, weighted by class, and soft Dice, of the scores enlarged to the size of the view."""
        truth = targets[0].long()
        scores = enlarged(outputs, (truth.shape[1], truth.shape[2]))
        entropy = F.cross_entropy(scores, truth, self.weights, ignore_index=IGNORED, reduction="sum")
        counted = truth != IGNORED
        weight = self.weights[truth[counted]].sum()
        loss = entropy / mean_total(weight).clamp_min(1)  # a batch in which all is ignored has none
        right = (scores.argmax(dim=1) == truth)[counted].float().sum() / counted.sum().clamp_min(1)
        logs = {"cross-entropy": loss.detach(), "pixel accuracy": right}
        if self.dice:
            apart = dice_loss(scores.softmax(dim=1), truth)
            loss, logs["dice loss"] = loss + self.dice * apart, apart.detach()
        return loss, logs

    def decoded(self, outputs: Float[Tensor, "b k g v"]) -> list[Float[Tensor, "k g v"]]:
        """Scores, as coarse as the head gives them: they are enlarged once, to the size of the picture."""
        return list(outputs.cpu())

    def portable(
        self, outputs: Float[Tensor, "b k g v"], height: int | None, width: int | None
    ) -> tuple[UInt8[Tensor, "b h w"], Float[Tensor, "b k g v"]]:
        assert height is not None and width is not None
        return enlarged(outputs, (height, width)).argmax(dim=1).to(torch.uint8), outputs

    def apart(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
        """Of the scores; or of the masks the share of pixels, where more differ than rounding at borders makes."""
        wrong = float((found[0] != expected[0]).float().mean())
        return max(apart(found[1], expected[1]), wrong if wrong > AT_BORDERS else 0.0)


def dice_loss(shares: Float[Tensor, "b k h w"], truth: Int[Tensor, "b h w"], smooth: float = 1.0) -> Tensor:
    """1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth) over the batch, mean over the classes that it holds.

    The batch is that of all processes.
    """
    counted = (truth != IGNORED)[:, None]
    known = F.one_hot(truth.where(truth != IGNORED, 0), shares.shape[1]).movedim(-1, 1) * counted
    both, said, there = (summed(x.sum(dim=(0, 2, 3)).float()) for x in (shares * known, shares * counted, known))
    loss = 1 - (2 * both + smooth) / (said + there + smooth)
    held = (there > 0).to(loss.dtype)
    return (loss * held).sum() / held.sum().clamp_min(1)


def balanced(shares: Sequence[float]) -> Float[Tensor, "k"]:
    """The median share over each class's own; 1 for a class that no mask holds."""
    found = torch.tensor(shares, dtype=torch.float32)
    there = found > 0
    return torch.where(there, found[there].quantile(0.5) / found.clamp_min(1e-12), 1.0)


def over(picture: Image.Image, mask: UInt8[np.ndarray, "h w"], facts: Classes) -> Image.Image:
    """A mask in the colours of its classes, half through, the first class clear; what is ignored is white."""
    table = colours_of(facts)
    small = np.asarray(Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST))
    share = np.where(small == 0, 0.0, 0.5)[..., None]
    return Image.fromarray((np.asarray(picture) * (1 - share) + table[small] * share).astype(np.uint8))


def colours_of(facts: Classes) -> UInt8[np.ndarray, "256 3"]:
    """The colour of each class in pictures; white of those that there are not."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(facts.colours)] = facts.colours
    if len(facts.classes) == 2:
        table[1] = (220, 30, 30)  # white, as black and white masks have it, would not be seen
    return table


def folders_of(files: Sequence[str], path: str) -> list[Path]:
    """Where a list of the classes may lie: with the masks, in the folder above them, at the path."""
    parents = {str(Path(file).parent) for file in files}
    shared = Path(parents.pop()) if len(parents) == 1 else common(parents)
    return [*dict.fromkeys([shared, shared.parent, Path(path)])]


def common(parents: Iterable[str]) -> Path:
    import os.path

    return Path(os.path.commonpath(sorted(parents)))
