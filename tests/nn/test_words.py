"""Golden values: computed in float64 from the definitions of the two papers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn, tensor
from torch.testing import assert_close

from selfsame.nn.words import (
    averaged,
    by_place,
    coded,
    counted,
    distances,
    divergence,
    divergences,
    inner,
    local,
    nearest_word,
    perplexity,
)

VOCABULARY = tensor([[0.0, 0], [4, 0], [0, 4]])


def test_hard_assignments_are_counted_and_shared_out():
    places = tensor([[[0.1, 0.2], [3.0, 0.1]]])  # one of the first word, one of the second
    assert_close(counted(places, VOCABULARY, binary=False), tensor([[0.5, 0.5, 0.0]]))
    more = tensor([[[0.1, 0.2], [3.0, 0.1], [0.3, 0.0]]])
    assert_close(counted(more, VOCABULARY, binary=False), tensor([[2 / 3, 1 / 3, 0.0]]))
    assert_close(counted(more, VOCABULARY, binary=True), tensor([[0.5, 0.5, 0.0]]))


def test_soft_codes_have_their_golden_values():
    distance = tensor([[[0.0, 4, 1], [2, 0, 3]]])
    assert_close(coded(distance, tensor(7.5)), tensor([[0.499724, 0.5, 0.000276]]), rtol=0, atol=1e-6)
    first = coded(distance[:, :1], tensor(7.5))
    assert_close(first, tensor([[0.999447, 0.0, 0.000553]]), rtol=0, atol=1e-6)


def test_the_places_of_words_do_not_matter():
    x = torch.randn(2, 9, 2, generator=torch.Generator().manual_seed(0))
    mixed = x[:, torch.randperm(9, generator=torch.Generator().manual_seed(1))]
    for bag in (
        lambda f: counted(f, VOCABULARY, binary=False),
        lambda f: coded(distances(f, VOCABULARY), tensor(1.0)),
    ):
        assert_close(bag(x), bag(mixed))
        assert_close(bag(x).sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("tidy", [True, False])
def test_distances_are_squared_ones_less_the_same_for_all_words_and_the_nearest_is_never_negative(tidy):
    x = 100 + torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    x = x if tidy else x.transpose(1, 2).contiguous().transpose(1, 2)  # as features of maps lie
    exact = torch.cdist(x, VOCABULARY[None]).square()
    found = distances(x, VOCABULARY)
    assert_close(found + x.square().sum(dim=2, keepdim=True), exact, rtol=1e-4, atol=1e-2)
    assert_close(nearest_word(x, found), exact.amin(dim=2), rtol=1e-4, atol=1e-2)
    assert_close(nearest_word(x, distances(x, x[0]))[0], torch.zeros(5), rtol=0, atol=1e-2)
    assert (nearest_word(x, distances(x, x[0])) >= 0).all()


def test_codes_are_those_of_the_distances_themselves():
    """The paper's formula (section 3.2), written out."""
    x = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    shares = (-0.7 * torch.cdist(x, VOCABULARY[None]).square()).softmax(dim=2).amax(dim=1)
    assert_close(coded(distances(x, VOCABULARY), tensor(0.7)), shares / shares.sum(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("places", "without"), [((6, 7), (4, 5)), ((4, 7), (4, 7)), ((9,), (7,)), ((5, 5, 5), (3, 3, 3))]
)
def test_the_border_is_dropped_where_something_is_left(places, without):
    maps = torch.randn(2, 3, *places)
    assert inner(maps).shape == (2, 3, *without)
    assert local(maps).shape == (2, torch.Size(places).numel(), 3)
    assert torch.equal(local(maps)[0, 0], maps.flatten(2)[0, :, 0])


@pytest.mark.parametrize("places", [(4, 5), (7,), (2, 3, 2)])
def test_a_norm_by_place_sees_the_vector_of_each_place(places):
    maps = torch.randn(3, 2, *places)
    seen = by_place(nn.BatchNorm1d(2, affine=False), maps)
    axes = (0, *range(2, maps.ndim))
    assert_close(
        seen, (maps - maps.mean(axes, keepdim=True)) / maps.std(axes, correction=0, keepdim=True), atol=1e-3, rtol=0
    )
    assert_close(by_place(nn.Identity(), maps), maps)


def test_averages_are_of_three_places_a_side_or_of_all():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert_close(averaged(maps), tensor([[[[5.0, 6], [9, 10]]]]))
    assert_close(averaged(maps[..., :2, :2]), tensor([[[[2.5]]]]))
    assert averaged(torch.randn(2, 3, 9)).shape == (2, 3, 7)


def test_perplexity_counts_the_words_in_use():
    assert_close(perplexity(torch.eye(4)), tensor(4.0))
    assert_close(perplexity(torch.eye(4)[[0, 0, 1, 1]]), tensor(2.0))
    assert_close(perplexity(torch.eye(4)[[2, 2]]), tensor(1.0))


def test_the_divergence_is_zero_for_the_right_shares_and_has_the_gradient_of_the_cross_entropy():
    bags = tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    assert_close(divergence(bags.clamp(min=1e-12).log(), bags), tensor(0.0), rtol=0, atol=1e-6)
    scores = tensor([[1.0, 0, 2], [0, 1, 0]], requires_grad=True)
    other = tensor([[0.3, 1, 0], [2, 1, 0.5]])
    both = [F.kl_div(one.log_softmax(dim=1), bags, reduction="batchmean") for one in (scores.detach(), other)]
    assert_close(divergences(torch.cat([scores.detach(), other]), bags), torch.stack(both))
    divergence(scores, bags).backward()
    assert_close(scores.grad, (scores.detach().softmax(dim=1) - bags) / 2)
