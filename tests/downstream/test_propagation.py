"""Labels carried by likeness, and J and F, with golden values; the two jobs on maps by command."""

import importlib
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

import selfsame as ss
from selfsame import modalities
from selfsame.downstream import propagation
from selfsame.downstream.propagation import affinity, carried, hard, one_hot, propagated
from selfsame.downstream.regions import RegionScores, contour, outline, region
from selfsame.errors import UserError
from selfsame.jobs.propagating import painted
from tests.scenes import film, write_images


def opened(path):
    with Image.open(path) as image:
        return image.copy()


# Scores --------------------------------------------------------------------------------------------------------------


def square(shift=0):
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 5 + shift : 15 + shift] = True
    return mask


def test_golden_values_of_j_and_f():
    assert region(square(2), square()) == pytest.approx(0.666667, abs=1e-6)
    assert contour(square(2), square()) == pytest.approx(0.55)  # 0.008 of the diagonal: a pixel
    assert contour(square(2), square(), near=2) == 1
    assert region(square(), square()) == contour(square(), square()) == 1
    empty = np.zeros_like(square())
    assert region(empty, empty) == contour(empty, empty) == 1
    assert region(square(), empty) == contour(square(), empty) == contour(empty, square()) == 0
    assert outline(square()).sum() == 40 and not outline(~empty).any()


def test_scores_are_means_over_frames_then_objects_and_void_does_not_count():
    truth = np.where(square(), 1, 0) + np.where(square()[::-1, ::-1] & False, 2, 0)
    truth[:3, :3] = 2
    wrong = np.where(truth == 2, 0, truth)
    scores = RegionScores([1, 2])
    scores.add(truth, truth)
    scores.add(wrong, truth)
    got = scores.found()
    assert got["J 1"] == 1 and got["J 2"] == 0.5 and got["J"] == 0.75 and got["J&F"] == (got["J"] + got["F"]) / 2
    void = np.where(truth == 2, 255, truth)
    scores = RegionScores([1])
    scores.add(np.where(truth == 2, 1, truth), void)
    assert scores.found()["J"] == 1
    with pytest.raises(UserError, match="no frame"):
        RegionScores([1]).found()


# Algorithm -----------------------------------------------------------------------------------------------------------


def test_golden_values_of_affinity():
    refs = F.normalize(torch.tensor([[1.0, 0], [0, 1], [0.7, 0.7]]), dim=1)
    targets = F.normalize(torch.tensor([[0.9, 0.1], [0.1, 0.9]]), dim=1)
    weights, which = affinity(targets, refs, 0.1, 2)
    rows = torch.zeros(2, 3).scatter(1, which, weights)
    assert rows.flatten().tolist() == pytest.approx([0.893799, 0, 0.106201, 0, 0.893799, 0.106201], abs=1e-5)
    labels = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    mixed = (labels[which] * weights[..., None]).sum(1)
    assert mixed.flatten().tolist() == pytest.approx([0.8938, 0.1062, 0, 1], abs=1e-4)
    allowed = torch.tensor([[False, True, False], [True, True, True]])
    assert affinity(targets, refs, 0.1, 2, allowed)[0][0].tolist() == [1, 0]


def plainly(target, features, labels, temperature, top, radius):
    """The same with the whole matrix, as the official code has it."""
    n, d, h, w = features.shape
    sims = torch.exp(target.flatten(1).T @ features.permute(1, 0, 2, 3).reshape(d, -1) / temperature)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    y, x = y.flatten(), x.flatten()
    near = ((y[:, None] - y[None]).abs() <= radius) & ((x[:, None] - x[None]).abs() <= radius)
    sims = sims * near.repeat(1, n)
    least = sims.topk(min(top, sims.shape[1]), dim=1).values[:, -1:]
    sims = torch.where(sims >= least, sims, 0.0)
    return ((sims / sims.sum(1, keepdim=True)) @ labels.permute(0, 2, 3, 1).flatten(0, 2)).T.unflatten(1, (h, w))


