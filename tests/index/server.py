"""A PostgreSQL server with pgvector for tests, of the wheel `pgserver`, in a folder of its own."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running() -> Iterator[str]:
    """Its address. A user `guest` with the password `open sesame` is asked for it; all others are let in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the folder for sockets
        pgserver = pytest.importorskip("pgserver")
    psycopg = pytest.importorskip("psycopg")
    # The server never runs as root: for root, pgserver makes a user and lets it into this folder.
    home = Path(tempfile.mkdtemp(prefix="selfsame-pg-"))
    server = pgserver.get_server(home / "data", cleanup_mode="delete")
    try:
        rules = home / "data" / "pg_hba.conf"
        rules.write_text("local all guest scram-sha-256\n" + rules.read_text())
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            connection.execute("CREATE ROLE guest LOGIN PASSWORD 'open sesame'")
            connection.execute("SELECT pg_reload_conf()")
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(home, ignore_errors=True)
