"""An index on a database server: one table of PostgreSQL with pgvector, behind the same interface as a folder.

    postgresql://user:password@host:5432/database?table=photos

What made the vectors stands as JSON in the table's comment, so that the table is all there is. Every addition and
removal is one transaction; a command that makes an index or adds to one is one as a whole: it counts when it is done.
Vectors come by binary COPY. Source: pgvector, github.com/pgvector/pgvector, README (0.5 or newer).
"""

import contextlib
import importlib.util
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError

from selfsame.errors import NO_LABEL, UserError, missing
from selfsame.index import approximate
from selfsame.index.approximate import Graph
from selfsame.index.contract import (
    AT_ONCE,
    FORMAT,
    PRIVATE,
    Addition,
    Found,
    Index,
    Made,
    Origin,
    no_label,
    not_there,
)
from selfsame.records import Record

SCHEMES = ("postgresql://", "postgres://")
PATIENCE = 10  # seconds to wait for a server
TABLE = re.compile(r"[a-z_][a-z0-9_]{0,47}")
WIDEST = 16_000  # numbers that pgvector's type holds
WIDEST_GRAPH = 2_000  # that its index takes
MOST_IN_VIEW = 1_000  # hnsw.ef_search
A = TypeVar("A", bound=Callable[..., Any])


class Card(Record):
    """The comment of the table."""

    format: int = FORMAT
    made: Made
    sources: tuple[Origin, ...] = ()
    """where items came from; the column `source` counts in it from 0"""
    unfinished: str | None = None
    graph: Graph | None = None


def is_database(place: str | Path) -> bool:
    return str(place).startswith(SCHEMES)


def told(method: A) -> A:
    """Errors of the server as UserErrors; what was under way is taken back by the server."""

    @wraps(method)
    def careful(self: "Table", *args: Any, **settings: Any) -> Any:
        import psycopg

        try:
            return method(self, *args, **settings)
        except psycopg.Error as error:
            raise explained(error, self.place) from error

    return cast(A, careful)


