import pytest
import torch
from torch.testing import assert_close

from selfsame.nn.whiten import EPS, GROUP, SHRINK, Whiten, inverse_root
from tests.processes import SHARES, outcomes, whitened

WHOLE = slice(0, 8)


def correlated(rows, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return 5 + torch.randn(rows, width, generator=generator, dtype=torch.float64) @ mixing


def zca(x):
    """The slow way: eigenvalues of each group's shrunk covariance."""
    parts = []
    for group in x.split(min(GROUP, x.shape[1]), dim=1):
        centred = group - group.mean(0)
        covariance = centred.T @ centred / len(x)
        shrunk = covariance + (SHRINK * covariance.diagonal().mean() + EPS) * torch.eye(group.shape[1]).double()
        values, vectors = torch.linalg.eigh(shrunk)
        parts.append(centred @ vectors @ torch.diag(values.rsqrt()) @ vectors.T)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(("width", "size"), [(32, 16), (16, 16), (24, 12), (6, 6), (17, 1)])
def test_groups_are_the_largest_that_divide_the_width(width, size):
    assert Whiten(width).size == size


@pytest.mark.parametrize("width", [4, 32])
def test_it_is_zca_of_each_group(width):
    noise = torch.randn(400, width, generator=torch.Generator().manual_seed(1)).double()
    x = 3 + noise @ (torch.eye(width).double() + 0.05)  # so well conditioned that the iteration has arrived
    assert_close(Whiten(width)(x), zca(x), atol=5e-3, rtol=0)


def test_columns_of_a_group_come_out_uncorrelated_with_variance_one():
    x = correlated(500, 32)
    x = x + 8 * torch.randn(500, 1, generator=torch.Generator().manual_seed(3)).double()  # what all have in common
    y = Whiten(32)(x)
    assert_close(y.mean(0), torch.zeros(32).double(), atol=1e-9, rtol=0)
    before = torch.corrcoef(x[:, :16].T) - torch.eye(16)
    after = y[:, :16].T @ y[:, :16] / 500 - torch.eye(16)
    assert before.abs().max() > 0.5
    assert after.abs().max() < 0.2 * before.abs().max()


def test_a_rotation_of_a_group_rotates_its_output():
    x = correlated(50, 8)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)).double())[0]
    assert_close(Whiten(8)(x @ turn), Whiten(8)(x) @ turn, atol=1e-8, rtol=0)


def test_its_gradient_is_right():
    assert torch.autograd.gradcheck(Whiten(8), correlated(6, 8).requires_grad_())


@pytest.mark.parametrize("x", [torch.full((8, 32), 3.0), torch.randn(2, 32), 1e4 * torch.randn(8, 32)])
def test_degenerate_batches_stay_finite(x):
    x = x.clone().requires_grad_()
    y = Whiten(32)(x)
    y.square().sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()


def test_it_computes_in_float32_under_autocast():
    x = correlated(64, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = Whiten(16)(x)
    assert_close(y, Whiten(16)(x), atol=0, rtol=0)
    assert Whiten(16)(x.bfloat16()).dtype == torch.float32


def test_small_directions_are_raised_no_further_than_the_iteration_allows():
    covariance = torch.diag(torch.tensor([1.0] * 15 + [0.0])).double()[None]
    gain = inverse_root(covariance)[0].diagonal()
    assert gain[0] == pytest.approx(1, abs=0.02) and 1 < gain[-1] < 0.01**-0.5 + 0.1


def test_two_processes_whiten_like_one_with_the_whole_batch():
    told = [one["whitened"] for one in outcomes()[1]]
    whole = whitened(WHOLE)
    for key in ("y", "x"):
        assert_close(torch.cat([part[key] for part in told]), whole[key], atol=1e-9, rtol=1e-9)
    assert not torch.allclose(whitened(SHARES[0])["y"], whole["y"][SHARES[0]], atol=1e-2)
