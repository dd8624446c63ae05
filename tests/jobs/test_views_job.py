import json

import pytest
from PIL import Image

import selfsame as ss
from selfsame.cli import main
from tests.conftest import paint


def test_a_sheet_shows_items_and_their_views(pictures, tmp_path):
    few = ss.views(pictures, tmp_path / "few.png", count=2, each=3, size=16)
    many = ss.views(pictures, tmp_path / "many.png", count=6, each=3, size=16)
    assert few["size"] == 16 and few["views"]["size"] == 16 and few["out"] == str(tmp_path / "few.png")
    with Image.open(many["out"]) as large, Image.open(few["out"]) as small:
        assert large.width == small.width and large.height > 2 * small.height
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.png", "many.png"]


def test_the_seed_draws_the_sheet(pictures, tmp_path):
    names = [(0, "a"), (0, "b"), (1, "c")]
    for seed, name in names:
        ss.views(pictures, tmp_path / f"{name}.png", count=2, each=2, seed=seed)
    bits = [(tmp_path / f"{name}.png").read_bytes() for _, name in names]
    assert bits[0] == bits[1] != bits[2]


def test_one_item_alone_is_mixed_with_others_of_the_data(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{k},{k * k}\n" for k in range(1, 40)))
    views = {"name": "saint", "two": {"cutmix": 1.0, "mixup": 0.0}}
    ss.views(tmp_path / "t.csv", tmp_path / "x.txt", count=1, each=2, modality="table", views=views)
    row = next(line for line in (tmp_path / "x.txt").read_text().splitlines() if line.startswith("  x "))
    assert row.split()[-2] == "." != row.split()[-1]


def test_strengths_are_those_given(pictures, tmp_path):
    result = ss.views(pictures, tmp_path / "x.png", count=1, each=2, views={"name": "weak", "one": {"flip": 1.0}})
    assert result["views"]["one"]["flip"] == 1.0 and result["views"]["one"]["jitter"] == 0.0
    assert result["views"]["two"]["flip"] == 0.5


def test_every_second_view_is_of_a_related_item(tmp_path, monkeypatch, capsys):
    """Two plain pictures in each folder: what a view was cut from is told by its colour."""
    colours = {"a/1": 10, "a/2": 60, "b/1": 120, "b/2": 180}
    for name, grey in colours.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (grey,) * 3).save(tmp_path / "data" / f"{name}.png")
    shown = []

    def looked_at(source, items, views, names):
        shown.extend(zip(names, views, strict=True))
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("selfsame.modalities.image.contact_sheet", looked_at)
    ss.views(tmp_path / "data", tmp_path / "x.png", each=4, parts=1, views="crop", size=16, related="folders")
    assert [name for name, _ in shown] == [f"{name}.png" for name in colours]
    for name, views in shown:
        other = f"{name[:2]}{3 - int(name[2])}"
        wanted = [colours[one] for one in (name[:3], other, name[:3], other, name[:3])]
        assert [round(float(view.mean()) * 255) for view in views] == wanted
    assert "every second of a related item (by folder, 2 groups)" in " ".join(capsys.readouterr().err.split())


def test_a_relative_that_cannot_be_read_gives_way_to_the_item(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "b").mkdir()
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2"):
        Image.fromarray(paint(1, 1)).save(tmp_path / "data" / f"{name}.png")
    whole = (tmp_path / "data" / "a" / "2.png").read_bytes()
    (tmp_path / "data" / "a" / "2.png").write_bytes(whole[: len(whole) // 2])
    ss.views(tmp_path / "data", tmp_path / "x.png", related="folders", max_skipped=0.5)
    assert (tmp_path / "x.png").exists()


def test_one_image_is_enough(tmp_path):
    Image.fromarray(paint(1, 1)).save(tmp_path / "one.png")
    ss.views(tmp_path / "one.png", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").exists()


def test_the_data_are_never_written_over(tmp_path, capsys):
    Image.fromarray(paint(1, 1)).save(tmp_path / "one.png")
    texts = "".join(f"the {name} and the harbour\n" for name in ("sea", "gull", "storm", "sail"))
    (tmp_path / "notes.txt").write_text(texts)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for data, out in (("one.png", "one.png"), ("notes.txt", "notes.png")):  # of texts NAME.txt is written
        assert main(["views", str(tmp_path / data), "--out", str(tmp_path / out)]) == 2
        assert f"{data} is the data themselves" in capsys.readouterr().err
    for data in (".", "*.png"):  # a photo of a folder
        arguments = ["views", str(tmp_path / data), "--modality", "image", "--out", str(tmp_path / "one.png")]
        assert main(arguments) == 2
        assert "one.png is one of the data, one.png, which would be lost" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_prints_one_json_document(pictures, tmp_path, capsys):
    argv = ["views", str(pictures), "--out", str(tmp_path / "x.png"), "--count", "1", "--views.one.flip", "0", "--json"]
    assert main(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["out"] == str(tmp_path / "x.png") and result["views"]["one"]["flip"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "none"}, "none: no such file or folder"),
        ({"views": "weack"}, "unknown recipe of views 'weack'. Did you mean 'weak'"),
        ({"views": {"one": {"jiter": 1}}}, "unknown key of views.one 'jiter'. Did you mean 'jitter'"),
        ({"counts": 3}, "unknown key 'counts'. Did you mean 'count'"),
        ({"related_window": 2}, "--related-window says how far related items may be apart: give --related too"),
        ({"related": "folders", "each": 1}, "--related shows pairs of views: give --each 2 or more"),
        ({"related": "folders", "related_window": 0.5}, "none of the 64 items has a related one within 0.5. Raise"),
        ({"count": 0}, "--count 0: input should be greater than or equal to 1"),
    ],
)
def test_wrong_input_is_said_in_one_line(pictures, tmp_path, settings, message):
    with pytest.raises(ss.UserError, match=message) as error:
        ss.views(**{"data": pictures, "out": tmp_path / "x.png", **settings})
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
