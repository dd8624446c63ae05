import math

import pytest
import torch
from torch import Tensor

from selfsame.nn.blockmasks import block_masks, most_hidden

CPU = torch.device("cpu")


def drawn(rows: int = 400, grid: tuple[int, ...] = (14, 14), low: float = 0.1, high: float = 0.5) -> Tensor:
    torch.manual_seed(0)
    return block_masks(rows, grid, low, high, CPU)


def test_the_hidden_share_lies_in_its_range_and_is_spread_over_it():
    mask = drawn()
    count, n = mask.sum(1), mask.shape[1]
    assert mask.shape == (400, 196) and mask.dtype == torch.bool
    assert count.min() >= 1 and count.max() <= most_hidden((14, 14), 0.5) == 98
    wanted = 0.1 + 0.4 * (torch.arange(400) + 0.5) / 400  # one in each of 400 equal parts
    missing = wanted - count.sort().values / n
    assert missing.abs().mean() < 0.01 and missing.max() < 0.08


def test_the_shares_come_in_a_random_order():
    count = drawn().sum(1).float()
    place = torch.arange(400.0)
    assert torch.corrcoef(torch.stack([count, place]))[0, 1].abs() < 0.15


def test_what_is_hidden_hangs_together():
    """Of the neighbours of a hidden patch most are hidden too; of patches drawn one by one, a share as of all."""
    mask = drawn(low=0.3, high=0.3).view(-1, 14, 14)
    beside = (mask[:, :, 1:] & mask[:, :, :-1]).sum() / mask[:, :, :-1].sum()
    assert beside > 0.6 > 2 * 0.29


def test_every_patch_may_be_hidden():
    often = drawn(low=0.3, high=0.3).float().mean(0)
    assert often.min() > 0.02 and often.max() < 0.6


@pytest.mark.parametrize("grid", [(2, 2), (1, 7), (30,), (3, 20)])
def test_grids_of_any_shape_have_at_least_one_hidden_patch_and_never_too_many(grid):
    mask = drawn(60, grid)
    assert mask.shape[1] == math.prod(grid)
    assert mask.sum(1).min() >= 1 and mask.sum(1).max() <= most_hidden(grid, 0.5)


def test_one_share_for_all_is_reached_to_a_few_patches():
    count = drawn(low=0.4, high=0.4).sum(1)
    assert count.float().mean() > 0.37 * 196 and count.max() <= 78
