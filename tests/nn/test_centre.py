"""Golden values of fact sheet C2."""

import torch
from torch import tensor
from torch.testing import assert_close

from selfsame.nn.centre import Centre

TEACHER = tensor([[2.0, 0, 1], [0, 1, 3], [1, 1, 0], [2, 0, 2]])  # both crops of two items


def centre_at(value: float) -> Centre:
    centre = Centre(3)
    centre.value.fill_(value)
    return centre


def test_it_moves_a_tenth_of_the_way_to_the_mean_of_all_rows():
    centre = centre_at(0.5)
    centre.follow(TEACHER)
    assert_close(centre.value, tensor([0.575, 0.5, 0.6]))


def test_only_counted_rows_move_it():
    one, two = centre_at(0.5), centre_at(0.5)
    one.follow(TEACHER, tensor([True, False, False, True]))
    two.follow(TEACHER[[0, 3]])
    assert_close(one.value, two.value)


def test_what_all_rows_have_in_common_is_gone_once_it_is_there():
    centre = Centre(3)
    for _ in range(200):
        centre.follow(TEACHER + tensor([5.0, 0, -3]))
    shifted = centre(TEACHER + tensor([5.0, 0, -3]), 0.5)
    assert_close(shifted, ((TEACHER - TEACHER.mean(0)) / 0.5).softmax(1), rtol=1e-4, atol=1e-5)
    assert_close(shifted.sum(1), torch.ones(4))


def test_half_precision_is_widened():
    assert Centre(3)(TEACHER.half() * 100, 0.04).dtype == torch.float32
    assert Centre(3).double()(TEACHER.double(), 0.04).dtype == torch.float64


def test_it_stays_where_it_is_in_eval_mode():
    centre = Centre(3).eval()
    centre.follow(torch.ones(4, 3))
    assert torch.equal(centre.value, torch.zeros(3))
    centre.train().follow(torch.ones(4, 3))
    assert centre.value.min() > 0
