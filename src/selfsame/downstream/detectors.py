"""Heads that find boxes: torchvision's FCOS, RetinaNet and Faster R-CNN on the maps of an encoder.

FCOS: Tian et al. 2019, arXiv 1904.01355. RetinaNet: Lin et al. 2017, 1708.02002. Faster R-CNN: Ren et al. 2015,
1506.01497, on a feature pyramid, Lin et al. 2016, 1612.03144. Pyramid and heads have group norm (Wu and He 2018,
1803.08494): features learned without labels have other scales than ImageNet's, and He et al. 2019 (MoCo, 1911.05722,
section 4.2) found that norms are then needed.

Of torchvision are the layers, the matching of places and boxes, the losses and what becomes of outputs. Its resizing
and normalisation of pictures are not used: views have their size, and the encoder normalises. Deviations: anchors lie
in the middle of what a place stands for, as FCOS's paper has it (torchvision: at its corner), are not rounded, and
their sizes go with the view: the largest is about the view, each finer map's half of the next one's. For views of 512
pixels and five maps that is torchvision's 32 to 512.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, nms
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from selfsame.downstream.boxes import Detections
from selfsame.downstream.task import Head
from selfsame.downstream.trunk import Trunk
from selfsame.nn.norm import largest_divisor
from selfsame.nn.sync import mean_total, world
from selfsame.types import Encoder

FINEST = 4  # pixels for a place of the finest map that is used, where there are coarser ones
SAMPLED = 128  # proposals of a view that Faster R-CNN's second stage learns from; 512 of pictures of 800 pixels
PROPOSED = 300  # that it looks at where it is used, as in its paper
REACH = 2.0  # places to each side of a box that FCOS starts from; from torchvision's 0 few short runs get away
SURE = 300  # candidates of a view in an exported file, even where no score is above the threshold
MOST = 100  # boxes found in a view, as COCO scores them
RATIOS = (0.5, 1.0, 2.0)  # height / width of anchors
OCTAVE = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))  # RetinaNet's three sizes of anchors on a map


def group_norm(width: int) -> nn.GroupNorm:
    """At least four channels a group: a map of one place has nothing else to take a variance of."""
    return nn.GroupNorm(largest_divisor(width, max(1, min(32, width // 4))), width)


class Pyramid(nn.Module):
    """Maps of one width from those of an encoder, fine to coarse, and one more that is coarser by two."""

    def __init__(self, encoder: Encoder, size: int, width: int) -> None:
        super().__init__()
        self.out_channels = width
        self.trunk = Trunk(encoder, size, FINEST)
        strides = [float(stride) for stride in self.trunk.strides]
        more = size // strides[-1] >= 2
        self.strides = [*strides, 2 * strides[-1]] if more else strides
        """pixels for a place on each map"""
        self.network = FeaturePyramidNetwork(
            list(self.trunk.widths), width, extra_blocks=LastLevelMaxPool() if more else None, norm_layer=group_norm
        )

    def forward(self, encoder: Encoder, views: Tensor) -> list[Float[Tensor, "b c h w"]]:
        maps = self.trunk(encoder, views)
        return list(self.network(OrderedDict((str(k), one) for k, one in enumerate(maps))).values())


class Anchors(AnchorGenerator):
    """torchvision's anchors, in the middle of each place, for any number of pixels a place, and not rounded."""

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        across = torch.tensor([s / math.sqrt(r) for r in aspect_ratios for s in scales], dtype=dtype, device=device)
        down = torch.tensor([s * math.sqrt(r) for r in aspect_ratios for s in scales], dtype=dtype, device=device)
        return torch.stack([-across, -down, across, down], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        height, width = image_list.tensors.shape[-2:]
        levels = []
        for one, made in zip(feature_maps, self.cell_anchors, strict=True):
            cell = made.to(one.device, torch.float32)
            rows, columns = one.shape[-2:]
            y = (torch.arange(rows, device=one.device) + 0.5) * (height / rows)
            x = (torch.arange(columns, device=one.device) + 0.5) * (width / columns)
            middle = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=2).reshape(-1, 1, 2).repeat(1, 1, 2)
            levels.append((middle + cell).reshape(-1, 4))
        return [torch.cat(levels)] * len(image_list.image_sizes)


def listed_targets(rows: Float[Tensor, "b m 5"], first: int = 0) -> list[dict[str, Tensor]]:
    """Targets as torchvision takes them; `first` is the number of the first class."""
    real = [one[one[:, 4] >= 0] for one in rows]
    return [{"boxes": one[:, :4], "labels": one[:, 4].long() + first} for one in real]


