import io
import multiprocessing
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.image.opening import open_source, reads
from selfsame.modalities.image.source import ImageSource
from selfsame.modalities.image.stats import Stats, measure

Save = Callable[..., Path]


def picture(seed: int = 0, height: int = 12, width: int = 10, channels: int = 3) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values[..., 0] if channels == 1 else values


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(name: str, values: np.ndarray | None = None, kind: str | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = picture(seed=len(name)) if values is None else values
        Image.fromarray(values).save(path, kind or ("PNG" if path.suffix not in (".jpg", ".tif") else None))
        return path

    return write


def names(source: ImageSource) -> list[str]:
    return [source.name(i) for i in range(len(source))]


# Folders


def test_a_folder_of_any_depth_is_listed_in_order(save: Save, tmp_path: Path) -> None:
    for name in ("b.png", "a/deep/er/ä ö.JPG", "a/1.tif", "no_suffix", ".hidden.png", ".thumbs/x.png"):
        save(name, kind="PNG")
    (tmp_path / "notes.TXT").write_text("x")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "README").write_text("no image")
    (tmp_path / "broken.jpg").write_text("no image")
    source = open_source(str(tmp_path))
    assert names(source) == ["a/1.tif", "a/deep/er/ä ö.JPG", "b.png", "broken.jpg", "no_suffix"]
    assert source.ignored == {".txt": 1, ".pdf": 1, "": 1}
    assert source.labels is None and source.array is None
    assert np.array_equal(source.read(2), picture(seed=len("b.png")))
    with pytest.raises(UnreadableItem, match="not an image"):
        source.read(3)


def test_links_in_circles_end_and_each_folder_counts_once(save: Save, tmp_path: Path) -> None:
    save("a/1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "c.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    source = open_source(str(tmp_path))
    assert names(source) == ["a/1.png", "c.png"]
    assert names(open_source(f"{tmp_path}/**/*.png")) == ["a/1.png", "c.png"]
    with pytest.raises(UnreadableItem, match="No such file"):
        source.read(1)


def test_a_file_that_goes_away_is_unreadable_not_a_crash(save: Save, tmp_path: Path) -> None:
    path = save("a.png")
    source = open_source(str(tmp_path))
    path.unlink()
    with pytest.raises(UnreadableItem, match="No such file"):
        source.open(0)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.jpg", ["x/1.jpg", "x/y/2.jpg", "z.jpg"]),
        ("*/*.jpg", ["x/1.jpg"]),
        ("*.jpg", ["z.jpg"]),
        ("x/**/[12].*", ["1.jpg", "1.png", "y/2.jpg"]),
        ("x/**", ["1.jpg", "1.png", "y/2.jpg"]),
    ],
)
def test_a_glob_takes_what_it_matches(pattern: str, expected: list[str], save: Save, tmp_path: Path) -> None:
    for name in ("x/1.jpg", "x/y/2.jpg", "z.jpg", "x/1.png"):
        save(name)
    (tmp_path / "x" / "1.txt").write_text("")
    assert names(open_source(f"{tmp_path}/{pattern}")) == expected
    assert reads(f"{tmp_path}/{pattern}")


