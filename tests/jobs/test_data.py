"""From a path to items: the list of those that cannot be read."""

import shutil

import pytest

import selfsame as ss
from selfsame.errors import printable
from selfsame.jobs.data import labels_for, open_data, parts_of, read_skipped, sheet, write_skipped
from selfsame.records import ViewPlan


def test_names_that_are_utf8_are_left_alone():
    for name in ("a/b c.png", "größe.png", '猫,"1".png', r"a\b.png"):
        assert printable(name) == name


def test_the_list_of_unreadable_files_is_read_as_it_was_written(pictures, tmp_path, odd_name):
    folder = shutil.copytree(pictures / "disc", tmp_path / "data")
    broken = [odd_name(b"\xff.png"), 'größe, "1".png']
    for name in broken:
        (folder / name).write_bytes(b"")
    data = open_data(str(folder), max_skipped=0.5)
    write_skipped(data, tmp_path)
    listed = dict(read_skipped(tmp_path))
    names = {i: data.source.name(i) for i in data.skipped}
    assert sorted(names.values()) == sorted(broken)
    assert {i: listed[printable(name)] for i, name in names.items()} == data.skipped and len(listed) == 2


def test_too_many_unreadable_files_are_listed_whatever_their_names(pictures, tmp_path, odd_name):
    folder = shutil.copytree(pictures / "disc", tmp_path / "data")
    (folder / odd_name(b"\xff.png")).write_bytes(b"")
    with pytest.raises(ss.UserError, match=r"1 of 17 items .*\\udcff\.png: .*skipped.csv") as error:
        open_data(str(folder), folder=tmp_path)
    str(error.value).encode()
    ((name, reason),) = read_skipped(tmp_path)
    assert name == r"\udcff.png" and reason


def test_a_sheet_is_drawn_of_items_of_any_name(pictures, tmp_path, odd_name):
    (tmp_path / "data").mkdir()
    for k in range(3):
        (tmp_path / "data" / odd_name(b"\xff%d.png" % k)).write_bytes((pictures / "disc" / f"0{k}.png").read_bytes())
    data = open_data(str(tmp_path / "data"))
    views = data.modality.recipe("weak", 16, data.stats)
    assert sheet(data, views, 3, ViewPlan(full=2), 0).size[0] > 0


def test_a_test_part_is_found_by_the_names_of_folders(tmp_path):
    assert parts_of(str(tmp_path)) == (str(tmp_path), None)
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "val").mkdir()
    assert parts_of(str(tmp_path)) == (str(tmp_path / "images" / "train"), str(tmp_path / "images" / "val"))
    (tmp_path / "images" / "test").mkdir()
    assert parts_of(str(tmp_path))[1] == str(tmp_path / "images" / "test")
    (tmp_path / "train").mkdir()
    assert parts_of(str(tmp_path))[0] == str(tmp_path / "images" / "train")  # train/ alone has nothing beside it
    (tmp_path / "valid").mkdir()
    assert parts_of(str(tmp_path)) == (str(tmp_path / "train"), str(tmp_path / "valid"))
    (tmp_path / "masks" / "train").mkdir(parents=True)
    masks, whole = str(tmp_path / "masks"), str(tmp_path)
    assert labels_for(masks, str(tmp_path / "train"), whole) == str(tmp_path / "masks" / "train")
    assert labels_for(masks, str(tmp_path / "valid"), whole) == masks == labels_for(masks, whole, whole)
    assert labels_for(None, str(tmp_path / "train"), whole) is None
