"""A modality of your own: DNA in FASTA files. docs/modality.md walks through it.

    selfsame pretrain genes.fasta --modality dna --out runs/genes      # with this file's folder on PYTHONPATH

One module, or one package, that has the names of `selfsame.types.Modality`. Whatever else selfsame does, it does with
these: methods, training, going on after a stop, evaluation, reports, search for what can go wrong.
"""

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from selfsame.errors import UnreadableItem, UserError, unknown
from selfsame.records import Record, ViewPlan
from selfsame.storage import encoders
from selfsame.storage.exports import Exporter
from selfsame.storage.wanted import Fed
from selfsame.types import Draws, Encoder

name = "dna"  # what --modality takes: the name by which this module is imported
LETTERS = "ACGT"
UNKNOWN = 4  # the code of N, of letters that are none of the four, and of what fills a short sequence


# Where items come from -----------------------------------------------------------------------------------------------


class Reading(Record):
    """How sequences are read: flags such as --reading.least 20."""

    least: int = 8
    """shortest sequence that is an item; shorter ones are listed in skipped.csv"""


class Source:
    """The sequences of one FASTA file: `>name label` and lines of letters. Read by number, nothing is random here."""

    looks, window, noted, left_out = 10**9, 1, None, ""
    blocks = None  # items can be read one by one
    array = None  # they do not lie in memory as one array

    def __init__(self, path: str, reading: Reading) -> None:
        self.entries: list[tuple[str, str | None, str]] = []
        self.reading = reading
        for number, part in enumerate(Path(path).read_text(encoding="utf-8").split(">")[1:]):
            head, _, letters = part.partition("\n")
            called, _, label = head.strip().partition(" ")
            self.entries.append((called or str(number), label or None, "".join(letters.split()).upper()))

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, i: int) -> str:
        return self.entries[i][0]

    def read(self, i: int) -> str:
        letters = self.entries[i][2]
        if len(letters) < self.reading.least:
            raise UnreadableItem(f"{len(letters)} letters; at least {self.reading.least} are asked for")
        return letters

    def stored(self, i: int) -> int:
        return len(self.entries[i][2])

    def fit(self, stats: "Stats") -> None:
        pass  # sequences come as they are

    @property
    def labels(self) -> list[str] | None:
        found = [label for _, label, _ in self.entries if label is not None]
        return found if len(found) == len(self.entries) else None


def reads(path: str) -> int:
    """How many items here are DNA. Asked for every path that no --modality goes with, so it must be quick."""
    return int(Path(path).suffix in (".fasta", ".fa") and Path(path).is_file())


def open_source(path: str, labels: str | None = None, reading: Reading | None = None) -> Source:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file. Give a FASTA file.")
    source = Source(path, reading or Reading())
    if not len(source):
        raise UserError(f"{path}: no sequences. A FASTA file has lines `>name` with letters below.")
    return source


# What is measured, and saved with the encoder ------------------------------------------------------------------------


class Stats(Record):
    """What is known of the data."""

    items: int
    """sequences that can be read"""
    length: int
    """median, in letters"""

    @property
    def summary(self) -> str:
        return f"{self.length} letters in the middle"


