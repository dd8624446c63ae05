"""What `search` does: the query made a vector, what was found shown as a table and in pictures."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from selfsame import modalities
from selfsame.engine import dist
from selfsame.engine.state import write_whole
from selfsame.engine.watch import say
from selfsame.errors import NO_LABEL, UnreadableItem, UserError, printable
from selfsame.index.contract import Found, Index, not_there
from selfsame.index.store import opened
from selfsame.jobs.data import Data, all_vectors, open_like
from selfsame.jobs.runs import load
from selfsame.jobs.search import Search
from selfsame.report.strips import strips
from selfsame.storage.disk import is_address
from selfsame.types import Encoder

TYPED = "typed"  # name of a text that is itself the query
SAID = 200  # characters of a text that is shown


@dataclass
class Queries:
    """The items that were asked about."""

    names: list[str]
    vectors: np.ndarray
    data: Data | None = None  # where they come from, if not from the index
    items: Sequence[int] = ()  # their numbers there
    encoder: Encoder | None = None
    card: Image.Image | None = None  # of a text that is itself the query, where it is to be drawn


def searched(
    job: Search, index: Index | None = None, encoder: Encoder | None = None, module: Any = None
) -> tuple[Index, Queries, Found]:
    """The index, the queries, and what is nearest to each. Raises UserError."""
    index = index if index is not None else opened(job.index)
    if index.unfinished is not None:
        say(f"{index.place} is not finished: of {index.unfinished} it holds {len(index):,} items so far.", "yellow")
    if index.known([job.query]):
        if job.run_folder is not None or encoder is not None:  # not needed, but another one is a mistake
            encoder = made_by(index, job.run_folder, encoder, module)
        queries, found = of_item(job, index)
        queries.encoder = encoder
        return index, queries, found
    index.check(job.k, job.label)
    check_query(job.query, index)
    encoder = made_by(index, job.run_folder, encoder, module)
    with tempfile.TemporaryDirectory() as folder:
        path, typed = job.query, not there(job.query)
        if typed:  # a text
            path = str(Path(folder) / f"{TYPED}.txt")
            Path(path).write_text(" ".join(job.query.split()) + "\n", encoding="utf-8")
        data = open_like(path, encoder)
        views = data.modality.recipe("weak", encoder.spec["size"], data.stats)
        items, vectors = all_vectors(encoder, data, views, range(len(data.source)), dist.device(job.device))
        card = picture(data, 0) if typed and job.picture is not None else None
    for item, why in sorted(data.skipped.items()):
        say(f"skipped {printable(data.source.name(item))}: {why}", "yellow")
    names = [job.query] if len(data.source) == 1 else [data.source.name(i) for i in items]
    queries = Queries(names, vectors, None if typed else data, items, encoder, card)
    return index, queries, index.search(vectors, job.k, job.label, job.exact)


def of_item(job: Search, index: Index) -> tuple[Queries, Found]:
    """What is nearest to an item of the index, itself left out."""
    vector = index.vector(job.query)[None]
    labels, others = index.labels_of([job.query]), len(index) - 1
    if job.label is not None:
        others = index.count(job.label) - (labels == [job.label])
    if job.k > others:
        of_label = "" if job.label is None else f" with the label {job.label!r}"
        raise UserError(
            f"k is {job.k}; beside {job.query!r} {index.place} holds {others:,} items{of_label}. Give at most "
            f"{others:,}."
        )
    found = index.search(vector, min(job.k + 1, others + (job.label in (None, *labels))), job.label, job.exact)
    keep = [place for place, name in enumerate(found.names[0]) if name != job.query][: job.k]
    return Queries([job.query], vector), Found(
        names=[[found.names[0][place] for place in keep]],
        cosines=found.cosines[:, keep],
        items=None if found.items is None else found.items[:, keep],
        labels=None if found.labels is None else [[found.labels[0][place] for place in keep]],
    )


def there(query: str) -> bool:
    """Whether a query is a place where data may lie."""
    if is_address(query):
        return True
    file = Path(query.partition("::")[0]).expanduser()
    try:
        return file.exists() or (any(sign in query for sign in "*{") and file.parent.exists())
    except OSError:  # a long text is no name of a file
        return False


def check_query(query: str, index: Index) -> None:
    """Raise UserError for a query that is nothing, or of another modality."""
    wanted = index.made.modality
    if not there(query):
        if wanted == "text":
            return
        advice = f"Give a path of {wanted} data, or the name of an item of {index.place}."
        raise not_there(index, query, advice, "file or item")
    if modalities.load(wanted).reads(query):
        return
    held = [name for name in modalities.names() if name != wanted and modalities.load(name).reads(query)]
    if held:
        raise UserError(
            f"{query} is {' or '.join(held)} data; {index.place} holds {wanted} data. Give a query of that kind, or "
            f"search an index of {held[0]} data."
        )


def made_by(index: Index, given: Path | None, encoder: Encoder | None, module: Any) -> Encoder:
    """The encoder that made the index: the one given, or that of the run, where it was or beside the index."""
    if encoder is not None:
        index.accept(encoder)
        return encoder
    if given is not None:
        encoder = load(given, module)
        index.accept(encoder)
        return encoder
    places = index.runs
    if not places:
        raise UserError(f"{index.place} was made by an encoder without a run folder. Give the encoder, or --run.")
    place = next((place for place in places if (place / "encoder.json").is_file()), None)
    if place is None:
        raise UserError(f"the run that made {index.place} is not at {places[0]}. Say where it is now with --run.")
    encoder = load(place, module)
    index.accept(encoder)
    return encoder


def told(job: Search, index: Index, queries: Queries, found: Found) -> dict[str, Any]:
    """What was found, as --json prints it; drawn where that is asked for."""
    result = []
    texts = texts_of(job, index, found, queries.encoder) if index.made.modality == "text" else {}
    for q, query in enumerate(queries.names):
        rows = []
        for place, name in enumerate(found.names[q]):
            row = {"name": printable(name), "cosine": round(float(found.cosines[q, place]), 6)}
            if found.labels is not None:
                label = found.labels[q][place]
                row["label"] = None if label == NO_LABEL else label
            if name in texts:
                row["text"] = texts[name]
            rows.append(row)
        result.append({"query": printable(query), "found": rows})
    said: dict[str, Any] = {"index": index.place, "k": job.k, "label": job.label, "exact": True, "queries": result}
    if index.graph is not None and not job.exact and job.label is None:
        said |= {"exact": False, "recall": index.graph.recall}
    if job.picture is not None:
        drawn(job, index, queries, found)
        said["picture"] = str(job.picture)
    return said


def show(result: dict[str, Any]) -> None:
    """What was found, as a table."""
    if not dist.first():
        return
    queries = result["queries"]
    several = len(queries) > 1
    labelled, worded = (any(key in row for one in queries for row in one["found"]) for key in ("label", "text"))
    table = Table(box=None, pad_edge=False)
    if several:
        table.add_column("query", overflow="fold")
    table.add_column("", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("name", overflow="fold")
    if labelled:
        table.add_column("label")
    if worded:
        table.add_column("text", overflow="fold")
    for one in queries:
        for place, row in enumerate(one["found"]):
            cells = [str(place + 1), f"{row['cosine']:.4f}", row["name"]]
            cells += [row["label"] or ""] if labelled else []
            cells += [row.get("text", "")] if worded else []
            table.add_row(*([one["query"] if place == 0 else ""] if several else []), *cells)
    heading = [] if several else [Text(queries[0]["query"], style="bold")]
    Console(stderr=True, highlight=False, markup=False).print(Group(*heading, table))


# Texts and pictures --------------------------------------------------------------------------------------------------


def texts_of(job: Search, index: Index, found: Found, encoder: Encoder | None) -> dict[str, str]:
    """The beginning of each text that was found, by name, where it can be read."""
    texts = {}
    for name, (data, item) in where(job, index, sorted({name for line in found.names for name in line}), encoder):
        with contextlib.suppress(UnreadableItem):
            text = " ".join(printable(data.source.read(item)).split())
            texts[name] = text if len(text) <= SAID else f"{text[: SAID - 1]}…"
    return texts


def drawn(job: Search, index: Index, queries: Queries, found: Found) -> None:
    """The queries and what was found, a line each, as a PNG; grey where an item can no longer be read."""
    assert job.picture is not None
    names = {name for line in found.names for name in line}
    wanted = sorted(names if queries.data else names | set(queries.names))
    pictures = {name: picture(*at) for name, at in where(job, index, wanted, queries.encoder)}
    rows = []
    for q, query in enumerate(queries.names):
        own = queries.card or pictures.get(query)
        if queries.data is not None:
            own = picture(queries.data, queries.items[q])
        row = [(own, printable(query))]
        for place, name in enumerate(found.names[q]):
            label = NO_LABEL if found.labels is None else found.labels[q][place]
            told = printable(Path(name).name) if label == NO_LABEL else label
            row.append((pictures.get(name), f"{found.cosines[q, place]:.3f} {told}"))
        rows.append(row)
    page = strips(rows)
    write_whole(job.picture, lambda draft: page.save(draft, format="PNG"))
    say(f"drawn in {job.picture}")


def where(
    job: Search, index: Index, names: list[str], encoder: Encoder | None
) -> Iterator[tuple[str, tuple[Data, int]]]:
    """Of items of the index, as far as they are still where they came from: name, data and number there."""
    wanted: dict[str, dict[str, str]] = {}  # path -> name there -> name in the index
    for name, origin in zip(names, index.origins_of(names), strict=True):
        if origin is not None:
            wanted.setdefault(origin.path, {})[name.removeprefix(origin.prefix)] = name
    for path, some in wanted.items():
        try:
            encoder = made_by(index, job.run_folder, encoder, None)  # it knows how its items are read
            # Of videos all frames, whichever are in the index.
            data = open_like(path, encoder, **({"fps": None} if index.made.modality == "image" else {}))
        except UserError as error:
            say(f"the items of {path} cannot be shown: {error}", "yellow")
            continue
        for i in range(len(data.source)):
            known = some.get(data.source.name(i))
            if known is not None:
                yield known, (data, i)


def picture(data: Data, item: int) -> Image.Image | None:
    try:
        return data.modality.picture(data.source, item)
    except UnreadableItem:
        return None
