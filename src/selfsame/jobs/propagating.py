"""What `propagate` does: features of each frame, labels carried from frame to frame, masks written, scores."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsame.downstream import maskfiles, masks
from selfsame.downstream.outputs import beside, into_folder
from selfsame.downstream.overlay import Overlay
from selfsame.downstream.propagation import hard, one_hot, propagated
from selfsame.downstream.regions import VOID, RegionScores
from selfsame.downstream.trunk import shapes_of
from selfsame.engine import dist
from selfsame.engine.watch import say
from selfsame.errors import UnreadableItem, UserError, printable
from selfsame.jobs.data import Data, check_rate, open_like
from selfsame.jobs.encoding import row_of, show
from selfsame.jobs.evaluating import redrawn
from selfsame.jobs.propagate import Propagate
from selfsame.jobs.runs import load
from selfsame.modalities.image.views import channels_first
from selfsame.nn.norm import calibrated
from selfsame.types import Encoder

SHORT, STRIDE, PLACES = 480, 8, 24  # defaults: shorter side in pixels, pixels a place, least places of that side
RATE = 24.0  # frames a second of the overlay of a folder, as DAVIS has
SHOWN, SIDE = 8, 192  # frames of the overview, and the width of each
MET = 8  # frames by which batch norms of random weights are calibrated
LINE = 120  # parts of the shorter side that the line around an object is wide
OVERLAY = "overlay.mp4"
Mask = UInt8[np.ndarray, "h w"]


class Film:
    """The frames of a video, or of a folder, in order, as an encoder sees them."""

    def __init__(self, job: Propagate, encoder: Encoder, data: Data, on: torch.device) -> None:
        self.data, self.on = data, on
        source: Any = data.source
        names = [source.name(i) for i in range(len(source))]
        self.order = sorted(range(len(names)), key=lambda i: by_number(names[i]))
        self.names = [names[i] for i in self.order]
        self.rate = RATE
        """frames a second"""
        self.of_video = hasattr(source, "videos")
        if self.of_video:
            if len(source.videos) > 1:
                raise UserError(f"{job.data}: {len(source.videos)} videos there. Give one of them: {source.videos[0]}")
            self.names = [PurePosixPath(name).name for name in self.names]
            self.rate = float(source.rates[0]) or RATE
            try:
                source.header(0)
            except UnreadableItem as error:
                raise UserError(f"{job.data} cannot be read: {error}.") from None
        if len(self.order) < 2:
            raise UserError(f"{job.data}: {len(self.order)} frame there; a film has 2 or more.")
        self.height, self.width = self.read(0).shape[:2]
        own = int(encoder.spec["size"])
        shapes = shapes_of(encoder, own)
        strides = [max(1, round(own / side)) for _, side in shapes]
        if encoder.has_pieces:  # any size and form
            short = job.size or min(SHORT, self.height, self.width)
            scale, step = short / min(self.height, self.width), strides[-1]
            self.size = tuple(max(step, round(side * scale / step) * step) for side in (self.height, self.width))
        elif job.size not in (None, own):
            raise UserError(f"--size {job.size}: {encoder.spec['name']} takes views of {own} px only. Leave it out.")
        else:
            self.size = (own, own)
        wanted = job.stride or min(STRIDE, max(1, min(self.size) // PLACES))
        self.white = False  # whether its masks are black and white
        self.level = min(range(len(strides)), key=lambda k: (abs(np.log(strides[k] / wanted)), k))
        self.stride = strides[self.level]

    def __len__(self) -> int:
        return len(self.order)

    def stem(self, name: str) -> str:
        """By which a mask meets its frame. Frames of a video have numbers for names: 00012 is 000012."""
        stem = PurePosixPath(name).stem
        return stem.lstrip("0") or "0" if self.of_video and stem.isdecimal() else stem

    def read(self, k: int) -> np.ndarray:
        """Frame k [h w c] as it is stored. Raises UserError: a film with a hole cannot be followed."""
        try:
            pixels = self.data.source.read(self.order[k])
        except UnreadableItem as error:
            raise UserError(f"frame {printable(self.names[k])} cannot be read: {error}. Mend or remove it.") from None
        if k and pixels.shape[:2] != (self.height, self.width):
            raise UserError(
                f"frame {printable(self.names[k])} has {pixels.shape[1]} x {pixels.shape[0]} pixels, the first "
                f"{self.width} x {self.height}. The frames of a film are of one size."
            )
        return pixels

    def view(self, k: int) -> Float[Tensor, "1 c h w"]:
        white: Any = self.data.stats
        pixels = channels_first(self.read(k)[None]).to(self.on).float() / white.white
        return F.interpolate(pixels, size=self.size, mode="bilinear", antialias=True).clamp(0, 1)

    @torch.inference_mode()
    def features(self, encoder: Encoder) -> Iterator[Float[Tensor, "d h w"]]:
        for k in range(len(self)):
            yield encoder.maps(self.view(k))[self.level][0]


def run(job: Propagate, module: nn.Module | None = None) -> dict[str, Any]:
    on = dist.device(job.device)
    encoder = load(job.run_folder, module)
    if encoder.spec["modality"] != "image" or not encoder.has_maps:
        raise UserError(
            f"propagate needs an encoder of images with maps; that of {job.run_folder} is {encoder.spec.get('name')}, "
            f"for {encoder.spec['modality']} data."
        )
    encoder = encoder.to(on).eval()
    # How many frames an encoder learned from says nothing about how a film is followed.
    data = open_like(job.data, encoder, fps=job.fps)
    check_rate(data.source, job.data, job.fps)
    film = Film(job, encoder, data, on)
    first, palette, values = first_mask(job, film)
    truths = truth_files(job, film) if job.truth else {}
    places = f"map of {film.stride} pixels a place, frames of {film.size[1]} x {film.size[0]}"
    rate = f" at {film.rate:.4g} a second" if film.of_video else ""
    say(f"{len(film):,} frames{rate}, {len(values)} object{'s' if len(values) > 1 else ''}; {places}")
    scores = RegionScores(values)
    shown = set(np.linspace(0, len(film) - 1, min(SHOWN, len(film))).round().astype(int).tolist())
    panels: dict[int, list[Image.Image]] = {}
    overlay = Overlay(film.rate) if job.overlay else None

    def written() -> Iterator[tuple[str, Any]]:
        for k, mask in enumerate(carried(job, film, encoder, first, values)):
            truth = truth_of(truths[k], film, k) if k in truths else None
            if truth is not None and 0 < k < last_scored(film):
                scores.add(mask, truth)
            if overlay is not None:
                overlay.add(painted(film.read(k), mask, palette))
            if k in shown:
                panels[k] = [small(painted(film.read(k), one, palette)) for one in (mask, truth) if one is not None]
            yield film.names[k], partial(save_mask, mask=mask, palette=palette)

    rows: list[dict[str, Any]] = []

    def finished(draft: Path, what: str) -> None:  # called when all masks are there
        if what == "overview.png":
            overview(panels, film).save(draft, format="PNG")
            return
        if overlay is not None and what == OVERLAY:
            overlay.copy(draft)
            return
        if truths:
            rows.append(row_of("encoder", [scores.found()]))
            rows.extend(baselines(job, film, encoder, first, values, truths))
        draft.write_text(json.dumps(story(job, film, values, rows), indent=1) + "\n", encoding="utf-8")

    extra = ("overview.png", *((OVERLAY,) if job.overlay else ()), "propagation.json")
    more: dict[str, Any] = {what: partial(finished, what=what) for what in extra}
    with overlay or contextlib.nullcontext():
        into_folder(written(), ".png", job.out, more)
    if rows:
        show(rows, {name: name for name in ("J&F", "J", "F")})
        for row in rows[1:]:
            if row["figures"]["J&F"]["mean"] >= rows[0]["figures"]["J&F"]["mean"]:
                say(f"the encoder is not above {row['features']}: its training does not help here.", "yellow")
    beside = f"overview.png and {OVERLAY}" if job.overlay else "overview.png"
    say(f"{len(film):,} masks are in {job.out}, with {beside}", "green")
    return story(job, film, values, rows)


def story(job: Propagate, film: Film, values: Sequence[int], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    settings = {name: getattr(job, name) for name in ("context", "radius", "top", "temperature")}
    seen = {"size": list(film.size), "stride": film.stride, **settings}
    if film.of_video:
        seen["fps"] = film.rate
    return {"out": str(job.out), "frames": len(film), "objects": list(values), **seen, "rows": list(rows)}


def carried(
    job: Propagate, film: Film, encoder: Encoder, first: Mask, values: Sequence[int]
) -> Iterator[UInt8[np.ndarray, "h w"]]:
    """The mask of each frame, the first too, in the values of the first."""
    yield first
    back = np.array([0, *values], dtype=np.uint8)
    numbered = np.zeros_like(first)
    for k, value in enumerate(values, 1):
        numbered[first == value] = k
    frames = film.features(encoder)
    begin = next(frames)
    labels = one_hot(numbered, len(values), (begin.shape[1], begin.shape[2]))
    gone = [value for k, value in enumerate(values, 1) if not labels[k].any()]
    if gone:
        say(f"object {gone[0]} is smaller than a place of the map: it is lost. Give a smaller --stride or a larger "
            "--size.", "yellow")  # fmt: skip
    radius = job.radius or None

    def all_frames() -> Iterator[Tensor]:
        yield begin
        yield from frames

    for soft in propagated(all_frames(), labels, job.context, radius, job.top, job.temperature):
        yield back[hard(soft, (film.height, film.width))]


def baselines(
    job: Propagate, film: Film, encoder: Encoder, first: Mask, values: Sequence[int], truths: dict[int, Path]
) -> list[dict[str, Any]]:
    """Figures of random weights (the better of two kinds of batch statistics), and of the first mask in each frame."""
    end = last_scored(film)

    def judged(found: Iterator[Mask]) -> dict[str, float]:
        scores = RegionScores(values)
        for k, mask in enumerate(found):
            if 0 < k < end and k in truths:
                scores.add(mask, truth_of(truths[k], film, k))
        return scores.found()

    random = []
    for seed in range(job.seeds):
        say(f"random weights, seed {seed}")
        fresh = redrawn(encoder, film.data.modality, seed, film.on)
        tries = [judged(carried(job, film, fresh, first, values))]
        if any(isinstance(part, _BatchNorm) for part in fresh.modules()):
            some = np.linspace(0, len(film) - 1, min(MET, len(film))).round().astype(int).tolist()
            with torch.no_grad():
                met = calibrated(fresh, (film.view(k).repeat(2, 1, 1, 1) for k in some))
            tries.append(judged(carried(job, film, met, first, values)))
        random.append(max(tries, key=lambda figures: figures["J&F"]))
    return [row_of("random", random), row_of("first mask", [judged(first for _ in range(len(film)))])]


def last_scored(film: Film) -> int:
    """Frames from this on are not scored: the last, as DAVIS has it, where there are more than two."""
    return len(film) - 1 if len(film) > 2 else len(film)


# Files ---------------------------------------------------------------------------------------------------------------


def by_number(name: str) -> list[tuple[int, int | str]]:
    """A key by which frame 2 comes before frame 10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"([0-9]+)", name)]


