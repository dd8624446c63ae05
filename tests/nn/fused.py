"""The fused kernels beside their twins, on any device: on a GPU as they are, elsewhere as Triton interprets them.

    TRITON_INTERPRET=1 python -m tests.nn.fused        # {name: how far apart}

Tiles that are not full, one view and two, maps of odd sides, each form of every kernel.
"""

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from selfsame.nn.fused import kernels, twins


def differences(device: str, dtype: torch.dtype, large: bool = False) -> dict[str, float]:
    """Of each result the distance from the twin's, as a share of its length; 1 where shape or dtype differ."""
    torch.manual_seed(0)
    found: dict[str, float] = {}
    for parts, images, height, width, channels, outs in sizes(large):
        for name, mine, wanted in results(device, dtype, parts, images, height, width, channels, outs):
            for k, (one, two) in enumerate(zip(mine, wanted, strict=True)):
                found[f"{name} {channels} {parts} {k}"] = apart(one, two)
    return found


def sizes(large: bool) -> Iterator[tuple[int, ...]]:
    """(views, images, height, width, channels, channels of a product)"""
    yield 2, 4, 5, 6, 64, 128
    yield 1, 3, 3, 4, 144, 48  # no product of this width has a kernel
    yield 2, 2, 4, 4, 64, 256
    if large:
        yield 2, 32, 28, 28, 128, 512
        yield 2, 64, 14, 14, 256, 1024


def apart(one: Tensor, two: Tensor) -> float:
    if one.shape != two.shape or one.dtype != two.dtype or not one.isfinite().all():
        return 1.0
    if not one.is_floating_point():
        return float((one != two).float().mean())
    return float((one.double() - two.double()).norm() / two.double().norm().clamp_min(1e-9))


def results(
    device: str, dtype: torch.dtype, parts: int, images: int, height: int, width: int, channels: int, outs: int
) -> Iterator[tuple[str, list[Tensor], list[Tensor]]]:
    rows = images * height * width

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, device=device)

    def acts(*shape: int) -> Tensor:
        return values(*shape).to(dtype)

    def both(name: str, *given: Any, moved: int | None = None, running: int = 0) -> tuple[str, Any, Any]:
        """What each makes of copies; `moved`: which argument it changes; `running`: width of statistics that follow."""
        made = []
        for ops in (kernels, twins):
            mine = [x.clone() if k == moved else x for k, x in enumerate(given)]
            known = (torch.full((running,), 0.3, device=device), torch.full((running,), 2.0, device=device))
            out = getattr(ops, name)(*(known if x == "running" else x for x in mine))
            outs = list(out) if isinstance(out, tuple) else [] if out is None else [out]
            made.append([*outs, *(known if running else ()), *([mine[moved]] if moved is not None else [])])
        return name, *made

    x, skip, d = (acts(rows, channels) * 1.5 + 0.5 for _ in range(3))
    weight, bias = values(channels), values(channels)
    yield (made := both("moments", x, weight, bias, "running", 0.1, 1e-5, parts, running=channels))
    stat = made[2][0]
    yield both("moments", x, weight, bias, None, 0.1, 1e-5, parts)
    yield both("activated", x, stat)
    yield (made := both("activated_and_summed", x, stat))
    act, total = made[2]
    yield both("summed", x, parts)
    yield (made := both("joined", x, stat, skip, None))
    seen = made[2][0]
    yield both("joined", x, stat, skip, stat)
    yield both("masked_and_summed", d, None, seen, parts)
    yield both("masked_and_summed", d, skip, seen, parts)
    yield both("back", d, stat[:, 0].contiguous(), x, stat, weight, True)
    yield both("back", d, None, x, stat, weight, False)

    # Where rows have places.
    yield (made := both("pooled", x, stat, height, width))
    yield both("pooled_back", acts(*made[2][0].shape), x, stat, weight, made[2][1], height, width)
    whole = x.view(images, height, width, channels).permute(0, 3, 1, 2)
    yield (made := both("thinned", whole, 2, 2))
    few = made[2][0]
    for level in (None, values(parts, channels)):
        yield both("thickened", whole, few, level, parts, 2, 2, moved=0)
    pixels = torch.rand(2 * parts, 3, 2 * height, 2 * width, device=device).contiguous(
        memory_format=torch.channels_last
    )
    yield both("scaled", pixels, values(3), values(3), dtype)
    yield (made := both("squared", pixels, dtype, 16))
    squares, filters = made[2][0], acts(4, 64, 32) / 8
    known = values(32), values(32)
    yield (made := both("opened", squares, filters, *known, "running", 0.1, 1e-5, parts, running=32))
    yield both("opened_back", made[2][0], squares)

    # Products.
    w, gamma, beta = values(outs, channels) / channels**0.5, values(outs), values(outs)
    yield (made := both("fold", act, total, w, gamma, beta, "running", 0.1, 1e-5, running=outs))
    folded, normed, product = made[2][:3]
    g, past = acts(rows, outs), acts(rows, outs)
    for past_stat in (None, normed):
        yield both("multiplied_and_joined", act, folded, normed, past, past_stat)
    yield both("multiplied_masked_and_summed", act, w.T.contiguous().to(dtype), past, g, parts)
    sums = twins.summed(g, parts)
    yield (made := both("unfold", g, sums, act, total, w, gamma, product, normed))
    square = acts(parts, channels, channels) / channels**0.5
    yield both("multiplied_both", g, made[2][2], act, square)


if __name__ == "__main__":
    print(json.dumps(differences("cpu", torch.float32)))
