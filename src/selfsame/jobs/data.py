"""From a path to items that can be learned from: modality, source, statistics, unreadable files."""

import contextlib
import csv
import hashlib
import io
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from selfsame import modalities
from selfsame.engine import dist
from selfsame.engine.feed import CUT, VIEW, Batch, Patient, feed
from selfsame.engine.plan import Line
from selfsame.engine.related import Related, Relations
from selfsame.engine.state import write_text
from selfsame.engine.watch import say
from selfsame.errors import UnreadableItem, UserError, printable
from selfsame.jobs.checked import checked
from selfsame.jobs.runs import SKIPPED
from selfsame.records import Record, ViewPlan
from selfsame.storage.relations import groups_of_folders, groups_of_list, ranks
from selfsame.types import Draws, Encoder, Modality, Source, mixed

PLAIN = ViewPlan(full=0, plain=1)
TESTS = ("test", "val", "valid")  # folders beside train/ that are not learned from; the first that is there is the test


@dataclass
class Data:
    """An opened source with its statistics."""

    path: str
    modality: Modality
    source: Source
    stats: Record
    reading: Record
    skipped: dict[int, str] = field(default_factory=dict)  # item -> why it cannot be read

    def readable(self) -> Int64[np.ndarray, "n"]:
        keep = np.ones(len(self.source), dtype=bool)
        keep[list(self.skipped)] = False
        return np.flatnonzero(keep)

    def fingerprint(self) -> str:
        """Changes when items are added, removed, renamed or become unreadable."""
        digest = hashlib.sha256()
        readable = self.readable()
        for some in np.array_split(readable, max(1, len(readable) // 65536)):
            names = "".join(f"{self.source.name(i)}\n" for i in some.tolist())
            digest.update(names.encode("utf-8", "surrogateescape"))
        return f"{len(readable)} items, {digest.hexdigest()[:16]}"


def open_data(
    path: str,
    modality: str | None = None,
    max_skipped: float = 0.01,
    seed: int = 0,
    folder: Path | None = None,
    reading: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Data:
    """Open a path, measure it, and list what cannot be read; `reading` are fields of the modality's `Reading`.

    `quiet`: as what it is read has been said before. Raises UserError when too much cannot be read; the whole list is
    then in skipped.csv of `folder`.
    """
    known = modalities.load(modality) if modality else modalities.of(path)
    if not quiet:
        say(f"reading {path} as {known.name}")
    with read_as(known, modality is None):
        return measured(path, known, max_skipped, seed, folder, reading)


@contextlib.contextmanager
def read_as(known: Modality, guessed: bool) -> Iterator[None]:
    """What is wrong inside says as what the items were read, where nobody has said so, and how to say otherwise."""
    try:
        yield
    except UserError as error:
        if not guessed or "--modality" in str(error):
            raise
        raise UserError(f"{error} (read as {known.name} by what lies there; --modality says otherwise)") from error


def measured(
    path: str,
    known: Modality,
    max_skipped: float,
    seed: int,
    folder: Path | None,
    reading: Mapping[str, Any] | None,
) -> Data:
    way = checked(known.Reading, reading or {}, ["reading"])
    opened: list[Source] = []

    def looked_at() -> tuple[Record, dict[int, str], Any, int]:
        source = known.open_source(path, reading=way)
        opened.append(source)
        return (*known.measure(source, seed), source.noted, len(source))

    # One process looks for all: a file that is out of reach for a moment must not make the processes differ.
    stats, skipped, noted, items = dist.by_first(looked_at)
    source = opened[0] if opened else known.open_source(path, reading=way)
    if len(source) != items:
        raise UserError(
            f"{path}: the processes find different data, {items:,} items and {len(source):,}. It must lie on a disk "
            "that all of them share, or be the same on each machine, and nobody may change it meanwhile."
        )
    source.noted = noted
    source.fit(stats)
    data = Data(path, known, source, stats, way, skipped)
    looked = min(len(source), source.looks)
    if too_many(data, max_skipped, looked) and folder is not None and dist.first():
        write_skipped(data, folder)
    check_share(data, max_skipped, folder, looked)
    return data


def parts_of(path: str) -> tuple[str, str | None]:
    """The train and the test part of a labelled path; None where it has no test part of its own.

    Parts are the folders train/ and one of TESTS, the first that is there, in the path or in its images/.
    """
    for folder in (Path(path).expanduser(), Path(path).expanduser() / "images"):
        for test in TESTS:
            if (folder / "train").is_dir() and (folder / test).is_dir():
                return str(folder / "train"), str(folder / test)
    return path, None


def labels_for(labels: str | None, part: str, whole: str) -> str | None:
    """The labels of a part that `parts_of` found: of a folder with a folder of the part's name in it, that one."""
    if labels is None or part == whole:
        return labels
    own = Path(labels).expanduser() / Path(part).name
    return str(own) if own.is_dir() else labels


def open_like(path: str, encoder: Encoder, labels: str | None = None, **changes: Any) -> Data:
    """Open a path to be fed to an encoder: read as what it learned from, with its statistics; nothing is measured.

    `changes`: other fields of its reading, as the column. Raises UserError where the modality has none.
    """
    return Data(path, *modalities.open_like(path, encoder.spec, labels, **changes))


def open_frames(path: str, encoder: Encoder, labels: str | None, fps: float | None) -> Data:
    """The same, of videos so many frames a second; None for as many as the encoder learned from."""
    if fps is None:
        return open_like(path, encoder, labels)
    data = open_like(path, encoder, labels, fps=fps)
    check_rate(data.source, path, fps)
    return data


def check_rate(source: Any, path: str, fps: float | None) -> None:
    """Raise UserError for a rate of frames where there are no videos."""
    if fps is not None and not hasattr(source, "videos"):
        raise UserError(
            f"--fps {fps:g} says how many frames a second are taken of videos; {path} is none. Leave it out."
        )


def check_share(data: Data, most: float, folder: Path | None = None, looked: int | None = None) -> None:
    """Raise UserError, with the list, when of the items, or of those looked at, a larger share is unreadable."""
    if not too_many(data, most, looked):
        return
    count, total = len(data.skipped), looked or len(data.source)
    shown = "; ".join(f"{printable(data.source.name(i))}: {why}" for i, why in list(data.skipped.items())[:5])
    more = f"; and {count - 5} more" if count > 5 else ""
    listed = f" All are in {folder / SKIPPED}." if folder else ""
    raise UserError(
        f"{count} of {total} items of {data.path} cannot be read ({count / total:.1%}; at most {most:.1%} may be): "
        f"{shown}{more}.{listed} Mend or remove them, or raise --max-skipped."
    )


def too_many(data: Data, most: float, looked: int | None = None) -> bool:
    count, total = len(data.skipped), looked or len(data.source)
    return count > most * total or count == total


def write_skipped(data: Data, folder: Path) -> None:
    """skipped.csv: printable name, reason. Written anew each time, so that it is always the whole list."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["name", "reason"])
    rows.writerows([data.source.name(i), why] for i, why in sorted(data.skipped.items()))
    write_text(folder / SKIPPED, printable(text.getvalue()))


def read_skipped(folder: Path) -> list[tuple[str, str]]:
    """(printable name, reason) of each line of skipped.csv; empty where there is none."""
    path = folder / SKIPPED
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [(row[0], row[1]) for row in list(csv.reader(file))[1:]]


class Chunks(Dataset):
    """Chunk number -> plain samples of these items, unreadable ones left out and listed."""

    def __init__(self, data: Data, views: Any, items: Sequence[int], size: int) -> None:
        self.source, self.sample, self.views = data.source, data.modality.sample, views
        self.items, self.size = items, size

    def __len__(self) -> int:
        return -(-len(self.items) // self.size)

    def __getitem__(self, chunk: int) -> Batch:
        items = [int(i) for i in self.items[chunk * self.size : (chunk + 1) * self.size]]
        try:
            return Batch(chunk, self._read(items))
        except UnreadableItem:
            pass  # find out which, one at a time
        good, skipped = [], {}
        for item in items:
            try:
                good.append(self._read([item])[0])
            except UnreadableItem as error:
                skipped[item] = str(error)
        return Batch(chunk, [torch.cat(good)] if good else [], skipped)

    def _read(self, items: list[int]) -> list[Tensor]:
        return self.sample(self.source, items, PLAIN, self.views, Draws(0, 0, len(items)))


class Plain:
    """(items, a plain sample [b ...] of each) chunk by chunk, in order; unreadable items are added to data.skipped.

    Where all samples have no more than `kept` bytes, they are read once, however often they are gone through.
    """

    def __init__(
        self, data: Data, views: Any, items: Sequence[int], workers: int = 0, chunk: int = 128, kept: int = 0
    ) -> None:
        self.data = data
        self.items = items
        self.chunks = Chunks(data, views, items, chunk)
        self.workers = workers
        self.kept = kept
        self.all: list[tuple[list[int], Tensor]] | None = None

    def __iter__(self) -> Generator[tuple[list[int], Tensor], None, None]:
        if self.all is not None:
            yield from self.all
            return
        chunks, room = [], self.kept
        for batch in feed(self.chunks, 0, len(self.chunks), self.workers):
            self.data.skipped.update(batch.skipped)
            wanted = self.items[batch.step * self.chunks.size : (batch.step + 1) * self.chunks.size]
            good = [int(i) for i in wanted if int(i) not in batch.skipped]
            if good:
                samples = batch.samples[0]
                room -= samples.nbytes
                if room >= 0:
                    chunks.append((good, samples.clone()))  # out of the memory that reading processes share
                else:
                    chunks.clear()
                yield good, samples
        if room >= 0 and self.kept:
            self.all = chunks


def of_samples(
    encoder: Encoder, read: Iterable[tuple[list[int], Tensor]], on: torch.device
) -> Generator[tuple[list[int], Float32[np.ndarray, "b d"]], None, None]:
    """(items, vectors) chunk by chunk, in eval mode; the encoder is left in the mode and on the device it came in."""
    was, home = encoder.training, next((p.device for p in encoder.parameters()), on)
    encoder = encoder.to(on).eval()
    try:
        for items, samples in read:
            with torch.inference_mode():
                found = encoder(samples.to(on)).float().cpu().numpy()
            yield items, found
    finally:
        encoder.to(home).train(was)


def encoded(
    encoder: Encoder, data: Data, views: Any, items: Sequence[int], on: torch.device, workers: int = 0, chunk: int = 128
) -> Generator[tuple[list[int], Float32[np.ndarray, "b d"]], None, None]:
    """(items, vectors) chunk by chunk, in order, in eval mode; unreadable items are added to data.skipped.

    The encoder is left in the mode and on the device it came in.
    """
    yield from of_samples(encoder, Plain(data, views, items, workers, chunk), on)


def all_vectors(
    encoder: Encoder, data: Data, views: Any, items: Sequence[int], on: torch.device, workers: int = 0
) -> tuple[list[int], Float32[np.ndarray, "n d"]]:
    """All at once, for sets that fit in memory."""
    return joined(encoder, Plain(data, views, items, workers), on)


def joined(encoder: Encoder, plain: Plain, on: torch.device) -> tuple[list[int], Float32[np.ndarray, "n d"]]:
    """The items that can be read, and the vector of each. Raises UserError where there is none."""
    pairs = list(of_samples(encoder, plain, on))
    if not pairs:
        data = plain.data
        reasons = (f" {printable(data.source.name(i))}: {why}" for i, why in data.skipped.items())
        raise UserError(f"none of the {len(plain.items)} items of {data.path} can be read.{next(reasons, '')}")
    return [i for kept, _ in pairs for i in kept], np.concatenate([vectors for _, vectors in pairs])


def held_out(readable: Int64[np.ndarray, "n"], seed: int, most: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """(items to learn from, items to look at): one item in twenty is set aside, at most `most`, at least two."""
    count = min(most, max(2, len(readable) // 20))
    order = np.random.default_rng(mixed(seed, 7)).permutation(len(readable))
    return np.sort(readable[order[count:]]), np.sort(readable[order[:count]])


def relations(data: Data, related: str, window: float | None) -> Relations:
    """Which items belong together, as `--related` and `--related-window` say. Raises UserError."""
    source = data.source
    names = [source.name(i) for i in range(len(source))]
    times = None
    if related == "folders":
        groups, by = groups_of_folders(names, data.path), "by folder"
        if window is None and len(np.unique(groups)) == 1:
            raise UserError(
                f"--related folders: all items of {data.path} lie in one folder, so all would be related. Give "
                "--related-window, for near ones in the order of names, or a CSV."
            )
    else:
        path = Path(related).expanduser()
        groups, times = groups_of_list(path, names, getattr(source, "place", None), data.path)
        by = f"by {path.name}"
    by = f"{by}, {len(np.unique(groups[groups >= 0])):,} groups"
    if window is not None:
        by += f", up to {window:g} apart in {'the order of names' if times is None else 'time'}"
    return Relations(groups, ranks(names, groups) if times is None else times, window, by)


def without_relatives(related: Related, given: str | None) -> int:
    """How many of the items have no relative. Raises UserError where all are alone; `given`: what --related says."""
    alone, total = related.alone(), len(related.items)
    if alone == total:
        window = "" if related.window is None else f" within {related.window:g}"
        raise UserError(
            f"--related {given}: none of the {total:,} items has a related one{window}. "
            + ("Raise --related-window." if window else "Give groups of at least two items.")
        )
    return alone


def digest_of(found: Relations) -> str:
    """Changes when other items belong together."""
    digest = hashlib.sha256(found.groups.tobytes() + found.times.tobytes())
    return f"relations {digest.hexdigest()[:16]}"


def fixed_views(
    data: Data,
    views: Any,
    items: Sequence[int],
    seed: int,
    on: torch.device,
    plan: ViewPlan | None = None,
    *,
    mixed_with_all: bool = False,
) -> Callable[[], list[Tensor]]:
    """A function that makes the same two views of these items at every call; the samples are read once.

    Views that mix take the other items from these too, or from all that can be read.
    """
    plan = plan or ViewPlan(full=2)
    chosen = [int(i) for i in items]
    while True:  # until all can be read: one in place of another would be looked at twice
        source = Patient(data.source, data.readable() if mixed_with_all else np.sort(chosen))
        samples = data.modality.sample(source, chosen, plan, views, Draws(seed, 0, len(chosen), stream=CUT + 10))
        data.skipped.update(source.skipped)
        if not source.skipped:
            break
        chosen = [i for i in chosen if i not in source.skipped]

    def make() -> list[Tensor]:
        moved = [sample.to(on) for sample in samples]
        return data.modality.make_views(moved, plan, views, data.stats, Draws(seed, 0, len(chosen), stream=VIEW + 10))

    return make


def sheet(
    data: Data, views: Any, count: int, plan: ViewPlan, seed: int, related: Related | None = None
) -> Image.Image | str:
    """A contact sheet: some items drawn by the seed, and random views of each.

    With `related`, made for the readable items, every second full view is of a relative, each time of another.
    """
    items: list[int] = []
    for item in np.random.default_rng(mixed(seed, 11)).permutation(data.readable()).tolist():
        if len(items) < count and can_be_read(data, item):
            items.append(item)
    items.sort()
    made = fixed_views(data, views, items, seed, torch.device("cpu"), plan, mixed_with_all=True)()
    if related is not None:
        for k in range(1, plan.full, 2):
            others = relatives(data, related, items, mixed(seed, 12 + k))
            made[k] = fixed_views(data, views, others, seed, torch.device("cpu"), plan, mixed_with_all=True)()[k]
    of_item = [[view[k] for view in made] for k in range(len(items))]
    names = [printable(data.source.name(i)) for i in items]
    return data.modality.contact_sheet(data.source, items, of_item, names)


def relatives(data: Data, related: Related, items: Sequence[int], seed: int) -> list[int]:
    """One of each item, drawn by the seed; itself where that cannot be read."""
    readable = related.items
    chances = np.random.default_rng(seed).random(len(items))
    others = readable[related.partners(np.searchsorted(readable, items), chances)].tolist()
    return [other if can_be_read(data, other) else item for item, other in zip(items, others, strict=True)]


def can_be_read(data: Data, item: int) -> bool:
    """Whether it can; if not, it stands among the skipped from then on."""
    try:
        data.source.read(item)
    except UnreadableItem as error:
        data.skipped[item] = str(error)
    return item not in data.skipped


def describe(data: Data) -> str:
    """As in: 3,000 items, audio, 2 unreadable, left out: 1 .md."""
    seen = f", {data.source.looks:,} looked at" if len(data.source) > data.source.looks else ""
    lost = f"{seen}, {len(data.skipped)} unreadable" if data.skipped else seen
    left = f", left out: {data.source.left_out}" if data.source.left_out else ""
    return f"{len(data.source):,} items, {data.modality.name}{lost}{left}"


def lines_of_columns(data: Data) -> list[Line]:
    """The lines of a plan that say what became of the columns of a table."""
    return [Line(name=name, value=value, why=why) for name, value, why in getattr(data.source, "roles", [])]


def warn_skipped(data: Data, folder: Path) -> None:
    if data.skipped:
        count = len(data.skipped)
        say(f"{count} unreadable item{'s' if count > 1 else ''} skipped; see {folder / SKIPPED}", "yellow")
