"""Points on maps, their files, pairs and scores, with golden values; the task learns where points of scenes are."""

import json
import shutil

import numpy as np
import pytest
import torch

import selfsame as ss
from selfsame.downstream import heatmaps, pointfiles, saved
from selfsame.downstream.points import (
    SIGMAS,
    Found,
    PointScores,
    Pose,
    Skeleton,
    mirrored_name,
    pairs_by_name,
    pairs_given,
    sigmas_of,
    similarity,
    swapped,
)
from selfsame.downstream.tasks.keypoints import HeatMaps, Keypoints, within
from selfsame.errors import UserError
from selfsame.modalities import image
from tests.scenes import POINTS, scene, scenes, write_coco, write_images
from tests.test_tasks import stats

# Maps ----------------------------------------------------------------------------------------------------------------


def test_a_gaussian_is_that_of_the_formula():
    one = heatmaps.gaussians(torch.tensor([2.5, 3.5]), 5, 1.0)
    assert one.shape == (5, 5) and one[3, 2] == 1
    assert float(one.sum()) == pytest.approx(5.860379, abs=1e-5)
    assert float(one[0, 4]) == pytest.approx(0.00150344, abs=1e-7)
    assert heatmaps.expected(one[None])[0].tolist() == pytest.approx([2.5, 3.498434], abs=1e-5)


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_points_come_back_from_their_maps(spread):
    xy = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 20 + 6
    maps = heatmaps.gaussians(xy, 32, spread)
    assert (heatmaps.dark(maps, spread) - xy).abs().max() < 1e-3  # exact for a Gaussian
    assert (heatmaps.quarter(maps) - xy).abs().max() <= 0.26
    near = torch.tensor([[0.2, 31.7], [31.9, 0.4]])
    edge = heatmaps.dark(heatmaps.gaussians(near, 32, spread), spread)
    assert (edge - near).abs().max() < 1
    assert torch.isfinite(heatmaps.dark(torch.zeros(3, 6, 6), spread)).all()


def test_a_head_learns_what_is_labelled_and_seen_alone(encoder):
    facts = skeleton()
    head = HeatMaps(encoder, facts, 32, Keypoints(loss="mse"))
    points = torch.tensor([[[8.0, 8.0, 1.0], [20.0, 9.0, 0.0], [3.0, 30.0, 1.0], [4.0, 4.0, 0.0]]])
    outputs = torch.zeros(1, 4, 16, 16)
    loss = head.loss(outputs, [points])[0]
    assert 0.8 < float(loss) < 1  # a map of zeros costs 1, less what of the Gaussian lies outside
    outputs[:, 1::2] = 7  # points without weight
    assert float(head.loss(outputs, [points])[0]) == pytest.approx(float(loss))
    assert float(head.loss(outputs, [points * torch.tensor([1, 1, 0])])[0]) == 0
    for kind in ("mse", "cross-entropy"):
        head = HeatMaps(encoder, facts, 32, Keypoints(loss=kind))
        perfect = heatmaps.gaussians(points[..., :2] / 2, 16, head.spread)
        perfect = perfect if kind == "mse" else perfect.clamp_min(1e-9).log()
        (xy, scores, size), *_ = head.decoded(perfect)
        assert size == 32 and np.abs(xy - points[0, :, :2].numpy()).max() < 1.2 and scores.min() > 0.8
        assert np.abs(xy[1] - [20, 9]).max() < 0.05


# Pairs ---------------------------------------------------------------------------------------------------------------


def test_pairs_are_found_by_names():
    assert mirrored_name("left_eye") == "right_eye" and mirrored_name("RightWrist") == "leftwrist"
    assert mirrored_name("l_hip") == "r_hip" and mirrored_name("knee_r") == "knee_l"
    assert mirrored_name("nose") is None and mirrored_name("lip") is None and mirrored_name("rear") is None
    assert pairs_by_name(list(SIGMAS)) == tuple((k, k + 1) for k in range(1, 17, 2))
    assert pairs_by_name(("L", "R", "left", "top")) == ((0, 1),)
    assert pairs_given(("a:c",), ("a", "b", "c")) == ((0, 2),)
    for wrong in (("a",), ("a:x",), ("a:b", "b:c"), ("a:a",)):
        with pytest.raises(UserError, match=r"--task\.pairs"):
            pairs_given(wrong, ("a", "b", "c"))
    rows = np.arange(6).reshape(3, 2)
    assert swapped(rows, ((0, 2),)).tolist() == rows[[2, 1, 0]].tolist()


