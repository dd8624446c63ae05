import numpy as np
import pytest

from selfsame.errors import UserError
from selfsame.index import hamming
from selfsame.index.hamming import distance, pairs_within


def flipped(codes, bits, rng):
    """The codes with so many bits turned."""
    out = codes.copy()
    for row in range(len(out)):
        for bit in rng.permutation(64)[:bits]:
            out[row] ^= np.uint64(1) << np.uint64(bit)
    return out


def many(seed=0, n=400):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**64, n, dtype=np.uint64)
    return np.concatenate([codes, *(flipped(codes[:40], bits, rng) for bits in (0, 1, 3, 6, 9, 11))])


def brute(codes, radius, others=None):
    bits = distance(codes[:, None], codes)
    if others is not None:
        bits = np.minimum(bits, distance(codes[:, None], others))
        bits = np.minimum(bits, bits.T)
    return np.stack(np.nonzero(np.triu(bits <= radius, 1)), axis=1)


@pytest.mark.parametrize("radius", [0, 3, 4, 7, 11])
def test_no_pair_is_missed(radius, monkeypatch):
    monkeypatch.setattr(hamming, "AT_ONCE", 1000)
    codes = many()
    found, scores = pairs_within(codes, radius)
    assert found.tolist() == brute(codes, radius).tolist() and len(found) >= 40
    np.testing.assert_allclose(scores, 1 - distance(codes[found[:, 0]], codes[found[:, 1]]) / 64)


def test_a_second_code_finds_the_mirror_images():
    codes = many()
    rng = np.random.default_rng(1)
    mirrored = rng.integers(0, 2**64, len(codes), dtype=np.uint64)
    codes[-20:], mirrored[-20:] = mirrored[:20], codes[:20]  # the last are mirror images of the first
    found, scores = pairs_within(codes, 3, mirrored)
    assert found.tolist() == brute(codes, 3, mirrored).tolist()
    pairs = dict(zip(map(tuple, found.tolist()), scores.tolist(), strict=True))
    assert all(pairs[k, len(codes) - 20 + k] == 1.0 for k in range(20))


def test_of_wide_differences_there_are_too_many_candidates():
    with pytest.raises(UserError, match="0 to 11 of 64"):
        pairs_within(many(), 12)
    assert len(pairs_within(np.zeros(0, np.uint64), 4)[0]) == 0
