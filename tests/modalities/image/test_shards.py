"""Tars and Parquet files as sources, on disk and at addresses."""

import io
import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import selfsame as ss
from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.image.cache import cached, plan_cache
from selfsame.modalities.image.opening import open_source, reads
from selfsame.modalities.image.recipes import recipe
from selfsame.modalities.image.stats import measure
from selfsame.storage import disk
from selfsame.storage import shards as storage
from tests.conftest import QUICK, paint


def png(seed: int, side: int = 24) -> bytes:
    file = io.BytesIO()
    Image.fromarray(paint(seed % 4, seed, side)).save(file, "PNG")
    return file.getvalue()


def tarred(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def table(path: Path, images: list[bytes | None], group: int = 5, **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"image": pa.array(images, pa.binary()), **columns}), path, row_group_size=group)
    return path


@pytest.fixture
def webdataset(tmp_path: Path) -> Path:
    """Two shards of 8 and 6 samples, each an image, a class and a caption."""
    for shard, count in enumerate((8, 6)):
        members = {}
        for k in range(count):
            key = f"{shard}{k:04d}"
            members |= {f"{key}.png": png(10 * shard + k), f"{key}.cls": f"{k % 3}\n".encode(), f"{key}.txt": b"a text"}
        tarred(tmp_path / "shards" / f"train-{shard:03d}.tar", members)
    return tmp_path / "shards"


@pytest.mark.parametrize("spelt", ["", "/*.tar", "/train-{000..001}.tar", "/train-00{0,1}.tar", "/*.tar::png"])
def test_shards_are_named_by_folder_pattern_or_braces(webdataset: Path, spelt: str) -> None:
    assert reads(f"{webdataset}{spelt}")
    source = open_source(f"{webdataset}{spelt}")
    assert len(source) == 14 and source.ignored == {".txt": 14}
    assert source.name(0) == "00000.png" and source.name(13) == "10005.png" and source.stored(9) == len(png(11))
    assert source.labels == [str(k % 3) for k in range(8)] + [str(k % 3) for k in range(6)]
    assert np.array_equal(source.read(9), paint(11 % 4, 11))
    stats, broken = measure(source)
    assert stats.items == 14 and stats.height == 24 and not broken


def test_one_tar_of_class_folders_has_their_labels(tmp_path: Path) -> None:
    members = {f"./{name}/{k}.png": png(k) for name in ("cat", "dog") for k in range(2)} | {"./.DS/x.png": b""}
    source = open_source(str(tarred(tmp_path / "x.tar", members)))
    assert source.labels == ["cat", "cat", "dog", "dog"] and source.name(3) == "dog/1.png"


def test_tars_with_the_same_names_have_names_of_their_own(tmp_path: Path) -> None:
    for shard in "ab":
        tarred(tmp_path / f"{shard}.tar", {"0.png": png(0), "1.png": png(1)})
    source = open_source(f"{tmp_path}/*.tar")
    assert [source.name(i) for i in range(4)] == ["00000/0.png", "00000/1.png", "00001/0.png", "00001/1.png"]


def test_a_sample_with_several_images_needs_a_word(tmp_path: Path) -> None:
    path = tarred(tmp_path / "x.tar", {f"{k}.{kind}": png(k) for k in range(4) for kind in ("jpg", "seg.png")})
    with pytest.raises(UserError, match=r"several images: jpg, seg.png. Say which, as in .*x.tar::jpg"):
        open_source(str(path))
    assert len(open_source(f"{path}::jpg")) == 4
    assert open_source(f"{path}::seg.png").name(1) == "1.seg.png"
    with pytest.raises(UserError, match=r"unknown kind of image .*'seg.jpg'.*Did you mean 'seg.png'"):
        open_source(f"{path}::seg.jpg")


def test_names_with_many_dots_are_no_samples(tmp_path: Path) -> None:
    path = tarred(tmp_path / "x.tar", {f"IMG.2020.{k}.png": png(k) for k in range(12)})
    assert len(open_source(str(path))) == 12


def test_a_tar_is_read_once_and_again_when_it_changes(webdataset: Path, monkeypatch) -> None:
    scans = []
    scanned = storage.scanned
    monkeypatch.setattr(storage, "scanned", lambda *args: scans.append(1) or scanned(*args))
    for _ in range(2):
        assert len(open_source(str(webdataset))) == 14
    assert len(scans) == 1
    tarred(webdataset / "train-001.tar", {"new.png": png(3)})
    assert open_source(str(webdataset)).name(8) == "new.png" and len(scans) == 2


