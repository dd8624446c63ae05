"""Names and vectors of items, as a file that streams or as arrays."""

import csv
import importlib.util
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

from pydantic import Field, field_validator, model_validator

from selfsame.errors import UserError, missing, printable, unknown
from selfsame.jobs.checked import checked, spared
from selfsame.records import Record

if TYPE_CHECKING:
    import numpy as np

    from selfsame.types import Encoder

SUFFIXES = (".parquet", ".npy", ".csv")
Vectors = Generator[tuple[list[str], "np.ndarray"], None, None]  # names, and a vector for each


class Embed(Record):
    """Write names and vectors of items; never holds them all in memory."""

    run_folder: Path
    """folder of a run"""
    data: str
    """folder, glob, list, array, zip, table, shards or address of items"""
    out: Path
    """.parquet (name, vector), .csv (name, v0, v1, ...) or .npy (names in NAME.names.txt)"""
    fps: Annotated[float | None, Field(gt=0, le=1000)] = None
    """of videos, frames a second [as the encoder learned; else every frame]"""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """items encoded at once"""
    workers: Annotated[int | None, Field(ge=0)] = None
    """reading processes [cores - 1]; with --ray, processes that read and encode [one a GPU or a core]"""
    ray: Annotated[str | None, Field(min_length=1)] = None
    """spread it over a Ray cluster: local (started here), auto (the one that runs) or its HOST:PORT"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.01
    """largest share of unreadable items to go on with"""

    @field_validator("out")
    @classmethod
    def _suffix(cls, given: Path) -> Path:
        if given.suffix not in SUFFIXES:
            raise unknown("kind of vector file", given.suffix or str(given), SUFFIXES)
        return given

    @model_validator(mode="after")
    def _spreads(self) -> Self:
        if self.ray is None:
            return self
        if self.workers == 0:
            raise UserError("--workers 0: with --ray, they are the processes that read and encode. Give 1 or more.")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device {self.device}: with --ray, each process takes a device: give auto, cpu or cuda.")
        return self

    def run(self) -> dict[str, Any]:
        from selfsame.jobs.runs import load

        return written(self, load(self.run_folder))


@dataclass
class Embedding:
    """Vectors in memory. `numpy.asarray(embedding)` gives them alone."""

    names: list[str]
    vectors: "np.ndarray"  # float32 [n d]
    skipped: dict[str, str] = field(default_factory=dict)  # name -> reason

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "np.ndarray":
        import numpy as np

        return np.asarray(self.vectors, dtype=dtype)

    def __len__(self) -> int:
        return len(self.names)


def embed(run: Any, data: str | Path, out: str | Path | None = None, **settings: Any) -> Embedding | dict[str, Any]:
    """Embed items with a run, a run folder or an encoder (such as ss.load gives).

    Returns an `Embedding`, or, where `out` names a file, streams into it and returns what was written.
    """
    from selfsame.jobs.runs import load
    from selfsame.types import Encoder

    encoder = run if isinstance(run, Encoder) else load(run)
    folder = getattr(run, "folder", "encoder" if encoder is run else run)
    job = checked(Embed, {"run_folder": folder, "data": str(data), "out": out or "x.npy", **settings})
    return written(job, encoder) if out is not None else in_memory(job, encoder)


def stream(job: Embed, encoder: "Encoder") -> tuple[Any, Vectors]:
    """The opened data, and (names, vectors) chunk by chunk."""
    from selfsame.engine import dist
    from selfsame.engine.plan import workers_for
    from selfsame.jobs.data import encoded, open_frames

    if job.ray is not None and not all(map(importlib.util.find_spec, ("ray", "pyarrow"))):
        raise missing("ray", "ray[data]", "--ray")
    data = open_frames(job.data, encoder, None, job.fps)
    if job.ray is not None:
        from selfsame.jobs.on_ray import spread

        chunks = spread(encoder, data, job.ray, job.batch_size, job.workers, job.device)
    else:
        on = dist.device(job.device)
        workers, _ = workers_for(data.source.array is not None, job.workers)
        views = data.modality.recipe("weak", encoder.spec["size"], data.stats)
        chunks = encoded(encoder, data, views, range(len(data.source)), on, workers, job.batch_size)
    return data, named(data, chunks)


def named(data: Any, chunks: Generator[tuple[list[int], "np.ndarray"], None, None]) -> Vectors:
    """With names in place of numbers. Closing it ends the work at once."""
    with closing(chunks):
        for kept, vectors in chunks:
            yield [data.source.name(i) for i in kept], vectors


def in_memory(job: Embed, encoder: "Encoder") -> Embedding:
    import numpy as np

    from selfsame.jobs.data import check_share

    data, chunks = stream(job, encoder)
    pairs = list(chunks)
    check_share(data, job.max_skipped)
    skipped = {data.source.name(i): why for i, why in sorted(data.skipped.items())}
    return Embedding([n for names, _ in pairs for n in names], np.concatenate([v for _, v in pairs]), skipped)


def written(job: Embed, encoder: "Encoder") -> dict[str, Any]:
    """Stream into the file; it appears under its name only when it is whole. Names are made printable."""
    from selfsame.engine.state import write_whole
    from selfsame.engine.watch import say
    from selfsame.jobs.data import check_share

    files = (job.out, *([named_in(job.out)] if job.out.suffix == ".npy" else []))
    for file in files:
        spared(file, job.data)
    data, chunks = stream(job, encoder)
    for file in files:
        spared(file, job.data, map(data.source.name, range(len(data.source))))
    count = 0

    def fill(draft: Path) -> None:
        nonlocal count
        writer = {".parquet": parquet, ".csv": table, ".npy": array}[job.out.suffix]
        with closing(chunks), writer(draft, encoder.dim, len(data.source)) as add:
            for names, vectors in chunks:
                add([printable(name) for name in names], vectors)
                count += len(names)
        check_share(data, job.max_skipped)

    write_whole(job.out, fill)
    if job.out.suffix == ".npy":
        skipped = set(data.skipped)
        kept = (printable(data.source.name(i)) for i in range(len(data.source)) if i not in skipped)
        write_whole(
            named_in(job.out), lambda path: path.write_text("".join(f"{name}\n" for name in kept), encoding="utf-8")
        )
    for item, why in sorted(data.skipped.items()):
        say(f"skipped {printable(data.source.name(item))}: {why}", "yellow")
    beside = f"; their names, a line each, in {named_in(job.out)}" if job.out.suffix == ".npy" else ""
    say(f"{count:,} vectors of width {encoder.dim} in {job.out}{beside}")
    told = {"out": str(job.out), "items": count, "dim": encoder.dim, "skipped": len(data.skipped)}
    return {**told, "names": str(named_in(job.out))} if beside else told


def named_in(out: Path) -> Path:
    """Where the names of the rows of a .npy stand."""
    return out.with_name(f"{out.stem}.names.txt")


class Add(Protocol):
    def __call__(self, names: list[str], vectors: "np.ndarray") -> None: ...


@contextmanager
def parquet(path: Path, dim: int, most: int) -> Iterator[Add]:
    """Columns name: string, vector: fixed-size list of float32."""
    if importlib.util.find_spec("pyarrow") is None:
        raise missing("parquet", "pyarrow", "writing .parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("name", pa.string()), ("vector", pa.list_(pa.float32(), dim))])
    with pq.ParquetWriter(path, schema) as writer:

        def add(names: list[str], vectors: "np.ndarray") -> None:
            flat = pa.array(vectors.astype("float32").ravel())
            columns = [pa.array(names, pa.string()), pa.FixedSizeListArray.from_arrays(flat, dim)]
            writer.write_table(pa.table(columns, schema=schema))

        yield add


@contextmanager
def table(path: Path, dim: int, most: int) -> Iterator[Add]:
    """A header name,v0,v1,... and a row an item."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", *(f"v{k}" for k in range(dim))])

        def add(names: list[str], vectors: "np.ndarray") -> None:
            rows.writerows([name, *map(repr, row)] for name, row in zip(names, vectors.tolist(), strict=True))

        yield add


@contextmanager
def array(path: Path, dim: int, most: int) -> Iterator[Add]:
    """float32 [n d]; the header is written again at the end, when n is known."""
    import numpy as np

    def header(file: Any, n: int) -> int:
        described = {"descr": "<f4", "fortran_order": False, "shape": (n, dim)}
        np.lib.format.write_array_header_1_0(file, described)
        return file.tell()

    with path.open("wb") as file:
        length, count = header(file, most), 0

        def add(names: list[str], vectors: "np.ndarray") -> None:
            nonlocal count
            file.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            count += len(names)

        yield add
        file.seek(0)
        if header(file, count) != length:
            raise RuntimeError("the header of the .npy file changed its length")
