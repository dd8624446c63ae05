"""Addresses: what a server that gives no parts, or does not answer, leads to."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from selfsame.errors import UserError
from selfsame.storage.disk import disk_of


class Quiet(SimpleHTTPRequestHandler):
    """Knows no ranges, as Python's own server."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "data.bin").write_bytes(bytes(range(100)))
    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    running = threading.Thread(target=server.serve_forever, daemon=True)
    running.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    running.join()


def test_a_server_without_parts_is_said_to_be_one(address: str) -> None:
    disk = disk_of(address)
    assert disk.read(f"{address}/data.bin") == bytes(range(100))
    assert disk.cut(f"{address}/data.bin", 0, 200) == bytes(range(100))
    with pytest.raises(UserError, match=r"no parts of a file .*: download it first"):
        disk.cut(f"{address}/data.bin", 10, 5)


def test_what_is_not_there_and_who_does_not_answer(address: str) -> None:
    disk = disk_of(address)
    assert not disk.exists(f"{address}/no.bin")
    assert "nothing is there" in str(disk.nowhere(f"{address}/no.bin"))
    assert "cannot be reached: Cannot connect" in str(disk.nowhere("http://127.0.0.1:1/no.bin"))
