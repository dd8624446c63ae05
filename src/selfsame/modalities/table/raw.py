"""What an encoder of rows has to be better than: one-hot categories and scaled numbers, fitted on the train part."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32

from selfsame.modalities.table.stats import NUMERIC, Stats

__all__ = ["raw_name", "raw_vectors"]

raw_name = "one-hot and scaled numbers"
CAP = 64  # values of a category with a place of their own; the rest share one
EVENTS = 1024  # last events of a user that are averaged


def raw_vectors(parts: Sequence[tuple[Any, Sequence[int]]], stats: Stats) -> list[Float[torch.Tensor, "n d"]]:
    """One-hot categories (the 64 most frequent of a column, and one place for all others), standardised numbers,
    counts after log(1 + x), texts as they are, and whether a value is missing.

    Frequencies, means and standard deviations are those of the first part. Of events the mean over a user's.
    """
    tables = [rows_of(source, items) for source, items in parts]
    fitted = tables[0][0]
    made: list[list[np.ndarray]] = [[] for _ in parts]
    for column, start in zip(stats.columns, stats.starts, strict=True):
        for out, values in zip(made, features(column, start, fitted, [rows for rows, _ in tables]), strict=True):
            out.append(values)
    found = []
    for columns, (_, owners) in zip(made, tables, strict=True):
        vectors = torch.from_numpy(np.concatenate(columns, axis=1))
        if owners is not None:
            counts = torch.bincount(owners).float()[:, None]
            vectors = torch.zeros(len(counts), vectors.shape[1]).index_add_(0, owners, vectors) / counts
        found.append(vectors)
    return found


def rows_of(source: Any, items: Sequence[int]) -> tuple[Float32[np.ndarray, "n w"], torch.Tensor | None]:
    """The rows, and of events whose each is."""
    if not source.stats.by:
        return source.rows(list(items)), None
    events = [source.events(i)[-EVENTS:] for i in items]
    owners = torch.repeat_interleave(torch.tensor([len(rows) for rows in events]))
    return source.rows(np.concatenate(events)), owners


def features(column: Any, start: int, fitted: np.ndarray, tables: list[np.ndarray]) -> list[Float32[np.ndarray, "n f"]]:
    def gone(rows: np.ndarray) -> np.ndarray:
        return np.isnan(rows[:, start : start + 1]).astype(np.float32)

    if column.kind in NUMERIC:

        def number(rows: np.ndarray) -> np.ndarray:
            values = rows[:, start].astype(np.float64)
            return np.sign(values) * np.log1p(np.abs(values)) if column.kind == "count" else values

        known = number(fitted)
        known = known[np.isfinite(known)]
        mean, std = (known.mean(), known.std()) if len(known) else (0.0, 1.0)
        std = std if std > 1e-12 else 1.0
        return [
            np.concatenate([np.nan_to_num((number(rows) - mean) / std)[:, None].astype(np.float32), gone(rows)], axis=1)
            for rows in tables
        ]
    if column.kind == "text":
        end = start + column.width
        return [np.concatenate([np.nan_to_num(rows[:, start:end]), gone(rows)], axis=1) for rows in tables]
    codes = fitted[:, start]
    values, counts = np.unique(codes[np.isfinite(codes)], return_counts=True)
    kept = np.sort(values[np.argsort(-counts, kind="stable")[:CAP]])
    made = []
    for rows in tables:
        hot = (rows[:, start : start + 1] == kept).astype(np.float32)
        other = np.isfinite(rows[:, start : start + 1]) & ~hot.any(axis=1, keepdims=True)
        made.append(np.concatenate([hot, other.astype(np.float32), gone(rows)], axis=1))
    return made
