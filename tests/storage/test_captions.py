from PIL import ImageFont

from selfsame.storage import captions
from selfsame.storage.captions import font_for, shortened


def test_plain_words_are_in_pillows_own_font():
    assert font_for("photo 12.jpg", 12).getname() == ImageFont.load_default(size=12).getname()


def test_a_font_is_taken_that_has_the_letters(monkeypatch):
    own = captions.lacking(ImageFont.load_default(size=12), "äé")
    assert own == 2
    assert captions.lacking(font_for("Käse café", 12), "äé") <= own  # equal where the machine has no other font
    monkeypatch.setattr(captions, "OFTEN", ("no such font.ttf",))
    assert font_for("ü", 13).getname() == ImageFont.load_default(size=13).getname()


def test_names_are_cut_at_their_beginning():
    font = font_for("", 12)
    assert shortened("short", 100, font) == "short"
    cut = shortened("a rather long name of a file.jpg", 60, font)
    assert cut.startswith("…") and cut.endswith(".jpg") and font.getlength(cut) <= 60
