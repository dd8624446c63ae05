"""Golden values of InfoNCE and NT-Xent (fact sheet B0, B1, B3, B5)."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor

from selfsame.nn import contrast
from selfsame.nn.contrast import against, in_batch, nt_xent

Q, K = tensor([[1.0, 0.0]]), tensor([[0.6, 0.8]])
QUEUE = tensor([[0.0, 1.0], [-1.0, 0.0], [0.8, 0.6]])
ONE, TWO = tensor([[1.0, 0.0], [0.0, 1.0]]), tensor([[0.8, 0.6], [0.6, 0.8]])


@pytest.mark.parametrize(("temperature", "golden"), [(0.07, 2.912997), (0.2, 1.326652), (1.0, 1.089272)])
def test_the_loss_against_a_queue(temperature, golden):
    assert float(against(Q, K, QUEUE, temperature)) == pytest.approx(golden, abs=1e-5)


@pytest.mark.parametrize("count", [1, 255, 4096])
def test_equal_logits_cost_the_log_of_the_candidates(count):
    same = torch.ones(1, 4)
    assert float(against(same, same, same.expand(count, 4), 0.2)) == pytest.approx(math.log(1 + count), abs=1e-5)


def test_the_partner_in_the_batch():
    assert float(in_batch(ONE, TWO, 0.2)) == pytest.approx(0.313262, abs=1e-6)


@pytest.mark.parametrize(("temperature", "golden"), [(0.5, 0.870714), (0.1, 0.966802)])
def test_nt_xent(temperature, golden):
    assert float(nt_xent(ONE, TWO, temperature)) == pytest.approx(golden, abs=1e-6)
    assert float(nt_xent(TWO, ONE, temperature)) == pytest.approx(golden, abs=1e-6)


def test_nt_xent_of_each_row(monkeypatch):
    monkeypatch.setattr(contrast.F, "cross_entropy", functools.partial(F.cross_entropy, reduction="none"))
    assert nt_xent(ONE, TWO, 0.5).tolist() == pytest.approx([0.627123, 0.627123, 1.114304, 1.114304], abs=1e-6)


def test_nt_xent_of_equal_vectors_and_of_equal_views():
    same = torch.ones(4, 3)
    assert float(nt_xent(same, same, 0.1)) == pytest.approx(math.log(7), abs=1e-5)
    assert float(nt_xent(torch.eye(2), torch.eye(2), 0.5)) == pytest.approx(-2 + math.log(math.e**2 + 2), abs=1e-6)


def test_the_order_and_length_of_vectors_do_not_matter_nor_does_half_precision():
    one, two = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    turn = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    for loss in (in_batch, nt_xent):
        assert loss(one[turn], two[turn], 0.2) == pytest.approx(float(loss(one, two, 0.2)), abs=1e-5)
        assert loss(100 * one, two, 0.2) == pytest.approx(float(loss(one, two, 0.2)), abs=1e-5)
        assert loss(100 * one.half(), 100 * two.half(), 0.05).isfinite()


def test_similarities_are_float32_under_autocast():
    one, two = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    for loss in (in_batch, nt_xent, lambda q, k, t: against(q, k, one, t)):
        with torch.autocast("cpu", torch.bfloat16):
            found = float(loss(one, two, 0.05))
        assert found == pytest.approx(float(loss(one, two, 0.05)), abs=1e-5)
