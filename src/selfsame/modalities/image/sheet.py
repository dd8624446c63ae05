"""Images for a person to look at: an item alone, and a sheet of items beside their views. Drawn with Pillow."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from selfsame.modalities.image.source import ImageSource
from selfsame.storage.captions import font_for, shortened

__all__ = ["contact_sheet", "fragment", "picture"]

CELL, GAP, MARGIN, LINE = 128, 8, 20, 18  # pixels; LINE is the height of a caption
PAPER, INK, FAINT, FRAME = "#ffffff", "#1f2328", "#6b7280", "#d8dce2"


def picture(source: ImageSource, i: int, side: int = 256) -> Image.Image:
    """An item as an RGB picture of at most `side` pixels; its range is stretched to 8 bits. Raises UnreadableItem."""
    values = source.read(i)
    if values.dtype != np.uint8:
        low, high = int(values.min()), int(values.max())
        values = ((values.astype(np.float32) - low) * (255 / max(1, high - low))).astype(np.uint8)
    if values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    elif values.shape[2] == 2:
        values = np.concatenate([values, values[..., :1] * 0], axis=2)
    shown = Image.fromarray(np.ascontiguousarray(values[..., :3]))
    if max(shown.size) < side // 2:  # tiny images are enlarged by whole pixels
        factor = side // 2 // max(shown.size)
        return shown.resize((shown.width * factor, shown.height * factor), Image.Resampling.NEAREST)
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    return shown


def fragment(source: ImageSource, i: int) -> str:
    """Nothing beside the picture: it says all."""
    return ""


def contact_sheet(
    source: ImageSource,
    items: Sequence[int],
    views: Sequence[Sequence[Float[Tensor, "c s s"]]],
    names: Sequence[str],
) -> Image.Image:
    """One row an item, as `drawn_sheet` has it. Raises UnreadableItem."""
    return drawn_sheet([picture(source, i) for i in items], views, names)


def drawn_sheet(
    originals: Sequence[Image.Image], views: Sequence[Sequence[Float[Tensor, "c s s"]]], names: Sequence[str]
) -> Image.Image:
    """One row an item: the item with its name, then its views, each fitted into a square cell.

    Args:
        originals: pictures of any mode; ranges deeper than 8 bits are stretched.
        views: of each item, values in [0, 1] and of any size: 3 channels are colours, 1 or 2 show the first as gray,
            of more the first three are shown, each stretched to its range.
        names: captions of the items; the ends of long ones are kept.
    """
    columns = 1 + max((len(row) for row in views), default=0)
    step = CELL + GAP
    width = 2 * MARGIN + columns * step - GAP + GAP  # one more gap sets the item apart from its views
    height = 2 * MARGIN + LINE + len(originals) * (step + LINE) - GAP
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    font = font_for("".join(names), 12)
    lefts = [MARGIN] + [MARGIN + GAP + k * step for k in range(1, columns)]
    for k, left in enumerate(lefts):
        draw.text((left, MARGIN - 4), f"view {k}" if k else "item", fill=FAINT, font=font)
    for row, (original, made, name) in enumerate(zip(originals, views, names, strict=True)):
        top = MARGIN + LINE + row * (step + LINE)
        pictures = [shown(original), *(drawn(view) for view in made)]
        for left, picture in zip(lefts, pictures, strict=False):
            place(page, picture, left, top)
        draw.text((lefts[0], top + CELL + 3), shortened(name, CELL, font), fill=INK, font=font)
        for left, view in zip(lefts[1:], made, strict=False):
            draw.text((left, top + CELL + 3), f"{view.shape[-1]} px", fill=FAINT, font=font)
    return page


def place(page: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    """Put the picture, brought to fit, into the middle of the cell whose corner is given, with a thin frame."""
    scale = CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Small views are enlarged with visible pixels: smoothing would show a blur that is not there.
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    fitted = picture.resize(size, kind)
    corner = (left + (CELL - size[0]) // 2, top + (CELL - size[1]) // 2)
    page.paste(fitted, corner)
    frame = (corner[0] - 1, corner[1] - 1, corner[0] + size[0], corner[1] + size[1])
    ImageDraw.Draw(page).rectangle(frame, outline=FRAME)


def shown(picture: Image.Image) -> Image.Image:
    """Any Pillow image as RGB; converting 16 bits the short way would clip nearly all of it to white."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return as_picture(stretched(np.asarray(picture, dtype=np.float32)[..., None]))
    return picture.convert("RGB")


def drawn(view: Float[Tensor, "c s s"]) -> Image.Image:
    values = view.detach().float().cpu().numpy().transpose(1, 2, 0)
    channels = values.shape[2]
    if channels <= 3:
        return as_picture(values if channels == 3 else values[..., :1])
    return as_picture(stretched(values[..., :3]))


def stretched(values: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
    """Each channel from its smallest to its largest value brought to 0 .. 1; a constant one is 0."""
    low, high = values.min((0, 1)), values.max((0, 1))
    return (values - low) / np.where(high > low, high - low, 1)


def as_picture(values: Float[np.ndarray, "h w c"]) -> Image.Image:
    pixels = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))
