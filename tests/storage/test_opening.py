"""Lists of files: what is there is found, what is missing is named, whether folders are listed or files looked up."""

from pathlib import Path

import pytest

from selfsame.errors import UserError
from selfsame.storage.opening import LISTED, Kind, absent, in_list

PAGES = Kind("pages", "book/**/*.page", lambda: (".page",))


def written(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i:03}.page").touch()
    return [f"{folder.name}/{i:03}.page" for i in range(count)]


@pytest.mark.parametrize("count", [LISTED // 2, LISTED + 1])
@pytest.mark.parametrize("strangers", [0, 1000])
def test_absent_names_are_those_without_a_file(count: int, strangers: int, tmp_path: Path) -> None:
    names = written(tmp_path / "a", count) + written(tmp_path / "b", count)
    for i in range(strangers):  # more than are listed beside the named ones
        (tmp_path / "a" / f"{i}.other").touch()
    (tmp_path / "a" / "folder.page").mkdir()
    (tmp_path / "a" / "loop.page").symlink_to("loop.page")
    (tmp_path / "a" / "broken.page").symlink_to("nowhere")
    (tmp_path / "a" / "link.page").symlink_to("000.page")
    wrong = ["a/folder.page", "a/loop.page", "a/broken.page", "a/none.page", "c/000.page", "a/\0.page"]
    there = [*names[:count], "a/link.page", *names[count:]]
    assert absent(tmp_path, there) == []
    assert absent(tmp_path, [*names[:count], *wrong[:4], *names[count:], *wrong[4:]]) == wrong
    assert absent(tmp_path, [str(tmp_path / name) for name in [*there, wrong[3]]]) == [str(tmp_path / wrong[3])]


def test_a_name_in_other_letters_counts_where_the_file_system_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name.upper() for name in written(tmp_path / "A", LISTED + 1)]
    assert absent(tmp_path, names) == names
    monkeypatch.setattr(
        "selfsame.storage.opening.is_file", lambda root, name: (root / name.lower()).name[-4:] == "page"
    )
    assert absent(tmp_path, names) == []


def test_a_long_list_with_a_missing_file_is_refused(tmp_path: Path) -> None:
    names = written(tmp_path / "a", LISTED + 1)
    (tmp_path / "list.txt").write_text("\n".join([*names, "a/none.page"]))
    with pytest.raises(UserError, match=r"1 of 66 files \(a/none.page\) are not there"):
        in_list(str(tmp_path / "list.txt"), PAGES)
