"""Which tokens of a grid a method hides, keeps or asks for; the grid may have any number of axes.

Sources: multi-block, I-JEPA, Assran et al. 2023, arXiv 2301.08243, section 3; blockwise, BEiT, Bao et al. 2021,
arXiv 2106.08254, algorithm 1, with the exact number of tokens that its code hides.
All rows of all processes are drawn at once, on the CPU, and each process takes its own: the masks of an item do not
depend on how the batch is divided.
Raises: UserError for a grid that is too small.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from selfsame.errors import UserError
from selfsame.nn.sync import alike, places, shared, world

Range = tuple[float, float]
LAID = 12  # blocks laid for one blockwise mask; what they leave uncovered is hidden token by token
TRIES = 20  # draws of blocks before all targets of an item are laid on one place


def scattered(rows: int, grid: tuple[int, ...], share: float, device: torch.device) -> Int[Tensor, "b m"]:
    """That share of the tokens, each row its own, drawn one by one: the places of the hidden ones."""
    tokens = math.prod(grid)
    noise = torch.rand(rows * world(), tokens)
    return lowest(shared(noise.to(device, non_blocking=True)), rows, hidden_of(tokens, share, grid))


def blockwise(
    rows: int, grid: tuple[int, ...], share: float, smallest: float, aspect: float, device: torch.device
) -> Int[Tensor, "b m"]:
    """That share of the tokens, exactly, in blocks that are laid one after the other: the places of the hidden ones.

    A block takes `smallest` to `share` of the grid, its sides' ratio is log-uniform in [aspect, 1 / aspect]. The last
    one is thinned at random to the number; where all LAID leave too little, single tokens are added.
    """
    tokens, axes, total = math.prod(grid), len(grid), rows * world()
    hidden = hidden_of(tokens, share, grid)
    drawn = shared(torch.rand(total, LAID * (2 + axes) + tokens).to(device, non_blocking=True))
    block, noise = drawn[:, :-tokens].view(total, LAID, 2 + axes), drawn[:, -tokens:]
    scale = smallest + (share - smallest) * block[..., 0]
    sides = sides_of(grid, scale, ((1 - 2 * block[..., 1]) * math.log(aspect)).exp())
    inside = covered(corners(block[..., 2:], sides, grid), sides, grid)
    uncovered_before = (~inside).long().cumprod(dim=1).sum(dim=1)  # the number of the first block that covers a token
    return lowest(uncovered_before + noise, rows, hidden)


def multi_block(
    rows: int,
    grid: tuple[int, ...],
    device: torch.device,
    targets: int = 4,
    target_scale: Range = (0.15, 0.2),
    target_aspect: Range = (0.75, 1.5),
    context_scale: Range = (0.85, 1.0),
    min_keep: int = 10,
) -> tuple[Int[Tensor, "b m"], Int[Tensor, "k b t"]]:
    """Places of the context's tokens and of those of each target block, of blocks whose sides all rows share.

    The context is a block without the targets, cut at random to the length of the shortest in the batch. Scale and
    aspect of the targets come from one random number, as in the reference code. At least `min_keep` tokens of context
    are left, but no more than a quarter of the grid is insisted upon.
    """
    with unset_fake_temporarily():  # the lengths are real ones where a step is only counted, too
        context, asked = _multi_block(
            rows * world(), grid, alike(device), targets, target_scale, target_aspect, context_scale, min_keep
        )
        mine = places(rows, torch.device("cpu"))
        chosen = context[mine].numpy(), asked[mine].transpose(0, 1).contiguous().numpy()
    seen, wanted = (torch.as_tensor(array).to(device, non_blocking=True) for array in chosen)
    return seen, wanted


def _multi_block(
    total: int,
    grid: tuple[int, ...],
    generator: torch.Generator,
    targets: int,
    target_scale: Range,
    target_aspect: Range,
    context_scale: Range,
    min_keep: int,
) -> tuple[Int[Tensor, "b m"], Int[Tensor, "b k t"]]:
    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    axes, tokens = len(grid), math.prod(grid)
    of_target, of_context = drawn(2)
    target = sides_of(grid, between(target_scale, of_target), between(target_aspect, of_target))
    around = sides_of(grid, between(context_scale, of_context), torch.ones(()))
    least = max(1, min(min_keep, tokens // 4))
    if around.prod() - target.prod() < least:
        raise UserError(
            f"a grid of {' x '.join(map(str, grid))} tokens is too small: beside a target of {int(target.prod())} "
            f"tokens a context of {int(around.prod())} keeps less than {least}. Give larger views or smaller patches, "
            "or smaller targets."
        )
    context = torch.empty(total, tokens, dtype=torch.bool)
    asked = torch.empty(total, targets, tokens, dtype=torch.bool)
    left = torch.arange(total)
    for attempt in range(TRIES + 1):
        laid = covered(corners(drawn(len(left), targets, axes), target, grid), target, grid)
        if attempt == TRIES:
            laid = laid[:, :1].expand_as(laid)
        free = covered(corners(drawn(len(left), axes), around, grid), around, grid) & ~laid.any(dim=1)
        asked[left], context[left] = laid, free
        left = left[free.sum(dim=1) < least]
        if not len(left):
            break
    shortest = int(context.sum(dim=1).min())
    kept = (drawn(total, tokens) + (~context).float()).argsort(dim=1)[:, :shortest]
    return kept, asked.nonzero()[:, 2].view(total, targets, -1)


def hidden_of(tokens: int, share: float, grid: tuple[int, ...]) -> int:
    """How many tokens a share is; some must be hidden and some seen."""
    if tokens < 2:
        raise UserError(
            f"a grid of {' x '.join(map(str, grid))} tokens is too small to hide a part of it. Give larger views or "
            "smaller patches."
        )
    return min(max(1, round(share * tokens)), tokens - 1)


def lowest(order: Float[Tensor, "total n"], rows: int, count: int) -> Int[Tensor, "b m"]:
    """The places of each own row's `count` lowest numbers."""
    return order[places(rows, order.device)].argsort(dim=1)[:, :count]


