"""Predictions of pictures on disk: a folder with one file a picture, and panels for a person to look at."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image, ImageDraw, ImageFont

from selfsame.engine.state import writing

Write = Callable[[Path], None]
CAPTION, GAP = 16, 4  # pixels


def into_folder(named: Iterable[tuple[str, Write]], suffix: str, out: Path, more: dict[str, Write]) -> list[Path]:
    """Write a file for each name below `out`, and those of `more` beside, and return all: none is there before all are.

    A name keeps its folders; its suffix is replaced unless two names would then be one. What else is in `out` stays.
    Raises UserError where it cannot be written.
    """
    draft = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    places: list[PurePosixPath] = []
    used: set[PurePosixPath] = set()
    with writing(out):
        try:
            for name, write in named:
                # An absolute name, or one that climbs, must not lead out of the folder.
                plain = PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", "..")))
                place = plain.with_suffix(suffix)
                place = plain.with_name(plain.name + suffix) if place in used else place
                used.add(place)
                places.append(place)
                (draft / place).parent.mkdir(parents=True, exist_ok=True)
                write(draft / place)
            for name, write in more.items():
                places.append(PurePosixPath(name))
                draft.mkdir(parents=True, exist_ok=True)
                write(draft / name)
            for place in places:
                (out / place).parent.mkdir(parents=True, exist_ok=True)
                (draft / place).replace(out / place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return [out / place for place in places]


def beside(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Pictures of one size in a row, each under its caption."""
    width, height = pictures[0].size
    step = width + GAP
    page = Image.new("RGB", (step * len(pictures) - GAP, height + CAPTION), "#ffffff")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=11)
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        page.paste(picture, (k * step, CAPTION))
        draw.text((k * step + 2, 1), caption, fill="#1f2328", font=font)
    return page