def test_a_glob_is_taken_from_the_working_folder(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save("x/1.jpg")
    monkeypatch.chdir(tmp_path)
    assert open_source("*/*.jpg").read(0).shape == (12, 10, 3)
    assert open_source("x").read(0).shape == (12, 10, 3)


def test_a_name_with_wildcards_that_exists_is_that_name(save: Save, tmp_path: Path) -> None:
    save("a[1]/x.png")
    assert names(open_source(f"{tmp_path}/a[1]")) == ["x.png"]


def test_one_image_is_a_source_of_one(save: Save) -> None:
    assert names(open_source(str(save("only.png")))) == ["only.png"]


def test_paths_with_nothing_to_read_say_what_is_there(save: Save, tmp_path: Path) -> None:
    save("photos/a.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "texts" / "a.bin").write_bytes(b"12")
    for path, said in [
        ("photo", "Did you mean '.*photos'"),
        ("photos/b/c", "There is no 'b' in"),
        ("empty", "It is empty"),
        ("texts", "holds 1 .bin, 1 .pdf|holds 1 .pdf, 1 .bin"),
        ("texts/*", "matches only 1 .bin, 1 .pdf|matches only 1 .pdf, 1 .bin"),
        ("photos/*.png", "matches no file"),
        ("phots/*.png", "Did you mean '.*photos'"),
        ("texts/a.bin", "no source of images"),
    ]:
        with pytest.raises(UserError, match=said) as caught:
            open_source(str(tmp_path / path))
        assert "\n" not in str(caught.value)
        assert not reads(str(tmp_path / path))


# Lists


def test_a_text_list_names_files_from_its_own_folder_or_the_working_one(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absolute = save("in/x y.png")
    save("in/1.png")
    (tmp_path / "in" / "list.txt").write_text("1.png\n\n  ./x y.png \n", encoding="utf-8-sig")
    assert names(open_source(str(tmp_path / "in" / "list.txt"))) == ["1.png", "x y.png"]
    (tmp_path / "list.txt").write_text(f"1.png\n{absolute}\n")
    monkeypatch.chdir(tmp_path / "in")
    source = open_source("../list.txt")
    assert names(source) == ["1.png", str(absolute)] and source.read(1).shape == (12, 10, 3)
    assert reads("../list.txt")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("path,label\na.png,cat\nb.png,dog\n", ["cat", "dog"]),
        ("id;Label;path\n7;cat;a.png\n8;dog;b.png\n", ["cat", "dog"]),
        ("a.png,cat\nb.png,dog\n", ["cat", "dog"]),
        ("file\tbreed\na.png\tcat\nb.png\tdog\n", ["cat", "dog"]),
        ("path\na.png\nb.png\n", None),
        ("a.png\nb.png\n", None),
        ('path,width,height\n"a.png",1,2\nb.png,3,4\n', None),
        ("path,label\na.png,cat\nb.png,\n", None),
    ],
)
def test_a_csv_list_has_paths_and_perhaps_labels(
    text: str, labels: list[str] | None, save: Save, tmp_path: Path
) -> None:
    save("a.png")
    save("b.png")
    (tmp_path / "list.csv").write_text(text)
    source = open_source(str(tmp_path / "list.csv"))
    assert names(source) == ["a.png", "b.png"]
    assert source.labels == labels


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "list is empty"),
        ("a.png\n1.png\n2.png\n3.png\n4.png\n", r"4 of 5 files \(1.png, 2.png, 3.png, ...\) are not there"),
        ("a.png\n./a.png\n", "named more than once"),
        ("path,label\na.png\n", r"1 of 2 rows \(2\) do not have 2 cells"),
    ],
)
def test_a_list_that_does_not_fit_says_where(text: str, said: str, save: Save, tmp_path: Path) -> None:
    save("a.png")
    path = tmp_path / ("list.csv" if "," in text else "list.txt")
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        open_source(str(path))


def test_a_list_that_is_no_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        open_source(str(tmp_path / "list.txt"))
    assert not reads(str(tmp_path / "list.txt"))


# Zip


