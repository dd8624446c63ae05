import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import selfsame as ss
from selfsame.cli import main
from selfsame.jobs import data as room
from tests.conftest import paint


@pytest.fixture(scope="module")
def in_memory(finished, pictures):
    return ss.embed(finished, pictures, workers=0)


def read_csv(path):
    rows = list(csv.reader(path.read_text().splitlines()))
    return rows[0], [row[0] for row in rows[1:]], np.array([row[1:] for row in rows[1:]], dtype=np.float32)


def test_vectors_come_with_their_names_in_the_order_of_the_source(in_memory, pictures):
    assert in_memory.names == sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png"))
    assert len(in_memory) == 64 and in_memory.vectors.shape == (64, 8) and in_memory.vectors.dtype == np.float32
    assert np.array_equal(np.asarray(in_memory), in_memory.vectors) and in_memory.skipped == {}


def test_the_vectors_are_what_the_encoder_gives_for_the_plain_images(in_memory, finished, pictures):
    from selfsame.modalities import image
    from selfsame.records import ViewPlan
    from selfsame.types import Draws

    encoder, source = ss.load(finished), image.open_source(str(pictures))
    stats = image.Stats.model_validate(encoder.spec["stats"])
    views = image.recipe("weak", 16, stats)
    plain = image.sample(source, range(64), ViewPlan(full=0, plain=1), views, Draws(0, 0, 64))[0]
    with torch.no_grad():
        np.testing.assert_allclose(encoder(plain).numpy(), in_memory.vectors, rtol=1e-5, atol=1e-6)


