"""Depth: how far away each pixel of a picture is, in metres, from one picture.

Sources: scale-invariant loss of logarithms and the scores, Eigen et al. 2014, arXiv 1406.2283, sections 3.2 and 4.1;
its gradients at several scales, Li and Snavely 2018 (MegaDepth), arXiv 1804.00607, section 4.1; a decoder of
up-sampling blocks with skips, as Alhashim and Wonka 2018, arXiv 1812.11941.

A part of a picture, enlarged to the view, looks as if it had been taken with a longer lens. The depth that belongs to
it is divided by as much as it is enlarged (Eigen et al., section 3.4): then one lens stands behind all views, that of
whole pictures. So parts keep the picture's shape here, and are most of it: by how much a view is enlarged is hard to
see, and a short training says the mean over the parts. On the 25 frames of one room (40 passes, one seed) AbsRel was
0.153 with half of the picture or more, 0.096 with four fifths or more.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Float32
from PIL import Image
from pydantic import Field
from torch import Tensor

from selfsame import modalities
from selfsame.downstream import depths, pairs
from selfsame.downstream.decoders import MultiScale, roomy
from selfsame.downstream.depths import DEPTHS, Closeness, Range
from selfsame.downstream.outputs import into_folder
from selfsame.downstream.pictures import Frame, PictureExamples, PictureTask, enlarged
from selfsame.downstream.task import Examples, Head, Panel
from selfsame.engine.state import write_whole
from selfsame.errors import UnreadableItem, UserError
from selfsame.nn.sync import mean_total
from selfsame.types import Encoder

SCALES = 4  # of the gradient: every pixel, every 2nd, 4th and 8th
BEYOND = 2.0  # predictions lie within the depths that were learned from, times or over this
FAR_TO_NEAR = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # colours of pictures


class Depth(PictureTask):
    """Say how far away each pixel of a picture is, in metres."""

    needs: ClassVar = ("maps",)
    score: ClassVar = "AbsRel"
    lower: ClassVar = True
    worth: ClassVar = 6_000
    batch: ClassVar = 16
    accepts: ClassVar = (
        "pictures and depth of the same names in image/ and depth/, or NAME.color.png and NAME.depth.png, or --labels "
        "FOLDER: 16-bit PNG in millimetres (another unit: --task.scale), or metres in .npy, .npz, .pfm or TIFF"
    )
    Facts: ClassVar = Range

    area: tuple[float, float] = (0.8, 1.0)
    """share of the picture that a training view shows, uniform; its depth is divided by as much as it is enlarged"""
    ratio: tuple[float, float] = (1.0, 1.0)
    """width / height of that part beside the picture's own, log-uniform"""
    scale: Annotated[float | None, Field(gt=0)] = None
    """units of a metre in the files: 1000 for millimetres, 256 for KITTI [1000 of integers, 1 of real numbers]"""
    cap: Annotated[float | None, Field(gt=0)] = None
    """metres from which on a depth counts as not known, as 10 of NYU, 80 of KITTI"""
    invariance: Annotated[float, Field(ge=0, le=1)] = 0.5
    """how far the loss passes over a wrong scale of a whole picture: 0 not at all, 1 altogether"""
    gradient: Annotated[float, Field(ge=0)] = 0.5
    """weight of the difference of gradients in the loss, at four scales: it sharpens borders"""

    def open(self, path: str, labels: str | None, encoder: Encoder, facts: Any = None, labelled: bool = True) -> "Deep":
        found = pairs.find(path, labels, DEPTHS, labelled, modalities.reading_of(encoder.spec))
        found.source.fit(modalities.load("image").Stats.model_validate(encoder.spec["stats"]))
        if not labelled:
            return Deep(self, found.source, found.items, facts, encoder, False)
        here, broken, empty = depths.understood(found.files, self.scale, self.cap)
        kept = pairs.usable(found, broken, depths.size_of, DEPTHS, path, empty)
        items, files = [found.items[k] for k in kept], [found.files[k] for k in kept]
        deep = Deep(self, found.source, items, facts or here, encoder, True, files)
        deep.here = here
        return deep

    def default_size(self, encoder: Encoder, examples: Examples) -> int:
        """The encoder's, at least 128 px where it takes any size and the pictures are as large."""
        assert isinstance(examples, PictureExamples)
        return roomy(encoder, examples)

    def head(self, encoder: Encoder, facts: Range, size: int) -> "PixelDepth":
        return PixelDepth(encoder, facts, size, self)

    def scores(self, facts: Range) -> Closeness:
        return Closeness()

    def trivial(self, examples: Examples, items: Sequence[int]) -> Callable[[Examples, int], Any]:
        """The median depth of these items, everywhere: the baseline of the field."""
        some = []
        for i in items:
            try:
                truth = examples.truth(i)
            except UnreadableItem as error:
                examples.skipped[i] = str(error)
                continue
            known = truth[truth > 0]
            some.append(known[:: max(1, len(known) // depths.VALUES)][: depths.VALUES])
        if not sum(map(len, some)):
            raise UserError("none of the labelled pictures has a known depth.")
        median = np.float32(np.median(np.concatenate(some)))
        return lambda others, i: np.full(others.size_of(i), median)  # type: ignore[attr-defined]

    def baseline(self, facts: Range) -> str:
        return "median depth"

    def suffixes(self) -> tuple[str, ...]:
        return ("", ".npz", ".npy")

    def write(
        self, predictions: Iterable[tuple[str, Float32[np.ndarray, "h w"]]], facts: Range, out: Path
    ) -> list[Path]:
        """A folder of 16-bit PNG in the unit of the labelled files, with depth.json that tells it; or metres, float32.

        A PNG is called as its picture, without what marks that as the colour picture: 7.color.png gives 7.png.
        .npz: an array a picture, by its name. .npy: one array [n h w], where all pictures have one size.
        """
        if out.suffix.lower() == ".npz":
            arrays = dict(predictions)
            write_whole(out, partial(saved_arrays, arrays=arrays))
            return [out]
        if out.suffix.lower() == ".npy":
            stack = [depth for _, depth in predictions]
            if len({depth.shape for depth in stack}) > 1:
                raise UserError(
                    f"--out {out}: the pictures have different sizes, and .npy holds one array. Give *.npz or a folder."
                )
            write_whole(out, partial(saved_array, array=np.stack(stack)))
            return [out]

        def save(draft: Path, depth: np.ndarray) -> None:
            units = np.rint(depth * np.float32(facts.scale)).clip(1, 65534).astype(np.uint16)  # 0 and 65535 mean none
            Image.fromarray(units).save(draft, format="PNG")

        def tell(draft: Path) -> None:
            draft.write_text(json.dumps({"units_per_metre": facts.scale}) + "\n", encoding="utf-8")

        named = ((pairs.unmarked(name), partial(save, depth=depth)) for name, depth in predictions)
        return into_folder(named, ".png", out, {"depth.json": tell})

    def picture(self, examples: Examples, i: int, prediction: Any, truth: Any, side: int = 256) -> list[Panel]:
        """The picture, the truth, the prediction: near is yellow, far is blue, not known is black."""
        assert isinstance(examples, PictureExamples)
        shown = examples.shown(i, side)
        layers = [*([] if truth is None else [("truth", truth)]), ("prediction", prediction)]
        known = layers[0][1][layers[0][1] > 0]
        near, far = np.percentile(known, [1, 99]) if known.size else (1.0, 2.0)
        drawn = [Panel(coloured(depth, float(near), float(far), shown.size), name) for name, depth in layers]
        return [Panel(shown, f"{near:.3g} to {far:.3g} m away"), *drawn]

    def legend(self, facts: Range) -> list[tuple[str, str]]:
        far, near = (f"rgb({r} {g} {b})" for r, g, b in (FAR_TO_NEAR[0], FAR_TO_NEAR[-1]))
        return [("near", near), ("far", far), ("not known", "#000000")]

    def caption(self, prediction: Any, truth: Any, facts: Range) -> str:
        if truth is None or not (truth > 0).any():
            return f"{np.median(prediction):.3g} m in the middle"
        return f"AbsRel {depths.of_depth(prediction[truth > 0], truth[truth > 0])['AbsRel']:.3f}"


class Deep(PictureExamples):
    """Pictures with their depth."""

    task: Depth
    facts: Range

    def __init__(
        self,
        task: Depth,
        source: Any,
        items: Sequence[int],
        facts: Range,
        encoder: Encoder,
        labelled: bool,
        files: Sequence[str] = (),
    ) -> None:
        super().__init__(task, source, items, facts, encoder, labelled)
        self.files = list(files)

    def target(self, i: int, frame: Frame, chance: float) -> list[np.ndarray]:
        depth = self.truth(i)
        enlargement = np.sqrt(depth.size / (frame.height * frame.width))
        return [frame.nearest(depth) / np.float32(enlargement)]

    def truth(self, i: int) -> Float32[np.ndarray, "h w"]:
        """Metres; 0 where not known."""
        try:
            return depths.read(self.files[i], self.task.scale, self.task.cap)
        except UnreadableItem as error:
            raise UnreadableItem(f"its depth {self.files[i]}: {error}") from None

    def restored(self, i: int, prediction: Float[Tensor, "g v"]) -> Float32[np.ndarray, "h w"]:
        """Metres at each pixel of the picture; logarithms are enlarged."""
        return enlarged(prediction[None, None], self.size_of(i))[0, 0].exp().numpy()


class PixelDepth(Head):
    """The natural logarithm of the depth in metres at each place. Before learning it is near the median."""

    gives: ClassVar = {"depth": "float32 [b, h, w], as large as what is given: metres"}

    def __init__(self, encoder: Encoder, facts: Range, size: int, task: Depth) -> None:
        super().__init__()
        self.decoder = MultiScale(encoder, size, 1)
        self.invariance, self.gradient = task.invariance, task.gradient
        self.middle = float(np.log(facts.median))
        self.limits = float(np.log(facts.least / BEYOND)), float(np.log(facts.most * BEYOND))

    def forward(self, encoder: Encoder, views: Tensor) -> Float[Tensor, "b 1 g v"]:
        return self.decoder(encoder, views) + self.middle

    def loss(
        self, outputs: Float[Tensor, "b 1 g v"], targets: list[Float[Tensor, "b s s"]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        depth = targets[0]
        known = depth > 0
        apart = enlarged(outputs, (depth.shape[1], depth.shape[2]))[:, 0] - depth.where(known, 1.0).log()
        first = scale_invariant(apart, known, self.invariance)
        steps = gradients(apart, known)
        logs = {"scale-invariant": first.detach(), "gradient": steps.detach()}
        return first + self.gradient * steps, logs

    def decoded(self, outputs: Float[Tensor, "b 1 g v"]) -> list[Float[Tensor, "g v"]]:
        """Logarithms, as coarse as the head gives them."""
        return list(outputs[:, 0].clamp(*self.limits).cpu())

    def portable(
        self, outputs: Float[Tensor, "b 1 g v"], height: int | None, width: int | None
    ) -> tuple[Float[Tensor, "b h w"]]:
        assert height is not None and width is not None
        return (enlarged(outputs.clamp(*self.limits), (height, width))[:, 0].exp(),)


def scale_invariant(apart: Float[Tensor, "b h w"], known: Bool[Tensor, "b h w"], share: float) -> Float[Tensor, ""]:
    """mean(d^2) - share * mean(d)^2 of each picture's known pixels, d = ln predicted - ln true; the mean over pictures.

    Pictures without a known pixel do not count.
    """
    count = known.sum(dim=(1, 2))
    d = apart * known
    mean = d.sum(dim=(1, 2)) / count.clamp_min(1)
    each = (d**2).sum(dim=(1, 2)) / count.clamp_min(1) - share * mean**2
    return each.sum() / mean_total((count > 0).sum()).clamp_min(1)


def gradients(apart: Float[Tensor, "b h w"], known: Bool[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """The mean difference of d between neighbours, down and across, of every pixel, every 2nd, 4th and 8th; summed."""
    total = apart.new_zeros(())
    for k in range(SCALES):
        d, there = apart[:, :: 2**k, :: 2**k], known[:, :: 2**k, :: 2**k]
        for axis in (1, 2):
            pairs_known = there.narrow(axis, 1, there.shape[axis] - 1) & there.narrow(axis, 0, there.shape[axis] - 1)
            step = d.diff(dim=axis).abs() * pairs_known
            total = total + step.sum() / mean_total(pairs_known.sum()).clamp_min(1)
    return total


def coloured(depth: Float[np.ndarray, "h w"], near: float, far: float, size: tuple[int, int]) -> Image.Image:
    """Depth as colours at a size (width, height); by its inverse, as eyes see it."""
    small = np.asarray(Image.fromarray(depth.astype(np.float32)).resize(size, Image.Resampling.NEAREST))
    nearness = 1 / np.maximum(small, 1e-6)
    place = ((nearness - 1 / far) / max(1 / near - 1 / far, 1e-12)).clip(0, 1)
    table = np.array(FAR_TO_NEAR, dtype=np.float64)
    colours = np.stack([np.interp(place, np.linspace(0, 1, len(table)), table[:, c]) for c in range(3)], axis=-1)
    return Image.fromarray(np.where((small > 0)[..., None], colours, 0).astype(np.uint8))


def saved_array(draft: Path, array: np.ndarray) -> None:
    with draft.open("wb") as file:  # by its name, numpy would add a suffix
        np.save(file, array)


def saved_arrays(draft: Path, arrays: dict[str, np.ndarray]) -> None:
    with draft.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