class BoxHead(Head):
    """A pyramid, and what each kind of detector adds. Outputs are {"maps": [map], ...}, all of tensors."""

    detector: Any
    first = 0
    """number of the first class in torchvision's targets"""

    def __init__(self, encoder: Encoder, classes: int, size: int, width: int) -> None:
        super().__init__()
        self.size, self.classes = size, classes
        self.pyramid = Pyramid(encoder, size, width)

    def images(self, maps: list[Tensor]) -> ImageList:
        """torchvision wants pictures for their number and size alone."""
        count = len(maps[0])
        shape = maps[0].new_empty(1).expand(count, 1, self.size, self.size)
        return ImageList(shape, [(self.size, self.size)] * count)

    def forward(self, encoder: Encoder, views: Tensor) -> dict[str, Any]:
        maps = self.pyramid(encoder, views)
        return {"maps": maps, **self.raw(maps)}

    def raw(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """What is said of each place."""
        return self.detector.head(maps)

    def losses(self, outputs: dict[str, Any], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        raise NotImplementedError

    def loss(self, outputs: dict[str, Any], targets: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(outputs["maps"][0].device.type, enabled=False):  # small boxes are lost in 16 bits
            parts = self.losses(in_full(outputs), listed_targets(targets[0].float(), self.first))
        return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}

    def detections(self, outputs: dict[str, Any]) -> list[dict[str, Tensor]]:
        """torchvision's for each view."""
        raise NotImplementedError

    @torch.no_grad()
    def decoded(self, outputs: dict[str, Any]) -> list[Detections]:
        with torch.autocast(outputs["maps"][0].device.type, enabled=False):
            found = self.detections(in_full(outputs))
        return [
            Detections(
                one["boxes"].double().cpu().numpy(),
                (one["labels"] - self.first).cpu().numpy(),
                one["scores"].double().cpu().numpy(),
                (self.size, self.size),
            )
            for one in found
        ]


class OneStage(BoxHead):
    """What FCOS and RetinaNet share: all is said of each place at once."""

    gives: ClassVar = {
        "boxes": "float32 [b, n, 4]: left, top, right, bottom in pixels of what is given, the best scores first",
        "scores": "float32 [b, n], 0 to 1; `predict` drops those up to `threshold`; 0 in rows that hold no box",
        "classes": "int64 [b, n]: place of the class in `classes`",
    }
    in_half = False
    operations = ("torchvision",)

    def losses(self, outputs: dict[str, Any], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        maps = outputs["maps"]
        return self.compared(targets, outputs, self.detector.anchor_generator(self.images(maps), maps))

    def compared(
        self, targets: list[dict[str, Tensor]], outputs: dict[str, Any], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        raise NotImplementedError

    def detections(self, outputs: dict[str, Any]) -> list[dict[str, Tensor]]:
        maps = outputs["maps"]
        images = self.images(maps)
        counts = [one.shape[2] * one.shape[3] * self.each for one in maps]
        anchors = [list(one.split(counts)) for one in self.detector.anchor_generator(images, maps)]
        said = {name: list(value.split(counts, dim=1)) for name, value in outputs.items() if name != "maps"}
        return self.detector.postprocess_detections(said, anchors, images.image_sizes)

    @property
    def each(self) -> int:
        """Anchors at a place."""
        return self.detector.anchor_generator.num_anchors_per_location()[0]

    def chances(self, outputs: dict[str, Any]) -> Float[Tensor, "b n k"]:
        """The score of each class at each place."""
        raise NotImplementedError

    def corrected(self, corrections: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Boxes from anchors and what is said of them."""
        raise NotImplementedError

    def portable(
        self, outputs: dict[str, Any], height: int | None, width: int | None
    ) -> tuple[Float[Tensor, "b m 4"], Float[Tensor, "b m"], Tensor]:
        """torchvision's own way, for all views at once and with as many boxes of each.

        The best of each map become candidates, whether they are above the threshold or not; of these the ones above it,
        and SURE of a view in any case, go through one suppression, in which no two classes and no two views overlap.
        """
        assert height is not None and width is not None
        maps, detector = outputs["maps"], self.detector
        anchors = detector.anchor_generator(self.images([one[:1] for one in maps]), maps)[0]
        chances, corrections = self.chances(outputs), outputs["bbox_regression"]
        b, k, start = chances.shape[0], self.classes, 0
        found = []
        for one in maps:
            count = one.shape[2] * one.shape[3] * self.each
            of_map = slice(start, start + count)
            start += count
            score, place = chances[:, of_map].flatten(1).topk(min(detector.topk_candidates, count * k))
            at = place // k
            said = corrections[:, of_map].gather(1, at[..., None].expand(-1, -1, 4))
            boxes = self.corrected(said.reshape(-1, 4), anchors[of_map][at.reshape(-1)])
            found.append((boxes.view(b, -1, 4).clamp(0, self.size), score, place % k))
        boxes, scores, classes = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        n = scores.shape[1]
        least = scores.topk(min(SURE, n)).values[:, -1:].clamp(max=detector.score_thresh)
        chosen = (scores >= least).flatten().nonzero()[:, 0]
        apart = torch.stack([classes, torch.arange(b, device=classes.device)[:, None].expand(-1, n)], dim=2)
        moved = boxes + (apart * (self.size + 1)).repeat(1, 1, 2).to(boxes.dtype)
        kept = nms(moved.reshape(-1, 4)[chosen], scores.flatten()[chosen], detector.nms_thresh)
        stays = torch.zeros_like(scores).flatten().index_fill(0, chosen[kept], 1.0).view(b, n)
        best, which = torch.where(stays > 0, scores, -1.0).topk(min(MOST, n))
        across, down = (torch.full((1,), length, dtype=boxes.dtype) / self.size for length in (width, height))
        picked = boxes.gather(1, which[..., None].expand(-1, -1, 4)) * torch.cat([across, down, across, down])
        return picked * (best > 0)[..., None], best.clamp_min(0), classes.gather(1, which)

    def told(self) -> dict[str, Any]:
        return {"threshold": self.detector.score_thresh}

    def apart(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
        """Of boxes: each one expected beside the nearest of its class; the worst twentieth may be another's.

        Two scores, or an overlap and its limit, may be so near that rounding decides which box stays.
        """
        far = []
        for boxes, scores, kinds, wanted, chances, named in zip(*found, *expected, strict=True):
            there = scores > 0
            for box, chance, kind in zip(wanted[chances > 0], chances[chances > 0], named[chances > 0], strict=True):
                same = there & (kinds == kind)
                off = torch.cat(
                    [(boxes - box) / expected[0].max(), ((scores - chance) / expected[1].max())[:, None]], dim=1
                )
                far.append(float(off.abs().amax(dim=1)[same].min()) if same.any() else 1.0)
        return float(torch.tensor(sorted(far)[: max(1, round(0.95 * len(far)))]).max()) if far else 0.0


class Counted(FCOSHead):
    """torchvision's, whose loss is a sum over places that lie in a box, divided by their number in all processes."""

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        own = torch.stack([(one >= 0).sum() for one in matched_idxs]).sum()
        share = own.clamp_min(1) / mean_total(own).clamp_min(1 / world())
        parts = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        return {name: part * share for name, part in parts.items()}


class FcosHead(OneStage):
    """Each place inside of a box says its class, the distances to its four sides, and how near the middle it is."""

    def __init__(
        self, encoder: Encoder, classes: int, size: int, width: int, threshold: float, overlap: float | None = None
    ) -> None:
        super().__init__(encoder, classes, size, width)
        strides = self.pyramid.strides
        head = Counted(width, 1, classes, num_convs=0)  # replaced: the groups of its own norms do not fit every width
        head.classification_head = FCOSClassificationHead(width, 1, classes, norm_layer=group_norm)
        head.regression_head = FCOSRegressionHead(width, 1, norm_layer=group_norm)
        nn.init.constant_(head.regression_head.bbox_reg.bias, REACH)
        self.detector = FCOS(
            nothing(width),
            classes,
            anchor_generator=Anchors(tuple((s,) for s in strides), ((1.0,),) * len(strides)),
            head=head,
            score_thresh=threshold,
            nms_thresh=0.6 if overlap is None else overlap,
            detections_per_img=MOST,
        )

    def chances(self, outputs: dict[str, Any]) -> Float[Tensor, "b n k"]:
        return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()

    def corrected(self, corrections: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        return self.detector.box_coder.decode(corrections, anchors)

    def compared(
        self, targets: list[dict[str, Tensor]], outputs: dict[str, Any], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        counts = [one.shape[2] * one.shape[3] for one in outputs["maps"]]
        return self.detector.compute_loss(targets, outputs, anchors, counts)


class RetinaHead(OneStage):
    """Nine anchors a place, each with a class and a correction; the focal loss keeps the many empty ones quiet."""

    def __init__(
        self, encoder: Encoder, classes: int, size: int, width: int, threshold: float, overlap: float | None = None
    ) -> None:
        super().__init__(encoder, classes, size, width)
        sizes = tuple(tuple(s / OCTAVE[-1] * o for o in OCTAVE) for s in anchor_sizes(size, len(self.pyramid.strides)))
        anchors = Anchors(sizes, (RATIOS,) * len(sizes))
        each = anchors.num_anchors_per_location()[0]
        self.detector = RetinaNet(
            nothing(width),
            classes,
            anchor_generator=anchors,
            head=RetinaNetHead(width, each, classes, norm_layer=group_norm),
            score_thresh=threshold,
            nms_thresh=0.5 if overlap is None else overlap,
            detections_per_img=MOST,
        )

    def chances(self, outputs: dict[str, Any]) -> Float[Tensor, "b n k"]:
        return outputs["cls_logits"].sigmoid()

    def corrected(self, corrections: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        return self.detector.box_coder.decode_single(corrections, anchors)

    def compared(
        self, targets: list[dict[str, Tensor]], outputs: dict[str, Any], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        return self.detector.compute_loss(targets, outputs, anchors)


class FasterHead(BoxHead):
    """Two stages: a first head proposes boxes, a second looks at the maps inside of each, names and corrects it."""

    first = 1  # 0 is the ground
    why_not = (
        " with faster-rcnn, whose second stage looks at other numbers of boxes each time: adapt with --task.detector "
        "fcos or retinanet"
    )

    def __init__(
        self, encoder: Encoder, classes: int, size: int, width: int, threshold: float, overlap: float | None = None
    ) -> None:
        super().__init__(encoder, classes, size, width)
        levels = len(self.pyramid.strides)
        sizes = tuple((s,) for s in anchor_sizes(size, levels))
        pooled = [str(k) for k in range(max(1, levels - 1))]  # the coarsest map proposes only, as in torchvision
        built = FasterRCNN(
            nothing(width),
            num_classes=None,
            rpn_anchor_generator=Anchors(sizes, (RATIOS,) * levels),
            box_roi_pool=MultiScaleRoIAlign(pooled, 7, 2),
            box_head=FastRCNNConvFCHead((width, 7, 7), [width] * 2, [4 * width], norm_layer=group_norm),
            box_predictor=FastRCNNPredictor(4 * width, classes + 1),
            box_score_thresh=threshold,
            box_nms_thresh=0.5 if overlap is None else overlap,
            box_detections_per_img=MOST,
            box_batch_size_per_image=SAMPLED,
            rpn_post_nms_top_n_test=PROPOSED,
        )
        self.rpn, self.roi_heads = built.rpn, built.roi_heads

    def raw(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return {}  # the second stage sees the proposals, the first learns from the truth: both come with the loss

    def losses(self, outputs: dict[str, Any], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        maps = named(outputs["maps"])
        images = self.images(outputs["maps"])
        with switched(self, True):
            proposals, first = self.rpn(images, maps, targets)
            _, second = self.roi_heads(maps, proposals, images.image_sizes, targets)
        return {**first, **second}

    def detections(self, outputs: dict[str, Any]) -> list[dict[str, Tensor]]:
        maps = named(outputs["maps"])
        images = self.images(outputs["maps"])
        with switched(self, False):
            proposals, _ = self.rpn(images, maps)
            return self.roi_heads(maps, proposals, images.image_sizes)[0]


HEADS = {"fcos": FcosHead, "retinanet": RetinaHead, "faster-rcnn": FasterHead}


def nothing(width: int) -> nn.Module:
    """What stands where torchvision expects a network."""
    stand_in = nn.Identity()
    stand_in.out_channels = width  # type: ignore[assignment]
    return stand_in


def anchor_sizes(size: int, levels: int) -> list[float]:
    """Side of an anchor on each map, fine to coarse: the view on the coarsest."""
    return [size / 2 ** (levels - 1 - k) for k in range(levels)]


def named(maps: list[Tensor]) -> dict[str, Tensor]:
    return OrderedDict((str(k), one) for k, one in enumerate(maps))


def in_full(outputs: dict[str, Any]) -> dict[str, Any]:
    """All in 32 bits."""
    return {
        name: [one.float() for one in value] if isinstance(value, list) else value.float()
        for name, value in outputs.items()
    }


@contextmanager
def switched(head: FasterHead, training: bool) -> Iterator[None]:
    """torchvision's stages give losses in training mode and boxes in the other; the mode is put back."""
    parts = [part for stage in (head.rpn, head.roi_heads) for part in stage.modules()]
    modes = [part.training for part in parts]
    for part in parts:
        part.training = training
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
