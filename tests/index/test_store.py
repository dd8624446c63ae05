import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from selfsame.errors import NO_LABEL, UserError
from selfsame.index import contents, folder
from selfsame.index.contract import Made, Origin
from selfsame.index.folder import Folder
from selfsame.index.rows import Rows
from selfsame.index.store import opened

MADE = Made(fingerprint="0" * 32, modality="image", size=16, dim=6)


def cloud(count, seed=0, dim=6):
    return np.random.default_rng(seed).normal(0, 3, (count, dim)).astype(np.float32)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def words(count, first=0):
    return [f"item {k}" for k in range(first, first + count)]


@pytest.fixture
def index(tmp_path):
    """Twelve items, of which every third is a cat, every third a dog, and the others nothing."""
    index = Folder.create(tmp_path / "idx", MADE)
    index.add(words(12), cloud(12), ["cat", "dog", None] * 4, Origin(path="/photos"))
    return index


def same(one, two):
    assert list(one.names) == list(two.names) and one.labels == two.labels
    np.testing.assert_array_equal(one.vectors, two.vectors)


def test_what_was_put_in_is_there_when_it_is_opened_again(index):
    again = opened(index.folder)
    assert len(again) == 12 and list(again.names) == words(12)
    assert again.labels == ["cat", "dog", NO_LABEL] * 4
    np.testing.assert_allclose(again.vectors, unit(cloud(12)), atol=1e-6)
    assert isinstance(again.vectors, np.memmap)
    np.testing.assert_array_equal(again.vector("item 3"), again.vectors[3])
    assert again.labels_of(["item 2", "item 1"]) == [NO_LABEL, "dog"]
    assert again.made == MADE and again.origins_of(["item 3", "x"]) == [Origin(path="/photos"), None]


def test_the_nearest_are_those_of_all_cosines(index):
    queries = cloud(5, seed=1)
    cosines = unit(queries) @ unit(cloud(12)).T
    found = index.search(queries, 4)
    order = np.argsort(-cosines, axis=1)[:, :4]
    np.testing.assert_array_equal(found.items, order)
    np.testing.assert_allclose(found.cosines, np.take_along_axis(cosines, order, 1), atol=1e-6)
    assert found.names == [[f"item {k}" for k in row] for row in order]
    assert found.labels == [[index.labels[k] for k in row] for row in order]
    assert index.search(queries[0], 4).names == found.names[:1]  # one query may be a single vector


def test_only_items_of_a_label_are_found_where_it_is_asked_for(index):
    found = index.search(cloud(1, seed=1), 4, label="dog")
    assert set(found.names[0]) == {"item 1", "item 4", "item 7", "item 10"} and set(found.labels[0]) == {"dog"}
    assert (np.diff(found.cosines) <= 0).all()
    with pytest.raises(UserError, match=r"k is 5; .* holds 4 items with the label 'dog'. Give 1 to 4"):
        index.search(cloud(1), 5, label="dog")
    with pytest.raises(UserError, match=r"unknown label 'dug'. Did you mean 'dog'"):
        index.search(cloud(1), 1, label="dug")


def test_items_go_and_come_without_a_rebuild(index):
    index.add(words(300, 100), cloud(300, 6))
    assert index.known(words(500)) == [*words(12), *words(300, 100)]
    assert index.remove(words(300, 100)) == 300
    index.compact()
    before = index.vectors.copy()
    file = index.rows.file("vectors")
    size = file.stat().st_size
    assert index.remove(["item 5", "item 0"]) == 2
    kept = [k for k in range(12) if k not in (0, 5)]
    assert file.stat().st_size == size  # a tombstone, no move
    for one in (index, opened(index.folder)):
        assert len(one) == 10 and list(one.names) == [f"item {k}" for k in kept]
        np.testing.assert_array_equal(one.vectors, before[kept])
        assert one.labels == [["cat", "dog", NO_LABEL][k % 3] for k in kept]
        found = one.search(before[5], 10)
        assert "item 5" not in found.names[0] and sorted(found.names[0]) == sorted(one.names)
        assert [one.names[i] for i in found.items[0]] == found.names[0]
    index.add(["item 5"], before[5:6], origin=Origin(path="/more", prefix="more/"))  # the name is free again
    assert opened(index.folder).search(before[5], 1).names == [["item 5"]]
    assert index.origins_of(["item 11", "item 5"]) == [Origin(path="/photos"), Origin(path="/more", prefix="more/")]
    assert index.sources == [Origin(path="/photos"), Origin(path="/more", prefix="more/")]


