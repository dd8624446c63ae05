"""Detection: label files, what is wrong in them, targets of views, heads that learn, COCO's scores, what is written."""

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from torch import Tensor, nn

from selfsame import modalities
from selfsame.downstream.boxes import COUNTED, CROWD, DIFFICULT, Detections, Mended, Truth, overlaps, target_of
from selfsame.downstream.boxfiles import box_set
from selfsame.downstream.detectors import HEADS, Anchors, ImageList, anchor_sizes
from selfsame.downstream.pictures import Frame
from selfsame.downstream.precision import BoxScores
from selfsame.downstream.task import Model
from selfsame.downstream.tasks.detection import Detection, Kinds
from selfsame.errors import UnreadableItem, UserError
from selfsame.types import Draws, Encoder
from tests import scenes
from tests.conftest import SHARED

NAMES = scenes.CLASSES[1:]
CELLS = SHARED / "data" / "blood_cells"


def stats(channels: int = 3, bits: int = 8) -> dict[str, Any]:
    return {
        "items": 1, "channels": channels, "bits": bits, "white": 2**bits - 1, "mean": (0.5,) * channels,
        "std": (0.25,) * channels, "height": 48, "width": 48, "uniform": True,
    }  # fmt: skip


class Small(Encoder):
    """Three convolutions: maps of strides 4 and 8."""

    has_maps = has_pieces = True
    map_widths = (24, 32)

    def __init__(self, channels: int = 3, bits: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dim = 32
        self.spec = {
            "modality": "image", "name": "small", "size": 48, "channels": channels, "stats": stats(channels, bits)
        }  # fmt: skip
        self.fine = nn.Sequential(stage(channels, 12), stage(12, 24))
        self.coarse = stage(24, 32)

    def maps(self, view: Tensor) -> list[Tensor]:
        fine = self.fine(view - 0.5)
        return [fine, self.coarse(fine)]

    def forward(self, view: Tensor) -> Tensor:
        return self.maps(view)[-1].mean((2, 3))


def stage(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())


def truth_of(one: scenes.Scene) -> Truth:
    return Truth.of(one.boxes, one.classes - 1, size=one.mask.shape)


def said(boxes: Any, classes: Any, scores: Any, size: tuple[int, int] = (100, 100)) -> Detections:
    xyxy = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return Detections(xyxy, np.asarray(classes, np.int64), np.asarray(scores, np.float64), size)


def corners(*xywh: list[float]) -> list[list[float]]:
    return [[x, y, x + w, y + h] for x, y, w, h in xywh]


# Scores --------------------------------------------------------------------------------------------------------------


GOLDEN = [
    (
        said(corners([12, 12, 40, 40], [50, 10, 20, 20], [60, 60, 30, 30]), [0, 0, 1], [0.9, 0.6, 0.7]),
        Truth.of(corners([10, 10, 40, 40], [60, 60, 30, 30]), [0, 1]),
    ),
    (said(corners([20, 20, 50, 41]), [0], [0.8]), Truth.of(corners([20, 20, 50, 50]), [0])),
]


def scored(pairs: Any, classes: tuple[str, ...] = ("a", "b")) -> dict[str, float]:
    scores = BoxScores(classes)
    for prediction, truth in pairs:
        scores.add(prediction, truth)
    return scores.found()


def test_golden_average_precision(capsys: pytest.CaptureFixture[str]) -> None:
    found = scored(GOLDEN)
    assert overlaps(GOLDEN[0][0].xyxy[:1], GOLDEN[0][1].xyxy[:1])[0, 0] == pytest.approx(0.82232, abs=1e-5)
    wanted = {
        "AP": 0.85, "AP50": 1.0, "AP75": 1.0, "APs": 1.0, "APm": 0.7, "AR1": 0.85, "AR100": 0.85, "AP a": 0.7,
        "AP b": 1.0,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert "APl" not in found  # no large box is known
    assert capsys.readouterr().out == ""


def test_order_and_equal_scores_change_nothing() -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(12):
        boxes = rng.uniform(0, 60, (4, 2))
        xyxy = np.concatenate([boxes, boxes + rng.uniform(10, 40, (4, 2))], axis=1)
        moved = xyxy + rng.normal(0, 4, xyxy.shape)
        pairs.append((said(moved, rng.integers(0, 2, 4), [0.5, 0.5, 0.7, 0.5]), Truth.of(xyxy, rng.integers(0, 2, 4))))
    turned = []
    for k in rng.permutation(12):
        (found, truth), order = pairs[k], rng.permutation(4)
        turned.append((said(found.xyxy[order], found.classes[order], found.scores[order]), truth.some(order[::-1])))
    assert scored(turned) == scored(pairs)


def test_perfect_nothing_and_pictures_without_objects() -> None:
    truths = [truth_of(one) for one in scenes.scenes(4)]
    perfect = [(said(t.xyxy, t.classes, np.ones(len(t))), t) for t in truths]
    assert scored(perfect, NAMES)["AP"] == pytest.approx(1.0)
    assert scored([(said([], [], []), t) for t in truths], NAMES)["AP"] == 0.0
    empty = Truth.of([], [])
    wrong = scored([*perfect, (said([[0, 0, 9, 9]] * 3, [0, 1, 2], [1.0] * 3), empty)], NAMES)
    assert wrong["AP"] < 0.9  # what is found where nothing is counts as an error
    with pytest.raises(UserError, match="none of the 1 pictures has a box"):
        scored([(said([], [], []), empty)])


@pytest.mark.parametrize("standing", [CROWD, DIFFICULT])
def test_crowds_and_difficult_boxes_are_neither_hits_nor_errors(standing: int) -> None:
    boxes = corners([10, 10, 20, 20], [50, 50, 40, 40])
    truth = Truth.of(boxes, [0, 0], [COUNTED, standing])
    one = said(boxes, [0, 0], [0.5, 0.9])
    assert scored([(one, truth)])["AP"] == pytest.approx(1.0)
    parts = said([boxes[0], [50, 50, 70, 90], [70, 50, 90, 90]], [0] * 3, [0.5, 0.9, 0.9])
    assert (scored([(parts, truth)])["AP"] > 0.99) == (standing == CROWD)  # a crowd takes in parts, a box does not


def test_without_pycocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'selfsame\[detect\]'"):
        BoxScores(("a",))


# Label files ---------------------------------------------------------------------------------------------------------


def as_coco(folder: Path, made: list[scenes.Scene]) -> None:
    scenes.write_coco(folder, made)


def as_voc(folder: Path, made: list[scenes.Scene]) -> None:
    scenes.write_images(folder / "JPEGImages", made)
    (folder / "Annotations").mkdir()
    for k, one in enumerate(made):
        objects = "".join(
            voc_object(NAMES[kind - 1], left + 1, top + 1, right, bottom)
            for (left, top, right, bottom), kind in zip(one.boxes, one.classes, strict=True)
        )
        (folder / "Annotations" / f"{k:02d}.xml").write_text(voc_file(objects))


def voc_object(name: str, *edges: float, difficult: int = 0) -> str:
    sides = "".join(
        f"<{side}>{edge:g}</{side}>" for side, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def voc_file(objects: str, side: int = 64) -> str:
    return f"<annotation><size><width>{side}</width><height>{side}</height></size>{objects}</annotation>"


def as_yolo(folder: Path, made: list[scenes.Scene]) -> None:
    scenes.write_images(folder / "images", made)
    (folder / "labels").mkdir()
    for k, one in enumerate(made):
        middle, side = (one.boxes[:, :2] + one.boxes[:, 2:]) / 128, (one.boxes[:, 2:] - one.boxes[:, :2]) / 64
        rows = np.concatenate([one.classes[:, None] - 1, middle, side], axis=1)
        (folder / "labels" / f"{k:02d}.txt").write_text(
            "".join(f"{int(r[0])} {r[1]} {r[2]} {r[3]} {r[4]}\n" for r in rows)
        )
    (folder / "data.yaml").write_text(f"names: [{', '.join(NAMES)}]\n")


def as_csv(folder: Path, made: list[scenes.Scene]) -> None:
    scenes.write_images(folder, made)
    rows = ["path,class,left,top,right,bottom"]
    for k, one in enumerate(made):
        rows += [f"{k:02d}.png,{NAMES[kind - 1]},{','.join(f'{edge:g}' for edge in box)}"
                 for box, kind in zip(one.boxes, one.classes, strict=True)] or [f"{k:02d}.png,,,,,"]  # fmt: skip
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")


EMPTY = scenes.Scene(
    np.full((64, 64, 3), 150, np.uint8), np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8),
    np.ones((64, 64), np.float32), np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros((0, 4, 3)),
)  # fmt: skip


@pytest.mark.parametrize("write", [as_coco, as_voc, as_yolo, as_csv])
def test_each_form_gives_the_same_boxes(write: Callable[[Path, list[scenes.Scene]], None], tmp_path: Path) -> None:
    made = [*scenes.scenes(5), EMPTY]
    write(tmp_path, made)
    found = box_set(str(tmp_path), str(tmp_path / "boxes.csv") if write is as_csv else None)
    assert sorted(found.classes) == sorted(NAMES)
    assert [found.source.name(i) for i in found.items] == [f"{k:02d}.png" for k in range(6)]
    for truth, one in zip(found.truths, made, strict=True):
        sized = truth.sized(64, 64)
        np.testing.assert_allclose(sized.xyxy, one.boxes, atol=1e-6)
        np.testing.assert_allclose(sized.areas, (one.boxes[:, 2:] - one.boxes[:, :2]).prod(axis=1), atol=1e-6)
        assert [found.classes[k] for k in truth.classes] == [NAMES[k - 1] for k in one.classes]
    assert found.notes == ""


@pytest.fixture
def coco(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Two pictures, three categories with scattered numbers, three boxes of which one is a crowd."""
    scenes.write_images(tmp_path / "images", scenes.scenes(2))
    box = {"image_id": 7, "category_id": 40, "bbox": [4, 4, 20, 10], "area": 120.5, "iscrowd": 0}
    content = {
        "images": [{"id": 7, "file_name": "00.png", "width": 64, "height": 64}, {"id": 9, "file_name": "01.png"}],
        "categories": [{"id": 90, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 40, "name": "hen"}],
        "annotations": [
            {"id": 1, **box},
            {"id": 2, **box, "category_id": 90, "iscrowd": 1},
            {"id": 3, **box, "category_id": 3},
        ],
    }
    return tmp_path, content


def read(coco: tuple[Path, dict[str, Any]], known: Any = None) -> Any:
    folder, content = coco
    (folder / "instances.json").write_text(json.dumps(content))
    return box_set(str(folder / "images"), str(folder / "instances.json"), known)


def test_numbers_of_classes_become_contiguous(coco: tuple[Path, dict[str, Any]]) -> None:
    found = read(coco)
    assert (found.classes, found.ids) == (["dog", "hen", "cat"], [3, 40, 90])
    assert found.truths[0].classes.tolist() == [1, 2, 0]
    assert found.truths[0].standing.tolist() == [COUNTED, CROWD, COUNTED]
    assert found.truths[0].areas.tolist() == [120.5] * 3  # of outlines, not of boxes
    assert len(found.truths[1]) == 0  # a picture of the file without boxes shows none
    again = read(coco, known=["hen", "cow", "dog", "cat"])
    assert again.truths[0].classes.tolist() == [0, 3, 2] and again.ids[0] == 40


@pytest.mark.parametrize("write", [as_coco, as_voc, as_csv])
def test_shares_in_place_of_pixels_are_refused(
    write: Callable[[Path, list[scenes.Scene]], None], tmp_path: Path
) -> None:
    made = [replace(one, boxes=one.boxes / 64) for one in scenes.scenes(3)]
    write(tmp_path, made)
    if write is as_voc:  # counted from 1, as shares are not
        for file in tmp_path.glob("Annotations/*.xml"):
            file.write_text(re.sub("min>1(.*?)<", r"min>0\1<", file.read_text()))
    with pytest.raises(UserError, match=r"look like shares. Wanted are pixels .* Shares are read from YOLO's .txt"):
        box_set(str(tmp_path), str(tmp_path / "boxes.csv") if write is as_csv else None)


def test_boxes_that_are_all_tiny_are_refused_in_large_pictures(tmp_path: Path) -> None:
    rows = "path,class,left,top,right,bottom\n00.png,a,50,50,51.5,51\n01.png,a,3,4,4,5\n"
    for side, refused in ((96, False), (128, True)):
        folder = tmp_path / str(side)
        scenes.write_images(folder, scenes.scenes(2, side))
        (folder / "boxes.csv").write_text(rows)
        if refused:
            with pytest.raises(
                UserError, match=r"none of all 2 boxes is wider or higher than 1.5, in pictures of about"
            ):
                box_set(str(folder), str(folder / "boxes.csv"))
        else:
            assert len(box_set(str(folder), str(folder / "boxes.csv")).truths) == 2


Spoil = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=5), r"boxes of class 5, .* Known: 3 \(dog\), 40 \(hen\)"),
        (lambda c: c["annotations"][0].update(image_id=8), r"1 of 3 annotations \(8\) are of an image_id"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"bbox of annotation 1 is \[1, 2, 3\]; it must be x, y"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "bbox of annotation 1"),
        (lambda c: c["annotations"][0].pop("bbox"), "an annotation is not of COCO's form: it needs image_id"),
        (lambda c: c["images"].append({"id": 1, "file_name": "gone.png"}), r"1 of 3 pictures \(gone.png\) that it"),
        (lambda c: c["images"][0].update(id=9), "two images have the id 9"),
        (lambda c: c["images"][0].update(file_name="01.png"), "two images have the file_name 01.png"),
        (lambda c: c["categories"][0].update(id=3), "two categories have the id 3"),
        (lambda c: c["categories"][0].update(name="dog"), "two classes are called dog"),
        (lambda c: c.pop("images"), "it needs the keys images, annotations and categories"),
        (
            lambda c: c["annotations"][0].update(bbox=[4, 4, 0, 9]),
            r"1 of 3 boxes have no area .*00.png \(no area: 4, 4",
        ),
        (lambda c: c["annotations"][0].update(bbox=[70, 4, 9, 9]), "outside of the picture: 70, 4, 79, 13"),
    ],
)
def test_bad_coco_files_are_refused(spoil: Spoil, message: str, coco: tuple[Path, dict[str, Any]]) -> None:
    spoil(coco[1])
    with pytest.raises(UserError, match=message):
        read(coco)


def test_classes_of_another_head_are_refused(coco: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="unknown class 'hen'"):
        read(coco, known=["dog", "cat"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "line 1 is '0 0.5 0.5 0.2'; it must be a class's number"),
        ("0.5 0.5 0.5 0.2 0.2", "line 1 is"),
        ("0 0.5 0.5 0.2 nan", "line 1 is"),
        ("7 0.5 0.5 0.2 0.2", r"boxes of class 7, which is not among its classes"),
        ("0 32 32 10 10", "outside of their picture"),  # pixels, not shares
    ],
)
def test_bad_yolo_files_are_refused(line: str, message: str, tmp_path: Path) -> None:
    as_yolo(tmp_path, scenes.scenes(2))
    (tmp_path / "labels" / "00.txt").write_text(line)
    with pytest.raises(UserError, match=message):
        box_set(str(tmp_path), str(tmp_path / "labels"))


def test_label_files_and_pictures_that_miss_each_other(tmp_path: Path) -> None:
    as_yolo(tmp_path, scenes.scenes(3))
    (tmp_path / "labels" / "01.txt").unlink()
    found = box_set(str(tmp_path), None)
    assert [found.source.name(i) for i in found.items] == ["00.png", "02.png"]
    assert "1 pictures without labels are not used" in found.notes
    (tmp_path / "images" / "02.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 pictures \(02\) that it names are not in"):
        box_set(str(tmp_path), None)


def test_labels_that_could_be_of_several_pictures(tmp_path: Path) -> None:
    as_yolo(tmp_path, scenes.scenes(1))
    scenes.write_images(tmp_path / "images" / "more", scenes.scenes(1))
    assert len(box_set(str(tmp_path), None).items) == 1  # 00 is the one at the same place
    (tmp_path / "images" / "00.png").rename(tmp_path / "images" / "more" / "00.jpg")
    with pytest.raises(UserError, match=r"00 could be the label of any of more/00.jpg, more/00.png. Rename them"):
        box_set(str(tmp_path), None)


def test_outlines_of_yolo_give_their_box(tmp_path: Path) -> None:
    as_yolo(tmp_path, scenes.scenes(1))
    (tmp_path / "labels" / "00.txt").write_text("2 0.25 0.5 0.75 0.25 0.5 1.0\n")
    assert box_set(str(tmp_path), None).truths[0].sized(64, 64).xyxy.tolist() == [[16, 16, 48, 64]]


def test_voc_knows_difficult_boxes_and_lists(tmp_path: Path) -> None:
    as_voc(tmp_path, scenes.scenes(3))
    objects = voc_object("disc", 1, 1, 64, 64, difficult=1) + voc_object("disc", 9, 9, 9, 20)
    (tmp_path / "Annotations" / "00.xml").write_text(voc_file(voc_object("disc", 5, 5, 30, 30) * 10 + objects))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("00\n02\n")
    found = box_set(str(tmp_path / "ImageSets" / "Main" / "train.txt"), None)
    assert [found.source.name(i) for i in found.items] == ["00.png", "02.png"]
    assert found.truths[0].xyxy[-1].tolist() == [0, 0, 64, 64]  # its first pixel is 1, its last 64
    assert found.truths[0].standing.tolist() == [COUNTED] * 10 + [DIFFICULT]
    assert found.notes == "1 box is left out: 00 (no area: 9, 9, 9, 20)"
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("00\n08\n")
    with pytest.raises(UserError, match=r"1 of 2 pictures \(08\) are not in"):
        box_set(str(tmp_path / "ImageSets" / "Main" / "train.txt"), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "no valid XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "a DOCTYPE is not read"),
        (voc_file("<object><name>disc</name></object>"), "without xmin, ymin, xmax and ymax"),
    ],
)
def test_bad_voc_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    as_voc(tmp_path, scenes.scenes(1))
    (tmp_path / "Annotations" / "00.xml").write_text(text)
    with pytest.raises(UserError, match=message):
        box_set(str(tmp_path), None)


def test_labels_that_are_nowhere_or_several(tmp_path: Path) -> None:
    scenes.write_images(tmp_path / "images", scenes.scenes(1))
    with pytest.raises(UserError, match="no labels of boxes found there"):
        box_set(str(tmp_path), None)
    with pytest.raises(UserError, match=r"nowhere.json: no such file"):
        box_set(str(tmp_path), str(tmp_path / "nowhere.json"))
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(UserError, match=r"cut.json: no valid JSON"):
        box_set(str(tmp_path), None)
    (tmp_path / "cut.json").unlink()
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match=r"several labels could be meant: .*a.json, .*b.json. Say which by --labels"):
        box_set(str(tmp_path), None)


def test_a_box_over_the_edge_is_cut() -> None:
    mended = Mended("labels")
    boxes = [[-5, 10, 20, 30], [90, 90, 130, 101], [-0.5, 0, 10, 10], *[[1, 1, 9, 9]] * 20, [5, 5, 5, 9]]
    truth = mended.truth(Truth.of(boxes, [0] * 24), 100, 100, "a.png")
    mended.check()
    assert truth.xyxy[:3].tolist() == [[0, 10, 20, 30], [90, 90, 100, 100], [0, 0, 10, 10]] and len(truth) == 23
    assert mended.summary == (
        "1 box is left out: a.png (no area: 5, 5, 5, 9); 2 that reach over the edge of the picture cut"
    )


@pytest.mark.skipif(not CELLS.exists(), reason="no blood_cells")
def test_blood_cells_are_found_by_themselves() -> None:
    found = box_set(str(CELLS), None)
    assert (len(found.items), found.classes) == (364, ["Platelets", "RBC", "WBC"])
    assert sum(map(len, found.truths)) == 4886
    assert (
        "2 boxes are left out: BloodImage_00338 (no area: 504, 337, 504, 337)" in found.notes
        and "BloodImage_00343" in found.notes
    )
    parts = [box_set(str(CELLS / "ImageSets" / "Main" / f"{part}.txt"), None) for part in ("train", "val", "test")]
    assert [len(part.items) for part in parts] == [205, 87, 72]


# Views ---------------------------------------------------------------------------------------------------------------


def test_targets_are_cut_and_mirrored_with_the_view() -> None:
    truth = Truth.of(
        [[10, 20, 30, 40], [0, 0, 12, 12], [50, 50, 99, 99], [45, 0, 60, 40], [10, 10, 20, 20]],
        [0, 1, 2, 1, 2],
        [COUNTED] * 4 + [CROWD],
    )
    frame = Frame(top=0, left=0, height=50, width=50, size=100, mirrored=True)
    rows = target_of(truth, frame, 5)
    assert rows.shape == (5, 5) and rows.dtype == np.float32
    assert rows[:2].tolist() == [[40, 40, 80, 80, 0], [76, 0, 100, 24, 1]]
    assert (rows[2:, 4] == -1).all()  # outside, a third to be seen, and a crowd: not learned
    wide = target_of(truth, Frame(0, 0, 50, 55, 110), 5)
    assert wide[2].tolist() == [90, 0, 110, 88, 1]  # two thirds to be seen: cut, and kept


def opened(tmp_path: Path, encoder: Encoder, made: list[scenes.Scene], **settings: Any) -> Any:
    as_coco(tmp_path, made)
    return Detection(**settings).open(str(tmp_path), None, encoder)


def test_samples_have_one_shape(tmp_path: Path) -> None:
    made = [*scenes.scenes(5), EMPTY]
    examples = opened(tmp_path, Small(), made)
    most = max(len(one.boxes) for one in made)
    samples, boxes = examples.sample(range(6), 48, Draws(0, 0, 6), learn=True)
    assert samples.shape == (6, 3, 48, 48) and boxes.shape == (6, most, 5)
    assert boxes[5, :, 4].tolist() == [-1] * most
    views, targets = examples.make_views([samples, boxes], Draws(0, 0, 6), learn=True)
    assert views.min() >= 0 and views.max() <= 1 and targets is boxes
    assert len(examples.sample(range(6), 48, Draws(0, 0, 6), learn=False)) == 1
    assert examples.strata[5] == 0 and (examples.strata[:5] > 0).all()


def test_labels_without_any_box(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the labels of its 2 pictures hold no box"):
        opened(tmp_path, Small(), [EMPTY, EMPTY])


def test_a_picture_of_another_size_than_its_labels_say(tmp_path: Path) -> None:
    examples = opened(tmp_path, Small(), scenes.scenes(2))
    Image.new("RGB", (32, 64)).save(tmp_path / "images" / "00.png")
    with pytest.raises(UnreadableItem, match="its labels are of a picture of 64 x 64 pixels, it has 32 x 64"):
        examples.sample([0], 48, Draws(0, 0, 1), learn=True)


def test_what_is_found_comes_back_to_the_picture() -> None:
    view = said([[12, 12, 24, 48]], [0], [0.5], (48, 48))
    back = view.back(100, 200)
    assert back.xyxy.tolist() == [[50, 25, 100, 100]] and back.size == (100, 200)


def test_views_are_larger_where_objects_are_small(tmp_path: Path) -> None:
    net = Small()
    net.spec["size"] = 16
    examples = opened(tmp_path, net, scenes.scenes(1))
    for side, size in ((40, 32), (16, 32), (5, 64), (2, 64)):  # 8 pixels for a box; never more than the picture has
        examples.truths = [Truth.of([[0, 0, side, 60]], [0], size=(64, 64))]
        assert Detection().default_size(net, examples) == size


# Heads ---------------------------------------------------------------------------------------------------------------


def test_anchors_lie_in_the_middle_of_their_places() -> None:
    anchors = Anchors(((2.5,), (5.0,)), ((1.0,),) * 2)
    images = ImageList(torch.zeros(1, 1, 10, 10), [(10, 10)])
    (found,) = anchors(images, [torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 2, 2)])
    assert found[0].tolist() == [0, 0, 2.5, 2.5] and found[1].tolist() == [2.5, 0, 5, 2.5]
    assert found[-1].tolist() == [5, 5, 10, 10] and len(found) == 20
    tall = Anchors(((8.0,),), ((2.0,),)).cell_anchors[0][0]
    assert (tall[3] - tall[1]) / (tall[2] - tall[0]) == pytest.approx(2.0)
    assert anchor_sizes(512, 5) == [32, 64, 128, 256, 512]


@pytest.mark.parametrize("detector", HEADS)
@pytest.mark.parametrize("network", ["small", "tokens"])
def test_heads_give_losses_and_boxes(detector: str, network: str) -> None:
    image: Any = modalities.load("image")
    channels = 1 if network == "small" else 3
    encoder: Any = Small(channels=1, bits=16)
    if network == "tokens":  # one map of stride 8: the pyramid is made
        encoder = image.make_encoder("tests.nets:tokens", 32, image.Stats(**stats()))
    head = Detection(detector=detector, width=16).head(encoder, Kinds(classes=NAMES, ids=(1, 2, 3)), 32)
    views = torch.rand(2, channels, 32, 32)
    boxes = torch.full((2, 3, 5), -1.0)
    boxes[0, 0] = torch.tensor([4, 4, 20, 24, 2])
    head.train()
    loss, parts = head.loss(head(encoder, views), [boxes])
    loss.backward()
    assert loss.isfinite() and loss.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-5)
    still = [name for name, p in head.named_parameters() if p.grad is None]
    assert not still  # all that is saved learns
    empty, _ = head.loss(head(encoder, views), [torch.full((2, 3, 5), -1.0)])
    assert empty.isfinite()  # pictures without objects
    assert next(encoder.parameters()).grad is not None
    head.eval()
    found = head.decoded(head(encoder, views))
    assert len(found) == 2 and all(one.size == (32, 32) for one in found)
    for one in found:
        assert (one.xyxy >= 0).all() and (one.xyxy <= 32).all() and set(one.classes.tolist()) <= {0, 1, 2}
        assert (np.diff(one.scores) <= 0).all()


@pytest.mark.parametrize(
    "detector", ["fcos", *(pytest.param(name, marks=pytest.mark.learns) for name in ("retinanet", "faster-rcnn"))]
)
def test_shapes_are_learned(detector: str, tmp_path: Path) -> None:
    encoder = Small()
    task = Detection(detector=detector, width=32, area=(0.9, 1.0), jitter=0.0)
    as_coco(tmp_path, scenes.scenes(8, 48))
    examples = task.open(str(tmp_path), None, encoder)
    torch.manual_seed(1)
    model = Model(encoder, task.head(encoder, examples.facts, 48), task, examples.facts, 48).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first = None
    for step in range(60):
        draws = Draws(0, step, 8)
        views, *targets = examples.make_views(examples.sample(range(8), 48, draws, True), draws, True)
        loss, _ = model.head.loss(model(views), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        first = first or loss.item()
    scores = task.scores(examples.facts)
    for i, found in task.predictions(model, examples, range(8), torch.device("cpu")):
        scores.add(found, examples.truth(i))
    assert scores.found()["AP50"] > 0.4
    assert loss.item() < 0.7 * (first or 0)


# Baseline and output -------------------------------------------------------------------------------------------------


def test_guess_without_an_encoder(tmp_path: Path) -> None:
    same = [scenes.scene(3, 64)] * 3
    examples = opened(tmp_path, Small(), [*same, EMPTY])
    guess = Detection().trivial(examples, [0, 1, 2])
    found = guess(examples, 0)
    assert len(found) == len(same[0].boxes) and (found.scores == 1).all()
    assert scored([(found, examples.truth(0))], NAMES)["AP"] == pytest.approx(1.0)
    rarer = Detection().trivial(examples, [0, 1, 2, 3])(examples, 3)
    assert (rarer.scores <= 0.75).all()


def test_results_are_written(tmp_path: Path) -> None:
    facts = Kinds(classes=("dog", "hen"), ids=(3, 40))
    pairs = [
        ("a/000012.png", said([[10, 20, 30, 60]], [1], [0.75], (100, 200))),
        ("b.png", said([], [], [], (100, 200))),
    ]
    task = Detection()
    assert task.write(pairs, facts, tmp_path / "found.json") == [tmp_path / "found.json"]
    (row,) = json.loads((tmp_path / "found.json").read_text())
    assert row == {
        "image_id": 12, "file_name": "a/000012.png", "category_id": 40, "category": "hen", "bbox": [10, 20, 20, 40],
        "score": 0.75,
    }  # fmt: skip
    task.write(pairs, facts, tmp_path / "found.csv")
    assert (tmp_path / "found.csv").read_text().splitlines() == [
        "path,class,score,left,top,right,bottom", "a/000012.png,hen,0.75000,10.00,20.00,30.00,60.00"
    ]  # fmt: skip
    written = task.write(pairs, facts, tmp_path / "found")
    assert {str(path.relative_to(tmp_path / "found")) for path in written} == {"a/000012.txt", "b.txt", "classes.txt"}
    assert (tmp_path / "found" / "a" / "000012.txt").read_text() == "1 0.100000 0.400000 0.100000 0.400000 0.750000\n"
    assert (tmp_path / "found" / "b.txt").read_text() == ""


def test_pictures_show_both(tmp_path: Path) -> None:
    examples = opened(tmp_path, Small(), scenes.scenes(2))
    truth = examples.truth(0)
    found = said(truth.xyxy, truth.classes, np.full(len(truth), 0.8), (64, 64))
    drawn = Detection().picture(examples, 0, found, truth)
    alone = Detection().picture(examples, 0, found, None)
    assert [panel.words for panel in drawn] == ["known", "found, score from 0.5"] and len(alone) == 1
    assert all(panel.picture.size == (512, 512) for panel in drawn)  # of 64 pixels, enlarged by whole ones
    colours = dict(Detection().legend(examples.facts))
    seen = {NAMES[k] for k in truth.classes.tolist()}
    shown = {pixel for _, pixel in drawn[0].picture.getcolors(1 << 18)}
    assert {name for name, colour in colours.items() if ImageColor.getrgb(colour) in shown} == seen
    name = NAMES[0]
    caption = Detection().caption(
        said([[0, 0, 9, 9]], [0], [0.5]), Truth.of([[0, 0, 9, 9]] * 2, [0, 0]), examples.facts
    )
    assert caption == f"{name} 1 of 2"
