"""The steps that views are made of: pure functions over a whole batch, each row with its own numbers.

Floats are in [0, 1]. Definitions are torchvision's where none is named; random-resized crop and solarisation are
those of BYOL (Grill et al. 2020, arXiv 2006.07733, appendix B). Raises nothing of its own.
"""

import math
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "box_taps",
    "brought_together",
    "colour_matrices",
    "crop_boxes",
    "cut_out",
    "gaussian_taps",
    "recolour",
    "resize_matrices",
    "resized",
    "rotated",
    "sharpened",
    "smoothed",
    "solarized",
]

Numbers = TypeVar("Numbers", Tensor, np.ndarray)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
YIQ = (LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))  # NTSC 1953; grays have I = Q = 0


# Place ---------------------------------------------------------------------------------------------------------------


def crop_boxes(
    uniform: Float[np.ndarray, "b 4"], height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> Int[np.ndarray, "b 4"]:
    """Random boxes (top, left, height, width) in pixels, inside the image and at least one pixel large.

    `uniform` has, in [0, 1): area, aspect, top, left. The share of the image is uniform in `area`, width / height
    log-uniform in `ratio`; a side longer than the image's is clamped to it, not drawn again. Not in torch, which is
    slow at the few numbers of one item.
    """
    share, aspect, down, across = uniform.astype(np.float64).T
    share = between(share, area) * (height * width)
    aspect = np.exp(between(aspect, (math.log(ratio[0]), math.log(ratio[1]))))
    high = np.minimum(np.maximum(np.sqrt(share / aspect).round(), 1), height)
    wide = np.minimum(np.maximum(np.sqrt(share * aspect).round(), 1), width)
    boxes = np.empty((len(uniform), 4), np.int64)
    boxes[:, 0], boxes[:, 1] = down * (height - high + 1), across * (width - wide + 1)  # rounded down
    boxes[:, 2], boxes[:, 3] = high, wide
    return boxes


def brought_together(
    first: Int[np.ndarray, "b 4"], other: Int[np.ndarray, "b 4"], least: float
) -> Int[np.ndarray, "b 4"]:
    """The other boxes (top, left, height, width), moved as little as needed to share `least` of the smaller area.

    They move straight, in sixteenths of the way, to the nearest place where they share all that their shapes allow:
    boxes of very different shapes may share less even there.
    """
    goal, slack = other.copy(), first[:, 2:] - other[:, 2:]
    goal[:, :2] = other[:, :2].clip(first[:, :2] + np.minimum(slack, 0), first[:, :2] + np.maximum(slack, 0))
    moved = other.copy()
    for part in range(1, 17):
        apart = shared(first, moved) < least
        if not apart.any():
            break
        moved[apart, :2] = (other[:, :2] + (goal[:, :2] - other[:, :2]) * part // 16)[apart]
    return moved


def shared(one: Int[np.ndarray, "b 4"], two: Int[np.ndarray, "b 4"]) -> Float[np.ndarray, "b"]:
    """The area that two boxes have in common, as a share of the smaller one's."""
    near = np.maximum(one[:, :2], two[:, :2])
    far = np.minimum(one[:, :2] + one[:, 2:], two[:, :2] + two[:, 2:])
    return (far - near).clip(0).prod(1) / np.minimum(one[:, 2:].prod(1), two[:, 2:].prod(1))


def between(uniform: Numbers, ends: tuple[float, float]) -> Numbers:
    """Numbers in [0, 1) stretched to [low, high)."""
    return ends[0] + uniform * (ends[1] - ends[0])


def resized(pixels: Float[Tensor, "b c h w"], boxes: Int[Tensor, "b 4"], size: int) -> Float[Tensor, "b c s s"]:
    """Each row's box (top, left, height, width) resized to size x size: antialiased bicubic, which may overshoot.

    The same as F.interpolate(crop, size, mode="bicubic", antialias=True), as two matrix products a row.
    """
    b, c, h, w = pixels.shape
    across = resize_matrices(boxes[:, 1], boxes[:, 3], w, size)
    down = resize_matrices(boxes[:, 0], boxes[:, 2], h, size)
    narrow = torch.bmm(pixels.reshape(b, c * h, w), across.transpose(1, 2))
    return torch.matmul(down[:, None], narrow.reshape(b, c, h, size))


def resize_matrices(start: Int[Tensor, "b"], length: Int[Tensor, "b"], full: int, size: int) -> Float[Tensor, "b s n"]:
    """Matrices that take the pixels start .. start + length of an axis of `full` pixels to `size` pixels.

    Keys's cubic with a = -0.5 (Keys 1981), widened by the reduction; taps outside the box have no weight.
    """
    start, length = start.float()[:, None], length.float()[:, None]
    scale = length / size
    pixel = torch.arange(full, device=start.device) + 0.5
    centre = start + (torch.arange(size, device=start.device) + 0.5) * scale
    distance = (pixel - centre[:, :, None]).abs_() / scale.clamp(min=1)[:, :, None]
    near = ((1.5 * distance - 2.5) * distance).mul_(distance).add_(1)
    far = ((-0.5 * distance + 2.5) * distance).sub_(4).mul_(distance).add_(2)
    weight = torch.where(distance < 1, near, far.mul_(distance < 2))
    inside = (pixel > start) & (pixel < start + length)
    weight = weight * inside[:, None, :]
    return weight / weight.sum(2, keepdim=True)


def rotated(x: Float[Tensor, "b c s s"], degrees: Float[Tensor, "b"]) -> Float[Tensor, "b c s s"]:
    """Turned counter-clockwise about the centre, bilinear; what comes in from outside is the reflected image."""
    angle = torch.deg2rad(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).reshape(-1, 2, 3)
    grid = F.affine_grid(turn, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


# Colour --------------------------------------------------------------------------------------------------------------


def colour_matrices(
    channels: int,
    order: Int[Tensor, "b 4"],
    brightness: Float[Tensor, "b"],
    contrast: Float[Tensor, "b"],
    saturation: Float[Tensor, "b"],
    hue: Float[Tensor, "b"],
    gray: Bool[Tensor, "b"],
) -> tuple[Float[Tensor, "b c c"], Float[Tensor, "b c c"]]:
    """Colour jitter and then grayscale as one affine map a row, for `recolour`: (on the pixel, on the mean pixel).

    Args:
        order: the order of brightness (0), contrast (1), saturation (2), hue (3) in each row.
        brightness, contrast, saturation: factors; 1 changes nothing.
        hue: turns; positive from red towards green.
        gray: which rows end gray.

    Saturation, hue and gray need 3 channels and do nothing with others. Contrast is towards the mean luma (3 channels)
    or the mean of all channels (others) of the image as it is at that point. Deviations from torchvision: no clamp
    between two steps, and hue turns in YIQ, not HSV, which keeps luma instead of the largest channel.
    """
    eye = torch.eye(channels, dtype=torch.float64)
    colour = channels == 3
    luma = torch.tensor(LUMA, dtype=torch.float64) if colour else torch.full((channels,), 1 / channels).double()
    to_gray = luma.expand(channels, channels)

    def blend(factor: Tensor) -> Tensor:
        return factor[:, None, None] * eye + (1 - factor)[:, None, None] * to_gray

    bright = brightness.double()[:, None, None] * eye
    pale = contrast.double()[:, None, None] * eye
    same = eye.expand_as(bright)
    steps = [bright, pale, blend(saturation.double()), hue_matrices(hue)] if colour else [bright, pale, same, same]
    at = torch.stack(steps, dim=1)
    lift = (1 - contrast.double())[:, None, None] * to_gray
    rows = torch.arange(len(order))
    # Contrast adds (1 - f) luma . mean(image so far), which is linear in the mean pixel of the image at the start:
    # so both matrices are known before the image is looked at.
    on_pixel, on_mean = eye.expand_as(bright), torch.zeros_like(bright)
    for place in order.unbind(1):
        step = at[rows, place]
        lifted = (place == 1)[:, None, None] * (lift @ (on_pixel + on_mean))
        on_pixel, on_mean = step @ on_pixel, step @ on_mean + lifted
    if colour:
        end = blend(1.0 - gray.double())
        on_pixel, on_mean = end @ on_pixel, end @ on_mean
    return on_pixel.float(), on_mean.float()


def hue_matrices(turns: Float[Tensor, "b"]) -> Float[Tensor, "b 3 3"]:
    """Rotations of the chrominance plane of YIQ, in RGB. Float64."""
    to_yiq = torch.tensor(YIQ, dtype=torch.float64)
    angle = -2 * math.pi * turns.double()  # in YIQ red comes before blue, in HSV before green
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).reshape(-1, 3, 3)
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq


def recolour(
    x: Float[Tensor, "b c h w"], on_pixel: Float[Tensor, "b c c"], on_mean: Float[Tensor, "b c c"]
) -> Float[Tensor, "b c h w"]:
    """on_pixel @ pixel + on_mean @ mean pixel of the row, clamped to [0, 1]."""
    flat = x.flatten(2)
    if (
        torch.compiler.is_compiling()
    ):  # sums that melt into the passes before and after, where a product is one by itself
        mean = flat.mean(2)
        offset = (on_mean * mean[:, None]).sum(2, keepdim=True)
        return ((on_pixel[..., None] * flat[:, None]).sum(2) + offset).clamp(0, 1).reshape(x.shape)
    offset = on_mean @ flat.mean(2, keepdim=True)
    return torch.baddbmm(offset, on_pixel, flat).clamp_(0, 1).reshape(x.shape)


def solarized(x: Float[Tensor, "b c h w"], threshold: float = 0.5) -> Float[Tensor, "b c h w"]:
    """Values from `threshold` on are inverted."""
    return torch.where(x >= threshold, 1 - x, x)


# Filters -------------------------------------------------------------------------------------------------------------


def smoothed(x: Float[Tensor, "b c h w"], taps: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
    """Filtered across and down with each row's own taps (k odd, at most 2 min(h, w) - 1), reflected at the borders."""
    b, c, h, w = x.shape
    if x.is_cuda or torch.compiler.is_compiling():
        return smoothed_by_products(x, taps)
    kernel = taps.repeat_interleave(c, dim=0)[:, None]
    padded = F.pad(x.reshape(1, b * c, h, w), [taps.shape[1] // 2] * 4, mode="reflect")
    across = F.conv2d(padded, kernel[:, :, None, :], groups=b * c)
    return F.conv2d(across, kernel[:, :, :, None], groups=b * c).reshape(b, c, h, w)


def smoothed_by_products(x: Float[Tensor, "b c h w"], taps: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
    """`smoothed` for a GPU: two matrix products, whatever the number of taps."""
    b, c, h, w = x.shape
    across = filter_matrices(taps, w)
    down = across if h == w else filter_matrices(taps, h)
    narrow = torch.bmm(x.reshape(b, c * h, w), across.transpose(1, 2))
    return torch.matmul(down[:, None], narrow.reshape(b, c, h, w))


def filter_matrices(taps: Float[Tensor, "b k"], size: int) -> Float[Tensor, "b n n"]:
    """Matrices that filter an axis of n = `size` pixels with each row's taps, reflected at its ends."""
    count = taps.shape[1]
    pixel = torch.arange(size, device=taps.device)
    place = torch.arange(count, device=taps.device)[:, None] + pixel - count // 2  # [k n]: of a tap for a pixel
    place = (size - 1 - (size - 1 - place.abs()).abs())[:, :, None]
    return (taps @ (place == pixel).to(taps.dtype).flatten(1)).unflatten(1, (size, size))


def gaussian_taps(sigma: Float[Tensor, "b"], radius: int) -> Float[Tensor, "b k"]:
    """2 radius + 1 samples of a Gaussian, sigma in pixels, which sum to 1."""
    place = torch.arange(-radius, radius + 1, device=sigma.device)
    return torch.softmax(-0.5 * (place / sigma[:, None]) ** 2, dim=1)


def box_taps(reach: Int[Tensor, "b"], radius: int) -> Float[Tensor, "b k"]:
    """2 radius + 1 taps, of which the middle 2 reach + 1 are equal and the others 0."""
    place = torch.arange(-radius, radius + 1, device=reach.device)
    return (place.abs() <= reach[:, None]) / (2.0 * reach[:, None] + 1)


def sharpened(
    x: Float[Tensor, "b c h w"],
    amount: Float[Tensor, "b"],
) -> Float[Tensor, "b c h w"]:
    """Unsharp masking: x + amount (x - x blurred with sigma 1 px), clamped to [0, 1]."""
    radius = min(3, x.shape[2] - 1, x.shape[3] - 1)
    soft = smoothed(x, gaussian_taps(torch.ones_like(amount), radius))
    return torch.lerp(soft, x, 1 + amount[:, None, None, None]).clamp_(0, 1)


# Removal -------------------------------------------------------------------------------------------------------------


def cut_out(
    x: Float[Tensor, "b c h w"], boxes: Int[Tensor, "b 4"], value: Float[Tensor, "b"]
) -> Float[Tensor, "b c h w"]:
    """The box (top, left, height, width) of each row set to one value in all channels."""
    top, left, high, wide = boxes[:, :, None].unbind(1)
    y, x_ = torch.arange(x.shape[2], device=x.device), torch.arange(x.shape[3], device=x.device)
    down, across = (y >= top) & (y < top + high), (x_ >= left) & (x_ < left + wide)
    return torch.where((down[:, :, None] & across[:, None, :])[:, None], value[:, None, None, None], x)
