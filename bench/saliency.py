"""How well the masks of `modalities.image.saliency` find an object, and what they cost.

    OMP_NUM_THREADS=1 python bench/saliency.py OBJECTS GROUNDS

OBJECTS: photos of single things on black, as a turntable gives (COIL); what is brighter than a tenth, its holes
closed, counts as the thing. GROUNDS: any photos. Each thing is brought to 0.4 to 0.8 of its size and put anywhere on
black, on a plain colour, on the corner of a photo and on a whole photo; and crops of 0.2 to 1 are taken from these.
Printed: intersection over union with the thing, the share of the thing that is kept, of the ground that is replaced,
the share of the views in which a mask is used at all; milliseconds an image.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsame.modalities.image import measure, open_source, recipe, saliency, sample, steps
from selfsame.records import ViewPlan
from selfsame.types import Draws

SIDE = 128
AREA, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("objects")
    parser.add_argument("grounds")
    parser.add_argument("--count", type=int, default=190)
    args = parser.parse_args()
    torch.set_num_threads(1)
    things, photos = loaded(args.objects, args.count), loaded(args.grounds, args.count)
    count = min(len(things), len(photos))
    things, photos = things[:count], photos[:count]
    bright = (things.amax(1, keepdim=True) > 0.1).float()
    masks = -F.max_pool2d(-F.max_pool2d(bright, 7, 1, 3), 7, 1, 3)
    chance = torch.Generator().manual_seed(0)
    corner = F.interpolate(photos[..., : SIDE // 3, : SIDE // 3], SIDE, mode="bicubic").clamp(0, 1)
    plain = torch.rand(count, 3, 1, 1, generator=chance).expand_as(things)
    print(f"{'':14}    IoU   > 0.5    kept  replaced    used")
    for name, ground in {"black": things * 0, "plain": plain, "corner": corner, "photo": photos}.items():
        thing, mask = placed(things, masks, chance)
        view = torch.where(mask > 0.5, thing, ground)
        show(name, view, mask[:, 0] > 0.5)
        uniform = torch.rand(count, 4, generator=chance).numpy()
        boxes = torch.from_numpy(steps.crop_boxes(uniform, SIDE, SIDE, AREA, RATIO))
        show(
            f"{name}, crops", steps.resized(view, boxes, SIDE).clamp(0, 1), steps.resized(mask, boxes, SIDE)[:, 0] > 0.5
        )
    for side in (32, 128, 224):
        batch = torch.rand(64, 3, side, side)
        saliency.mask_of(batch)
        began = time.process_time()
        saliency.mask_of(batch)
        print(f"{side} px: {(time.process_time() - began) / 64 * 1e3:.2f} ms an image, one thread")


def loaded(path: str, count: int) -> Tensor:
    """Plain views of items spread over the source, [n 3 s s] in [0, 1]."""
    source = open_source(path)
    stats, _ = measure(source)
    source.fit(stats)
    items = list(range(0, len(source), max(1, len(source) // count)))[:count]
    views = recipe("weak", SIDE, stats)
    return sample(source, items, ViewPlan(full=0, plain=1), views, Draws(0, 0, len(items)))[0].float() / stats.white


def placed(things: Tensor, masks: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    scale = 0.4 + 0.4 * torch.rand(len(things), 1, generator=chance)
    shift = (1 - scale) * (2 * torch.rand(len(things), 2, generator=chance) - 1)
    turn = torch.zeros(len(things), 2, 3)
    turn[:, 0, 0] = turn[:, 1, 1] = 1 / scale[:, 0]
    turn[:, :, 2] = -shift / scale
    grid = F.affine_grid(turn, list(things.shape), align_corners=False)
    return F.grid_sample(things, grid, align_corners=False), F.grid_sample(masks, grid, align_corners=False)


def show(name: str, view: Tensor, truth: Tensor) -> None:
    found = saliency.mask_of(view)
    used = ~found.flatten(1).all(1) & (truth.flatten(1).float().mean(1) > 0.02)
    found, truth = found[used].flatten(1), truth[used].flatten(1)
    union = (found & truth).sum(1) / (found | truth).sum(1)
    kept = (found & truth).sum(1) / truth.sum(1)
    gone = (~found & ~truth).sum(1) / (~truth).sum(1).clamp(min=1)
    figures = (union.mean(), (union > 0.5).float().mean(), kept.mean(), gone.mean(), used.float().mean())
    print(f"{name:14}" + "".join(f"{figure:8.2f}" for figure in figures))


if __name__ == "__main__":
    main()
