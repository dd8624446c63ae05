"""Parquet: rows lie in groups, and a column of a group is read at once.

Raises UserError on files that are no tables, and where a group cannot be read.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from selfsame.errors import UserError, missing
from selfsame.modalities.table.cells import Cells, Raw, base, clean
from selfsame.modalities.table.reading import Reading
from selfsame.storage.disk import Disk
from selfsame.storage.shards import undamaged

__all__ = ["ParquetCells"]

GROUP = 1 << 30  # bytes of a group of Parquet rows: a larger one cannot be held by every reading process
GROUPS = 32  # of Parquet rows, at least, from which the rows to look at are drawn


class ParquetCells(Cells):
    """Parquet files with the same columns. A column of a group of rows is read at once."""

    def __init__(self, paths: Sequence[str], disk: Disk, reading: Reading) -> None:
        super().__init__(list(paths), disk, [])
        self.files: dict[str, Any] = {}
        schema = self.file(paths[0]).schema_arrow
        if len(set(schema.names)) < len(schema.names):
            twice = next(name for name, count in Counter(schema.names).items() if count > 1)
            raise UserError(f"{paths[0]}: two columns are named {twice!r}. Write the file anew with other names.")
        for column in schema:
            if why := nested(column.type):
                self.left_out[column.name] = why
            else:
                self.names.append(column.name)
        counts: list[int] = []
        self.groups: list[tuple[str, int]] = []
        self.firsts: list[int] = []
        self.bytes: list[int] = []
        for path in self.paths:
            file = self.file(path)
            if absent := [name for name in self.names if name not in file.schema_arrow.names]:
                raise UserError(f"{path} has no column {absent[0]!r}, which {paths[0]} has.")
            self.firsts.append(sum(counts))
            for k in range(file.num_row_groups):
                group = file.metadata.row_group(k)
                if group.num_rows:
                    counts.append(group.num_rows)
                    self.groups.append((path, k))
                    self.bytes.append(group.total_byte_size)
        if not counts:
            raise UserError(f"{paths[0]}: no rows.")
        self.edges = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.blocks = self.edges[:-1]
        self.largest(len(self.names))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "files": {}}

    def largest(self, width: int) -> int:
        """Bytes of the largest group at so many float32 a row. Raises UserError where no process should hold it."""
        rows = int(np.diff(self.edges).max())
        if (size := rows * max(1, width) * 4) > GROUP:
            raise UserError(
                f"{self.paths[0]}: groups of {rows:,} rows, {size / 2**30:.1f} GiB as numbers, which each reading "
                "process would hold. Write the file anew with smaller ones, as pyarrow.parquet.write_table(table, "
                "path, row_group_size=100_000) does."
            )
        return size

    def __len__(self) -> int:
        return int(self.edges[-1])

    def file(self, path: str) -> Any:
        """The file, opened anew: a handle that came through a fork would share its place with the parent."""
        pa, parquet = arrow()
        try:
            return parquet.ParquetFile(self.disk.open(path) if self.disk.remote else path)
        except FileNotFoundError:
            raise self.disk.nowhere(path) from None
        except UserError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"{path}: no Parquet file, or a damaged one ({reason}).") from None

    def stored(self, row: int) -> int:
        group = bisect_right(self.blocks, row) - 1  # type: ignore[arg-type]
        return max(1, self.bytes[group] // int(self.edges[group + 1] - self.edges[group]))

    def place(self, row: int) -> str:
        number = bisect_right(self.firsts, row) - 1
        return str(row) if len(self.paths) == 1 else f"{base(self.paths, number)}/{row - self.firsts[number]}"

    def columns(self, names: Sequence[str], rows: Int64[np.ndarray, "n"]) -> dict[str, Raw]:
        pa, _ = arrow()
        groups = np.searchsorted(self.edges, rows, side="right") - 1
        parts: dict[str, list[Raw]] = {name: [] for name in names}
        for group in np.unique(groups).tolist():
            path, k = self.groups[group]
            inside = rows[groups == group] - self.edges[group]
            whole = len(inside) == self.edges[group + 1] - self.edges[group]
            file = self.file(path)
            for name in names:  # one by one: so at most a column of a group is held beside what is made of it
                with undamaged(path, f"group {k} of its rows, column {name!r},"):
                    values = file.read_row_group(k, columns=[name]).column(0)
                parts[name].append(raw_of(values if whole else values.take(pa.array(inside))))
        return {name: one_of(found) for name, found in parts.items()}

    def drawn(self, seed: int, most: int) -> Int64[np.ndarray, "n"]:
        """From few groups, drawn by the seed: no more than hold twice as many rows, but some tens of them."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.groups))
        enough = int(np.searchsorted(np.cumsum(np.diff(self.edges)[order]), 2 * most)) + 1
        share = [np.arange(self.edges[k], self.edges[k + 1]) for k in order[: max(GROUPS, enough)]]
        chosen = [rng.permutation(part)[: max(1, -(-most // len(share)))] for part in share]
        return np.sort(rng.permutation(np.concatenate(chosen))[:most])


def arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise missing("parquet", "pyarrow", "Parquet") from None
    return pa, parquet


def nested(kind: Any) -> str:
    """What a column holds that is no single value; empty where it holds single values."""
    pa, _ = arrow()
    of = pa.types
    if of.is_dictionary(kind):
        return nested(kind.value_type)
    if of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
        return "lists"
    if of.is_struct(kind) or of.is_map(kind) or of.is_union(kind):
        return "nested values"
    if of.is_binary(kind) or of.is_large_binary(kind) or of.is_fixed_size_binary(kind):
        return "bytes"
    return ""


def raw_of(values: Any) -> Raw:
    """A column of Arrow as `Raw`."""
    pa, _ = arrow()
    of, kind = pa.types, values.type
    from pyarrow import compute

    if of.is_date(kind) or of.is_timestamp(kind):
        stamps = compute.cast(values, pa.timestamp("us")).cast(pa.int64())
        return Raw("date", floats(stamps) / 86_400e6)
    if of.is_time(kind) or of.is_duration(kind):
        values = values.cast(pa.int64() if values.type.bit_width == 64 else pa.int32())
        kind = values.type
    if of.is_integer(kind) or of.is_floating(kind) or of.is_decimal(kind):
        return Raw("number", floats(values))
    if of.is_null(kind):
        return Raw("text", np.full(len(values), None, object))
    if of.is_boolean(kind):
        values = values.cast(pa.string())
    coded = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
    if not of.is_dictionary(coded.type):
        coded = coded.cast(pa.large_string()).dictionary_encode()
    words = [None if word is None else clean(str(word)) for word in coded.dictionary.to_pylist()]
    kept = np.empty(len(words), object)
    kept[:] = words
    codes = compute.fill_null(coded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return Raw("text", kept, codes)


def floats(values: Any) -> Float64[np.ndarray, "n"]:
    pa, _ = arrow()
    return values.cast(pa.float64(), safe=False).to_numpy().astype(np.float64, copy=False)


def one_of(parts: list[Raw]) -> Raw:
    """Of one column in several groups."""
    if len(parts) == 1:
        return parts[0]
    return Raw(parts[0].form, np.concatenate([part.each() for part in parts]))
