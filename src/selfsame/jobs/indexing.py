"""What `index` and `remove` do: items into an index, in parts that are kept, and out of it."""

import fnmatch
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from selfsame.engine import dist
from selfsame.engine.plan import workers_for
from selfsame.engine.watch import counted, say
from selfsame.errors import UserError, printable
from selfsame.index.contract import Index, Made, Origin, not_there
from selfsame.index.store import check_graph, created, exists, opened, shown
from selfsame.jobs.data import Data, check_share, encoded, open_frames
from selfsame.jobs.index import IndexItems
from selfsame.jobs.remove import Remove
from selfsame.jobs.runs import load
from selfsame.storage.disk import is_address, plain_path
from selfsame.types import Encoder

MEASURED = {"kind", "recall", "k", "asked", "view"}
PART = 16_384  # items that are added at once: what a stopped command keeps, and has in memory


def built(job: IndexItems, encoder: Encoder | None = None, module: Any = None) -> tuple[Index, dict[str, str]]:
    """The index with all items of the data, and the unreadable ones {name: why}. Raises UserError."""
    made_by = None if encoder is not None else job.run_folder
    encoder = encoder if encoder is not None else load(job.run_folder, module)
    made, place = Made.by(encoder, made_by), absolute(job.data)
    index = opened(job.out) if exists(job.out) else None
    if index is not None:
        index.accept(made)
        if not job.add and index.unfinished != place:
            raise UserError(f"{index.place} is an index already. Add to it with --add, or choose another --out.")
    elif job.add:
        raise UserError(f"--add: there is no index at {shown(job.out)} yet. Leave --add out to make it.")
    data = open_frames(job.data, encoder, job.labels, job.fps)
    on = dist.device(job.device)
    if job.approximate_above is not None:  # what it takes is asked for before hours of encoding
        more = (
            len(data.source) if index is None else len(missing(index, data, origin_of(index, job.data, place).prefix))
        )
        if more + (0 if index is None else len(index)) >= job.approximate_above:
            check_graph(job.out, made)
    if index is None:
        index = created(job.out, made)
    origin = origin_of(index, job.data, place)
    items = missing(index, data, origin.prefix)
    before = len(index)
    with index.together():
        if not before:
            index.mark(place)
        workers, _ = workers_for(data.source.array is not None, job.workers)
        views = data.modality.recipe("weak", encoder.spec["size"], data.stats)
        labels = data.source.labels
        with closing(encoded(encoder, data, views, items, on, workers, job.batch_size)) as chunks:
            for kept, vectors in gathered(chunks):
                names = [origin.prefix + data.source.name(i) for i in kept]
                index.add(names, vectors, None if labels is None else [labels[i] for i in kept], origin)
                if len(items) > PART:
                    say(f"{len(index) - before:,} of {len(items):,} items")
        check_share(data, job.max_skipped)
        if index.unfinished == place:
            index.mark(None)
    skipped = {printable(data.source.name(i)): why for i, why in sorted(data.skipped.items())}
    known = len(data.source) - len(items)
    there = f", {known:,} {'was' if known == 1 else 'were'} there already" if known else ""
    holds = f"{index.place} holds {counted(len(index), 'vector')} of width {encoder.dim}"
    say(f"{counted(len(index) - before, 'item')} added{there}; {holds}")
    if job.approximate_above is not None and len(index) < job.approximate_above:
        say(f"search is exact: {counted(len(index), 'item')}, and it is approximate from {job.approximate_above:,} on")
    elif job.approximate_above is not None:
        try:
            graph = index.approximate()
        except UserError as error:
            raise UserError(f"{error} The items are in the index; search in it is as it was.") from None
        say(
            f"approximate search ({graph.kind}): recall@{graph.k} {graph.recall:.3f} against exact search, of "
            f"{graph.asked:,} items, {graph.view} kept in view"
        )
    return index, skipped


def told(job: IndexItems, index: Index, skipped: dict[str, str]) -> dict[str, Any]:
    for name, why in skipped.items():
        say(f"skipped {name}: {why}", "yellow")
    result = {"out": index.place, "items": len(index), "dim": index.made.dim, "skipped": len(skipped)}
    return result if index.graph is None else {**result, "approximate": index.graph.model_dump(include=MEASURED)}


def absolute(path: str) -> str:
    """One spelling of where data lie, that holds from every folder."""
    return plain_path(path) if is_address(path) else str(Path(plain_path(path)).expanduser().absolute())


def origin_of(index: Index, given: str, place: str) -> Origin:
    """Where the items come from. Those of further data carry its path in their names, or names would meet."""
    known = next((origin for origin in index.sources if origin.path == place), None)
    prefix = f"{plain_path(given)}/" if index.sources else ""
    return known or Origin(path=place, prefix=prefix)


def missing(index: Index, data: Data, prefix: str) -> Any:
    """The items whose names the index does not hold, ascending."""
    keep = np.ones(len(data.source), dtype=bool)
    if len(index):
        for start in range(0, len(keep), PART):
            names = [prefix + data.source.name(i) for i in range(start, min(start + PART, len(keep)))]
            there = set(index.known(names))
            keep[start : start + PART] = [name not in there for name in names]
    return np.flatnonzero(keep)


def gathered(chunks: Any) -> Iterator[tuple[list[int], np.ndarray]]:
    """Chunks put together to parts."""
    items: list[int] = []
    vectors: list[np.ndarray] = []
    for kept, some in chunks:
        items += kept
        vectors.append(some)
        if len(items) >= PART:
            yield items, np.concatenate(vectors)
            items, vectors = [], []
    if items:
        yield items, np.concatenate(vectors)


def removed(job: Remove) -> dict[str, Any]:
    """Take out the items that are named. Raises UserError where none is."""
    index = opened(job.index)
    names = named(index, job.items)
    count = index.remove(names)
    say(f"{counted(count, 'item')} removed; {index.place} holds {len(index):,}")
    return {"index": index.place, "removed": count, "items": len(index)}


def named(index: Index, items: str) -> list[str]:
    """The names that an item's name, a pattern or a list file stands for."""
    if index.known([items]):
        return [items]
    if Path(items).expanduser().is_file():
        held = Path(items).expanduser().read_bytes()
        if b"\0" in held:
            raise UserError(
                f"{items} is no list of names, but a file of other things. Give the name that the item has there "
                f"(`selfsame search` shows names), a pattern as '*{Path(items).name}', or a text file of names."
            )
        lines = held.decode("utf-8", "surrogateescape").splitlines()
        return [line for line in lines if line]
    if any(sign in items for sign in "*?["):
        found = [name for name in index.names if fnmatch.fnmatchcase(name, items)]
        if not found:
            raise UserError(f"no item of {index.place} is called like {items!r}. Nothing was removed.")
        return found
    raise not_there(index, items, "A pattern as 'cats/*' or a text file of names will do too. Nothing was removed.")
