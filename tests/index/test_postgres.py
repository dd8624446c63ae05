import logging
from itertools import count

import numpy as np
import pytest

from selfsame.cli import main
from selfsame.errors import NO_LABEL, UserError
from selfsame.index.contract import Addition, Made, Origin
from selfsame.index.folder import Folder
from selfsame.index.postgres import parts_of
from selfsame.index.store import created, exists, opened
from tests.index.server import running
from tests.test_cli import error_of

MADE = Made(fingerprint="0" * 32, modality="image", size=16, dim=6)
NUMBERS = count()


@pytest.fixture(scope="module")
def server():
    with running() as address:
        yield address


@pytest.fixture
def address(server):
    """Where no table is yet."""
    return f"{server}&table=items_{next(NUMBERS)}"


def asked(server, text, *values):
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        return connection.execute(text, values or None)


def cloud(number, seed=0):
    return np.random.default_rng(seed).normal(0, 3, (number, 6)).astype(np.float32)


def words(number, first=0):
    return [f"item {k}" for k in range(first, first + number)]


@pytest.fixture
def index(address):
    """Twelve items, every third a cat, every third a dog."""
    index = created(address, MADE)
    index.add(words(12), cloud(12), ["cat", "dog", None] * 4, Origin(path="/photos"))
    yield index
    index.close()


def test_a_table_is_an_index_as_a_folder_is(index, address, tmp_path):
    folder = Folder.create(tmp_path / "idx", MADE)
    folder.add(words(12), cloud(12), ["cat", "dog", None] * 4, Origin(path="/photos"))
    table = opened(address)
    for act in (
        lambda _: None,
        lambda it: it.add(["Käse/'ß\".png"], cloud(1, 5), ["bird"], Origin(path="/more", prefix="more/")),
        lambda it: it.remove(["item 3", "item 7"]),
        lambda it: it.mark("/photos"),
    ):
        act(table)
        act(folder)
        assert len(table) == len(folder) and list(table.names) == list(folder.names) and table.labels == folder.labels
        np.testing.assert_allclose(table.vectors, folder.vectors, atol=1e-6)
        for label, k in ((None, 5), ("dog", 2)):
            one, two = table.search(cloud(3, 1), k, label), folder.search(cloud(3, 1), k, label)
            assert one.names == two.names and one.labels == two.labels
            np.testing.assert_allclose(one.cosines, two.cosines, atol=1e-6)
        assert table.sources == folder.sources and table.unfinished == folder.unfinished
        assert table.origins_of(["item 11", "x"]) == folder.origins_of(["item 11", "x"])
        assert table.labels_of(["item 11", "item 1"]) == folder.labels_of(["item 11", "item 1"]) == [NO_LABEL, "dog"]
        np.testing.assert_allclose(table.vector("item 1"), folder.vector("item 1"), atol=1e-6)
        assert table.known(["x", "item 1"]) == ["item 1"]
    assert opened(address).made == MADE
    table.close()


def test_wrong_input_is_refused_and_changes_nothing(index, address):
    with pytest.raises(UserError, match="holds 1 of these names already, 'item 3'"):
        index.add(["x", "item 3"], cloud(2))
    with pytest.raises(UserError, match="'x' is given twice"):
        index.add(["x", "x"], cloud(2))
    odd = cloud(2)
    odd[1] = np.inf
    with pytest.raises(UserError, match="'y' has a vector that is not finite"):
        index.add(["x", "y"], odd)
    with pytest.raises(UserError, match="the index has width 6"):
        index.add(["x"], np.ones((1, 5)))
    with pytest.raises(UserError, match=r"unknown item 'item 33'.*Nothing was removed"):
        index.remove(["item 3", "item 33"])
    with pytest.raises(UserError, match=r"k is 13; .* holds 12 items"):
        index.search(cloud(1), 13)
    with pytest.raises(UserError, match="Did you mean 'dog'"):
        index.search(cloud(1), 1, "dug")
    with pytest.raises(UserError, match="is there already"):
        created(address, MADE)
    assert list(index.names) == words(12)