# Scores --------------------------------------------------------------------------------------------------------------


def skeleton(points=POINTS, boxed=True):
    return Skeleton(points=points, pairs=pairs_by_name(points), boxed=boxed)


def pose(xyv, box=(0, 0, 40, 40), area=1600.0, picture="a"):
    return Pose(np.array(xyv, dtype=np.float64), np.array(box, dtype=np.float64), area, picture, True)


def at(xy, truth, score=1.0):
    xy = np.array(xy, dtype=np.float64)
    return Found(xy, np.full(len(xy), score), truth.xyxy, truth.picture, score)


def test_golden_values_of_pck_and_oks():
    truth = pose([[10, 10, 2], [20, 10, 2], [30, 10, 1]])
    found = at([[12, 10], [20, 12], [30, 15]], truth)
    scores = PointScores(skeleton(("nose", "left_eye", "right_eye")))
    scores.add(found, truth)
    got = scores.found()
    assert got["PCK@0.1"] == pytest.approx(2 / 3) and got["PCK@0.2"] == 1 and got["PCK right_eye"] == 0
    assert got["error"] == pytest.approx(9 / 3 / 40)
    assert got["OKS"] == pytest.approx(0.426772, abs=1e-6) and got["OKS-AP"] == 0
    xyv = np.array([[0, 0, 2], [0, 0, 1], [0, 0, 2]], dtype=float)
    sigmas = np.array([SIGMAS["nose"], SIGMAS["left_eye"], SIGMAS["right_eye"]])
    each = [similarity(np.array([[d, 0]]), xyv[k : k + 1], 1600, sigmas[k : k + 1]) for k, d in enumerate((2, 2, 5))]
    assert each == pytest.approx([0.629847, 0.606531, 0.043937], abs=1e-6)
    assert similarity(np.array([[2, 0], [2, 0], [5, 0]]), xyv, 1600, sigmas) == pytest.approx(0.426772, abs=1e-6)
    all_points = np.column_stack([np.zeros((17, 2)), np.full(17, 2)])
    three = np.column_stack([np.full(17, 3), np.zeros(17)])
    assert similarity(three, all_points, 1600, sigmas_of(tuple(SIGMAS))) == pytest.approx(0.756573, abs=1e-6)
    assert sigmas_of(("a", "b")).tolist() == [0.05, 0.05] and sigmas_of(tuple(SIGMAS), 0.1).tolist() == [0.1] * 17


def test_perfect_points_are_best_and_order_and_parts_do_not_matter():
    rng = np.random.default_rng(0)
    truths = [
        pose(np.column_stack([rng.uniform(0, 40, (4, 2)), [2, 1, 2, k % 3]]), picture=f"p{k // 2}", area=1600 + k)
        for k in range(10)
    ]
    perfect, one, two = PointScores(skeleton()), PointScores(skeleton()), PointScores(skeleton())
    noisy = [at(t.xyv[:, :2] + rng.normal(0, 2, (4, 2)), t, float(rng.uniform())) for t in truths]
    for truth, near in zip(truths, noisy, strict=True):
        perfect.add(at(truth.xyv[:, :2], truth), truth)
        one.add(near, truth)
    for k in rng.permutation(10):
        two.add(noisy[k], truths[k])
    assert one.found() == two.found()
    best = perfect.found()
    assert best["OKS-AP"] == best["OKS"] == best["PCK@0.1"] == 1 and best["error"] == 0
    assert 0 < one.found()["OKS-AP"] < 1
    with pytest.raises(UserError, match="no object with a labelled point"):
        PointScores(skeleton()).found()