def test_damaged_and_compressed_tars_are_named(webdataset: Path, tmp_path: Path) -> None:
    whole = (webdataset / "train-000.tar").read_bytes()
    (webdataset / "train-000.tar").write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(UserError, match=r"1 of 2 tars are damaged: .*train-000.tar .*a pattern without them"):
        open_source(str(webdataset))
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match="1 of 1 tars are damaged"):
        open_source(str(tmp_path / "x.tar"))
    with tarfile.open(tmp_path / "y.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("0.png"))
    (tmp_path / "y.tgz").write_bytes((tmp_path / "y.tar").read_bytes())
    for name in ("y.tar", "y.tgz"):
        with pytest.raises(UserError, match=r"is compressed.*gunzip"):
            open_source(str(tmp_path / name))
    with pytest.raises(UserError, match=r"no images in this tar. It holds 1 .pdf"):
        open_source(str(tarred(tmp_path / "z.tar", {"a.pdf": b"x"})))
    with pytest.raises(UserError, match="no such file"):
        open_source(str(tmp_path / "train-{7..8}.tar"))
    with pytest.raises(UserError, match="matches no file"):
        open_source(f"{tmp_path}/none*.tar")


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: 1536 * 4],  # cut where a member ends
        lambda whole: whole[: 1536 * 4 + 700],
        lambda whole: whole[: 1536 * 3 + 148] + b"\0" + whole[1536 * 3 + 149 :],  # a header's checksum
        lambda whole: whole[: 1536 * 3] + bytes(512) + whole[1536 * 3 + 512 :],
        lambda whole: whole + whole,
    ],
)
def test_a_tar_that_is_not_whole_is_not_taken_for_a_shorter_one(tmp_path: Path, damage) -> None:
    path = tarred(tmp_path / "x.tar", {f"{k}.png": bytes(1000) for k in range(8)})  # 1,536 bytes each
    assert len(open_source(str(path))) == 8
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="1 of 1 tars are damaged"):
        open_source(str(path))


def test_links_in_a_tar_are_what_they_mean_and_of_one_name_the_last_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in (("a/0.png", png(0)), ("a/1.png", png(1)), ("a/1.png", png(2))):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
        for name, kind, target in (("b/2.png", tarfile.LNKTYPE, "a/0.png"), ("b/3.png", tarfile.SYMTYPE, "../a/1.png")):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, target
            tar.addfile(about)
    source = open_source(str(tmp_path / "x.tar"))
    assert [source.name(i) for i in range(len(source))] == ["a/0.png", "a/1.png", "b/2.png", "b/3.png"]
    for item, seed in enumerate((0, 2, 0, 2)):
        assert np.array_equal(source.read(item), paint(seed % 4, seed))


def test_a_folder_of_shards_and_other_data_needs_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "set [1]"
    tarred(folder / "A.TAR", {"0.png": png(0)})
    assert len(open_source(str(folder))) == 1
    (folder / "preview.png").write_bytes(png(5))
    with pytest.raises(UserError, match=r"shards and other data \(1 .png, 1 .tar\). Say which, as in .*\*\*/\*.tar"):
        open_source(str(folder))
    for k in range(3):
        (folder / f"{k}.png").write_bytes(png(k))
    source = open_source(str(folder))  # one archive among photos
    assert len(source) == 4 and source.ignored == {".tar": 1}
    table(tmp_path / "both" / "x.parquet", [png(0)])
    tarred(tmp_path / "both" / "x.tar", {"0.png": png(0)})
    with pytest.raises(UserError, match=r"\(1 .tar, 1 .parquet\)"):
        open_source(str(tmp_path / "both"))


@pytest.mark.parametrize("name", ["photos.tar", "photos.gz", "photos.parquet"])
def test_a_folder_may_be_called_as_a_shard_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "0.png").write_bytes(png(0))
    assert reads(str(tmp_path / name)) and len(open_source(str(tmp_path / name))) == 1