def zipped(path: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return str(path)


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def test_a_zip_is_read_without_unpacking(tmp_path: Path) -> None:
    members = {f"set/{kind}/{k}.png": png(picture(k)) for kind in ("cat", "dog") for k in range(2)}
    path = zipped(
        tmp_path / "a.zip", {**members, "set/notes.txt": b"", "__MACOSX/set/._0.png": b"", "set/bare": png(picture())}
    )
    source = open_source(path)
    assert names(source) == ["set/bare", "set/cat/0.png", "set/cat/1.png", "set/dog/0.png", "set/dog/1.png"]
    assert source.ignored == {".txt": 1} and reads(path)
    assert np.array_equal(source.read(2), picture(1))
    assert open_source(zipped(tmp_path / "b.zip", members)).labels == ["cat", "cat", "dog", "dog"]


def test_zips_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_text("no zip")
    inner = Path(zipped(tmp_path / "inner.zip", {"a.png": png(picture())}))
    nested = zipped(tmp_path / "nested.zip", {"inner.zip": inner.read_bytes()})
    locked = bytearray(inner.read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the central directory
    (tmp_path / "locked.zip").write_bytes(locked)
    for path, said in [
        (str(tmp_path / "no.zip"), "not a zip"),
        (nested, "zips inside it are not opened"),
        (str(tmp_path / "locked.zip"), "encrypted"),
        (zipped(tmp_path / "empty.zip", {}), "no images in this zip"),
    ]:
        with pytest.raises(UserError, match=said):
            open_source(path)


def test_a_damaged_member_of_a_zip_is_one_unreadable_item(tmp_path: Path) -> None:
    path = Path(zipped(tmp_path / "a.zip", {"a.png": png(picture(0, 40, 40)), "b.png": png(picture(1))}))
    data = bytearray(path.read_bytes())
    data[200:240] = bytes(40)
    path.write_bytes(data)
    source = open_source(str(path))
    with pytest.raises(UnreadableItem):
        source.read(0)
    assert np.array_equal(source.read(1), picture(1))
    stats, unreadable = measure(source)
    assert list(unreadable) == [0] and stats.items == 1


# Arrays


def test_an_array_is_mapped_not_loaded(tmp_path: Path) -> None:
    values = np.stack([picture(k) for k in range(5)])
    np.save(tmp_path / "x.npy", values)
    source = open_source(str(tmp_path / "x.npy"))
    assert isinstance(source.array, np.memmap) and source.array.shape == (5, 12, 10, 3)
    assert names(source) == ["0", "1", "2", "3", "4"]
    assert np.array_equal(source.read(3), values[3]) and source.open(3).size == (12, 10)
    assert np.array_equal(source.open(3).cut([(1, 2, 8, 8)], 8)[0], values[3, 1:9, 2:10])
    assert reads(str(tmp_path / "x.npy"))


def test_an_array_in_another_form_is_not_handed_out_raw(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.stack([picture(k, channels=1) for k in range(5)]))
    source = open_source(str(tmp_path / "x.npy"))
    stats, _ = measure(source)
    source.fit(stats)
    assert source.array is not None and source.array.shape == (5, 12, 10, 1)
    source.fit(stats.changed(channels=3))
    assert source.array is None and source.read(0).shape == (12, 10, 3)


def test_the_arrays_of_an_npz_are_found_by_name(tmp_path: Path) -> None:
    x, y = np.stack([picture(k) for k in range(4)]), np.array([0, 1, 1, 0])
    path = str(tmp_path / "a.npz")
    np.savez(path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:3], classes=np.array(["cat", "dog"]))
    assert open_source(path).labels == ["cat", "dog", "dog", "cat"]
    assert len(open_source(f"{path}::x_test")) == 2
    with pytest.raises(UserError, match=r"y_test, beside x_test, holds .* labels for"):
        _ = open_source(f"{path}::x_test").labels
    assert reads(path) and reads(f"{path}::x_test") and not reads(f"{path}::y_test")
    with pytest.raises(UserError, match="Did you mean 'x_train'"):
        open_source(f"{path}::x_tran")
    np.savez(tmp_path / "one.npz", pixels=x)
    assert len(open_source(str(tmp_path / "one.npz"))) == 4
    np.savez(tmp_path / "two.npz", images=x, labels=np.array(["b", "a", "a", "b"]))
    assert open_source(str(tmp_path / "two.npz")).labels == ["b", "a", "a", "b"]
    np.savez(tmp_path / "odd.npz", left=x, right=x)
    with pytest.raises(UserError, match="several arrays: left, right"):
        open_source(str(tmp_path / "odd.npz"))


def test_whole_numbers_keep_their_digits_where_the_classes_do_not_fit(tmp_path: Path) -> None:
    x = np.stack([picture(k) for k in range(2)])
    np.savez(tmp_path / "a.npz", x=x, y=np.array([[5], [7]]), classes=np.array(["cat", "dog"]))
    assert open_source(str(tmp_path / "a.npz")).labels == ["5", "7"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), r"float32; uint8 and uint16 are read. .*\* 255"),
        (np.zeros((4, 8, 8, 3), np.int64), "astype"),
        (np.zeros((4, 8, 8), bool), "255"),
        (np.zeros((4, 8), np.uint8), r"array of 4 x 8; images are \[n h w\]"),
        (np.zeros((8, 8, 3), np.uint8), "8 x 8 x 3"),
        (np.zeros((0, 8, 8), np.uint8), "0 x 8 x 8|cannot be read"),
        (np.zeros((4, 3, 32, 32), np.uint8), "transpose"),
        (np.array([None, 1]), "cannot be read"),
    ],
)
def test_arrays_that_are_no_images_say_what_to_do(values: np.ndarray, said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", values, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=values, allow_pickle=True)
    for name in ("x.npy", "x.npz::x"):
        with pytest.raises(UserError, match=said):
            open_source(str(tmp_path / name))


def test_a_file_that_is_no_array_says_so(tmp_path: Path) -> None:
    for name in ("x.npy", "x.npz"):
        (tmp_path / name).write_text("no array")
        with pytest.raises(UserError, match=r"cannot be read|not a zip"):
            open_source(str(tmp_path / name))
        assert not reads(str(tmp_path / name))


# Labels


def test_class_folders_are_labels(save: Save, tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/old/2.png", "dog/1.png"):
        save(name)
    assert open_source(str(tmp_path)).labels == ["cat", "cat", "dog"]
    assert open_source(f"{tmp_path}/**/1.png").labels == ["cat", "dog"]
    assert open_source(f"{tmp_path}/cat").labels is None
    save("loose.png")
    assert open_source(str(tmp_path)).labels is None


@pytest.mark.parametrize(
    "rows",
    [
        "path,label\nin/cat/1.png,A\nin/dog/2.png,B\n",  # from the folder of the CSV
        "path,label\ncat/1.png,A\n./dog/2.png,B\n",  # from the root of the source
        "file,class\n1.png,A\n2.png,B\n",  # names that are unique
        "2.png,B\ncat/1.png,A\n",
        "path,label\ncat/1.png,A\ndog/2.png,B\nother.png,C\n",  # there, but not in the source
    ],
)
def test_a_csv_gives_labels_by_path_or_unique_name(rows: str, save: Save, tmp_path: Path) -> None:
    for name in ("in/cat/1.png", "in/dog/2.png", "other.png"):
        save(name)
    (tmp_path / "labels.csv").write_text(rows)
    assert open_source(str(tmp_path / "in"), str(tmp_path / "labels.csv")).labels == ["A", "B"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            "path,label\na/1.png,A\nb/1.png,B\nb/2.png,B\ngone.png,C\n",
            r"1 of 4 rows \(gone.png\) name files that are neither",
        ),
        ("path,label\na/1.png,A\n", r"2 of 3 images \(b/1.png, b/2.png\) have no label"),
        ("path,label\na/1.png,A\nb/1.png,\nb/2.png,B\n", r"1 of 3 images \(b/1.png\) have no label"),
        ("path,label\n1.png,A\n2.png,B\n", "1.png could be any of 2 files"),
        ("path,label\na/1.png,A\na/1.png,B\n", "a/1.png has two labels, A and B"),
        ("path,width,height\na/1.png,1,2\n", "which column is the label"),
        ("", "which column is the label"),
    ],
)
def test_label_files_that_do_not_fit_say_where(rows: str, said: str, save: Save, tmp_path: Path) -> None:
    for name in ("in/a/1.png", "in/b/1.png", "in/b/2.png"):
        save(name)
    (tmp_path / "labels.csv").write_text(rows)
    with pytest.raises(UserError, match=said):
        open_source(str(tmp_path / "in"), str(tmp_path / "labels.csv"))


