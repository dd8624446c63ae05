"""What the vectors say about the items, in pictures: the nearest neighbours of some items, and a map of many.

Sources: t-SNE, van der Maaten & Hinton 2008, from scikit-learn, started from the principal components.
Every picture is a data URI, shrunk until a gallery keeps to its share of the page.
"""

import base64
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from selfsame.errors import UnreadableItem
from selfsame.report.curves import COLOURS

__all__ = ["Tile", "data_uri", "layout", "map_of_items", "nearest", "neighbours", "sheet_uri", "tiled"]

Picture = Callable[[int], Image.Image]

BYTES = {"sheet": 1_500_000, "neighbours": 1_500_000, "map": 2_500_000}  # of data URIs, most
BLOCK = 65_536  # vectors compared at once
WIDTH, HEIGHT, THUMBNAIL = 1000, 640, 34  # the map, in units of its SVG
NO_PICTURE = (128, 128, 128)


class Tile(NamedTuple):
    """An item in a strip of pictures."""

    item: int
    name: str
    below: str  # stands under its picture, in lines
    kind: str = ""  # words: query (stands out), same (underlined), end (a gap behind it)
    about: str = ""  # shows with the name under the pointer


def data_uri(image: Image.Image, quality: int = 75) -> str:
    """The picture as a WebP data URI; `quality` in 0..100. Up to 16 pixels a side it is kept without loss.

    Pictures of more than 8 bits are stretched from their lowest to their highest value.
    """
    file = io.BytesIO()
    _eight_bit(image).save(file, "WEBP", quality=quality, lossless=max(image.size) <= 16)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def sheet_uri(sheet: Image.Image) -> str:
    """A large picture as a data URI of at most 1.5 MB."""
    return _within(BYTES["sheet"], [sheet], [(1600, 82), (1600, 65), (1200, 60), (800, 50)])[0]


