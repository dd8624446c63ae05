from pathlib import Path

import numpy as np
import pytest

from selfsame.errors import UserError
from selfsame.storage.relations import groups_of_folders, groups_of_list, ranks

NAMES = ["a/1.png", "a/2.png", "a/10.png", "b/1.png", "b/c/1.png"]


def listed(folder: Path, text: str, names=NAMES, root=None):
    (folder / "related.csv").write_text(text)
    return groups_of_list(folder / "related.csv", names, root, "photos")


def test_items_of_a_folder_belong_together():
    assert groups_of_folders(NAMES, "photos").tolist() == [0, 0, 0, 1, 2]


def test_names_are_ordered_as_people_count():
    assert ranks(NAMES, groups_of_folders(NAMES, "photos")).tolist() == [0, 1, 2, 0, 0]
    assert ranks(["x10", "x9", "y1", "x²"], np.zeros(4, int)).tolist() == [1, 0, 3, 2]


def test_names_without_folders_say_what_to_do():
    with pytest.raises(UserError, match="--related folders: the items of photos lie in no folders"):
        groups_of_folders(["1.png", "2.png"], "photos")


@pytest.mark.parametrize(
    "text",
    [
        "path,group,time\na/1.png,u,0.5\na/2.png,v,1\nb/1.png,u,-2\n",
        "time;path;group\n0.5;a/1.png;u\n1;a/2.png;v\n-2;b/1.png;u\n",
        "file,video,second\na/1.png,u,0.5\na/2.png,v,1\nb/1.png,u,-2\n",
        "a/1.png,u,0.5\na/2.png,v,1\nb/1.png,u,-2\n",
        "path,group,time,weather\na/1.png,u,0.5,rain\na/2.png,v,1,\nb/1.png,u,-2,\nb/c/1.png,,9,\n",
    ],
)
def test_a_list_gives_groups_and_times(text, tmp_path):
    groups, times = listed(tmp_path, text)
    assert groups.tolist() == [0, 1, -1, 0, -1]
    assert times is not None and times[[0, 1, 3]].tolist() == [0.5, 1, -2]


def test_a_list_may_have_no_times_and_name_files_by_place_or_unique_name(tmp_path):
    (tmp_path / "photos" / "b").mkdir(parents=True)
    (tmp_path / "other.png").touch()
    text = "path,group\nphotos/a/1.png,u\n10.png,u\nother.png,u\n"
    groups, times = listed(tmp_path, text, root=str(tmp_path / "photos"))
    assert groups.tolist() == [0, -1, 0, -1, -1] and times is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,group\na/1.png,u\ngone.png,u\n", r"1 of 2 rows \(gone.png\) name files that are neither in photos nor"),
        ("path,group\n1.png,u\n", "1.png could be any of 3 files"),
        ("path,group\na/1.png,u\na/1.png,v\n", "a/1.png is named twice, with another group or time"),
        ("path,group,time\na/1.png,u,1\na/1.png,u,2\n", "a/1.png is named twice"),
        ("path,group,time\na/1.png,u,noon\na/2.png,u,nan\n", r"2 of 2 times \(noon, nan\) are no numbers"),
        ("path,width,height,depth\na/1.png,1,2,3\n", "which column is the group"),
        ("", "which column is the group"),
        ("path,group\na/1.png\n", r"1 of 2 rows \(2\) do not have 2 cells"),
    ],
)
def test_lists_that_do_not_fit_say_where(text, said, tmp_path):
    with pytest.raises(UserError, match=said):
        listed(tmp_path, text)


def test_what_is_no_list_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"give `folders`, or a \.csv"):
        groups_of_list(tmp_path / "folder", NAMES, None, "photos")
    with pytest.raises(UserError, match="no such file"):
        groups_of_list(tmp_path / "none.csv", NAMES, None, "photos")