def test_labels_of_arrays_come_from_an_array_or_a_csv_by_number(save: Save, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.stack([picture(k) for k in range(3)]))
    np.save(tmp_path / "y.npy", np.array([2, 0, 1], np.uint8))
    np.savez(
        tmp_path / "y.npz",
        y_test=np.array([1, 0, 1]),
        short=np.array([1]),
        real=np.ones(3),
        classes=np.array(["n", "p"]),
    )
    (tmp_path / "y.csv").write_text("path,label\n2,C\n0,A\n1,B\n")
    x = str(tmp_path / "x.npy")
    assert open_source(x, str(tmp_path / "y.npy")).labels == ["2", "0", "1"]
    assert open_source(x, str(tmp_path / "y.npz::y_test")).labels == ["p", "n", "p"]
    assert open_source(x, str(tmp_path / "y.csv")).labels == ["A", "B", "C"]
    for labels, said in [
        ("y.npz::short", "1 labels for the 3 images"),
        ("y.npz::real", "one whole number or one text"),
        ("y.npz::y_tes", "Did you mean 'y_test'"),
        ("z.csv", "no such file"),
    ]:
        with pytest.raises(UserError, match=said):
            open_source(x, str(tmp_path / labels))
    save("in/a.png")
    with pytest.raises(UserError, match=r"labels are read from a \.csv"):
        open_source(str(tmp_path / "in"), str(tmp_path / "y.npy"))


