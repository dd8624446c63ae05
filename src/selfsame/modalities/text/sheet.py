"""Texts for a person to see: a card, a fragment of HTML, and texts beside their views as plain text."""

import html
import textwrap
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from selfsame.storage.captions import font_for

__all__ = ["contact_sheet", "fragment", "picture"]

PAPER, INK, FRAME = "#ffffff", "#1f2328", "#d8dce2"
SHOWN = 600  # characters of a text in a report
WIDTH = 100  # characters of a line of a contact sheet


def picture(source: Any, i: int, side: int = 256) -> Image.Image:
    """The first words of a text on a white card, as many as there is room for. Raises UnreadableItem."""
    text = shortened(source.read(i), SHOWN)
    page = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(page)
    size = max(9, side // 18)
    font = font_for(text, size)
    margin, line = side // 16, round(size * 1.3)
    room = side - 2 * margin
    lines = wrapped(text, font, room)
    rows = room // line
    if len(lines) > rows:
        lines = [*lines[: rows - 1], lines[rows - 1] + " …"]
    for row, words in enumerate(lines):
        draw.text((margin, margin + row * line), words, fill=INK, font=font)
    draw.rectangle((0, 0, side - 1, side - 1), outline=FRAME)
    return page


def wrapped(text: str, font: Any, room: int) -> list[str]:
    """The text in lines that are at most `room` pixels wide; a word that is longer is cut."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > room:
            most = next(k for k in range(len(word), 0, -1) if k == 1 or font.getlength(word[:k]) <= room)
            lines.append(word[:most])
            word = word[most:]
        if font.getlength(f"{lines[-1]} {word}") > room:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return [line for line in lines if line]


def fragment(source: Any, i: int) -> str:
    """The text as HTML, which takes nothing in it for markup. Raises UnreadableItem."""
    return f'<p class="text">{html.escape(shortened(source.read(i), SHOWN))}</p>'


def contact_sheet(source: Any, items: Sequence[int], views: Sequence[Sequence[Tensor]], names: Sequence[str]) -> str:
    """Each text with its name, and its views below it, as the encoder's tokens spell them.

    Args:
        source: fitted, so that it knows the tokenizer.
        items: their numbers.
        views: of each item, rows of tokens [n].
        names: of the items.
    """
    blocks = []
    for item, made, name in zip(items, views, names, strict=True):
        lines = [f"{name}", *told("item", shortened(source.read(item), SHOWN))]
        for k, view in enumerate(made, 1):
            count = int((view != 0).sum())
            lines += told(f"view {k}", f"{source.codec.text_of(view.tolist())}  ({count} tokens)")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def told(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {head:8}", subsequent_indent=" " * 10) or [f"  {head}"]


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} …"
