"""What `kernels` computes, in plain torch: slow, on any device, in any precision. The tests compare the two.

x: activations [m c], the rows of `parts` views one after the other. stat [parts 4 c]: of each part mean, 1 / standard
deviation, and the slope and level of the norm: norm(x) = slope * x + level. Statistics and sums are at least float32.
`running`: (mean, variance) [c] that follow the batch's, or None.
"""

import torch
from torch import Tensor

Running = tuple[Tensor, Tensor] | None


def wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def apart(x: Tensor, parts: int) -> Tensor:
    """[parts rows c]"""
    return wide(x).view(parts, -1, x.shape[1])


def normed(x: Tensor, stat: Tensor) -> Tensor:
    """[parts rows c]"""
    return apart(x, len(stat)) * stat[:, 2, None] + stat[:, 3, None]


def enough(rows: int) -> None:
    """Raises ValueError where a part has too few rows for a variance, as torch does."""
    if rows < 2:
        raise ValueError("Expected more than 1 value per channel when training: the map of a single image is 1x1.")


def follow(running: Running, mean: Tensor, variance: Tensor, momentum: float, rows: int) -> None:
    """One step of the running statistics for each part, as if they had come one by one."""
    if running is not None:
        for one, two in zip(mean, variance, strict=True):
            running[0].lerp_(one.to(running[0].dtype), momentum)
            running[1].lerp_((two * rows / (rows - 1)).to(running[1].dtype), momentum)