# Measuring


def test_measure_equals_numpy(save: Save, tmp_path: Path) -> None:
    shapes = [(12, 10), (20, 30), (14, 14)]
    values = [picture(k, *shape) for k, shape in enumerate(shapes)]
    for k, one in enumerate(values):
        save(f"{k}.png", one)
    pixels = np.concatenate([one.reshape(-1, 3) for one in values]) / 255
    stats, unreadable = measure(open_source(str(tmp_path)))
    assert unreadable == {}
    assert (stats.items, stats.channels, stats.bits, stats.white) == (3, 3, 8, 255)
    assert (stats.height, stats.width, stats.uniform) == (14, 14, False)
    assert np.allclose(stats.mean, pixels.mean(axis=0)) and np.allclose(stats.std, pixels.std(axis=0))


def test_gray_and_colour_together_are_colour(save: Save, tmp_path: Path) -> None:
    gray, colour = picture(0, channels=1), picture(1)
    save("gray.png", gray)
    source = open_source(str(tmp_path))
    assert measure(source)[0].channels == 1
    save("colour.png", colour)
    source = open_source(str(tmp_path))
    stats, _ = measure(source)
    source.fit(stats)
    pixels = np.concatenate([colour.reshape(-1, 3), gray.reshape(-1, 1).repeat(3, axis=1)]) / 255
    assert stats.channels == 3 and np.allclose(stats.mean, pixels.mean(axis=0))
    assert [source.read(i).shape for i in range(2)] == [(12, 10, 3)] * 2


def test_12_bit_data_in_16_bit_files_fill_the_scale(save: Save, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 4000, (12, 10), dtype=np.uint16)
    flat = picture(0, channels=1)
    save("deep.png", deep)
    save("flat.png", flat)
    source = open_source(str(tmp_path))
    stats, _ = measure(source)
    assert (stats.bits, stats.white, stats.uniform) == (16, 4095, True)
    pixels = np.concatenate([deep.ravel() / 4095, flat.ravel() / 255])
    assert np.allclose(stats.mean, pixels.mean(), atol=1e-4) and np.allclose(stats.std, pixels.std(), atol=1e-4)
    source.fit(stats)
    assert np.array_equal(source.read(0)[..., 0], deep)
    assert np.array_equal(source.read(1)[..., 0], np.rint(flat * (4095 / 255)))


def test_arrays_are_measured_as_they_are(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (30, 6, 7, 5), dtype=np.uint16)
    np.save(tmp_path / "x.npy", values.astype(">u2"))
    source = open_source(str(tmp_path / "x.npy"))
    stats, unreadable = measure(source)
    assert unreadable == {} and (stats.channels, stats.bits, stats.white, stats.uniform) == (5, 16, 1023, True)
    assert np.allclose(stats.mean, (values / 1023).mean(axis=(0, 1, 2)))
    assert np.allclose(stats.std, (values / 1023).std(axis=(0, 1, 2)))
    source.fit(stats)
    assert np.array_equal(source.read(4), values[4])


def test_a_constant_channel_can_be_divided_by_its_deviation(save: Save, tmp_path: Path) -> None:
    save("a.png", np.full((8, 8), 51, np.uint8))
    stats, _ = measure(open_source(str(tmp_path)))
    assert stats.mean == (0.2,) and stats.std == (1.0,)


