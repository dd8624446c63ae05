"""Masks on grids of one, two and three axes."""

import math

import pytest
import torch

from selfsame.errors import UserError
from selfsame.nn import masks
from selfsame.nn.masks import blockwise, corners, covered, multi_block, scattered, sides_of
from selfsame.nn.positions import coordinates, sincos

CPU = torch.device("cpu")
GRIDS = [(14, 14), (8, 8), (4, 4), (16,), (64,), (4, 8), (2, 4, 6)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def box(places, grid):
    """Sides of the smallest block around these tokens."""
    spots = coordinates(grid)[places]
    return (spots.amax(dim=-2) - spots.amin(dim=-2) + 1).tolist()


@pytest.mark.parametrize("grid", GRIDS)
def test_targets_are_whole_blocks_of_one_size_and_the_context_has_none_of_their_tokens(grid):
    seen, asked = multi_block(6, grid, CPU)
    assert seen.shape[0] == 6 and asked.shape[:2] == (4, 6)
    boxes = {tuple(box(places, grid)) for places in asked.flatten(0, 1)}
    assert len(boxes) == 1 and math.prod(*boxes) == asked.shape[2]
    assert seen.shape[1] >= max(1, min(10, math.prod(grid) // 4))
    for row in range(6):
        kept = set(seen[row].tolist())
        assert len(kept) == seen.shape[1] and max(kept) < math.prod(grid)
        assert not kept & set(asked[:, row].flatten().tolist())


def test_sizes_of_targets_follow_scale_and_aspect_drawn_together():
    """On 14 x 14: 0.15 x 196 tokens at 0.75, up to 0.2 x 196 at 1.5, as the reference code draws them."""
    ends = torch.tensor([0.0, 1.0])
    sides = sides_of((14, 14), 0.15 + 0.05 * ends, 0.75 + 0.75 * ends)
    assert sides.tolist() == [[5, 6], [8, 5]]
    assert sides_of((16,), torch.tensor([0.15]), torch.tensor([3.0])).tolist() == [[2]]
    assert sides_of((4, 16), torch.tensor([0.25]), torch.tensor([1.0])).tolist() == [[2, 8]]
    assert sides_of((4, 4), torch.tensor([1.0]), torch.tensor([9.0])).tolist() == [[4, 1]]
    assert sides_of((4, 4, 4), torch.tensor([0.125]), torch.tensor([1.0])).tolist() == [[2, 2, 2]]


def test_blocks_reach_every_place_of_the_grid():
    sides = torch.tensor([[2, 3]])
    first, last = (corners(torch.tensor([[u, u]]), sides, (4, 4)).tolist() for u in (0.0, 1 - 1e-7))
    assert (first, last) == ([[0, 0]], [[2, 1]])
    laid = covered(torch.tensor([[2, 1]]), sides, (4, 4)).view(4, 4).long().tolist()
    assert laid == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1]]
    _, asked = multi_block(200, (8, 8), CPU)
    assert set(asked.flatten().tolist()) == set(range(64))


def test_where_targets_leave_too_little_they_are_laid_on_each_other(monkeypatch):
    monkeypatch.setattr(masks, "TRIES", 0)
    seen, asked = multi_block(5, (8, 8), CPU)
    assert all(torch.equal(asked[0], other) for other in asked[1:]) and seen.shape[1] >= 10


def test_the_shortest_context_decides_and_the_others_are_cut_at_random():
    cut = [multi_block(32, (8, 8), CPU)[0] for _ in range(8)]
    assert len({seen.shape[1] for seen in cut}) > 1
    late = torch.cat([seen.flatten() for seen in cut]).double().mean()
    assert 28 < late < 35  # the mean place is 31.5: cut from the end it would be lower


@pytest.mark.parametrize(("grid", "said"), [((1, 1), "1 x 1"), ((2,), "grid of 2 tokens"), ((1,), "larger views")])
def test_a_grid_that_is_too_small_for_blocks_is_refused(grid, said):
    with pytest.raises(UserError, match=said):
        multi_block(2, grid, CPU, context_scale=(0.5, 0.5))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("share", [0.15, 0.6])
def test_exactly_the_share_is_hidden(grid, share):
    hidden = round(share * math.prod(grid))
    for places in (blockwise(5, grid, share, 0.08, 0.3, CPU), scattered(5, grid, share, CPU)):
        assert places.shape == (5, hidden)
        assert all(len(set(row)) == hidden and max(row) < math.prod(grid) for row in places.tolist())
        assert len({tuple(sorted(row)) for row in places.tolist()}) > 1


def test_blocks_hold_together_and_single_tokens_do_not():
    def neighbours(places):
        """Share of pairs of tokens side by side of which both or none are hidden."""
        hidden = torch.zeros(len(places), 196).scatter(1, places, 1.0).view(-1, 14, 14)
        return float((hidden[:, :, 1:] == hidden[:, :, :-1]).float().mean())

    single = neighbours(scattered(64, (14, 14), 0.6, CPU))
    assert 0.48 < single < 0.56 and neighbours(blockwise(64, (14, 14), 0.6, 0.08, 0.3, CPU)) > 0.8


def test_a_grid_of_one_token_cannot_be_hidden_in_part_and_one_of_two_can():
    with pytest.raises(UserError, match="1 x 1 tokens is too small to hide"):
        scattered(2, (1, 1), 0.6, CPU)
    assert blockwise(3, (2,), 0.99, 0.08, 0.3, CPU).shape == (3, 1)


def test_masks_are_those_of_the_seed():
    def drawn():
        torch.manual_seed(4)
        return [*multi_block(4, (8, 8), CPU), blockwise(4, (8, 8), 0.6, 0.08, 0.3, CPU), scattered(4, (8,), 0.5, CPU)]

    assert all(torch.equal(one, two) for one, two in zip(drawn(), drawn(), strict=True))


def test_coordinates_run_fastest_along_the_last_axis():
    assert coordinates((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize(("grid", "width"), [((6,), 8), ((3, 4), 16), ((2, 3, 4), 26)])
def test_position_vectors_are_sines_and_cosines_of_each_axis(grid, width):
    vectors = sincos(grid, width)
    assert vectors.shape == (math.prod(grid), width)
    waves = width // (2 * len(grid))
    place = coordinates(grid)[-1]
    for axis in range(len(grid)):
        mine = vectors[-1, 2 * waves * axis : 2 * waves * (axis + 1)]
        rates = [10_000 ** (-k / waves) for k in range(waves)]
        expected = [f(float(place[axis]) * rate) for f in (math.sin, math.cos) for rate in rates]
        torch.testing.assert_close(mine, torch.tensor(expected))
    assert not vectors[:, 2 * waves * len(grid) :].any()
    assert torch.pdist(vectors).min() > 0.1