def measure(source: Source, seed: int = 0) -> tuple[Stats, dict[int, str]]:
    lengths, skipped = [], {}
    for i in range(len(source)):
        try:
            lengths.append(len(source.read(i)))
        except UnreadableItem as error:
            skipped[i] = str(error)
    return Stats(items=len(lengths), length=sorted(lengths)[len(lengths) // 2] if lengths else 1), skipped


# Views ---------------------------------------------------------------------------------------------------------------


class Views(Record):
    """Strength of the views."""

    size: int
    """letters of a view"""
    share: float = 0.6
    """of a full view's letters, those that are cut out of the sequence at least"""
    mutated: float = 0.05
    """share of letters that are exchanged"""


RECIPES = {"auto": {}, "strong": {"share": 0.3, "mutated": 0.15}, "weak": {"share": 1.0, "mutated": 0.0}}


def recipe(name: str, size: int, stats: Stats) -> Views:
    if name not in RECIPES:
        raise unknown("recipe of views", name, RECIPES)
    return Views(size=size, **RECIPES[name])


def sample(source: Source, items: Sequence[int], plan: ViewPlan, views: Views, draws: Draws) -> list[Tensor]:
    """Worker half: read and cut. Codes as bytes, [b size] a view, those of part views a quarter as long."""
    texts = [source.read(i) for i in items]
    made = []
    for k in range(plan.full + plan.part + plan.plain):
        part, plain = plan.full <= k < plan.full + plan.part, k >= plan.full + plan.part
        width = max(4, views.size // 4) if part else views.size
        chance = draws.uniform(2)  # for each row of the batch, the same however the batch is divided
        rows = torch.full((len(items), width), UNKNOWN, dtype=torch.uint8)
        for row, text, (share, at) in zip(rows, texts, chance.tolist(), strict=True):
            length = min(len(text), width)
            if not plain:
                length = max(1, round(length * (views.share + (1 - views.share) * share)))
            start = 0 if plain else round(at * (len(text) - length))
            codes = [LETTERS.find(letter) for letter in text[start : start + length]]
            row[:length] = torch.tensor([code if code >= 0 else UNKNOWN for code in codes], dtype=torch.uint8)
        made.append(rows)
    return made


def make_views(samples: list[Tensor], plan: ViewPlan, views: Views, stats: Stats, draws: Draws) -> list[Tensor]:
    """Device half: what is random beside the cut, for the whole batch at once. Half of the views are reversed."""
    made = []
    for k, rows in enumerate(samples):
        width = rows.shape[1]
        where, what, turn = draws.uniform(width), draws.uniform(width), draws.uniform(1)  # drawn for every view
        if k < plan.full + plan.part and views.mutated > 0:
            changed = (where < views.mutated).to(rows.device) & (rows != UNKNOWN)
            rows = torch.where(changed, (what * 4).to(rows.device).to(rows.dtype), rows)
            rows = torch.where((turn < 0.5).to(rows.device), complement(rows).flip(1), rows)  # the other strand
        made.append(rows)
    return made


def complement(rows: Tensor) -> Tensor:
    return torch.where(rows == UNKNOWN, rows, 3 - rows)


def default_size(stats: Stats, large: bool) -> int:
    return min(1024 if large else 256, max(16, stats.length))


def size_told(size: int, stats: Stats) -> str:
    return f"{size} letters"


# The encoder ---------------------------------------------------------------------------------------------------------


class DNAEncoder(Encoder):
    """Convolutions over letters. Takes codes [b n] as views and samples are; it cannot be fed with anything else."""

    def __init__(self, trunk: nn.Module, spec: dict[str, Any]) -> None:
        super().__init__()
        self.trunk, self.spec, self.dim = trunk, spec, spec["dim"]

    def forward(self, view: Tensor) -> Tensor:
        if view.ndim != 2 or view.dtype != torch.uint8:
            raise UserError(f"got {view.dtype} of shape {list(view.shape)}; accepted are codes uint8 [b, letters].")
        letters = F.one_hot(view.long(), 5)[..., :4].transpose(1, 2).to(next(self.trunk.parameters()).dtype)
        found = self.trunk(letters)
        return found.mean(dim=2) if found.ndim == 3 else found


def default_encoder(size: int, large: bool) -> str:
    return "cnn-64" if large else "cnn-32"


def make_encoder(name: str, size: int, stats: Stats, weights: str | None = None) -> DNAEncoder:
    kind, _, width = name.partition("-")
    if kind != "cnn" or not width.isdigit() or weights is not None:
        raise unknown("network", name, ["cnn-32", "cnn-64"], "Any width goes, as cnn-48; there are no weights to load.")
    return own_encoder(cnn(int(width)), size, stats, called=name)


def cnn(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k, (entering, leaving) in enumerate(((4, width), (width, 2 * width), (2 * width, 2 * width))):
        layers += [nn.Conv1d(entering, leaving, 7, stride=1 + (k > 0), padding=3), nn.BatchNorm1d(leaving), nn.ReLU()]
    return nn.Sequential(*layers)


def own_encoder(module: nn.Module, size: int, stats: Stats, weights: str | None = None, called: str = "") -> DNAEncoder:
    with torch.no_grad():
        dim = module(torch.zeros(2, 4, size)).shape[1]
    spec = {"modality": name, "name": called or type(module).__name__, "size": size, "dim": dim}
    return DNAEncoder(module, {**spec, "stats": stats.model_dump()})


def build_encoder(spec: dict[str, Any], module: nn.Module | None = None) -> DNAEncoder:
    stats = Stats.model_validate(spec["stats"])
    trunk = module or make_encoder(spec["name"], spec["size"], stats).trunk
    return DNAEncoder(trunk, spec)


def save_encoder(encoder: DNAEncoder, folder: str | Path) -> None:
    encoders.save(encoder, folder)


def load_encoder(folder: str | Path, module: nn.Module | None = None) -> DNAEncoder:
    return encoders.load(folder, lambda spec: build_encoder(spec, module))


def export(encoder: DNAEncoder, to: str, out: str | Path, **options: Any) -> dict[str, Any]:
    size = encoder.spec["size"]

    def example(batch: int) -> Tensor:
        return torch.randint(0, 4, (batch, size), dtype=torch.uint8)

    made = f"torch.randint(0, 4, (2, {size}), dtype=torch.uint8)  # your codes: {LETTERS} are 0 to 3, others 4"
    fed = Fed("codes", made, example, "uint8 [b, letters]")
    return Exporter(lambda encoder: fed, lambda encoder: {"letters": LETTERS}).export(encoder, to, out, **options)


# For people, and the baseline ----------------------------------------------------------------------------------------


def picture(source: Source, i: int, side: int = 256) -> Image.Image:
    """The letters as coloured squares, line by line."""
    text, page = source.read(i), Image.new("RGB", (side, side), "white")
    draw, cell = ImageDraw.Draw(page), max(2, side // 16)
    colours = {"A": "#4c9f70", "C": "#4477aa", "G": "#ddaa33", "T": "#bb5566"}
    for k, letter in enumerate(text[: (side // cell) ** 2]):
        left, top = k % (side // cell) * cell, k // (side // cell) * cell
        draw.rectangle((left, top, left + cell - 1, top + cell - 1), fill=colours.get(letter, "#dddddd"))
    return page


def fragment(source: Source, i: int) -> str:
    return f'<div class="words">{escape(source.read(i)[:120])}</div>'


def contact_sheet(source: Source, items: Sequence[int], views: Sequence[Sequence[Tensor]], names: Sequence[str]) -> str:
    lines = []
    for i, made, called in zip(items, views, names, strict=True):
        lines += [called, f"  item  {source.read(i)[:100]}"]
        lines += [f"  view  {''.join((LETTERS + '-')[code] for code in view.tolist()[:100])}" for view in made]
    return "\n".join(lines) + "\n"


raw_name = "shares of words of three letters"


def raw_vectors(parts: Sequence[tuple[Source, Sequence[int]]], stats: Stats) -> list[Tensor]:
    """What an encoder must be better than: how often each of the 64 words of three letters is there."""
    words = [a + b + c for a in LETTERS for b in LETTERS for c in LETTERS]

    def shares(text: str) -> list[float]:
        counts = Counter(text[k : k + 3] for k in range(len(text) - 2))
        return [counts[word] / max(1, len(text) - 2) for word in words]

    return [torch.tensor([shares(source.read(i)) for i in items]) for source, items in parts]