def read_mask(path: Path, film: Film, what: str) -> maskfiles.Stored:
    """Raises UserError on what is no mask, or of another size."""
    if not path.is_file():
        raise UserError(f"{what} {path}: no such file. Give a palette or grey PNG.")
    try:
        stored = maskfiles.read(str(path))
    except UnreadableItem as error:
        raise UserError(f"{what} {path} cannot be read: {error}.") from None
    if stored.form == "colour":
        raise UserError(f"{what} {path}: colours, not numbers of objects. Give a palette or grey PNG.")
    height, width = stored.values.shape
    if (height, width) != (film.height, film.width):
        raise UserError(
            f"{what} {path} has {width} x {height} pixels, the frames have {film.width} x {film.height}. A mask is of "
            "its frame's size."
        )
    if stored.values.max() > VOID or stored.values.min() < 0:
        raise UserError(f"{what} {path}: values up to {stored.values.max()}; objects are numbered 1 to 254.")
    return stored


def first_mask(job: Propagate, film: Film) -> tuple[Mask, list[int], list[int]]:
    """(mask of the first frame, its palette or that of DAVIS, the values of its objects). Raises UserError."""
    stems, own = [film.stem(name) for name in film.names], film.stem(job.mask.name)
    if own in stems[1:] and own != stems[0]:
        raise UserError(
            f"--mask {job.mask} is called as frame {stems.index(own) + 1}, and the first is {film.names[0]}. "
            "Give the mask of the first, or leave out the frames before it."
        )
    stored = read_mask(job.mask, film, "--mask")
    mask = stored.values.astype(np.uint8)
    film.white = black_and_white(stored)
    if film.white:
        mask[mask == VOID] = 1
    values = [value for value in np.unique(mask).tolist() if value not in (0, VOID)]
    if not values:
        held = " or 255, which is not counted" if mask.any() else ""
        raise UserError(f"--mask {job.mask}: no object in it: all pixels are 0{held}. Save objects as 1, 2, ....")
    mask[mask == VOID] = 0
    colours = () if film.white else stored.palette
    palette = [part for colour in colours for part in colour] if colours else davis_palette()
    return mask, palette, values


