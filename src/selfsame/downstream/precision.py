"""Average precision of boxes as COCO has it, by pycocotools: what the field reports.

Lin et al. 2014, arXiv 1405.0312; https://cocodataset.org/#detection-eval. The precision is the mean over 101 recalls;
AP is its mean over the overlaps 0.50, 0.55 ... 0.95 that a hit needs, then over classes.
Raises UserError where pycocotools is not installed or nothing was added.
"""

import contextlib
import importlib.util
import io
from typing import Any

import numpy as np

from selfsame.downstream.boxes import COUNTED, CROWD, Detections, Truth
from selfsame.downstream.task import Scores
from selfsame.errors import UserError, missing

MOST = (1, 10, 100)  # boxes of a picture, best first, that are looked at for AR1, AR10 and AR100; AP has the last
PLACES = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5, "AR1": 6, "AR10": 7, "AR100": 8}  # in its stats


def check_installed() -> None:
    if importlib.util.find_spec("pycocotools") is None:
        raise missing("detect", "pycocotools", "scoring boxes")


class BoxScores(Scores):
    """AP, AP50, AP75; APs, APm, APl of boxes below 32 x 32 pixels, below 96 x 96, and larger; AR1, AR10, AR100; and
    `AP NAME` of each class. A score for which the truth has no box is left out. All are shares, in pixels of the
    pictures themselves.

    A crowd (COCO's iscrowd) takes in any number of boxes, a difficult box (VOC's) one: these are neither hits nor
    errors. A picture without boxes counts: what is found there is an error.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        check_installed()
        self.classes = classes
        self.seen: list[tuple[Truth, Detections]] = []

    def add(self, prediction: Detections, truth: Truth) -> None:
        self.seen.append((truth, prediction))

    def found(self) -> dict[str, float]:
        if not any((truth.standing == COUNTED).any() for truth, _ in self.seen):
            raise UserError(f"none of the {len(self.seen)} pictures has a box to score. Give some that have.")
        judged = self._judged()
        scores = {name: float(judged.stats[place]) for name, place in PLACES.items()}
        precision = judged.eval["precision"][:, :, :, 0, -1]  # [overlaps, recalls, classes], all areas
        for k, name in enumerate(self.classes):
            values = precision[:, :, k]
            scores[f"AP {name}"] = float(values[values > -1].mean()) if (values > -1).any() else -1.0
        return {name: value for name, value in scores.items() if value > -1}

    def _judged(self) -> Any:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        class Judge(COCOeval):
            def _prepare(self) -> None:
                super()._prepare()  # it marks crowds alone
                for one in (box for boxes in self._gts.values() for box in boxes):
                    one["ignore"] = int(one["standing"] != COUNTED)

        # Equal scores are ranked by the order of pictures and boxes: it is made a function of what they hold.
        seen = sorted((ordered(truth, found) for truth, found in self.seen), key=lambda one: one[2])
        images = [{"id": number} for number in range(1, len(seen) + 1)]
        categories = [{"id": k, "name": name} for k, name in enumerate(self.classes)]
        known: list[dict[str, Any]] = []
        guessed: list[dict[str, Any]] = []
        for image, (truth, found, _) in zip(images, seen, strict=True):
            for box, kind, standing, area in zip(
                boxes_of(truth), truth.classes.tolist(), truth.standing.tolist(), truth.areas.tolist(), strict=True
            ):
                known.append({
                    "id": len(known) + 1, "image_id": image["id"], "category_id": kind, "bbox": box, "area": area,
                    "iscrowd": int(standing == CROWD), "standing": standing,
                })  # fmt: skip
            guessed += [
                {"image_id": image["id"], "category_id": kind, "bbox": box, "score": score}
                for box, kind, score in zip(boxes_of(found), found.classes.tolist(), found.scores.tolist(), strict=True)
            ]
        with contextlib.redirect_stdout(io.StringIO()):
            truth_of_all = COCO()
            truth_of_all.dataset = {"info": {}, "images": images, "categories": categories, "annotations": known}
            truth_of_all.createIndex()
            # Its `loadRes` cannot take an empty list.
            found_in_all = truth_of_all.loadRes(guessed) if guessed else COCO()
            if not guessed:
                found_in_all.dataset = {"info": {}, "images": images, "categories": categories, "annotations": []}
                found_in_all.createIndex()
            judge = Judge(truth_of_all, found_in_all, "bbox")
            judge.params.maxDets = list(MOST)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        return judge


def boxes_of(one: Truth | Detections) -> list[list[float]]:
    """x, y, width, height of each."""
    return np.concatenate([one.xyxy[:, :2], one.xyxy[:, 2:] - one.xyxy[:, :2]], axis=1).tolist()


def ordered(truth: Truth, found: Detections) -> tuple[Truth, Detections, bytes]:
    """Both with their boxes in an order that their values alone decide, and bytes by which pictures are ordered."""
    rows = np.concatenate([truth.xyxy, truth.classes[:, None], truth.standing[:, None], truth.areas[:, None]], axis=1)
    truth = truth.some(np.lexsort(rows.T[::-1]))
    rows = np.concatenate([-found.scores[:, None], found.xyxy, found.classes[:, None]], axis=1)
    order = np.lexsort(rows.T[::-1])
    found = Detections(found.xyxy[order], found.classes[order], found.scores[order], found.size)
    whole = [truth.xyxy, truth.classes, truth.standing, truth.areas, found.xyxy, found.classes, found.scores]
    return truth, found, b"".join(np.ascontiguousarray(part).tobytes() for part in whole)
