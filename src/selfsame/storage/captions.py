"""The name of an item as a caption: as much of it as fits."""

from PIL import ImageFont

__all__ = ["shortened"]


def shortened(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The text, or "…" and as much of its end as `width` pixels hold: names differ at their ends."""
    if font.getlength(text) <= width:
        return text
    return next(cut for k in range(1, len(text) + 1) if font.getlength(cut := "…" + text[k:]) <= width)
