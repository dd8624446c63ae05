from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import normalized_mutual_info_score
from torch import tensor
from torch.testing import assert_close

from selfsame.nn import kmeans as module
from selfsame.nn.kmeans import agreement, kmeans, nearest, refilled, whitened


def cloud(n=200, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def spent(x, centroids, labels):
    """What Lloyd's iterations lower: the squared distance to the own centroid."""
    return float((x - centroids[labels]).square().sum())


def test_two_pairs_on_a_line_are_found_with_their_means():
    centroids, labels = kmeans(tensor([[0.0], [1], [10], [11]]), 2, seed=0)
    assert sorted(centroids.flatten().tolist()) == [0.5, 10.5]
    assert labels[0] == labels[1] != labels[2] == labels[3]


@pytest.mark.parametrize("spherical", [False, True])
def test_centroids_are_their_own_nearest(spherical):
    x = F.normalize(cloud(), dim=1) if spherical else cloud()
    assert torch.equal(nearest(x, x, spherical), torch.arange(200))
    _, labels = kmeans(x, 200, seed=1, spherical=spherical)
    assert sorted(labels.tolist()) == list(range(200))


def test_every_iteration_lowers_the_distances_and_labels_are_those_of_the_nearest():
    x = cloud()
    runs = [kmeans(x, 8, seed=3, iterations=k) for k in range(1, 9)]
    distances = [spent(x, *run) for run in runs]
    assert all(later <= before + 1e-3 for before, later in pairwise(distances))
    assert distances[-1] < 0.95 * distances[0]
    centroids, labels = runs[-1]
    assert torch.equal(labels, torch.cdist(x, centroids).argmin(dim=1))


def test_the_seed_alone_decides_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    one, two, other = (kmeans(cloud(), 8, seed)[1] for seed in (5, 5, 6))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_spherical_centroids_are_unit_vectors_and_lengths_do_not_matter():
    x = F.normalize(cloud(), dim=1)
    centroids, labels = kmeans(x, 6, seed=0, spherical=True)
    assert_close(centroids.norm(dim=1), torch.ones(6))
    assert torch.equal(kmeans(8 * x, 6, seed=0, spherical=True)[1], labels)
    assert torch.equal((x @ centroids.T).argmax(dim=1), labels)


def test_small_blocks_give_what_one_gives(monkeypatch):
    whole = kmeans(cloud(), 8, seed=0), whitened(cloud(), 2)
    monkeypatch.setattr(module, "BLOCK", 40)
    parts = kmeans(cloud(), 8, seed=0), whitened(cloud(), 2)
    assert torch.equal(whole[0][1], parts[0][1])
    assert_close(whole[0][0], parts[0][0])
    assert_close(whole[1].abs(), parts[1].abs(), rtol=1e-4, atol=1e-4)


def test_an_empty_cluster_takes_half_of_one_that_has_two_at_least():
    centroids = tensor([[4.0, 0], [0, 4], [0, 0], [0, 0]])
    filled = refilled(centroids.clone(), tensor([9.0, 1, 0, 0]), torch.Generator().manual_seed(0))
    assert torch.equal(filled[:2], centroids[:2])
    assert (filled[2:] - centroids[0]).norm(dim=1).max() < 0.05
    assert not torch.equal(filled[2], filled[3]) and not torch.equal(filled[2], filled[0])
    alone = refilled(centroids.clone(), tensor([1.0, 1, 0, 0]), torch.Generator())
    assert torch.equal(alone, centroids)  # nothing can be halved


def test_no_cluster_stays_empty_though_many_started_at_the_same_place():
    """Ninety rows next to each other and ten far away: at first most centroids have nothing."""
    crowd = torch.cat([1e-3 * cloud(90), 100 + 10 * cloud(10, seed=1)]).repeat_interleave(2, dim=0)
    for seed in range(5):
        _, labels = kmeans(crowd, 20, seed)
        assert len(labels.unique()) >= 19


def test_whitened_vectors_lie_on_the_sphere_and_have_no_favoured_direction():
    stretched = cloud(4000, 4) * tensor([10.0, 3, 1, 0.3]) + 5
    z = whitened(stretched, 4)
    assert_close(z.norm(dim=1), torch.ones(4000))
    assert_close(z.T @ z / 4000, torch.eye(4) / 4, rtol=0, atol=0.02)
    assert whitened(stretched, 2).shape == (4000, 2)
    assert whitened(stretched, 9).shape == (4000, 4)
    assert whitened(stretched.double(), 2).dtype == torch.float64


def test_directions_without_variance_are_not_blown_up():
    flat = cloud(300, 2) @ cloud(2, 6, seed=1)
    z = whitened(flat, 6)
    assert z.isfinite().all()
    assert_close(z[:, 2:], torch.zeros(300, 4))


def test_agreement_is_the_normalised_mutual_information_and_ignores_names():
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(5, (300,), generator=generator)
    two = torch.where(torch.rand(300, generator=generator) < 0.6, one, torch.randint(7, (300,), generator=generator))
    expected = normalized_mutual_info_score(one, two, average_method="geometric")
    assert float(agreement(one, two)) == pytest.approx(expected, abs=1e-6) and 0.2 < expected < 0.8
    names = torch.randperm(7, generator=generator)
    assert_close(agreement(one, names[two]), agreement(one, two))
    assert float(agreement(one, 4 - one)) == pytest.approx(1)
    assert float(agreement(tensor([0, 0, 1, 1]), tensor([0, 1, 0, 1]))) == pytest.approx(0, abs=1e-7)
    assert float(agreement(torch.zeros(4).long(), tensor([0, 1, 0, 1]))) == 0
    assert float(agreement(torch.zeros(4).long(), torch.ones(4).long())) == 1
