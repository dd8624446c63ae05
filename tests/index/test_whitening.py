import numpy as np
import pytest

from selfsame.index.whitening import Whitening, unit


def lopsided(n=2000, d=12, seed=0):
    """Vectors of which a few directions hold nearly all variance, far from 0."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.standard_normal((d, d)))[0] * np.geomspace(20, 0.5, d)[:, None]
    return (rng.standard_normal((n, d)) @ mixing + 5).astype(np.float32)


def test_directions_have_equal_variance_and_vectors_length_one():
    x = lopsided()
    white = Whitening.fitted(x)
    made = (x - white.mean) @ white.axes
    np.testing.assert_allclose(np.cov(made.T)[:4, :4], np.eye(4), atol=0.05)
    assert white(x).shape == (2000, 12) and np.allclose(np.linalg.norm(white(x), axis=1), 1)


def test_copies_stand_out_where_edits_change_what_varies_most():
    x = lopsided()
    copies = x[:100] + 0.3 * (x[1000:1100] - x.mean(0))
    white = Whitening.fitted(x)

    def told_apart(make):
        """Share of items whose copy is nearer than all but one in ten thousand of the others."""
        others = make(x[:100]) @ make(x[1100:]).T
        return ((make(copies) * make(x[:100])).sum(1) > np.quantile(others, 0.9999)).mean()

    assert told_apart(white) > 0.8
    assert told_apart(unit) < 0.6 and told_apart(lambda v: unit(v - x.mean(0))) < 0.6


def test_in_blocks_it_is_the_same(monkeypatch):
    x = lopsided(500)
    whole = Whitening.fitted(x)(x)
    monkeypatch.setattr("selfsame.index.whitening.ROWS", 77)
    np.testing.assert_allclose(Whitening.fitted(x)(x), whole, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 7, 9, 40])
def test_few_items_or_all_alike_give_finite_vectors(n):
    x = lopsided(n)
    assert np.isfinite(Whitening.fitted(x)(x)).all()
    assert Whitening.fitted(x).axes.shape[1] == (12 if n < 8 or n >= 48 else min(12, n // 4))
    alike = np.ones((n, 5), np.float32)
    assert not Whitening.fitted(alike)(alike).any()
