"""The compiled kernel does what torch does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from selfsame.modalities.image import kernel
from selfsame.modalities.image.decode import Form, resized
from selfsame.modalities.image.recipes import View
from selfsame.modalities.image.views import COLUMNS, at_once, scaled, transformed
from selfsame.types import Draws

pytestmark = pytest.mark.skipif(
    kernel.compiled() is None, reason="the kernel was not compiled: there was no C compiler at installation"
)

COMMON = [
    View(),
    View(blur=0.1, solarize=0.2),
    View(flip=0.5, vertical_flip=0.5, jitter=0.5, gray=0.5, blur=0.5, solarize=0.5, brightness=1.5, hue=0.5),
    View(jitter=0, gray=0, blur=0),
    View(blur=1, sigma=(0.01, 0.2)),
    View(blur=1, sigma=(3.0, 9.0)),
]


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def with_threads(numbers, make):
    before = torch.get_num_threads()
    try:
        for threads in numbers:
            torch.set_num_threads(threads)
            yield make()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 7, 32, 96, 225])
def test_cut_equals_the_resized_crop(channels, size):
    images = pixels(2, 150, 210, channels)
    boxes = [(0, 0, 0, 150, 210), (1, 3, 5, 40, 56), (0, 149, 209, 1, 1), (1, 7, 0, 11, 150), (1, 0, 60, 2, 3)]
    made = kernel.cut(images, np.array(boxes), size)
    for cut, (image, top, left, high, wide) in zip(made, boxes, strict=True):
        crop = images[image, top : top + high, left : left + wide]
        given = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float()
        exact = F.interpolate(given, (size, size), mode="bicubic", antialias=True)[0].permute(1, 2, 0).clamp(0, 255)
        assert np.abs(cut - exact.numpy()).max() < 0.51
        gentle = crop // 2 + 64  # torch rounds and clamps in between: alike where nothing overshoots 0 or 255
        one = kernel.cut(gentle[None], np.array([[0, 0, 0, high, wide]]), size)[0]
        two = resized(gentle, (size, size), Form(channels, 8, 255))
        assert np.abs(one.astype(int) - two).max() <= 1


def test_cut_reads_rows_that_lie_apart_and_nothing_beyond_its_box():
    whole = pixels(1, 60, 90, 3)
    part = whole[:, 10:40, 20:70]
    assert kernel.cuts(part) and not kernel.cuts(whole[:, :, ::-1]) and not kernel.cuts(whole.astype(np.uint16))
    boxes = np.array([[0, 0, 0, 30, 50], [0, 4, 6, 20, 31]])
    made = kernel.cut(part, boxes, 16)
    assert np.array_equal(made, kernel.cut(np.ascontiguousarray(part), boxes, 16))
    whole[:, :10] = whole[:, 40:] = whole[:, :, :20] = whole[:, :, 70:] = 255  # around it all is another
    assert np.array_equal(made, kernel.cut(part, boxes, 16))


def test_cut_of_a_huge_reduction():
    image = pixels(1, 3000, 40, 1)
    mean = kernel.cut(image, np.array([[0, 0, 0, 3000, 40]]), 1)[0, 0, 0, 0]
    assert abs(int(mean) - image[0, 700:2300].mean()) < 2


def test_threads_do_not_change_what_is_cut():
    images = pixels(40, 20, 20, 3)
    boxes = np.array([(i, i % 5, i % 7, 10, 12) for i in range(40)])
    first, *others = with_threads((1, 2, 3), lambda: kernel.cut(images, boxes, 16))
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("view", COMMON)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 2, 7, 32, 65, 224])
def test_finish_equals_the_steps_one_by_one(view, channels, side):
    values = torch.from_numpy(pixels(24, channels, side, side))
    drawn = dict(zip(COLUMNS, Draws(3, 1, 24).uniform(len(COLUMNS)).unbind(1), strict=True))
    quick, slow = at_once(values, view, drawn), transformed(scaled(values, 255), view, drawn)
    assert quick.shape == slow.shape and quick.dtype == slow.dtype
    assert quick.min() >= 0 and quick.max() <= 1
    apart = (quick - slow).abs()
    if view.solarize:  # what lies on the threshold may fall on either side of it
        apart = torch.minimum(apart, (quick + slow - 1).abs() + (slow - 0.5).abs())
    assert apart.max() < 2e-5


def test_threads_do_not_change_what_is_finished():
    values = torch.from_numpy(pixels(37, 3, 32, 32))
    drawn = dict(zip(COLUMNS, Draws(3, 1, 37).uniform(len(COLUMNS)).unbind(1), strict=True))
    first, *others = with_threads((1, 2, 3), lambda: at_once(values, View(), drawn))
    assert all(torch.equal(first, other) for other in others)
