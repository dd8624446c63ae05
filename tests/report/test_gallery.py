import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from selfsame.errors import UnreadableItem
from selfsame.report import gallery
from selfsame.report.gallery import data_uri, layout, map_of_items, nearest, neighbours, sheet_uri


def opened(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def plain(i: int) -> Image.Image:
    return Image.new("RGB", (40, 30), (i * 7 % 256, 90, 120))


def noise(i: int) -> Image.Image:
    pixels = np.random.default_rng(i).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def named(n: int) -> list[str]:
    return [f"item {i}" for i in range(n)]


def test_small_pictures_survive_the_data_uri_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert (np.asarray(opened(data_uri(Image.fromarray(pixels))).convert("RGB")) == pixels).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"])
def test_every_mode_of_pillow_becomes_a_data_uri(mode):
    assert opened(data_uri(Image.new(mode, (20, 10)))).size == (20, 10)


def test_pictures_of_more_than_eight_bits_are_stretched_over_the_range():
    deep = Image.fromarray(np.array([[1000, 3000]], dtype=np.uint16))
    assert np.asarray(opened(data_uri(deep)).convert("L")).tolist() == [[0, 255]]
    broken = Image.fromarray(np.array([[np.nan, 2.0, 0.0]], dtype=np.float32))
    assert np.asarray(opened(data_uri(broken)).convert("L")).tolist() == [[0, 255, 0]]


def test_a_huge_noisy_sheet_is_held_under_its_share():
    uri = sheet_uri(Image.fromarray(np.random.default_rng(0).integers(0, 256, (2400, 2400, 3), dtype=np.uint8)))
    assert len(uri) <= gallery.BYTES["sheet"]


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_neighbours_are_those_of_a_full_sort(monkeypatch, block):
    monkeypatch.setattr(gallery, "BLOCK", block)
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found, cosines = nearest(vectors, [3, 49, 0], 5)
    for row, query in enumerate([3, 49, 0]):
        every = unit @ unit[query]
        expected = [i for i in np.argsort(-every) if i != query][:5]
        assert found[row].tolist() == expected
        assert cosines[row] == pytest.approx(every[expected], abs=1e-6)


def test_of_equal_neighbours_the_lower_number_comes_first_and_the_query_never(monkeypatch):
    monkeypatch.setattr(gallery, "BLOCK", 2)
    found, cosines = nearest(np.ones((6, 3)), [2, 5], 3)
    assert found.tolist() == [[0, 1, 3], [0, 1, 2]] and cosines == pytest.approx(1)


def test_vectors_that_are_not_finite_are_the_last_neighbours():
    vectors = np.array([[1.0, 0], [np.nan, 1], [-1, 0], [0, 0], [np.inf, 1]])
    found, cosines = nearest(vectors, [0], 4)
    assert found.tolist() == [[3, 2, 1, 4]]
    assert cosines[0, :2].tolist() == [0, -1] and np.isnan(cosines[0, 2:]).all()


@pytest.mark.parametrize("n", [2, 3])
def test_few_items_have_as_many_neighbours_as_there_are_others(n):
    html = neighbours(np.eye(n), plain, named(n), range(n), k=8)
    assert html.count('class="strip"') == n and html.count("<img") == n * n


@pytest.mark.parametrize(("n", "queries"), [(0, []), (1, [0]), (4, [])])
def test_without_neighbours_there_is_a_sentence(n, queries):
    assert "No neighbours to show" in neighbours(np.eye(n, 3), plain, named(n), queries, k=3)


def test_neighbours_with_the_label_of_their_query_are_counted():
    vectors = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1.0]])
    html = neighbours(vectors, plain, named(4), [0], k=2, labels=["cat", "cat", "dog", "dog"])
    assert "1 of 2 neighbours carry the label" in html and html.count("tile same") == 1


def test_names_and_labels_are_escaped():
    hostile = ['"><script>alert(1)</script>'] * 6
    vectors = np.random.default_rng(0).normal(size=(6, 4))
    html = neighbours(vectors, plain, hostile, [0], 2, labels=hostile) + map_of_items(vectors, plain, hostile, hostile)
    assert "<script" not in html and "&lt;script&gt;" in html


