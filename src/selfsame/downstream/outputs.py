"""Predictions of pictures on disk: a folder with one file a picture, and panels for a person to look at."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image, ImageDraw

from selfsame.engine.state import write_text, writing
from selfsame.errors import UserError
from selfsame.storage.captions import font_for, shortened

Write = Callable[[Path], None]
WRITTEN = ".written"  # in a folder of predictions: the names of the files that were written there, a line each
CAPTION, GAP = 20, 4  # pixels


def into_folder(named: Iterable[tuple[str, Write]], suffix: str, out: Path, more: dict[str, Write]) -> list[Path]:
    """Write a file for each name below `out`, and those of `more` beside, and return all: none is there before all are.

    A name keeps its folders; its suffix is replaced unless two names would then be one. `out` is a new folder, an empty
    one, or one that was written so before; files that were not are never replaced. Raises UserError, before the first
    name is asked for, where it holds other things, and where it cannot be written.
    """
    mine = own_files(out)
    draft = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    places: list[PurePosixPath] = []
    used: set[PurePosixPath] = set()
    with writing(out):
        try:
            for name, write in named:
                # An absolute name, or one that climbs, must not lead out of the folder.
                plain = PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", "..")))
                place = plain.with_suffix(suffix)
                while place in used:
                    plain = plain.with_name(plain.name + suffix)
                    place = plain
                used.add(place)
                places.append(place)
                (draft / place).parent.mkdir(parents=True, exist_ok=True)
                write(draft / place)
            for name, write in more.items():
                places.append(PurePosixPath(name))
                draft.mkdir(parents=True, exist_ok=True)
                write(draft / name)
            if foreign := [place for place in places if (out / place).exists() and str(place) not in mine]:
                raise UserError(f"{out} holds {foreign[0]}, which was not written here before. Choose another --out.")
            out.mkdir(parents=True, exist_ok=True)
            write_text(out / WRITTEN, "".join(f"{place}\n" for place in sorted(mine | {str(p) for p in places})))
            for place in places:
                (out / place).parent.mkdir(parents=True, exist_ok=True)
                (draft / place).replace(out / place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return [out / place for place in places]


def own_files(out: Path) -> set[str]:
    """The names of files that `into_folder` wrote in a folder. Raises UserError for one with other things in it."""
    if not out.is_dir():
        return set()
    if (out / WRITTEN).is_file():
        return set((out / WRITTEN).read_text(encoding="utf-8").splitlines())
    if inside := sorted(path.name for path in out.iterdir()):
        raise UserError(
            f"--out {out} holds other things already ({', '.join(inside[:3])}{', ...' if len(inside) > 3 else ''}), "
            "which must not be replaced. Choose a new folder."
        )
    return set()


def beside(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Pictures of one size in a row, each under its caption."""
    width, height = pictures[0].size
    step = width + GAP
    page = Image.new("RGB", (step * len(pictures) - GAP, height + CAPTION), "#ffffff")
    draw, font = ImageDraw.Draw(page), font_for("".join(captions), 14)
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        page.paste(picture, (k * step, CAPTION))
        draw.text((k * step + 2, 1), shortened(caption, width - 4, font), fill="#1f2328", font=font)
    return page
