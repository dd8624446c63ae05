"""Outlines of COCO's json as masks: goldens made by hand, what is wrong in such files, heads that know classes."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from selfsame.downstream.outlines import lengths
from selfsame.downstream.tasks.segmentation import Segmentation
from selfsame.errors import UnreadableItem, UserError
from selfsame.types import Draws
from tests.downstream.test_segmentation import encoder

X = 255  # ignored
MASK = [  # 1: dot, 2: cell
    [X, X, X, X, 0, 0],
    [X, 2, 2, 2, 0, 0],
    [X, 2, 2, 1, 1, 0],
    [X, 0, X, 1, 1, 0],
    [X, 0, X, 0, 0, 0],
    [X, 0, X, 0, 0, 0],
]
CELL = [[1, 1, 4, 1, 4, 3, 1, 3]]  # rows 1 and 2 of columns 1 to 3
DOT = {"size": [6, 6], "counts": [20, 2, 4, 2, 8]}  # rows 2 and 3 of columns 3 and 4, counted down the columns
CROWD = {"size": [6, 6], "counts": "0840<"}  # 0, 8, 4, 8, 16: columns 0 and 2, two pixels of 1 and of 3


def content() -> dict[str, Any]:
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 5, "segmentation": CELL, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 3, "segmentation": DOT},
        {"id": 3, "image_id": 7, "category_id": 5, "segmentation": CROWD, "iscrowd": 1},
    ]
    return {
        "images": [{"id": 9, "file_name": "b.png"}, {"id": 7, "file_name": "a.png", "width": 6, "height": 6}],
        "annotations": annotations,
        "categories": [{"id": 5, "name": "cell"}, {"id": 3, "name": "dot"}],
    }


def opened(folder: Path, labels: dict[str, Any], size: int = 6, facts: Any = None, **settings: Any) -> Any:
    (folder / "images").mkdir(exist_ok=True)
    for name in "abc":
        Image.fromarray(np.full((size, size, 3), 90, np.uint8)).save(folder / "images" / f"{name}.png")
    (folder / "instances.json").write_text(json.dumps(labels))
    return Segmentation(**settings).open(str(folder), str(folder / "instances.json"), encoder(), facts)


def test_golden_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = opened(tmp_path, content())
    assert [examples.name(i) for i in range(len(examples))] == ["a.png", "b.png"]
    assert "1 pictures without a mask (c.png ...)" in " ".join(capsys.readouterr().err.split())
    facts = examples.facts
    assert (facts.classes, facts.values, facts.ignore) == (("background", "dot", "cell"), (0, 1, 2), 255)
    assert examples.truth(0).tolist() == MASK
    assert not examples.truth(1).any()  # a picture of the file without an annotation shows no object
    assert facts.shares == pytest.approx(((15 + 36) / (24 + 36), 4 / 24, 5 / 24))
    there = pickle.loads(pickle.dumps(examples))
    assert there.truth(0).tolist() == MASK
    picture, mask = there.sample([0], 6, Draws(0, 0, 1), True)
    assert picture.shape == (1, 3, 6, 6) and mask.shape == (1, 6, 6)


def test_later_annotations_lie_over_earlier_ones(tmp_path: Path) -> None:
    labels = content()
    labels["annotations"].reverse()
    wanted = np.array(MASK)
    wanted[2, 3] = 2  # the cell is now painted after the dot
    assert opened(tmp_path, labels).truth(0).tolist() == wanted.tolist()


def test_several_polygons_are_one_object(tmp_path: Path) -> None:
    labels = content()
    labels["annotations"] = [
        {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 9, 4, 9, 9, 4, 9]]}
    ]
    wanted = np.zeros((6, 6), int)
    wanted[:2, :2] = wanted[4:, 4:] = 1  # what reaches over the edge is cut there
    assert opened(tmp_path, labels).truth(0).tolist() == wanted.tolist()


def test_compressed_run_lengths_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.9):
        mask = np.asfortranarray(rng.random((37, 90)) < share, dtype=np.uint8)
        mask[:, 20:60] = 1
        flat = mask.ravel(order="F")
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
        wanted = np.diff([0, *edges, flat.size]).tolist()
        assert lengths(coco.encode(mask)["counts"].decode()) == wanted
    assert lengths("0840<") == [0, 8, 4, 8, 16] and lengths("08n") == [0, 8, -1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda c: c["annotations"][0].update(segmentation=[[1, 1, 4, 1]]),
            "annotation 1 has a polygon that is not x, y",
        ),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 4, 1, 4, "x"]]), "annotation 1 has a polygon"),
        (lambda c: c["annotations"][0].update(segmentation=[]), "annotation 1 has no outline"),
        (lambda c: c["annotations"][0].update(segmentation=[[9, 1, 12, 1, 12, 4]]), "outside of the picture, 6 x 6 px"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1, 1e9, 1, 4, 4]]), "has a corner far outside"),
        (lambda c: c["annotations"][1]["segmentation"].update(counts=[20, 2]), "run lengths for 22 pixels; .* has 36"),
        (lambda c: c["annotations"][1]["segmentation"].update(counts="08n"), "run lengths that are none"),
        (lambda c: c["annotations"][1]["segmentation"].update(size=[6, 7]), r"size \[6, 7\]; its picture is \[6, 6\]"),
        (lambda c: c["images"][1].update(width=7), "run lengths of size|the picture has 6 x 6 px, its mask 7 x 6 px"),
        (lambda c: c["annotations"][0].update(category_id=4), r"category 4, which is not .* \(3 \(dot\), 5 \(cell\)\)"),
        (lambda c: c["annotations"][0].update(image_id=4), r"1 of 3 annotations \(4\) are of an image_id"),
        (lambda c: c["annotations"][0].pop("category_id"), "an annotation is not of COCO's form"),
        (
            lambda c: c["images"][0].update(file_name="gone.png"),
            r"1 of 2 pictures \(gone.png\) that it names are not in",
        ),
        (lambda c: c["images"][0].update(file_name="a.png"), "two images have the file_name a.png"),
        (lambda c: c["categories"][0].update(name="dot"), "two categories are called dot"),
        (lambda c: c.pop("categories"), "it needs the keys"),
        (lambda c: [one.pop("segmentation") for one in c["annotations"]], "Boxes alone are --task detection"),
        (lambda c: c["annotations"].clear(), "it has no annotations"),
    ],
)
def test_what_is_wrong_is_told(spoil: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    labels = json.loads(json.dumps(content()))
    spoil(labels)
    with pytest.raises(UserError, match=message) as error:
        opened(tmp_path, labels)
    assert "\n" not in str(error.value)


def test_shares_in_place_of_pixels_are_refused(tmp_path: Path) -> None:
    labels = content()
    labels["images"] = [{"id": 7, "file_name": "a.png", "width": 32, "height": 32}]
    labels["annotations"] = [{**labels["annotations"][0], "segmentation": [[0.1, 0.1, 0.6, 0.1, 0.6, 0.5]]}]
    with pytest.raises(
        UserError, match=r"all 1 outlines lie from 0.1 to 0.6, .* look like shares. Outlines are wanted"
    ):
        opened(tmp_path, labels, 32)


def test_damage_that_shows_only_where_the_picture_is_read(tmp_path: Path) -> None:
    labels = content()
    del labels["images"][1]["width"]  # how large it is, is not told
    labels["annotations"][1]["segmentation"] = {"size": [7, 6], "counts": [42]}
    examples = opened(tmp_path, labels)
    with pytest.raises(UnreadableItem, match=r"annotation 2 has run lengths of size \[7, 6\]; its picture is \[6, 6\]"):
        examples.truth(0)


def test_a_head_takes_the_classes_that_it_knows_by_name(tmp_path: Path) -> None:
    facts = opened(tmp_path, content()).facts
    labels = content()
    labels["categories"] = [{"id": 1, "name": "cell"}, {"id": 2, "name": "dot"}, {"id": 3, "name": "unused"}]
    for one, kind in zip(labels["annotations"], (1, 2, 1), strict=True):
        one["category_id"] = kind
    assert opened(tmp_path, labels, facts=facts).truth(0).tolist() == MASK  # other numbers, the same names
    labels["annotations"][0]["category_id"] = 3
    with pytest.raises(UserError, match=r"unknown class 'unused'.*the head has not learned it"):
        opened(tmp_path, labels, facts=facts)
    with pytest.raises(UserError, match="what no object covers is background, a class that the head has not learned"):
        opened(tmp_path, labels, facts=facts.changed(classes=("ground", "dot", "cell")))
    with pytest.raises(UserError, match="are of stored masks"):
        opened(tmp_path, labels, threshold=5)
