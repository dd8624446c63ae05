import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from selfsame.nn import diagnose
from selfsame.nn.diagnose import alignment, neighbour_agreement, participation_ratio, rankme, spread, uniformity

SQUARE = tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])


def cloud(n: int = 400, d: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_rankme_has_its_known_value():
    assert rankme(torch.diag(tensor([3.0, 2, 1, 0]))).item() == pytest.approx(2.749464, abs=1e-5)


def test_participation_ratio_has_its_known_value():
    axes = torch.diag(tensor([4.0, 2, 1]).sqrt())
    assert participation_ratio(torch.cat([axes, -axes]) + 7).item() == pytest.approx(7 / 3, abs=1e-5)


def test_alignment_and_uniformity_have_their_known_values():
    partners = SQUARE + 0.1 * SQUARE.flip(1)
    assert alignment(SQUARE, 3 * partners).item() == pytest.approx(0.009926, abs=1e-5)
    assert uniformity(5 * SQUARE).item() == pytest.approx(-4.396349, abs=1e-5)


def test_a_healthy_space_reads_as_healthy():
    z = cloud()
    assert rankme(z) > 15 and participation_ratio(z) > 14
    assert spread(z).item() == pytest.approx(1, abs=0.02)
    assert uniformity(z) < -3
    assert neighbour_agreement(z, z) == 1


def test_a_collapsed_space_reads_as_collapsed():
    z = torch.ones(400, 16)
    assert rankme(z).item() == pytest.approx(1, abs=1e-3)
    assert participation_ratio(z) < 1 + 1e-3
    assert spread(z) < 1e-3
    assert uniformity(z).item() == pytest.approx(0, abs=1e-5)
    assert alignment(z, z) == 0
    assert neighbour_agreement(z, z).item() == pytest.approx(1 / 400)


@pytest.mark.parametrize("number", [rankme, participation_ratio, spread, uniformity])
def test_nothing_at_all_is_still_a_number(number):
    assert number(torch.zeros(8, 4)).isfinite()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 99))
def test_ranks_stay_within_the_rank_of_the_space(rank, seed):
    z = cloud(60, rank, seed) @ cloud(rank, 12, seed + 1)
    assert 1 - 1e-3 <= rankme(z) <= rank + 1e-2
    assert 1 - 1e-3 <= participation_ratio(z) <= rank + 1e-2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.floats(0.01, 100))
def test_ranks_do_not_depend_on_scale_or_rotation(seed, scale):
    z = cloud(50, 6, seed) * torch.arange(1, 7)
    turned = scale * z @ torch.linalg.qr(cloud(6, 6, seed))[0]
    torch.testing.assert_close(rankme(turned), rankme(z), rtol=1e-3, atol=0)
    torch.testing.assert_close(participation_ratio(turned), participation_ratio(z), rtol=1e-3, atol=0)


def test_spread_of_directions_round_a_circle_is_known():
    angles = torch.arange(1000) * 2 * math.pi / 1000
    assert spread(torch.stack([angles.cos(), angles.sin()], dim=1)).item() == pytest.approx(1, abs=1e-3)


def test_neighbour_agreement_counts_partners_found_whatever_the_block(monkeypatch):
    one, two = cloud(), cloud() + 1.2 * cloud(seed=1)
    cosine = F.normalize(one, dim=1) @ F.normalize(two, dim=1).T
    slow = sum(max(range(400), key=lambda j: cosine[i, j].item()) == i for i in range(400)) / 400
    assert 0.1 < slow < 0.9
    assert neighbour_agreement(one, two).item() == pytest.approx(slow)
    monkeypatch.setattr(diagnose, "BLOCK", 7 * 400)
    assert neighbour_agreement(one, two).item() == pytest.approx(slow)


@pytest.mark.gpu
def test_the_gpu_gives_the_same_numbers():
    z = cloud()
    for number in (rankme, participation_ratio, spread, uniformity):
        torch.testing.assert_close(number(z.cuda()).cpu(), number(z), rtol=1e-3, atol=1e-4)