def moments(
    x: Tensor, weight: Tensor, bias: Tensor, running: Running, momentum: float, eps: float, parts: int
) -> Tensor:
    """The statistics of x."""
    enough(len(x) // parts)
    variance, mean = torch.var_mean(apart(x, parts), dim=1, correction=0)
    follow(running, mean, variance, momentum, len(x) // parts)
    scale = torch.rsqrt(variance + eps)
    return torch.stack([mean, scale, scale * weight, bias - mean * scale * weight], dim=1)


def activated(x: Tensor, stat: Tensor) -> Tensor:
    """relu(norm(x))"""
    return normed(x, stat).flatten(0, 1).relu().to(x.dtype)


def activated_and_summed(x: Tensor, stat: Tensor) -> tuple[Tensor, Tensor]:
    """relu(norm(x)), and the sum of it over the rows of each part."""
    y = activated(x, stat)
    return y, apart(y, len(stat)).sum(dim=1)


def summed(x: Tensor, parts: int) -> Tensor:
    """The sum over the rows of each part."""
    return apart(x, parts).sum(dim=1)


def joined(x: Tensor, stat: Tensor, skip: Tensor, skip_stat: Tensor | None) -> Tensor:
    """relu(norm(x) + skip), or relu(norm(x) + norm(skip))."""
    more = apart(skip, len(stat)) if skip_stat is None else normed(skip, skip_stat)
    return (normed(x, stat) + more).flatten(0, 1).relu().to(x.dtype)


def multiplied_and_joined(x: Tensor, w: Tensor, stat: Tensor, skip: Tensor, skip_stat: Tensor | None) -> Tensor:
    """relu(x @ w.T + level + skip), or with norm(skip): w [parts o i] and level are what `fold` gives."""
    return joined((apart(x, len(w)) @ wide(w).mT).flatten(0, 1), stat, wide(skip), skip_stat).to(x.dtype)


def multiplied_masked_and_summed(d: Tensor, w: Tensor, more: Tensor, seen: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """As `masked_and_summed`, of d @ w and more."""
    g = torch.where(seen > 0, wide(d) @ wide(w) + more, 0).to(d.dtype)
    return g, apart(g, parts).sum(dim=1)


def multiplied_both(g: Tensor, gains: Tensor, x: Tensor, square: Tensor) -> Tensor:
    """g @ gains + x @ square of each part."""
    parts = len(gains)
    return (apart(g, parts) @ wide(gains) + apart(x, parts) @ wide(square)).flatten(0, 1).to(x.dtype)


def squared(x: Tensor, dtype: torch.dtype, room: int) -> Tensor:
    """Images [b c h w] as squares of 2x2 pixels [b h/2+3 w/2+3 room], their values side by side, row by row.

    `room` is more than their values, of which the rest is zero; so are two squares before the image and one behind it.
    """
    b, channels, height, width = x.shape
    y = x.new_zeros(b, height // 2 + 3, width // 2 + 3, room, dtype=dtype)
    pixels = x.permute(0, 2, 3, 1).reshape(b, height // 2, 2, width // 2, 2, channels)
    y[:, 2:-1, 2:-1, : 4 * channels] = pixels.permute(0, 1, 3, 2, 4, 5).flatten(3).to(dtype)
    return y


def opened(
    x: Tensor, w: Tensor, weight: Tensor, bias: Tensor, running: Running, momentum: float, eps: float, parts: int
) -> tuple[Tensor, Tensor]:
    """What a convolution over 4x4 squares gives, and its statistics. w: [4, 4 * room, o], a row of squares each."""
    filters = w.view(4, 4, x.shape[3], -1).permute(3, 2, 0, 1)
    y = _flat(torch.nn.functional.conv2d(wide(x).permute(0, 3, 1, 2), wide(filters))).to(x.dtype)
    return y, moments(y, weight, bias, running, momentum, eps, parts)


def opened_back(d: Tensor, x: Tensor) -> Tensor:
    """The gradient of w, given that of what it gave."""
    low, narrow = x.shape[1] - 3, x.shape[2] - 3
    windows = wide(x).unfold(1, 4, 1).unfold(2, 4, 1).permute(0, 1, 2, 4, 5, 3)  # [b h w 4 4 room]
    made = windows.reshape(len(x) * low * narrow, -1).T @ wide(d)
    return made.view(4, 4 * x.shape[3], -1)


def scaled(x: Tensor, slope: Tensor, level: Tensor, dtype: torch.dtype) -> Tensor:
    """slope * x + level of each channel of [b c h w], channels last in memory."""
    y = wide(x) * slope[:, None, None] + level[:, None, None]
    return y.to(dtype).contiguous(memory_format=torch.channels_last)


def thinned(x: Tensor, down: int, right: int) -> Tensor:
    """Of [b c h w] the places that a convolution of 1x1 with these strides sees, as rows [m c]."""
    return _flat(x[:, :, ::down, ::right]).contiguous()


def thickened(d: Tensor, x: Tensor, level: Tensor | None, parts: int, down: int, right: int) -> None:
    """Add x + level of its part, where level is given, to these places of d [b c h w], in place."""
    seen = d[:, :, ::down, ::right]
    more = apart(x, parts) if level is None else apart(x, parts) + level[:, None]
    seen.add_(more.reshape(len(d), *seen.shape[2:], -1).permute(0, 3, 1, 2))


def masked_and_summed(d: Tensor, more: Tensor | None, seen: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """d + more where `seen` is positive, else 0; and the sum of it over the rows of each part."""
    g = torch.where(seen > 0, wide(d) if more is None else wide(d) + more, 0).to(d.dtype)
    return g, apart(g, parts).sum(dim=1)


def back(
    d: Tensor, offset: Tensor | None, x: Tensor, stat: Tensor, weight: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, given that of relu(norm(x)), or of norm(x): d + offset of its part."""
    g = apart(d, len(stat)) if offset is None else apart(d, len(stat)) + offset[:, None]
    if relu:
        g = torch.where(normed(x, stat) > 0, g, 0)
    return _through_norm(g, x, stat, weight)


def _through_norm(g: Tensor, x: Tensor, stat: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    hat = (apart(x, len(stat)) - stat[:, 0, None]) * stat[:, 1, None]
    along, level = (g * hat).mean(dim=1, keepdim=True), g.mean(dim=1, keepdim=True)
    of_x = weight * stat[:, 1, None] * (g - level - hat * along)
    return of_x.flatten(0, 1).to(x.dtype), (g * hat).sum(dim=(0, 1)), g.sum(dim=(0, 1))


def pooled(x: Tensor, stat: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The largest relu(norm(x)) of each window of 3x3 at every other row and column; and which of its 9 it is.

    That is number 9 where none is positive.
    """
    z = normed(x, stat).view(-1, height, width, x.shape[1]).permute(0, 3, 1, 2)
    y, place = torch.nn.functional.max_pool2d(z, 3, 2, 1, return_indices=True)
    rows = torch.arange(y.shape[2], device=x.device)[:, None]
    columns = torch.arange(y.shape[3], device=x.device)
    best = (place // width - 2 * rows + 1) * 3 + place % width - 2 * columns + 1
    return _flat(y.relu()).to(x.dtype), _flat(torch.where(y > 0, best, 9)).to(torch.uint8)


def _flat(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def pooled_back(
    d: Tensor, x: Tensor, stat: Tensor, weight: Tensor, best: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, given that of what `pooled` gave."""
    low, narrow = (height + 1) // 2, (width + 1) // 2
    shape = (-1, low, narrow, x.shape[1])
    d = torch.where(best < 9, wide(d), 0).view(shape)
    tap = best.view(shape).long() % 9
    n = torch.arange(len(d), device=x.device)[:, None, None, None]
    h = 2 * torch.arange(low, device=x.device)[:, None, None] - 1 + tap // 3
    w = 2 * torch.arange(narrow, device=x.device)[:, None] - 1 + tap % 3
    c = torch.arange(x.shape[1], device=x.device)
    g = d.new_zeros(len(d), height, width, x.shape[1])
    g.index_put_((n, h, w, c), d, accumulate=True)
    return _through_norm(g.view(len(stat), -1, x.shape[1]), x, stat, weight)


def product_in_full(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(wide(a), wide(b))


def fold(
    x: Tensor, total: Tensor, w: Tensor, weight: Tensor, bias: Tensor, running: Running, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(w', stat, w @ covariance of x) of each part, with norm(x @ w.T) = x @ w'.T + level.

    So what x @ w'.T still needs is a norm of slope 1 with this level, and this is what stat holds.

    The mean and variance of a product are those of what it is made of: w @ mean(x) and w @ cov(x) @ w.T.
    Args: total: sums of x [parts i]; w: [o i]; weight, bias: of the norm.
    """
    each = apart(x, len(total))
    rows = each.shape[1]
    enough(rows)
    centre = total / rows
    covariance = torch.baddbmm(centre[:, :, None] @ centre[:, None], each.mT, each, alpha=1 / rows, beta=-1)
    product = wide(w) @ covariance
    variance = (product * w).sum(dim=2).clamp_min(0)
    follow(running, centre @ wide(w).T, variance, momentum, rows)
    scale = torch.rsqrt(variance + eps)
    folded = (w * (scale * weight)[:, :, None]).to(x.dtype)
    level = bias - (wide(folded) @ centre[:, :, None])[:, :, 0]
    return folded, torch.stack([centre @ wide(w).mT, scale, torch.ones_like(scale), level], dim=1), product


def unfold(
    g: Tensor, sums: Tensor, x: Tensor, total: Tensor, w: Tensor, weight: Tensor, product: Tensor, stat: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of norm(x @ w.T), given its gradient g [m o] and the sums of it [parts o]: gradients of w and of the norm's
    weight, and three factors of that of x, which is g @ gains + x @ w.T @ slopes + level @ w.

    What a norm does to a gradient, gain * (g - mean(g) - y * mean(g * y)) with y = scale * (x - mean(x)) @ w.T, needs
    y in sums and products only, and these are products of the small matrices g.T @ x and cov(x) with w.
    """
    rows, scale = len(x) // len(total), stat[:, 1]
    centre = total / rows
    h = product_in_full(g.view(len(total), rows, -1).mT, x.view(len(total), rows, -1))
    h = h - sums[:, :, None] * centre[:, None]
    along = (h * w).sum(dim=2) * scale
    gain = scale * weight
    slope = -gain * scale * along / rows
    of_w = (gain[:, :, None] * h + rows * slope[:, :, None] * product).sum(dim=0)
    gains, slopes = ((w * k[:, :, None]).to(x.dtype) for k in (gain, slope))
    return of_w, along.sum(dim=0), gains, slopes, -gain * sums / rows - slope * stat[:, 0]
