"""What is written for pictures takes the place of nothing that somebody else put there."""

import pytest
from PIL import Image

from selfsame.downstream.outputs import into_folder
from selfsame.errors import UserError


def png(value):
    return lambda path: Image.new("L", (4, 4), value).save(path)


def test_files_of_others_are_never_replaced(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    png(7)(frames / "0.png")
    asked = []

    def named():
        asked.append(1)
        yield "0.png", png(1)

    with pytest.raises(UserError, match=r"holds other things already \(0.png\)"):
        into_folder(named(), ".png", frames, {})
    assert not asked and Image.open(frames / "0.png").getpixel((0, 0)) == 7


def test_what_was_written_before_is_written_again_and_what_lies_beside_it_stays(tmp_path):
    out = tmp_path / "out"
    into_folder([("a/0.jpg", png(1))], ".png", out, {})
    into_folder([("a/0.jpg", png(2)), ("1.jpg", png(3))], ".png", out, {})
    assert Image.open(out / "a" / "0.png").getpixel((0, 0)) == 2
    png(9)(out / "2.png")
    with pytest.raises(UserError, match=r"holds 2.png, which was not written here"):
        into_folder([("2.jpg", png(1))], ".png", out, {})
    assert Image.open(out / "2.png").getpixel((0, 0)) == 9 and (out / "1.png").exists()
