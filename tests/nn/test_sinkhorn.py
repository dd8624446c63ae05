"""Golden values of fact sheet C0."""

import pytest
import torch
import torch.nn.functional as F

from selfsame.nn.sinkhorn import sinkhorn

S = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.3, 0.1], [0.7, 0.2, 0.4], [0.85, 0.15, 0.05]], dtype=torch.float64)


def test_one_three_and_very_many_iterations():
    once = sinkhorn(S, 0.05, 1)
    assert once[0].tolist() == pytest.approx([0.976882, 0.022621, 0.000497], abs=1e-6)
    assert once.sum(0).tolist() == pytest.approx([1.935217, 1.169489, 0.895294], abs=1e-6)
    thrice = sinkhorn(S, 0.05, 3)
    golden = [
        [0.946552, 0.051425, 0.002023],
        [0.043413, 0.951520, 0.005067],
        [0.002697, 0.059107, 0.938196],
        [0.705601, 0.283254, 0.011145],
    ]
    assert torch.allclose(thrice, torch.tensor(golden, dtype=torch.float64), atol=1e-6)
    many = sinkhorn(S, 0.05, 100)
    assert many.sum(0).tolist() == pytest.approx([4 / 3] * 3, abs=1e-6)
    assert many[3].tolist() == pytest.approx([0.452102, 0.339254, 0.208644], abs=1e-6)


def test_rows_sum_to_one_and_no_scores_are_too_large():
    for scores in (S.float() * 1000, S.half() * 100, torch.zeros(5, 4)):
        found = sinkhorn(scores)
        assert found.isfinite().all() and torch.allclose(found.sum(1), torch.ones(len(found)).to(found), atol=1e-5)
    assert torch.allclose(sinkhorn(torch.zeros(5, 4)), torch.full((5, 4), 0.25))


def in_logarithms(scores, epsilon, iterations):
    """The same, written out."""
    q = scores / epsilon
    for _ in range(iterations):
        q = q - q.logsumexp(dim=0)
        q = q - q.logsumexp(dim=1, keepdim=True)
    return q.exp()


@pytest.mark.parametrize("epsilon", [0.02, 0.05, 1.0])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_scaling_rows_and_columns_is_the_same_as_all_in_logarithms(epsilon, iterations):
    generator = torch.Generator().manual_seed(0)
    cosines = F.normalize(torch.randn(60, 8, generator=generator), dim=1) @ F.normalize(
        torch.randn(8, 40, generator=generator), dim=0
    )
    cosines[:, 3] -= 0.9  # a prototype that is far from all
    for scores in (cosines, 50 * cosines):
        exact = in_logarithms(scores.double(), epsilon, iterations)
        torch.testing.assert_close(sinkhorn(scores, epsilon, iterations).double(), exact, rtol=0, atol=2e-5)


def test_rows_that_are_not_counted_are_assigned_and_change_nothing_for_the_others():
    extra = torch.tensor([[0.1, 0.9, 0.3], [0.2, 0.1, 0.8]], dtype=torch.float64)
    counted = torch.tensor([True, True, False, True, True, False])
    rows = torch.cat([S[:2], extra[:1], S[2:], extra[1:]])
    found = sinkhorn(rows, 0.05, 3, counted)
    assert torch.allclose(found[counted], sinkhorn(S, 0.05, 3))
    assert torch.allclose(found.sum(1), torch.ones(6, dtype=torch.float64))
    assert found[2].argmax() == 1 and found[5].argmax() == 2
    assert torch.equal(sinkhorn(rows, 0.05, 3, counted, wanted=2), found[:2])
    far = rows + torch.tensor([0.0, 0, 50, 0, 0, -50])[:, None]  # what does not count may be of any size
    assert torch.allclose(sinkhorn(far, 0.05, 3, counted)[counted], sinkhorn(S, 0.05, 3))
