"""Words in pictures: a font that has their letters, and as much of a name as fits."""

from functools import lru_cache

from PIL import ImageFont

__all__ = ["font_for", "shortened"]

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
OFTEN = (  # on machines of several kinds; those with more letters behind
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSans-Regular.ttf",
    "arial.ttf",
    "Arial.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "msyh.ttc",
    "PingFang.ttc",
)
NONE = "\ufffe"  # no letter: drawn as fonts draw what they have not


def font_for(words: str, size: int) -> Font:
    """Pillow's own font; for letters beyond ASCII, which it lacks, that of this machine's which has most of them."""
    return _font("".join(sorted(letter for letter in set(words) if not letter.isascii())), size)


@lru_cache(maxsize=256)
def _font(letters: str, size: int) -> Font:
    best: Font = ImageFont.load_default(size=size)
    wanting = lacking(best, letters)
    for name in OFTEN:
        if not wanting:
            break
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if (less := lacking(font, letters)) < wanting:
            best, wanting = font, less
    return best


def lacking(font: Font, letters: str) -> int:
    """How many of the letters a font has not. Pillow's bitmap font, where there is no FreeType, has 256."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return sum(ord(letter) > 255 for letter in letters)
    nothing = bytes(font.getmask(NONE))
    return sum(bytes(font.getmask(letter)) == nothing for letter in letters)


def shortened(text: str, width: int, font: Font) -> str:
    """The text, or "…" and as much of its end as `width` pixels hold: names differ at their ends."""
    if font.getlength(text) <= width:
        return text
    return next(cut for k in range(1, len(text) + 1) if font.getlength(cut := "…" + text[k:]) <= width)
