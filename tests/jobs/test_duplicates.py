"""Copies that were planted are found, grouped, told and drawn; nothing is deleted."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

import selfsame as ss
from selfsame.cli import main
from selfsame.errors import UserError
from selfsame.index.contract import Made
from selfsame.index.store import created
from selfsame.report.duplicates import differing
from tests.conftest import paint
from tests.modalities.image.test_hashing import scene

TABLE = ["group", "name", "keep", "score", "kind"]


def rows_of(folder):
    with (folder / "duplicates.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def groups_of(result):
    """{the name that is kept: {name of a copy: kind}}"""
    return {group[0]["name"]: {member["name"]: member["kind"] for member in group[1:]} for group in result["groups"]}


@pytest.fixture
def photos(tmp_path):
    """Eight different photos; of some exact, smaller, darker and mirrored copies, in two parts."""
    root = tmp_path / "photos"
    for part in ("train", "test"):
        (root / part).mkdir(parents=True)
    for k in range(8):
        scene(k).save(root / ("train" if k < 5 else "test") / f"{k}.png")
    shutil.copy(root / "train" / "0.png", root / "train" / "0 again.png")
    shutil.copy(root / "train" / "0.png", root / "test" / "0 third.png")
    scene(1).resize((100, 75)).save(root / "test" / "1 small.png")
    ImageOps.mirror(scene(5)).save(root / "train" / "5 mirror.jpg", quality=60)
    return root


def test_exact_and_near_copies_are_grouped_and_the_best_is_kept(photos, tmp_path):
    before = sorted((path, path.read_bytes()) for path in photos.rglob("*.*"))
    result = ss.duplicates(photos, out=tmp_path / "out", workers=0)
    assert groups_of(result) == {
        "test/0 third.png": {"train/0 again.png": "exact", "train/0.png": "exact"},
        "train/1.png": {"test/1 small.png": "hash"},
        "test/5.png": {"train/5 mirror.jpg": "hash"},
    }
    assert result["by"] == ["exact", "hash"] and result["kept"].startswith("largest resolution")
    counts = result["counts"]
    assert (counts["items"], counts["groups"], counts["copies"], counts["exact"], counts["hash"]) == (12, 3, 4, 2, 2)
    lost = ("train/0 again.png", "train/0.png", "test/1 small.png", "train/5 mirror.jpg")
    assert counts["bytes_of_copies"] == sum((photos / name).stat().st_size for name in lost)
    head, *rows = rows_of(tmp_path / "out")
    assert head == TABLE and rows[0] == ["1", "test/0 third.png", "yes", "", ""]
    assert rows[1] == ["1", "train/0 again.png", "no", "1", "exact"]
    assert json.loads((tmp_path / "out" / "duplicates.json").read_text()) == result
    assert before == sorted((path, path.read_bytes()) for path in photos.rglob("*.*"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('class="strip"') == 3 and page.count("<img src=") == 7 and "Nothing was deleted" in page


def test_across_two_parts_only_copies_between_them_are_told(photos, tmp_path):
    result = ss.duplicates(photos, across=("train", "test"), out=tmp_path / "out", workers=0)
    assert groups_of(result) == {
        "0 third.png": {"0 again.png": "exact", "0.png": "exact"},
        "1 small.png": {"1.png": "hash"},
        "5.png": {"5 mirror.jpg": "hash"},
    }
    assert result["counts"]["pairs"] == {"exact": 1, "hash": 3}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 pair, 2 copies" in page and "<span>exact</span>" in page
    head, *rows = rows_of(tmp_path / "out")
    assert head == [*TABLE, "part"] and rows[0] == ["1", "0 third.png", "yes", "", "", "test"]
    assert all(row[2:] == ["yes", "", "", "test"] or (row[2], row[5]) == ("no", "train") for row in rows)
    only = ss.duplicates(photos, across=("train", "test"), by="exact", out=tmp_path / "exact", workers=0)
    assert groups_of(only) == {"0 third.png": {"0 again.png": "exact", "0.png": "exact"}}
    near = ss.duplicates(photos, across=("train", "test"), by="hash", out=tmp_path / "hash", workers=0)
    assert set(groups_of(near)) == set(groups_of(result)) and near["counts"]["hash"] == 4


def test_each_item_of_the_second_part_with_a_copy_in_the_first_is_told(tmp_path):
    for part, copies in (("train", ["a"]), ("test", ["x", "y"])):
        (tmp_path / part).mkdir()
        for name in copies:
            scene(0).resize((90, 70)).save(tmp_path / part / f"{name}.png")
    scene(0).save(tmp_path / "test" / "z.png")
    scene(1).save(tmp_path / "train" / "other.png")
    result = ss.duplicates(tmp_path, across=("train", "test"), out=tmp_path / "out", workers=0)
    assert groups_of(result) == {"x.png": {"a.png": "exact"}, "y.png": {"a.png": "exact"}, "z.png": {"a.png": "hash"}}
    assert result["counts"]["copies"] == 1


def test_an_encoder_finds_copies_by_a_threshold_of_these_data(finished, pictures, tmp_path):
    root = tmp_path / "p"
    shutil.copytree(pictures, root)
    for kind, name in ((0, "across"), (2, "disc")):
        slightly = np.clip(paint(kind, 100 * kind + 3).astype(int) + 1, 0, 255).astype(np.uint8)
        Image.fromarray(slightly).save(root / f"{name} copy.png")
    result = ss.duplicates(root, run=finished, by="exact,encoder", out=tmp_path / "out", workers=0)
    found = {frozenset(member["name"] for member in group) for group in result["groups"]}
    assert any({"across copy.png", "across/03.png"} <= group for group in found)
    assert any({"disc copy.png", "disc/03.png"} <= group for group in found)
    told = result["encoder"]
    assert told["far"] == pytest.approx(0.02 / 65) and told["compared"] == 66 * 65 and 0 < told["threshold"] < 1
    assert told["search"]["exact"] and told["false_pairs_expected"] == pytest.approx(0.66)
    assert told["views"]["0.5"] > told["others"]["0.5"]  # a view is more like its item than others are
    assert "false-accept rate" in (tmp_path / "out" / "report.html").read_text()
    given = ss.duplicates(root, run=finished, by="encoder", threshold=1.0, out=tmp_path / "given", workers=0)
    assert given["encoder"]["threshold"] == 1.0 and len(given["groups"]) <= len(result["groups"])


def test_a_chain_of_near_copies_is_divided(tmp_path, finished):
    root = tmp_path / "chain"
    root.mkdir()
    for k in range(24):  # one picture turns into another, step by step
        share = k / 23
        mixed = (1 - share) * paint(0, 3).astype(float) + share * paint(2, 200).astype(float)
        Image.fromarray(mixed.astype(np.uint8)).save(root / f"{k:02d}.png")
    result = ss.duplicates(root, run=finished, by="encoder", threshold=0.6, out=tmp_path / "out", workers=0)
    assert result["counts"]["divided_chains"] == 1 and len(result["groups"]) > 1
    assert all(member["score"] >= 0.6 for group in result["groups"] for member in group[1:])


def test_a_text_a_row_and_a_series_have_exact_copies(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("one and two\nsomething else\none  and two \nyet another line\n")
    text = ss.duplicates(tmp_path / "t.txt", modality="text", out=tmp_path / "texts")
    assert groups_of(text) == {"t.txt:3": {"t.txt:1": "exact"}}  # more bytes, for its blanks
    assert "only exact copies are sought" in capsys.readouterr().err
    assert "one and two" in (tmp_path / "texts" / "report.html").read_text()
    (tmp_path / "r.csv").write_text("a,b,c\n1,2,x\n3,4,y\n1,2,x\n1,2,z\n5,6,x\n")
    table = ss.duplicates(tmp_path / "r.csv", modality="table", out=tmp_path / "rows")
    assert [len(group) for group in table["groups"]] == [2]
    rng = np.random.default_rng(0)
    series = rng.standard_normal((6, 40)).astype(np.float32)
    series[4] = series[1]
    np.save(tmp_path / "s.npy", series)
    signal = ss.duplicates(tmp_path / "s.npy", modality="signal", out=tmp_path / "series")
    assert groups_of(signal) == {"1": {"4": "exact"}}


def test_rows_and_texts_are_shown_by_what_sets_them_apart():
    row = differing({"age": "28", "work": "sales", "town": ""}, {"age": "33", "work": "sales", "town": "<b>"})
    assert "<th>age</th><td>28 → 33</td>" in row and "– → &lt;b&gt;" in row and "1 equal" in row and "sales" not in row
    text = differing("what is the capital of Togo ?", "what is the captial of Togo")
    assert text == '<p class="text">what is the <del>capital</del> <mark>captial</mark> of Togo <del>?</del></p>'
    assert differing("long " * 200, "long " * 199) == differing({"a": "1"}, {"a": "1"}) == differing(None, None) == ""


def test_blank_and_broken_images_are_no_copies_of_each_other(tmp_path):
    for k, grey in enumerate((255, 254, 250)):
        Image.new("RGB", (40 + k, 40), (grey,) * 3).save(tmp_path / f"blank {k}.png")
    scene(0).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    result = ss.duplicates(tmp_path, out=tmp_path / "out", max_skipped=0.5, workers=0)
    assert result["groups"] == [] and result["skipped"] == 1
    assert (tmp_path / "out" / "skipped.csv").exists()
    assert "There are no copies" in (tmp_path / "out" / "report.html").read_text()


def test_sounds_have_near_copies_by_their_raw_input(tmp_path, capsys):
    soundfile = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    for part in ("a", "b"):
        (tmp_path / "sounds" / part).mkdir(parents=True)
    time = np.arange(1600) / 4000
    for k in range(110):  # three tones of different pitch, loudness and decay, near the microphone or far
        pitch, loud, decay = rng.uniform(80, 1900, 3), rng.uniform(0.05, 0.3, 3), rng.uniform(0.5, 12, 3)
        wave = (loud[:, None] * np.sin(2 * np.pi * np.outer(pitch, time)) * np.exp(-np.outer(decay, time))).sum(0)
        wave = (wave + rng.normal(0, 0.003, len(wave))) * rng.uniform(0.1, 1)
        soundfile.write(tmp_path / "sounds" / "a" / f"{k:03d}.wav", wave, 4000)
        if k < 4:
            soundfile.write(tmp_path / "sounds" / "b" / f"softer {k}.wav", wave / 2, 4000)
    found = ss.duplicates(tmp_path / "sounds", out=tmp_path / "out", workers=0)
    planted = {f"a/{k:03d}.wav": {f"b/softer {k}.wav": "raw"} for k in range(4)}
    assert {kept: copies for kept, copies in groups_of(found).items() if kept in planted} == planted
    assert len(found["groups"]) <= 6 and found["counts"]["raw"] == len(found["groups"]) and found["encoder"] is None
    told = found["raw"]
    assert (
        told["far"] == pytest.approx(0.02 / 113) and "views" not in told and found["raw_name"] == "log-mel mean and std"
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The threshold of the raw input: log-mel mean and std" in page and "random views" not in page
    # In parts, and across two of them, the same pairs.
    across = ss.duplicates(
        tmp_path / "sounds", across=("a", "b"), threshold=told["threshold"], out=tmp_path / "across", workers=0
    )
    assert {name: set(copies) for name, copies in groups_of(across).items()} == {
        f"softer {k}.wav": {f"{k:03d}.wav"} for k in range(4)
    }
    few = ss.duplicates(tmp_path / "sounds" / "b", out=tmp_path / "few", workers=0)
    assert few["groups"] == [] and "4 items are few to compare unasked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--by", "encoder"], "--by encoder needs an encoder: give --run RUN"),
        (["--by", "sight"], "unknown way to find copies 'sight'. Known: encoder, exact, hash, raw."),
        (["--far", "0.1"], "--far is about vectors: give --run RUN"),
        (["--across", "train", "tset"], "--across tset: there is neither"),
        (["--across", "train", "train"], "Give two different parts."),
        (["--distance", "40"], "--distance 40: input should be less than or equal to 11"),
        (["--run", "nowhere"], "there is no folder nowhere"),
        (["--run", "nowhere", "--modality", "image"], "--modality: with --run, items are read as"),
        (["--run", "nowhere", "--far", "0.1", "--threshold", "0.9"], "Give one of them."),
    ],
)
def test_wrong_input_is_refused_in_one_line(photos, capsys, words, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["duplicates", str(photos), *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading ")]
    assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "duplicates").exists()


def test_an_index_is_no_data(tmp_path, capsys):
    created(tmp_path / "idx", Made(fingerprint="f", modality="image", size=8, dim=4))
    assert main(["duplicates", str(tmp_path / "idx"), "--out", str(tmp_path / "out")]) == 2
    assert "idx is an index: copies are sought among items." in capsys.readouterr().err


def test_near_copies_of_other_kinds_need_an_encoder(tmp_path):
    np.save(tmp_path / "s.npy", np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32))
    with pytest.raises(UserError, match=r"kind signal.*Give --run RUN"):
        ss.duplicates(tmp_path / "s.npy", modality="signal", by="hash", out=tmp_path / "out")


def test_the_command_line_gives_the_document(photos, tmp_path, capsys):
    assert main(["duplicates", str(photos), "--out", str(tmp_path / "out"), "--workers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["groups"] == 3
