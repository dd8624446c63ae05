import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from selfsame.modalities.image import steps

NONE = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def mid_range(*shape: int) -> Tensor:
    """Values that mild colour changes do not bring to 0 or 1, where the missing clamps would show."""
    return 0.35 + 0.3 * random(*shape)


def smooth(rows: int, side: int = 32) -> Tensor:
    """Soft colours, as in photos."""
    coarse = 0.2 + 0.6 * random(rows, 3, 4, 4, seed=2)
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def jittered(x: Tensor, order: tuple[int, ...] = (0, 1, 2, 3), gray: bool = False, **changes: float) -> Tensor:
    rows = len(x)
    values = {name: torch.full((rows,), value) for name, value in {**NONE, **changes}.items()}
    matrices = steps.colour_matrices(
        x.shape[1], torch.tensor(order).expand(rows, 4), **values, gray=torch.full((rows,), gray)
    )
    return steps.recolour(x, *matrices)


# Place


@settings(max_examples=200, deadline=None)
@given(
    uniform=st.lists(st.floats(0, 1 - 2**-24, width=32), min_size=4, max_size=4),
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    area=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
)
def test_boxes_lie_inside_the_image(uniform, height, width, area, ratio):
    box = steps.crop_boxes(np.array([uniform]), height, width, tuple(sorted(area)), tuple(sorted(ratio)))
    top, left, high, wide = box[0].tolist()
    assert top >= 0 and high >= 1 and top + high <= height
    assert left >= 0 and wide >= 1 and left + wide <= width


def test_area_of_boxes_is_uniform_and_aspect_log_uniform():
    boxes = steps.crop_boxes(random(10_000, 4).numpy(), 4000, 4000, (0.08, 0.5), (3 / 4, 4 / 3))
    top, left, high, wide = boxes.T
    shares = {
        "area": (high * wide / 4000**2 - 0.08) / 0.42,
        "aspect": np.log(wide / high) / math.log(16 / 9) + 0.5,
        "top": (top + 0.5) / (4001 - high),
        "left": (left + 0.5) / (4001 - wide),
    }
    for name, share in shares.items():
        assert scipy.stats.kstest(share, "uniform").pvalue > 0.01, name


def test_a_side_too_long_is_clamped_not_drawn_again():
    middle = np.array([[1.0, 0.5, 0.0, 0.5]])
    # All of 100 x 400 pixels as a square is 200 x 200: only its height does not fit.
    assert steps.crop_boxes(middle, 100, 400, (0.08, 1.0), (3 / 4, 4 / 3)).tolist() == [[0, 100, 100, 200]]


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (9, 1), (64, 4)])
def test_resized_equals_interpolation_of_the_crop(size, channels):
    pixels = random(4, channels, 40, 56) * 255
    boxes = torch.tensor([[0, 0, 40, 56], [3, 5, 30, 8], [39, 55, 1, 1], [7, 0, 11, 50]])
    made = steps.resized(pixels, boxes, size)
    for row, (top, left, high, wide) in enumerate(boxes.tolist()):
        crop = pixels[row : row + 1, :, top : top + high, left : left + wide]
        wanted = F.interpolate(crop, (size, size), mode="bicubic", antialias=True)
        torch.testing.assert_close(made[row], wanted[0], atol=2e-2, rtol=0)


def test_resizing_to_the_same_size_changes_nothing():
    pixels = torch.randint(0, 65536, (2, 3, 33, 33)).float()
    assert torch.equal(steps.resized(pixels, torch.tensor([[0, 0, 33, 33]] * 2), 33), pixels)


def test_rotation_equals_torchvision_inside():
    x = F.interpolate(random(3, 3, 8, 8), (48, 48), mode="bilinear")
    degrees = [20.0, -75.0, 130.0]
    made = steps.rotated(x, torch.tensor(degrees))
    y, z = np.mgrid[:48, :48] - 23.5
    disc = torch.from_numpy(y**2 + z**2 < 22**2)
    for row, angle in enumerate(degrees):
        wanted = reference.rotate(x[row], angle, interpolation=InterpolationMode.BILINEAR)
        assert (made[row] - wanted)[:, disc].abs().max() < 1e-3