def test_what_is_done_together_counts_as_a_whole(index, address):
    def stopped():
        with index.together():
            index.add(["x"], cloud(1), origin=Origin(path="/new"))
            index.remove(["item 0"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(index.names) == words(12) and index.sources == [Origin(path="/photos")]
    with index.together():
        index.add(["x"], cloud(1), origin=Origin(path="/new"))
        index.remove(["item 0"])
    again = opened(address)
    assert list(again.names) == [*words(11, 1), "x"] and len(again.sources) == 2
    again.close()


def test_an_index_is_not_there_before_its_first_items_are(address):
    index = created(address, MADE)

    def failing():
        with index.together():
            index.mark("/photos")
            index.add(["x"], np.full((1, 6), np.nan))

    with pytest.raises(UserError, match="not finite"):
        failing()
    assert not exists(address) and len(index) == 0
    index.add(["x"], cloud(1))
    assert exists(address) and len(index) == 1
    index.close()


def test_a_full_disk_of_the_server_leaves_all_as_it_was(index, server, address):
    table = parts_of(address)[1]
    asked(
        server,
        "CREATE FUNCTION full_() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.name = 'item 500' THEN "
        "RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END IF; RETURN NEW; END $$",
    )
    asked(server, f"CREATE TRIGGER full_ BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION full_()")
    with pytest.raises(UserError, match=r"the server has no room left \(could not extend file.*Nothing was changed"):
        index.add(words(1000, 100), cloud(1000))
    assert len(index) == 12
    asked(server, f"DROP TRIGGER full_ ON {table}")
    asked(server, "DROP FUNCTION full_")
    index.add(words(1000, 100), cloud(1000))
    assert len(index) == 1012


def test_a_lost_connection_leaves_all_as_it_was(index, server, address):
    pid = index.connection.info.backend_pid

    def cut_off():
        with index.together():
            index.add(words(50, 100), cloud(50))
            asked(server, "SELECT pg_terminate_backend(%s)", pid)
            index.add(words(50, 200), cloud(50))

    with pytest.raises(UserError, match=r"the connection was lost .*Nothing of this command counts"):
        cut_off()
    again = opened(address)
    assert list(again.names) == words(12)
    again.close()


def test_a_connection_lost_amid_a_copy_is_told_in_our_words_alone(index, server, capsys, monkeypatch):
    pid = index.connection.info.backend_pid

    def blocks(self, dim):
        asked(server, "SELECT pg_terminate_backend(%s)", pid)
        yield slice(0, len(self.names)), self.vectors

    monkeypatch.setattr(Addition, "blocks", blocks)
    monkeypatch.setattr(logging.root, "handlers", [])  # as outside of pytest
    with pytest.raises(UserError, match=r"the connection was lost .*Nothing of this command counts"):
        index.add(words(20_000, 100), cloud(20_000))
    assert capsys.readouterr().err == ""


def test_whoever_is_not_let_in_is_told_and_passwords_are_never_shown(server, address, capsys):
    def by(user):
        return address.replace("postgres:@", f"{user}@", 1)

    for user, said in (
        ("guest:wrong", 'password authentication failed for user "guest". Give the right one'),
        ("guest", "no password supplied. Give the right one"),
    ):
        refused = error_of(capsys, "search", by(user), "x")
        assert said in refused and "wrong" not in refused and "guest@" in refused
    assert "there is no index at" in error_of(capsys, "search", by("guest:open%20sesame"), "x")
    asked(server, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with pytest.raises(UserError, match=r"permission denied for schema public. Ask for this right"):
        created(by("guest:open%20sesame"), MADE).add(["x"], cloud(1))
    assert "createdb NAME" in error_of(capsys, "search", by("postgres:").replace("/postgres?", "/nowhere?"), "x")
    refused = error_of(capsys, "search", "postgresql://me:secret@127.0.0.1:1/db?table=x&password=secret", "x")
    assert "no connection" in refused and "secret" not in refused and "me@127.0.0.1:1" in refused


def test_addresses_name_a_table():
    assert parts_of("postgresql://u:p@h:1/d?sslmode=require&table=x") == (
        "postgresql://u:p@h:1/d?sslmode=require",
        "x",
        "postgresql://u@h:1/d?sslmode=require&table=x",
    )
    for wrong, said in (
        ("", "it names no table"),
        ("?table=a;b", "no name of small letters"),
        ("?table=A", "'A' is no"),
    ):
        with pytest.raises(UserError, match=said):
            parts_of(f"postgresql://u:p@h/d{wrong}")
    with pytest.raises(UserError, match="no address of a database"):
        parts_of("postgresql://h:port/d?table=x")
    with pytest.raises(UserError, match="in a folder of this machine, or at postgresql://"):
        opened("mysql://h/d?table=x")


def test_a_table_of_others_is_left_alone(server):
    asked(server, "CREATE TABLE theirs (a integer)")
    for act in (opened, lambda address: created(address, MADE)):
        with pytest.raises(UserError, match=r"is a table, but no index|is there already"):
            act(f"{server}&table=theirs")


def test_the_commands_work_with_an_address(encoded_by, pictures, address, capsys, tmp_path):
    words_of = [str(encoded_by), str(pictures), "--out", address, "--workers", "0"]
    assert main(["index", *words_of]) == 0
    capsys.readouterr()
    assert "Add to it with --add" in error_of(capsys, "index", *words_of)
    assert main(["index", *words_of, "--add"]) == 0
    assert "64 were there already" in capsys.readouterr().err
    assert main(["search", address, str(pictures / "disc" / "03.png"), "-k", "1", "--label", "disc"]) == 0
    assert "disc/03.png" in capsys.readouterr().err
    assert main(["search", address, "disc/03.png", "-k", "3", "--picture", str(tmp_path / "x.png")]) == 0
    assert main(["remove", address, "disc/*"]) == 0
    assert "48" in capsys.readouterr().err
    assert len(opened(address)) == 48


def test_approximate_search_is_measured_and_labels_are_answered_exactly(address):
    index = created(address, MADE)
    index.add(words(1500), cloud(1500), ["rare", *["common"] * 1499])
    graph = index.approximate()
    assert graph.kind == "HNSW of pgvector" and graph.recall >= 0.95 and graph.items == 1500
    again = opened(address)
    assert again.graph == graph
    one, two = again.search(cloud(50, 1), 10), again.search(cloud(50, 1), 10, exact=True)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(one.names, two.names, strict=True)]) > 9
    assert again.search(cloud(1, 1), 1, label="rare").names == [["item 0"]]
    again.remove(words(1450, 50))
    assert len(again.search(cloud(1, 1), 50).names[0]) == 50  # a walk alone would find few
    again.close()
    index.close()
