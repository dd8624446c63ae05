import numpy as np

from selfsame.index.groups import components, stars


def by_hand(n, pairs):
    """Components by walking."""
    label = list(range(n))
    for _ in range(n):
        for a, b in pairs:
            label[a] = label[b] = min(label[a], label[b])
    return label


def test_the_example_of_the_fact_sheet():
    assert components(7, np.array([[1, 2], [2, 3], [5, 6]])).tolist() == [0, 1, 1, 1, 4, 5, 5]
    assert components(3, np.zeros((0, 2), int)).tolist() == [0, 1, 2]


def test_components_are_those_that_walking_finds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pairs = rng.integers(0, 40, (25, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        assert components(40, pairs).tolist() == by_hand(40, pairs)
    chain = np.stack([np.arange(999, 0, -1), np.arange(998, -1, -1)], axis=1)
    assert not components(1000, chain).any()


def test_a_chain_is_divided_so_that_each_item_is_paired_with_the_one_that_is_kept():
    chain = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    leader, link = stars(6, chain, order=[2, 0, 1, 3, 4, 5])
    assert leader.tolist() == [0, 2, 2, 2, 4, 5]
    assert link.tolist() == [-1, 1, -1, 2, -1, -1]


def test_the_best_item_of_a_group_is_kept_and_all_links_are_pairs():
    rng = np.random.default_rng(1)
    pairs = np.unique(np.sort(rng.integers(0, 60, (70, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    order = rng.permutation(60)
    place = np.argsort(order)
    leader, link = stars(60, pairs, order)
    whole = components(60, pairs)
    for item in range(60):
        assert whole[item] == whole[leader[item]]
        if leader[item] != item:
            assert leader[leader[item]] == leader[item]  # a representative is its own
            assert place[leader[item]] < place[item]
            assert sorted(pairs[link[item]].tolist()) == sorted((item, int(leader[item])))
    alone = np.flatnonzero(leader == np.arange(60))
    kept = {tuple(pair) for pair in pairs.tolist()}
    assert not any((int(a), int(b)) in kept for a in alone for b in alone)  # no two that are kept are copies


def test_without_pairs_every_item_is_alone():
    leader, link = stars(3, np.zeros((0, 2), int), [0, 1, 2])
    assert leader.tolist() == [0, 1, 2] and link.tolist() == [-1, -1, -1]