def black_and_white(stored: maskfiles.Stored) -> bool:
    """Whether a mask has 0 and 255 alone: 255 is then the object, and not what does not count.

    Unless a palette gives it the colour that VOC gives to what does not count.
    """
    there = np.unique(stored.values).tolist()
    return there == [0, VOID] and int(stored.colours.max()) != masks.VOID


def truth_files(job: Propagate, film: Film) -> dict[int, Path]:
    """Frame -> mask of the same name. Raises UserError where there is none."""
    assert job.truth is not None
    if not job.truth.is_dir():
        raise UserError(f"--truth {job.truth}: no such folder. Give one of masks with the frames' names.")
    files = sorted(path for path in job.truth.iterdir() if path.suffix.lower() in masks.MASKS.suffixes)
    there = {film.stem(path.name): path for path in files}
    found = {k: there[stem] for k, name in enumerate(film.names) if (stem := film.stem(name)) in there}
    if not any(0 < k < last_scored(film) for k in found):
        raise UserError(
            f"--truth {job.truth}: no mask of a frame between the first and the last in it, as "
            f"{PurePosixPath(film.names[1]).stem}.png. Name masks as their frames."
        )
    return found


def truth_of(path: Path, film: Film, k: int) -> Mask:
    stored = read_mask(path, film, f"--truth of {film.names[k]}:")
    mask = stored.values.astype(np.uint8)
    if film.white and black_and_white(stored):
        mask[mask == VOID] = 1
    return mask


