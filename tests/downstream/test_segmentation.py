"""Segmentation: what masks mean, scores, heads that learn, tiles, what is written."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from selfsame import modalities
from selfsame.downstream import maskfiles, masks, pairs, tasks, tiles
from selfsame.downstream.masks import IGNORED, MASKS, Classes
from selfsame.downstream.overlap import Overlap, border_distances, confusion, of_picture
from selfsame.downstream.pictures import CHANCES, Frame
from selfsame.downstream.task import Model
from selfsame.downstream.tasks.classification import Classification
from selfsame.downstream.tasks.segmentation import Segmentation, balanced, dice_loss
from selfsame.errors import UnreadableItem, UserError
from selfsame.types import Draws
from tests import scenes

CPU = torch.device("cpu")


def encoder(size: int = 32, name: str = "resnet18@0.25", channels: int = 3, bits: int = 8) -> Any:
    image: Any = modalities.load("image")
    torch.manual_seed(0)
    stats = image.Stats(
        items=1, channels=channels, bits=bits, white=2**bits - 1, mean=(0.5,) * channels, std=(0.25,) * channels,
        height=64, width=64, uniform=True,
    )  # fmt: skip
    return image.make_encoder(name, size, stats).eval()


def classes_of(*names: str) -> Classes:
    return Classes(classes=names, values=tuple(range(len(names))), colours=masks.drawn(len(names)))


def save(path: Path, values: np.ndarray, palette: list[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)
    return path


def photo(path: Path, height: int = 8, width: int = 8) -> Path:
    return save(path, np.full((height, width, 3), 90, np.uint8))


def learned(task: Segmentation, examples: Any, net: Any, size: int, steps: int, batch: int = 8) -> Model:
    """A short training of the plainest kind."""
    torch.manual_seed(1)
    model = Model(net, task.head(net, examples.facts, size), task, examples.facts, size).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        draws = Draws(0, step, batch)
        items = [(step * batch + k) % len(examples) for k in range(batch)]
        views, *targets = examples.make_views(examples.sample(items, size, draws, True), draws, True)
        loss, _ = model.head.loss(model(views), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


# Scores --------------------------------------------------------------------------------------------------------------


TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 1, 255], [2, 2, 2, 2]], np.uint8)
SAID = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [2, 2, 2, 0], [2, 2, 1, 2]], np.uint8)


def test_golden_overlap() -> None:
    assert confusion(SAID, TRUTH, 3).tolist() == [[3, 1, 0], [0, 4, 1], [0, 1, 5]]
    scores = Overlap(classes_of("a", "b", "c"))
    scores.add(SAID, TRUTH)
    found = scores.found()
    assert [found[f"IoU of {name}"] for name in "abc"] == pytest.approx([0.75, 0.571429, 0.714286], abs=1e-6)
    assert found["mIoU"] == pytest.approx(0.678571, abs=1e-6)
    assert found["pixel accuracy"] == pytest.approx(0.8)
    assert found["mean accuracy"] == pytest.approx(0.794444, abs=1e-6)
    assert found["frequency-weighted IoU"] == pytest.approx(0.676190, abs=1e-6)
    # Dice of each class is 2 J / (1 + J)
    assert found["Dice"] == pytest.approx(np.mean([2 * j / (1 + j) for j in (0.75, 4 / 7, 5 / 7)]))


def test_scores_do_not_depend_on_order_and_parts() -> None:
    rng = np.random.default_rng(0)
    pairs_ = [(rng.integers(0, 3, (5, 6 + k)), rng.integers(0, 3, (5, 6 + k))) for k in range(4)]
    one, other, whole = (Overlap(classes_of("a", "b", "c")) for _ in range(3))
    for prediction, truth in pairs_:
        one.add(prediction, truth)
    for prediction, truth in reversed(pairs_):
        other.add(prediction, truth)
    whole.add(*(np.concatenate([pair[k] for pair in pairs_], axis=1) for k in range(2)))
    assert one.found() == other.found() == whole.found()


def test_perfect_and_empty_scores() -> None:
    scores = Overlap(classes_of("a", "b", "c"))
    scores.add(np.zeros((2, 2)), np.full((2, 2), IGNORED))
    with pytest.raises(UserError, match="ignored"):
        scores.found()
    scores.add(np.array([[0, 1]]), np.array([[0, 1]]))  # class c is nowhere: no part of the means
    assert scores.found()["mIoU"] == scores.found()["Dice"] == 1
    assert "IoU of c" not in scores.found()


def test_golden_border_distances() -> None:
    one = np.zeros((10, 10), np.uint8)
    one[2:6, 3:7] = 1
    other = np.roll(one, 1, axis=0)
    assert border_distances(one > 0, other > 0) == pytest.approx((1.0, 0.5))
    found = of_picture(other, one, 2)
    assert found == pytest.approx({"Dice": 0.75, "HD95": 1.0, "ASSD": 0.5})
    assert of_picture(one * 0, one * 0, 2) == {"Dice": 1.0}  # neither holds anything: right
    missed = of_picture(one * 0, one, 2)
    assert missed["Dice"] == 0 and missed["HD95"] == pytest.approx(200**0.5)
    scores = Overlap(classes_of("ground", "cell"), pictures=True)
    scores.add(other, one)
    assert scores.found()["Dice of cell"] == pytest.approx(0.75)
    assert scores.found()["IoU of cell"] == pytest.approx(0.6)
    assert scores.found()["HD95 per picture"] == 1.0
    none = Overlap(classes_of("ground", "cell"), pictures=True)
    none.add(other, one * 0)  # which scores there are does not depend on what was predicted
    assert none.found()["Dice per picture"] == 0 and "HD95 per picture" not in none.found()


# Losses --------------------------------------------------------------------------------------------------------------


def test_golden_dice_loss() -> None:
    p, g = torch.tensor([0.9, 0.8, 0.2, 0.1]), torch.tensor([[[1, 1, 0, 0]]])
    # Both classes have the same sums here, so that their mean is the value of one.
    assert dice_loss(torch.stack([1 - p, p])[None, :, None], g).item() == pytest.approx(0.12)
    ignored = F.pad(g, (0, 2), value=IGNORED)
    more = F.pad(torch.stack([1 - p, p]), (0, 2), value=0.5)
    assert dice_loss(more[None, :, None], ignored).item() == pytest.approx(0.12)


def test_a_batch_in_which_all_is_ignored_has_no_loss() -> None:
    net = encoder()
    head = Segmentation().head(net, classes_of("a", "b"), 32)
    outputs = head(net, torch.rand(2, 3, 32, 32))
    loss, _ = head.loss(outputs, [torch.full((2, 32, 32), IGNORED, dtype=torch.uint8)])
    loss.backward()
    assert loss.item() == 0


def test_rare_classes_weigh_more() -> None:
    assert balanced((0.8, 0.2, 0.1, 0.0)).tolist() == pytest.approx([0.25, 1.0, 2.0, 1.0])
    net = encoder()
    facts = Classes(classes=("a", "b"), values=(0, 1), shares=(0.9, 0.1))
    targets = [torch.ones(1, 32, 32, dtype=torch.uint8)]
    targets[0][:, :16] = 0
    outputs = torch.zeros(1, 2, 32, 32)
    outputs[:, 0] = 1  # wrong where class b is
    plain, weighted = (
        Segmentation(class_weights=kind, dice=0).head(net, facts, 32).loss(outputs, targets)[0]
        for kind in ("none", "balanced")
    )
    assert weighted > plain


# What masks mean -----------------------------------------------------------------------------------------------------


def facts_of(folder: Path, labels: list[np.ndarray], names: str = "", **settings: Any) -> Classes:
    files = [str(save(folder / f"{k}.png", label)) for k, label in enumerate(labels)]
    if names:
        (folder / "classes.txt").write_text(names)
    return masks.understood(files, [folder], **settings)[0]


def grey(*values: int) -> np.ndarray:
    return np.array([values, values], np.uint8)


@pytest.mark.parametrize(
    ("values", "classes", "stored", "ignored"),
    [
        ((0, 255), ("background", "foreground"), (0, 255), None),
        ((0, 1), ("background", "foreground"), (0, 1), 255),
        ((0, 1, 255), ("background", "foreground"), (0, 1), 255),
        ((0, 5, 15, 255), ("0", "5", "15"), (0, 5, 15), 255),
        ((0, 1, 2), ("0", "1", "2"), (0, 1, 2), 255),
    ],
)
def test_values_of_gray_masks(
    tmp_path: Path, values: tuple[int, ...], classes: Any, stored: Any, ignored: int | None
) -> None:
    facts = facts_of(tmp_path, [grey(*values[:2]), grey(*values)])
    assert (facts.classes, facts.values, facts.ignore) == (classes, stored, ignored)
    told = "no value" if ignored is None else str(ignored)
    assert facts.summary.endswith(f"ignored: {told}") and f"{classes[-1]} ({stored[-1]})" in facts.summary
    numbers = masks.numbered(maskfiles.read(str(tmp_path / "1.png")), facts)
    assert numbers[0].tolist() == [IGNORED if v == ignored else stored.index(v) for v in values]


def test_what_is_ignored_can_be_said(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, [grey(0, 1, 2, 255)], ignore=0)
    assert facts.values == (1, 2, 255) and facts.ignore == 0
    assert facts_of(tmp_path, [grey(0, 1, 2, 255)], ignore=-1).values == (0, 1, 2, 255)


def test_names_of_classes(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, [grey(0, 2, 255)], "ground\ndisc\nsquare\n")
    assert facts.classes == ("ground", "disc", "square") and facts.ignore == 255
    assert facts.shares == pytest.approx((0.5, 0, 0.5))
    with pytest.raises(UserError, match=r"hold 3, which is none of the 3 classes of .*classes\.txt"):
        facts_of(tmp_path, [grey(0, 3)])
    assert facts_of(tmp_path / "black", [grey(0, 255)], "ground\ncell\n").values == (0, 255)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text(json.dumps([{"id": 7, "name": "road"}, {"id": 2, "name": "tree"}]))
    assert facts_of(tmp_path, [grey(2, 7)]).classes == ("tree", "road")
    (tmp_path / "classes.json").write_text('{"0": ')
    with pytest.raises(UserError, match="cannot be read"):
        facts_of(tmp_path, [grey(2, 7)])


def test_palettes_and_colours(tmp_path: Path) -> None:
    """A palette keeps its numbers; colours are classes, each by its own or by a list."""
    palette = [channel for colour in masks.drawn(256) for channel in colour]
    file = save(tmp_path / "a/1.png", grey(0, 3, 255), palette)
    facts, _ = masks.understood([str(file)], [])
    assert facts.values == (0, 3) and facts.colours[1] == (128, 128, 0) and facts.coded == "values"
    file = save(tmp_path / "b/1.png", np.array([[[0, 0, 0], [255, 0, 0], [0, 0, 255], [224, 224, 192]]] * 2, np.uint8))
    facts, _ = masks.understood([str(file)], [])
    assert facts.classes == ("#000000", "#0000ff", "#ff0000") and facts.coded == "colours"
    assert masks.numbered(maskfiles.read(str(file)), facts)[0].tolist() == [0, 2, 1, IGNORED]
    (tmp_path / "b/class_dict.csv").write_text("name,r,g,b\nsky,0,0,255\nroad,255,0,0\nvoid,0,0,0\n")
    facts, _ = masks.understood([str(file)], [tmp_path / "b"])
    assert facts.classes == ("sky", "road", "void")
    assert masks.numbered(maskfiles.read(str(file)), facts)[0].tolist() == [2, 1, 0, IGNORED]
    same = save(tmp_path / "c/1.png", np.array([[[0, 0, 0], [1, 1, 1]]], np.uint8))  # gray, in three channels
    assert masks.understood([str(same)], [])[0].values == (0, 1)


def test_deep_tiff(tmp_path: Path) -> None:
    for name, kind in (("1.tif", np.uint16), ("2.tif", np.int32), ("3.tif", np.float32)):
        save(tmp_path / name, np.array([[0, 300], [7, 300]], kind))
        facts, _ = masks.understood([str(tmp_path / name)], [])
        assert facts.values == (0, 7, 300)
    save(tmp_path / "4.tif", np.array([[0, 0.5]], np.float32))
    with pytest.raises(UserError, match="not whole"):
        masks.understood([str(tmp_path / "4.tif")], [])


def test_masks_that_are_none(tmp_path: Path) -> None:
    smooth = np.r_[np.zeros(300), np.full(300, 255), 10 + np.arange(20)].astype(np.uint8)[None].repeat(2, 0)
    with pytest.raises(UserError, match=r"smoothed.*--task\.threshold 128"):
        facts_of(tmp_path, [smooth])
    facts = facts_of(tmp_path, [smooth], threshold=128)
    assert facts.classes == ("background", "foreground") and "below 128" in facts.summary
    assert masks.numbered(maskfiles.read(str(tmp_path / "0.png")), facts).sum() == 600
    with pytest.raises(UserError, match="nothing to tell apart"):
        facts_of(tmp_path, [grey(0, 0)])
    with pytest.raises(UserError, match="numbers of instances"):
        facts_of(tmp_path, [np.arange(600, dtype=np.uint16).reshape(2, 300)])
    Image.fromarray(grey(0, 255)).save(tmp_path / "x.jpg")
    with pytest.raises(UserError, match="JPEG"):
        masks.understood([str(tmp_path / "x.jpg")], [])


def test_how_masks_of_other_values_are_read_is_said_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = facts_of(tmp_path / "head", [grey(0, 255)])
    other = facts_of(tmp_path / "seven", [grey(0, 7)], known=known)
    said = " ".join(capsys.readouterr().err.split())
    assert other.values == (0, 7)
    assert "(0 was background, 255 was foreground): 0 is background, 7 is foreground" in said
    with pytest.raises(UserError, match=r"cannot be known: .* 255 is ignored; there .* 255 was foreground"):
        facts_of(tmp_path / "three", [grey(0, 7, 255)], known=known)
    ones = facts_of(tmp_path / "ones", [grey(0, 1)])
    with pytest.raises(UserError, match=r"cannot be known: .* 255 is foreground; there .* 255 was ignored"):
        facts_of(tmp_path / "white", [grey(0, 255)], known=ones)  # all foreground would count for nothing
    assert facts_of(tmp_path / "void", [grey(0, 1, 255)], known=ones) is ones


def test_masks_must_fit_the_head(tmp_path: Path) -> None:
    known = facts_of(tmp_path / "one", [grey(0, 1, 2)])
    with pytest.raises(UserError, match="other classes than the head was made for"):
        facts_of(tmp_path / "two", [grey(0, 1, 9)], known=known)
    binary = facts_of(tmp_path / "three", [grey(0, 255)])
    other = facts_of(tmp_path / "four", [grey(0, 1)], known=binary)  # the same two classes, stored otherwise
    assert other.classes == binary.classes and other.values == (0, 1)
    assert facts_of(tmp_path / "five", [grey(0, 0)], known=binary) is binary


# Pairs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "label", "start"),
    [
        ("image/a.jpg", "label/a.png", ""),
        ("train/images/a.png", "train/masks/a.png", ""),
        ("images/train/a.jpg", "annotations/train/a.png", ""),
        ("images/train/a.jpg", "annotations/train/a.png", "images/train"),
        ("JPEGImages/a.jpg", "SegmentationClass/a.png", ""),
        ("train/a.jpg", "train_masks/a_mask.gif", ""),
        ("train/a.jpg", "train_masks/a_mask.gif", "train"),
        ("image/a.jpg", "label/a.png", "image"),
        ("a.png", "a_mask.png", ""),
        ("a.color.png", "a.label.png", ""),
        ("image/IMG_1.jpg", "label/IMG_1.png", ""),  # as cameras call them: the word is a part of both names
        ("images/seg_1.jpg", "masks/seg_1_mask.png", ""),
        ("leftImg8bit/x/a_leftImg8bit.png", "gtFine/x/a_gtFine_labelTrainIds.png", ""),
    ],
)
def test_pairs_are_found(tmp_path: Path, picture: str, label: str, start: str) -> None:
    photo(tmp_path / picture)
    save(tmp_path / label, grey(0, 1))
    found = pairs.find(str(tmp_path / start), None, MASKS)
    assert [found.source.name(i) for i in found.items] == [str(Path(picture).relative_to(start))]
    assert Path(found.files[0]).samefile(tmp_path / label)
    unlabelled = pairs.find(str(tmp_path / start), None, MASKS, wanted=False)
    assert unlabelled.items == found.items  # masks are no pictures to predict


def test_pairs_of_a_named_folder(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        photo(tmp_path / f"photos/{name}.jpg")
    for name in ("a", "b", "z"):
        save(tmp_path / f"other/deep/{name}.png", grey(0, 1))
    found = pairs.find(str(tmp_path / "photos"), str(tmp_path / "other"), MASKS)
    assert [Path(file).stem for file in found.files] == ["a", "b"]
    assert "1 pictures without a mask (c.jpg ...), 1 masks without a picture" in found.left_out(MASKS)
    assert len(pairs.find(str(tmp_path / "photos"), str(tmp_path / "other/**/a*.png"), MASKS).items) == 1
    with pytest.raises(UserError, match="no masks found beside the pictures"):
        pairs.find(str(tmp_path / "photos"), None, MASKS)
    save(tmp_path / "other/deep/a.tif", grey(0, 1))
    with pytest.raises(UserError, match="2 masks"):
        pairs.find(str(tmp_path / "photos"), str(tmp_path / "other"), MASKS)


def test_two_folders_that_may_be_the_masks(tmp_path: Path) -> None:
    photo(tmp_path / "image/a.jpg")
    for folder in ("label", "masks"):
        save(tmp_path / folder / "a.png", grey(0, 1))
    with pytest.raises(UserError, match="may lie in"):
        pairs.find(str(tmp_path / "image"), None, MASKS)
    with pytest.raises(UserError, match="has 2 masks"):
        pairs.find(str(tmp_path), None, MASKS)
    with pytest.raises(UserError, match="no pictures beside"):
        pairs.find(str(tmp_path / "label"), str(tmp_path / "label"), MASKS)


def test_bad_pairs(tmp_path: Path) -> None:
    photo(tmp_path / "image/a.jpg")
    save(tmp_path / "label/b.png", grey(0, 1))
    with pytest.raises(UserError, match="no mask has the name of a picture"):
        pairs.find(str(tmp_path), None, MASKS)
    save(tmp_path / "label/a.png", grey(0, 1))  # 2 rows where the picture has 8
    with pytest.raises(UserError, match=r"1 of 1 masks .* the picture has 8 x 8 px, its mask 2 x 2 px"):
        Segmentation().open(str(tmp_path), None, encoder())
    (tmp_path / "label/a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of the 1 masks can be read"):
        Segmentation().open(str(tmp_path), None, encoder())


# The task ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write_masks(tmp_path_factory.mktemp("shapes"), scenes.scenes(24, 32))


def test_picture_and_mask_are_cut_together(shapes: Path) -> None:
    task = Segmentation()
    examples = task.open(str(shapes), None, encoder())
    samples, targets = examples.sample([3], 32, Draws(0, 0, 1), learn=False), None
    assert len(samples) == 1  # no targets where nothing is learned
    for tile in (None, 16):
        task = Segmentation(tile=tile, flip=0.5, vertical_flip=0.5)
        examples = task.open(str(shapes), None, encoder())
        pictures, targets = examples.sample(list(range(24)), 32, Draws(0, 0, 24), learn=True)
        assert targets.dtype == torch.uint8 and targets.shape == (24, 32, 32)
        # A disc is red, a square green, a triangle blue: the class can be read from the picture.
        strongest = pictures.float().argmax(dim=1) + 1
        shape = targets > 0
        assert (strongest == targets)[shape].float().mean() > 0.95


def test_samples_are_the_same_in_another_process(shapes: Path) -> None:
    examples = Segmentation().open(str(shapes), None, encoder())
    there = pickle.loads(pickle.dumps(examples))
    for mine, theirs in zip(*(one.sample([1, 5], 32, Draws(0, 3, 2), True) for one in (examples, there)), strict=True):
        assert torch.equal(mine, theirs)


def test_tiles_are_advised_where_pictures_are_squeezed_with_a_size_too(shapes: Path) -> None:
    net, task = encoder(), Segmentation()
    examples = task.open(str(shapes), None, net)
    said = task.caution(examples, 10)
    assert "32 px are squeezed to 10 px" in said and said.endswith("--task.tile 10")
    assert task.caution(examples, 11) == task.changed(tile=16).caution(examples, 10) == ""


def test_training_crops_of_tiles_are_at_native_scale() -> None:
    frame = Segmentation(tile=32).frame([0.5] * CHANCES, 100, 60, 32)
    assert frame.scale == (1, 1) and (frame.height, frame.width) == (32, 32)
    small = Segmentation(tile=32).frame([0.5] * CHANCES, 100, 16, 32)
    assert (small.height, small.width) == (16, 16)  # never out of shape


@pytest.mark.parametrize(("name", "size"), [("resnet18@0.25", 32), ("vit_tiny_patch8_32", 32)])
@pytest.mark.parametrize("decoder", ["multiscale", "linear"])
def test_heads_of_nets_and_transformers(shapes: Path, name: str, size: int, decoder: str) -> None:
    net, task = encoder(size, name), Segmentation(decoder=decoder)
    examples = task.open(str(shapes), None, net)
    model = Model(net, task.head(net, examples.facts, size), task, examples.facts, size).train()
    loss, logs = model.head.loss(model(torch.rand(2, 3, size, size)), [torch.ones(2, size, size, dtype=torch.uint8)])
    loss.backward()
    assert all(p.grad is not None for p in model.head.parameters()) and set(logs) >= {"cross-entropy", "dice loss"}
    (found,) = [prediction for _, prediction in task.predictions(model.eval(), examples, [2], CPU)]
    assert found.shape == (32, 32) and found.dtype == np.uint8


def test_linear_is_linear() -> None:
    """Of features at a place: the sum of 1x1 convolutions of the enlarged maps is one of all laid together."""
    net, task = encoder(), Segmentation(decoder="linear")
    head = task.head(net, classes_of("a", "b"), 32).eval()
    views = torch.rand(2, 3, 32, 32)
    maps = net.maps(views)
    together = torch.cat([F.interpolate(one, maps[0].shape[2:], mode="bilinear") for one in maps], 1)
    weight = torch.cat(
        [part[1].weight * part[0].running_var.add(1e-5).rsqrt()[None, :, None, None] for part in head.decoder.parts], 1
    )
    assert torch.allclose(head(net, views), F.conv2d(together, weight, head.decoder.parts[0][1].bias), atol=1e-4)


def test_it_learns_shapes(shapes: Path) -> None:
    task, net = Segmentation(jitter=0, area=(0.6, 1)), encoder(32)
    examples = task.open(str(shapes), None, net)
    assert examples.facts.classes == scenes.CLASSES
    model = learned(task, examples, net, 32, 30)
    scores, guessed = task.scores(examples.facts), task.scores(examples.facts)
    held = task.open(str(scenes.write_masks(shapes / "more", scenes.scenes(6, 32, seed=9))), None, net, examples.facts)
    guess = task.trivial(examples, range(len(examples)))
    for i, prediction in task.predictions(model, held, range(6), CPU):
        scores.add(prediction, held.truth(i))
        guessed.add(guess(held, i), held.truth(i))
    assert scores.found()["mIoU"] > 0.6 and 0.2 < guessed.found()["mIoU"] < 1


def test_gray_and_deep_pictures(tmp_path: Path) -> None:
    for k, one in enumerate(scenes.scenes(6, 32)):
        save(tmp_path / f"image/{k}.png", (one.image.mean(2) * 200).astype(np.uint16))
        save(tmp_path / f"label/{k}.png", one.mask)
    task, net = Segmentation(), encoder(32, channels=1, bits=16)
    examples = task.open(str(tmp_path), None, net)
    model = learned(task, examples, net, 32, 2)
    guess = task.trivial(examples, [0, 1, 2])
    for i, prediction in task.predictions(model, examples, range(6), CPU):
        assert prediction.shape == guess(examples, i).shape == (32, 32)
        panels = task.picture(examples, i, prediction, examples.truth(i))
        assert [panel.words.partition(";")[0] for panel in panels] == ["picture", "truth", "prediction"]


def test_scores_are_enlarged_to_the_picture_before_the_class_is_taken(tmp_path: Path) -> None:
    save(tmp_path / "image/a.png", np.zeros((20, 30, 3), np.uint8))
    save(tmp_path / "label/a.png", np.eye(20, 30).astype(np.uint8))
    examples = Segmentation().open(str(tmp_path), None, encoder())
    scores = torch.randn(11, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(scores[None], (20, 30), mode="bilinear", align_corners=False)[0].argmax(0)
    assert np.array_equal(examples.restored(0, scores), expected.numpy())


# Tiles ---------------------------------------------------------------------------------------------------------------


def test_tiles_cover_and_overlap() -> None:
    for length, side, overlap in ((100, 32, 0.25), (32, 32, 0.5), (33, 32, 0), (20, 20, 0.25)):
        found = tiles.starts(length, side, overlap)
        assert found[0] == 0 and found[-1] == length - side
        steps = np.diff(found)
        assert (steps <= np.ceil(side * (1 - overlap))).all() and (steps > 0).all()


class Local(torch.nn.Module):
    """Looks at each pixel alone: its predictions by tiles must be those of the whole."""

    def forward(self, net: Any, views: torch.Tensor) -> torch.Tensor:
        return torch.cat([views.sum(1, keepdim=True), 2 * views[:, 1:2] + 0.5], dim=1) * 20


def test_tiles_give_what_the_whole_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    save(tmp_path / "image/a.png", rng.integers(0, 256, (70, 45, 3), np.uint8))
    save(tmp_path / "label/a.png", rng.integers(0, 2, (70, 45), np.uint8))
    task, net = Segmentation(tile=16, overlap=0.5), encoder(16)
    examples = task.open(str(tmp_path), None, net)
    model = Model(net, Local(), task, examples.facts, 16)  # type: ignore[arg-type]
    ((_, found),) = task.predictions(model, examples, [0], CPU)
    whole = torch.from_numpy(examples.source.read(0)).permute(2, 0, 1)[None] / 255
    assert np.array_equal(found, Local()(None, whole)[0].argmax(0).numpy())


# Written -------------------------------------------------------------------------------------------------------------


def test_written_masks_are_read_again(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    for k, facts in enumerate((
        Classes(classes=("a", "b", "c"), values=(0, 7, 9), colours=masks.drawn(3)),
        Classes(classes=("a", "b", "c"), values=(0, 300, 9), colours=masks.drawn(3)),
        Classes(classes=("a", "b", "c"), values=(0, 0xFF0000, 0x00FF80), coded="colours", colours=masks.drawn(3)),
    )):  # fmt: skip
        out = tmp_path / str(k)
        files = Segmentation().write([("x/1.jpg", mask), ("x/1.png", mask), ("/../y.png", mask)], facts, out)
        assert {str(file.relative_to(out)) for file in files} == {"x/1.png", "x/1.png.png", "y.png", "classes.json"}
        for file in files[:3]:
            assert np.array_equal(masks.numbered(maskfiles.read(str(file)), facts), mask)
    told = json.loads((tmp_path / "0/classes.json").read_text())
    assert told[1] == {"id": 7, "name": "b", "color": [128, 0, 0]}
    again, _ = masks.understood([str(tmp_path / "0/y.png")], [tmp_path / "0"])
    assert again.classes == ("a", "b", "c")
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    def broken() -> Any:
        yield "a.png", np.zeros((2, 2), np.uint8)
        raise UnreadableItem("damaged")

    with pytest.raises(UnreadableItem):
        Segmentation().write(broken(), classes_of("a", "b"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_task_by_its_name() -> None:
    assert tasks.load("segmentation") is Segmentation
    whole = Frame.whole(10, 20, 8)
    assert whole.nearest(np.arange(200).reshape(10, 20)).shape == (8, 8)
    net = encoder()
    net.spec["modality"] = "audio"
    with pytest.raises(UserError, match="is for image data"):
        Segmentation().refuse(net)


def test_medical_files_are_refused_with_the_way_to_convert_them(tmp_path):
    (tmp_path / "scans").mkdir()
    for name in ("a.nii.gz", "b.dcm"):
        (tmp_path / "scans" / name).write_bytes(b"")
    with pytest.raises(
        UserError, match=r"DICOM and NIfTI files are not read: write each slice as a 16-bit PNG"
    ) as error:
        Segmentation().open(str(tmp_path / "scans"), None, encoder())
    assert "\n" not in str(error.value)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "pictures" / "a.png")
    with pytest.raises(UserError, match="DICOM and NIfTI files are not read"):
        Segmentation().open(str(tmp_path / "pictures"), str(tmp_path / "scans"), encoder())


def test_a_linear_head_on_a_frozen_encoder_learns_as_fast_as_a_classifier() -> None:
    linear, multiscale = Segmentation(decoder="linear"), Segmentation()
    assert linear.head_lr(True) == Classification().head_lr(True) == 1e-2
    assert linear.head_lr(False) == multiscale.head_lr(True) == multiscale.head_lr(False) == 1e-3