@pytest.mark.parametrize("radius", [2, 30])
def test_blocks_give_what_the_whole_matrix_gives(monkeypatch, radius):
    g = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(4, 6, 9, 7, generator=g), dim=1)
    labels = torch.rand(3, 5, 9, 7, generator=g).softmax(dim=1)
    want = plainly(features[3], features[:3], labels, 0.1, 5, radius)
    for block in (1, 2_000, 1 << 24):
        monkeypatch.setattr(propagation, "BLOCK", block)
        got = carried(features[3], features[:3], labels, 0.1, 5, radius)
        assert torch.allclose(got, want, atol=1e-5)
    if radius == 30:  # as far as all places are apart
        assert torch.allclose(carried(features[3], features[:3], labels, 0.1, 5, None), want, atol=1e-5)


def test_a_film_that_stands_still_keeps_its_mask():
    mask = np.zeros((40, 40), dtype=np.int64)
    mask[8:24, 16:32] = 1
    features = torch.randn(32, 10, 10, generator=torch.Generator().manual_seed(0))
    labels = one_hot(mask, 1, (10, 10))
    for soft in propagated([features] * 4, labels, top=1):
        assert torch.equal(soft, labels)
        assert region(hard(soft, (40, 40)) == 1, mask == 1) > 0.9
    assert hard(torch.zeros(3, 4, 4), (8, 8)).max() == 0


def test_an_object_is_outlined_in_white_and_black_whatever_its_colour():
    mask = np.zeros((120, 120), np.uint8)
    mask[40:80, 40:80] = 1
    shown = painted(np.full((120, 120, 3), 90, np.uint8), mask, [0, 0, 0, 90, 90, 90])
    assert shown[60, 36:44, 0].tolist() == [90, 90, 0, 255, 255, 90, 90, 90]
    assert (shown[:30] == 90).all()


# By command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """frames/ and truth/ of a film, the frames numbered from 8 to 12 without leading zeros."""
    root = tmp_path_factory.mktemp("film")
    made = film(3, 64, 5)
    for path in reversed(write_images(root / "frames", made)):
        path.rename(path.with_name(f"{int(path.stem) + 8}.png"))
    (root / "truth").mkdir()
    for k, one in enumerate(made, 8):
        Image.fromarray(one.instances).save(root / "truth" / f"{k}.png")
    return root


def test_masks_are_written_and_scored_beside_what_must_be_beaten(untrained, moving, tmp_path):
    story = ss.propagate(
        untrained, moving / "frames", moving / "truth" / "8.png", tmp_path / "out", truth=moving / "truth", seeds=2
    )
    assert [row["features"] for row in story["rows"]] == ["encoder", "random", "first mask"]
    own, _, copied = (row["figures"]["J&F"]["mean"] for row in story["rows"])
    assert own > copied + 0.1 and story["rows"][1]["seeds"] == 2
    masks = [opened(tmp_path / "out" / f"{k}.png") for k in range(8, 13)]
    assert all(mask.mode == "P" and mask.size == (64, 64) for mask in masks)
    first = np.asarray(opened(moving / "truth" / "8.png"))
    assert (np.asarray(masks[0]) == first).all() and set(np.unique(masks[-1])) <= set(np.unique(first))
    assert json.loads((tmp_path / "out" / "propagation.json").read_text()) == story
    assert opened(tmp_path / "out" / "overview.png").width > 300


def test_a_black_and_white_mask_is_of_one_object(untrained, moving, tmp_path):
    for folder, value in (("white", 255), ("one", 1)):
        (tmp_path / folder).mkdir()
        for path in (moving / "truth").iterdir():
            object_ = np.asarray(opened(path)) == 1
            Image.fromarray((object_ * value).astype(np.uint8)).save(tmp_path / folder / path.name)
    white, one = (
        ss.propagate(untrained, moving / "frames", tmp_path / name / "8.png", tmp_path / f"out {name}",
                     truth=tmp_path / name, seeds=1)
        for name in ("white", "one")
    )  # fmt: skip
    assert white["rows"] == one["rows"] and white["rows"][0]["figures"]["J&F"]["mean"] > 0.2
    assert set(np.unique(np.asarray(opened(tmp_path / "out white" / "12.png")))) == {0, 1}