def test_shards_of_the_same_names_do_not_share_a_pixel_cache(tmp_path: Path) -> None:
    for kind in ("tar", "parquet"):
        for seed, name in enumerate(("one", "two")):
            path = tmp_path / name / f"x.{kind}"
            images = [png(10 * seed + k) for k in range(6)]
            images = [image.ljust(4096, b"\0") for image in images]  # of one length
            table(path, images) if kind == "parquet" else tarred(path, {f"{k}.png": v for k, v in enumerate(images)})
        for seed, name in enumerate(("one", "two")):
            source = open_source(str(tmp_path / name / f"x.{kind}"))
            source.fit(measure(source)[0])
            items = np.arange(6)
            plan = plan_cache(source, items, recipe("photo", 24, measure(source)[0]), None)
            kept = cached(source, items, plan)
            for _ in range(2):
                for k in range(6):
                    assert np.array_equal(kept.open(k).pixels(), paint((10 * seed + k) % 4, 10 * seed + k))


def test_a_broken_image_in_a_tar_is_one_unreadable_item(tmp_path: Path) -> None:
    source = open_source(str(tarred(tmp_path / "x.tar", {"0.png": png(0), "1.png": png(1)[:60], "2.png": b""})))
    stats, broken = measure(source)
    assert sorted(broken) == [1, 2] and stats.items == 1


# Parquet


def test_a_column_of_bytes_is_a_source(tmp_path: Path) -> None:
    for shard in range(2):
        images = [png(10 * shard + k) for k in range(12)]
        table(tmp_path / "set" / f"part-{shard}.parquet", images, label=[k % 2 for k in range(12)])
    for spelt in ("set", "set/*.parquet", "set/part-{0,1}.parquet", "set/*.parquet::image"):
        assert reads(f"{tmp_path}/{spelt}")
        source = open_source(f"{tmp_path}/{spelt}")
        assert len(source) == 24 and source.name(23) == "part-1.parquet/11" and source.labels == ["0", "1"] * 12
        assert np.array_equal(source.read(14), paint(12 % 4, 12))
    assert source.blocks.tolist() == [0, 5, 10, 12, 17, 22]
    again = pickle.loads(pickle.dumps(source))
    assert np.array_equal(again.read(14), source.read(14))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert np.array_equal(pool.apply(source.read, (20,)), source.read(20))