def test_a_quarter_turn_is_counter_clockwise_and_exact():
    x = random(2, 3, 15, 15)
    torch.testing.assert_close(steps.rotated(x, torch.tensor([90.0, -90.0]))[0], x[0].rot90(1, (1, 2)))


def test_rotation_fills_the_corners_with_the_image():
    x = 0.4 + 0.5 * random(4, 1, 16, 16)
    assert steps.rotated(x, torch.tensor([10.0, 45.0, 100.0, -170.0])).min() >= 0.4


# Colour


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_colour_change_equals_torchvision(name, factor):
    x = mid_range(3, 3, 16, 16)
    wanted = getattr(reference, f"adjust_{name}")(x, factor)
    torch.testing.assert_close(jittered(x, **{name: factor}), wanted, atol=3e-4, rtol=0)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 1, 3), (1, 3, 2, 0)])
def test_colour_changes_follow_the_order_given(order):
    x = mid_range(3, 3, 16, 16)
    factors = {"brightness": 0.7, "contrast": 1.4, "saturation": 0.5}
    wanted = x
    for name in [tuple(NONE)[k] for k in order if k < 3]:
        wanted = getattr(reference, f"adjust_{name}")(wanted, factors[name])
    torch.testing.assert_close(jittered(x, order, **factors), wanted, atol=5e-4, rtol=0)


def test_every_row_has_its_own_order_and_factors():
    x = mid_range(2, 3, 8, 8)
    order = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    values = [torch.tensor(pair) for pair in ([0.7, 1.2], [1.3, 0.8], [0.5, 1.4], [0.05, -0.1])]
    both = steps.recolour(x, *steps.colour_matrices(3, order, *values, gray=torch.tensor([False, False])))
    for row in range(2):
        changes = dict(zip(NONE, (value[row].item() for value in values), strict=True))
        alone = jittered(x[row : row + 1], tuple(order[row].tolist()), **changes)
        torch.testing.assert_close(both[row], alone[0], atol=1e-6, rtol=0)


def test_no_colour_change_leaves_every_bit():
    x = random(2, 3, 16, 16)
    assert torch.equal(jittered(x), x)


def test_hue_turns_chrominance_in_yiq():
    x = mid_range(1, 3, 6, 6)
    made = jittered(x, hue=0.07)
    angle = -2 * math.pi * 0.07
    to_yiq = np.array(steps.YIQ)
    for y in range(6):
        for z in range(6):
            luma, i, q = to_yiq @ x[0, :, y, z].double().numpy()
            turned = [luma, i * math.cos(angle) - q * math.sin(angle), i * math.sin(angle) + q * math.cos(angle)]
            assert np.allclose(np.linalg.solve(to_yiq, turned), made[0, :, y, z], atol=1e-5)


@pytest.mark.parametrize("hue", [0.1, -0.1])
def test_hue_is_near_torchvisions_and_turns_the_same_way(hue):
    x = smooth(8)
    wanted = reference.adjust_hue(x, hue)
    near, far = ((jittered(x, hue=turn) - wanted).abs().mean() for turn in (hue, -hue))
    assert near < 0.05
    assert near < far / 2


