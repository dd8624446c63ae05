"""Pictures in lines, each with a few words below: a query, and what was found for it."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from selfsame.storage.captions import font_for, shortened

SIDE = 128  # of a picture, pixels
GAP, WORDS = 8, 18  # between pictures; height of the words below
PAPER, INK, LOST, FRAME = (255, 255, 255), (30, 30, 30), (128, 128, 128), (200, 60, 40)


def strips(rows: Sequence[Sequence[tuple[Image.Image | None, str]]]) -> Image.Image:
    """One line a row; the first of each, the query, stands apart in a frame. Grey where there is no picture."""
    wide, high = SIDE + GAP, SIDE + WORDS + GAP
    columns = max(map(len, rows), default=1)
    page = Image.new("RGB", (columns * wide + 3 * GAP, len(rows) * high + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    font = font_for("".join(words for row in rows for _, words in row), 12)
    for r, row in enumerate(rows):
        for c, (picture, words) in enumerate(row):
            x, y = GAP + c * wide + (2 * GAP if c else 0), GAP + r * high
            shown = Image.new("RGB", (SIDE // 2, SIDE // 2), LOST) if picture is None else picture.convert("RGB")
            scale = SIDE / max(shown.size)
            size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
            way = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
            shown = shown.resize(size, way)
            page.paste(shown, (x + (SIDE - size[0]) // 2, y + (SIDE - size[1]) // 2))
            if c == 0:
                draw.rectangle((x - 3, y - 3, x + SIDE + 2, y + SIDE + 2), outline=FRAME, width=2)
            # A query is a path, which differs from others at its end; words of what was found begin with the cosine.
            told = shortened(words, SIDE, font) if c == 0 else cut(words, font)
            draw.text((x, y + SIDE + 3), told, fill=INK, font=font)
    return page


def cut(words: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """As many of the words as there is room for below a picture."""
    words = words.encode("latin-1", "replace").decode("latin-1") if isinstance(font, ImageFont.ImageFont) else words
    while words and font.getlength(words) > SIDE:
        words = words.removesuffix("…")[:-1] + "…" if len(words) > 1 else ""
    return words