def test_large_photos_are_measured_at_a_smaller_scale_to_the_same_figures(save: Save, tmp_path: Path) -> None:
    small = picture(0, 9, 12)
    large = np.asarray(Image.fromarray(small).resize((1600, 1200), Image.Resampling.BICUBIC))
    save("a.jpg", large)
    stats, _ = measure(open_source(str(tmp_path)))
    assert (stats.height, stats.width) == (1200, 1600)
    assert np.allclose(stats.mean, (large / 255).mean(axis=(0, 1)), atol=0.003)
    assert np.allclose(stats.std, (large / 255).std(axis=(0, 1)), atol=0.01)


def test_every_unreadable_file_is_named_with_its_reason(save: Save, tmp_path: Path) -> None:
    for k in range(6):
        save(f"{k}.png")
    whole = save("noise.png", picture(0, 80, 80)).read_bytes()
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    save("really_png.jpg", kind="PNG")
    source = open_source(str(tmp_path))
    stats, unreadable = measure(source)
    reasons = {source.name(i): reason for i, reason in unreadable.items()}
    assert reasons.keys() == {"empty.jpg", "half.png", "text.jpg"}
    assert reasons["empty.jpg"] == "empty file" and "not an image" in reasons["text.jpg"]
    assert stats.items == 8


def test_the_sample_depends_on_the_seed_only_and_headers_are_checked_beyond_it(save: Save, tmp_path: Path) -> None:
    for k in range(12):
        save(f"{k:02}.png", picture(k))
    (tmp_path / "empty.png").write_bytes(b"")
    source = open_source(str(tmp_path))
    assert measure(source, seed=1, most=3) == measure(source, seed=1, most=3)
    assert measure(source, seed=1, most=3)[0].mean != measure(source, seed=2, most=3)[0].mean
    for seed in range(5):
        assert measure(source, seed=seed, most=3)[1] == {12: "empty file"}


def test_channel_counts_that_do_not_go_together_are_counted(save: Save, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for k in range(2):
        save(f"{k}.png")
    tifffile.imwrite(tmp_path / "sat.tif", np.zeros((13, 20, 20), np.uint8))
    with pytest.raises(UserError, match=r"different channel counts \(2 with 3, 1 with 13\)"):
        measure(open_source(str(tmp_path)))


def test_a_source_of_broken_files_only_is_refused(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"none of the 3 images can be read. The first, 0.jpg: not an image"):
        measure(open_source(str(tmp_path)))


# Worker processes


def _sum(source: ImageSource, i: int) -> int:
    return int(source.read(i).sum())


def test_sources_survive_pickling_and_forking(save: Save, tmp_path: Path) -> None:
    stats = Stats(items=4, channels=1, bits=8, white=255, mean=(0.5,), std=(0.2,), height=12, width=10, uniform=True)
    values = np.stack([picture(k) for k in range(4)])
    for k in range(4):
        save(f"in/{k}.png", values[k])
    np.savez(tmp_path / "x.npz", x=values)
    np.save(tmp_path / "x.npy", np.repeat(values, 100, axis=0))
    zipped(tmp_path / "x.zip", {f"{k}.png": png(values[k]) for k in range(4)})
    for name in ("in", "x.npz", "x.npy", "x.zip"):
        source = open_source(str(tmp_path / name))
        source.fit(stats)
        expected = [_sum(source, i) for i in range(4)]  # opens the handles
        message = pickle.dumps(source)
        assert len(message) < 2000
        copy = pickle.loads(message)
        assert names(copy) == names(source) and [_sum(copy, i) for i in range(4)] == expected
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.starmap(_sum, [(source, i) for i in range(4)]) == expected


def test_a_zip_is_read_by_forked_processes_at_once(tmp_path: Path) -> None:
    values = [picture(k, 60, 60) for k in range(8)]
    source = open_source(zipped(tmp_path / "x.zip", {f"{k}.png": png(one) for k, one in enumerate(values)}))
    source.read(0)
    global shared
    shared = source
    with multiprocessing.get_context("fork").Pool(3) as pool:  # `shared` is inherited with its open handle
        sums = pool.map(_shared_sum, [k % 8 for k in range(48)], chunksize=1)
    assert sums == [int(values[k % 8].sum()) for k in range(48)]


def _shared_sum(i: int) -> int:
    return _sum(shared, i)


shared: ImageSource
