import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import selfsame as ss
from selfsame.cli import main
from selfsame.errors import UserError
from selfsame.index.folder import Folder
from selfsame.index.store import opened
from selfsame.modalities import image, text
from tests.conftest import paint
from tests.test_cli import error_of


@pytest.fixture(scope="module")
def made(encoded_by, pictures, tmp_path_factory):
    """The folder of an index of `pictures`. To be looked at only."""
    folder = tmp_path_factory.mktemp("index") / "idx"
    assert main(["index", str(encoded_by), str(pictures), "--out", str(folder), "--workers", "0"]) == 0
    return folder


@pytest.fixture
def index(made, tmp_path):
    return shutil.copytree(made, tmp_path / "idx")


@pytest.fixture(scope="module")
def other_run(encoded_by, tmp_path_factory):
    folder, encoder = tmp_path_factory.mktemp("runs") / "other", ss.load(encoded_by)
    with torch.no_grad():
        next(encoder.parameters()).add_(1e-3)
    image.save_encoder(encoder, folder)
    return folder


def answer(capsys, *words):
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    shown = capsys.readouterr()
    return json.loads(shown.out), shown.err


def test_an_index_holds_what_embed_gives_under_its_names_with_the_labels_of_folders(made, encoded_by, pictures):
    index, known = opened(made), ss.embed(encoded_by, pictures, workers=0)
    assert list(index.names) == known.names
    lengths = np.linalg.norm(known.vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(index.vectors, known.vectors / lengths, atol=1e-6)
    assert index.labels == [name.split("/")[0] for name in known.names]
    assert index.unfinished is None and index.made.run == str(encoded_by)


def test_an_item_finds_its_nearest_and_not_itself(made, capsys):
    told, shown = answer(capsys, "search", made, "disc/03.png", "-k", 5)
    assert [len(one["found"]) for one in told["queries"]] == [5]
    index = opened(made)
    cosines = index.vectors @ index.vector("disc/03.png")
    order = [i for i in np.argsort(-cosines) if index.names[i] != "disc/03.png"][:5]
    found = told["queries"][0]["found"]
    assert [one["name"] for one in found] == [index.names[i] for i in order]
    np.testing.assert_allclose([one["cosine"] for one in found], cosines[order], atol=1e-5)
    assert shown == ""  # the table is not printed beside the document
    assert main(["search", str(made), "disc/03.png", "-k", "5"]) == 0
    shown = capsys.readouterr().err
    assert all(one["name"] in shown and one["label"] == one["name"].split("/")[0] for one in found)


def test_a_file_finds_its_copy(made, encoded_by, pictures, tmp_path, capsys):
    shutil.copy(pictures / "down" / "07.png", tmp_path / "mine.png")
    told, _ = answer(capsys, "search", made, tmp_path / "mine.png", "-k", "3")
    assert told["queries"][0]["query"] == str(tmp_path / "mine.png")
    assert told["queries"][0]["found"][0] == {"name": "down/07.png", "cosine": 1.0, "label": "down"}
    found = ss.search(made, tmp_path / "mine.png", 3)
    assert found.names[0] == [one["name"] for one in told["queries"][0]["found"]]
    by_vector = ss.search(ss.Index.open(made), ss.embed(encoded_by, tmp_path, workers=0).vectors, 3)
    assert by_vector.names == found.names


def test_several_queries_are_answered_each(made, pictures, capsys):
    told, _ = answer(capsys, "search", made, pictures / "disc", "-k", 1)
    assert [(one["query"], one["found"][0]["name"]) for one in told["queries"]] == [
        (f"{k:02d}.png", f"disc/{k:02d}.png") for k in range(16)
    ]
    assert main(["search", str(made), str(pictures / "disc"), "-k", "1"]) == 0
    shown = capsys.readouterr().err
    head, *lines = [line.split() for line in shown.splitlines() if ".png" in line or "cosine" in line]
    assert head == ["query", "cosine", "name", "label"]  # one table
    assert [line[0] for line in lines] == [f"{k:02d}.png" for k in range(16)]


def test_only_a_label_is_searched(made, pictures, capsys):
    told, _ = answer(capsys, "search", made, pictures / "disc" / "00.png", "-k", 16, "--label", "down")
    assert {one["label"] for one in told["queries"][0]["found"]} == {"down"}
    found = ss.search(made, "disc/00.png", 15, label="disc")
    assert sorted(found.names[0]) == [f"disc/{k:02d}.png" for k in range(1, 16)]
    assert len(ss.search(made, "disc/00.png", 16, label="down").names[0]) == 16
    assert "k is 16; beside 'disc/00.png'" in error_of(
        capsys, "search", made, "disc/00.png", "-k", 16, "--label", "disc"
    )
    assert "Did you mean 'disc'" in error_of(capsys, "search", made, "disc/00.png", "--label", "disk")


def test_what_was_found_is_drawn(made, pictures, tmp_path, capsys):
    told, _ = answer(capsys, "search", made, "disc/03.png", "-k", 4, "--picture", tmp_path / "x.png")
    page = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    assert told["picture"] == str(tmp_path / "x.png")
    grey = (page == 128).all(-1).mean()
    assert grey < 0.01 and page.shape[1] > 5 * 128
    shown = np.asarray(Image.open(pictures / "disc" / "03.png").resize((128, 128), Image.Resampling.NEAREST))
    best = min(np.abs(page[y : y + 128, x : x + 128] - shown)[8:-8, 8:-8].mean() for y in range(20) for x in range(20))
    assert best < 20  # the query stands in the corner


def test_pictures_that_are_gone_are_grey_and_said(index, capsys, tmp_path):
    noted = json.loads((index / "index.json").read_text())
    noted["parts"][0]["path"] = str(tmp_path / "nowhere")
    (index / "index.json").write_text(json.dumps(noted))
    _, shown = answer(capsys, "search", index, "disc/03.png", "-k", 2, "--picture", tmp_path / "x.png")
    assert "cannot be shown" in shown and (tmp_path / "x.png").exists()
    assert "ends with .png" in error_of(capsys, "search", index, "disc/03.png", "--picture", "x.jpg")


def test_items_that_came_later_are_added_and_the_others_left(index, encoded_by, pictures, tmp_path, capsys):
    grown = shutil.copytree(pictures, tmp_path / "grown")
    Image.fromarray(paint(0, 999)).save(grown / "across" / "new.png")
    noted = json.loads((index / "index.json").read_text())
    noted["parts"][0]["path"] = str(grown)
    (index / "index.json").write_text(json.dumps(noted))
    before = opened(index).vectors.copy()
    told, shown = answer(capsys, "index", encoded_by, grown, "--out", index, "--add", "--workers", 0)
    assert told == {"out": str(index), "items": 65, "dim": 8, "skipped": 0} and "64 were there already" in shown
    after = opened(index)
    assert after.names[-1] == "across/new.png" and after.labels[-1] == "across"
    np.testing.assert_array_equal(after.vectors[:64], before)


def test_items_of_further_data_carry_its_path_in_their_names(
    index, encoded_by, pictures, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(pictures.parent)
    more = shutil.copytree(pictures / "disc", tmp_path / "more")
    monkeypatch.chdir(tmp_path)
    ss.index(encoded_by, "more/", index, add=True, workers=0)
    assert list(opened(index).names[64:]) == [f"more/{k:02d}.png" for k in range(16)]
    assert len(ss.index(encoded_by, more, index, add=True, workers=0)) == 80  # the same data, spelt otherwise
    found = ss.search(index, "more/03.png", 1, picture=tmp_path / "x.png")
    assert found.names == [["disc/03.png"]] and found.cosines[0, 0] > 0.9999
    assert (np.asarray(Image.open(tmp_path / "x.png").convert("RGB")) == 128).all(-1).mean() < 0.01


def test_items_are_removed_by_name_pattern_and_list(index, tmp_path, capsys):
    told, _ = answer(capsys, "remove", index, "disc/00.png")
    assert told == {"index": str(index), "removed": 1, "items": 63}
    assert answer(capsys, "remove", index, "down/*")[0]["items"] == 47
    (tmp_path / "gone.txt").write_text("across/00.png\nacross/01.png\n")
    assert ss.remove(index, tmp_path / "gone.txt")["items"] == 45
    kept = opened(index)
    capsys.readouterr()
    assert "disc/00.png" not in list(kept.names) and not any(name.startswith("down/") for name in kept.names)
    assert "unknown item 'disc/00.png'" in error_of(capsys, "remove", index, "disc/00.png")
    assert "is called like 'x*'" in error_of(capsys, "remove", index, "x*")
    Image.new("L", (8, 8)).save(tmp_path / "photo.png")
    with pytest.raises(UserError, match=r"photo.png is no list of names, .* a pattern as '\*photo.png'"):
        ss.remove(index, tmp_path / "photo.png")
    (tmp_path / "gone.txt").write_text("across/02.png\nnever.png\n")
    assert "Nothing was removed" in error_of(capsys, "remove", index, tmp_path / "gone.txt")
    assert len(opened(index)) == 45


def test_vectors_of_two_encoders_never_meet(index, other_run, pictures, capsys):
    before = {path.name: path.read_bytes() for path in index.iterdir()}
    refused = error_of(capsys, "index", other_run, pictures, "--out", index, "--add")
    assert "was made by another encoder" in refused and "never" not in refused
    query = pictures / "disc" / "00.png"
    for asked in (query, "disc/00.png"):  # a file, and an item of the index, which needs no encoder
        assert "was made by another encoder" in error_of(capsys, "search", index, asked, "--run", other_run)
    with pytest.raises(UserError, match="was made by another encoder"):
        ss.search(index, query, run=ss.load(other_run))
    assert {path.name: path.read_bytes() for path in index.iterdir()} == before


def test_a_run_that_was_moved_is_found_beside_the_index_or_where_it_is_said(encoded_by, pictures, tmp_path, capsys):
    run = shutil.copytree(encoded_by, tmp_path / "a" / "run")
    ss.index(run, pictures, tmp_path / "a" / "idx", workers=0)
    query = str(pictures / "disc" / "00.png")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert ss.search(tmp_path / "b" / "idx", query, 1).names == [["disc/00.png"]]  # both were moved
    shutil.move(tmp_path / "b" / "run", tmp_path / "elsewhere")
    capsys.readouterr()
    lost = error_of(capsys, "search", tmp_path / "b" / "idx", query)
    assert f"is not at {tmp_path / 'a' / 'run'}. Say where it is now with --run" in lost
    assert ss.search(tmp_path / "b" / "idx", query, 1, run=tmp_path / "elsewhere").names == [["disc/00.png"]]
    assert ss.search(tmp_path / "b" / "idx", "disc/00.png", 1).names  # an item needs no encoder


def test_an_encoder_without_a_run_makes_and_searches_an_index(encoded_by, pictures, tmp_path):
    encoder = ss.load(encoded_by)
    index = ss.index(encoder, pictures, tmp_path / "idx", workers=0)
    query = pictures / "disc" / "00.png"
    assert ss.search(index, query, 1, run=encoder).names == [["disc/00.png"]]
    with pytest.raises(UserError, match="by an encoder without a run folder"):
        ss.search(index, query, 1)


def test_wrong_queries_are_told(made, tmp_path, capsys):
    refused = error_of(capsys, "search", made, "disc/3.png")
    assert "unknown file or item 'disc/3.png'" in refused and "'disc/03.png'" in refused
    assert f"Give a path of image data, or the name of an item of {made}." in refused
    begun = error_of(capsys, "search", made, "down/1")
    assert "Did you mean 'down/10.png' or 'down/11.png' or 'down/12.png'?" in begun and "64 are known" in begun
    assert "k is 65; " in error_of(capsys, "search", made, "disc/03.png", "-k", 65)
    assert "at most 63" in error_of(capsys, "search", made, "disc/03.png", "-k", 64)
    assert "k 0: input should be greater" in error_of(capsys, "search", made, "disc/03.png", "-k", 0)
    (tmp_path / "song.txt").write_text("a line\nanother line of text\n")
    refused = error_of(capsys, "search", made, tmp_path / "song.txt")
    assert "is text data; " in refused and "holds image data. Give a query of that kind" in refused
    assert "does not exist" in error_of(capsys, "search", tmp_path / "nowhere", "x")
    assert "holds 64 items" in error_of(capsys, "search", made, tmp_path / "song.txt", "-k", 100)


def test_an_index_that_is_there_is_not_made_anew(made, encoded_by, pictures, tmp_path, capsys):
    assert "Add to it with --add" in error_of(capsys, "index", encoded_by, pictures, "--out", made)
    assert "no index at" in error_of(capsys, "index", encoded_by, pictures, "--out", tmp_path / "x", "--add")
    assert "no such file" in error_of(capsys, "index", encoded_by, tmp_path / "empty", "--out", tmp_path / "y")
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()
    assert "is not empty, and no index" in error_of(capsys, "index", encoded_by, pictures, "--out", pictures)


def test_a_stopped_command_goes_on(encoded_by, pictures, tmp_path, monkeypatch, capsys):
    from selfsame.jobs import indexing

    monkeypatch.setattr(indexing, "PART", 16)
    looked = []

    class Stopped(Exception):
        pass

    def stopping(*given, **settings):
        for chunk in indexing_encoded(*given, **settings):
            looked.append(len(chunk[0]))
            if sum(looked) > 40:
                raise Stopped
            yield chunk

    indexing_encoded = indexing.encoded
    monkeypatch.setattr(indexing, "encoded", stopping)
    with pytest.raises(Stopped):
        ss.index(encoded_by, pictures, tmp_path / "idx", workers=0, batch_size=8)
    monkeypatch.setattr(indexing, "encoded", indexing_encoded)
    part = opened(tmp_path / "idx")
    assert len(part) == 32 and part.unfinished == str(pictures)
    _, shown = answer(capsys, "search", tmp_path / "idx", part.names[0], "-k", 1)
    assert "is not finished" in shown
    told, _ = answer(capsys, "index", encoded_by, pictures, "--out", tmp_path / "idx", "--workers", 0)
    assert told["items"] == 64 and opened(tmp_path / "idx").unfinished is None
    whole = ss.index(encoded_by, pictures, tmp_path / "whole", workers=0)
    assert list(whole.names) == list(opened(tmp_path / "idx").names)
    np.testing.assert_allclose(whole.vectors, opened(tmp_path / "idx").vectors, atol=1e-6)


def test_unreadable_items_are_left_out_and_too_many_refused(encoded_by, pictures, tmp_path, capsys):
    some = shutil.copytree(pictures, tmp_path / "some")
    (some / "disc" / "00.png").write_bytes(b"no picture")
    refused = error_of(capsys, "index", encoded_by, some, "--out", tmp_path / "idx", "--workers", 0)
    assert "1 of 64 items" in refused and "--max-skipped" in refused
    words = ["index", encoded_by, some, "--out", tmp_path / "idx", "--workers", 0, "--max-skipped", 0.1]
    told, shown = answer(capsys, *words)
    assert told["items"] == 63 and told["skipped"] == 1 and "skipped disc/00.png" in shown


def test_a_text_is_a_query_itself_where_texts_lie(tmp_path, capsys):
    lines = [
        f"{who} {does} the {what}" for who in ("she", "he") for does in ("eats", "sees") for what in ("apple", "car")
    ]
    (tmp_path / "said.txt").write_text("\n".join(lines * 2) + "\n")
    source = text.open_source(str(tmp_path / "said.txt"))
    stats, _ = text.measure(source)
    torch.manual_seed(0)
    text.save_encoder(text.make_encoder("conv-tiny", 16, stats), tmp_path / "run")
    ss.index(tmp_path / "run", tmp_path / "said.txt", tmp_path / "idx", workers=0)
    told, _ = answer(capsys, "search", tmp_path / "idx", "he sees the car", "-k", 2)
    assert told["queries"][0]["query"] == "he sees the car"
    assert {one["name"] for one in told["queries"][0]["found"]} == {"said.txt:8", "said.txt:16"}
    assert {one["text"] for one in told["queries"][0]["found"]} == {"he sees the car"}
    answer(capsys, "search", tmp_path / "idx", "he sees the car", "-k", 2, "--picture", tmp_path / "x.png")
    page = np.asarray(Image.open(tmp_path / "x.png").convert("RGB"))
    assert (page == 128).all(-1).mean() < 0.01  # the words that were typed have a card as well


def test_an_encoder_that_learned_from_a_column_answers_lines(tmp_path, capsys):
    said = ["she eats", "he sees", "it grows", "we sing"] * 4
    (tmp_path / "said.csv").write_text("\n".join(["words", *said]) + "\n")
    (tmp_path / "lines.txt").write_text("\n".join(said[:4]) + "\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one.txt").write_text("she eats\n")
    source = text.open_source(str(tmp_path / "said.csv"), reading={"column": "words"})
    stats, _ = text.measure(source)
    torch.manual_seed(0)
    encoder = text.make_encoder("conv-tiny", 16, stats)
    encoder.spec["reading"] = {"column": "words"}
    text.save_encoder(encoder, tmp_path / "run")
    ss.index(tmp_path / "run", tmp_path / "said.csv", tmp_path / "idx", workers=0)
    told, _ = answer(capsys, "search", tmp_path / "idx", tmp_path / "lines.txt", "-k", 4)
    assert [{one["text"] for one in each["found"]} for each in told["queries"]] == [{one} for one in said[:4]]
    assert len(ss.search(tmp_path / "idx", tmp_path / "folder", 1)) == 1


def test_the_size_at_which_search_grows_approximate_is_said(index, encoded_by, pictures, capsys, monkeypatch):
    words = ["index", encoded_by, pictures, "--out", index, "--add", "--workers", 0, "--approximate-above"]
    told, shown = answer(capsys, *words, 65)
    assert "approximate" not in told and "search is exact: 64 items, and it is approximate from 65 on" in shown
    monkeypatch.setattr(Folder, "approximate", failing)
    assert main([str(word) for word in [*words, 64]]) == 2
    assert "error: no room. The items are in the index; search in it is as it was." in capsys.readouterr().err


def failing(self):
    raise UserError("no room.")
