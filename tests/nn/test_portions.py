import pytest
import torch

from selfsame.nn import portions as module
from selfsame.nn.portions import portions
from selfsame.nn.sinkhorn import sinkhorn
from selfsame.nn.words import coded


@pytest.mark.parametrize("dim", [0, 1])
def test_portions_are_views_of_all_in_its_order(monkeypatch, dim):
    monkeypatch.setattr(module, "CACHED", 30)
    x = torch.arange(120.0).view(6, 4, 5)
    parts = portions(x, dim)
    assert [part.shape[dim] for part in parts] == ([1] * 6 if dim == 0 else [1] * 4)
    assert torch.equal(torch.cat(parts, dim), x)
    parts[0].zero_()
    assert not x.select(dim, 0).any()
    monkeypatch.setattr(module, "CACHED", 60)
    assert [part.shape[dim] for part in portions(x, dim)] == ([3, 3] if dim == 0 else [2, 2])
    assert len(portions(x[:0], dim)) == 1


def test_what_is_worked_on_by_portions_is_what_it_is_as_a_whole(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    scores, distance = torch.rand(50, 9, generator=generator), torch.rand(4, 11, 9, generator=generator)
    counted = torch.rand(50, generator=generator) < 0.7
    whole = sinkhorn(scores), sinkhorn(scores, counted=counted), coded(distance, torch.tensor(9.0))
    monkeypatch.setattr(module, "CACHED", 100)
    assert len(portions(scores)) == 5 and len(portions(distance, 1)) == 6
    parts = sinkhorn(scores), sinkhorn(scores, counted=counted), coded(distance, torch.tensor(9.0))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