def test_sizes_can_be_those_of_the_points():
    truth = pose([[0, 0, 2], [30, 40, 2], [9, 9, 0], [9, 9, 0]], box=(0, 0, 400, 400))
    scores = PointScores(skeleton(), reference="points")  # 0.6 x 50 = 30
    scores.add(at([[2.9, 0], [30, 43.1], [0, 0], [0, 0]], truth), truth)
    assert scores.found()["PCK@0.1"] == 0.5


# Views ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return image.make_encoder("resnet10t@0.125", 32, stats())


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("points"), scenes(12, 64))


def test_a_mirrored_view_exchanges_left_and_right(encoder, labelled):
    examples = Keypoints(flip=1.0).open(str(labelled), None, encoder)
    assert examples.facts.pairs == ((0, 1),) and len(examples) > 12
    for i in range(6):
        frame = examples.frame_of(i, 32, [0.5] * 4 + [0.0, 0.9, 0.5], 64, 64, True)
        assert frame.mirrored and not frame.upside_down
        (rows,) = examples.target(i, frame, 0.0)
        plain = examples.target(i, examples.whole(i, 32), 0.0)[0]
        weights = rows[:, 2] > 0
        assert (rows[weights, 0] <= 32).all()
        if weights[0] and weights[1]:
            assert rows[0, 0] < rows[1, 0]  # left is left of right, here too
            assert rows[0, :2] == pytest.approx([32 - plain[1, 0], plain[1, 1]], abs=1e-4)
        both = Keypoints(flip=1.0, vertical_flip=1.0)
        examples.task, kept = both, examples.task
        turned = examples.frame_of(i, 32, [0.5] * 4 + [0.0, 0.0, 0.5], 64, 64, True)
        half = examples.target(i, turned, 0.0)[0]
        examples.task = kept
        if weights[0] and weights[1]:
            assert half[0, 0] > half[1, 0]  # turned by half: nothing changes sides
    assert Keypoints().open(str(labelled), None, encoder).task.flip is None


def test_without_known_pairs_nothing_is_mirrored_unless_asked(encoder, tmp_path):
    write_images(tmp_path, scenes(4, 64))
    (tmp_path / "points.csv").write_text("path,x1,y1,x2,y2\n" + "".join(f"0{k}.png,10.5,12,30,31\n" for k in range(4)))

    def mirrored(settings):
        examples = settings.open(str(tmp_path), None, encoder)
        return [examples.frame_of(0, 32, [0.5] * 4 + [c, 0.9, 0.5], 64, 64, True).mirrored for c in (0.0, 0.3, 0.7)]

    assert mirrored(Keypoints()) == [False] * 3
    assert mirrored(Keypoints(flip=0.5)) == [True, True, False]
    assert mirrored(Keypoints(pairs=("1:2",))) == [True, True, False]


def test_what_a_view_says_comes_back_to_the_picture(encoder, labelled):
    examples = Keypoints().open(str(labelled), None, encoder)
    for i in range(len(examples)):
        truth, frame = examples.truth(i), examples.whole(i, 32)
        assert min(frame.top, frame.left) >= 0 and frame.top + frame.height <= 64
        back = examples.restored(i, (frame.points(truth.xyv[:, :2]), np.ones(4), 32))
        assert np.abs(back.xy - truth.xyv[:, :2]).max() < 1e-9
        assert back.xyxy.tolist() == truth.xyxy.tolist() and back.picture == truth.picture
    assert within(10, 20, 100) == (0, 20) and within(99, 20, 100) == (80, 20) and within(50, 300, 100) == (0, 100)


# Files ---------------------------------------------------------------------------------------------------------------


def read(path, labels=None, category=None):
    return pointfiles.point_set(str(path), None if labels is None else str(labels), category)


