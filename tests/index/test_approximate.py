import json

import numpy as np
import pytest

from selfsame.cli import main
from selfsame.errors import UserError
from selfsame.index import approximate
from selfsame.index.contract import Made
from selfsame.index.folder import Folder
from selfsame.index.store import exists, opened
from tests.test_cli import error_of

pytest.importorskip("faiss")
MADE = Made(fingerprint="0" * 32, modality="image", size=16, dim=16)


def cloud(count, seed=0):
    """In heaps, as the vectors of an encoder lie."""
    rng = np.random.default_rng(seed)
    heaps = np.random.default_rng(99).normal(size=(20, 16))
    return (heaps[rng.integers(0, 20, count)] + 0.5 * rng.normal(size=(count, 16))).astype(np.float32)


def words(count, first=0):
    return [f"item {k}" for k in range(first, first + count)]


@pytest.fixture
def index(tmp_path):
    index = Folder.create(tmp_path / "idx", MADE)
    index.add(words(3000), cloud(3000))
    return index


def recall(index, queries, k=10):
    one, two = index.search(queries, k), index.search(queries, k, exact=True)
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(one.names, two.names, strict=True)])


def test_a_graph_finds_nearly_all_and_says_how_many(index):
    assert index.graph is None
    graph = index.approximate()
    assert graph.recall >= approximate.WANTED and graph.k == 10 and graph.asked == 200 and graph.items == 3000
    again = opened(index.folder)
    assert again.graph == graph
    queries = cloud(100, 1)
    assert recall(again, queries) > 0.9
    one, two = again.search(queries, 1), again.search(queries, 1, exact=True)
    same = [a == b for a, b in zip(one.names, two.names, strict=True)]
    np.testing.assert_allclose(one.cosines[same], two.cosines[same], atol=1e-5)
    np.testing.assert_array_equal([again.names[int(i)] for i in one.items[:, 0]], [line[0] for line in one.names])


def test_recall_is_what_was_found_of_the_truly_nearest():
    def one(queries, k):
        return [["a", "b", "x", "y"][: k + 1], ["b", "a", "c", "d"][: k + 1]]

    def two(queries, k):
        return [["a", "b", "c", "x"][: k + 1], ["b", "c", "a", "z"][: k + 1]]

    # Of a: b, x against b, c; of b: a, c against c, a.
    assert approximate.measured(["a", "b"], np.zeros((2, 1)), one, two, 2) == 0.75


def test_a_narrow_view_is_widened_until_the_recall_is_there():
    found = {32: 0.5, 64: 0.94, 128: 0.96, 256: 1.0, 512: 1.0}
    assert approximate.widened(100, lambda view, k: found[view]) == (128, 10, 0.96)
    assert approximate.widened(5, lambda view, k: 0.1) == (512, 4, 0.1)
    with pytest.raises(UserError, match="two items or more"):
        approximate.widened(1, lambda view, k: 1.0)


def test_what_comes_after_the_graph_is_found_and_what_went_is_not(index):
    index.approximate()
    late = cloud(50, 7)
    index.add([f"late {k}" for k in range(50)], late)
    for one in (index, opened(index.folder)):
        assert [line[0] for line in one.search(late, 1).names] == [f"late {k}" for k in range(50)]
    near = index.search(late[:1], 5).names[0]
    index.remove(near)
    assert not set(index.search(late[:1], 20).names[0]) & set(near)
    queries = cloud(100, 1)
    assert recall(index, queries) > 0.9


def test_a_graph_outlives_rows_that_move_and_grows(index):
    index.approximate()
    index.remove(words(1000))  # a quarter and more: the others move together
    assert index.contents.removed == 0 and index.contents.number == 2
    again = opened(index.folder)
    queries = cloud(100, 1)
    assert recall(again, queries) > 0.9 and again.search(queries, 5).names == index.search(queries, 5).names
    again.add(words(500, 5000), cloud(500, 3))
    graph = again.approximate()
    assert graph.covered == 2500 and graph.items == 2500 and graph.recall >= approximate.WANTED
    again.remove(words(10, 5000))
    assert recall(opened(index.folder), queries) > 0.9
    again.remove(words(1000, 1000))
    again.approximate()  # most of the old one is gone: a new one
    assert len(np.fromfile(again.folder / again.graph.rows_file, "<i8")) == len(again) == 1490
    assert recall(again, queries) > 0.9
    assert len(list(again.folder.glob("graph-*"))) == 2


def test_labels_and_large_k_are_answered_exactly(index):
    index.add(["a", "b"], cloud(2, 5), ["cat", "cat"])
    index.approximate()
    assert set(index.search(cloud(1), 2, label="cat").names[0]) == {"a", "b"}
    found = index.search(cloud(1), 3002)  # more than a walk finds
    assert len(set(found.names[0])) == 3002


def test_a_full_disk_leaves_the_index_searchable(index, monkeypatch):
    def full(*_):
        raise RuntimeError("Error in write: failed\nNo space left on device".replace("\n", " "))

    monkeypatch.setattr(approximate.library(), "write_index", full)
    with pytest.raises(UserError, match="the disk is full"):
        index.approximate()
    assert opened(index.folder).graph is None and not list(index.folder.glob("graph-*"))
    assert index.search(cloud(1), 3).names


def test_a_damaged_graph_is_told_and_exact_search_goes_on(index):
    index.approximate()
    with (index.folder / index.graph.file).open("r+b") as file:
        file.truncate(1000)
    again = opened(index.folder)
    with pytest.raises(UserError, match=r"graph-1.faiss is damaged .*Search with --exact"):
        again.search(cloud(1), 3)
    assert again.search(cloud(1), 3, exact=True).names


def test_faiss_is_asked_for_where_it_is_missing(index, monkeypatch):
    monkeypatch.setattr(approximate.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"approximate search needs the package faiss-cpu.*selfsame\[search\]"):
        index.approximate()


def test_faiss_is_asked_for_before_items_are_encoded(encoded_by, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(approximate.importlib.util, "find_spec", lambda name: None)
    words = [encoded_by, pictures, "--out", tmp_path / "idx", "--workers", 0, "--approximate-above"]
    assert "selfsame[search]" in error_of(capsys, "index", *words, 64)
    assert not exists(str(tmp_path / "idx"))
    assert main(["index", *map(str, words), "65"]) == 0  # nobody needs it then


def test_the_command_measures_and_says(encoded_by, pictures, tmp_path, capsys):
    words = ["index", str(encoded_by), str(pictures), "--out", str(tmp_path / "idx"), "--workers", "0"]
    assert main([*words, "--approximate-above", "60", "--json"]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)["approximate"]
    assert told["k"] == 10 and told["recall"] >= 0.95 and "recall@10" in shown.err
    assert main(["search", str(tmp_path / "idx"), "disc/03.png", "-k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exact"] is False and found["recall"] == told["recall"]
    assert main(["search", str(tmp_path / "idx"), "disc/03.png", "-k", "3", "--exact", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exact"] is True