def test_all_kinds_of_files_hold_the_same_names_and_the_same_bits(in_memory, finished, pictures, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    for suffix in ("csv", "npy", "parquet"):
        result = ss.embed(finished, pictures, out=tmp_path / f"x.{suffix}", workers=0, batch_size=10)
        names = {"names": str(tmp_path / "x.names.txt")} if suffix == "npy" else {}
        assert result == {"out": str(tmp_path / f"x.{suffix}"), "items": 64, "dim": 8, "skipped": 0, **names}
        assert ("names, a line each, in" in capsys.readouterr().err) == (suffix == "npy")
    head, names, vectors = read_csv(tmp_path / "x.csv")
    assert head == ["name", *(f"v{k}" for k in range(8))]
    table = parquet.read_table(tmp_path / "x.parquet")
    kept = np.load(tmp_path / "x.npy", allow_pickle=False)
    of_table = np.array(table["vector"].to_pylist(), dtype=np.float32)
    assert np.array_equal(vectors, kept) and np.array_equal(of_table, kept)
    of_text = (tmp_path / "x.names.txt").read_text().splitlines()
    assert names == of_text == table["name"].to_pylist() == in_memory.names
    np.testing.assert_allclose(kept, in_memory.vectors, rtol=1e-5, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.names.txt", "x.npy", "x.parquet"]


def test_neither_workers_nor_the_size_of_a_chunk_change_names_or_order(in_memory, finished, pictures):
    other = ss.embed(finished, pictures, workers=2, batch_size=7)
    assert other.names == in_memory.names
    np.testing.assert_allclose(other.vectors, in_memory.vectors, rtol=1e-5, atol=1e-6)


def test_never_more_than_a_chunk_is_held(finished, pictures, tmp_path, monkeypatch):
    sizes, encoded = [], room.encoded

    def watched(*given, **named):
        for items, vectors in encoded(*given, **named):
            sizes.append(len(items))
            yield items, vectors

    monkeypatch.setattr(room, "encoded", watched)
    ss.embed(finished, pictures, out=tmp_path / "x.csv", workers=0, batch_size=20)
    assert sizes == [20, 20, 20, 4]


def test_samples_that_fit_are_read_once_and_others_each_time(finished, pictures):
    encoder = ss.load(finished)
    data = room.open_like(str(pictures), encoder)
    views = data.modality.recipe("weak", encoder.spec["size"], data.stats)
    read, sample = [], data.modality.sample

    def counted(source, items, *given):
        read.extend(items)
        return sample(source, items, *given)

    bytes_each = 3 * encoder.spec["size"] ** 2
    found = []
    for kept, times in ((64 * bytes_each, 1), (64 * bytes_each - 1, 2)):
        plain = room.Plain(data, views, range(64), chunk=20, kept=kept)
        plain.chunks.sample = counted
        read.clear()
        for _ in range(2):
            items, vectors = room.joined(encoder, plain, torch.device("cpu"))
            assert items == list(range(64))
            found.append(vectors)
        assert read == list(range(64)) * times
    assert all(np.array_equal(found[0], vectors) for vectors in found[1:])


def test_unreadable_files_are_listed_and_left_out_of_names_and_vectors(finished, pictures, tmp_path, capsys):
    data = shutil.copytree(pictures, tmp_path / "data")
    (data / "disc" / "05.png").write_bytes(b"")
    (data / "down" / "00.png").write_bytes((data / "down" / "00.png").read_bytes()[:200])
    with pytest.raises(ss.UserError, match=r"2 of 64 items .*disc/05.png: .*--max-skipped"):
        ss.embed(finished, data, workers=0)
    with pytest.raises(ss.UserError, match="2 of 64 items"):
        ss.embed(finished, data, out=tmp_path / "x.npy", workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]  # no half file, no draft
    found = ss.embed(finished, data, workers=0, max_skipped=0.1)
    assert set(found.skipped) == {"disc/05.png", "down/00.png"} and all(found.skipped.values())
    assert len(found.names) == len(found.vectors) == 62 and not set(found.skipped) & set(found.names)
    capsys.readouterr()
    result = ss.embed(finished, data, out=tmp_path / "x.npy", workers=0, max_skipped=0.1)
    assert result["skipped"] == 2 and np.load(tmp_path / "x.npy").shape == (62, 8)
    assert (tmp_path / "x.names.txt").read_text().splitlines() == found.names
    assert "skipped disc/05.png: " in capsys.readouterr().err


def test_names_that_are_no_utf8_are_written_printable(finished, pictures, tmp_path, odd_name, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    data = shutil.copytree(pictures / "disc", tmp_path / "data")
    (data / odd_name(b"\xff.png")).write_bytes((data / "00.png").read_bytes())
    (data / odd_name(b"\xfe.png")).write_bytes(b"")
    for suffix in ("csv", "npy", "parquet"):
        result = ss.embed(finished, data, out=tmp_path / f"x.{suffix}", workers=0, max_skipped=0.1)
        assert (result["items"], result["skipped"]) == (17, 1)
    wanted = [*(f"{k:02d}.png" for k in range(16)), r"\udcff.png"]
    assert read_csv(tmp_path / "x.csv")[1] == (tmp_path / "x.names.txt").read_text().splitlines() == wanted
    assert parquet.read_table(tmp_path / "x.parquet")["name"].to_pylist() == wanted
    assert r"skipped \udcfe.png: " in capsys.readouterr().err
    with pytest.raises(ss.UserError, match=r"\\udcfe\.png: "):
        ss.embed(finished, data, out=tmp_path / "y.csv", workers=0)
    found = ss.embed(finished, data, workers=0, max_skipped=0.1)
    assert (data / found.names[-1]).is_file()  # in memory names are those that open the files


def test_the_data_are_never_written_over(finished, tmp_path):
    np.save(tmp_path / "x.npy", np.stack([paint(k, k) for k in range(4)]))
    (tmp_path / "y.names.txt").write_text(f"{tmp_path / 'a.png'}\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for data, out in (("x.npy", "x.npy"), ("y.names.txt", "y.npy")):  # of .npy the names lie beside it
        with pytest.raises(ss.UserError, match=f"{data} is the data themselves"):
            ss.embed(finished, tmp_path / data, out=tmp_path / out, workers=0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_one_image_of_another_size_and_mode_is_embedded_too(finished, tmp_path):
    Image.fromarray(paint(2, 5, 50)).convert("L").save(tmp_path / "one.png")
    assert ss.embed(finished, tmp_path / "one.png", workers=0).vectors.shape == (1, 8)


def test_a_run_an_encoder_and_a_folder_name_are_the_same_to_it(in_memory, finished, pictures):
    for run in (ss.Run(finished), ss.load(finished), str(finished)):
        assert np.array_equal(ss.embed(run, pictures, workers=0).vectors, in_memory.vectors)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"out": "x.parket"}, r"unknown kind of vector file '.parket'. Did you mean '.parquet'"),
        ({"out": "x"}, r"unknown kind of vector file 'x'. Known: .csv, .npy, .parquet"),
        ({"data": "none"}, r"none: no such file or folder"),
        ({"run": "none"}, r"there is no folder none. Give the --out folder of a run"),
        ({"run": "."}, r"\. is not a run folder \(it has no job.json\)"),
        ({"batchsize": 3}, r"unknown key 'batchsize'. Did you mean 'batch_size'"),
    ],
)
def test_wrong_input_is_said_in_one_line(finished, pictures, tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    settings = {"run": finished, "data": pictures, "workers": 0, **given}
    with pytest.raises(ss.UserError, match=message) as error:
        ss.embed(**settings)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_damaged_encoder_is_named(finished, pictures, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    weights = run / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:300])
    with pytest.raises(ss.UserError, match=r"encoder.safetensors is damaged"):
        ss.embed(run, pictures)


def test_the_command_prints_one_json_document(finished, pictures, tmp_path, capsys):
    out = tmp_path / "x.csv"
    assert main(["embed", str(finished), str(pictures), "--out", str(out), "--workers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "items": 64, "dim": 8, "skipped": 0}


def test_an_encoder_in_training_is_left_in_training(finished, pictures):
    encoder = ss.load(finished).train()
    first = ss.embed(encoder, pictures, workers=0).vectors
    assert encoder.training and not np.isnan(first).any()
    assert np.array_equal(first, ss.embed(ss.load(finished), pictures, workers=0).vectors)
