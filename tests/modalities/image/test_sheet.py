import numpy as np
import pytest
import torch
from PIL import Image

from selfsame.modalities.image.sheet import CELL, GAP, MARGIN, drawn, drawn_sheet, shown

RED = torch.tensor([1.0, 0.0, 0.0])[:, None, None]


def column(sheet: Image.Image, number: int) -> tuple[int, ...]:
    """The colour in the middle of a cell of the first row; 0 is the item."""
    left = MARGIN + number * (CELL + GAP) + (GAP if number else 0)
    return sheet.getpixel((left + CELL // 2, MARGIN + CELL // 2 + 18))


def test_each_row_is_an_item_and_its_views():
    items = [Image.new("RGB", (60, 40), "blue"), Image.new("L", (10, 300), 200)]
    views = [[RED.expand(3, 32, 32), RED.flip(0).expand(3, 96, 96)], [RED.expand(3, 8, 8), RED.expand(3, 8, 8)]]
    one, two = drawn_sheet(items[:1], views[:1], ["a"]), drawn_sheet(items, views, ["a", "b"])
    assert [column(two, k) for k in range(3)] == [(0, 0, 255), (255, 0, 0), (0, 0, 255)]
    assert one.width == two.width and one.height < two.height
    assert two.mode == "RGB" and two.getpixel((0, 0)) == (255, 255, 255)


def test_gray_and_many_channels_can_be_seen():
    gray = drawn(torch.full((1, 4, 4), 0.4))
    assert gray.getpixel((0, 0)) == (102, 102, 102)
    faint = torch.zeros(13, 2, 2)
    faint[0, 0, 0], faint[1, 1, 1], faint[5] = 0.01, 0.5, 1.0
    bands = np.asarray(drawn(faint))
    assert bands[0, 0].tolist() == [255, 0, 0] and bands[1, 1].tolist() == [0, 255, 0]


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_items_are_stretched_not_clipped(kind):
    values = np.array([[1000, 1500], [2000, 1000]], dtype=kind)
    assert np.asarray(shown(Image.fromarray(values)))[..., 0].tolist() == [[0, 128], [255, 0]]


def test_a_long_name_stays_in_its_column():
    items, views = [Image.new("RGB", (8, 8))], [[RED.expand(3, 8, 8)]]
    short, long = (np.asarray(drawn_sheet(items, views, [name])) for name in ("", "folder/" * 30 + "item.png"))
    assert short.shape == long.shape
    columns = (short != long).any((0, 2)).nonzero()[0]
    assert columns.min() >= MARGIN and MARGIN + CELL / 2 < columns.max() <= MARGIN + CELL


def test_items_without_views_are_drawn():
    assert column(drawn_sheet([Image.new("RGB", (8, 8), "lime")], [[]], ["x"]), 0) == (0, 255, 0)
