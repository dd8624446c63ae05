"""Table encoders as ONNX and torch.export, with scaling and embedding inside, by `storage.exports`.

Raises: UserError where the target cannot hold the encoder or its outputs differ, or a package is missing.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsame.modalities.table.encoder import TableEncoder
from selfsame.modalities.table.scaling import marginals
from selfsame.storage.exports import Exporter
from selfsame.storage.wanted import Fed

__all__ = ["export"]


def export(encoder: TableEncoder, to: str, out: str | Path, **options: Any) -> dict[str, Any]:
    """Write the encoder to the file `out`, with its facts in a .json of the same name beside it.

    onnx (.onnx) and torch (.pt2) hold the whole encoder, for any number of rows. The facts are returned: files, input,
    the columns with what their numbers and codes stand for, `snippet` (the Python that loads the file, which was run)
    and `difference`, the largest absolute difference of outputs in units of the largest output, at most 1e-4.
    """
    return Exporter(fed, facts).export(encoder, to, out, **options)


def fed(encoder: TableEncoder) -> Fed:
    stats, size = encoder.stats, encoder.spec["size"]
    shape = (size, stats.width) if stats.by else (stats.width,)

    def example(batch: int) -> Tensor:
        """Rows of values that the columns have, a tenth of them missing."""
        each = (batch, size) if stats.by else (batch,)
        rows = marginals(stats, torch.device("cpu")).drawn(torch.rand(*each, len(stats.columns)))
        return torch.where(torch.rand(rows.shape) < 0.1, torch.nan, rows)

    told = (
        f"float32 [b, {', '.join(map(str, shape))}]: numbers as they are in the table, dates as days since 1970, "
        "categories as codes, NaN where a value is missing"
    )
    return Fed("rows", f"torch.zeros{(2, *shape)}  # your rows: {told}", example, told)


def facts(encoder: TableEncoder) -> dict[str, Any]:
    """The columns; code k + 1 is the value k of a category, 0 any other."""
    stats = encoder.stats
    return {
        "columns": [
            {"name": column.name, "kind": column.kind, "at": start, "width": column.width, "values": column.values}
            for column, start in zip(stats.columns, stats.starts, strict=True)
        ]
    }