def test_hue_keeps_luma_and_grays():
    x = mid_range(2, 3, 8, 8)
    luma = torch.tensor(steps.LUMA)
    made = jittered(x, hue=0.1)
    torch.testing.assert_close(torch.einsum("c,bchw->bhw", luma, made), torch.einsum("c,bchw->bhw", luma, x))
    gray = x[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(jittered(gray, hue=0.3), gray)


def test_gray_equals_torchvision():
    x = random(2, 3, 16, 16)
    wanted = reference.rgb_to_grayscale(x, num_output_channels=3)
    torch.testing.assert_close(jittered(x, gray=True), wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_other_channel_counts_change_in_brightness_and_contrast_only(channels):
    x = mid_range(2, channels, 8, 8)
    made = jittered(x, (1, 0, 2, 3), gray=True, brightness=1.2, contrast=0.6, saturation=0.1, hue=0.3)
    means = x.numpy().mean((1, 2, 3), keepdims=True)
    wanted = 1.2 * (0.6 * x.numpy() + 0.4 * means)
    np.testing.assert_allclose(made.numpy(), wanted, atol=1e-5)


def test_colours_stay_in_range():
    made = jittered(random(2, 3, 8, 8), brightness=1.9, contrast=1.9)
    assert made.min() == 0 and made.max() == 1


def test_solarized_equals_torchvision():
    x = torch.cat([random(2, 3, 8, 8), torch.full((2, 3, 1, 8), 0.5)], dim=2)
    assert torch.equal(steps.solarized(x), reference.solarize(x, 0.5))


# Filters


def test_gaussian_blur_equals_torchvision():
    x, sigma = random(4, 3, 24, 24), torch.tensor([0.1, 0.5, 1.3, 2.0])
    made = steps.smoothed(x, steps.gaussian_taps(sigma, 5))
    for row in range(4):
        wanted = reference.gaussian_blur(x[row], [11, 11], [sigma[row].item()] * 2)
        torch.testing.assert_close(made[row], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_box_blur_is_the_mean_of_the_neighbours(channels):
    x = random(3, channels, 12, 12)
    made = steps.smoothed(x, steps.box_taps(torch.tensor([1, 2, 3]), 3))
    for row in range(3):
        wanted = scipy.ndimage.uniform_filter(x[row].numpy(), (1, 2 * row + 3, 2 * row + 3), mode="mirror")
        np.testing.assert_allclose(made[row].numpy(), wanted, atol=1e-5)


def test_sharpening_adds_the_detail_that_a_blur_removes():
    x = mid_range(2, 3, 16, 16)
    made = steps.sharpened(x, torch.tensor([0.5, 1.2]))
    for row, amount in enumerate((0.5, 1.2)):
        soft = scipy.ndimage.gaussian_filter(x[row].numpy(), (0, 1, 1), mode="mirror", radius=(0, 3, 3))
        wanted = (x[row].numpy() + amount * (x[row].numpy() - soft)).clip(0, 1)
        np.testing.assert_allclose(made[row].numpy(), wanted, atol=1e-5)


# Removal


def test_cut_out_sets_one_box_to_one_value():
    x = random(3, 2, 10, 12)
    boxes, value = torch.tensor([[0, 0, 10, 12], [2, 3, 4, 5], [9, 11, 1, 1]]), torch.tensor([0.0, 0.25, 1.0])
    wanted = x.numpy().copy()
    for row, (top, left, high, wide) in enumerate(boxes.tolist()):
        wanted[row, :, top : top + high, left : left + wide] = value[row]
    assert np.array_equal(steps.cut_out(x, boxes, value).numpy(), wanted)


def test_steps_leave_their_input_alone():
    x, kept, half = random(2, 3, 8, 8), random(2, 3, 8, 8), torch.full((2,), 0.5)
    steps.rotated(x, half)
    jittered(x, brightness=2.0)
    steps.solarized(x)
    steps.smoothed(x, steps.gaussian_taps(half, 1))
    steps.sharpened(x, half)
    steps.cut_out(x, torch.tensor([[0, 0, 2, 2]] * 2), half)
    assert torch.equal(x, kept)


def test_boxes_are_brought_together_no_further_than_needed():
    rng = np.random.default_rng(0)
    one, two = (steps.crop_boxes(rng.random((5000, 4)), 90, 120, (0.1, 0.6), (3 / 4, 4 / 3)) for _ in range(2))
    moved = steps.brought_together(one, two, 0.25)
    far = steps.shared(one, two) < 0.25
    assert 500 < far.sum() < 4000
    assert np.array_equal(moved[~far], two[~far]) and np.array_equal(moved[:, 2:], two[:, 2:])
    assert steps.shared(one, moved).min() >= 0.25
    assert np.median(steps.shared(one, moved)[far]) < 0.35
    assert (moved[:, :2] >= 0).all() and (moved[:, :2] + moved[:, 2:] <= (90, 120)).all()
    assert steps.shared(np.array([[0, 0, 4, 4]]), np.array([[2, 2, 2, 8]])).item() == 4 / 16