def davis_palette() -> list[int]:
    """The colours of VOC and DAVIS: the bits of a number, spread over red, green and blue."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for number in range(256):
        rest = number
        for bit in range(7, -1, -1):
            for channel in range(3):
                table[number, channel] |= ((rest >> channel) & 1) << bit
            rest >>= 3
    return table.ravel().tolist()


def save_mask(draft: Path, mask: Mask, palette: list[int]) -> None:
    image = Image.fromarray(mask, mode="P")
    image.putpalette(palette)
    image.save(draft, format="PNG")


def painted(pixels: np.ndarray, mask: Mask, palette: list[int]) -> UInt8[np.ndarray, "h w 3"]:
    """A frame, its objects in their colours over it, each within a white line with a black one around.

    Whatever the colours of object and ground, one of the two lines is seen.
    """
    low, high = (0, 255) if pixels.dtype == np.uint8 else (float(pixels.min()), float(pixels.max()))
    grey = ((pixels[..., :3].astype(np.float32) - low) * (255 / max(1, high - low))).clip(0, 255)
    rgb = grey if grey.shape[2] == 3 else grey[..., :1].repeat(3, axis=2)
    table = np.zeros((256, 3), dtype=np.float32)
    table[: len(palette) // 3] = np.array(palette[: len(palette) // 3 * 3], dtype=np.float32).reshape(-1, 3)[:256]
    over = np.where((mask > 0)[..., None], 0.45 * rgb + 0.55 * table[mask], rgb)
    wide, ground = max(1, min(mask.shape) // LINE), mask == 0
    white = edges(mask, wide) & ground | edges(mask, 1) & ~ground
    over[edges(mask, 2 * wide) & ground & ~white] = 0
    over[white] = 255
    return over.astype(np.uint8)


def edges(mask: Mask, wide: int) -> Bool[np.ndarray, "h w"]:
    """Where another object or the ground is at most `wide` pixels away, across or down."""
    padded = np.pad(mask, wide, mode="edge")
    found = np.zeros(mask.shape, dtype=bool)
    height, width = mask.shape
    for step in range(1, wide + 1):
        for down, across in ((step, 0), (-step, 0), (0, step), (0, -step)):
            found |= padded[wide + down : wide + down + height, wide + across : wide + across + width] != mask
    return found


def small(picture: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    shown = Image.fromarray(picture)
    return shown.resize((SIDE, max(1, round(SIDE * shown.height / shown.width))), Image.Resampling.BILINEAR)


def overview(panels: dict[int, list[Image.Image]], film: Film) -> Image.Image:
    """Frames in a row with what was carried there; below, where it is known, the truth."""
    lines = []
    for row, word in enumerate(("carried", "known")):
        some = {k: of_frame[row] for k, of_frame in sorted(panels.items()) if len(of_frame) > row}
        if some:
            lines.append(beside(list(some.values()), [f"{printable(film.names[k])}, {word}" for k in some]))
    page = Image.new("RGB", (max(line.width for line in lines), sum(line.height for line in lines)), "#ffffff")
    top = 0
    for line in lines:
        page.paste(line, (0, top))
        top += line.height
    return page