def test_rows_that_were_taken_out_leave_the_disk_when_they_are_many(index):
    index.add(["late"], cloud(1, seed=3), ["bird"], Origin(path="/more"))
    before = {name: index.vector(name) for name in index.names}
    index.remove(words(4))
    assert sorted(path.name for path in index.folder.glob("*-*")) == [
        f"{kind}-2.{suffix}" for kind, suffix in sorted(Rows.KINDS.items())
    ]
    assert (index.folder / "vectors-2.f32").stat().st_size == 9 * 6 * 4
    again = opened(index.folder)
    same(index, again)
    assert again.labels[-1] == "bird" and again.origins_of(["item 11", "late"]) == [
        Origin(path="/photos"),
        Origin(path="/more"),
    ]
    for name in again.names:
        np.testing.assert_array_equal(again.vector(name), before[name])


def test_a_name_is_given_once(index):
    with pytest.raises(UserError, match="'x' is given twice"):
        index.add(["x", "x"], cloud(2))
    with pytest.raises(UserError, match="holds 1 of these names already, 'item 3'"):
        index.add(["x", "item 3"], cloud(2))
    with pytest.raises(UserError, match="holds 12 of these names already"):
        index.add([*words(100)], cloud(100))  # many are compared by their hashes
    with pytest.raises(UserError, match=r"unknown item 'item 33'. Did you mean .*Nothing was removed"):
        index.remove(["item 2", "item 33"])
    assert len(opened(index.folder)) == 12 and index.known(["item 2"])


def test_wrong_vectors_are_refused_and_nothing_is_added(index):
    odd = cloud(3)
    odd[1, 2] = np.nan
    with pytest.raises(UserError, match="'b' has a vector that is not finite"):
        index.add(["a", "b", "c"], odd)
    with pytest.raises(UserError, match="the index has width 6"):
        index.add(["a"], cloud(1, dim=5))
    with pytest.raises(UserError, match="the index has width 6"):
        index.search(cloud(1, dim=5))
    with pytest.raises(UserError, match="2 names and 3 vectors"):
        index.add(["a", "b"], cloud(3))
    with pytest.raises(UserError, match="2 names and 1 labels"):
        index.add(["a", "b"], cloud(2), ["cat"])
    for k in (0, 13):
        with pytest.raises(UserError, match=rf"k is {k}; .* holds 12 items. Give 1 to 12"):
            index.search(cloud(1), k)
    same(index, opened(index.folder))
    assert (index.folder / "vectors-1.f32").stat().st_size == 12 * 6 * 4


def test_vectors_of_zeros_stay_zeros_and_are_at_right_angles_to_all(index):
    index.add(["nothing"], np.zeros((1, 6), np.float32))
    assert not index.vector("nothing").any()
    found = index.search(cloud(1), 13)
    assert found.cosines[0][found.names[0].index("nothing")] == 0


@pytest.mark.parametrize("kind", ["vectors", "names", "labels", "index"])
def test_a_full_disk_leaves_the_index_as_it_was(index, monkeypatch, kind):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if kind == "index":
        monkeypatch.setattr(contents, "write_text", full)
    else:
        settled = folder.settled
        monkeypatch.setattr(folder, "settled", lambda file: full() if kind in Path(file.name).name else settled(file))
    with pytest.raises(UserError, match="the disk is full"):
        index.add(words(5, 50), cloud(5))
    monkeypatch.undo()
    assert (index.folder / "vectors-1.f32").stat().st_size == 12 * 6 * 4
    same(index, opened(index.folder))
    index.add(words(5, 50), cloud(5, seed=9))
    np.testing.assert_allclose(opened(index.folder).vectors[12:], unit(cloud(5, seed=9)), atol=1e-6)