def test_frames_and_masks_that_do_not_fit_are_refused(untrained, moving, tmp_path):
    small, colours, empty = tmp_path / "small.png", tmp_path / "colours.png", tmp_path / "empty.png"
    Image.new("L", (20, 20), 1).save(small)
    Image.new("RGB", (64, 64), "red").save(colours)
    Image.new("L", (64, 64)).save(empty)
    for mask, more, word in (
        (small, {}, "20 x 20 pixels, the frames have 64 x 64"),
        (colours, {}, "colours"),
        (empty, {}, "no object"),
        (moving / "truth" / "9.png", {}, "called as frame 2"),
        (tmp_path / "none.png", {}, "no such file"),
        (moving / "truth" / "8.png", {"truth": tmp_path}, "no mask of a frame"),
    ):
        with pytest.raises(UserError, match=word) as error:
            ss.propagate(untrained, moving / "frames", mask, tmp_path / "out", **more)
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", modalities.names())
def test_maps_of_every_modality_come_back_as_the_encoder_gives_them(kind, tmp_path):
    made = importlib.import_module(f"tests.modalities.{kind}.made")
    path = made.make(tmp_path / "data", 12)
    modality = modalities.load(kind)
    source = modality.open_source(path)
    measured, _ = modality.measure(source)
    source.fit(measured)
    size = getattr(made, "SIZE", None) or modality.default_size(measured, large=False)
    torch.manual_seed(0)
    encoder = modality.make_encoder(made.TINY_TOKENS, size, measured)
    (tmp_path / "encoder").mkdir()
    modality.save_encoder(encoder, tmp_path / "encoder")
    story = ss.maps(tmp_path / "encoder", path, tmp_path / "out", sheet=4, workers=0, batch_size=5)
    told = json.loads((tmp_path / "out" / "maps.json").read_text())
    assert told["maps"] == story["maps"] and told["encoder"]["modality"] == kind
    assert told.get("crop") == (1.0 if kind == "image" else None)
    files = sorted((tmp_path / "out").rglob("*.npz"))
    assert len(files) == story["items"] == len(source)
    for one in story["maps"]:
        with np.load(files[0]) as arrays:
            assert arrays[one["name"]].shape == (one["channels"], *one["places"])
    assert opened(tmp_path / "out" / "sheet.png").width > 300


def test_maps_of_pictures_in_both_kinds_of_files_agree_with_the_encoder(untrained, moving, tmp_path):
    story = ss.maps(untrained, moving / "frames", tmp_path / "a", workers=0)
    ss.maps(untrained, moving / "frames", tmp_path / "b", to="safetensors", half=True, levels=(1, 3), workers=0)
    assert all(one["stride"] == [32 / side for side in one["places"]] for one in story["maps"])
    with np.load(tmp_path / "a" / "8.npz") as file:
        full = dict(file)
    assert full.pop("name") == "8.png"
    with safe_open(tmp_path / "b" / "8.safetensors", "numpy") as file:
        assert file.metadata()["name"] == "8.png"
    half = load_file(tmp_path / "b" / "8.safetensors")
    assert set(half) == {"map1", "map3"}
    for name, array in half.items():
        a, b = full[name].ravel(), array.astype(np.float32).ravel()
        assert array.dtype == np.float16 and a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999
    small = np.stack([np.asarray(opened(moving / "frames" / "8.png").resize((32, 32), Image.Resampling.BOX))])
    loaded = ss.load(untrained).eval()
    with torch.no_grad():
        again = loaded.maps(torch.from_numpy(small).permute(0, 3, 1, 2))[1][0].numpy()
    assert np.corrcoef(again.ravel(), full["map1"].ravel())[0, 1] > 0.95  # resized in another way
    with pytest.raises(UserError, match="--levels 9"):
        ss.maps(untrained, moving / "frames", tmp_path / "c", levels=(9,), workers=0)
    assert not (tmp_path / "c").exists()
