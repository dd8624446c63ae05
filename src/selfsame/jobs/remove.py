"""Items out of an index."""

from pathlib import Path
from typing import Any

from selfsame.jobs.checked import checked
from selfsame.records import Record


class Remove(Record):
    """Take items out of an index, by name; nothing else is touched, and nothing made anew."""

    index: str
    """folder of an index, or its postgresql:// address"""
    items: str
    """name of an item, a pattern as 'cats/*', or a text file of names, one a line"""

    def run(self) -> dict[str, Any]:
        from selfsame.jobs.indexing import removed

        return removed(self)


def remove(index: str | Path, items: str | Path) -> dict[str, Any]:
    """Take items out of an index; see `Remove`. Raises UserError."""
    return checked(Remove, {"index": str(index), "items": str(items)}).run()
