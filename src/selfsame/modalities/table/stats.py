"""What is known of a table: its columns, how each becomes numbers, and what it holds. Records only; loads no torch."""

from collections import Counter

from selfsame.modalities.table.reading import Kind
from selfsame.records import Record
from selfsame.storage.tables import first_names

__all__ = ["LEVELS", "NUMERIC", "Column", "Stats"]

LEVELS = 65  # quantiles that are kept of a column: at shares 0, 1/64, ..., 1
LABELS = ("label", "labels", "class", "target")  # usual names of what is to be predicted
NUMERIC = ("number", "count", "ratio", "date")  # kinds that are one number a row with an order


class Column(Record):
    """One feature: what it is, and what is needed to prepare it and to draw from its marginal."""

    name: str
    kind: Kind
    width: int = 1
    """numbers that it takes in a row of a sample: 1, and of text several"""
    missing: float = 0.0
    """share of the rows without a value"""
    quantiles: tuple[float, ...] = ()
    """of numbers and dates (days since 1970): `LEVELS` of them, from the smallest to the largest value"""
    mean: float = 0.0
    """of numbers and dates; of counts the mean of log(1 + x)"""
    std: float = 1.0
    """of the same, 1 for a constant, so that dividing by it is safe"""
    whole: bool = False
    """whether all its numbers are whole"""
    values: tuple[str, ...] = ()
    """of a category: its values, the most frequent first; code k + 1 is values[k], code 0 any other"""
    shares: tuple[float, ...] = ()
    """of a category: how frequent the others (first) and each value are, of the rows that have one"""
    codes: int = 0
    """of a category or a hashed column: codes are 0 .. codes - 1"""
    sample: tuple[int, ...] = ()
    """of a hashed column: the codes of some rows, its marginal"""
    bags: tuple[tuple[tuple[int, float], ...], ...] = ()
    """of text: (place, value) of the numbers that are not 0, of some rows, its marginal"""
    form: str = ""
    """of a date: iso, seconds, milliseconds, or a pattern of strptime; of text: words or letters"""
    note: str = ""
    """what a person should know of it, as: 3 % are words, taken as missing"""


class Stats(Record):
    """What is measured from a table and saved with the encoder."""

    items: int
    """items that can be read, as far as they were looked at"""
    columns: tuple[Column, ...]
    """the features, in the order of a sample's numbers"""
    scaling: str
    """of columns of kind number: quantile or standard"""
    left_out: tuple[str, ...] = ()
    """columns that are no features, each with the reason"""
    notes: tuple[str, ...] = ()
    """what else a person should know of the file"""
    by: str = ""
    """column that says whose event a row is; empty where an item is a row"""
    time: str = ""
    """column that orders the events"""
    events: int = 0
    """length of a usual sequence (nine of ten are no longer); 0 where an item is a row"""

    @property
    def width(self) -> int:
        """Numbers of a row of a sample."""
        return sum(column.width for column in self.columns)

    @property
    def starts(self) -> list[int]:
        """Where the numbers of each column begin in a row of a sample."""
        return [sum(column.width for column in self.columns[:k]) for k in range(len(self.columns))]

    @property
    def roles(self) -> list[tuple[str, str, str]]:
        """What the columns are, kind by kind, for a plan: (kind, names shortened, a remark)."""
        found = []
        for kind in dict.fromkeys(column.kind for column in self.columns):
            names = [column.name for column in self.columns if column.kind == kind]
            word = "hashed" if kind == "hash" else kind if kind == "text" else _plural(kind)
            noted = [f"{column.name}: {column.note}" for column in self.columns if column.kind == kind and column.note]
            told = [f"{len(names):,} column{'s' if len(names) > 1 else ''}", *noted[:2], *["..."] * (len(noted) > 2)]
            found.append((word, first_names(names), "; ".join(told)))
        if self.left_out:
            found.append(("left out", first_names(self.left_out, 96), f"{len(self.left_out):,}, no features"))
        return found

    @property
    def cautions(self) -> list[str]:
        """What a person should know before the run begins."""
        return [
            f"the column {column.name} is learned from as a feature. If it holds the labels, leave it out with "
            f"--reading.leave-out {column.name}: an encoder that has seen it cannot be measured by it."
            for column in self.columns
            if column.name.strip().lower() in LABELS
        ]

    @property
    def brief(self) -> str:
        """The summary without the columns, which `roles` tell."""
        order = f", in the order of {self.time}" if self.time else ""
        return "; ".join([*([f"events by {self.by}{order}"] if self.by else []), *self.notes])

    @property
    def summary(self) -> str:
        """As in: 2 numbers (age, hours), 1 count (gain), 8 categories; left out: fnlwgt (given)."""
        kinds = Counter(column.kind for column in self.columns)
        parts = []
        for kind, count in kinds.items():
            names = [column.name for column in self.columns if column.kind == kind]
            shown = ", ".join(names[:6]) + (", ..." if count > 6 else "")
            word = "hashed" if kind == "hash" else kind if count == 1 or kind == "text" else _plural(kind)
            parts.append(f"{count} {word} ({shown})")
        text = ", ".join(parts)
        if self.by:
            order = f", in the order of {self.time}" if self.time else ""
            text = f"events by {self.by}{order}; {text}"
        noted = [f"{column.name}: {column.note}" for column in self.columns if column.note]
        if noted:
            text += f"; {'; '.join(noted[:4])}{'; ...' if len(noted) > 4 else ''}"
        if self.left_out:
            text += f"; left out: {', '.join(self.left_out[:8])}{', ...' if len(self.left_out) > 8 else ''}"
        return "; ".join([text, *self.notes])


def _plural(kind: str) -> str:
    return {"category": "categories"}.get(kind, f"{kind}s")
