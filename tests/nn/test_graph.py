import torch
from torch import tensor
from torch.testing import assert_close

from selfsame.nn import graph as module
from selfsame.nn.graph import UNREACHED, circles, distances, neighbours

RING = tensor([[1], [2], [3], [0]])  # each knows the next alone


def two_families(n=12, seed=0):
    """Two bundles of directions, far from each other."""
    noise = 0.3 * torch.randn(2 * n, 5, generator=torch.Generator().manual_seed(seed))
    return torch.cat([torch.eye(5)[:1].expand(n, 5), torch.eye(5)[1:2].expand(n, 5)]) + noise


def of(links, hops=2, keep=8):
    return circles(links, hops, torch.rand(len(links), generator=torch.Generator().manual_seed(0)), keep)


def test_neighbours_are_those_of_greatest_cosine_without_oneself():
    x = tensor([[1.0, 0], [5, 0.5], [0, 2], [0.2, 9]])
    assert neighbours(x, 1).flatten().tolist() == [1, 0, 3, 2]
    assert neighbours(x, 3).tolist() == [[1, 3, 2], [0, 3, 2], [3, 1, 0], [2, 1, 0]]


def test_in_a_ring_of_four_the_opposite_one_closes_a_circle():
    assert of(RING, keep=2).tolist() == [[2, -1], [3, -1], [0, -1], [1, -1]]


def test_who_is_reached_but_does_not_reach_back_is_no_positive():
    chain = tensor([[1], [2], [2], [0]])
    assert (of(chain) == -1).all()


def test_direct_neighbours_are_no_positives_in_either_direction():
    everybody = tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    assert (of(everybody) == -1).all()
    one_way = tensor([[1], [2], [0]])  # 0 reaches 2 in two links, which knows it directly
    assert (of(one_way) == -1).all()


def test_three_hops_reach_further_than_two():
    ring = tensor([[1], [2], [3], [4], [5], [0]])
    assert (of(ring, hops=2) == -1).all()
    assert of(ring, hops=3, keep=1).flatten().tolist() == [3, 4, 5, 0, 1, 2]


def test_pairs_of_two_families_are_never_positive_and_always_far():
    links = neighbours(two_families(), 4)
    family = torch.arange(24) // 12
    partners = of(links)
    for item in range(24):
        found = partners[item][partners[item] >= 0]
        assert (family[found] == family[item]).all() and item not in found
    assert (partners >= 0).any(dim=1).float().mean() > 0.5
    apart = distances(links, torch.arange(24))
    assert (apart[family[:, None] != family] == UNREACHED).all()
    assert (apart[family[:, None] == family] < 8).all()


def test_distances_go_along_links_in_either_direction():
    chain = tensor([[1], [2], [3], [4], [4], [4]])
    assert distances(chain, tensor([0, 4])).tolist() == [[0, 1, 2, 3, 4, 5], [4, 3, 2, 1, 0, 1]]
    apart = tensor([[1], [0], [3], [2]])
    assert distances(apart, tensor([2])).tolist() == [[UNREACHED, UNREACHED, 0, 1]]


def test_small_blocks_give_what_one_gives_and_chance_is_a_matter_of_the_priority(monkeypatch):
    x = two_families()
    links = neighbours(x, 4)
    whole = of(links, keep=3)
    monkeypatch.setattr(module, "BLOCK", 30)
    assert torch.equal(neighbours(x, 4), links)
    assert torch.equal(of(links, keep=3), whole)
    other = circles(links, 2, torch.rand(24, generator=torch.Generator().manual_seed(1)), 3)
    assert not torch.equal(other, whole)
    assert_close((other >= 0).sum(1), (whole >= 0).sum(1))