def test_a_full_disk_while_rows_are_moved_loses_nothing(index, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    index.remove(["item 1"])
    monkeypatch.setattr(folder, "settled", full)
    with pytest.raises(UserError, match="the disk is full"):
        index.compact()
    monkeypatch.undo()
    assert not list(index.folder.glob("*-2.*"))
    same(index, opened(index.folder))
    index.compact()
    assert opened(index.folder).contents.removed == 0
    same(index, opened(index.folder))


def test_what_a_killed_process_left_behind_the_last_row_is_written_over(index):
    for kind, suffix in Rows.KINDS.items():
        with (index.folder / f"{kind}-1.{suffix}").open("ab") as file:
            file.write(b"half a row")
    again = opened(index.folder)
    same(index, again)
    again.remove(["item 7"])
    again.add(["new"], cloud(1, seed=4), ["dog"])
    again = opened(index.folder)
    assert len(again) == 12 and again.names[-1] == "new" and again.labels[-1] == "dog"
    np.testing.assert_allclose(again.vectors[-1], unit(cloud(1, seed=4))[0], atol=1e-6)


def test_two_processes_do_not_write_at_once(index):
    other = opened(index.folder)
    with FileLock(index.folder / ".lock"), pytest.raises(UserError, match="another process is changing"):
        index.add(["x"], cloud(1))
    other.add(["x"], cloud(1))
    with pytest.raises(UserError, match="already, 'x'"):
        index.add(["x"], cloud(1))  # what the other has written is seen
    index.add(["y"], cloud(1))
    assert list(opened(index.folder).names)[-2:] == ["x", "y"]


def test_names_that_are_no_utf_8_come_back(index):
    odd = b"\xff.png".decode("utf-8", "surrogateescape")
    index.add([odd, "Käse/ß.png"], cloud(2))
    again = opened(index.folder)
    assert list(again.names)[-2:] == [odd, "Käse/ß.png"] and again.known([odd, "x"]) == [odd]


def test_an_empty_index_can_be_opened(tmp_path):
    index = opened(Folder.create(tmp_path / "idx", MADE).folder)
    assert len(index) == 0 and index.vectors.shape == (0, 6) and list(index.names) == [] and index.labels is None
    with pytest.raises(UserError, match=r"holds no items. Add some"):
        index.search(cloud(1), 1)
    index.add([], cloud(0))
    assert len(opened(index.folder)) == 0


def test_vectors_of_another_encoder_are_refused(index):
    index.accept(MADE)
    with pytest.raises(
        UserError, match=r"made by another encoder \(fingerprint 00000000; the one given has 11111111\)"
    ):
        index.accept(MADE.changed(fingerprint="1" * 32))
    with pytest.raises(UserError, match="holds vectors of image; the encoder given is for audio"):
        index.accept(MADE.changed(modality="audio"))


def test_places_that_hold_no_index_are_told_apart(index, tmp_path):
    with pytest.raises(UserError, match=r"does not exist. Make one with: selfsame index"):
        opened(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is no index \(it has no index.json\)"):
        opened(tmp_path)
    with pytest.raises(UserError, match="is an index already"):
        Folder.create(index.folder, MADE)
    with pytest.raises(UserError, match="is not empty, and no index"):
        Folder.create(tmp_path, MADE)


def test_a_damaged_index_is_told(index, tmp_path):
    def copy():
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        return Path(shutil.copytree(index.folder, tmp_path / "copy"))

    folder = copy()
    with (folder / "vectors-1.f32").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=r"vectors-1.f32 has 100 bytes, of which 288 are needed"):
        opened(folder)
    (copy() / "labels-1.i32").unlink()
    with pytest.raises(UserError, match=r"labels-1.i32 is missing"):
        opened(folder)
    text = json.loads((copy() / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**text, "format": 99}))
    with pytest.raises(UserError, match="has format 99"):
        opened(folder)
    for damaged in ("{", "[]", json.dumps({**text, "rows": "many"})):
        (folder / "index.json").write_text(damaged)
        with pytest.raises(UserError, match=r"index.json is damaged \("):
            opened(folder)