def test_an_item_that_can_no_longer_be_read_is_a_grey_tile():
    def picture(i: int) -> Image.Image:
        if i == 1:
            raise UnreadableItem("truncated")
        return plain(i)

    html = neighbours(np.eye(3), picture, named(3), [0], 2)
    grey = opened(re.findall(r'src="([^"]+)"', html)[1]).convert("RGB")
    assert np.allclose(np.asarray(grey), gallery.NO_PICTURE, atol=3)


def test_layout_puts_groups_apart_and_is_the_same_twice():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(20, 8)) * 0.1 + 5 * np.eye(8)[g] for g in range(3)])
    places = layout(vectors)
    assert (places == layout(vectors)).all()
    group = np.repeat(range(3), 20)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag([np.inf] * 60)
    assert (group[distance.argmin(axis=1)] == group).all()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_too_few_items_for_a_map_get_a_sentence(n):
    assert f"at least 5 items with finite vectors; there are {n}" in map_of_items(np.eye(n, 3), plain, named(n))


@pytest.mark.parametrize("shape", [(5, 8), (9, 1), (6, 2)])
def test_small_maps_show_every_item_inside_the_drawing(shape):
    vectors = np.random.default_rng(1).normal(size=shape)
    html = map_of_items(vectors, plain, named(shape[0]))
    places = re.findall(r'data-item="\d+" data-x="([\d.]+)" data-y="([\d.]+)"', html)
    assert len(places) == shape[0]
    assert all(0 < float(x) < gallery.WIDTH and 0 < float(y) < gallery.HEIGHT for x, y in places)


def test_a_collapsed_encoder_has_no_map_but_a_sentence():
    vectors = np.ones((30, 16)) * np.linspace(1, 2, 30)[:, None]
    assert "all vectors point the same way" in map_of_items(vectors, plain, named(30))


def test_a_map_takes_a_sample_and_names_what_it_leaves_out():
    vectors = np.random.default_rng(0).normal(size=(60, 5))
    vectors[7] = np.nan
    html = map_of_items(vectors, plain, named(60), most=40)
    assert html.count("data-item=") == 40 and "40 of 60 items" in html and "1 without a finite vector" in html
    assert 'data-name="item 7"' not in html


def test_a_map_with_many_classes_colours_the_twelve_most_frequent(monkeypatch):
    monkeypatch.setattr(gallery, "layout", lambda vectors, seed: vectors[:, :2])
    labels = [f"class {i % 14 if i < 56 else i % 12}" for i in range(80)]
    html = map_of_items(np.random.default_rng(0).normal(size=(80, 5)), plain, named(80), labels)
    legend = html.partition('<ul class="legend">')[2].partition("</ul>")[0]
    assert legend.count("<li>") == 13 and "2 other classes" in legend and "class 12" not in legend
    assert html.count('data-label="class 13"') == 4 and html.count(" other") >= 8


def test_galleries_of_noise_keep_to_their_share_of_the_page(monkeypatch):
    monkeypatch.setattr(gallery, "BYTES", {"neighbours": 100_000, "map": 60_000})
    monkeypatch.setattr(gallery, "layout", lambda vectors, seed: vectors[:, :2])
    vectors = np.random.default_rng(0).normal(size=(40, 8))
    few = [noise(i) for i in range(4)]

    def picture(i: int) -> Image.Image:
        return few[i % 4]

    for html, most in (
        (neighbours(vectors, picture, named(40), range(6), 8), 100_000),
        (map_of_items(vectors, picture, named(40)), 60_000),
    ):
        uris = re.findall(r'(?:src|href)="(data:[^"]+)"', html)
        assert most / 4 < sum(map(len, uris)) <= most * 1.05


def test_the_smallest_thumbnails_of_a_thousand_noisy_items_fit():
    worst = len(data_uri(noise(0).resize((24, 24)), 40))
    assert 1000 * worst < gallery.BYTES["map"]