def between(ends: Range, u: Tensor) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * u


def sides_of(
    grid: tuple[int, ...], scale: Float[Tensor, "..."], aspect: Float[Tensor, "..."]
) -> Int[Tensor, "... axes"]:
    """Sides of blocks that take a share `scale` of the grid, each at least 1 and at most the grid's.

    `aspect` is the ratio of the first side to the last in units of the grid: of a square one, height over width.
    """
    lengths = lengths_of(grid, scale.device)
    shape = scale[..., None] ** (1 / len(grid)) * lengths
    if len(grid) > 1:
        flat = torch.ones_like(aspect)
        shape = shape * torch.stack([aspect.sqrt(), *[flat] * (len(grid) - 2), aspect.rsqrt()], dim=-1)
    return torch.minimum(shape.round().long().clamp(min=1), lengths)


def lengths_of(grid: tuple[int, ...], device: torch.device) -> Int[Tensor, "axes"]:
    """The grid's sides as a tensor, filled on the device: copied there from Python, they would be waited for."""
    return torch.cat([torch.full((1,), length, device=device) for length in grid])


def corners(
    u: Float[Tensor, "... axes"], sides: Int[Tensor, "... axes"], grid: tuple[int, ...]
) -> Int[Tensor, "... axes"]:
    """Where blocks begin, each place in the grid as likely, from uniform numbers."""
    room = lengths_of(grid, u.device) - sides + 1
    return torch.minimum((u * room).long(), room - 1)


def covered(
    corner: Int[Tensor, "... axes"], sides: Int[Tensor, "... axes"], grid: tuple[int, ...]
) -> Bool[Tensor, "... n"]:
    """Which tokens lie in each block."""
    inside = torch.ones(*corner.shape[:-1], 1, dtype=torch.bool, device=corner.device)
    for axis, length in enumerate(grid):
        offset = torch.arange(length, device=corner.device) - corner[..., axis, None]
        inside = (inside[..., None] & ((offset >= 0) & (offset < sides[..., axis, None]))[..., None, :]).flatten(-2)
    return inside
