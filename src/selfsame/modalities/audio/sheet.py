"""Recordings drawn and played: spectrograms in colours of even steps of lightness, players, a contact sheet.

Raises UnreadableItem where an item cannot be read.
"""

import base64
import io
import wave as wav
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int16, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from selfsame.modalities.audio import front
from selfsame.modalities.audio.raw import middle
from selfsame.modalities.audio.reading import Stats
from selfsame.modalities.audio.source import AudioSource, ratio, resampled
from selfsame.storage.captions import font_for, shortened

__all__ = ["contact_sheet", "fragment", "picture"]

CELL, HEIGHT, GAP, MARGIN, LINE = 176, 96, 8, 20, 18  # pixels of a contact sheet; LINE is the height of a caption
PAPER, INK, FAINT, FRAME = "#ffffff", "#1f2328", "#6b7280", "#d8dce2"
DRAWN = 10.0  # seconds of an item that are drawn
PLAYED, PLAYED_RATE = 2.7, 8000  # seconds and rate of a player's sound: 43 kB, 58 kB as text
RANGE = 3.0  # standard deviations about the mean of the data that span the colours
COLOURS = np.array(  # from black over purple and red to pale yellow; lightness rises evenly
    [(0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
     (249, 201, 50), (252, 255, 164)], dtype=float,
)  # fmt: skip


def coloured(level: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Values in [0, 1] as colours."""
    place = level.clip(0, 1) * (len(COLOURS) - 1)
    first = np.minimum(place.astype(int), len(COLOURS) - 2)
    part = (place - first)[..., None]
    return np.rint(COLOURS[first] * (1 - part) + COLOURS[first + 1] * part).astype(np.uint8)


def drawn(log_mel: Float[np.ndarray, "f t"], stats: Stats, width: int, height: int) -> Image.Image:
    """A spectrogram, low frequencies at the bottom, on one scale for all items of the data."""
    level = (log_mel - stats.mean) / stats.std / (2 * RANGE) + 0.5
    picture = Image.fromarray(coloured(np.flipud(level).astype(np.float32)))
    kind = Image.Resampling.NEAREST if picture.width < width else Image.Resampling.BOX
    return picture.resize((width, height), kind)


@torch.no_grad()
def spectrogram(stored: Int16[np.ndarray, "t"], stats: Stats) -> Float[np.ndarray, "f t"]:
    return front.log_mel(front.scaled(torch.from_numpy(stored))[None], stats)[0].numpy()


def picture(source: AudioSource, i: int, side: int = 256) -> Image.Image:
    """The log-mel spectrogram of an item, or of the middle DRAWN seconds, `side` pixels wide and 5/8 as high."""
    stats = fitted(source)
    return drawn(spectrogram(middle(source, i, stats, DRAWN), stats), stats, side, side * 5 // 8)


def fitted(source: AudioSource) -> Stats:
    assert source.stats is not None, "a source is drawn after `fit`"
    return source.stats


def fragment(source: AudioSource, i: int) -> str:
    """HTML: the spectrogram, and under it a player of the middle PLAYED seconds, 8 kHz, in the page itself."""
    stats = fitted(source)
    sound = middle(source, i, stats, PLAYED)
    image = io.BytesIO()
    drawn(spectrogram(sound, stats), stats, 192, 120).save(image, "WEBP", quality=60)
    player = base64.b64encode(playable(sound, stats.rate)).decode()
    shown = base64.b64encode(image.getvalue()).decode()
    return (
        f'<img src="data:image/webp;base64,{shown}" alt="spectrogram"/>'
        '<audio controls controlslist="nodownload noplaybackrate" preload="metadata" '
        f'src="data:audio/wav;base64,{player}"></audio>'
    )


def playable(sound: Int16[np.ndarray, "t"], rate: int) -> bytes:
    """A WAV of at most PLAYED_RATE samples a second."""
    if rate > PLAYED_RATE:
        up, down = ratio(rate, PLAYED_RATE)
        values = resampled(sound.astype(np.float32), up, down)
        sound, rate = np.rint(values).clip(-32768, 32767).astype(np.int16), PLAYED_RATE
    file = io.BytesIO()
    with wav.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(sound.astype("<i2").tobytes())
    return file.getvalue()


def contact_sheet(
    source: AudioSource, items: Sequence[int], views: Sequence[Sequence[Tensor]], names: Sequence[str]
) -> Image.Image:
    """One row an item: its spectrogram with its name and length, then those of its views.

    Args:
        views: of each item, waveforms [t] or log-mel spectrograms [f t].
        names: captions of the items; the ends of long ones are kept.
    """
    stats = fitted(source)
    columns = 1 + max((len(row) for row in views), default=0)
    width = 2 * MARGIN + columns * (CELL + GAP)
    height = 2 * MARGIN + LINE + len(items) * (HEIGHT + GAP + LINE) - GAP
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    font = font_for("".join(names), 12)
    lefts = [MARGIN] + [MARGIN + GAP + k * (CELL + GAP) for k in range(1, columns)]
    for k, left in enumerate(lefts):
        draw.text((left, MARGIN - 4), f"view {k}" if k else "item", fill=FAINT, font=font)
    for row, (item, made, name) in enumerate(zip(items, views, names, strict=True)):
        top = MARGIN + LINE + row * (HEIGHT + GAP + LINE)
        stored = middle(source, item, stats, DRAWN)
        told = [f"{len(stored) / stats.rate:.2f} s"]
        shown = [spectrogram(stored, stats)]
        for view in made:
            values = view.detach().float().cpu()
            shown.append(front.log_mel(values[None], stats)[0].numpy() if values.ndim == 1 else values.numpy())
            told.append(f"{max(1, shown[-1].shape[1] - 1) * stats.hop / stats.rate:.2f} s")
        for left, one, length in zip(lefts, shown, told, strict=False):
            page.paste(drawn(one, stats, CELL, HEIGHT), (left, top))
            draw.rectangle((left - 1, top - 1, left + CELL, top + HEIGHT), outline=FRAME)
            draw.text((left + CELL - font.getlength(length), top + HEIGHT + 3), length, fill=FAINT, font=font)
        draw.text((lefts[0], top + HEIGHT + 3), shortened(name, CELL - 48, font), fill=INK, font=font)
    return page
