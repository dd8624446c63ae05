from pathlib import Path
from typing import Any

import pytest

from selfsame.modalities import text
from tests.modalities.text.made import make


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """64 made texts, fitted."""
    found = text.open_source(make(tmp_path_factory.mktemp("texts"), 64))
    stats, skipped = text.measure(found)
    assert skipped == {}
    found.fit(stats)
    return found


@pytest.fixture(scope="session")
def stats(source: Any) -> Any:
    return text.measure(source)[0]


@pytest.fixture
def lines(tmp_path: Path) -> Any:
    """A function that writes bytes to a file and gives its path."""

    def write(content: bytes | str, name: str = "a.txt") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write