def test_all_forms_say_the_same(tmp_path):
    made = [scene(k, 64, most=1) for k in range(4)]
    write_coco(tmp_path, made)
    coco = read(tmp_path)
    box = "left,top,right,bottom"
    heads = ",".join(f"{name}_x,{name}_y,{name}_v" for name in POINTS)
    wide, long = [f"path,{heads},{box}"], [f"path,name,x,y,v,{box}"]
    for k, one in enumerate(made):
        edges = ",".join(map(str, one.boxes[0]))
        wide.append(f"{k:02d}.png,{','.join(str(v) for v in one.points[0].ravel())},{edges}")
        long += [f"{k:02d}.png,{n},{p[0]},{p[1]},{p[2]},{edges}" for n, p in zip(POINTS, one.points[0], strict=True)]
    for rows in (wide, long):
        (tmp_path / "x.csv").write_text("\n".join(rows) + "\n")
        found = read(tmp_path / "images", tmp_path / "x.csv")
        assert found.names == coco.names == POINTS
        for mine, theirs in zip(found.objects, coco.objects, strict=True):
            known = theirs.xyv[:, 2] > 0
            assert mine.box == theirs.box and mine.item == theirs.item and (mine.xyv[known] == theirs.xyv[known]).all()


def test_whole_numbers_count_pixels_and_are_written_so(tmp_path, encoder):
    write_images(tmp_path, scenes(4, 64))
    (tmp_path / "p.csv").write_text("path,x1,y1,v1\n" + "".join(f"0{k}.png,10,12,{1 + k % 2}\n" for k in range(4)))
    examples = Keypoints().open(str(tmp_path), None, encoder)
    assert examples.truth(0).xyv.tolist() == [[10.5, 12.5, 1]] and examples.facts.offset == 0.5
    found = Found(np.array([[10.5, 12.5]]), np.array([0.5]), np.array([0, 0, 64, 64.0]), "7.png", 0.5)
    Keypoints().write([("7.png", found)], examples.facts, tmp_path / "out.json")
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert row["keypoints"] == [10, 12, 0.5] and row["image_id"] == 7 and row["bbox"] == [0, 0, 64, 64]
    assert (row["category_id"], row["category"]) == (1, "object")
    Keypoints().write([("7.png", found)], examples.facts, tmp_path / "out.csv")
    again = (tmp_path / "out.csv").read_text().splitlines()
    assert again[0] == "path,left,top,right,bottom,score,1_x,1_y,1_score" and ",10.00,12.00," in again[1]


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ("path,x1,y1,x2,y2\n00.png,1,2,3\n", "row 2 has 4 columns, the header has 5"),
        ("path,x1,y1,x2\n00.png,1,2,3\n", "point 2 has no column for y"),
        ("path,x1,y1\n00.png,1,two\n", "row 2: y is 'two'"),
        ("path,x1,y1,v1\n00.png,1,2,5\n", "v is 5"),
        ("path,x1,y1\n99.png,1,2\n", "99.png"),
        ("path,x1,y1\n00.png,1,2\n00.png,3,4\n", "several objects"),
        ("path,x1,y1\n00.png,900,2\n", "outside of their picture"),
        ("path,x1,y1,left,top\n00.png,1,2,3,4\n", "only left, top"),
        ("path,x1,y1,left,top,right,bottom\n00.png,1,2,30,4,20,9\n", "no area"),
        ("path,x1,y1\n00.png,,\n", "none of its objects has a labelled point"),
        ("path,name,x,y\n00.png,a,1,2\n00.png,a,3,4\n", "a of 00.png is there twice"),
        ("path,name,x\n00.png,a,1\n", "no column y"),
        ("file,x1,y1\n00.png,1,2\n", "path among them"),
        ("path,x1,y1,x2,y2\n00.png,0.1,0.2,0.9,0.55\n", "all 2 points lie from 0.1 to 0.9, .* they look like shares"),
        ("path,x1,y1,left,top,right,bottom\n00.png,9,9,0.1,0.1,0.3,0.4\n", "all 1 boxes lie from 0.1 to 0.4"),
        ("path,class\n00.png,cat\n", "no columns of points"),
    ],
)
def test_bad_rows_are_refused_in_a_line(tmp_path, rows, word):
    write_images(tmp_path, scenes(1, 64))
    (tmp_path / "bad.csv").write_text(rows)
    with pytest.raises(UserError, match=word) as error:
        read(tmp_path, tmp_path / "bad.csv")
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def changed(folder, change):
    content = json.loads((folder / "annotations.json").read_text())
    change(content)
    (folder / "annotations.json").write_text(json.dumps(content))