def test_hugging_face_files_are_read_with_the_names_of_their_classes(tmp_path: Path) -> None:
    rows = [{"bytes": png(k), "path": f"{k}.png"} for k in range(4)]
    made = pa.table({"image": rows, "label": [0, 1, 1, 0]})
    about = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    parquet.write_table(made.replace_schema_metadata({"huggingface": json.dumps(about)}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    assert source.labels == ["cat", "dog", "dog", "cat"] and np.array_equal(source.read(3), paint(3, 3))


def test_each_group_is_decoded_once_a_pass(tmp_path: Path, monkeypatch) -> None:
    """Whatever the order within the window, which is what a group is held for."""
    monkeypatch.setattr(storage, "HELD", 4 * 5 * len(png(0)))
    source = open_source(str(table(tmp_path / "x.parquet", [png(k) for k in range(40)])))
    assert 2 <= source.window < 8
    from selfsame.engine.feed import order_of

    loads = []
    load = storage.Rows.load
    monkeypatch.setattr(storage.Rows, "load", lambda rows, group: loads.append(group) or load(rows, group))
    for item in order_of(source, np.arange(40), 0).at(np.arange(40)):
        source.read(int(item))
    assert sorted(loads) == list(range(8))


def test_measuring_decodes_each_group_twice_at_most_and_looks_at_all_of_them(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(storage, "HELD", 1)
    dark, bright = (io.BytesIO() for _ in range(2))
    for value, file in ((20, dark), (220, bright)):
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, "PNG")
    images = [dark.getvalue()] * 600 + [bright.getvalue()] * 600
    source = open_source(str(table(tmp_path / "x.parquet", images, group=300)))
    assert source.window == 1
    loads = []
    load = storage.Rows.load
    monkeypatch.setattr(storage.Rows, "load", lambda rows, group: loads.append(group) or load(rows, group))
    stats, _ = measure(source, most=200)
    assert len(loads) <= 8
    assert stats.mean[0] == pytest.approx(120 / 255, abs=0.06)
    assert {item // 300 for item in source.drawn(0, 200)} == {0, 1, 2, 3}


def test_rows_have_names_of_their_own_and_columns_may_have_dots(tmp_path: Path, monkeypatch) -> None:
    for language in ("de", "en"):
        path = tmp_path / language / "part-0.parquet"
        path.parent.mkdir()
        parquet.write_table(pa.table({"image.png": [png(k) for k in range(4)]}), path, row_group_size=2)
    source = open_source(str(tmp_path))
    assert [source.name(i) for i in (0, 7)] == ["de/part-0.parquet/0", "en/part-0.parquet/3"]
    monkeypatch.setattr(storage, "HELD", 4 * len(png(0)))
    assert 1 <= open_source(str(tmp_path)).window <= 4  # the bytes of the column are counted
    parquet.write_table(pa.table({"image.png": [png(0)], "label": [1]}), tmp_path / "de" / "part-0.parquet")
    assert open_source(str(tmp_path)).labels is None  # not all have the column
    made = pa.table({"image": [png(0)], "label": [1]}).replace_schema_metadata({"huggingface": '{"info": null}'})
    parquet.write_table(made, tmp_path / "x.parquet")
    assert open_source(str(tmp_path / "x.parquet")).labels == ["1"]


def test_what_is_wrong_with_a_parquet_file_is_said(tmp_path: Path, monkeypatch) -> None:
    images = [png(k) for k in range(4)]
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no parquet")
    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    parquet.write_table(pa.table({"a": images, "b": images}), tmp_path / "two.parquet")
    for name, said in [
        ("no.parquet", "no Parquet file, or a damaged one"),
        ("text.parquet", "no column holds the bytes of files. It has: text"),
        ("two.parquet", r"several columns hold bytes: a, b. Name one, as in .*two.parquet::a"),
        ("two.parquet::c", "unknown column of bytes"),
        ("none.parquet", "no such file"),
        ("none-{9..7}.parquet", "no such file"),
        ("x" * 300, "no such file"),
    ]:
        with pytest.raises(UserError, match=said):
            open_source(str(tmp_path / name))
    assert len(open_source(str(tmp_path / "two.parquet::b"))) == 4
    source = open_source(str(table(tmp_path / "null.parquet", [images[0], None])))
    with pytest.raises(UnreadableItem, match="no bytes in this row"):
        source.read(1)
    monkeypatch.setattr(storage, "GROUP", 100)
    with pytest.raises(UserError, match=r"groups of rows of up to .* GiB.*row_group_size=100"):
        open_source(str(tmp_path / "two.parquet::b"))


def test_a_damaged_group_is_its_items_unreadable(tmp_path: Path) -> None:
    path = table(tmp_path / "x.parquet", [png(k) for k in range(10)])
    content = bytearray(path.read_bytes())
    content[20:400] = bytes(380)
    path.write_bytes(content)
    source = open_source(str(path))
    with pytest.raises(UnreadableItem):
        source.read(0)
    assert np.array_equal(source.read(9), paint(9 % 4, 9))


# Very many, and far away


def test_of_very_many_items_only_some_are_looked_at(tmp_path: Path, monkeypatch) -> None:
    for k in range(30):
        (tmp_path / f"{k:02d}.png").write_bytes(png(k) if k != 7 else b"no image")
    monkeypatch.setattr("selfsame.modalities.image.source.ImageSource.looks", 10)
    source = open_source(str(tmp_path))
    stats, broken = measure(source, seed=1)
    assert (source.sizes[:, 0] > 0).sum() + len(broken) == 10
    assert stats.items == 30 - len(broken)
    run = ss.pretrain(tmp_path, out=tmp_path / "run", **QUICK, max_skipped=0.2, seed=1)
    lines = {line["name"]: line["value"] for line in run.plan["lines"]}
    assert "30 items, image, 10 looked at" in lines["data"]
    assert "07.png" in (run.folder / "skipped.csv").read_text()  # met while it learned, or looked at
    seed = next(seed for seed in range(99) if 7 in source.drawn(seed, 10))
    with pytest.raises(UserError, match=r"1 of 10 items of .* cannot be read \(10.0%; at most 5.0% may be\)"):
        ss.pretrain(tmp_path, out=tmp_path / "other", **QUICK, max_skipped=0.05, seed=seed)


@pytest.fixture
def far(webdataset: Path, tmp_path: Path):
    """The same data at addresses of fsspec's file system in memory."""
    memory = fsspec.filesystem("memory")
    for k in range(14):
        memory.pipe(f"/bucket/photos/{'ab'[k % 2]}/{k:02d}.png", png(k))
    memory.pipe("/bucket/photos/notes.txt", b"x")
    memory.pipe("/bucket/photos/.hidden/x.png", b"x")
    for path in webdataset.iterdir():
        memory.pipe(f"/bucket/shards/{path.name}", path.read_bytes())
    memory.pipe("/bucket/x.parquet", table(tmp_path / "x.parquet", [png(k) for k in range(14)]).read_bytes())
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


FAR = "photos photos/ photos/*/*.png photos/**/*.png shards shards/*.tar shards/train-{000..001}.tar x.parquet"


@pytest.mark.parametrize("spelt", FAR.split())
def test_data_at_an_address_are_read_like_those_on_disk(far: str, spelt: str) -> None:
    assert reads(f"{far}/{spelt}")
    source = open_source(f"{far}/{spelt}")
    assert len(source) == 14
    stats, broken = measure(source)
    assert stats.items == 14 and not broken and stats.height == 24
    source.fit(stats)
    source.fetch([3, 1])
    third = int("".join(filter(str.isdigit, source.name(3))))  # every name says how it was painted
    assert third in (3, 6) and np.array_equal(source.read(3), paint(third % 4, third))


def test_a_run_on_an_address_is_that_on_the_files(far: str, tmp_path: Path) -> None:
    for k in range(14):
        place = tmp_path / "photos" / "ab"[k % 2] / f"{k:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(k))
    quick = {**QUICK, "batch_size": 8}
    one = ss.pretrain(f"{far}/photos", out=tmp_path / "far", **quick)
    two = ss.pretrain(tmp_path / "photos", out=tmp_path / "near", **quick)
    assert (one.folder / "encoder.safetensors").read_bytes() == (two.folder / "encoder.safetensors").read_bytes()
    steps = one.result["steps"]
    again = ss.pretrain(f"{far}/photos/", out=tmp_path / "far", **{**quick, "epochs": 3})
    assert again.result["steps"] > steps
    assert len(ss.embed(again, f"{far}/photos", workers=2)) == 14  # read by other processes


def test_a_network_that_fails_now_and_then_is_asked_again_and_one_that_is_gone_stops_the_run(
    far: str, monkeypatch
) -> None:
    monkeypatch.setattr(disk, "PAUSES", (0, 0))
    source = open_source(f"{far}/photos")
    source.fit(measure(source)[0])
    system = type(source.disk.system)
    cat_file, failures = system.cat_file, []

    def shaky(self, path, **options):
        if (path, True) not in failures:
            failures.append((path, True))
            raise TimeoutError("503")
        return cat_file(self, path, **options)

    monkeypatch.setattr(system, "cat_file", shaky)
    source.fetch(range(14))
    for k in range(14):
        source.read(k)
    assert len(failures) == 14

    def gone(self, path, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(system, "cat_file", gone)
    with pytest.raises(UserError, match=r"cannot be reached: ConnectionError: no route to host") as caught:
        source.read(0)
    assert not isinstance(caught.value, UnreadableItem)  # it says nothing about the item


def test_what_is_wrong_with_an_address_is_said(far: str, monkeypatch) -> None:
    for address, said in [
        ("nosuch://x", "nosuch:// is no protocol that is known here"),
        (f"{far}/none", "nothing is there"),
        (f"{far}/photos/*.tif", "matches only|matches no file"),
        (f"{far}/photos/notes.txt", "read from this machine's disks"),
        (f"{far}/none.tar", "nothing is there"),
    ]:
        with pytest.raises(UserError, match=said):
            open_source(address)

    def lacks(*args, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", lacks)
    with pytest.raises(UserError, match=r"s3:// needs a package that is not installed: Install s3fs to access S3"):
        open_source("s3://bucket/photos")

    class Forbidden:
        def isdir(self, path):
            raise PermissionError("no credentials")

        exists = isdir

    monkeypatch.setattr(fsspec, "filesystem", lambda *args, **options: Forbidden())
    with pytest.raises(UserError, match=r"s3://bucket/photos cannot be reached: PermissionError: no credentials"):
        open_source("s3://bucket/photos")
