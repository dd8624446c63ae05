import pytest
import torch

from selfsame.downstream.protocol import Row, beats
from selfsame.downstream.similarity import ranks, similarity, spearman
from selfsame.errors import UserError


def test_spearman_equals_known_values():
    gold = torch.tensor([0, 1, 2.5, 3.8, 5])
    assert spearman(torch.tensor([0.1, 0.4, 0.35, 0.7, 0.9]), gold) == pytest.approx(0.9)
    tied = torch.tensor([1.0, 1, 2, 3]), torch.tensor([0.1, 0.2, 0.2, 0.4])
    assert spearman(*tied) == pytest.approx(0.833333, abs=1e-6)
    assert ranks(torch.tensor([3.0, 1, 3, 2, 3])).tolist() == [3, 0, 3, 1, 3]


def test_spearman_equals_scipy_with_many_ties():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randint(0, 6, (2, 200), generator=generator).double()
    assert spearman(one, two) == pytest.approx(stats.spearmanr(one.numpy(), two.numpy()).statistic)


def test_it_is_the_order_that_counts():
    one = torch.rand(30, generator=torch.Generator().manual_seed(1))
    assert spearman(one, one.exp() * 9) == pytest.approx(1) and spearman(one, -(one**3)) == pytest.approx(-1)
    assert spearman(one, torch.ones(30)) == 0


def test_the_similarity_is_the_cosine_whatever_the_lengths():
    angle = torch.linspace(0, 3, 12)
    one, two = (
        torch.tensor([[2.0, 0]]).repeat(12, 1),
        torch.stack([angle.cos(), angle.sin()], 1) * torch.rand(12, 1).add(1),
    )
    assert similarity(one, two, -angle) == pytest.approx(1)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UserError, match=r"3 or more"):
        spearman(torch.ones(2), torch.ones(2))
    with pytest.raises(UserError, match=r"no finite numbers"):
        spearman(torch.tensor([1.0, float("nan"), 2]), torch.ones(3))
    with pytest.raises(UserError, match=r"as many of one as of the other"):
        similarity(torch.ones(4, 2), torch.ones(3, 2), torch.ones(4))


def test_a_verdict_on_correlations_has_their_error():
    rows = [Row.of("encoder", "similarity", "none", [0.6]), Row.of("raw", "similarity", "none", [0.5])]
    (few,), (many,) = beats(rows, 50), beats(rows, 5000)
    assert not few.wins and many.wins
    assert few.margin == pytest.approx(2 * ((0.64**2 + 0.75**2) / 49) ** 0.5)
    assert Row.of("raw", "similarity", "none", [-0.2]).mean == -0.2


def test_equal_ranks_are_never_over_1():
    for n in range(3, 200):
        order = torch.arange(float(n))
        assert spearman(order, order) <= 1 and spearman(order, -order) >= -1
