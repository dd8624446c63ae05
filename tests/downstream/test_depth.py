"""Depth: files and what is not known in them, scores, the loss, views, what is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selfsame.downstream import depths, pairs, tasks
from selfsame.downstream.depths import DEPTHS, Closeness, Range, of_depth
from selfsame.downstream.pictures import Frame
from selfsame.downstream.tasks.depth import Depth, gradients, scale_invariant
from selfsame.errors import UnreadableItem, UserError
from selfsame.types import Draws
from tests import scenes
from tests.downstream.test_segmentation import CPU, encoder, learned, photo, save

SAID, TRUE = np.array([1, 2.2, 3, 8]), np.array([1.0, 2, 4, 5])


# Scores and losses ---------------------------------------------------------------------------------------------------


def test_golden_scores() -> None:
    found = of_depth(SAID, TRUE)
    expected = {
        "AbsRel": 0.2375, "SqRel": 0.5175, "RMSE": 1.5842980, "RMSElog": 0.2796196, "log10": 0.0926129,
        "delta < 1.25": 0.5, "delta < 1.25^2": 0.75, "delta < 1.25^3": 1.0, "SILog": 27.0868,
    }  # fmt: skip
    assert found == pytest.approx(expected, rel=2e-6, abs=1e-6)
    assert of_depth(3 * SAID, TRUE)["SILog"] == pytest.approx(found["SILog"])
    perfect = of_depth(TRUE, TRUE)
    assert perfect["AbsRel"] == perfect["RMSE"] == perfect["SILog"] == 0 and perfect["delta < 1.25"] == 1
    half = of_depth(SAID.astype(np.float16), TRUE.astype(np.float16))
    assert half == pytest.approx(found, abs=1e-3, rel=1e-3)


def test_scores_are_means_over_pictures_of_known_pixels() -> None:
    one, other = Closeness(), Closeness()
    truth = np.array([[1.0, 2, 4, 5, 0, np.nan]])
    said = np.array([[1, 2.2, 3, 8, 77, 77]])
    one.add(said, truth)
    assert one.found() == pytest.approx(of_depth(SAID, TRUE))
    one.add(np.full((3, 3), 2.0), np.full((3, 3), 1.0))  # AbsRel 1, however many pixels it has
    one.add(np.ones((2, 2)), np.zeros((2, 2)))  # nothing known: no picture to score
    assert one.found()["AbsRel"] == pytest.approx((0.2375 + 1) / 2)
    other.add(np.full((3, 3), 2.0), np.full((3, 3), 1.0))
    other.add(said, truth)
    assert one.found() == other.found()
    with pytest.raises(UserError, match="no pixel with a known depth"):
        Closeness().found()


def test_golden_loss() -> None:
    d = torch.tensor(np.log(SAID) - np.log(TRUE))[None, None]
    known = torch.ones(1, 1, 4, dtype=torch.bool)
    for share, expected in ((0.5, 0.0757784), (0.85, 0.0740923), (1.0, 0.0733696)):
        assert scale_invariant(d, known, share).item() == pytest.approx(expected, abs=1e-6)
    assert scale_invariant(d + np.log(3), known, 1.0).item() == pytest.approx(0.0733696, abs=1e-6)
    more, some = torch.nn.functional.pad(d, (0, 2), value=9.0), torch.nn.functional.pad(known, (0, 2))
    two = torch.cat([more, torch.full_like(more, 5.0)]), torch.cat([some, torch.zeros_like(some)])
    assert scale_invariant(*two, 0.5).item() == pytest.approx(0.0757784, abs=1e-6)  # what is not known does not count


def test_gradients_pass_over_the_level_and_what_is_not_known() -> None:
    known = torch.ones(1, 8, 8, dtype=torch.bool)
    assert gradients(torch.full((1, 8, 8), 3.0), known).item() == 0
    ramp = torch.arange(8.0).repeat(8, 1)[None]
    assert gradients(ramp, known).item() == pytest.approx(1 + 2 + 4)  # of steps of 1, 2 and 4; 8 leaves one pixel
    known[:, :, 4:] = False
    ramp[:, :, 4:] = 1000
    assert gradients(ramp, known).item() == pytest.approx(1 + 2)


# Files ---------------------------------------------------------------------------------------------------------------


def test_forms_of_depth(tmp_path: Path) -> None:
    metres = np.array([[0.5, 1.25, 0], [2, 3, 4]], np.float32)
    Image.fromarray((metres * 1000).astype(np.uint16)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", metres[..., None])
    np.savez(tmp_path / "c.npz", depth=metres, other=np.zeros(3))
    np.savez(tmp_path / "d.npz", metres)
    (tmp_path / "e.pfm").write_bytes(b"Pf\n3 2\n-1.0\n" + metres[::-1].astype("<f4").tobytes())
    (tmp_path / "f.pfm").write_bytes(b"Pf\n3 2\n1.0\n" + metres[::-1].astype(">f4").tobytes())
    Image.fromarray(metres).save(tmp_path / "g.tif")
    for path in sorted(tmp_path.iterdir()):
        assert np.allclose(depths.read(str(path)), metres), path
        assert depths.size_of(str(path)) == (2, 3)
    assert depths.read(str(tmp_path / "a.png"), scale=256)[1, 0] == pytest.approx(2000 / 256)
    assert np.array_equal(depths.read(str(tmp_path / "b.npy"), cap=2.5) > 0, [[1, 1, 0], [1, 0, 0]])


def test_what_is_not_known(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1, 0, -2, np.nan, np.inf]]))
    assert depths.read(str(tmp_path / "a.npy")).tolist() == [[1, 0, 0, 0, 0]]
    Image.fromarray(np.array([[65535, 65534, 0]], np.uint16)).save(tmp_path / "b.png")
    assert (depths.read(str(tmp_path / "b.png")) > 0).tolist() == [[False, True, False]]


def test_bad_files(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 9, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"8 bits.*--task\.scale"):
        depths.understood([str(tmp_path / "a.png")], None, None)
    assert depths.understood([str(tmp_path / "a.png")], 10, None)[0].median == pytest.approx(0.9)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "b.png")
    np.save(tmp_path / "c.npy", np.ones((2, 2, 2)))
    np.savez(tmp_path / "d.npz", x=np.ones(2), y=np.ones(2))
    (tmp_path / "e.npy").write_bytes(b"\x80\x04K\x01.")  # a pickle
    (tmp_path / "f.npz").write_bytes(b"none")
    (tmp_path / "g.pfm").write_bytes(b"PF\n1 1\n-1\n" + bytes(12))
    for name in ("b.png", "c.npy", "d.npz", "e.npy", "f.npz", "g.pfm"):
        with pytest.raises(UnreadableItem):
            depths.read(str(tmp_path / name))


def test_pictures_without_any_depth(tmp_path: Path) -> None:
    """One is left out and told; where there is no other, that is an error."""
    for k in range(3):
        photo(tmp_path / f"image/{k}.png")
        save(tmp_path / f"depth/{k}.png", np.full((8, 8), 1000 * k, np.uint16))
    examples = Depth().open(str(tmp_path), None, encoder())
    assert [examples.name(i) for i in range(len(examples))] == ["image/1.png", "image/2.png"]
    assert examples.facts.median == pytest.approx(1.5) and examples.facts.known == 1
    for k in (1, 2):
        save(tmp_path / f"depth/{k}.png", np.zeros((8, 8), np.uint16))
    with pytest.raises(UserError, match=r"none of the 3 depth files can be used.*no pixel of its depth is known"):
        Depth().open(str(tmp_path), None, encoder())
    save(tmp_path / "depth/1.png", np.ones((4, 8), np.uint16))
    with pytest.raises(UserError, match="the picture has 8 x 8 px, its depth 8 x 4 px"):
        Depth().open(str(tmp_path), None, encoder())


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("frame-000001.color.png", "frame-000001.depth.png"),
        ("rgb/1.jpg", "depth/1.png"),
        ("images/a/1.jpg", "depths/a/1.npy"),
        ("rgb_00045.jpg", "sync_depth_00045.png"),
    ],
)
def test_pairs_are_found(tmp_path: Path, picture: str, label: str) -> None:
    photo(tmp_path / picture)
    (tmp_path / label).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / label).write_bytes(b"")
    found = pairs.find(str(tmp_path), None, DEPTHS)
    assert found.files == [str(tmp_path / label)]


# The task ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write_depth(tmp_path_factory.mktemp("rooms"), scenes.scenes(16, 32))


def test_parts_are_nearer_by_as_much_as_they_are_enlarged(rooms: Path) -> None:
    task = Depth(area=(0.25, 0.25), flip=0)
    examples = task.open(str(rooms), None, encoder())
    frame = task.frame([0.5] * 7, 32, 32, 32)
    assert (frame.height, frame.width) == (16, 16)
    (target,) = examples.target(0, frame, 0.0)
    whole = examples.truth(0)
    assert np.allclose(2 * target[::2, ::2], whole[frame.top : frame.top + 16, frame.left : frame.left + 16])
    (same,) = examples.target(0, Frame.whole(32, 32, 32), 0.0)
    assert np.array_equal(same, whole)


def test_it_learns_rooms(rooms: Path, tmp_path: Path) -> None:
    task, net = Depth(jitter=0), encoder()
    assert tasks.load("depth") is Depth
    examples = task.open(str(rooms), None, net)
    model = learned(task, examples, net, 32, 25)
    held = task.open(str(scenes.write_depth(tmp_path, scenes.scenes(6, 32, seed=9))), None, net, examples.facts)
    scores, guessed = task.scores(examples.facts), task.scores(examples.facts)
    guess = task.trivial(examples, range(len(examples)))
    for i, prediction in task.predictions(model, held, range(6), CPU):
        assert prediction.shape == (32, 32) and (prediction > 0).all()
        scores.add(prediction, held.truth(i))
        guessed.add(guess(held, i), held.truth(i))
        panels = task.picture(held, i, prediction, held.truth(i))
        assert {panel.picture.size for panel in panels} == {(256, 256)}  # of 32 pixels, enlarged by whole ones
        assert [panel.words for panel in panels][1:] == ["truth", "prediction"]
    assert scores.found()["AbsRel"] < 0.75 * guessed.found()["AbsRel"]


def test_a_new_head_says_the_median_and_a_batch_without_depth_has_no_loss(rooms: Path) -> None:
    for name in ("resnet18@0.25", "vit_tiny_patch8_32"):
        net, task = encoder(32, name), Depth()
        examples = task.open(str(rooms), None, net)
        head = task.head(net, examples.facts, 32)
        outputs = head(net, torch.rand(2, 3, 32, 32))
        assert (outputs.exp() / examples.facts.median - 1).abs().mean() < 1
        loss, _ = head.loss(outputs, [torch.zeros(2, 32, 32)])
        loss.backward()
        assert loss.item() == 0
        assert all(p.grad is not None for p in head.parameters())


def test_light_changes_and_depth_does_not(rooms: Path) -> None:
    task = Depth(area=(1, 1), flip=1)
    examples = task.open(str(rooms), None, encoder())
    draws = Draws(0, 0, 2)
    views, target = examples.make_views(examples.sample([0, 1], 32, draws, True), draws, True)
    assert views.shape == (2, 3, 32, 32) and target.dtype == torch.float32
    assert np.allclose(target[1].numpy(), examples.truth(1)[:, ::-1])


# Written -------------------------------------------------------------------------------------------------------------


def test_written_depth_is_read_again(tmp_path: Path) -> None:
    facts = Range(least=0.1, median=1, most=5, known=1, scale=5000)
    depth = np.array([[0.1, 1.5], [2.25, 40.0]], np.float32)
    files = Depth().write([("a/1.jpg", depth), ("2.jpg", depth)], facts, tmp_path / "out")
    assert [str(file.relative_to(tmp_path / "out")) for file in files] == ["a/1.png", "2.png", "depth.json"]
    again = depths.read(str(files[0]), scale=5000)
    assert np.allclose(again[depth < 13], depth[depth < 13], atol=1e-4)
    assert again[1, 1] == pytest.approx(65534 / 5000)  # as far as 16 bits reach
    named = ["f/frame-48.color.png", "f/frame-48.color.jpg", "f/frame-48.rgb.png", "f/IMG_1.jpg", "color.png"]
    files = Depth().write([(name, depth) for name in named], facts, tmp_path / "marked")
    assert [str(file.relative_to(tmp_path / "marked")) for file in files[:5]] == [
        "f/frame-48.png", "f/frame-48.jpg.png", "f/frame-48.png.png", "f/IMG_1.png", "color.png"
    ]  # fmt: skip
    Depth().write([("a/1.jpg", depth)], facts, tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as arrays:
        assert np.array_equal(arrays["a/1.jpg"], depth)
    Depth().write([("1", depth), ("2", depth)], facts, tmp_path / "all.npy")
    assert np.load(tmp_path / "all.npy").shape == (2, 2, 2)
    with pytest.raises(UserError, match="different sizes"):
        Depth().write([("1", depth), ("2", depth[:1])], facts, tmp_path / "other.npy")
    assert not (tmp_path / "other.npy").exists()


def test_the_range_is_told(rooms: Path) -> None:
    facts = Depth().open(str(rooms), None, encoder()).facts
    assert f"{facts.median:.3g} m" in facts.summary and "1000 a metre" in facts.summary
    known: Any = Depth().open(str(rooms), None, encoder(), facts).facts
    assert known is facts