def test_coco_files_that_do_not_fit_are_refused_and_empty_objects_left_out(tmp_path):
    write_coco(tmp_path, scenes(6, 64))
    count = len(read(tmp_path).objects)

    def empty(content):
        content["annotations"][0]["num_keypoints"] = 0
        content["annotations"][1]["iscrowd"] = 1

    changed(tmp_path, empty)
    found = read(tmp_path)
    assert len(found.objects) == count - 2 and any("without a labelled point" in note for note in found.notes)
    kept = (tmp_path / "annotations.json").read_text()
    for change, word in (
        (lambda c: c["annotations"][3]["keypoints"].pop(), "11 numbers in keypoints; 4 points need 12"),
        (lambda c: c["categories"][0].update(keypoints=["a", "b", "c", "d"]), "different keypoints"),
        (lambda c: [one.pop("keypoints") for one in c["categories"]], "none has keypoints"),
        (lambda c: c["annotations"][3].update(image_id=77), "image_id that is not among"),
        (lambda c: c["images"][3].update(file_name="gone.png"), "gone.png"),
        (lambda c: c["annotations"][3].pop("bbox"), "bbox"),
    ):
        (tmp_path / "annotations.json").write_text(kept)
        changed(tmp_path, change)
        with pytest.raises(UserError, match=word) as error:
            read(tmp_path, tmp_path / "annotations.json")
        assert "\n" not in str(error.value)
    (tmp_path / "annotations.json").write_text(kept)
    with pytest.raises(UserError, match="none is called dog"):
        read(tmp_path, category="dog")
    with pytest.raises(UserError, match="no keypoints found there"):
        read(write_images(tmp_path / "far" / "bare", scenes(1, 32))[0].parent)
    (tmp_path / "far" / "bare" / "cut.json").write_text(kept[:-9])
    with pytest.raises(UserError, match=r"cut.json: no valid JSON"):
        read(tmp_path / "far" / "bare")


# The task ------------------------------------------------------------------------------------------------------------


def test_boxes_of_detections_are_looked_into(tmp_path, encoder, labelled):
    task = Keypoints()
    examples = task.open(str(labelled), None, encoder)
    torch.manual_seed(0)
    model = saved.Model(encoder, task.head(encoder, examples.facts, 32), task, examples.facts, 32)
    rows = [
        {"image_id": 0, "file_name": "00.png", "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.9},
        {"image_id": 0, "file_name": "00.png", "category_id": 1, "bbox": [30, 30, 20, 20], "score": 0.8},
        {"image_id": 0, "file_name": "00.png", "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.1},
    ]
    (tmp_path / "images").mkdir()
    shutil.copy(labelled / "images" / "00.png", tmp_path / "images" / "00.png")
    (tmp_path / "found.json").write_text(json.dumps(rows))
    opened = task.open(str(tmp_path / "found.json"), None, encoder, examples.facts, labelled=False)
    found = [one for _, one in task.predictions(model, opened, range(len(opened)), torch.device("cpu"))]
    assert [opened.name(i) for i in range(len(opened))] == ["00.png#1", "00.png#2"]
    assert found[0].xyxy.tolist() == [5, 5, 25, 25] and found[1].score <= 0.8
    (panel,) = task.picture(opened, 0, found[0], None, side=64)
    assert panel.picture.size == (64, 64) and panel.words == "found"


@pytest.mark.learns
def test_points_of_scenes_are_learned(tmp_path, encoder):
    for part, start, count in (("train", 0, 64), ("test", 900, 24)):
        write_coco(tmp_path / part, [scene(start + k, 48, most=1) for k in range(count)])
    folder = tmp_path / "encoder"
    folder.mkdir()
    image.save_encoder(encoder, folder)
    run = ss.adapt(
        folder, tmp_path / "train", task={"name": "keypoints"}, out=tmp_path / "run", size=32, epochs=30, batch_size=16,
        workers=0, device="cpu", precision="fp32",
    )  # fmt: skip
    own, trivial = ss.evaluate(run, tmp_path / "test", workers=0)
    assert own["mean"] > trivial["mean"] and own["mean"] > 0.7
