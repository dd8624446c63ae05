import numpy as np
import pytest

from selfsame.index.exact import search


def units(count, seed, dim=16):
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("queries", [1, 3, 4, 257])
@pytest.mark.parametrize(("items", "k"), [(1, 1), (7, 7), (17_000, 10), (8_192 + 5, 1), (1_500, 400), (8_200, 8_200)])
def test_the_largest_of_all_products_are_found(items, k, queries):
    vectors, asked = units(items, 0), units(min(queries, 5 if k == 8_200 else queries), 1)
    cosines, places = search(vectors, asked, k)
    products = asked @ vectors.T
    np.testing.assert_allclose(cosines, -np.sort(-products, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(products, places, 1), cosines, atol=1e-6)
    assert all(len(set(line)) == k for line in places.tolist())


@pytest.mark.parametrize("queries", [1, 40])
def test_of_some_rows_only_those_are_compared(queries):
    vectors, asked = units(20_000, 0), units(queries, 1)
    rows = np.flatnonzero(np.arange(20_000) % 3 == 1)
    cosines, places = search(vectors, asked, 10, rows)
    alone, at = search(vectors[rows], asked, 10)
    np.testing.assert_array_equal(places, rows[at])
    np.testing.assert_array_equal(cosines, alone)


def test_a_memory_map_is_searched_without_being_read_into_memory(tmp_path):
    vectors = units(10_000, 0)
    vectors.tofile(tmp_path / "x.f32")
    mapped = np.memmap(tmp_path / "x.f32", np.float32, "c", shape=vectors.shape)
    for queries in (1, 40):
        for one, two in zip(search(mapped, vectors[:queries], 5), search(vectors, vectors[:queries], 5), strict=True):
            np.testing.assert_array_equal(one, two)


def test_equal_vectors_are_all_found_and_cosines_stay_in_range():
    vectors = np.repeat(units(1, 0, 512), 5_000, axis=0)
    for queries in (1, 8):
        cosines, places = search(vectors, vectors[:queries], 20)
        assert (
            (cosines <= 1).all() and np.allclose(cosines, 1) and all(len(set(line)) == 20 for line in places.tolist())
        )


def test_no_query_finds_nothing():
    cosines, places = search(units(5, 0), np.zeros((0, 16), np.float32), 2)
    assert cosines.shape == places.shape == (0, 2)