def nearest(
    vectors: Float[np.ndarray, "n d"], queries: Sequence[int], k: int
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The k nearest items of each query by cosine, best first, and the cosines in [-1, 1]; the query is left out.

    Exact, by blocks; of equals the lower number comes first. With fewer than k + 1 items, k is n - 1. Items whose
    vectors are not finite come last, with cosine NaN.
    """
    k = min(k, len(vectors) - 1)
    asked = _unit(vectors[list(queries)])
    best = np.zeros((len(queries), 0))
    found = np.zeros((len(queries), 0), dtype=np.int64)
    for start in range(0, len(vectors), BLOCK):
        cosines = np.nan_to_num(asked @ _unit(vectors[start : start + BLOCK]).T, nan=-2.0)
        numbers = np.arange(start, start + cosines.shape[1])
        cosines[np.asarray(queries)[:, None] == numbers] = -np.inf  # below all others, so never among the k
        best = np.concatenate([best, cosines], axis=1)
        found = np.concatenate([found, np.broadcast_to(numbers, cosines.shape)], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, found = np.take_along_axis(best, order, axis=1), np.take_along_axis(found, order, axis=1)
    return found, np.where(best < -1.5, np.nan, best.clip(-1, 1))


def neighbours(
    vectors: Float[np.ndarray, "n d"],
    picture: Picture,
    names: Sequence[str],
    queries: Sequence[int],
    k: int = 8,
    labels: Sequence[str] | None = None,
    fragment: Callable[[int], str] | None = None,
) -> str:
    """HTML strips: each query, then its k nearest items with their cosines.

    With `labels` (one an item) the neighbours that carry the label of their query are marked and counted. `fragment`
    gives HTML that shows an item in place of its picture, or "" where the picture is to stand.
    """
    if len(vectors) < 2 or not len(queries):
        return _note(
            f"No neighbours to show: {len(vectors)} item{'' if len(vectors) == 1 else 's'}, {len(queries)} asked about."
        )
    found, cosines = nearest(vectors, queries, k)
    rows = [[int(query), *(int(i) for i in row)] for query, row in zip(queries, found, strict=True)]
    shown = []
    for row, near in zip(rows, cosines, strict=True):
        tiles = [Tile(row[0], names[row[0]], labels[row[0]] if labels else names[row[0]], "query")]
        for i, cosine in zip(row[1:], near, strict=True):
            told = f"{cosine:.3f}" if math.isfinite(cosine) else "no vector"
            same = "same" if labels and labels[i] == labels[row[0]] else ""
            below = f"{labels[i]} · {told}" if labels else told
            tiles.append(Tile(i, names[i], below, same, f", cosine {told}"))
        shown.append(tiles)
    counted = ""
    if labels:
        right = sum(labels[i] == labels[row[0]] for row in rows for i in row[1:])
        asked = sum(len(row) - 1 for row in rows)
        counted = _note(f"{right} of {asked} neighbours carry the label of their query (underlined).")
    return tiled(shown, picture, fragment) + counted


def tiled(
    rows: Sequence[Sequence[Tile]],
    picture: Picture,
    fragment: Callable[[int], str] | None = None,
    headings: Sequence[str] | None = None,
) -> str:
    """HTML strips of items, one below the other, each under its heading where there are headings.

    `fragment` gives HTML that shows an item in place of its picture, or "" where the picture is to stand.
    """
    wanted = sorted({tile.item for row in rows for tile in row})
    if not wanted:
        return ""
    sizes = [(112, 78), (96, 70), (72, 60), (48, 50), (32, 40)]
    repeats = sum(map(len, rows)) / len(wanted)
    own = {i: _fragment(fragment, i) for i in wanted}
    drawn = [i for i in wanted if not own[i]]
    uris = dict(
        zip(drawn, _within(BYTES["neighbours"] / repeats, [_picture(picture, i) for i in drawn], sizes), strict=True)
    )

    def inner(tile: Tile) -> str:
        if tile.item in uris:
            return f'<img src="{uris[tile.item]}" alt="{escape(tile.name)}"/>'
        return own[tile.item]

    html = []
    for k, row in enumerate(rows):
        tiles = "".join(_tile(inner(tile), tile.name + tile.about, tile.below, tile.kind) for tile in row)
        heading = f"<h3>{escape(headings[k])}</h3>" if headings else ""
        html.append(f'{heading}<div class="strip">{tiles}</div>')
    return f'<div class="strips">{"".join(html)}</div>'


def layout(vectors: Float[np.ndarray, "n d"], seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """A place in the plane for each of at least 5 vectors: unit length, PCA to 50, t-SNE with a fixed seed."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    unit = _unit(vectors)
    width = min(50, *unit.shape)
    perplexity = min(30.0, (len(unit) - 1) / 3)
    # One thread: for so few items threads mostly wait for each other, minutes long on a busy machine.
    with threadpool_limits(1):
        reduced = PCA(width, random_state=seed).fit_transform(unit) if width > 1 else unit - unit.mean(axis=0)
        if reduced.shape[1] < 2:
            reduced = np.concatenate([reduced, np.zeros_like(reduced)], axis=1)
        tsne = TSNE(2, init="pca", perplexity=perplexity, random_state=seed)
        return tsne.fit_transform(reduced.astype(np.float32))


def map_of_items(
    vectors: Float[np.ndarray, "n d"],
    picture: Picture,
    names: Sequence[str],
    labels: Sequence[str] | None = None,
    seed: int = 0,
    most: int = 1000,
) -> str:
    """An HTML figure: up to `most` items, drawn with the seed, where t-SNE puts them; a sentence where it cannot.

    The pictures of some stand in place, the others show under the pointer. `labels` (one an item) give colours.
    """
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    if len(usable) < 5:
        return _note(f"A map needs at least 5 items with finite vectors; there are {len(usable)}.")
    chosen = np.sort(np.random.default_rng(seed).permutation(usable)[:most])
    if _unit(vectors[chosen]).std(axis=0).max() < 1e-6:
        return _note("There is no map to draw: all vectors point the same way.")
    places = _fitted(layout(vectors[chosen], seed))
    sizes = [(64, 72), (56, 60), (40, 55), (32, 45), (24, 40)]
    uris = _within(BYTES["map"], [_picture(picture, int(i)) for i in chosen], sizes)
    colours, legend = _colours([labels[i] for i in chosen]) if labels else (["c0"] * len(chosen), "")
    raised = set(_apart(places, seed))
    images, dots, frames = [], [], []
    for j, (i, (x, y), uri) in enumerate(zip(chosen, places, uris, strict=True)):
        half = THUMBNAIL / 2
        place = f'x="{x - half:.1f}" y="{y - half:.1f}" width="{THUMBNAIL}" height="{THUMBNAIL}"'
        images.append(f'<image id="item-{j}" {place} preserveAspectRatio="xMidYMid slice" href="{uri}"/>')
        told = f'data-name="{escape(names[i])}"' + (f' data-label="{escape(labels[i])}"' if labels else "")
        group = f'<g class="item" data-item="{j}" data-x="{x:.1f}" data-y="{y:.1f}" {told}>'
        if j in raised:
            frames.append(f'{group}<use href="#item-{j}"/><rect class="frame {colours[j]}" {place} rx="3"/></g>')
        else:
            dots.append(f'{group}<circle class="dot {colours[j]}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/></g>')
    shown = f"{len(chosen):,} of {len(vectors):,} items" if len(chosen) < len(vectors) else f"{len(chosen):,} items"
    lost = len(vectors) - len(usable)
    return (
        f'<figure class="map"><svg class="items" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="map of {shown}">'
        f"<defs>{''.join(images)}</defs>{''.join(dots)}{''.join(frames)}</svg>"
        '<div class="tip" hidden><img alt=""/><b></b><span></span></div>'
        + (f'<ul class="legend">{legend}</ul>' if legend else "")
        + _note(
            f"{shown}. Items that the encoder finds alike lie close together; distances between far groups, and the "
            "directions, mean nothing (t-SNE)." + (f" {lost} without a finite vector are left out." if lost else "")
        )
        + "</figure>"
    )


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _tile(inner: str, title: str, below: str, kind: str) -> str:
    lines = "".join(f"<span>{escape(line)}</span>" for line in below.split("\n"))
    return f'<div class="tile {kind}" title="{escape(title)}">{inner}{lines}</div>'


def _fragment(fragment: Callable[[int], str] | None, i: int) -> str:
    """HTML of an item; "" where there is none, or the item can no longer be read."""
    try:
        return fragment(i) if fragment is not None else ""
    except UnreadableItem:
        return ""


def _picture(picture: Picture, i: int) -> Image.Image:
    """The item's picture, at most 256 pixels a side; plain grey where it can no longer be read.

    A file lost after training must not cost the report; its grey tile still carries its name.
    """
    try:
        return _shrunk(picture(i), 256)
    except UnreadableItem:
        return Image.new("RGB", (64, 64), NO_PICTURE)


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    image = _eight_bit(image)
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), reducing_gap=2.0)


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        span = float(np.ptp(values)) or 1.0
        image = Image.fromarray(((values - values.min()) / span * 255).round().astype(np.uint8))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _within(most: float, images: Sequence[Image.Image], sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Data URIs of the images at the first of the (side, quality) pairs that keeps them under `most` bytes together."""
    uris: list[str] = []
    for side, quality in sizes:
        uris = [data_uri(_shrunk(image, side), quality) for image in images]
        if sum(map(len, uris)) <= most:
            break
    return uris


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows at unit length; a row of zeros stays zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return vectors / np.where(lengths > 0, lengths, 1)


def _fitted(places: np.ndarray) -> np.ndarray:
    """The places stretched to the drawing, with room for a thumbnail at the edges."""
    low, span = places.min(axis=0), np.ptp(places, axis=0)
    room = THUMBNAIL / 2 + 4
    inner = np.array([WIDTH - 2 * room, HEIGHT - 2 * room])
    return room + (places - low) / np.where(span > 0, span, 1) * inner


def _apart(places: np.ndarray, seed: int, most: int = 150) -> list[int]:
    """Numbers of places, taken in a random order, whose thumbnails do not touch each other."""
    kept: list[int] = []
    for j in np.random.default_rng(seed).permutation(len(places)):
        if len(kept) < most and (not kept or np.abs(places[kept] - places[j]).max(axis=1).min() > THUMBNAIL + 6):
            kept.append(int(j))
    return kept


def _colours(labels: Sequence[str]) -> tuple[list[str], str]:
    """The CSS class of each item's colour, and the legend: the most frequent 12 classes, the others in grey."""
    counts = Counter(labels)
    common = sorted(label for label, _ in counts.most_common(COLOURS))
    colour = {label: f"c{i}" for i, label in enumerate(common)}
    legend = "".join(f'<li><i class="swatch {colour[label]}"></i>{escape(label)}</li>' for label in common)
    if len(counts) > len(common):
        legend += f'<li><i class="swatch other"></i>{len(counts) - len(common)} other classes</li>'
    return [colour.get(label, "other") for label in labels], legend