class Table(Index):
    """An index in a table; see the text at the top of the file. One connection, kept until the object goes."""

    def __init__(self, address: str, made: Made | None = None) -> None:
        """Open the index at an address; or, where `made` is given, a new one, which is written with its first items.

        Raises UserError where the server cannot be reached, has no pgvector, or the table is none of ours; for a new
        one, where the table is there already.
        """
        if not all(map(importlib.util.find_spec, ("psycopg", "pgvector"))):
            raise missing("postgres", "psycopg and pgvector", "an index on a database server")
        url, self.table, self.place = parts_of(address)
        self.connection = connected(url, self.place)
        there = self._exists()
        if made is not None:
            if there:
                raise UserError(f"{self.place} is there already. Add to it with --add, or choose another ?table=NAME.")
            if made.dim > WIDEST:
                raise UserError(f"pgvector holds vectors of up to {WIDEST:,} numbers; the encoder gives {made.dim:,}.")
        elif not there:
            raise UserError(
                f"there is no index at {self.place}. Make one with: selfsame index RUN PATH --out '{self.place}'"
            )
        self.new = made is not None
        self.card = Card(made=made) if made is not None else self._card()
        self.made = self.card.made
        if not self.new:
            self._know_vectors()

    # The server ------------------------------------------------------------------------------------------------------

    def _sql(self, statement: str, **parts: Any) -> Any:
        from psycopg import sql

        return sql.SQL(statement).format(table=sql.Identifier(self.table), **parts)

    def _rows(self, text: str, values: Any = None) -> list[Any]:
        return self.connection.execute(self._sql(text), values).fetchall()

    @told
    def _exists(self) -> bool:
        return self.connection.execute("SELECT to_regclass(%s)", [f'"{self.table}"']).fetchone()[0] is not None

    @told
    def _card(self) -> Card:
        found = self.connection.execute("SELECT obj_description(to_regclass(%s))", [f'"{self.table}"']).fetchone()[0]
        try:
            return Card.model_validate_json(found or "")
        except ValidationError:
            raise UserError(
                f"{self.place} is a table, but no index of this selfsame. Choose another ?table=NAME."
            ) from None

    def _know_vectors(self) -> None:
        from pgvector.psycopg import register_vector

        register_vector(self.connection)

    def _make(self) -> None:
        """The table; called in a transaction."""
        self.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        self.connection.execute(
            self._sql(
                "CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
                'name text COLLATE "C" NOT NULL UNIQUE, label text, source integer, vector vector({dim}) NOT NULL)',
                dim=self.made.dim,
            )
        )
        self.connection.execute(self._sql("CREATE INDEX ON {table} (label)"))
        self._know_vectors()

    def _write_card(self, card: Card) -> None:
        self.connection.execute(self._sql("COMMENT ON TABLE {table} IS {text}", text=card.model_dump_json()))
        self.card = card

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """A transaction, which makes the table if there is none yet; inside of another it is a part of that."""
        card, new = self.card, self.new
        try:
            with self.connection.transaction():
                if self.new:
                    self._make()
                    self._write_card(card)
                    self.new = False
                else:
                    # Two that write at once would each not see the names of the other, nor its places.
                    self.connection.execute(self._sql("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))
                    self.card = self._card()
                yield
        except BaseException:
            self.card, self.new = card, new
            raise

    @contextlib.contextmanager
    def _told_whole(self) -> Iterator[None]:
        import psycopg

        try:
            with self._whole():
                yield
        except psycopg.Error as error:
            raise explained(error, self.place) from error

    def together(self) -> AbstractContextManager[None]:
        return self._told_whole()

    def close(self) -> None:
        self.connection.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # there is no connection, or the program is ending
            self.connection.close()

    # Reading ---------------------------------------------------------------------------------------------------------

    @told
    def __len__(self) -> int:
        return 0 if self.new else int(self._rows("SELECT count(*) FROM {table}")[0][0])

    @property
    def names(self) -> list[str]:
        return self._column("SELECT name FROM {table} ORDER BY id")

    @property
    def labels(self) -> list[str] | None:
        found = self._column("SELECT label FROM {table} ORDER BY id")
        return None if all(label is None for label in found) else [label_of(label) for label in found]

    @told
    def _column(self, text: str) -> list[Any]:
        return [] if self.new else [row[0] for row in self._rows(text)]

    @property
    def vectors(self) -> Float[np.ndarray, "n d"]:
        return self._fetched()

    @told
    def _fetched(self) -> Float[np.ndarray, "n d"]:
        """Brought here by blocks, into a file without a name."""
        count = 0
        with tempfile.TemporaryFile() as file:
            if not self.new:
                with self.connection.transaction(), self.connection.cursor("vectors", binary=True) as cursor:
                    cursor.execute(self._sql("SELECT vector FROM {table} ORDER BY id"))
                    while rows := cursor.fetchmany(AT_ONCE):
                        file.write(np.stack([as_array(row[0]) for row in rows]).tobytes())
                        count += len(rows)
            file.flush()
            shape = (count, self.made.dim)
            return np.memmap(file, np.dtype("<f4"), PRIVATE, shape=shape) if count else np.zeros(shape, np.float32)

    @told
    def count(self, label: str) -> int:
        found = int(self._rows("SELECT count(*) FROM {table} WHERE label = %s", [label])[0][0])
        if not found:
            classes = [row[0] for row in self._rows("SELECT DISTINCT label FROM {table} WHERE label IS NOT NULL")]
            raise no_label(self, label, classes)
        return found

    @told
    def known(self, names: Sequence[str]) -> list[str]:
        if self.new:
            return []
        given = spelt(names)
        rows = self._rows("SELECT name FROM {table} WHERE name = ANY(%s)", [given])
        found = {row[0] for row in rows}
        return [name for name, text in zip(names, given, strict=True) if text in found]

    @told
    def vector(self, name: str) -> Float[np.ndarray, "d"]:
        rows = self._rows("SELECT vector FROM {table} WHERE name = %s", spelt([name]))
        if not rows:
            raise not_there(self, name)
        return as_array(rows[0][0])

    def labels_of(self, names: Sequence[str]) -> list[str]:
        found = self._of(names, "label")
        return [label_of(found.get(name)) for name in spelt(names)]

    def origins_of(self, names: Sequence[str]) -> list[Origin | None]:
        found = self._of(names, "source")
        numbers = [found.get(name) for name in spelt(names)]
        return [None if number is None else self.card.sources[number] for number in numbers]

    @told
    def _of(self, names: Sequence[str], column: str) -> dict[str, Any]:
        rows = self._rows(f"SELECT name, {column} FROM {{table}} WHERE name = ANY(%s)", [spelt(names)])
        return {row[0]: row[1] for row in rows}

    @property
    def sources(self) -> list[Origin]:
        return list(self.card.sources)

    @property
    def unfinished(self) -> str | None:
        return self.card.unfinished

    @told
    def _items(self, places: Any) -> tuple[list[str], Float[np.ndarray, "m d"]]:
        ids = self._column("SELECT id FROM {table} ORDER BY id")
        chosen = [ids[int(place)] for place in places]
        rows = self._rows("SELECT name, vector FROM {table} WHERE id = ANY(%s) ORDER BY id", [chosen])
        return [row[0] for row in rows], np.stack([as_array(row[1]) for row in rows])

    @told
    def _search(self, queries: Float[np.ndarray, "q d"], k: int, label: str | None, view: int) -> Found:
        where = "" if label is None else "WHERE label = %(label)s "
        walks = bool(view) and max(view, k) <= MOST_IN_VIEW
        # <#> is minus the inner product; an order by more than it cannot be had from the graph.
        order = "vector <#> %(query)s" if walks else "(vector <#> %(query)s) + 0"
        text = f"SELECT name, label, -(vector <#> %(query)s) FROM {{table}} {where}ORDER BY {order} LIMIT %(k)s"
        lines = []
        with self.connection.transaction():
            if walks:
                self.connection.execute(f"SET LOCAL hnsw.ef_search = {max(view, k)}")
                self.connection.execute("SET LOCAL enable_seqscan = off")
            for query in queries:
                lines.append(self._rows(text, {"query": query, "label": label, "k": k}))
        if walks and any(len(line) < k for line in lines):  # items that were removed stand in the way
            return self._search(queries, k, label, 0)
        labels = [[label_of(row[1]) for row in line] for line in lines]
        return Found(
            names=[[row[0] for row in line] for line in lines],
            cosines=np.array([[row[2] for row in line] for line in lines], np.float32).reshape(-1, k).clip(-1, 1),
            items=None,
            labels=labels if any(one != NO_LABEL for line in labels for one in line) else None,
        )

    @property
    def graph(self) -> Graph | None:
        return self.card.graph

    @classmethod
    def check_graph(cls, made: Made) -> None:
        if made.dim > WIDEST_GRAPH:
            raise UserError(
                f"pgvector's approximate search takes up to {WIDEST_GRAPH:,} numbers a vector; this encoder gives "
                f"{made.dim:,}. Leave --approximate-above out: search is exact then."
            )

    def approximate(self) -> Graph:
        self.check_graph(self.made)
        with self._told_whole():
            name = self.table + "_graph"
            self.connection.execute(self._sql("DROP INDEX IF EXISTS {name}", name=identifier(name)))
            self.connection.execute(
                self._sql(
                    "CREATE INDEX {name} ON {table} USING hnsw (vector vector_ip_ops) "
                    "WITH (m = {links}, ef_construction = {building})",
                    name=identifier(name),
                    links=approximate.LINKS,
                    building=approximate.BUILDING,
                )
            )
            self.connection.execute(self._sql("ANALYZE {table}"))
            view, k, recall = approximate.widened(len(self), self._recall)
            asked = min(approximate.ASKED, len(self))
            graph = Graph(kind="HNSW of pgvector", view=view, recall=recall, k=k, asked=asked, items=len(self))
            self._write_card(self.card.changed(graph=graph))
        return graph

    # Writing ---------------------------------------------------------------------------------------------------------

    def _add(self, added: Addition) -> None:
        given = spelt(added.names)
        with self._told_whole():
            self._check_new(given)
            source = None
            if added.origin is not None:
                if added.origin not in self.card.sources:
                    self._write_card(self.card.changed(sources=(*self.card.sources, added.origin)))
                source = self.card.sources.index(added.origin)
            text = "COPY {table} (name, label, source, vector) FROM STDIN WITH (FORMAT BINARY)"
            with self.connection.cursor() as cursor, cursor.copy(self._sql(text)) as copy:
                copy.set_types(["text", "text", "int4", "vector"])
                for some, rows in added.blocks(self.made.dim):
                    told_of = [None] * len(rows) if added.labels is None else added.labels[some]
                    for name, label, row in zip(given[some], told_of, rows, strict=True):
                        copy.write_row((name, None if label == NO_LABEL else label, source, row))

    def remove(self, names: Sequence[str]) -> int:
        wanted = list(dict.fromkeys(names))
        with self._told_whole():
            there = set(self.known(wanted))
            if lost := [name for name in wanted if name not in there]:
                raise not_there(self, lost[0], "Nothing was removed.")
            self.connection.execute(self._sql("DELETE FROM {table} WHERE name = ANY(%s)"), [spelt(wanted)])
        return len(wanted)

    def mark(self, data: str | None) -> None:
        with self._told_whole():
            self._write_card(self.card.changed(unfinished=data))


def identifier(name: str) -> Any:
    from psycopg import sql

    return sql.Identifier(name)


def there_is(address: str) -> bool:
    """Whether the table is there. Raises UserError where the server cannot be reached."""
    if not all(map(importlib.util.find_spec, ("psycopg", "pgvector"))):
        raise missing("postgres", "psycopg and pgvector", "an index on a database server")
    url, table, place = parts_of(address)
    with contextlib.closing(connected(url, place)) as connection:
        return connection.execute("SELECT to_regclass(%s)", [f'"{table}"']).fetchone()[0] is not None


def connected(url: str, place: str) -> Any:
    import psycopg

    # What it logs of a lost connection is said in our own words; without a handler Python would print it as well.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    try:
        # Not prepared: a plan made for approximate search would be kept for exact search.
        return psycopg.connect(url, autocommit=True, connect_timeout=PATIENCE, prepare_threshold=None)
    except psycopg.Error as error:
        raise explained(error, place, connecting=True) from error


def parts_of(address: str) -> tuple[str, str, str]:
    """(what the driver connects to, the table, the address without its password, for people)."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:
        raise UserError(f"this is no address of a database ({error}). Give {EXAMPLE}") from None
    given = parse_qsl(parts.query, keep_blank_values=True)
    table = next((value for key, value in given if key == "table"), "")
    user = parts.username or ""
    host = parts.netloc.rpartition("@")[2]
    shown = [(key, value) for key, value in given if key != "password"]
    place = urlunsplit((parts.scheme, f"{user}@{host}" if user else host, parts.path, urlencode(shown, safe="/"), ""))
    if not TABLE.fullmatch(table):
        what = f"the table {table!r} is no name of small letters, digits and _" if table else "it names no table"
        raise UserError(f"{place}: {what}. Give {EXAMPLE}")
    rest = urlencode([(key, value) for key, value in given if key != "table"])
    return urlunsplit((parts.scheme, parts.netloc, parts.path, rest, "")), table, place


EXAMPLE = "postgresql://USER@HOST/DATABASE?table=NAME"


def explained(error: Any, place: str, connecting: bool = False) -> UserError:
    """What the server or the driver says, in one line, with what to do. `connecting`: there was no connection yet."""
    from psycopg import errors

    said = " ".join((error.diag.message_primary or str(error)).split())
    reason = said[said.rfind("FATAL:") + 6 :].strip() if "FATAL:" in said else said
    if isinstance(error, (errors.DiskFull, errors.OutOfMemory)):
        return UserError(
            f"{place}: the server has no room left ({reason}). Nothing was changed. Make room and try again."
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return UserError(f"{place}: {reason}. Ask for this right, or give another user. Nothing was changed.")
    if isinstance(error, (errors.UndefinedFile, errors.FeatureNotSupported)) and "vector" in reason:
        return UserError(
            f"{place}: the server has no pgvector ({reason}). Install it there: github.com/pgvector/pgvector"
        )
    if isinstance(error, errors.UniqueViolation):
        return UserError(f"{place}: another process has added items of the same names. Nothing was changed. Try again.")
    if "password" in reason or "authentication" in reason:
        return UserError(f"{place}: {reason}. Give the right one as USER:PASSWORD@ in the address, or in PGPASSWORD.")
    if connecting and reason.startswith("database ") and reason.endswith("does not exist"):
        return UserError(f"{place}: {reason}. Make it with: createdb NAME, or give another in the address.")
    if connecting:
        return UserError(f"{place}: no connection ({reason[:300]}). Is the server running, and the address right?")
    if isinstance(error, (errors.OperationalError, errors.InterfaceError)):
        return UserError(
            f"{place}: the connection was lost ({reason[:200]}). Nothing of this command counts. Run it again."
        )
    return UserError(f"{place}: the server refused ({reason[:300]}). Nothing was changed.")


def spelt(names: Sequence[str]) -> list[str]:
    """Names as the server can hold them: bytes that are no UTF-8 are spelt out."""
    return [name.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0") for name in names]


def label_of(label: str | None) -> str:
    return NO_LABEL if label is None else label


def as_array(value: Any) -> Float[np.ndarray, "d"]:
    """What the driver gives for a vector: an array, or of newer versions an object around one."""
    return np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value, dtype=np.float32)
