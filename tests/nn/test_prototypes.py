import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torch.testing import assert_close

from selfsame.nn.prototypes import Prototypes, across_views, prototype_head, warming


def test_scores_are_cosines_whatever_the_lengths():
    torch.manual_seed(0)
    prototypes, x = Prototypes(4, 6), torch.randn(5, 4)
    expected = F.cosine_similarity(x[:, None], prototypes.weight[None], dim=2)
    assert_close(prototypes(x), expected)
    with torch.no_grad():
        prototypes.weight.mul_(7)
    assert_close(prototypes(3 * x), expected)


def test_scores_are_float32_under_autocast_and_of_half_vectors():
    prototypes, x = Prototypes(64, 6), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(prototypes(x), prototypes(x.bfloat16().float()), rtol=0, atol=0.01)
        assert prototypes(x.bfloat16()).dtype == torch.float32
        under = prototypes(x)
    assert torch.equal(under, prototypes(x))


def test_the_head_ends_in_cosines_of_its_narrow_vector():
    head = prototype_head(6, 16, 5, 9)
    x = torch.randn(3, 6)
    assert head(x).shape == (3, 9) and head(x).abs().max() <= 1 + 1e-6
    assert_close(head(x), head[-1](head[:-1](x)))
    assert [tuple(p.shape) for p in head.parameters()][::2] == [(16, 6), (16, 16), (5, 16), (9, 5)][:4]


def test_the_heads_hidden_layers_may_have_batch_norm():
    torch.manual_seed(0)
    plain, normed = prototype_head(6, 16, 5, 9), prototype_head(6, 16, 5, 9, norm="batch")
    x = torch.randn(64, 6)
    assert [type(layer).__name__ for layer in normed[:6]] == ["Linear", "BatchNorm1d", "GELU"] * 2
    # Weights of std 0.02 leave next to nothing of an input; the norm brings it back. What GELU makes of normal numbers
    # has a variance of 0.345, of which 16 are added up.
    assert plain[:-1](x).std(0).mean() < 0.01
    assert normed[:-1](x).std(0).mean().item() == pytest.approx(0.02 * (16 * 0.345) ** 0.5, rel=0.25)


@pytest.mark.parametrize(("parts", "count"), [(0, 2), (2, 6), (8, 18)])
def test_each_target_is_predicted_from_every_other_view_and_never_from_its_own(parts, count):
    """Fact sheet C2: 18 terms with eight small crops."""
    generator, views = torch.Generator().manual_seed(0), 2 + parts
    scores = torch.randn(views, 3, 5, generator=generator).unbind(0)
    targets = torch.randn(2, 3, 5, generator=generator).softmax(2).unbind(0)
    terms = [
        -(targets[i] * (scores[v] / 0.1).log_softmax(1)).sum(1).mean() for i in range(2) for v in range(views) if v != i
    ]
    assert len(terms) == count
    assert_close(across_views(targets, scores, 0.1), torch.stack(terms).mean())


def test_uniform_scores_give_the_logarithm_of_their_number():
    targets = [tensor([[1.0, 0, 0, 0, 0]]), tensor([[0.0, 0.5, 0.5, 0, 0]])]
    assert_close(across_views(targets, [torch.zeros(1, 5)] * 3, 0.1), tensor(math.log(5)))


def test_large_half_precision_scores_do_not_overflow():
    targets = [torch.full((2, 3), 1 / 3)] * 2
    assert across_views(targets, [100 * torch.randn(2, 3).half()] * 2, 0.1).isfinite()


def test_the_temperature_rises_in_a_straight_line_and_stays():
    """Fact sheet C2: numpy's linspace(0.04, 0.07, 30), place 1."""
    assert warming(0.04, 0.07, 1 / 29 * 0.3, 0.3) == pytest.approx(0.041034, abs=1e-6)
    assert [warming(0.04, 0.07, p, 0.3) for p in (0.0, 0.3, 1.0)] == [0.04, 0.07, 0.07]
    assert warming(0.04, 0.07, 0.0, 0.0) == 0.07
